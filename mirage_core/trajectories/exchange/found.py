"""What a reader of camera files gives back: the move, and what it has to say about it."""

from __future__ import annotations

from dataclasses import dataclass

from ...geometry.trajectory import Trajectory


@dataclass(frozen=True, eq=False)
class FoundMove:
    """A camera move of a file.

    Attributes:
        trajectory: The move.
        notes: What was chosen where the file holds more than one, a line each.
    """

    trajectory: Trajectory
    notes: tuple[str, ...] = ()
