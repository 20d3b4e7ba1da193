"""How long a rollout will still take."""

from __future__ import annotations

from .run_folder import chunk_path
from .state import RolloutState

LOOK_BACK = 5
"""Chunks whose pace is looked at."""


def seconds_left(state: RolloutState) -> float | None:
    """Estimate from the pace of the newest saved chunks; None while there is none.

    The shortest interval counts, so that a pause between two chunks does not.
    """
    if state.folder is None:
        return None
    first = max(0, state.done - LOOK_BACK)
    paths = [chunk_path(state.folder, index) for index in range(first, state.done)]
    times = [path.stat().st_mtime for path in paths if path.exists()]
    paces = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    return min(paces) * state.remaining if paces else None


def time_left(state: RolloutState) -> str:
    """The estimate as ``1:05:09``, ``12:30`` or ``0:07``; empty while there is none."""
    seconds = seconds_left(state)
    if seconds is None:
        return ""
    hours, rest = divmod(round(seconds), 3600)
    minutes, second = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{second:02}" if hours else f"{minutes}:{second:02}"
