"""Drawing decoded tokens as patches at their projected position, size and orientation.

A winning point lies anywhere inside its cell. Whole-cell reading throws that away; drawing
the token's decoded patch where the point really projects keeps textures in register.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

from ..geometry.cutouts import inside_mask
from ..ops.best_view import BINS

SUPPORT: Final = 1.15
"""Half-width of a drawn patch in units of its own half-width: neighbours overlap a little."""

FLAT: Final = 0.85
"""Part of that half-width over which a patch among other views has its full weight."""

FALL: Final = 2.5
"""How fast views count less with their score: by a factor e for so many parts of a bin."""

LEAST_SHARE: Final = 0.01
"""What the worst views count: together they still cover the smooth background."""

SAME_SURFACE: Final = 0.08
"""Patches blend where their depths differ by less than this share; else the nearer one wins."""

MAX_RADIUS: Final = 64
"""Patches that would reach farther than this many pixels are too close to draw."""

BACKGROUND_WEIGHT: Final = 1e-3
"""Weight of the smooth background: it shows where no patch does, and softens the outline."""

_FIXED_POINT: Final = float(1 << 16)
LEAST_HALF_WIDTH: Final = math.sqrt(0.5) / SUPPORT
"""Pixels. What was seen finer than it is drawn still covers the middle of the pixel in which it
lies, however it is turned."""

_EXCESS: Final = LEAST_HALF_WIDTH - 0.5
"""Pixels by which a patch that was made as large as a pixel reaches beyond one."""

_RADII: Final = (2, 3, 4, 6, 8, 10, 11, 12, 14, 17, 20, 25, 32, 45, MAX_RADIUS)

_TESTED_TOGETHER: Final = 1 << 18
"""Pixels that a processor tests in one go: few enough to stay in its cache."""


@dataclass(frozen=True, eq=False)
class PlacedPatches:
    """Patches on the planes of one picture or several.

    Attributes:
        pixels: (K, S, S, 3) decoded patches; S is 1 for patches of one colour.
        centre: (N, 2) float32 position (x, y) of the patch's centre in pixels.
        axes: (N, 2, 2) float32; columns are the patch's half-width and half-height vectors
            in pixels.
        inverse_depth: (N,) float32, 1 / z-depth of the patch's centre.
        lean: (N, 2) float32, change of the inverse depth along the two axes.
        rank: (N,) int64, on one surface the lowest rank covers the others; all alike when
            missing.
        bins: (N,) int64 of `mirage_core.ops.best_view.view_bins`: on one surface views are mixed,
            and the lower ones count more. Takes the place of ``rank``.
        picture: (N,) int64, which picture each patch lies on; the first when missing.
        texture: (N,) int64, which of ``pixels`` each patch shows; its own, in order, when missing.
        mask: (N,) int16, the part of each patch that is there, see
            `mirage_core.geometry.cutouts`; whole patches when missing. ``centre`` stays the middle
            of the whole patch.
    """

    pixels: Tensor
    centre: Tensor
    axes: Tensor
    inverse_depth: Tensor
    lean: Tensor
    rank: Tensor | None = None
    bins: Tensor | None = None
    picture: Tensor | None = None
    mask: Tensor | None = None
    texture: Tensor | None = None


@dataclass(frozen=True, eq=False)
class _Samples:
    """M pixels that patches touch.

    Attributes:
        pixel: (M,) int64 number of the pixel, counted through all pictures.
        patch: (M,) int64 number of the patch.
        local: (2, M) x and y inside the patch, in units of its half-width and half-height.
        inverse_depth: (M,) float32 of the patch at the pixel; below 0 where its mask leaves
            it out.
    """

    pixel: Tensor
    patch: Tensor
    local: Tensor
    inverse_depth: Tensor


class Drawn(NamedTuple):
    """Patches drawn on pictures.

    Attributes:
        picture: (H, W, 3) or (B, H, W, 3) float32 like the background, not clamped.
        depth: (H, W) or (B, H, W) float32 z-depth, 0 where no patch lies.
        inner: Like ``depth``, bool: where a patch of the nearest surface lies with more than its
            overlap. Elsewhere at an outline the picture shows a pixel too much of the surface.
    """

    picture: Tensor
    depth: Tensor
    inner: Tensor


def draw(
    patches: PlacedPatches, background: Tensor, stage: Callable[[], None] = lambda: None
) -> Drawn:
    """Draw patches over backgrounds, nearest surface in front.

    Sums are made in fixed point, so that a picture has the same bits whatever the order of
    the patches, whatever else is drawn with it, and on every device.

    Args:
        patches: What to draw.
        background: (H, W, 3) or (B, H, W, 3) shown where no patch lies.
        stage: Called between the passes over the patches; may raise to cancel.
    """
    height, width = background.shape[-3:-1]
    samples = []
    for part in _touched(patches, height, width):
        samples.append(part)
        stage()
    nearest = torch.zeros(background.shape[:-1].numel(), device=background.device)
    for part in samples:
        nearest.scatter_reduce_(0, part.pixel, part.inverse_depth, "amax")
    stage()
    fronts = [_in_front(part, nearest) for part in samples]
    if patches.bins is None and patches.rank is not None:
        fronts = _lowest_rank(samples, fronts, patches.rank, len(nearest))
    stage()
    total = torch.zeros(4, len(nearest), dtype=torch.int32, device=background.device)
    textures = _Textures.of(patches)
    own = (1 - _EXCESS / patches.axes.norm(dim=1)).t().contiguous()
    inner = torch.zeros(len(nearest), dtype=torch.bool, device=background.device)
    shares = None if patches.bins is None else _shares(patches.bins)
    for part, front in zip(samples, fronts, strict=True):
        within = (part.local.abs() <= own.index_select(1, part.patch)).all(dim=0) & front
        inner.index_fill_(0, part.pixel.index_select(0, within.nonzero()[:, 0]), True)
        weight = _tent(part) if shares is None else _share(part, shares)
        value = textures.weighted(part, weight.mul_(front)).mul_(_FIXED_POINT)
        total.index_add_(1, part.pixel, value.round_().int())
        stage()
    summed = total.t().float() / _FIXED_POINT
    colour = summed[:, :3] + BACKGROUND_WEIGHT * background.reshape(-1, 3).float()
    picture = colour / (summed[:, 3:] + BACKGROUND_WEIGHT)
    depth = torch.where(nearest > 0, 1 / nearest, 0.0)
    shape = background.shape[:-1]
    return Drawn(picture.view(background.shape), depth.view(shape), inner.view(shape))


def _touched(patches: PlacedPatches, height: int, width: int) -> Iterator[_Samples]:
    """Pixels of all patches, by classes of size so that little is tested in vain.

    On a GPU a class is tested in one go: there every operation costs more than the memory.
    """
    inverse, solid = _invert(patches.axes)
    reach = patches.axes.abs().sum(dim=2).amax(dim=1) * SUPPORT + 1
    finite = torch.isfinite(patches.centre).all(dim=1) & solid & (patches.inverse_depth > 0)
    lower = 0
    for radius in _RADII:
        chosen = (finite & (reach > lower) & (reach <= radius)).nonzero()[:, 0]
        lower = radius
        if not len(chosen):
            continue
        together = len(chosen)
        if chosen.device.type == "cpu":
            together = max(1, _TESTED_TOGETHER // (2 * radius + 1) ** 2)
        for some in chosen.split(together):
            part = _touched_class(patches, inverse[some], some, radius, (height, width))
            if patches.mask is not None:
                mask = patches.mask.index_select(0, part.patch)
                part.inverse_depth.masked_fill_(~inside_mask(mask, part.local.t()), -1)
            yield part


def _touched_class(
    patches: PlacedPatches,
    inverse: Tensor,
    number: Tensor,
    radius: int,
    size: tuple[int, int],
) -> _Samples:
    height, width = size
    centre = patches.centre[number]
    around = torch.arange(-radius, radius + 1, device=centre.device)
    corner = centre.floor().clamp(-1e6, 1e6).long()
    x = corner[:, 0, None] + around
    y = corner[:, 1, None] + around
    dx, dy = x + 0.5 - centre[:, :1], y + 0.5 - centre[:, 1:]
    a, b, c, d = (inverse[:, i, j, None, None] for i in (0, 1) for j in (0, 1))
    px = a * dx[:, None, :] + b * dy[:, :, None]
    py = c * dx[:, None, :] + d * dy[:, :, None]
    inside = (px.abs() < SUPPORT) & (py.abs() < SUPPORT)
    inside &= ((x >= 0) & (x < width))[:, None, :]
    inside &= ((y >= 0) & (y < height))[:, :, None]
    place = inside.view(-1).nonzero()[:, 0]
    line = place // len(around)
    which = line // len(around)
    patch = number.index_select(0, which)
    local = torch.stack([part.reshape(-1).index_select(0, place) for part in (px, py)])
    row = y if patches.picture is None else y + (patches.picture[number] * height)[:, None]
    # Of the pixel in the first column of the window, in each of its lines.
    first = row * width + x[:, :1]
    lean = patches.lean.index_select(0, patch).t()
    return _Samples(
        pixel=first.view(-1).index_select(0, line) + (place - line * len(around)),
        patch=patch,
        local=local,
        inverse_depth=patches.inverse_depth.index_select(0, patch) + (local * lean).sum(dim=0),
    )


def at_least_a_pixel(axes: Tensor, lean: Tensor) -> tuple[Tensor, Tensor]:
    """Patches that are smaller than a pixel, made as large as one, so that no cracks open.

    Args:
        axes: (N, 2, 2) as in `PlacedPatches`.
        lean: (N, 2) as in `PlacedPatches`.

    Returns:
        Both, changed where the parallelogram has less area than a square of
        `LEAST_HALF_WIDTH`: its longer axis has at least that then, and the other one stands upright
        on it and has just that.
    """
    area = (axes[:, 0, 0] * axes[:, 1, 1] - axes[:, 0, 1] * axes[:, 1, 0]).abs()
    small = area < LEAST_HALF_WIDTH**2
    length = axes.square().sum(dim=1).sqrt()
    which = length.argmax(dim=1)
    row = torch.arange(len(axes), device=axes.device)
    longest = length[row, which].clamp_min(torch.finfo(axes.dtype).tiny)
    along = axes[row, :, which] / longest[:, None]
    across = torch.stack([-along[:, 1], along[:, 0]], dim=1)
    width = longest.clamp_min(LEAST_HALF_WIDTH)
    grown = torch.stack([along * width[:, None], across * LEAST_HALF_WIDTH], dim=2)
    slope = lean[row, which] * width / longest
    flat = torch.stack([slope, torch.zeros_like(slope)], dim=1)
    return (
        torch.where(small[:, None, None], grown, axes),
        torch.where(small[:, None], flat, lean),
    )


def _invert(axes: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse of (N, 2, 2) matrices, and which of them have one."""
    a, b, c, d = axes[:, 0, 0], axes[:, 0, 1], axes[:, 1, 0], axes[:, 1, 1]
    determinant = a * d - b * c
    solid = torch.isfinite(determinant) & (determinant.abs() > 1e-3)  # noqa: PLR2004
    adjugate = torch.stack([d, -b, -c, a], dim=1).view(-1, 2, 2)
    return adjugate / torch.where(solid, determinant, 1.0)[:, None, None], solid


