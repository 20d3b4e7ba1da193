"""What ``mirage train`` prints: one line at the start, and one for each step."""

from __future__ import annotations

import sys
from typing import Any, Final

import torch

from ..log import logger
from ..training.facts import run_facts
from ..training.journal import StepReport
from ..training.memory_estimate import GIB

MIN_REPORTED_WAIT: Final = 0.05
"""Share of the time spent waiting for clips above which it is reported."""

FIRST_STEPS: Final = 3
"""Steps after which the time of the whole run is told; the first one is slower than the others."""

VALIDATION: Final = (
    ("held_out/loss", ""), ("closed_loop/closed", " dB"), ("closed_loop/truth", " dB"),
)  # fmt: skip


class Reporter:
    """Prints the steps of a run.

    Args:
        trainer: A `mirage_core.training.trainer.Trainer` before its first step.

    Raises:
        StorageError: The disk of the run's folder cannot be asked.
    """

    def __init__(self, trainer: Any) -> None:
        self._device: torch.device = trainer.processes.device
        self._seconds: list[float] = []
        if trainer.step >= trainer.settings.steps:
            return
        facts = run_facts(trainer)
        _say(facts.describe())
        if facts.disk > facts.free:
            logger.warning(
                "The disk will be full before the run is done: raise --checkpoint-every, or free "
                "space in %s", trainer.folder,
            )  # fmt: skip

    def __call__(self, report: StepReport) -> None:
        """Print one step."""
        values = report.values
        line = f"step {report.step} of {report.steps}"
        if "loss" in values:
            left = values["seconds"] * (report.steps - report.step)
            line += f", loss {values['loss']:.4f}, {values['seconds']:.2f} s a step"
            line += f", {_duration(left)} left"
            if values["waiting"] > MIN_REPORTED_WAIT:
                line += f", {values['waiting']:.0%} of the time waiting for clips"
        for name, unit in VALIDATION:
            if name in values:
                line += f", {name.replace('/', ' ').replace('_', ' ')} {values[name]:.3f}{unit}"
        _say(line)
        if "seconds" in values:
            self._tell_time(report)

    def _tell_time(self, report: StepReport) -> None:
        self._seconds.append(report.values["seconds"])
        if len(self._seconds) != FIRST_STEPS:
            return
        mean = sum(self._seconds[1:]) / (FIRST_STEPS - 1)
        left = report.steps - report.step
        line = f"about {_duration(mean * left)} hours for the {left:,} steps that are left, "
        line += "validations not counted"
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_reserved(self._device) / GIB
            line += f"; {peak:.1f} GiB of memory in use at the most"
        _say(line)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
