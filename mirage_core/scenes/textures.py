"""Procedural surface textures, painted once per scene and filtered into a pyramid.

Every family is a function of a canvas and four colours. The families of this file are
periodic and tile a surface; those of `pictures` are stretched over one face.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional

from .canvas import Canvas, fraction, mix, shade
from .pictures import blobs, books, front, glow, hills, rug, shapes, window

Painter = Callable[[Canvas, Tensor], Tensor]


def plaster(canvas: Canvas, colours: Tensor) -> Tensor:
    """Brushed plaster: soft clouds with fine strokes."""
    clouds = (canvas.fractal(3, 5) * 2.4 - 0.7).clamp(0, 1)
    strokes = canvas.noise(24, 160) * 0.6 + canvas.noise(160, 24) * 0.6
    return shade(mix(colours[0], colours[1], clouds * 0.6), 0.82 + 0.3 * strokes)


def stripes(canvas: Canvas, colours: Tensor) -> Tensor:
    """Striped wallpaper with thin accent lines."""
    wave = (fraction(canvas.u * 6) - 0.5).abs() - 0.25
    bands = canvas.step(wave / 6).expand(canvas.size, -1)
    pins = canvas.lines(canvas.u + 1 / 24, 12, 0.008) + canvas.lines(canvas.u + 1 / 12, 6, 0.01)
    paper = mix(colours[0], colours[1], bands * 0.8)
    paper = mix(paper, colours[2], pins.clamp(0, 1).expand(canvas.size, -1) * 0.8)
    return shade(paper, 0.8 + 0.4 * canvas.fractal(5, 4))


def dots(canvas: Canvas, colours: Tensor) -> Tensor:
    """Staggered discs with a ring around every other one."""
    count = 6
    row = (canvas.v * count).floor()
    x = fraction(canvas.u * count + 0.5 * (row % 2)) - 0.5
    y = fraction(canvas.v * count) - 0.5
    radius = torch.sqrt(x * x + y * y)
    disc = canvas.step((0.2 - radius) / count)
    ring = canvas.step((0.035 - (radius - 0.34).abs()) / count) * (row % 2)
    paper = shade(colours[0].expand(canvas.size, canvas.size, 3), 0.8 + 0.4 * canvas.fractal(6))
    return mix(mix(paper, colours[1], disc * 0.9), colours[2], ring * 0.8)


def checker(canvas: Canvas, colours: Tensor) -> Tensor:
    """Marble chequers."""
    count = 4
    squares = ((canvas.u * count).floor() + (canvas.v * count).floor()) % 2
    veins = 1 - (canvas.fractal(4, 5) - 0.5).abs().mul(9).clamp(0, 1)
    joints = torch.maximum(
        canvas.lines(canvas.u, count, 0.006).expand(canvas.size, -1),
        canvas.lines(canvas.v, count, 0.006),
    )
    stone = shade(mix(colours[0], colours[1], squares), 0.8 + 0.35 * canvas.fractal(8, 3))
    return mix(mix(stone, colours[2], veins * 0.35), colours[3], joints * 0.7)


def tiles(canvas: Canvas, colours: Tensor) -> Tensor:
    """Glazed tiles, each of its own tone, with a motif and pale joints."""
    count = 4
    column, row = (canvas.u * count).long()[0], (canvas.v * count).long()[:, 0]
    tone = canvas.random(count, count)[row][:, column]
    x, y = fraction(canvas.u * count) - 0.5, fraction(canvas.v * count) - 0.5
    diamond = canvas.step((0.3 - x.abs() - y.abs()) / count) * (tone > 0.45)
    star = canvas.step((0.13 - torch.sqrt(x * x + y * y)) / count) * (tone > 0.45)
    joints = torch.maximum(
        canvas.lines(canvas.u, count, 0.014).expand(canvas.size, -1),
        canvas.lines(canvas.v, count, 0.014),
    )
    glaze = mix(colours[0], colours[1], tone * 0.6)
    glaze = mix(mix(glaze, colours[2], diamond * 0.85), colours[0], star * 0.9)
    glaze = shade(glaze, 0.8 + 0.4 * canvas.fractal(6, 4))
    return mix(glaze, colours[1], joints * 0.9)


def bricks(canvas: Canvas, colours: Tensor) -> Tensor:
    """Running-bond masonry."""
    rows, columns = 14, 5
    row = (canvas.v * rows).floor()
    x = canvas.u * columns + 0.5 * (row % 2)
    brick = (x.floor() % columns).long()
    tone = canvas.random(rows, columns)[row.long().expand_as(brick), brick]
    joint = torch.maximum(
        canvas.step(0.008 - (x - x.round()).abs() / columns),
        canvas.lines(canvas.v, rows, 0.016).expand(-1, canvas.size),
    )
    clay = mix(colours[0], colours[1], tone)
    clay = shade(clay, 0.65 + 0.35 * canvas.noise(90, 90) + 0.35 * canvas.fractal(8, 3))
    return mix(clay, shade(colours[2].expand_as(clay), 0.8 + 0.3 * canvas.noise(70, 70)), joint)


def wood(canvas: Canvas, colours: Tensor) -> Tensor:
    """Floorboards with grain, staggered ends and dark gaps."""
    rows = 8
    row = (canvas.v * rows).floor().long()[:, 0]
    x = canvas.u + canvas.random(rows)[row][:, None]
    board = ((x * 2).floor() % 2).long()
    tone = canvas.random(rows, 2)[row[:, None].expand_as(board), board]
    warp = canvas.noise(3, 16)
    rings = torch.sin((canvas.v * rows * 3 + warp * 2.2 + tone * 3) * (2 * math.pi)) * 0.5 + 0.5
    grain = 0.5 * canvas.noise(5, 130) + 0.5 * canvas.noise(14, 220)
    joint = torch.maximum(
        canvas.step(0.002 - (x * 2 - (x * 2).round()).abs() / 2),
        canvas.lines(canvas.v, rows, 0.006).expand(-1, canvas.size),
    )
    plank = mix(colours[0], colours[1], (0.75 * tone + 0.35 * rings * warp).clamp(0, 1))
    plank = shade(plank, 0.62 + 0.55 * grain)
    return mix(plank, colours[3] * 0.6, joint * 0.85)


def terrazzo(canvas: Canvas, colours: Tensor) -> Tensor:
    """Stone chips scattered in a pale ground."""
    count = 18
    points, kinds = canvas.random(count, count, 2), canvas.random(count, count)
    column, row = (canvas.u * count).long(), (canvas.v * count).long()
    nearest = torch.full((canvas.size, canvas.size), 9.0, device=canvas.u.device)
    kind = torch.zeros_like(nearest)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            j, i = (row + down) % count, (column + right) % count
            chip = points[j, i]
            x = chip[..., 0] + column + right - canvas.u * count
            y = chip[..., 1] + row + down - canvas.v * count
            distance = (x.abs() + y.abs()) * 0.6 + torch.maximum(x.abs(), y.abs()) * 0.5
            kind = torch.where(distance < nearest, kinds[j, i], kind)
            nearest = torch.minimum(nearest, distance)
    chips = canvas.step((0.18 + 0.3 * kind - nearest) / count)
    ground = shade(colours[0].expand(canvas.size, canvas.size, 3), 0.8 + 0.4 * canvas.fractal(9))
    palette = colours[torch.tensor([1, 2, 3], device=kind.device)]
    return mix(ground, palette[(kind * 37).long() % 3], chips * 0.85)


def fabric(canvas: Canvas, colours: Tensor) -> Tensor:
    """Coarse woven cloth with a faint tartan."""
    weave = torch.sin(canvas.u * (80 * math.pi)) * torch.sin(canvas.v * (80 * math.pi))
    tartan = 0.5 * canvas.lines(canvas.u, 5, 0.05) + 0.5 * canvas.lines(canvas.v, 5, 0.05)
    tartan = tartan + 0.4 * canvas.lines(canvas.u + 0.1, 5, 0.012)
    cloth = mix(colours[0], colours[1], (tartan * 0.8).clamp(0, 1))
    return shade(cloth, 0.8 + 0.12 * weave + 0.25 * canvas.fractal(10, 3))


def leaves(canvas: Canvas, colours: Tensor) -> Tensor:
    """Dense foliage."""
    clumps = (canvas.fractal(9, 4) * 2.2 - 0.6).clamp(0, 1)
    sparkle = canvas.noise(44, 44)
    leaf = mix(colours[0] * 0.55, colours[1], clumps)
    return shade(leaf, 0.45 + 0.95 * sparkle)


PAINTERS: MappingProxyType[str, Painter] = MappingProxyType(
    {
        painter.__name__: painter
        for painter in (
            plaster, stripes, dots, checker, tiles, bricks, wood, terrazzo, fabric, leaves,
            rug, books, front, hills, shapes, blobs, window, glow,
        )
    }
)  # fmt: skip
"""All families by name."""


def level_offsets(size: int) -> list[int]:
    """First texel of every pyramid level, and the number of texels of the whole pyramid."""
    offsets = [0]
    while size >= 1:
        offsets.append(offsets[-1] + size * size)
        size //= 2
    return offsets


def paint_pyramid(
    family: str, colours: Tensor, size: int, seed: int, device: torch.device
) -> Tensor:
    """Paint a texture and halve it down to one texel.

    Args:
        family: A key of `PAINTERS`.
        colours: (4, 3) linear light: ground, second, accent, dark.
        size: Texels along each side, a power of two.
        seed: Selects one picture of the family.
        device: Where to paint.

    Returns:
        (texels, 4) float32 linear light, finest level first, with an unused fourth channel
        that keeps rows aligned.
    """
    picture = PAINTERS[family](Canvas(size, seed, device), colours.to(device)).clamp(0.004, 1)
    level = picture.permute(2, 0, 1)[None]
    rows = []
    while True:
        rows.append(functional.pad(level[0].flatten(1).T, (0, 1)))
        if level.shape[-1] == 1:
            return torch.cat(rows)
        level = functional.avg_pool2d(level, 2)
