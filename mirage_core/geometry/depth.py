"""Depth maps on the latent grid: downsampling that respects holes, and flying pixels."""

from __future__ import annotations

from typing import Final, Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..errors import ValueRangeError
from ..validate import expect_shape
from .camera import PixelConvention

DepthMode = Literal["bilinear", "nearest", "area", "median"]
DEPTH_MODES: Final[tuple[str, ...]] = get_args(DepthMode)

NEARER: Final = 0.10
"""A neighbour is in front when it is nearer by this share of the depth."""

FARTHER: Final = 0.15
"""A neighbour is behind when it is farther by this share of the depth."""

SLOPE_MATCH: Final = 0.5
"""Two disparity steps belong to one plane when they differ by less than this share."""


STEEPEST: Final = 0.5
"""Largest relative change of inverse depth within one cell that counts as one surface."""


def valid_depth(depth: Tensor) -> Tensor:
    """True where a depth is a distance in front of the camera: finite and above zero."""
    return (depth > 0) & (depth < torch.inf)


def expect_depth_mode(mode: str) -> None:
    """Raise `ValueRangeError` unless a way of downsampling depth is known."""
    if mode not in DEPTH_MODES:
        raise ValueRangeError(
            "The depth downsampling is unknown", got=mode, expected=", ".join(DEPTH_MODES)
        )


def downsample_depth(
    depth: Tensor,
    size: tuple[int, int],
    mode: DepthMode | str = "bilinear",
    convention: PixelConvention = PixelConvention.PAPER,
) -> Tensor:
    """Bring depth maps to the latent grid.

    Invalid pixels (0, negative, NaN, infinite) never mix with valid ones, except with
    ``mode="bilinear"`` under the released convention, which blends zeros in as the released
    code does.

    Args:
        depth: (F, H, W) z-depth.
        size: (h, w) of the latent grid.
        mode: ``bilinear`` at the cell's centre, ``nearest`` pixel to the centre, ``area``
            mean of the cell, or its ``median``.
        convention: The pixel convention of the memory.

    Returns:
        (F, h, w) float32; 0 where no valid pixel contributes.

    Raises:
        ShapeError: ``depth`` is not (F, H, W).
        ValueRangeError: The mode is unknown.
    """
    expect_shape("The depth", depth, "F H W")
    expect_depth_mode(mode)
    depth = depth.float()
    if mode == "bilinear" and convention is PixelConvention.RELEASED:
        blended = _interpolate(depth, size, "bilinear")
        return torch.where(valid_depth(blended), blended, 0.0)
    valid = valid_depth(depth)
    clean = torch.where(valid, depth, 0.0)
    if mode == "nearest":
        return _interpolate(clean, size, "nearest-exact")
    if mode == "median":
        return _median(clean, size)
    if mode == "bilinear":
        total, weight = (_interpolate(x, size, "bilinear") for x in (clean, valid.float()))
    else:
        pooled = F.adaptive_avg_pool2d(torch.stack([clean, valid.float()], dim=1), size)
        total, weight = pooled.unbind(1)
    return torch.where(weight > 0, total / weight.clamp_min(1e-12), 0.0)


