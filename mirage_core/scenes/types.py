"""The plain immutable data that describe a furnished room.

World axes are OpenCV's with ``-y`` up, in metres: the floor is y = 0 and the room is centred
on x = z = 0. Faces of a box are numbered ``2 * axis + side``, so 2 is a top and 3 a bottom.
"""

from __future__ import annotations

from dataclasses import dataclass

Vector = tuple[float, float, float]
Span = tuple[float, float]


@dataclass(frozen=True)
class Material:
    """A texture family with its colours.

    Attributes:
        family: Key of `textures.PAINTERS`.
        colours: Four linear RGB colours: ground, second, accent, dark.
        metres: Length of one tile, or 0 to stretch the texture over each face.
        seed: Selects one picture of the family.
    """

    family: str
    colours: tuple[Vector, Vector, Vector, Vector]
    metres: float
    seed: int


@dataclass(frozen=True)
class Solid:
    """A box, a ball, or a vertical drum that fills its bounds.

    Attributes:
        shape: ``"box"``, ``"ball"`` or ``"drum"``.
        low: Smallest x, y, z.
        high: Largest x, y, z.
        faces: Material of each face; a ball uses the first, a drum the first for its side.
        shift: Offset of the texture in tiles, so that equal materials look different.
        opaque: Whether it casts shadows.
        glow: Emitted light, 0 for ordinary surfaces.
    """

    shape: str
    low: Vector
    high: Vector
    faces: tuple[int, int, int, int, int, int]
    shift: Span = (0.0, 0.0)
    opaque: bool = True
    glow: float = 0.0

    @property
    def centre(self) -> Vector:
        """(x, y, z) centre of the bounds, in metres."""
        x, y, z = ((a + b) / 2 for a, b in zip(self.low, self.high, strict=True))
        return x, y, z

    @property
    def half(self) -> Vector:
        """Half the extent along each axis."""
        x, y, z = ((b - a) / 2 for a, b in zip(self.low, self.high, strict=True))
        return x, y, z


@dataclass(frozen=True)
class Lamp:
    """A horizontal or vertical patch of light between two corners, with its RGB power."""

    low: Vector
    high: Vector
    power: Vector


@dataclass(frozen=True)
class Layout:
    """A furnished room; ``solids[0]`` is the room itself, seen from inside."""

    solids: tuple[Solid, ...]
    materials: tuple[Material, ...]
    lamps: tuple[Lamp, ...]
