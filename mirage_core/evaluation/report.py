"""The results of a run as one JSON document, and as a page for people."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image

from ..errors import CacheFormatError
from ..files import atomic_path, atomic_write
from .results import FORMAT, VERSION, picture_path, read_document
from .statistics import Estimate, estimate
from .task import Choice, Column, Task, Value, Ways

RESULTS: Final = "results.json"
PAGE: Final = "results.md"
MOST_ROWS: Final = 30
"""Items up to which the page has a table of them."""

PAGE_QUALITY: Final = 60
"""Of the pictures beside a page that goes among documents, which should stay small."""

MOST_PICTURES: Final = 4
"""Items whose pictures the page shows; the others are in their folder."""


@dataclass(frozen=True, eq=False)
class Report:
    """All results of a run.

    Attributes:
        task: Its name.
        title: Of the page.
        about: What the table says.
        settings: All that results depend on.
        columns: What was measured.
        protocol: How.
        items: Measurements by item, way and column.
        rows: What the pictures of each item show, from top to bottom.
        skipped: Items without result, and why.
        command: What made the run.
        machine: Where, when, and with which versions.
    """

    task: str
    title: str
    about: str
    settings: Mapping[str, Any]
    columns: tuple[Column, ...]
    protocol: tuple[Choice, ...]
    items: Mapping[str, Ways]
    rows: Mapping[str, Sequence[str]] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    machine: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        task: Task,
        found: Mapping[str, tuple[Ways, Sequence[str]]],
        skipped: Mapping[str, str],
        command: str = "",
    ) -> Report:
        """The report of a task from its stored items."""
        return cls(
            task.name,
            task.title,
            task.about,
            task.settings(),
            tuple(task.columns),
            tuple(task.protocol),
            {item: ways for item, (ways, _) in found.items()},
            {item: rows for item, (_, rows) in found.items()},
            skipped,
            command,
            this_machine(),
        )

    @property
    def ways(self) -> tuple[str, ...]:
        """Names of the ways, in the order of the first item."""
        return tuple(dict.fromkeys(way for ways in self.items.values() for way in ways))

    def values(self, way: str, column: str) -> dict[str, float]:
        """What is known of a column in one way, by item."""
        found: dict[str, float] = {}
        for item, ways in self.items.items():
            value: Value = ways.get(way, {}).get(column)
            if value is not None:
                found[item] = value
        return found

    def summary(self) -> dict[str, dict[str, Estimate]]:
        """Means over the items by way and column; what was measured nowhere is absent."""
        return {
            way: {
                column.name: estimate(list(values.values()))
                for column in self.columns
                if (values := self.values(way, column.name))
            }
            for way in self.ways
        }


def this_machine() -> dict[str, str]:
    """What a reader of figures wants to know of where they were measured."""
    cuda = torch.cuda.is_available()
    return {
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if cuda else platform.machine(),
        "threads": str(torch.get_num_threads()),
    }


def write_report(folder: Path, report: Report) -> None:
    """Write `RESULTS` and `PAGE`.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    summary = {
        way: {name: asdict(found) for name, found in columns.items()}
        for way, columns in report.summary().items()
    }
    document = {"format": FORMAT, "version": VERSION, **asdict(report), "summary": summary}
    with atomic_write(folder / RESULTS, "w") as file:
        json.dump(document, file, indent=1, ensure_ascii=False)
    with atomic_write(folder / PAGE, "w") as file:
        file.write(page(report, folder))


def read_report(folder: Path) -> Report:
    """The results of a run.

    Raises:
        CacheFormatError: There are none, or they are damaged or of a newer version.
    """
    document = read_document(folder / RESULTS)
    document = {name: document.get(name) for name in Report.__dataclass_fields__}
    try:
        columns = tuple(Column(**column) for column in document.pop("columns"))
        protocol = tuple(Choice(**choice) for choice in document.pop("protocol"))
        report = Report(columns=columns, protocol=protocol, **document)
        report.summary()
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CacheFormatError(
            f"{RESULTS} of the evaluation cannot be read",
            got=str(error)[:200],
            expected="a folder that was filled by `mirage evaluate`",
            fix="Run the evaluation again: items that are stored are not measured again",
        ) from error
    return report


