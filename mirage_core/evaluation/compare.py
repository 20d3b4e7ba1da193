"""Two runs of one table beside each other: differences paired by item, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ValueRangeError
from .report import Report, cell, headings, table
from .statistics import Estimate, estimate
from .task import Column


@dataclass(frozen=True, eq=False)
class Comparison:
    """What changes from one run to another.

    Attributes:
        columns: What was measured in both.
        pairs: (way of the first, way of the second) and the mean difference by column.
        items: Items that both have.
        notes: Settings that differ.
    """

    columns: tuple[Column, ...]
    pairs: Mapping[tuple[str, str], Mapping[str, Estimate]]
    items: int
    notes: tuple[str, ...]

    def page(self, one: str, other: str) -> str:
        """Markdown, the runs called by the names given."""
        rows = [
            [
                mine if mine == theirs else f"{mine} to {theirs}",
                *(cell(found.get(c.name), c.digits, self.items, sign=True) for c in self.columns),
            ]
            for (mine, theirs), found in self.pairs.items()
        ]
        parts = [
            f"# From {one} to {other}",
            f"Differences paired by item, mean over {self.items} items that both have, with its "
            "95 % bootstrap interval. Above zero, the second has more.",
            table(["", *headings(self.columns)], rows),
            "\n".join(f"- {note}" for note in self.notes),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"


def compare(
    one: Report, other: Report, way: str | None = None, other_way: str | None = None
) -> Comparison:
    """Paired differences, the second run minus the first.

    Args:
        one: The first run.
        other: The second, of the same task; may be the first again.
        way: Of the first run; all that both have by default, or the only ones there are.
        other_way: Of the second run; the same as of the first by default.

    Raises:
        ValueRangeError: They have no task, way or item in common.
    """
    if one.task != other.task:
        raise _nothing("Runs of different tasks cannot be compared", one.task, other.task)
    ways = _pairs(one, other, way, other_way)
    items = one.items.keys() & other.items.keys()
    if not items:
        raise _nothing("The runs have no item in common", _few(one), _few(other))
    columns = tuple(c for c in one.columns if any(c.name == d.name for d in other.columns))
    found = {
        (mine, theirs): _differences(one, other, mine, theirs, columns) for mine, theirs in ways
    }
    known = {name for values in found.values() for name in values}
    names = sorted(
        name
        for name in one.settings.keys() | other.settings.keys()
        if one.settings.get(name) != other.settings.get(name)
    )
    notes = tuple(f"{n}: {one.settings.get(n)!r} and {other.settings.get(n)!r}" for n in names)
    return Comparison(tuple(c for c in columns if c.name in known), found, len(items), notes)


def _pairs(
    one: Report, other: Report, way: str | None, other_way: str | None
) -> list[tuple[str, str]]:
    if way is not None or other_way is not None:
        pair = way or other_way or "", other_way or way or ""
        if pair[0] in one.ways and pair[1] in other.ways:
            return [pair]
        raise _nothing("A run has no such way", f"{pair[0]} and {pair[1]}", _named(one, other))
    shared = [(name, name) for name in one.ways if name in other.ways]
    if not shared and len(one.ways) == len(other.ways) == 1:
        return [(one.ways[0], other.ways[0])]
    if not shared:
        raise _nothing("The runs have no way in common", _named(one, other), "--way and --to")
    return shared


def _differences(
    one: Report, other: Report, mine: str, theirs: str, columns: tuple[Column, ...]
) -> dict[str, Estimate]:
    found = {}
    for column in columns:
        before, after = one.values(mine, column.name), other.values(theirs, column.name)
        pairs = [after[item] - before[item] for item in before if item in after]
        if pairs:
            found[column.name] = estimate(pairs)
    return found


def _named(one: Report, other: Report) -> str:
    return f"{', '.join(one.ways)} in the first, {', '.join(other.ways)} in the second"


def _few(report: Report) -> str:
    return ", ".join(list(report.items)[:3]) or "no item"


def _nothing(what: str, got: str, expected: str) -> ValueRangeError:
    return ValueRangeError(what, got=got, expected=expected)
