"""Reading text of other programs: bounded, strict, with errors that name the line."""

from __future__ import annotations

import math
from pathlib import Path

from ...errors import CacheFormatError
from ..files import MAX_BYTES

_SHOWN = 60


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        CacheFormatError: It is missing, too large, or not text.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES // 2**20} MiB")
        return content.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise CacheFormatError(
            f"{path.name} cannot be read",
            got=str(error)[:200],
            expected="a text file",
            fix="Check the path, or export it again",
        ) from error


def parse_numbers(words: list[str], where: str) -> list[float]:
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


def malformed(where: str, got: str) -> CacheFormatError:
    """The error for a line that does not hold what belongs there."""
    return CacheFormatError(
        f"{where} is malformed",
        got=repr(got[:_SHOWN]),
        expected="finite numbers, as defined by the format",
        fix="Export the cameras again",
    )
