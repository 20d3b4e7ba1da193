"""Numbered files as one shot: ``render.####.exr`` stands for ``render.1001.exr`` and so on."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ..errors import CacheFormatError

MARK: Final = "#"
"""Stands for one digit of the number in a pattern."""

_PRINTF: Final = re.compile(r"%0([1-9])d")
_NUMBER: Final = re.compile(r"^(.*?[._-]|)(\d{2,9})$")
"""The number at the end of a name without its suffix."""


def as_pattern(path: Path) -> Path:
    """A name with the number as C writes it (``%04d``) in our own way."""
    return path.with_name(_PRINTF.sub(lambda match: MARK * int(match[1]), path.name))


def is_pattern(path: Path) -> bool:
    """Whether a name stands for numbered files."""
    return MARK in as_pattern(path).name


def pattern_of(path: Path) -> Path | None:
    """The pattern that a numbered file belongs to; None for a name without such a number."""
    match = _NUMBER.match(path.stem)
    if match is None:
        return None
    return path.with_name(f"{match[1]}{MARK * len(match[2])}{path.suffix}")


def patterns_among(paths: Iterable[Path]) -> list[Path]:
    """Patterns that two or more of these files belong to, in the order of the files."""
    counts: dict[Path, int] = {}
    for path in paths:
        pattern = pattern_of(path)
        if pattern is not None:
            counts[pattern] = counts.get(pattern, 0) + 1
    return [pattern for pattern, count in counts.items() if count > 1]


def files_of(pattern: Path) -> list[Path]:
    """The files that are there of a pattern, by their numbers.

    Raises:
        CacheFormatError: The pattern has several numbers.
    """
    return [path for _, path in sorted(_numbered(pattern).items())]


def numbered_files(pattern: Path) -> list[Path]:
    """The files that a pattern stands for, by their numbers.

    Raises:
        CacheFormatError: There are none, the pattern has several numbers, or a frame is missing.
    """
    found = _numbered(pattern)
    before, after, width = _split(pattern)
    if not found:
        raise CacheFormatError(
            "No file belongs to the numbered name",
            got=pattern,
            expected=f"files such as {before}{'1'.zfill(width)}{after}",
            fix="Check the name, and the number of digits",
        )
    numbers = sorted(found)
    step = min((two - one for one, two in zip(numbers, numbers[1:], strict=False)), default=1)
    gaps = [one + step for one, two in zip(numbers, numbers[1:], strict=False) if two - one != step]
    if gaps:
        raise CacheFormatError(
            "A frame of the numbered files is missing",
            got=f"no {before}{str(gaps[0]).zfill(width)}{after}",
            expected=f"every number from {numbers[0]} to {numbers[-1]} in steps of {step}",
            fix="Render or copy the missing frames, or take out those of another range",
        )
    return [found[number] for number in numbers]


def _split(pattern: Path) -> tuple[str, str, int]:
    """What stands before and after the number, and how many digits it has."""
    name = as_pattern(pattern).name
    marks = re.findall(f"{MARK}+", name)
    if len(marks) != 1:
        raise CacheFormatError(
            "The name of numbered files has several numbers",
            got=pattern.name,
            expected=f"one run of {MARK}, such as render.{MARK * 4}.exr",
            fix="Number the files in one place of their names",
        )
    before, _, after = name.partition(marks[0])
    return before, after, len(marks[0])


def _numbered(pattern: Path) -> dict[int, Path]:
    before, after, width = _split(pattern)
    # A number that outgrew its digits has no zero in front.
    name = re.compile(rf"{re.escape(before)}(\d{{{width}}}|[1-9]\d{{{width},9}}){re.escape(after)}")
    folder = pattern.parent
    return {
        int(match[1]): path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := name.fullmatch(path.name)) and path.is_file()
    }
