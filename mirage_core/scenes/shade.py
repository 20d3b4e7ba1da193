"""Colours of cast rays: texture and stored light, filtered to the footprint of a pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from .cast import Rays
from .tables import FaceTables, SceneTables

WHITE: Final = 2.2
"""Linear brightness that is shown as white."""

EXPOSURE: Final = 1.15

LOOKUP_WIDTH: Final = 1.4
"""Pixels that a texture look-up covers: above 1, since bilinear filters let aliases pass."""


@dataclass(frozen=True)
class _Surface:
    """Where rays arrive: face number, coordinates (s, t) on it, and its slant."""

    face: Tensor
    s: Tensor
    t: Tensor
    slant: Tensor


def shade(
    tables: SceneTables, rays: Rays, depth: Tensor, seen: Tensor, pixel_size: Tensor
) -> Tensor:
    """Colour of every pixel.

    Args:
        tables: Looked-up data of the scene.
        rays: Rays of F frames.
        depth: (F, R, W) z-depth of `cast`.
        seen: (F, R, W) solid numbers of `cast`.
        pixel_size: (F,) width of a pixel at depth 1.

    Returns:
        (F, R, W, 3) display values in 0..1.
    """
    surface = _locate(tables, rays, depth, seen)
    faces = tables.faces
    density = faces.density.index_select(0, surface.face)
    footprint = (depth * (LOOKUP_WIDTH * pixel_size)[:, None, None]).flatten()
    footprint = footprint * density * surface.slant
    albedo = _texture(tables, surface, footprint)
    light = _stored_light(tables.light, faces, surface)
    albedo *= light
    return _display(albedo)[:, :3].reshape(*depth.shape, 3)


def _locate(tables: SceneTables, rays: Rays, depth: Tensor, seen: Tensor) -> _Surface:
    index = seen.flatten()
    origins = rays.origins.to(depth.device, torch.float32)
    points, local = [], []
    for axis in range(3):
        point = rays.directions[axis] * depth
        point += origins[:, axis, None, None]
        point = point.flatten()
        offset = point - tables.centre[axis].index_select(0, index)
        offset *= tables.inverse_half[axis].index_select(0, index)
        points.append(point)
        local.append(offset)
    x, y, z = points
    reach = [offset.abs() for offset in local]
    on_x = (reach[0] >= reach[1]) & (reach[0] >= reach[2])
    on_y = (reach[1] >= reach[2]) & ~on_x
    sides = [(offset > 0).to(torch.int32) for offset in local]
    face = torch.where(on_x, sides[0], torch.where(on_y, sides[1] + 2, sides[2] + 4))
    face += index * 6
    s, t = torch.where(on_x, z, x), torch.where(on_y, z, y)
    flat = [d.flatten() for d in rays.directions]
    facing = torch.where(on_x, flat[0], torch.where(on_y, flat[1], flat[2])).abs()
    length = flat[0] * flat[0] + flat[1] * flat[1] + flat[2] * flat[2]
    # Between the two sides of the pixel's footprint: sharper than its long side, and with
    # less shimmer than its short side.
    slant = torch.sqrt(torch.sqrt(length) / facing.clamp_min(1e-3)).clamp_max(3)
    curved = tables.curved.index_select(0, index).nonzero().flatten()
    surface = _Surface(face, s, t, slant)
    if len(curved):
        _locate_curved(tables, surface, [offset[curved] for offset in local], index, curved)
    return surface


def _locate_curved(
    tables: SceneTables, surface: _Surface, local: list[Tensor], index: Tensor, where: Tensor
) -> None:
    """Replace the coordinates of pixels on balls and on the sides of drums."""
    x, y, z = local
    solid = index[where]
    flat = torch.sqrt(x * x + z * z)
    ball = tables.round_ball[solid]
    side = ball | (flat >= y.abs())
    cap = (y > 0).to(torch.int32) + 2
    surface.face[where] = solid * 6 + torch.where(side, torch.zeros_like(cap), cap)
    across, height = surface.s[where], surface.t[where]
    down = torch.where(ball, _angle(flat, y, math.pi / 2), height)
    # On the lid of a drum the chart is (x, z), as on the lid of a box.
    radius = 1 / tables.inverse_half[0][solid]
    lid_x = x * radius + tables.centre[0][solid]
    lid_z = z * radius + tables.centre[2][solid]
    across = torch.where(side, _angle(x, z, 0.0), lid_x)
    surface.s[where] = across
    surface.t[where] = torch.where(side, down, lid_z)
    surface.slant[where] = 1.2


def _angle(x: Tensor, y: Tensor, start: float) -> Tensor:
    """Angle of (x, y) plus ``start``, in 0 .. 2 pi, to 0.004 rad.

    A rational approximation rounds equally everywhere, which library arctangents do not.
    """
    a, b = x.abs(), y.abs()
    ratio = torch.minimum(a, b) / torch.maximum(a, b).clamp_min(1e-12)
    angle = ratio * (math.pi / 4 + 0.273 * (1 - ratio))
    angle = torch.where(b > a, math.pi / 2 - angle, angle)
    angle = torch.where(x < 0, math.pi - angle, angle)
    angle = torch.where(y < 0, -angle, angle) + start
    return torch.where(angle < 0, angle + 2 * math.pi, angle)


def _texture(tables: SceneTables, surface: _Surface, footprint: Tensor) -> Tensor:
    """Trilinear look-up (P, 4) in the texture pyramids."""
    faces, face = tables.faces, surface.face
    levels = len(tables.level_starts)
    bits = footprint.clamp(1, 2.0 ** (levels - 1) - 0.5).view(torch.int32)
    # The bits of a float32 hold its exponent and, as a fraction, nearly its logarithm.
    level = (bits >> 23) - 127
    blend = (bits & 0x7FFFFF).to(torch.float32) * 2.0**-23
    u = faces.u_scale.index_select(0, face).mul_(surface.s)
    u += faces.u_shift.index_select(0, face)
    v = faces.v_scale.index_select(0, face).mul_(surface.t)
    v += faces.v_shift.index_select(0, face)
    start = faces.texture.index_select(0, face)
    rows: list[Tensor] = []
    weights: list[Tensor] = []
    for depth, share in ((level, 1 - blend), (level + 1, blend)):
        size = torch.bitwise_right_shift(torch.full_like(depth, tables.size), depth)
        fraction = size.to(torch.float32).mul_(1 / tables.size)
        first = tables.level_starts.index_select(0, depth).add_(start)
        across, down = (u * fraction).sub_(0.5), fraction.mul_(v).sub_(0.5)
        _bilinear(across, down, size, first, share, rows, weights)
    return _weighted_rows(tables.texels, rows, weights)


def _bilinear(
    u: Tensor,
    v: Tensor,
    size: Tensor,
    first: Tensor,
    share: Tensor,
    rows: list[Tensor],
    weights: list[Tensor],
) -> None:
    """Append the four texels around (u, v) of a periodic level and their weights.

    Overwrites u and v.
    """
    left, top = u.floor(), v.floor()
    right_share, bottom_share = u.sub_(left), v.sub_(top)
    mask = size - 1
    i, j = left.to(torch.int32), top.to(torch.int32)
    columns = (i & mask, i.add_(1).bitwise_and_(mask))
    lines = ((j & mask).mul_(size).add_(first), j.add_(1).bitwise_and_(mask).mul_(size).add_(first))
    lower = bottom_share.mul_(share)
    upper = share - lower
    for line, amount in zip(lines, (upper, lower), strict=True):
        second = right_share * amount
        rows += [line + columns[0], line.add_(columns[1])]
        weights += [amount.sub_(second), second]


def _stored_light(light: Tensor, faces: FaceTables, surface: _Surface) -> Tensor:
    """Bilinear look-up (P, 4) in the stored light."""
    face = surface.face
    stride = faces.light_stride.index_select(0, face)
    u = faces.light_u_scale.index_select(0, face).mul_(surface.s)
    v = faces.light_v_scale.index_select(0, face).mul_(surface.t)
    u += faces.light_u_shift.index_select(0, face)
    v += faces.light_v_shift.index_select(0, face)
    u = torch.minimum(u, faces.light_u_max.index_select(0, face).sub_(1e-3)).clamp_min_(0)
    v = torch.minimum(v, faces.light_v_max.index_select(0, face).sub_(1e-3)).clamp_min_(0)
    left, top = u.floor(), v.floor()
    right, lower = u.sub_(left), v.sub_(top)
    corner = faces.light_start.index_select(0, face).add_(left.to(torch.int32))
    corner += top.to(torch.int32).mul_(stride)
    below = corner + stride
    both = right * lower
    rest = (1 - right).sub_(lower).add_(both)
    weights = [rest, right.sub_(both), lower.sub_(both), both]
    return _weighted_rows(light, [corner, corner + 1, below, below + 1], weights)


def _weighted_rows(table: Tensor, rows: list[Tensor], weights: list[Tensor]) -> Tensor:
    # On a CPU torch joins columns of integers three times faster than those of floats.
    amounts = torch.stack([weight.view(torch.int32) for weight in weights], 1).view(torch.float32)
    return functional.embedding_bag(
        torch.stack(rows, 1), table, mode="sum", per_sample_weights=amounts
    )


def _display(linear: Tensor) -> Tensor:
    """Soft shoulder towards white, then the square root that displays undo."""
    bright = linear * EXPOSURE
    shown = bright * (1 / WHITE**2)
    shown += 1
    shown *= bright
    bright += 1
    shown /= bright
    return shown.clamp_(0, 1).sqrt_()
