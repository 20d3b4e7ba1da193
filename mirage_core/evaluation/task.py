"""What one table is: items, what is measured of each, and how that is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

Value = float | None
"""A measurement; None where it could not be made, and the page says why."""

Ways = Mapping[str, Mapping[str, Value]]
"""Measurements by way and by column."""


@dataclass(frozen=True)
class Choice:
    """One line of a protocol.

    Attributes:
        what: What is chosen.
        choice: How.
        source: Where that comes from.
    """

    what: str
    choice: str
    source: str


@dataclass(frozen=True)
class Column:
    """A number that is measured of every item.

    Attributes:
        name: In results.
        heading: On the page.
        digits: Decimals on the page.
        better: ``higher``, ``lower``, or empty where neither is better.
        missing: Why it is measured nowhere; empty when it is measured.
    """

    name: str
    heading: str
    digits: int = 2
    better: str = "higher"
    missing: str = ""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What was measured of one item.

    Attributes:
        ways: Measurements by way and by column.
        pictures: (H, W, 3) in 0..1, all of one width, by what they show; they are stacked.
    """

    ways: Ways
    pictures: Mapping[str, Tensor] = field(default_factory=dict)


class Task(Protocol):
    """One table; is sent to the workers."""

    @property
    def name(self) -> str:
        """Of the command."""

    @property
    def title(self) -> str:
        """Of the page."""

    @property
    def about(self) -> str:
        """What the table says, in a sentence or few."""

    @property
    def columns(self) -> Sequence[Column]:
        """What is measured."""

    @property
    def protocol(self) -> Sequence[Choice]:
        """How it is measured."""

    def settings(self) -> dict[str, Any]:
        """All that results depend on, as JSON can hold it."""

    def items(self) -> Sequence[str]:
        """Names of what is measured, without loading it; the same at every call."""

    def prepare(self) -> None:
        """Load what all items share; called once per worker, before the first item."""

    def run(self, item: str) -> Outcome:
        """Measure one item.

        Raises:
            MirageError: It cannot be measured; others can.
        """
