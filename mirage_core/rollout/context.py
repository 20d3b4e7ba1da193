"""What the denoiser is told: the memory, preceding frames, frames that show the same place."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..cache.types import CacheBlock
from ..conditioning.condition import Condition
from ..constants import TEMPORAL_STRIDE
from ..errors import ShapeError
from ..geometry.camera import projection_matrices
from ..geometry.trajectory import Trajectory
from ..readout.overlap import DEFAULT_REFERENCES, MIN_OVERLAP, Views, best_overlaps
from ..readout.readout import Readout, grid_intrinsics
from ..validate import expect_range, expect_shape
from .history import History, history_length, latents_of, preceding_frames, shared_frames
from .settings import DEFAULT_PRECEDING, MAX_CONTEXT_FRAMES
from .state import RolloutState


def chunk_condition(
    state: RolloutState,
    readout: Readout,
    *,
    references: int = DEFAULT_REFERENCES,
    preceding: int = DEFAULT_PRECEDING,
    threshold: float = MIN_OVERLAP,
    exclude_seen: bool = True,
    history: History | None = None,
    planes: bool = True,
    shown: Tensor | None = None,
) -> Condition:
    """All that the denoiser is told about the next chunk, when sampling and when training.

    Preceding frames are the latents right before the overlapping ones, in order, with what the
    memory showed when they were made. References are latents of any earlier time, best first,
    by overlap of what their cameras and the chunk's cameras see of the memory
    (`mirage_core.readout.overlap.best_overlaps`). Only the chunks that hold a chosen frame are
    read.

    Args:
        state: The state before the chunk.
        readout: What the memory shows to the chunk's T latent cameras.
        references: Most reference frames.
        preceding: Most preceding frames; fewer while the shot is young.
        threshold: Least overlap of a reference.
        exclude_seen: Never choose an overlapping or a preceding frame as a reference: the
            model sees them anyway. Off is the released behaviour.
        history: Where earlier frames come from; the rollout's folder by default.
        planes: Give the sub-cell offset and the depth ratio as well.
        shown: (C, T, h, w) what the side branch is shown of the memory; by default the tokens that
            were read, which of a memory of colours are none.

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
    before = preceding_frames(state, preceding)
    chosen = reference_frames(
        state, limit=references, threshold=threshold, exclude=set(before) if exclude_seen else None
    )
    history = history or History(state)
    condition = Condition(
        projection=readout.weighed_tokens if shown is None else shown,
        visible=readout.visible,
        references=history.latents(chosen).to(device),
        preceding=history.latents(before).to(device),
        preceding_projection=history.projections(before).to(device),
        preceding_visible=history.visible(before).to(device),
        clean=state.chunk.clean_latents,
    )
    known = history.planes(before) if planes else None
    return condition if known is None else _with_planes(condition, readout, known.to(device))


def _with_planes(condition: Condition, readout: Readout, preceding: Tensor) -> Condition:
    """The condition with sub-cell offsets and log depth, and those (3, P, h, w) from before."""
    offset, log_depth = readout.planes
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
        exclude: The preceding frames, which are left out together with the overlapping ones;
            None leaves out nothing.
    """
    count = history_length(state)
    if limit < 1 or count == 0 or not len(state.cache):
        return []
    times = [
        chunk.output_end - 1 for chunk in state.plan[: state.done] for _ in latents_of(chunk)
    ]
    past = state.trajectory.select(slice(0, count * TEMPORAL_STRIDE, TEMPORAL_STRIDE))
    seen = frozenset() if exclude is None else frozenset(exclude.union(shared_frames(state)))
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


def _views(cameras: Trajectory, grid: tuple[int, int]) -> Views:
    intrinsics = grid_intrinsics(cameras, grid)
    return Views(projection_matrices(cameras.world_to_camera, intrinsics), *grid)


def _birth(block: CacheBlock, now: int) -> Tensor:
    """(N,) int64 pixel frame in which each point was seen; -1 for another shot's points."""
    frames = torch.where(block.frames > now, -1, block.frames)
    return frames.to(block.source.device)[block.source.long()]
