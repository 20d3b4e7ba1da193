"""Drawing decoded tokens as patches at their projected position, size and orientation.

A winning point lies anywhere inside its cell. Whole-cell reading throws that away; drawing
the token's decoded patch where the point really projects keeps textures in register.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
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

_RADII: Final = (2, 3, 4, 6, 10, 14, 20, 32, MAX_RADIUS)


@dataclass(frozen=True, eq=False)
class PlacedPatches:
    """Patches on the planes of one picture or several.

    Attributes:
        pixels: (N, S, S, 3) decoded patches; S is 1 for patches of one colour.
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


@dataclass(frozen=True, eq=False)
class _Samples:
    """Pixels that patches touch.

    Pixel number, counted through all pictures, patch number, place inside, inverse depth.
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
    samples = [_in_front(part, nearest) for part in samples]
    if patches.bins is None and patches.rank is not None:
        samples = _lowest_rank(samples, patches.rank, len(nearest))
    stage()
    total = torch.zeros(len(nearest), 4, dtype=torch.int32, device=background.device)
    own = 1 - _EXCESS / patches.axes.norm(dim=1)
    inner = torch.zeros(len(nearest), dtype=torch.bool, device=background.device)
    for part in samples:
        inner[part.pixel[(part.local.abs() <= own[part.patch]).all(dim=1)]] = True
        weight = _tent(part) if patches.bins is None else _share(part, patches.bins)
        _accumulate(total, part, patches, weight)
        stage()
    summed = total.float() / _FIXED_POINT
    colour = summed[:, :3] + BACKGROUND_WEIGHT * background.reshape(-1, 3).float()
    picture = colour / (summed[:, 3:] + BACKGROUND_WEIGHT)
    depth = torch.where(nearest > 0, 1 / nearest, 0.0)
    shape = background.shape[:-1]
    return Drawn(picture.view(background.shape), depth.view(shape), inner.view(shape))


def _touched(patches: PlacedPatches, height: int, width: int) -> Iterator[_Samples]:
    """Pixels of all patches, by classes of size so that little is tested in vain."""
    inverse, solid = _invert(patches.axes)
    reach = patches.axes.abs().sum(dim=2).amax(dim=1) * SUPPORT + 1
    finite = torch.isfinite(patches.centre).all(dim=1) & solid & (patches.inverse_depth > 0)
    lower = 0
    for radius in _RADII:
        chosen = (finite & (reach > lower) & (reach <= radius)).nonzero()[:, 0]
        lower = radius
        if len(chosen):
            part = _touched_class(patches, inverse[chosen], chosen, radius, (height, width))
            if patches.mask is not None:
                part = _pick(part, inside_mask(patches.mask[part.patch], part.local))
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
    on_picture = ((x >= 0) & (x < width))[:, None, :] & ((y >= 0) & (y < height))[:, :, None]
    inside = on_picture & (px.abs() < SUPPORT) & (py.abs() < SUPPORT)
    which, row, col = inside.nonzero(as_tuple=True)
    patch = number[which]
    local = torch.stack([px[which, row, col], py[which, row, col]], dim=1)
    first_row = 0 if patches.picture is None else patches.picture[patch] * height
    return _Samples(
        pixel=(first_row + y[which, row]) * width + x[which, col],
        patch=patch,
        local=local,
        inverse_depth=patches.inverse_depth[patch] + (local * patches.lean[patch]).sum(dim=1),
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


def _in_front(samples: _Samples, nearest: Tensor) -> _Samples:
    """The samples that belong to the nearest surface of their pixel."""
    return _pick(samples, samples.inverse_depth * (1 + SAME_SURFACE) >= nearest[samples.pixel])


def _lowest_rank(samples: list[_Samples], rank: Tensor, pixels: int) -> list[_Samples]:
    """The samples whose patches have the lowest rank that their pixel sees."""
    lowest = torch.full(
        (pixels,), torch.iinfo(torch.int64).max, dtype=torch.int64, device=rank.device
    )
    for part in samples:
        lowest.scatter_reduce_(0, part.pixel, rank[part.patch], "amin")
    return [_pick(part, rank[part.patch] == lowest[part.pixel]) for part in samples]


def _pick(samples: _Samples, chosen: Tensor) -> _Samples:
    kept = chosen.nonzero()[:, 0]
    return _Samples(*(getattr(samples, f.name).index_select(0, kept) for f in fields(samples)))


def _tent(samples: _Samples) -> Tensor:
    """(M,) weights that fall off from the middle of a patch to its rim."""
    tent = (SUPPORT - samples.local.abs()).prod(dim=1) / SUPPORT**2
    return tent * tent


def _share(samples: _Samples, bins: Tensor) -> Tensor:
    """(M,) weights of views that are mixed: full inside of a patch, less for worse views.

    A tent would let worse views through as dots where the corners of better ones meet.
    """
    rim = ((SUPPORT - samples.local.abs()) / (SUPPORT - FLAT)).clamp(0, 1).prod(dim=1)
    # From a table, since no two devices agree on the last bit of exp.
    shares = torch.exp(-FALL * torch.arange(BINS)).clamp_min(LEAST_SHARE).to(rim.device)
    return rim * shares[bins[samples.patch]]


def _accumulate(total: Tensor, samples: _Samples, patches: PlacedPatches, weight: Tensor) -> None:
    weight = weight[:, None]
    colour = _sample(patches.pixels, samples.patch, samples.local)
    value = torch.cat([colour * weight, weight], dim=1) * _FIXED_POINT
    total.index_add_(0, samples.pixel, value.round().int())


def _sample(pixels: Tensor, patch: Tensor, local: Tensor) -> Tensor:
    """Bilinear samples (M, 3) of patches at local coordinates in -1..1."""
    side = pixels.shape[1]
    flat = pixels.reshape(-1, 3)
    if side == 1:
        return flat[patch]
    place = ((local + 1) * (side / 2) - 0.5).clamp(0, side - 1)
    low = place.floor().clamp_max(side - 2)
    part = place - low
    col, row = low.long().unbind(1)
    first = (patch * side + row) * side + col
    fx, fy = part[:, :1], part[:, 1:]
    top = flat[first] * (1 - fx) + flat[first + 1] * fx
    bottom = flat[first + side] * (1 - fx) + flat[first + side + 1] * fx
    return top * (1 - fy) + bottom * fy
