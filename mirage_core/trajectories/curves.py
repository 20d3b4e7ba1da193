"""Values between keyframes: slopes at the keys, and timing between them."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TANGENTS: Final = ("monotone", "smooth", "corner", "rest")
"""How a path goes through a keyframe. ``monotone``: never beyond the two neighbours along any
axis. ``smooth``: in the direction of a parabola through it and its neighbours. ``corner``: each
side by itself. ``rest``: it stops there."""

Speed = tuple[float, float, float, float]
"""Handles x1, y1, x2, y2, all in 0..1, of a cubic from (0, 0) to (1, 1): time to progress."""

_HALVINGS: Final = 54
"""They leave nothing of an interval of length 1 in double precision."""

Array = NDArray[np.float64]
Places = NDArray[np.int64]


def _bezier(s: Tensor, a: float, b: float) -> Tensor:
    return s * (3 * (1 - s) * ((1 - s) * a + s * b) + s * s)


def progress(speed: Speed, t: Tensor) -> Tensor:
    """Progress in 0..1 at times in 0..1 along a speed curve; 0 and 1 map to themselves.

    Args:
        speed: The handles, all in 0..1, so that time never goes back.
        t: (F,) float64.

    Returns:
        (F,) float64.
    """
    x1, y1, x2, y2 = speed
    low, high = torch.zeros_like(t), torch.ones_like(t)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        before = _bezier(middle, x1, x2) <= t
        low, high = torch.where(before, middle, low), torch.where(before, high, middle)
    inside = _bezier(low, y1, y2)
    return torch.where(t <= 0, 0.0, torch.where(t >= 1, 1.0, inside))


def _outer(step: Array, rise: Array, near: int, far: int) -> Array:
    """Slope of the parabola through three points at the outer one of them."""
    width = step[near] + step[far]
    slope: Array = ((width + step[near]) * rise[near] - step[near] * rise[far]) / width
    return slope


def _side(step: Array, rise: Array, tangents: list[str], key: int, side: int) -> Array:
    """Slope on one side of a key, from the segments on that side alone."""
    near, far = (key - 1, key - 2) if side < 0 else (key, key + 1)
    if not 0 <= near < len(rise):
        return np.zeros(rise.shape[1])
    if not 0 <= far < len(rise) or tangents[key + side] == "corner":
        return rise[near]
    return _outer(step, rise, near, far)


def slopes(knots: Array, values: Array, tangents: list[str]) -> tuple[Array, Array]:
    """Slopes where a curve comes to each key, and where it leaves it.

    Args:
        knots: (K,) times of two keys or more, increasing.
        values: (K, D).
        tangents: K of `TANGENTS`.

    Returns:
        Two arrays (K, D), per unit of time.
    """
    from scipy.interpolate import PchipInterpolator

    step = np.diff(knots)
    rise = np.diff(values, axis=0) / step[:, None]
    with np.errstate(over="ignore"):
        monotone = PchipInterpolator(knots, values, axis=0).derivative()(knots)
    into, away = monotone.copy(), monotone.copy()
    for key, tangent in enumerate(tangents):
        if tangent == "rest":
            into[key] = away[key] = 0
        elif tangent == "corner" or (tangent == "smooth" and key in (0, len(rise))):
            into[key] = _side(step, rise, tangents, key, -1)
            away[key] = _side(step, rise, tangents, key, 1)
        elif tangent == "smooth":
            width = step[key - 1] + step[key]
            into[key] = (rise[key - 1] * step[key] + rise[key] * step[key - 1]) / width
            away[key] = into[key]
    return into, away


def cubic(
    knots: Array, values: Array, ends: tuple[Array, Array], segment: Places, t: Array
) -> Array:
    """Values of a cubic with given slopes.

    Args:
        knots: (K,) times of the keys.
        values: (K, D).
        ends: What `slopes` gives.
        segment: (F,) whole numbers, the key that each frame comes after.
        t: (F,) progress from that key to the next, 0..1.

    Returns:
        (F, D).
    """
    into, away = ends
    after = segment + 1
    span = (knots[after] - knots[segment])[:, None]
    share = t[:, None]
    blend, bump = share * share * (3 - 2 * share), share * (1 - share)
    bent = away[segment] * (1 - share) - into[after] * share
    found: Array = values[segment] + (values[after] - values[segment]) * blend + span * bump * bent
    return found


def aligned(quaternions: Array) -> Array:
    """Quaternions (K, 4) of one path, each of the sign that is nearer to the one before."""
    cosine = (quaternions[1:] * quaternions[:-1]).sum(axis=1)
    sign = np.cumprod(np.where(cosine < 0, -1.0, 1.0))
    found: Array = quaternions * np.concatenate([[1.0], sign])[:, None]
    return found
