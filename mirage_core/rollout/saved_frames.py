"""Finished pixel frames of a shot, from its clips: what a chunk begins with, or looks back at."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..constants import TEMPORAL_STRIDE, WHITE_8
from ..errors import CacheFormatError, ValueRangeError
from ..validate import expect_shape
from .chunk_file import saved_clip
from .context import reference_frames
from .plan import Chunk
from .run_folder import expect_folder
from .state import RolloutState
from .video import read_frames

FrameSource = Callable[[RolloutState, Sequence[int]], Tensor]
"""Finished frames (N, H, W, 3) in 0..1 of a shot by number, from the state before a chunk."""


def saved_frames(state: RolloutState, numbers: Sequence[int]) -> Tensor:
    """Finished frames as the clips on disk have them.

    Frames are read from disk even right after they were made, so that a shot that was
    interrupted goes on with the same bits.

    Args:
        state: The state before the next chunk.
        numbers: Of the pixel frames, from 0; in any order.

    Returns:
        (N, H, W, 3) float32 in 0..1 on the CPU, in the order of ``numbers``.

    Raises:
        ValueRangeError: A frame is not finished yet.
        ResumeError: The rollout has no folder.
        CacheFormatError: A clip is missing, damaged, or too short.
    """
    height, width = state.trajectory.height, state.trajectory.width
    if not numbers:
        return torch.zeros(0, height, width, 3)
    finished = state.plan[state.done - 1].output_end if state.done else 0
    if not 0 <= min(numbers) <= max(numbers) < finished:
        raise ValueRangeError(
            "A frame is asked for that is not finished",
            got=f"frames {min(numbers)} to {max(numbers)}",
            expected=f"0 to {finished - 1}",
        )
    expect_folder(state)
    found: dict[int, Tensor] = {}
    for chunk in state.plan[: state.done]:
        wanted = {n for n in numbers if chunk.output_start <= n < chunk.output_end}
        found |= _of_clip(state, chunk, wanted)
    return torch.stack([found[number] for number in numbers]).float() / WHITE_8


def _of_clip(state: RolloutState, chunk: Chunk, wanted: set[int]) -> dict[int, Tensor]:
    """Frames of one clip by their number in the shot; reads no further than the last of them."""
    if not wanted or state.folder is None:
        return {}
    found: dict[int, Tensor] = {}
    path = saved_clip(state.folder, state, chunk)
    for number, frame in enumerate(read_frames(path), start=chunk.output_start):
        if number in wanted:
            found[number] = frame
        if len(found) == len(wanted):
            return found
    raise CacheFormatError(
        f"The clip {path.name} is too short",
        got=f"no frame {max(wanted) - chunk.output_start}",
        fix="Remove the chunk's files, and run the rollout again",
    )


def frames_to_keep(state: RolloutState, picture: Tensor | None = None) -> Tensor:
    """The frames that the next chunk begins with, which are known and stay as they are.

    Args:
        state: The state before the chunk.
        picture: (1, H, W, 3) the given picture in 0..1, frame 0 of the first chunk.

    Returns:
        (K, H, W, 3) float32: the last ``overlap`` frames before the chunk; for the first chunk
        the picture, or nothing where none is given.

    Raises:
        ShapeError: The picture is not one picture of the trajectory's size.
        ResumeError, CacheFormatError: As `saved_frames`.
    """
    chunk = state.chunk
    if state.done:
        return saved_frames(state, range(chunk.first_frame, chunk.output_start))
    if picture is None:
        return torch.zeros(0, state.trajectory.height, state.trajectory.width, 3)
    return expect_picture(state, picture)


def best_reference(state: RolloutState, picture: Tensor | None = None) -> Tensor | None:
    """The earlier frame that shows most of what the next chunk sees of the memory.

    Every fourth frame is looked at, as `mirage_core.rollout.context.reference_frames` does;
    those that the chunk begins with are left out.

    Args:
        state: The state before the chunk.
        picture: (1, H, W, 3) the given picture in 0..1: the reference of the first chunk, and
            wherever frame 0 is chosen.

    Returns:
        (1, H, W, 3) float32; None where no frame shows enough of it.

    Raises:
        ShapeError: The picture is not one picture of the trajectory's size.
        ResumeError, CacheFormatError: As `saved_frames`.
    """
    if picture is not None:
        picture = expect_picture(state, picture)
    if state.done == 0:
        return picture
    chosen = reference_frames(state, limit=1, exclude=set())
    if not chosen:
        return None
    number = chosen[0] * TEMPORAL_STRIDE
    return picture if number == 0 and picture is not None else saved_frames(state, [number])


def expect_picture(state: RolloutState, picture: Tensor) -> Tensor:
    """(1, H, W, 3) float32 of the first of some pictures; raises `ShapeError` for other sizes."""
    size = {"H": state.trajectory.height, "W": state.trajectory.width}
    first = picture[:1, ..., :3].float().cpu()
    expect_shape("The picture", first, "1 H W 3", **size)
    return first
