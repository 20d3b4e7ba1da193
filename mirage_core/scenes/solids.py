"""Where rays enter and leave solids."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def entry_exit(
    shape: str,
    offsets: Sequence[Tensor],
    half: Sequence[float],
    directions: Sequence[Tensor],
    inverse: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """Ray parameters at which rays enter and leave a solid; entry > exit means a miss.

    Args:
        shape: ``"box"``, ``"ball"`` or ``"drum"``.
        offsets: Centre minus ray origin along x, y, z; broadcast against the rays.
        half: Half extent of the solid along x, y, z.
        directions: Ray directions along x, y, z, none exactly 0.
        inverse: 1 / ``directions``.
    """
    if shape == "ball":
        return _quadric(offsets, directions, half[0])
    entry, leave = _slab(offsets[1], half[1], inverse[1])
    others = [_slab(offsets[axis], half[axis], inverse[axis]) for axis in (0, 2)]
    if shape == "drum":
        others = [_quadric(offsets[::2], directions[::2], half[0])]
    for low, high in others:
        entry, leave = torch.maximum(entry, low), torch.minimum(leave, high)
    return entry, leave


def _slab(offset: Tensor, half: float, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Entry and exit of the space between two planes across one axis."""
    middle = inverse * offset
    reach = inverse.abs() * half
    return middle - reach, middle + reach


def _quadric(
    offsets: Sequence[Tensor], directions: Sequence[Tensor], radius: float
) -> tuple[Tensor, Tensor]:
    """Entry and exit of a ball or an endless cylinder, from two or three components."""
    length = _dot(directions, directions)
    # The distance of the centre from the ray is a difference of vectors, not of squares:
    # float32 keeps the silhouette exact from across the room.
    middle = _dot(directions, offsets) / length
    apart = [o - middle * d for d, o in zip(directions, offsets, strict=True)]
    inside = radius * radius - _dot(apart, apart)
    reach = torch.sqrt(inside.clamp_min(0) / length)
    missed = (inside < 0).to(middle.dtype) * 1e9
    return middle - reach + missed, middle + reach - missed


def _dot(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    total = first[0] * second[0]
    for a, b in zip(first[1:], second[1:], strict=True):
        total = total + a * b
    return total
