"""What the model sees of the past: preceding frames, and frames that show the same place."""

from __future__ import annotations

import dataclasses
from typing import Final

import torch
from torch import Tensor

from ..cache.types import CacheBlock
from ..conditioning.condition import Condition
from ..constants import TEMPORAL_STRIDE
from ..errors import ShapeError
from ..geometry.camera import projection_matrices
from ..geometry.trajectory import Trajectory
from ..readout.detail import point_planes
from ..readout.overlap import DEFAULT_REFERENCES, MIN_OVERLAP, Views, best_overlaps
from ..readout.readout import Readout, grid_intrinsics
from ..validate import expect_range, expect_shape
from .plan import Chunk
from .run_folder import load_record
from .state import ChunkRecord, RolloutState

PRECEDING: Final = 2
"""Preceding latent frames: eight pixel frames (released setting)."""

MAX_CONTEXT_FRAMES: Final = 64
"""More reference or preceding frames than any model was trained with."""


def history_length(state: RolloutState) -> int:
    """Latent frames that are finished."""
    return _latents_of(state.plan[state.done - 1]).stop if state.done else 0


def chunk_condition(
    state: RolloutState,
    readout: Readout,
    *,
    references: int = DEFAULT_REFERENCES,
    preceding: int = PRECEDING,
    threshold: float = MIN_OVERLAP,
    exclude_seen: bool = True,
) -> Condition:
    """All that the denoiser is told about the next chunk.

    Preceding frames are the latents right before the overlapping one, in order, with what the
    memory showed when they were made. References are latents of any earlier time, best first,
    by overlap of what their cameras and the chunk's cameras see of the memory
    (`mirage_core.readout.overlap.best_overlaps`). Latents come from the rollout's folder; only
    the chunks that hold a chosen frame are read.

    Args:
        state: The state before the chunk.
        readout: What the memory shows to the chunk's T latent cameras.
        references: Most reference frames.
        preceding: Most preceding frames; fewer while the shot is young.
        threshold: Least overlap of a reference.
        exclude_seen: Never choose the overlapping or a preceding frame as a reference: the
            model sees them anyway. Off is the released behaviour.

    Returns:
        The condition, float32, on the readout's device.

    Raises:
        ShapeError: The readout does not belong to this chunk.
        ValueRangeError: A number is out of range.
        ResumeError: Earlier chunks are needed, and the rollout has no folder.
        CacheFormatError: The file of an earlier chunk is damaged.
    """
    expect_range("The number of reference frames", references, 0, MAX_CONTEXT_FRAMES)
    expect_range("The number of preceding frames", preceding, 0, MAX_CONTEXT_FRAMES)
    expect_readout(state, readout)
    device = readout.tokens.device
    scene = readout.tokens.float()
    before = preceding_frames(state, preceding)
    chosen = reference_frames(
        state, limit=references, threshold=threshold, exclude=set(before) if exclude_seen else None
    )
    history = _History(state)
    condition = Condition(
        scene=scene,
        visible=readout.visible,
        references=history.latents(chosen).to(device),
        preceding=history.latents(before).to(device),
        preceding_scene=history.projections(before).to(device),
        preceding_visible=history.visible(before).to(device),
    )
    planes = history.planes(before)
    return condition if planes is None else _with_planes(condition, readout, planes.to(device))


def _with_planes(condition: Condition, readout: Readout, preceding: Tensor) -> Condition:
    """The condition with sub-cell offsets and log depth, and those (3, P, h, w) from before."""
    offset, log_depth = point_planes(readout)
    return dataclasses.replace(
        condition,
        offset=offset,
        log_depth=log_depth,
        preceding_offset=preceding[:2],
        preceding_log_depth=preceding[2],
    )


def expect_readout(state: RolloutState, readout: Readout) -> None:
    """Raise `ShapeError` unless a readout belongs to the next chunk."""
    height, width = state.grid
    expect_shape(
        "The chunk's readout", readout.tokens, "C T h w",
        C=state.cache.channels, T=state.chunk.latent_frames, h=height, w=width,
    )  # fmt: skip
    own, given = state.frame_cameras, readout.trajectory
    if own.fingerprint() != given.fingerprint():
        raise ShapeError(
            "The readout was made for other cameras than the chunk's",
            fix="Read the memory with the trajectory that the loop gives for this chunk",
        )


