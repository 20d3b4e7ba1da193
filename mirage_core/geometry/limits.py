"""How much a file of a given size is believed to hold."""

from __future__ import annotations

from typing import Final

MAX_BYTES: Final = 4 << 30
"""Most bytes of all arrays of one file."""

SMALL: Final = 256 << 20
"""Bytes that any file may ask for: so much a constant, compressed to nothing, takes as well."""

MAX_RATIO: Final = 64
"""Bytes above `SMALL` that each byte of a file stands for at most; measured numbers, whose last
digits are noise, stay far below that in every compression."""


def most_bytes(size: int) -> int:
    """Bytes that a file of ``size`` bytes may hold decoded: what asks for more is damaged."""
    return min(MAX_BYTES, max(SMALL, size * MAX_RATIO))
