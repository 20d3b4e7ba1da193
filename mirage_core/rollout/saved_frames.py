"""Finished pixel frames of a shot by number, from its saved clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import CacheFormatError, ValueRangeError
from .run_folder import clip_path, expect_folder
from .state import RolloutState
from .video import read_frames

FrameSource = Callable[[RolloutState, Sequence[int]], Tensor]
"""Finished frames (N, H, W, 3) in 0..1 of a shot by number, from the state before a chunk."""

LEVELS = 255
"""Steps of 8 bits."""


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
        found |= _of_clip(state, chunk.index, chunk.output_start, wanted)
    return torch.stack([found[number] for number in numbers]).float() / LEVELS


def _of_clip(state: RolloutState, index: int, start: int, wanted: set[int]) -> dict[int, Tensor]:
    """Frames of one clip by their number in the shot; reads no further than the last of them."""
    if not wanted or state.folder is None:
        return {}
    found: dict[int, Tensor] = {}
    path = clip_path(state.folder, index)
    for number, frame in enumerate(read_frames(path), start=start):
        if number in wanted:
            found[number] = frame
        if len(found) == len(wanted):
            return found
    raise CacheFormatError(
        f"The clip {path.name} is too short",
        got=f"no frame {max(wanted) - start}",
        fix="Remove the chunk's files, and run the rollout again",
    )
