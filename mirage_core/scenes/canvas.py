"""A square to paint textures on: seeded noise, antialiased masks and blends."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


class Canvas:
    """A square of ``size`` texels with seeded noise; coordinates run from 0 to 1.

    Random numbers come from a CPU generator, so that every device paints the same picture.

    Attributes:
        u: (1, size) texel centres to the right.
        v: (size, 1) texel centres downwards.
    """

    def __init__(self, size: int, seed: int, device: torch.device) -> None:
        self.size = size
        self._device = device
        self._generator = torch.Generator().manual_seed(seed)
        centres = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size
        self.u, self.v = centres[None, :], centres[:, None]

    def random(self, *shape: int) -> Tensor:
        """Uniform numbers in 0..1 on the canvas's device."""
        return torch.rand(*shape, generator=self._generator).to(self._device)

    def noise(self, columns: int, rows: int) -> Tensor:
        """Periodic value noise (size, size) in 0..1 with the given number of cells."""
        columns, rows = min(columns, self.size), min(rows, self.size)
        lattice = functional.pad(self.random(1, 1, rows, columns), (0, 1, 0, 1), mode="circular")
        x, y = self.u * columns, self.v * rows
        left, top = x.floor(), y.floor()
        grid = lattice[0, 0]
        i, j = left.long(), top.long()
        wide = torch.lerp(grid[:, i[0]], grid[:, i[0] + 1], _ease(x - left))
        return torch.lerp(wide[j[:, 0]], wide[j[:, 0] + 1], _ease(y - top))

    def fractal(self, cells: int, octaves: int = 4) -> Tensor:
        """Sum of octaves of `noise`, (size, size) around 0.5."""
        total = torch.full((self.size, self.size), 0.5, device=self._device)
        for octave in range(octaves):
            layer = self.noise(cells << octave, cells << octave)
            total += (layer - 0.5) * 0.6 ** (octave + 1) * 1.3
        return total

    def step(self, distance: Tensor) -> Tensor:
        """Antialiased mask: 1 where ``distance`` (canvas widths) is positive."""
        return (distance * self.size + 0.5).clamp(0, 1)

    def lines(self, coordinate: Tensor, count: int, width: float) -> Tensor:
        """Mask of ``count`` evenly spaced lines, the first one at 0."""
        phase = coordinate * count
        return self.step(width / 2 - (phase - phase.round()).abs() / count)

    def disc(self, x: Tensor | float, y: Tensor | float, radius: float) -> Tensor:
        """Mask of a disc around (x, y)."""
        return self.step(radius - torch.sqrt((self.u - x) ** 2 + (self.v - y) ** 2))

    def inside(self, margin: float) -> Tensor:
        """Mask of the square that stays ``margin`` away from the canvas's edge."""
        across = torch.minimum(self.u, 1 - self.u)
        down = torch.minimum(self.v, 1 - self.v)
        return self.step(torch.minimum(across, down) - margin)


def _ease(x: Tensor) -> Tensor:
    return x * x * (3 - 2 * x)


def fraction(x: Tensor) -> Tensor:
    """The part after the decimal point."""
    return x - x.floor()


def mix(first: Tensor, second: Tensor, mask: Tensor) -> Tensor:
    """Blend colours (3,) or pictures (size, size, 3) by a (size, size) mask."""
    return first + (second - first) * mask[..., None]


def shade(picture: Tensor, tone: Tensor) -> Tensor:
    """Scale a colour or a picture by a (size, size) brightness."""
    return picture * tone[..., None]
