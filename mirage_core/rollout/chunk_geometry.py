"""`ChunkGeometry`: depth of a chunk's latent frames, and which cells stay out of the memory."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from ..constants import TEMPORAL_STRIDE
from ..errors import ShapeError
from ..geometry.expect_cameras import expect_same_lens, expect_same_path
from ..geometry.frame_geometry import FrameGeometry
from ..geometry.masks import MaskGrowth, exclusion, grow, note_if_all
from ..masks.types import FrameMasks
from ..readout.readout import read
from .state import RolloutState

DYNAMIC: Final = "The mask of moving things"
SKY: Final = "The sky mask"
OWN: Final = "The geometry's exclusion mask"

Masks = Mapping[str, Tensor | None]
"""Masks by the name that errors give them; missing ones are None. Each is (M, H, W), see
`mirage_core.geometry.masks.mask_to_grid`, or one for every frame of the whole shot."""


def masks_of(found: FrameMasks) -> Masks:
    """What stays out of a memory, by the names that errors give it."""
    return {DYNAMIC: found.moving, SKY: found.sky}


@dataclass(frozen=True, eq=False)
class ChunkGeometry:
    """What is known of the surfaces in a chunk, at its T latent frames.

    Attributes:
        frames: T depth maps; ``exclude`` has all masks joined.
        masked: (T, h, w) bool on the CPU, cells under any mask.
        notes: Sentences for people: masks that leave nothing.
    """

    frames: FrameGeometry
    masked: Tensor
    notes: tuple[str, ...] = ()

    def without(self, cells: Tensor) -> ChunkGeometry:
        """The same geometry that leaves out just these cells (T, h, w), in place of all masks."""
        exclude = _to_pixels(cells, self.frames) if bool(cells.any()) else None
        return dataclasses.replace(self, frames=dataclasses.replace(self.frames, exclude=exclude))

    def excluded(self, grid: tuple[int, int]) -> Tensor:
        """(T, h, w) bool on the CPU: cells of the latent grid that stay out of the memory."""
        return exclusion({OWN: self.frames.exclude}, grid, len(self.frames), [self.frames.size])


def chunk_geometry(
    state: RolloutState,
    geometry: FrameGeometry,
    masks: Masks | None = None,
    *,
    growth: MaskGrowth | None = None,
    check_cameras: bool = True,
) -> ChunkGeometry:
    """Bring geometry to the next chunk's latent frames, and join masks to what it leaves out.

    Cells in which the memory has an actor are left out as well: what a model makes of them is no
    part of the set, and is not to be compared with what is behind.

    Args:
        state: The state before the chunk is finished.
        geometry: Depth of all F pixel frames of the chunk, of the T whose cameras latent frames
            take, or of the whole shot.
        masks: What else stays out.
        growth: How far the masks grow; the geometry's own does not.
        check_cameras: Refuse geometry whose lens or path is not the shot's.

    Raises:
        ShapeError: Depth or masks do not belong to this chunk.
        GeometryError: The cameras are not the shot's.
    """
    chunk, cameras = state.chunk, state.latent_cameras
    if len(geometry) not in (chunk.model_frames, chunk.latent_frames):
        geometry = _of_chunk(state, geometry)
    geometry.expect_aspect(cameras.width, cameras.height)
    frames = geometry
    if len(geometry) != chunk.latent_frames:
        frames = geometry.select(list(range(0, chunk.model_frames, TEMPORAL_STRIDE)))
    if check_cameras:
        expect_same_lens(frames, cameras)
        expect_same_path(frames, cameras)
    given = {name: mask for name, mask in (masks or {}).items() if mask is not None}
    own = _own_cells(state, geometry)
    cells = _masked_cells(state, geometry, given, growth)
    told = [note for name, mask in cells.items() for note in note_if_all(name, mask)]
    union = functools.reduce(torch.logical_or, cells.values(), own)
    masked = union | _cast_cells(state)
    whole = ChunkGeometry(frames, masked, tuple(told) or note_if_all("What is left out", union))
    # A mask for each latent frame and each pixel of the depth says more than its cells do.
    fine = geometry.exclude is None or len(geometry) == chunk.latent_frames
    return whole if fine and torch.equal(masked, own) else whole.without(masked)


def _of_chunk(state: RolloutState, geometry: FrameGeometry) -> FrameGeometry:
    """The T latent frames out of geometry of the whole shot."""
    chunk = state.chunk
    if len(geometry) != len(state.trajectory):
        raise ShapeError(
            "The depth does not belong to this chunk",
            got=f"{len(geometry)} depth maps",
            expected=f"{chunk.latent_frames} (every fourth frame), {chunk.model_frames} (all "
            "frames), or the whole shot",
            fix="Estimate depth on the chunk's decoded frames",
        )
    return geometry.select(list(chunk.pose_frames))


def _sizes(state: RolloutState, geometry: FrameGeometry) -> list[tuple[int, int]]:
    return [(state.trajectory.height, state.trajectory.width), geometry.size]


def _own_cells(state: RolloutState, geometry: FrameGeometry) -> Tensor:
    """(T, h, w) bool: cells that the geometry itself leaves out."""
    sizes = _sizes(state, geometry)
    return exclusion({OWN: geometry.exclude}, state.grid, state.chunk.latent_frames, sizes)


def _masked_cells(
    state: RolloutState,
    geometry: FrameGeometry,
    masks: Mapping[str, Tensor],
    growth: MaskGrowth | None,
) -> dict[str, Tensor]:
    """(T, h, w) bool, the cells under each mask."""
    chunk, cameras, cells = state.chunk, state.trajectory, {}
    sizes = _sizes(state, geometry)
    for name, mask in masks.items():
        if len(mask) == len(cameras) != chunk.model_frames:
            mask = mask[chunk.first_frame : chunk.output_end]
        cells[name] = exclusion({name: mask}, state.grid, chunk.latent_frames, sizes, growth)
    return cells


def _cast_cells(state: RolloutState) -> Tensor:
    """(T, h, w) bool, where the memory's actors are in the chunk, and a cell around them."""
    nowhere = torch.zeros(state.chunk.latent_frames, *state.grid, dtype=torch.bool)
    shown = read(state.cache, state.frame_cameras).actor if state.cache.actors else None
    if shown is None:
        return nowhere
    return grow((shown >= 0).float(), 1).cpu() > 0


def _to_pixels(cells: Tensor, geometry: FrameGeometry) -> Tensor:
    """Masks of the depth's size in which every pixel that meets a masked cell is masked."""
    pixels = F.adaptive_max_pool2d(cells.float()[:, None], geometry.size)[:, 0] > 0
    return pixels.to(geometry.depth.device)
