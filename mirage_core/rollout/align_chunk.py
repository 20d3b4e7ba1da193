"""A chunk's depth on the memory's scale, and masks and refusals joined to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cache.build import WriteConfig
from ..errors import GeometryError
from ..geometry.align import AlignConfig, Alignment, align_depth, depth_edges
from ..geometry.depth import downsample_depth, flying_pixels
from ..geometry.expect_cameras import expect_same_lens, expect_same_path
from ..geometry.frame_geometry import FrameGeometry
from ..geometry.masks import MaskGrowth, exclusion, expect_not_all
from ..readout.depth_pairs import depth_pairs
from ..readout.readout import grid_intrinsics
from ..writing.consistency import ConsistencyConfig
from .state import RolloutState
from .update import at_latent_frames, of_chunk

MAX_EDGE_SHARE: Final = 0.7
"""Largest share of a frame's cells that may be at edges and not count."""

DYNAMIC: Final = "The mask of moving things"
SKY: Final = "The sky mask"
OWN: Final = "The geometry's exclusion mask"


@dataclass(frozen=True)
class PrepareConfig:
    """How an observation is prepared.

    Attributes:
        write: How depth becomes points.
        align: How depth is aligned to the memory.
        growth: How far the masks of moving things and of sky grow.
        contradiction: When motion that no mask names is held back; None never.
        check_cameras: Refuse geometry whose lens or path is not the shot's.
        strict: Raise when no frame agrees with the memory, in place of writing nothing.
    """

    write: WriteConfig = field(default_factory=WriteConfig)
    align: AlignConfig = field(default_factory=AlignConfig)
    growth: MaskGrowth = field(default_factory=MaskGrowth)
    contradiction: ConsistencyConfig | None = field(default_factory=ConsistencyConfig)
    check_cameras: bool = True
    strict: bool = False


@dataclass(frozen=True, eq=False)
class AlignedGeometry:
    """A chunk's depth in agreement with the memory.

    Attributes:
        geometry: The chunk's T latent frames, aligned. Masks and refused frames are joined
            into its ``exclude``.
        alignment: The correction and its errors.
        masked: (T, h, w) bool on the CPU, cells under any mask.
        frames: Pixel frame of each latent frame.
        trusted: Which frames may be written.
    """

    geometry: FrameGeometry
    alignment: Alignment
    masked: Tensor
    frames: tuple[int, ...]
    trusted: tuple[bool, ...]

    @property
    def refused(self) -> tuple[int, ...]:
        """Pixel frames whose depth contradicts the memory."""
        return tuple(f for f, good in zip(self.frames, self.trusted, strict=True) if not good)

    def describe(self) -> str:
        """A line for each frame, and what is left out."""
        correction = self.alignment.correction
        rows = zip(
            self.frames, correction.scale.tolist(), self.alignment.before,
            self.alignment.residual, self.alignment.overlap, self.trusted, strict=True,
        )  # fmt: skip
        lines = [
            f"frame {frame}: {_error(before)} off, x {scale:.3f}, {_error(after)} left, "
            f"{overlap:.0%} compared" + ("" if good else ", refused")
            for frame, scale, before, after, overlap, good in rows
        ]
        refused = ", ".join(map(str, self.refused)) or "none"
        lines.append(f"masked {float(self.masked.float().mean()):.1%}, refused frames: {refused}")
        return "\n".join(lines)


def align_to_memory(
    state: RolloutState,
    geometry: FrameGeometry,
    config: PrepareConfig | None = None,
    *,
    dynamic: Tensor | None = None,
    sky: Tensor | None = None,
    with_first: bool = False,
) -> AlignedGeometry:
    """Bring a chunk's depth to the memory's scale, and join to it what must stay out.

    The memory is only read.

    Args:
        state: The state before the chunk is finished.
        geometry: Depth of all 4T - 3 frames, of the T whose cameras latent frames take, or of
            the whole shot.
        config: Settings; ``contradiction`` plays no part.
        dynamic: Masks of moving things, see `mirage_core.geometry.masks.mask_to_grid`.
        sky: Masks of the sky.
        with_first: The overlapping frame will be written as well.

    Raises:
        ShapeError: Depth or masks do not belong to this chunk.
        GeometryError: Everything is masked, the cameras are not the shot's, or, when strict,
            no frame agrees with the memory.
    """
    config = config or PrepareConfig()
    cameras = state.latent_cameras
    geometry.expect_aspect(cameras.width, cameras.height)
    geometry = _not_longer_than_chunk(state, geometry)
    depth = at_latent_frames(geometry, state.chunk.model_frames, state.chunk.latent_frames)
    if config.check_cameras:
        expect_same_lens(depth, cameras)
        expect_same_path(depth, cameras)
    masked = _masked_cells(state, geometry, {DYNAMIC: dynamic, SKY: sky}, config.growth)
    expect_not_all("What is left out", masked)
    alignment = _align(state, depth, masked, config)
    trusted = _trusted(state, alignment, config, 0 if with_first else 1)
    values = alignment.correction.apply(depth.depth)
    # A shift may push all of a frame behind the camera. Geometry must have some depth: the
    # frame keeps its own, and is refused.
    lost = ~(values > 0).flatten(1).any(1)
    values = torch.where(lost[:, None, None], depth.depth, values)
    trusted = tuple(good and not gone for good, gone in zip(trusted, lost.tolist(), strict=True))
    hidden = masked | ~torch.tensor(trusted)[:, None, None]
    exclude = _to_pixels(hidden, depth) if bool(hidden.any()) else None
    aligned = dataclasses.replace(depth, depth=values, exclude=exclude)
    return AlignedGeometry(aligned, alignment, masked, tuple(state.chunk.pose_frames), trusted)


