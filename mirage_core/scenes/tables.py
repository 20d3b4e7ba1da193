"""Everything about a scene that frames look up, laid out as flat tensors on one device."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from .light import incident_light
from .textures import level_offsets, paint_pyramid
from .types import Layout, Solid

LIGHT_SPACING: Final = 0.085
"""Metres between two samples of stored light."""

SURFACE_GAP: Final = 0.012
"""Metres between a surface and the points where its light is computed."""

MAX_LIGHT_SAMPLES: Final = 128


@dataclass(frozen=True)
class FaceTables:
    """One entry per face of every solid (six each), for index_select.

    A face has coordinates (s, t): two world coordinates on a flat face, angles on a ball, an
    angle and y on a drum. Texels are at ``s * u_scale + u_shift``, light samples likewise.
    """

    u_scale: Tensor
    u_shift: Tensor
    v_scale: Tensor
    v_shift: Tensor
    density: Tensor
    texture: Tensor
    light_u_scale: Tensor
    light_u_shift: Tensor
    light_u_max: Tensor
    light_v_scale: Tensor
    light_v_shift: Tensor
    light_v_max: Tensor
    light_start: Tensor
    light_stride: Tensor


@dataclass(frozen=True)
class SceneTables:
    """Textures, stored light and per-solid numbers of one scene on one device."""

    texels: Tensor
    level_starts: Tensor
    size: int
    light: Tensor
    faces: FaceTables
    centre: tuple[Tensor, Tensor, Tensor]
    inverse_half: tuple[Tensor, Tensor, Tensor]
    curved: Tensor
    round_ball: Tensor


@dataclass(frozen=True)
class _Face:
    """Chart of one face: range of (s, t), metres per unit of each."""

    solid: Solid
    number: int
    low: tuple[float, float]
    high: tuple[float, float]
    metres: tuple[float, float]
    inward: bool

    @property
    def samples(self) -> tuple[int, int]:
        """Stored light samples along s and t."""
        columns, rows = (
            min(MAX_LIGHT_SAMPLES, max(2, math.ceil((b - a) * m / LIGHT_SPACING) + 1))
            for a, b, m in zip(self.low, self.high, self.metres, strict=True)
        )
        return columns, rows


def build_tables(
    layout: Layout,
    texture_size: int,
    device: torch.device,
    on_step: Callable[[], None] = lambda: None,
) -> SceneTables:
    """Paint the textures and compute the light of a room.

    Args:
        layout: The room.
        texture_size: Texels along each side of a texture.
        device: Where the tables are kept.
        on_step: Called after each texture, and each direction of light; may raise to cancel.
    """
    pyramids = []
    for material in layout.materials:
        colours = torch.tensor(material.colours, dtype=torch.float32)
        pyramids.append(
            paint_pyramid(material.family, colours, texture_size, material.seed, device)
        )
        on_step()
    charts = [
        _chart(solid, number, inward=solid is layout.solids[0])
        for solid in layout.solids
        for number in range(6)
    ]
    starts = level_offsets(texture_size)
    centres = torch.tensor([s.centre for s in layout.solids], dtype=torch.float32).to(device)
    halves = torch.tensor([s.half for s in layout.solids], dtype=torch.float32).to(device)
    x, y, z = (column.contiguous() for column in centres.unbind(1))
    a, b, c = (column.contiguous() for column in (1 / halves).unbind(1))
    curved = torch.tensor([s.shape != "box" for s in layout.solids], device=device)
    return SceneTables(
        texels=torch.cat(pyramids),
        level_starts=torch.tensor(starts[:-1], dtype=torch.int32, device=device),
        size=texture_size,
        light=_bake(layout, charts, pyramids, device, on_step),
        faces=_face_tables(layout, charts, texture_size, device),
        centre=(x, y, z),
        inverse_half=(a, b, c),
        curved=curved,
        round_ball=torch.tensor([s.shape == "ball" for s in layout.solids], device=device),
    )


def _chart(solid: Solid, number: int, *, inward: bool) -> _Face:
    axis = number // 2
    (x0, y0, z0), (x1, y1, z1) = solid.low, solid.high
    radius = solid.half[0]
    if axis == 0 and solid.shape == "ball":
        return _Face(solid, number, (0.0, 0.0), (2 * math.pi, math.pi), (radius,) * 2, inward)
    if axis == 0 and solid.shape == "drum":
        return _Face(solid, number, (0.0, y0), (2 * math.pi, y1), (radius, 1.0), inward)
    chart = (((z0, y0), (z1, y1)), ((x0, z0), (x1, z1)), ((x0, y0), (x1, y1)))[axis]
    return _Face(solid, number, chart[0], chart[1], (1.0, 1.0), inward)


def _face_tables(
    layout: Layout, charts: list[_Face], size: int, device: torch.device
) -> FaceTables:
    texels_per_texture = level_offsets(size)[-1]
    numbers: list[tuple[float, ...]] = []
    light_start = 0
    for face in charts:
        material = face.solid.faces[face.number]
        scales = [
            _texels_per_unit(face, axis, layout.materials[material].metres, size) for axis in (0, 1)
        ]
        shifts = [
            shift * size - low * scale
            for shift, low, scale in zip(face.solid.shift, face.low, scales, strict=True)
        ]
        density = max(scale / metre for scale, metre in zip(scales, face.metres, strict=True))
        columns, rows = face.samples
        spans = [high - low for low, high in zip(face.low, face.high, strict=True)]
        across, down = (columns - 1) / spans[0], (rows - 1) / spans[1]
        numbers.append(
            (scales[0], shifts[0], scales[1], shifts[1], density, material * texels_per_texture,
             across, -face.low[0] * across, columns - 1, down, -face.low[1] * down, rows - 1,
             light_start, columns)
        )  # fmt: skip
        light_start += columns * rows
    table = torch.tensor(numbers, dtype=torch.float64)
    whole = (5, 12, 13)
    return FaceTables(
        *(
            column.to(device, torch.int32 if k in whole else torch.float32)
            for k, column in enumerate(table.T.contiguous())
        )
    )


def _texels_per_unit(face: _Face, axis: int, metres: float, size: int) -> float:
    span = face.high[axis] - face.low[axis]
    if metres == 0:
        return size / span
    if face.metres[axis] != 1.0:
        # An angle must close: a whole number of tiles goes round.
        return size * max(1, round(span * face.metres[axis] / metres)) / span
    return size / metres


def _bake(
    layout: Layout,
    charts: list[_Face],
    pyramids: list[Tensor],
    device: torch.device,
    on_step: Callable[[], None],
) -> Tensor:
    """Stored light (L, 4) of all faces, one after the other, rows of s by rows of t."""
    parts = [_surface(face) for face in charts]
    points = torch.cat([p for p, _ in parts]).to(device)
    normals = torch.cat([n for _, n in parts]).to(device)
    albedo = torch.stack([pyramids[m][-1, :3] for m in layout.solids[0].faces])
    light = incident_light(layout, points, normals, albedo, on_step)
    start = 0
    for face in charts:
        columns, rows = face.samples
        if face.solid.glow:
            light[start : start + columns * rows] = face.solid.glow
        start += columns * rows
    return torch.nn.functional.pad(light, (0, 1)).contiguous()


def _surface(face: _Face) -> tuple[Tensor, Tensor]:
    """Sample points of a face and their normals, both (rows * columns, 3)."""
    columns, rows = face.samples
    s = _samples(face.low[0], face.high[0], columns, face.metres[0])
    t = _samples(face.low[1], face.high[1], rows, face.metres[1])
    s, t = s[None].expand(rows, -1).flatten(), t[:, None].expand(-1, columns).flatten()
    axis = face.number // 2
    centre = torch.tensor(face.solid.centre)
    if axis == 0 and face.solid.shape != "box":
        flat = torch.sin(t) if face.solid.shape == "ball" else torch.ones_like(t)
        rise = -torch.cos(t) if face.solid.shape == "ball" else torch.zeros_like(t)
        normal = torch.stack([flat * torch.cos(s), rise, flat * torch.sin(s)], 1)
        points = centre + normal * (face.solid.half[0] + SURFACE_GAP)
        if face.solid.shape == "drum":
            points[:, 1] = t
        return points, normal
    side = face.number % 2
    outside = (1.0 if side else -1.0) * (-1.0 if face.inward else 1.0)
    plane = face.solid.high[axis] if side else face.solid.low[axis]
    across = torch.full_like(s, plane + outside * SURFACE_GAP)
    points = torch.stack(((across, t, s), (s, across, t), (s, t, across))[axis], 1)
    normal = torch.zeros_like(points)
    normal[:, axis] = outside
    return points, normal


def _samples(low: float, high: float, count: int, metres: float) -> Tensor:
    """Sample positions, the outermost moved off the edge, where walls would touch them."""
    gap = min(SURFACE_GAP * 2, (high - low) / 4) if metres == 1.0 else 0.0
    return torch.linspace(low, high, count).clamp(low + gap, high - gap)