def preceding_frames(state: RolloutState, count: int) -> list[int]:
    """Numbers of the latent frames right before the overlapping one, in order."""
    overlap = history_length(state) - 1
    return list(range(max(0, overlap - count), max(0, overlap)))


def reference_frames(
    state: RolloutState,
    *,
    limit: int = DEFAULT_REFERENCES,
    threshold: float = MIN_OVERLAP,
    exclude: set[int] | None = None,
) -> list[int]:
    """Numbers of the earlier latent frames that show most of what comes next, best first.

    An earlier frame is judged by the memory as it was when the frame's chunk was finished: by
    the points that were seen no later than in that chunk.

    Args:
        state: The state before the chunk.
        limit: Most frames.
        threshold: Least overlap.
        exclude: The preceding frames, which are left out together with the overlapping one;
            None leaves out nothing.
    """
    count = history_length(state)
    if limit < 1 or count == 0 or not len(state.cache):
        return []
    times = [
        chunk.output_end - 1 for chunk in state.plan[: state.done] for _ in _latents_of(chunk)
    ]
    past = state.trajectory.select(slice(0, count * TEMPORAL_STRIDE, TEMPORAL_STRIDE))
    seen = frozenset() if exclude is None else frozenset(exclude | {count - 1})
    return best_overlaps(
        torch.cat([block.points for block in state.cache.blocks]),
        torch.cat([_birth(block, times[-1]) for block in state.cache.blocks]),
        _views(state.latent_cameras, state.grid),
        _views(past, state.grid),
        times,
        limit=limit,
        threshold=threshold,
        exclude=seen,
    )


def history_latents(state: RolloutState, frames: list[int]) -> Tensor:
    """(C, len(frames), h, w) float32 latents of finished frames, on the CPU.

    Raises:
        ResumeError: Earlier chunks are needed, and the rollout has no folder.
        CacheFormatError: The file of an earlier chunk is damaged.
    """
    return _History(state).latents(frames)


def _views(cameras: Trajectory, grid: tuple[int, int]) -> Views:
    intrinsics = grid_intrinsics(cameras, grid)
    return Views(projection_matrices(cameras.world_to_camera, intrinsics), *grid)


def _birth(block: CacheBlock, now: int) -> Tensor:
    """(N,) int64 pixel frame in which each point was seen; -1 for another shot's points."""
    frames = torch.where(block.frames > now, -1, block.frames)
    return frames.to(block.source.device)[block.source.long()]


def _latents_of(chunk: Chunk) -> range:
    """Numbers, over the whole shot, of the latent frames that a chunk added."""
    first = chunk.first_frame // TEMPORAL_STRIDE
    return range(first + (1 if chunk.index else 0), first + chunk.latent_frames)


class _History:
    """Finished latent frames by number; reads each chunk at most once."""

    def __init__(self, state: RolloutState) -> None:
        self._state = state
        self._records: dict[int, ChunkRecord] = {}
        self._places = [
            (chunk.index, place)
            for chunk in state.plan[: state.done]
            for place in range(len(_latents_of(chunk)))
        ]

    def latents(self, frames: list[int]) -> Tensor:
        parts = [record.latents[:, place] for record, place in map(self._find, frames)]
        return torch.stack(parts, dim=1).float() if parts else self._none()

    def projections(self, frames: list[int]) -> Tensor:
        parts = [record.projections[:, place] for record, place in map(self._find, frames)]
        return torch.stack(parts, dim=1).float() if parts else self._none()

    def visible(self, frames: list[int]) -> Tensor:
        parts = [record.visible[place] for record, place in map(self._find, frames)]
        return torch.stack(parts) if parts else torch.zeros(0, *self._state.grid).bool()

    def planes(self, frames: list[int]) -> Tensor | None:
        """(3, F, h, w); None where a chunk of an earlier version has none."""
        parts = []
        for record, place in map(self._find, frames):
            if record.planes is None:
                return None
            parts.append(record.planes[:, place].float())
        return torch.stack(parts, dim=1) if parts else torch.zeros(3, 0, *self._state.grid)

    def _none(self) -> Tensor:
        return torch.zeros(self._state.cache.channels, 0, *self._state.grid)

    def _find(self, frame: int) -> tuple[ChunkRecord, int]:
        chunk, place = self._places[frame]
        if chunk not in self._records:
            self._records[chunk] = load_record(self._state, chunk)
        return self._records[chunk], place
