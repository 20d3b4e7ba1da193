"""Frames of finished chunks, as they were saved: what a chunk begins with, and looks back at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..constants import TEMPORAL_STRIDE
from ..errors import CacheFormatError, ResumeError
from ..validate import expect_shape
from .context import reference_frames
from .run_folder import clip_path
from .state import RolloutState
from .video import read_frames


def saved_frames(state: RolloutState, numbers: Sequence[int]) -> Tensor:
    """Frames of the finished chunks, always from their clips.

    So a shot that goes on after a stop sees the same bits as one that was never stopped.

    Args:
        state: The state before the next chunk.
        numbers: Pixel frames of the shot.

    Returns:
        (len(numbers), H, W, 3) float32 in 0..1, in the order of the numbers.

    Raises:
        ResumeError: The rollout has no folder, or a frame is not finished.
        CacheFormatError: A clip is missing, damaged or too short.
    """
    found: dict[int, Tensor] = {}
    for chunk in state.plan[: state.done]:
        wanted = {n for n in numbers if chunk.output_start <= n < chunk.output_end}
        if not wanted:
            continue
        if state.folder is None:
            raise ResumeError(
                "Frames of earlier chunks are not saved",
                got="a rollout without a folder",
                fix="Give the rollout a folder: later chunks read what earlier ones left there",
            )
        path = clip_path(state.folder, chunk.index)
        for number, frame in enumerate(read_frames(path), start=chunk.output_start):
            if number in wanted:
                found[number] = frame
            if number >= max(wanted):
                break
        if not wanted <= found.keys():
            raise CacheFormatError(
                f"The video {path.name} is too short",
                expected=f"{chunk.output_end - chunk.output_start} frames",
                fix="The file is damaged: delete it and its chunk, and run the rollout again",
            )
    missing = [n for n in numbers if n not in found]
    if missing:
        raise ResumeError("A frame that is asked for is not finished", got=f"frame {missing[0]}")
    size = (state.trajectory.height, state.trajectory.width, 3)
    frames = [found[number].float() / 255 for number in numbers]
    return torch.stack(frames) if frames else torch.zeros(0, *size)


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
