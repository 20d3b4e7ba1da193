"""Textures that are made to be stretched over one face: rugs, fronts, pictures, a window."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .canvas import Canvas, fraction, mix, shade


def rug(canvas: Canvas, colours: Tensor) -> Tensor:
    """A carpet: border bands around a field of diamonds. Made to be stretched."""
    x, y = (canvas.u - 0.5).abs(), (canvas.v - 0.5).abs()
    lattice = (fraction(canvas.u * 5) - 0.5).abs() + (fraction(canvas.v * 7) - 0.5).abs()
    field = mix(colours[0], colours[1], canvas.step((0.30 - lattice) / 7))
    field = mix(field, colours[2], canvas.step((0.14 - lattice) / 7))
    medallion = canvas.step(0.20 - x - y) - canvas.step(0.15 - x - y)
    field = mix(field, colours[2], medallion)
    zigzag = (fraction(canvas.u * 24) - 0.5).abs() + (fraction(canvas.v * 24) - 0.5).abs()
    border = mix(colours[3], colours[0], canvas.step((0.42 - zigzag) / 24))
    cloth = mix(border, field, canvas.inside(0.13))
    trim = canvas.inside(0.105) - canvas.inside(0.13)
    trim = trim + 1 - canvas.inside(0.02)
    cloth = mix(cloth, colours[2], trim.clamp(0, 1))
    return shade(cloth, 0.72 + 0.3 * canvas.noise(170, 60) + 0.25 * canvas.fractal(5, 3))


def books(canvas: Canvas, colours: Tensor) -> Tensor:
    """A filled bookcase of four shelves. Made to be stretched over a face."""
    shelves, slots = 4, 22
    shelf = (canvas.v * shelves).long()[:, 0]
    x = canvas.u * slots + (canvas.noise(slots, shelves) - 0.5) * 0.02
    slot = x.floor().long().clamp(0, slots - 1)
    rows = shelf[:, None].expand_as(slot)
    height = 0.66 + 0.26 * canvas.random(shelves, slots)[rows, slot]
    tint = canvas.random(shelves, slots)[rows, slot]
    tone = 0.55 + 0.7 * canvas.random(shelves, slots)[rows, slot]
    below = 1 - fraction(canvas.v * shelves)
    volume = canvas.step((height - below) / shelves) * (tint > 0.06)
    label = canvas.step((0.05 - (below - height * 0.75).abs()) / shelves) * (tint > 0.4)
    spine = shade(colours[(tint * 53).long() % 4], tone)
    spine = mix(spine, colours[0] * 1.1, label * 0.7)
    edge = canvas.step(0.08 / slots - (x - x.round()).abs() / slots)
    inside = mix(colours[3] * 0.18, spine, volume)
    inside = mix(inside, colours[3] * 0.2, edge * 0.8)
    board = torch.maximum(canvas.step(0.10 - below).expand_as(volume), 1 - canvas.inside(0.022))
    timber = shade((colours[3] * 0.9).expand_as(inside), 0.7 + 0.6 * canvas.noise(6, 120))
    return mix(inside, timber, board)


def front(canvas: Canvas, colours: Tensor) -> Tensor:
    """Two panelled doors with knobs. Made to be stretched over a face."""
    x = fraction(canvas.u * 2)
    across, down = torch.minimum(x, 1 - x) / 2, torch.minimum(canvas.v, 1 - canvas.v)
    depth = torch.minimum(across, down)
    rail = canvas.step(0.055 - depth)
    bevel = canvas.step(0.012 - (depth - 0.06).abs())
    gap = canvas.step(0.006 - depth)
    grain = 0.7 + 0.35 * canvas.noise(90, 5) + 0.25 * canvas.noise(200, 12)
    door = mix(colours[1], colours[0], rail)
    door = shade(door, grain)
    door = mix(door, colours[3] * 0.5, bevel * 0.6)
    door = mix(door, colours[3] * 0.25, gap)
    knob = torch.maximum(canvas.disc(0.46, 0.5, 0.02), canvas.disc(0.54, 0.5, 0.02))
    return mix(door, colours[2], knob)


def _framed(canvas: Canvas, colours: Tensor, art: Tensor) -> Tensor:
    """Put a picture behind a mat and a wooden frame."""
    mat = torch.full_like(art, 0.82)
    picture = mix(mat, art, canvas.inside(0.13))
    frame = shade((colours[3] * 0.5).expand_as(art), 0.6 + 0.8 * canvas.noise(60, 60))
    return mix(frame, picture, canvas.inside(0.045))


def hills(canvas: Canvas, colours: Tensor) -> Tensor:
    """A framed landscape: sun over layered hills. Made to be stretched over a face."""
    sky = mix(colours[0], colours[1], (canvas.v * 1.1).clamp(0, 1).expand(-1, canvas.size))
    sun = canvas.random(2)
    art = mix(sky, colours[2], canvas.disc(0.3 + 0.4 * sun[0], 0.3 + 0.1 * sun[1], 0.11))
    for layer in range(4):
        profile = 0.46 + 0.11 * layer - 0.24 * (canvas.noise(3 + layer, 1)[:1] - 0.4)
        ridge = mix(colours[1], colours[3], torch.full_like(canvas.v, 0.25 + 0.22 * layer))
        art = mix(art, ridge, canvas.step(canvas.v - profile))
    return _framed(canvas, colours, shade(art, 0.85 + 0.3 * canvas.fractal(12, 3)))


def shapes(canvas: Canvas, colours: Tensor) -> Tensor:
    """A framed print of overlapping discs and bars. Made to be stretched over a face."""
    art = shade(colours[0].expand(canvas.size, canvas.size, 3), 0.85 + 0.3 * canvas.fractal(9))
    numbers = canvas.random(7, 5)
    for item in range(7):
        x, y, size, kind, _ = numbers[item].tolist()
        x, y, size = 0.2 + 0.6 * x, 0.2 + 0.6 * y, 0.06 + 0.16 * size
        mask = canvas.disc(x, y, size)
        if kind > 0.66:
            mask = mask - canvas.disc(x, y, size * 0.6)
        elif kind > 0.33:
            mask = canvas.step(size * 0.3 - (canvas.u - x).abs()) * canvas.step(
                size * 1.8 - (canvas.v - y).abs()
            )
        art = mix(art, colours[1 + item % 3], mask * 0.9)
    return _framed(canvas, colours, art)


def blobs(canvas: Canvas, colours: Tensor) -> Tensor:
    """A framed abstract painting of flowing shapes. Made to be stretched over a face."""
    first, second = canvas.fractal(3, 3), canvas.fractal(4, 2)
    art = mix(colours[0], colours[1], canvas.step((first - 0.47) * 0.2))
    art = mix(art, colours[2], canvas.step((second - 0.56) * 0.2))
    art = mix(art, colours[3], canvas.step(0.004 - (first - 0.62).abs() * 0.1))
    return _framed(canvas, colours, shade(art, 0.75 + 0.5 * canvas.noise(50, 130)))


def window(canvas: Canvas, colours: Tensor) -> Tensor:
    """A view outside: sky, clouds and trees behind white bars. Made to be stretched."""
    above = colours.new_tensor([0.30, 0.52, 0.86])
    haze = colours.new_tensor([0.80, 0.88, 0.95])
    sky = mix(above, haze, (canvas.v * 1.25).clamp(0, 1).expand(-1, canvas.size))
    sky = mix(sky, torch.ones_like(haze), (canvas.fractal(4, 5) * 4 - 2).clamp(0, 0.9))
    horizon = 0.66 + 0.16 * (canvas.noise(7, 1)[:1] - 0.5) + 0.05 * canvas.noise(40, 1)[:1]
    trees = shade(colours.new_tensor([0.13, 0.24, 0.08]) + 0 * sky, 0.4 + canvas.noise(48, 48))
    view = mix(sky, trees, canvas.step(canvas.v - horizon))
    bars = torch.maximum(
        canvas.lines(canvas.u, 2, 0.035).expand(canvas.size, -1),
        canvas.lines(canvas.v, 3, 0.035).expand(-1, canvas.size),
    )
    bars = torch.maximum(bars, 1 - canvas.inside(0.05))
    paint = shade(torch.full_like(view, 0.85), 0.8 + 0.3 * canvas.noise(90, 90))
    return mix(view, paint, bars)


def glow(canvas: Canvas, colours: Tensor) -> Tensor:
    """A pleated lamp shade."""
    pleats = 0.5 + 0.5 * torch.sin(canvas.u * (32 * math.pi))
    return shade(
        colours[0].expand(canvas.size, canvas.size, 3), 0.75 + 0.25 * pleats + 0 * canvas.v
    )