def _interpolate(maps: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    align = False if mode == "bilinear" else None
    return F.interpolate(maps[:, None], size=size, mode=mode, align_corners=align)[:, 0]


def _median(depth: Tensor, size: tuple[int, int]) -> Tensor:
    """Lower median of the valid pixels of every cell; cells may have unequal sizes."""
    (h, w), (rows, cols) = size, depth.shape[1:]
    per_row, per_col = -(-rows // h), -(-cols // w)
    whole = _interpolate(depth, (h * per_row, w * per_col), "nearest-exact")
    cells = rearrange(whole, "f (h a) (w b) -> f h w (a b)", h=h, w=w)
    ordered = torch.where(cells > 0, cells, torch.inf).sort(dim=-1).values
    count = (cells > 0).sum(-1)
    middle = ordered.gather(-1, ((count - 1).clamp_min(0) // 2)[..., None])[..., 0]
    return torch.where(count > 0, middle, 0.0)


def downsample_mask(
    mask: Tensor,
    size: tuple[int, int],
    convention: PixelConvention = PixelConvention.PAPER,
) -> Tensor:
    """Bring masks of things to leave out to the latent grid.

    A cell with any masked pixel is masked; the released convention looks at the cell's
    top-left pixel only.

    Args:
        mask: (F, H, W) bool or float (above one half is masked).
        size: (h, w) of the latent grid.
        convention: The pixel convention of the memory.

    Returns:
        (F, h, w) bool.
    """
    expect_shape("The mask", mask, "F H W")
    values = (mask if mask.dtype == torch.bool else mask > 0.5).float()  # noqa: PLR2004
    if convention is PixelConvention.RELEASED:
        return _interpolate(values, size, "nearest") > 0
    return F.adaptive_max_pool2d(values[:, None], size)[:, 0] > 0


def flying_pixels(depth: Tensor) -> Tensor:
    """Find cells that hang between a near and a far surface.

    Bilinear sampling and smooth estimators put points into the empty space at depth edges.
    In a z-buffer one such point hides the surface behind it for ever. A cell is flying when
    one neighbour is more than 10 % nearer and the opposite one more than 15 % farther, unless
    the inverse depth goes on in equal steps on both sides: then it is a slanted plane.

    Args:
        depth: (F, h, w) on the latent grid, 0 where invalid.

    Returns:
        (F, h, w) bool, False where the depth is invalid.
    """
    expect_shape("The depth", depth, "F H W")
    flying = torch.zeros_like(depth, dtype=torch.bool)
    for axis in (1, 2):
        one, other = _shifted(depth, axis, 1), _shifted(depth, axis, -1)
        steps = _nearer(one, depth) & _farther(other, depth)
        steps |= _nearer(other, depth) & _farther(one, depth)
        plane = _same_slope(depth, axis, 1) & _same_slope(depth, axis, -1)
        flying |= steps & ~plane
    return flying & valid_depth(depth)


def surface_slope(depth: Tensor) -> Tensor:
    """How the surface in each cell leans: relative change of inverse depth per cell.

    Inverse depth is linear over a plane. Of the steps to both neighbours the smaller one
    counts, and none where they disagree in direction, so that edges do not tilt what is
    beside them.

    Args:
        depth: (F, h, w) on the latent grid, 0 where invalid.

    Returns:
        (F, h, w, 2) float32: change towards the right and downwards, in units of the cell's
        own inverse depth; 0 where it is not known.
    """
    expect_shape("The depth", depth, "F H W")
    inverse = torch.where(valid_depth(depth), 1 / depth, torch.nan)
    slopes = []
    for axis in (2, 1):
        ahead = _step(inverse, axis)
        behind = -_step(inverse.flip(axis), axis).flip(axis)
        one_sided = torch.where(ahead.isnan(), behind, ahead)
        agree = ahead.sign() == behind.sign()
        smaller = torch.where(ahead.abs() < behind.abs(), ahead, behind)
        both = ~ahead.isnan() & ~behind.isnan()
        slopes.append(torch.where(both, torch.where(agree, smaller, 0.0), one_sided))
    relative = torch.stack(slopes, dim=-1) / inverse[..., None]
    return relative.nan_to_num(0.0).clamp(-STEEPEST, STEEPEST)


def _step(inverse: Tensor, axis: int) -> Tensor:
    """Difference to the next cell; NaN at the end of the map and beside unknown cells."""
    steps = torch.full_like(inverse, torch.nan)
    size = inverse.shape[axis]
    if size > 1:
        steps.narrow(axis, 0, size - 1).copy_(inverse.diff(dim=axis))
    return steps


def _shifted(depth: Tensor, axis: int, by: int) -> Tensor:
    """Depth of the neighbour ``by`` cells away, 0 outside the map."""
    result = torch.zeros_like(depth)
    size = depth.shape[axis]
    if abs(by) < size:
        target = result.narrow(axis, max(0, by), size - abs(by))
        target.copy_(depth.narrow(axis, max(0, -by), size - abs(by)))
    return result


def _nearer(neighbour: Tensor, depth: Tensor) -> Tensor:
    return valid_depth(neighbour) & (neighbour < depth * (1 - NEARER))


def _farther(neighbour: Tensor, depth: Tensor) -> Tensor:
    return neighbour > depth * (1 + FARTHER)


def _same_slope(depth: Tensor, axis: int, side: int) -> Tensor:
    """True where the two disparity steps towards ``side`` are alike, or the map ends."""
    next_depth, after = _shifted(depth, axis, side), _shifted(depth, axis, 2 * side)
    inner = 1 / next_depth - 1 / depth
    outer = 1 / after - 1 / next_depth
    alike = (outer - inner).abs() <= SLOPE_MATCH * inner.abs()
    return alike | ~valid_depth(after)