def _in_front(samples: _Samples, nearest: Tensor) -> Tensor:
    """(M,) bool, which samples belong to the nearest surface of their pixel."""
    return samples.inverse_depth * (1 + SAME_SURFACE) >= nearest.index_select(0, samples.pixel)


def _lowest_rank(
    samples: list[_Samples], fronts: list[Tensor], rank: Tensor, pixels: int
) -> list[Tensor]:
    """(M,) bool of each part: in front, and of the lowest rank that is in front in the pixel."""
    last = torch.iinfo(torch.int64).max
    lowest = torch.full((pixels,), last, dtype=torch.int64, device=rank.device)
    ranks = [
        rank.index_select(0, part.patch).masked_fill_(~front, last)
        for part, front in zip(samples, fronts, strict=True)
    ]
    for part, own in zip(samples, ranks, strict=True):
        lowest.scatter_reduce_(0, part.pixel, own, "amin")
    return [
        front & (own == lowest.index_select(0, part.pixel))
        for part, front, own in zip(samples, fronts, ranks, strict=True)
    ]


def _tent(samples: _Samples) -> Tensor:
    """(M,) weights that fall off from the middle of a patch to its rim."""
    tent = (SUPPORT - samples.local.abs()).prod(dim=0) / SUPPORT**2
    return tent * tent


