"""Reading text of other programs: bounded, strict, with errors that name the line."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from ...errors import CacheFormatError
from ..files import MAX_BYTES

MAX_TEXT: Final = 16 * 2**20
"""Bytes of the largest list of cameras that is read as a whole."""

MAX_POSES: Final = 50_000
"""Cameras in one file of other programs: more than half an hour at 24 frames per second."""

MAX_LINE: Final = 16 * 2**20
"""Bytes of the longest line; those with the feature points of a picture are long."""

_MAX_LINES = 4 * MAX_POSES
"""Lines of the longest file: two for each camera of COLMAP, and as many empty ones."""

_SHOWN = 60
_SEPARATOR = re.compile(r"[\s,;]+")


def read_text(path: Path, limit: int = MAX_BYTES) -> str:
    """The text of a file.

    Args:
        path: The file.
        limit: Bytes that it may have.

    Raises:
        CacheFormatError: It is missing, too large, or not text.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise ValueError(f"more than {limit // 2**20} MiB")
        return content.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error


def read_lines(path: Path, *, longest: int = MAX_LINE, limit: int = MAX_BYTES) -> Iterator[str]:
    """The lines of a text file, one by one and without their ends.

    Args:
        path: The file.
        longest: Bytes that a line may have.
        limit: Bytes that the file may have.

    Raises:
        CacheFormatError: It is missing, too large, or not text.
    """
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > limit:
                raise ValueError(f"more than {limit // 2**20} MiB")
            number = 0
            while line := file.readline(longest + 1):
                number += 1
                if len(line) > longest or number > _MAX_LINES:
                    raise ValueError("a line is too long, or there are too many")
                yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> CacheFormatError:
    """The error for a file that cannot be opened or is no text."""
    return CacheFormatError(
        f"{path.name} cannot be read",
        got=str(error)[:200],
        expected="a text file",
        fix="Check the path, or export it again",
    )


def split_words(line: str) -> list[str]:
    """Words of a line that spaces, tabs, commas or semicolons part."""
    return [word for word in _SEPARATOR.split(line) if word]


def parse_numbers(words: Sequence[str], where: str) -> list[float]:
    """Words as finite floats.

    Raises:
        CacheFormatError: One is something else.
    """
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise malformed(where, " ".join(words)) from error
    if not all(math.isfinite(value) for value in values):
        raise malformed(where, " ".join(words))
    return values


def is_number(word: str) -> bool:
    """Whether a word is a number of any kind."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def expect_poses(count: int, name: str) -> None:
    """Raise `CacheFormatError` unless a file has a sensible number of cameras."""
    if not 1 <= count <= MAX_POSES:
        raise CacheFormatError(
            f"{name} contains {'no camera' if count == 0 else 'too many cameras'}",
            got=count,
            expected=f"1 to {MAX_POSES}",
            fix="Export the cameras again",
        )


def malformed(where: str, got: str) -> CacheFormatError:
    """The error for a line that does not hold what belongs there."""
    return CacheFormatError(
        f"{where} is malformed",
        got=repr(got[:_SHOWN]),
        expected="finite numbers, as defined by the format",
        fix="Export the cameras again",
    )
