"""A finished shot in words and in one picture, from one pass over its video."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..constants import WHITE_8
from ..metrics import psnr, returns_to_start
from .contact_sheet import contact_sheet, sheet_frames
from .state import RolloutState
from .video import pick_frames

OnFrame = Callable[[int, int], None]
"""Called with (done, total) for each frame read; may raise to cancel."""


@dataclass(frozen=True, eq=False)
class Review:
    """What a person looks at first.

    Attributes:
        report: Length, what was taken over, hole rate per chunk, memory size, closed-loop PSNR and
            folder.
        contact_sheet: (H, W, 3) float32 in 0..1, see `mirage_core.rollout.contact_sheet`.
    """

    report: str
    contact_sheet: Tensor


def review(state: RolloutState, video: Path, on_frame: OnFrame | None = None) -> Review:
    """Look through a finished shot once.

    Args:
        state: A complete rollout with a folder.
        video: Its video.
        on_frame: Called for each frame read; may raise to cancel.

    Raises:
        CacheFormatError: The video or a chunk's file is damaged.
    """
    frames = _read(state, video, sheet_frames(state) | _ends(state), on_frame)
    closed = closed_loop_psnr(state, frames)
    return Review(describe(state, video.parent, closed), contact_sheet(state, frames))


def report(state: RolloutState, video: Path, on_frame: OnFrame | None = None) -> str:
    """The words alone; the video of a shot that does not come back is not read.

    Args:
        state: A complete rollout.
        video: Its video.
        on_frame: Called for each frame read; may raise to cancel.

    Raises:
        CacheFormatError: The video is damaged.
    """
    ends = _ends(state)
    frames = _read(state, video, ends, on_frame) if ends else {}
    return describe(state, video.parent, closed_loop_psnr(state, frames))


def closed_loop_psnr(state: RolloutState, frames: Mapping[int, Tensor]) -> float | None:
    """PSNR in dB between first and last frame of a shot whose camera comes back; else None.

    Args:
        state: A complete rollout.
        frames: (H, W, 3) uint8 frames by number.
    """
    if not _ends(state) <= set(frames) or not returns_to_start(state.trajectory.world_to_camera):
        return None
    first, last = frames[0], frames[len(state.trajectory) - 1]
    return psnr(first.float() / WHITE_8, last.float() / WHITE_8)


def describe(state: RolloutState, folder: Path, closed: float | None) -> str:
    """Length, hole rate per chunk, memory size, closed-loop PSNR and folder of a shot."""
    cameras = state.trajectory
    lengths = "" if state.lengths.are_default else f" ({state.lengths.describe()})"
    taken = state.taken_over
    lines = [
        f"{len(cameras)} frames of {cameras.width} x {cameras.height} in {len(state.plan)} chunks"
        + lengths,
        *([] if taken is None else [taken.describe(len(state.plan))]),
        "hole rate per chunk: " + ", ".join(f"{s.hole_rate:.1%}" for s in state.statistics),
        f"memory: {len(state.cache):,} points, {state.cache.nbytes / 2**20:.1f} MiB",
    ]
    if closed is not None:
        lines.append(f"closed loop, last frame against first: {closed:.2f} dB")
    lines.append(f"folder: {folder}")
    return "\n".join(lines)


def _ends(state: RolloutState) -> set[int]:
    """Frames that a closed loop is judged by; none for a shot that does not come back."""
    comes_back = returns_to_start(state.trajectory.world_to_camera)
    return {0, len(state.trajectory) - 1} if comes_back else set()


def _read(
    state: RolloutState, video: Path, wanted: set[int], on_frame: OnFrame | None
) -> dict[int, Tensor]:
    return pick_frames(video, wanted, on_frame, len(state.trajectory))