def _shares(bins: Tensor) -> Tensor:
    """(N,) float32, what the view of each patch counts among others."""
    # From a table, since no two devices agree on the last bit of exp.
    table = torch.exp(-FALL * torch.arange(BINS)).clamp_min(LEAST_SHARE)
    return table.to(bins.device)[bins]


def _share(samples: _Samples, shares: Tensor) -> Tensor:
    """(M,) weights of views that are mixed: full inside of a patch, less for worse views.

    A tent would let worse views through as dots where the corners of better ones meet.
    """
    rim = ((SUPPORT - samples.local.abs()) / (SUPPORT - FLAT)).clamp(0, 1).prod(dim=0)
    return rim.mul_(shares.index_select(0, samples.patch))


@dataclass(frozen=True, eq=False)
class _Textures:
    """Decoded patches, ready to be sampled: one plane for each colour.

    Attributes:
        planes: (3, K * S * S) colours.
        side: S.
        texture: (N,) int64, which texture each patch shows; None when they are in order.
    """

    planes: Tensor
    side: int
    texture: Tensor | None

    @classmethod
    def of(cls, patches: PlacedPatches) -> _Textures:
        planes = patches.pixels.reshape(-1, 3).t().contiguous()
        return cls(planes, patches.pixels.shape[1], patches.texture)

    def weighted(self, samples: _Samples, weight: Tensor) -> Tensor:
        """(4, M) colours of samples times their weights (M,), and the weights."""
        texture = samples.patch
        if self.texture is not None:
            texture = self.texture.index_select(0, texture)
        value = weight.new_empty(4, len(weight))
        if self.side == 1:
            torch.index_select(self.planes, 1, texture, out=value[:3])
        else:
            self._bilinear(texture, samples.local, value)
        value[:3] *= weight
        value[3] = weight
        return value

    def _bilinear(self, texture: Tensor, local: Tensor, out: Tensor) -> None:
        """Bilinear samples of textures (M,) at local coordinates (2, M) in -1..1."""
        side = self.side
        place = ((local + 1) * (side / 2) - 0.5).clamp_(0, side - 1)
        low = place.floor().clamp_max_(side - 2)
        fx, fy = place - low
        gx, gy = 1 - fx, 1 - fy
        col, row = low.long()
        first = (texture * side + row) * side + col
        corners = [(first, first + 1), (first + side, first + side + 1)]
        for colour, plane in enumerate(self.planes):
            top, bottom = (
                plane.index_select(0, left).mul_(gx).add_(plane.index_select(0, right).mul_(fx))
                for left, right in corners
            )
            torch.add(top.mul_(gy), bottom.mul_(fy), out=out[colour])
