"""How far a shot is, and how long it will still take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from .chunk_file import chunk_path
from .plan import Chunk
from .state import RolloutState

STAGES: Final = ("decoding", "depth", "memory", "saving")
"""What follows the sampling of a chunk; each counts as one step in the estimate of time."""

LOOK_BACK = 5
"""Chunks whose pace is looked at."""


@dataclass(frozen=True, eq=False)
class Progress:
    """How far a shot is.

    Attributes:
        chunk: Number of the chunk at work, from 0.
        chunks: How many there are.
        stage: ``drawing`` while the condition of a chunk is made frame by frame, ``sampling``, or
            one of `STAGES`.
        step: Sampling steps done of this chunk.
        steps: How many it has.
        done: Units of work that are finished, over the whole shot.
        total: How many there are.
        seconds_left: Estimate for the whole shot; None while nothing is known.
        clean: (C, T, h, w) present estimate of the chunk's latents, while sampling.
    """

    chunk: int
    chunks: int
    stage: str
    step: int
    steps: int
    done: int
    total: int
    seconds_left: float | None
    clean: Tensor | None = None


OnProgress = Callable[[Progress], None]
"""Called for every frame that is drawn for a chunk's condition, after every sampling step, and
before every later stage; may raise to cancel."""


class Clock:
    """Counts units of work, and tells how long the rest will take.

    Args:
        state: The state to begin with.
        steps: Sampling steps of a chunk.
        on_progress: Who is told; None tells nobody.
    """

    def __init__(self, state: RolloutState, steps: int, on_progress: OnProgress | None) -> None:
        self._steps = steps
        self._report = on_progress
        self._per_chunk = steps + len(STAGES)
        self._start = self._work(state, 0)
        self._since = time.monotonic()

    def on_step(self, state: RolloutState) -> Callable[[int, int, Tensor], None]:
        """A callback for the sampling of the next chunk."""

        def report(step: int, _: int, clean: Tensor) -> None:
            self._tell(state, "sampling", step, step, clean)

        return report

    def on_part(self, state: RolloutState) -> Callable[[int, int], None]:
        """A callback for the making of the next chunk's condition; it counts as no work."""

        def report(_done: int, _total: int) -> None:
            self._tell(state, "drawing", 0, 0, None)

        return report

    def stage(self, state: RolloutState, name: str) -> None:
        """Say that a stage after the sampling begins."""
        self._tell(state, name, self._steps, self._steps + STAGES.index(name), None)

    def _work(self, state: RolloutState, units: int) -> int:
        """What is done, each unit counted once for every latent frame of its chunk."""
        at_work = units * state.chunk.latent_frames if units else 0
        return self._per_chunk * _latents_in(state.plan[: state.done]) + at_work

    def _tell(
        self, state: RolloutState, stage: str, step: int, units: int, clean: Tensor | None
    ) -> None:
        if self._report is None:
            return
        done = state.done * self._per_chunk + units
        total = len(state.plan) * self._per_chunk
        work = self._work(state, units)
        pace = (time.monotonic() - self._since) / max(1, work - self._start)
        all_work = self._per_chunk * _latents_in(state.plan)
        left = pace * (all_work - work) if work > self._start else seconds_left(state)
        self._report(
            Progress(
                chunk=state.done,
                chunks=len(state.plan),
                stage=stage,
                step=step,
                steps=self._steps,
                done=done,
                total=total,
                seconds_left=left,
                clean=clean,
            )
        )


def _latents_in(chunks: Sequence[Chunk]) -> int:
    """Latent frames of some chunks: what their time is about proportional to."""
    return sum(chunk.latent_frames for chunk in chunks)


def seconds_left(state: RolloutState) -> float | None:
    """Estimate from the pace of the newest saved chunks; None while there is none.

    The shortest interval counts, so that a pause between two chunks does not. A chunk that was
    made again is newer than the one behind it, and tells nothing.
    """
    if state.folder is None:
        return None
    first = max(0, state.done - LOOK_BACK)
    paths = [chunk_path(state.folder, index) for index in range(first, state.done)]
    times = [path.stat().st_mtime for path in paths if path.exists()]
    pairs = zip(times, times[1:], strict=False)
    paces = [later - earlier for earlier, later in pairs if later > earlier]
    return min(paces) * state.remaining if paces else None


def time_left(state: RolloutState) -> str:
    """The estimate as ``1:05:09``, ``12:30`` or ``0:07``; empty while there is none."""
    seconds = seconds_left(state)
    if seconds is None:
        return ""
    hours, rest = divmod(round(seconds), 3600)
    minutes, second = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{second:02}" if hours else f"{minutes}:{second:02}"
