"""A finished shot in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from ..metrics import psnr, returns_to_start
from .state import RolloutState
from .video import read_frames


def closed_loop_psnr(
    state: RolloutState, video: Path, on_frame: Callable[[int, int], None] | None = None
) -> float | None:
    """PSNR between first and last frame of a shot whose camera comes back; else None.

    Args:
        state: A complete rollout.
        video: Its video.
        on_frame: Called with (done, total) for each frame read; may raise to cancel.

    Raises:
        CacheFormatError: The video is damaged.
    """
    if not returns_to_start(state.trajectory.world_to_camera):
        return None
    first: Tensor | None = None
    last: Tensor | None = None
    for frame in read_frames(video, on_frame, len(state.trajectory)):
        first = frame if first is None else first
        last = frame
    if first is None or last is None:
        return None
    return psnr(first.float() / 255, last.float() / 255)


def describe(
    state: RolloutState, video: Path, on_frame: Callable[[int, int], None] | None = None
) -> str:
    """Length, hole rate per chunk, memory size, closed-loop PSNR and place of a shot.

    Args:
        state: A complete rollout.
        video: Its video.
        on_frame: Called with (done, total) for each frame read; may raise to cancel.
    """
    cameras = state.trajectory
    lines = [
        f"{len(cameras)} frames of {cameras.width} x {cameras.height} in {len(state.plan)} chunks",
        "hole rate per chunk: " + ", ".join(f"{s.hole_rate:.1%}" for s in state.statistics),
        f"memory: {len(state.cache):,} points, {state.cache.nbytes / 2**20:.1f} MiB",
    ]
    closed = closed_loop_psnr(state, video, on_frame)
    if closed is not None:
        lines.append(f"closed loop, last frame against first: {closed:.2f} dB")
    lines.append(f"folder: {video.parent}")
    return "\n".join(lines)
