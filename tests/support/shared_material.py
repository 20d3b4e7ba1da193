"""Captures, field files and oracles that are too large for the repository; they lie beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

SHARED: Final = Path(__file__).resolve().parents[3] / "shared"