def with_masks(
    state: RolloutState,
    geometry: FrameGeometry,
    masks: Mapping[str, Tensor | None],
    growth: MaskGrowth | None = None,
) -> FrameGeometry:
    """Depth of a chunk's latent frames with masks joined to what it leaves out.

    Args:
        state: The state before the chunk is finished.
        geometry: As for `align_to_memory`.
        masks: By the name that errors give them; missing ones are None.
        growth: How far they grow.

    Raises:
        ShapeError: Depth or masks do not belong to this chunk.
        GeometryError: One of the masks covers everything, or the cameras are not the shot's.
    """
    geometry.expect_aspect(state.trajectory.width, state.trajectory.height)
    geometry = _not_longer_than_chunk(state, geometry)
    chunk = state.chunk
    depth = at_latent_frames(geometry, chunk.model_frames, chunk.latent_frames)
    expect_same_lens(depth, state.latent_cameras)
    expect_same_path(depth, state.latent_cameras)
    given = any(mask is not None for mask in masks.values())
    if not given and (geometry.exclude is None or len(geometry) == chunk.latent_frames):
        return depth
    hidden = _masked_cells(state, geometry, masks, growth)
    return dataclasses.replace(depth, exclude=_to_pixels(hidden, depth))


def hidden_cells(state: RolloutState, geometry: FrameGeometry) -> Tensor:
    """(T, h, w) bool on the CPU: cells that a chunk's geometry leaves out."""
    return _masked_cells(state, geometry, {}, None)


def _not_longer_than_chunk(state: RolloutState, geometry: FrameGeometry) -> FrameGeometry:
    """Geometry of a whole shot cut to the chunk, unless the chunk is the whole shot."""
    return geometry if len(geometry) == state.chunk.model_frames else of_chunk(geometry, state)


def _masked_cells(
    state: RolloutState,
    geometry: FrameGeometry,
    masks: Mapping[str, Tensor | None],
    growth: MaskGrowth | None,
) -> Tensor:
    """(T, h, w) bool on the CPU: cells under any mask, the geometry's own included."""
    count, cameras = state.chunk.latent_frames, state.trajectory
    sizes = [(cameras.height, cameras.width), geometry.size]
    union = exclusion({OWN: geometry.exclude}, state.grid, count, sizes)
    for name, mask in masks.items():
        if mask is not None and len(mask) == len(cameras) != state.chunk.model_frames:
            mask = mask[state.chunk.first_frame : state.chunk.output_end]
        cells = exclusion({name: mask}, state.grid, count, sizes, growth)
        expect_not_all(name, cells)
        union = union | cells
    return union


def _to_pixels(cells: Tensor, geometry: FrameGeometry) -> Tensor:
    """Masks of the depth's size in which every pixel that meets a masked cell is masked."""
    pixels = F.adaptive_max_pool2d(cells.float()[:, None], geometry.size)[:, 0] > 0
    return pixels.to(geometry.depth.device)


def _trusted(
    state: RolloutState, alignment: Alignment, config: PrepareConfig, start: int
) -> tuple[bool, ...]:
    """Which of the chunk's latent frames may be written."""
    if config.align.mode == "none" or not state.cache.blocks:
        return (True,) * len(alignment.fitted)
    trusted = alignment.trusted(config.align.refuse_above)
    if config.strict and not any(trusted[start:]):
        _raise_untrusted(alignment, config.align)
    return trusted


def _align(
    state: RolloutState, geometry: FrameGeometry, masked: Tensor, config: PrepareConfig
) -> Alignment:
    cameras, size = state.latent_cameras, state.grid
    coarse = downsample_depth(
        geometry.depth, size, config.write.depth_mode, state.cache.convention
    )
    skip = masked.to(coarse.device)
    edges = (depth_edges(coarse) | flying_pixels(coarse)) & ~skip
    # A frame that is mostly edges is judged by them: it may be nothing but noise.
    few = edges.flatten(1).sum(1) <= MAX_EDGE_SHARE * (~skip).flatten(1).sum(1)
    skip = skip | (edges & few[:, None, None])
    pairs = depth_pairs(
        state.cache,
        geometry.depth,
        cameras.world_to_camera,
        grid_intrinsics(cameras, size),
        size,
        skip,
    )
    return align_depth(pairs, config.align)


def _raise_untrusted(alignment: Alignment, config: AlignConfig) -> None:
    errors = [value for value in alignment.fitted[1:] if value == value]  # noqa: PLR0124
    got = (
        f"errors of {min(errors):.0%} to {max(errors):.0%} after the alignment"
        if errors
        else "too little of the memory in view to compare with"
    )
    raise GeometryError(
        "No frame's depth agrees with the memory",
        got=got,
        expected=f"at most {config.refuse_above:.0%}",
        fix="Check the depth source and its field of view, or make the chunk again",
    )


def _error(value: float) -> str:
    return f"{value:.1%}" if value == value else "unknown"  # noqa: PLR0124
