"""Writing into the memory: from latents, depth and cameras to a block of points."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from ..errors import GeometryError
from ..geometry.camera import PixelConvention
from ..geometry.cutouts import Cutouts, mask_centre, split_cells
from ..geometry.depth import (
    downsample_depth,
    downsample_mask,
    expect_depth_mode,
    flying_pixels,
    surface_slope,
    valid_depth,
)
from ..geometry.frame_geometry import FrameGeometry
from ..geometry.lift import lift
from ..validate import expect_shape
from .types import CacheBlock, LatentCache


@dataclass(frozen=True)
class WriteConfig:
    """How observations become points.

    Attributes:
        depth_mode: Downsampling of depth: ``bilinear``, ``nearest``, ``area`` or ``median``.
        drop_flying: Leave out cells that hang between a near and a far surface.
        cutouts: Write cells that straddle a depth edge as two points, each for its part of the
            cell, see `mirage_core.geometry.cutouts`. The released convention keeps cells whole.

    Raises:
        ValueRangeError: The downsampling is unknown.
    """

    depth_mode: str = "bilinear"
    drop_flying: bool = True
    cutouts: bool = True

    def __post_init__(self) -> None:
        expect_depth_mode(self.depth_mode)


@dataclass(frozen=True, eq=False)
class Observation:
    """Latent frames with geometry on the same grid, ready to be written.

    Attributes:
        tokens: (C, F, h, w) model-space latents.
        depth: (F, h, w) z-depth, 0 where nothing may be written; of a split cell, that of its
            near part.
        world_to_camera: (F, 4, 4) poses.
        intrinsics: (F, 3, 3) latent intrinsics.
        frames: (F,) pixel frame numbers.
        cutouts: Which cells are split; none when missing. They count where ``depth`` is above 0.
    """

    tokens: Tensor
    depth: Tensor
    world_to_camera: Tensor
    intrinsics: Tensor
    frames: Tensor
    cutouts: Cutouts | None = None

    def __post_init__(self) -> None:
        sizes = expect_shape("The latent", self.tokens, "C F h w")
        del sizes["C"]
        if self.cutouts is not None:
            expect_shape("The cut cells", self.cutouts.mask, "F h w", **sizes)
        expect_shape("The latent's depth", self.depth, "F h w", **sizes)
        expect_shape("The latent's poses", self.world_to_camera, "F 4 4", F=sizes["F"])
        expect_shape("The latent's intrinsics", self.intrinsics, "F 3 3", F=sizes["F"])
        expect_shape("The latent's frame numbers", self.frames, "F", F=sizes["F"])

    @property
    def beside(self) -> Tensor | None:
        """(F, h, w, 2) how far points lie beside the middle of their cell, x then y, in cells.

        None when all lie in the middle.
        """
        return None if self.cutouts is None else mask_centre(self.cutouts.mask) / 2

    def frame(self, number: int) -> Observation:
        """One of the frames alone."""
        only = slice(number, number + 1)
        return Observation(
            tokens=self.tokens[:, only],
            depth=self.depth[only],
            world_to_camera=self.world_to_camera[only],
            intrinsics=self.intrinsics[only],
            frames=self.frames[only],
            cutouts=None if self.cutouts is None else self.cutouts.select(only),
        )


def observe(
    tokens: Tensor,
    geometry: FrameGeometry,
    *,
    world_to_camera: Tensor,
    frames: Tensor,
    convention: PixelConvention = PixelConvention.PAPER,
    config: WriteConfig | None = None,
    intrinsics: Tensor | None = None,
    allow_empty: bool = False,
) -> Observation:
    """Bring depth maps to the grid of their latents, and drop what must not be remembered.

    Args:
        tokens: (C, F, h, w) model-space latents.
        geometry: Depth of the same F frames, at any resolution.
        world_to_camera: (F, 4, 4) poses.
        frames: (F,) pixel frame numbers.
        convention: The pixel convention of the memory.
        config: How depth is sampled and filtered.
        intrinsics: (F, 3, 3) latent intrinsics (paper Eq. 7) when they differ from the
            geometry's own.
        allow_empty: Accept frames of which nothing may be remembered.

    Raises:
        GeometryError: Nothing is left to write.
    """
    config = config or WriteConfig()
    size = (int(tokens.shape[2]), int(tokens.shape[3]))
    depth = downsample_depth(geometry.depth, size, config.depth_mode, convention)
    drop = torch.zeros_like(depth, dtype=torch.bool)
    if geometry.exclude is not None:
        drop |= downsample_mask(geometry.exclude, size, convention)
    flying = flying_pixels(depth) if config.drop_flying else torch.zeros_like(drop)
    cutouts = None
    if config.cutouts and convention is PixelConvention.PAPER:
        cutouts = split_cells(geometry.depth, size)
        # What hung between two surfaces lies on both of them now.
        flying &= ~cutouts.split
        depth = torch.where(cutouts.split, cutouts.front, depth)
    depth = torch.where(drop | flying | ~valid_depth(depth), 0.0, depth)
    if not allow_empty and not bool((depth > 0).any()):
        raise GeometryError(
            "Nothing is left to remember: every cell is masked or without depth",
            fix="Check the exclusion mask (white is left out) and the depth",
        )
    return Observation(
        tokens=tokens,
        depth=depth.to(tokens.device),
        world_to_camera=world_to_camera,
        intrinsics=geometry.intrinsics_for(size) if intrinsics is None else intrinsics,
        frames=frames,
        cutouts=None if cutouts is None else cutouts.to(tokens.device),
    )


def make_block(
    observation: Observation,
    convention: PixelConvention,
    keep: Tensor | None = None,
) -> CacheBlock:
    """Lift the cells of an observation to points (paper Eq. 8).

    Args:
        observation: Latents with geometry.
        convention: Where cell centres lie.
        keep: (F, h, w) bool, the cells to write; all cells with valid depth by default.

    Returns:
        A block whose points stand in the order frame, row, column; of a split cell first the near
        part, then the far one, each in the middle of its mask.
    """
    chosen = observation.depth > 0
    if keep is not None:
        chosen = chosen & keep.to(chosen.device)
    cut = observation.cutouts
    if cut is None or not bool((cut.split & chosen).any()):
        return _layer(observation, convention, observation.depth, chosen, None)
    far = ~cut.mask
    front = _layer(observation, convention, observation.depth, chosen, cut.mask)
    behind = torch.where(cut.split, cut.back, observation.depth)
    back = _layer(observation, convention, behind, chosen & cut.split, far)
    # Each near part stands at the place of its cell, and its far part right after it.
    place = torch.cat([chosen.flatten().nonzero(), (chosen & cut.split).flatten().nonzero()])
    both = _stacked(front, back)
    return both.take(place[:, 0].argsort(stable=True))


def _layer(
    observation: Observation,
    convention: PixelConvention,
    depth: Tensor,
    chosen: Tensor,
    mask: Tensor | None,
) -> CacheBlock:
    """One point for each chosen cell, at depth (F, h, w) in the middle of mask (F, h, w)."""
    beside = None if mask is None else mask_centre(mask) / 2
    points = lift(depth, observation.intrinsics, observation.world_to_camera, convention, beside)
    source = torch.arange(len(depth), device=chosen.device)
    return CacheBlock(
        points=points[chosen],
        tokens=rearrange(observation.tokens, "c f h w -> f h w c")[chosen],
        source=source[:, None, None].expand_as(chosen)[chosen],
        slope=surface_slope(depth)[chosen],
        world_to_camera=observation.world_to_camera,
        intrinsics=observation.intrinsics,
        frames=observation.frames,
        mask=None if mask is None else mask[chosen],
    )


def _stacked(front: CacheBlock, back: CacheBlock) -> CacheBlock:
    """The points of two blocks of the same cameras."""
    names = ("points", "tokens", "source", "slope")
    parts = {name: torch.cat([getattr(front, name), getattr(back, name)]) for name in names}
    return dataclasses.replace(
        front, **parts, mask=_joined_masks([front, back]), bounds=torch.empty(0)
    )


def _joined_masks(blocks: list[CacheBlock]) -> Tensor | None:
    """Masks of the points of several blocks in a row; None where all are whole."""
    if all(block.mask is None for block in blocks):
        return None
    return torch.cat([block.masks for block in blocks])


def append_all(cache: LatentCache, observation: Observation) -> LatentCache:
    """Write every valid cell (policy ``append``, paper Eq. 6)."""
    return cache.append(make_block(observation, cache.convention))


def merge_blocks(blocks: list[CacheBlock]) -> CacheBlock:
    """One block with the points of several, in their order; their tokens have one type."""
    shifts = torch.tensor([0] + [len(block.frames) for block in blocks[:-1]]).cumsum(0).tolist()
    scales = [block.scale for block in blocks if block.scale is not None]
    return CacheBlock(
        points=torch.cat([block.points for block in blocks]),
        tokens=torch.cat([block.tokens for block in blocks]),
        source=torch.cat([b.source + shift for b, shift in zip(blocks, shifts, strict=True)]),
        slope=torch.cat([block.slope for block in blocks]),
        world_to_camera=torch.cat([block.world_to_camera for block in blocks]),
        intrinsics=torch.cat([block.intrinsics for block in blocks]),
        frames=torch.cat([block.frames for block in blocks]),
        scale=torch.cat(scales) if scales else None,
        mask=_joined_masks(blocks),
    )