def write_page(path: Path, report: Report, folder: Path) -> None:
    """Write the page to a file of its own, with the first item's pictures beside it as JPG.

    Args:
        path: Of the page; the pictures have its name.
        report: What is on it.
        folder: Of the run.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    shown = ""
    for item, rows in report.rows.items():
        stored = picture_path(folder, item)
        if rows and stored.is_file():
            beside = path.with_suffix(".jpg")
            with Image.open(stored) as picture, atomic_path(beside) as temporary:
                picture.save(temporary, quality=PAGE_QUALITY, optimize=True)
            shown = _picture(item, rows, beside.name)
            break
    with atomic_write(path, "w") as file:
        file.write(page(report, pictures=shown))


def page(report: Report, folder: Path | None = None, pictures: str = "") -> str:
    """The report as Markdown; with the pictures in a run's folder, if one is given."""
    skipped = [f"- {item}: {reason}" for item, reason in report.skipped.items()]
    parts = [
        f"# {report.title}",
        report.about,
        f"```sh\n{report.command}\n```" if report.command else "",
        _means(report),
        _missing(report.columns),
        _differences(report),
        _each_item(report),
        _section(pictures) if folder is None else _pictures(report, folder),
        "## Protocol",
        table(
            ["what", "choice", "source"],
            [[line.what, line.choice, line.source] for line in report.protocol],
        ),
        "## Settings",
        table(["setting", "value"], [[k, _plain(v)] for k, v in report.settings.items()]),
        "\n".join(["Left out:", "", *skipped]) if skipped else "",
        ", ".join(f"{name} {value}" for name, value in report.machine.items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in cells])


def cell(found: Estimate | None, digits: int, items: int, *, sign: bool = False) -> str:
    """An estimate with its interval, and of how many items where not of all; or a dash."""
    if found is None:
        return "–"
    form = f"{'+' if sign else ''}.{digits}f"
    text = format(found.mean, form)
    if found.low is not None and found.high is not None:
        text += f" [{found.low:{form}}, {found.high:{form}}]"
    return text if found.count == items else f"{text} ({found.count} of {items})"


def headings(columns: Sequence[Column]) -> list[str]:
    """What stands over the columns, with an arrow to where it is better."""
    arrows = {"higher": " ↑", "lower": " ↓"}
    return [column.heading + arrows.get(column.better, "") for column in columns]


def _means(report: Report) -> str:
    summary, count = report.summary(), len(report.items)
    rows = [
        [way, *(cell(summary[way].get(c.name), c.digits, count) for c in report.columns)]
        for way in report.ways
    ]
    line = f"Mean over {count} item{'s' * (count > 1)}, with its 95 % bootstrap interval."
    return "\n\n".join([line, table(["", *headings(report.columns)], rows)]) if rows else ""


def _missing(columns: Sequence[Column]) -> str:
    return "\n".join(f"- {x.heading} is not measured: {x.missing}" for x in columns if x.missing)


def _differences(report: Report) -> str:
    """Every way against the first, item by item."""
    if len(report.ways) < 2 or len(report.items) < 2:  # noqa: PLR2004
        return ""
    first, rows = report.ways[0], []
    for way in report.ways[1:]:
        row = [way]
        for column in report.columns:
            one, other = report.values(way, column.name), report.values(first, column.name)
            pairs = [one[item] - other[item] for item in one if item in other]
            found = estimate(pairs) if pairs else None
            row.append(cell(found, column.digits, len(report.items), sign=True))
        rows.append(row)
    line = f"Differences to *{first}*, paired by item."
    return "\n\n".join([line, table(["", *headings(report.columns)], rows)])


def _each_item(report: Report) -> str:
    if not 1 < len(report.items) * len(report.ways) <= MOST_ROWS:
        return ""
    rows = []
    for item, ways in report.items.items():
        for way, values in ways.items():
            known = [(values.get(column.name), column.digits) for column in report.columns]
            numbers = ["–" if value is None else f"{value:.{n}f}" for value, n in known]
            rows.append([item, way, *numbers])
    return "\n\n".join(["## Items", table(["item", "", *headings(report.columns)], rows)])


def _pictures(report: Report, folder: Path) -> str:
    parts: list[str] = []
    for item, rows in report.rows.items():
        path = picture_path(folder, item)
        if rows and path.is_file() and len(parts) < MOST_PICTURES:
            parts.append(_picture(item, rows, path.relative_to(folder).as_posix()))
    return _section("\n\n".join(parts))


def _section(pictures: str) -> str:
    return f"## Pictures\n\n{pictures}" if pictures else ""


def _picture(item: str, rows: Sequence[str], address: str) -> str:
    address = re.sub(r"\s", "%20", address)
    return f"{item}, from top to bottom: {'; '.join(rows)}.\n\n![{item}]({address})"
