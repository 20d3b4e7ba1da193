"""Light that falls on every surface of a room, computed once per scene.

Lamps and windows cast soft shadows; ambient light takes the colour of the surfaces around
and fades in corners. Both are independent of the view, so frames only look them up.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

from .solids import _dot, entry_exit
from .types import Lamp, Layout, Solid

LAMP_GRID: Final = 3
"""Samples along each side of a lamp: more give smoother shadows."""

AMBIENT_GAIN: Final = 0.44
OCCLUSION_REACH: Final = 0.9
"""Metres within which a surface darkens the ambient light of another."""

CORNER_REACH: Final = 0.55
"""Metres within which a wall darkens the ambient light of the next wall."""

DISTANCE_SOFTENING: Final = 1.2
"""Square metres added to the squared distance, since lamps are not points."""


def incident_light(
    layout: Layout,
    points: Tensor,
    normals: Tensor,
    albedo: Tensor,
    on_direction: Callable[[], None] = lambda: None,
) -> Tensor:
    """Light that arrives at surface points.

    Args:
        layout: The room.
        points: (N, 3) positions slightly in front of their surface.
        normals: (N, 3) unit normals.
        albedo: (6, 3) mean colour of the room's faces, which tints ambient light.
        on_direction: Called after each direction from which light comes; may raise to cancel.

    Returns:
        (N, 3) linear RGB, about 1 in bright places.
    """
    position = [column.contiguous() for column in points.unbind(1)]
    normal = [column.contiguous() for column in normals.unbind(1)]
    blockers = [solid for solid in layout.solids[1:] if solid.opaque]
    light = _ambient(layout.solids[0], blockers, position, normal, albedo, on_direction)
    for lamp in layout.lamps:
        power = points.new_tensor(lamp.power)
        light += _direct(lamp, blockers, position, normal, on_direction)[:, None] * power
    return light


def _nearest(
    blockers: Sequence[Solid], position: Sequence[Tensor], directions: Sequence[Tensor]
) -> Tensor:
    """Ray parameter of the first blocker, 1e9 where there is none, 0 inside of one."""
    safe = [torch.where(d.abs() < 1e-7, torch.full_like(d, 1e-7), d) for d in directions]
    inverse = [1 / d for d in safe]
    nearest = torch.full_like(position[0], 1e9)
    for solid in blockers:
        offsets = [centre - p for centre, p in zip(solid.centre, position, strict=True)]
        entry, leave = entry_exit(solid.shape, offsets, solid.half, safe, inverse)
        hit = (entry <= leave) & (leave > 0)
        nearest = torch.where(hit, torch.minimum(nearest, entry.clamp_min(0)), nearest)
    return nearest


def _direct(
    lamp: Lamp,
    blockers: Sequence[Solid],
    position: Sequence[Tensor],
    normal: Sequence[Tensor],
    on_direction: Callable[[], None],
) -> Tensor:
    """Mean over the lamp's samples of cosine over squared distance where it is visible."""
    extent = [high - low for low, high in zip(lamp.low, lamp.high, strict=True)]
    thin = extent.index(min(extent))
    total = torch.zeros_like(position[0])
    steps = [(k + 0.5) / LAMP_GRID for k in range(LAMP_GRID)]
    for first, second in itertools.product(steps, steps):
        shares = [first, second]
        shares.insert(thin, 0.5)
        sample = [low + e * s for low, e, s in zip(lamp.low, extent, shares, strict=True)]
        direction = [s - p for s, p in zip(sample, position, strict=True)]
        squared = _dot(direction, direction)
        cosine = _dot(direction, normal) / torch.sqrt(squared)
        visible = (_nearest(blockers, position, direction) >= 1).to(total.dtype)
        total += cosine.clamp_min(0) * visible / (squared + DISTANCE_SOFTENING)
        on_direction()
    return total * (5.0 / LAMP_GRID**2)


def _ambient(
    room: Solid,
    blockers: Sequence[Solid],
    position: Sequence[Tensor],
    normal: Sequence[Tensor],
    albedo: Tensor,
    on_direction: Callable[[], None],
) -> Tensor:
    """Cosine-weighted light from 14 directions, faded by what stands close."""
    shape = (len(position[0]), 3)
    total, weights = position[0].new_zeros(shape), torch.zeros_like(position[0])
    for signs in itertools.product((-1.0, 0.0, 1.0), repeat=3):
        size = sum(abs(s) for s in signs)
        if size not in (1.0, 3.0):
            continue
        direction = [torch.full_like(position[0], s / size**0.5) for s in signs]
        weight = _dot(direction, normal).clamp_min(0)
        near = _nearest(blockers, position, direction)
        wall = _room_exit(room, position, direction)
        open_ = (near / OCCLUSION_REACH).clamp(0.12, 1) * (wall / CORNER_REACH).clamp(0.35, 1)
        faces = [2 * axis + (s > 0) for axis, s in enumerate(signs) if s]
        colour = albedo[faces].mean(0) * 0.75 + 0.25
        total += (weight * open_)[:, None] * colour
        weights += weight
        on_direction()
    return total * (AMBIENT_GAIN / weights.clamp_min(1e-6))[:, None]


def _room_exit(room: Solid, position: Sequence[Tensor], directions: Sequence[Tensor]) -> Tensor:
    """Distance to the room's walls along a direction that is equal for all points."""
    nearest = torch.full_like(position[0], 1e9)
    for axis in range(3):
        step = float(directions[axis][0]) if len(directions[axis]) else 0.0
        if step:
            bound = room.high[axis] if step > 0 else room.low[axis]
            nearest = torch.minimum(nearest, (bound - position[axis]) / step)
    return nearest.clamp_min(0)
