"""Writing into the memory: from latents, depth and cameras to a block of points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from ..errors import GeometryError
from ..geometry.camera import PixelConvention
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

    Raises:
        ValueRangeError: The downsampling is unknown.
    """

    depth_mode: str = "bilinear"
    drop_flying: bool = True

    def __post_init__(self) -> None:
        expect_depth_mode(self.depth_mode)


@dataclass(frozen=True, eq=False)
class Observation:
    """Latent frames with geometry on the same grid, ready to be written.

    Attributes:
        tokens: (C, F, h, w) model-space latents.
        depth: (F, h, w) z-depth, 0 where nothing may be written.
        world_to_camera: (F, 4, 4) poses.
        intrinsics: (F, 3, 3) latent intrinsics.
        frames: (F,) pixel frame numbers.
    """

    tokens: Tensor
    depth: Tensor
    world_to_camera: Tensor
    intrinsics: Tensor
    frames: Tensor

    def __post_init__(self) -> None:
        sizes = expect_shape("The latent", self.tokens, "C F h w")
        del sizes["C"]
        expect_shape("The latent's depth", self.depth, "F h w", **sizes)
        expect_shape("The latent's poses", self.world_to_camera, "F 4 4", F=sizes["F"])
        expect_shape("The latent's intrinsics", self.intrinsics, "F 3 3", F=sizes["F"])
        expect_shape("The latent's frame numbers", self.frames, "F", F=sizes["F"])

    def frame(self, number: int) -> Observation:
        """One of the frames alone."""
        only = slice(number, number + 1)
        return Observation(
            tokens=self.tokens[:, only],
            depth=self.depth[only],
            world_to_camera=self.world_to_camera[only],
            intrinsics=self.intrinsics[only],
            frames=self.frames[only],
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
    if config.drop_flying:
        drop |= flying_pixels(depth)
    depth = torch.where(drop | ~valid_depth(depth), 0.0, depth)
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
        A block whose points stand in the order frame, row, column.
    """
    points = lift(
        observation.depth, observation.intrinsics, observation.world_to_camera, convention
    )
    chosen = observation.depth > 0
    if keep is not None:
        chosen = chosen & keep.to(chosen.device)
    source = torch.arange(len(observation.depth), device=chosen.device)
    source = source[:, None, None].expand_as(chosen)[chosen]
    return CacheBlock(
        points=points[chosen],
        tokens=rearrange(observation.tokens, "c f h w -> f h w c")[chosen],
        source=source,
        slope=surface_slope(observation.depth)[chosen],
        world_to_camera=observation.world_to_camera,
        intrinsics=observation.intrinsics,
        frames=observation.frames,
    )


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
    )
