"""Lenses of other programs: one rule for what a pinhole may stand for.

A panorama or a fisheye is not one, whatever its numbers are. Any other lens is taken as the
pinhole that it has in its middle, and the user is told how far it moves a corner.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ...errors import CacheFormatError
from .axes import camera_frame

CORNER_TOLERANCE: Final = 0.02
"""Largest shift of a corner, as a share of its distance from the principal point, at which a
lens with distortion passes for a pinhole."""

PERSPECTIVE: Final = {
    "SIMPLE_PINHOLE": (1, ()),
    "PINHOLE": (2, ()),
    "SIMPLE_RADIAL": (1, ("k1",)),
    "RADIAL": (1, ("k1", "k2")),
    "OPENCV": (2, ("k1", "k2", "p1", "p2")),
    "FULL_OPENCV": (2, ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")),
    "PERSPECTIVE": (2, ()),
}  # fmt: skip
"""Models of a perspective lens: number of focal lengths, and names of what follows the
principal point."""

_KINDS: Final = (
    ("panorama", ("EQUIRECT", "SPHERICAL", "PANORAMA", "OMNI", "VR180", "LATLONG")),
    ("fisheye", ("FISHEYE", "FTHETA", "FOV", "EUCM", "KANNALA", "DOUBLE_SPHERE")),
    ("orthographic", ("ORTHO",)),
)


@dataclass(frozen=True)
class Lens:
    """A perspective lens.

    Attributes:
        size: (width, height) of its pictures.
        focal: (fx, fy) in pixels.
        centre: Principal point in pixels.
        radial: Coefficients of r^2, r^4, ... in the numerator.
        denominator: Coefficients of r^2, r^4, ... in the denominator.
        tangential: (p1, p2) of OpenCV.
    """

    size: tuple[float, float]
    focal: tuple[float, float]
    centre: tuple[float, float]
    radial: tuple[float, ...] = ()
    denominator: tuple[float, ...] = ()
    tangential: tuple[float, float] = (0.0, 0.0)

    def corner_shift(self) -> float:
        """How far a corner moves by distortion, as a share of its distance from the middle.

        Infinite where the distortion has no value there.
        """
        if not any((*self.radial, *self.denominator, *self.tangential)):
            return 0.0
        shifts = [
            self._shift((u - self.centre[0]) / self.focal[0], (v - self.centre[1]) / self.focal[1])
            for u in (0.0, self.size[0])
            for v in (0.0, self.size[1])
        ]
        return max(shift if math.isfinite(shift) else math.inf for shift in shifts)

    def _shift(self, x: float, y: float) -> float:
        square = x * x + y * y
        above, below = _series(self.radial, square), _series(self.denominator, square)
        if square == 0 or below == 0:
            return 0.0 if square == 0 else math.inf
        p1, p2 = self.tangential
        factor = above / below - 1
        dx = factor * x + 2 * p1 * x * y + p2 * (square + 2 * x * x)
        dy = factor * y + p1 * (square + 2 * y * y) + 2 * p2 * x * y
        return math.hypot(dx, dy) / math.sqrt(square)


def perspective_model(name: str, where: str) -> tuple[int, tuple[str, ...]]:
    """Number of focal lengths and names of the distortion of a camera model.

    Args:
        name: The model, as COLMAP and nerfstudio call it.
        where: Whose model it is, for the error.

    Raises:
        CacheFormatError: It is a panorama, a fisheye, orthographic, or not known.
    """
    upper = name.upper()
    if upper in PERSPECTIVE:
        return PERSPECTIVE[upper]
    for kind, words in _KINDS:
        if any(word in upper for word in words):
            raise not_perspective(where, kind, name)
    raise CacheFormatError(
        f"{where} has a lens of an unknown kind",
        got=repr(name[:40]),
        expected=" or ".join(PERSPECTIVE),
        fix="Undistort the pictures first (colmap image_undistorter), and export again",
    )


def not_perspective(where: str, kind: str, name: str) -> CacheFormatError:
    """The error for a lens that no pinhole can stand for."""
    return CacheFormatError(
        f"{where} is {'an' if kind[0] in 'aeiou' else 'a'} {kind} camera",
        got=name[:40],
        expected="a perspective camera",
        fix="Render or undistort the pictures to a perspective camera, and export that one",
    )


def lens_notes(shift: float) -> tuple[str, ...]:
    """What to tell about a lens that moves a corner by a share ``shift``."""
    if shift == 0:
        return ()
    moved = f"{shift:.1%}" if math.isfinite(shift) else "without a bound"
    if shift < CORNER_TOLERANCE:
        return (f"The lens distorts a little, a corner moves by {moved}: taken as a pinhole.",)
    return (
        f"Warning: the lens distorts, a corner moves by {moved}. Take the path; pictures of "
        "this camera must be undistorted (colmap image_undistorter) before they fit it.",
    )


def intrinsics_of(lenses: Iterable[Lens], width: int, height: int) -> Tensor:
    """(F, 3, 3) pinhole intrinsics of one lens per frame, for pictures of another size."""
    cache: dict[Lens, Tensor] = {}
    rows = []
    for lens in lenses:
        if lens not in cache:
            cache[lens] = camera_frame(
                torch.tensor([lens.focal], dtype=torch.float64),
                torch.tensor([lens.centre], dtype=torch.float64),
                lens.size,
                width,
                height,
            )
        rows.append(cache[lens])
    return torch.cat(rows)


def _series(coefficients: Sequence[float], square: float) -> float:
    total, power = 1.0, 1.0
    for k in coefficients:
        # A product becomes infinite where a power would be an error.
        power *= square
        total += k * power
    return total
