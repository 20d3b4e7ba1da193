"""``mirage train --plan N --card GIB``: whether a run fits a card, and what makes it fit."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from ..errors import ModelMismatchError
from ..training.memory_estimate import GIB, MemoryPlan
from ..training.settings import TrainingSettings
from .train_parts import planned

RESERVED: Final = 1.5
"""GiB of a card that the plan leaves free: CUDA's own, and what its allocator cannot use."""

SMALLER_SIZES: Final = ((960, 544), (832, 480), (640, 352))
FEWER_BLOCKS: Final = (5, 3, 2)
WIDTH: Final = 46


@dataclass(frozen=True)
class _Try:
    """One more thing that is given up.

    Attributes:
        option: As on the command line.
        settings: With that and all before it.
        size: Width and height of the pictures.
    """

    option: str
    settings: TrainingSettings
    size: tuple[int, int]


def describe_card(arguments: argparse.Namespace, settings: TrainingSettings) -> str:
    """What fits ``--card``, as text: options are added until something does.

    Args:
        arguments: Of the command line, with ``plan`` and ``card``.
        settings: Of the run.
    """
    room = arguments.card - RESERVED
    count = arguments.plan
    lines = [
        f"{'a card' if count == 1 else f'each of {count} cards'} of {arguments.card:g} GiB, of "
        f"which {RESERVED:g} stay free for CUDA:"
    ]
    total, found = 0.0, None
    for step in _tries(arguments.plan_size, settings, arguments.branch is None):
        try:
            plan: MemoryPlan = planned(arguments, step.settings, step.size)
        except ModelMismatchError:
            # This model has no such number of evenly spaced blocks.
            continue
        total = plan.total / GIB
        found = total <= room
        lines.append(f"  {step.option:<{WIDTH}} {total:>8.2f}  {'fits' if found else 'too large'}")
        if found:
            break
    if not found:
        lines.append(
            f"  nothing makes it fit: {total - room:.2f} GiB are missing. Take more cards "
            f"(--plan {count + 1}), or another --stage: lora trains the least"
        )
    return "\n".join(lines)


def _tries(
    size: tuple[int, int], settings: TrainingSettings, new_branch: bool
) -> Iterator[_Try]:
    """First as it is; then what costs little, then what the result depends on."""
    yield _Try("as it is", settings, size)
    for name, value in _cheaper(settings):
        settings = dataclasses.replace(settings, **{name: value})
        option = f"--{name.replace('_', '-')}"
        yield _Try(f"and {option}" + ("" if value is True else f" {value}"), settings, size)
    for smaller in SMALLER_SIZES:
        if smaller[0] * smaller[1] < size[0] * size[1]:
            size = smaller
            yield _Try(f"and clips of {size[0]}x{size[1]}", settings, size)
    if new_branch and not settings.new_planes and settings.stage in ("branch", "single"):
        for blocks in FEWER_BLOCKS:
            if blocks < settings.side_blocks:
                settings = dataclasses.replace(settings, side_blocks=blocks)
                yield _Try(f"and --side-blocks {blocks}", settings, size)


def _cheaper(settings: TrainingSettings) -> list[tuple[str, Any]]:
    """Settings that take less memory, in the order in which they are tried."""
    found: list[tuple[str, Any]] = []
    if not settings.gradient_checkpointing:
        found.append(("gradient_checkpointing", True))
    if settings.micro_batch > 1:
        found.append(("micro_batch", 1))
    if not settings.trains_full_model and settings.frozen_dtype == "dtype":
        found.append(("frozen_dtype", "float8"))
    if settings.optimiser == "adamw":
        found.append(("optimiser", "adamw8bit"))
    if settings.ema_decay:
        found.append(("ema_decay", 0.0))
    return found
