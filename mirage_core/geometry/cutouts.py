"""Cut-outs: a cell that straddles a depth edge is two points, each with its own part of the cell.

A cell's token is a patch of picture. Where the patch shows the rim of a thing and the wall behind
it, no single depth fits: the rim would be carried to the wall, or the wall to the rim. So both
points hold the token, and each a mask of the part that lies at its depth.

A mask is 16 bits: bit ``4 * row + column`` is a square of 4 x 4 in the cell, from the left and
from the top. `WHOLE` has all bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..validate import expect_shape
from .depth import valid_depth

SIDE: Final = 4
"""Squares along each side of a mask."""

WHOLE: Final = -1
"""The mask of a point that stands for its whole cell: all 16 bits, as int16."""

DEPTH_RANGE: Final = 0.12
"""A cell whose depths differ by less than this share is one surface."""

OUTLIERS: Final = 0.01
"""Share of a cell's samples at either end that the range of its depth leaves out."""

COHERENT: Final = 0.8
"""Share of a cell's samples that go with the majority of their square. Of noise it is 0.6."""

NEAR_SHARE: Final = 0.25
"""Share of a square from which on it belongs to the near part. Less than half: a rim of wall that
goes along with a ball stands out less than a rim of ball that stays on the wall."""

LEAST: Final = 2
"""Squares of the smaller part. What covers less is mostly the blur of an edge beside the cell."""


@dataclass(frozen=True, eq=False)
class Cutouts:
    """Which cells show two surfaces.

    Attributes:
        front: (F, h, w) float32 z-depth of the near part; 0 where the cell is whole.
        back: (F, h, w) float32 z-depth of the far part; 0 where the cell is whole.
        mask: (F, h, w) int16, the near part, neither empty nor `WHOLE` where the cell is split;
            all other bits are the far part. `WHOLE` elsewhere.
    """

    front: Tensor
    back: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        sizes = expect_shape("The depth of near parts", self.front, "F h w")
        expect_shape("The depth of far parts", self.back, "F h w", **sizes)
        expect_shape("The masks of cut cells", self.mask, "F h w", **sizes)

    @property
    def split(self) -> Tensor:
        """(F, h, w) bool, the cells that are two points."""
        return self.back > 0

    def select(self, frames: slice) -> Cutouts:
        """Some of the frames."""
        return Cutouts(self.front[frames], self.back[frames], self.mask[frames])

    def to(self, device: torch.device) -> Cutouts:
        """The same on another device."""
        return Cutouts(self.front.to(device), self.back.to(device), self.mask.to(device))


def split_cells(depth: Tensor, size: tuple[int, int]) -> Cutouts:
    """Find the cells that straddle a depth edge, and what is near and far in them.

    A cell is split when its depths differ by `DEPTH_RANGE` and two levels fit its inverse depth
    better than a plane does; inverse depth is linear over a plane, so slanted planes stay whole.
    Samples nearer than the geometric mean of the extremes are the near part. A square of the mask
    goes to the near part when it has `NEAR_SHARE` of it, else to the far one; so do squares without
    depth, since what a camera cannot measure beside an edge is behind it. Cells whose parts are
    scattered, see `COHERENT`, or of which one has fewer than `LEAST` squares, stay whole.

    Args:
        depth: (F, H, W) z-depth; invalid pixels count for nothing.
        size: (h, w) of the latent grid. With fewer than `SIDE` samples along a side of a cell
            nothing is split.

    Raises:
        ShapeError: ``depth`` is not (F, H, W).
    """
    sizes = expect_shape("The depth", depth, "F H W")
    (h, w), shape = size, (sizes["F"], *size)
    front = torch.zeros(shape, device=depth.device)
    back = torch.zeros_like(front)
    mask = torch.full(shape, WHOLE, dtype=torch.int16, device=depth.device)
    if sizes["H"] < SIDE * h or sizes["W"] < SIDE * w:
        return Cutouts(front, back, mask)
    samples = _samples(depth.float(), size)
    candidates = _may_be_split(samples, int(samples.shape[1]) // h)
    chosen = rearrange(samples, "f (h a) (w b) -> f h w a b", h=h, w=w)[candidates]
    near, far, bits = _parts(chosen)
    squares = area(bits)
    is_split = (squares >= LEAST) & (squares <= SIDE * SIDE - LEAST)
    front[candidates] = torch.where(is_split, near, 0.0)
    back[candidates] = torch.where(is_split, far, 0.0)
    mask[candidates] = torch.where(is_split, bits, WHOLE)
    return Cutouts(front, back, mask)


def _samples(depth: Tensor, size: tuple[int, int]) -> Tensor:
    """(F, h k, w k) with a whole number of squares in every cell; 0 where invalid."""
    (h, w), (rows, cols) = size, depth.shape[1:]
    side = SIDE * -(-max(-(-rows // h), -(-cols // w)) // SIDE)
    clean = torch.where(valid_depth(depth), depth, 0.0)
    if (rows, cols) == (h * side, w * side):
        return clean
    return F.interpolate(clean[:, None], (h * side, w * side), mode="nearest-exact")[:, 0]


def _may_be_split(samples: Tensor, side: int) -> Tensor:
    """(F, h, w) bool: the extremes are apart; cheaper than what decides."""
    farthest = F.max_pool2d(samples[:, None], side)[:, 0]
    inverse = torch.where(samples > 0, 1 / samples, 0.0)
    nearest = F.max_pool2d(inverse[:, None], side)[:, 0]
    return farthest * nearest > 1 + DEPTH_RANGE


def _parts(cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Near and far depth (M,) and masks (M,) of the near part of cells (M, k, k).

    Masks are empty or `WHOLE` where there is only one part.
    """
    flat = cells.flatten(1)
    known = flat > 0
    ordered = torch.where(known, flat, torch.inf).sort(dim=1).values
    count = known.sum(dim=1)
    skipped = (count * OUTLIERS).long()
    low, high = _at(ordered, skipped), _at(ordered, count - 1 - skipped)
    near = known & (flat * flat < (low * high)[:, None])
    apart = (high > low * (1 + DEPTH_RANGE)) & _two_levels(cells, near.view_as(cells))
    number = near.sum(dim=1)
    mask, coherent = _masks(near.view_as(cells), known.view_as(cells))
    mask = torch.where(apart & coherent, mask, WHOLE)
    front = _at(ordered, (number - 1).clamp_min(0) // 2)
    return front, _at(ordered, number + (count - number - 1).clamp_min(0) // 2), mask


def _at(ordered: Tensor, place: Tensor) -> Tensor:
    """One value of each row."""
    return ordered.gather(1, place.clamp(0, ordered.shape[1] - 1)[:, None])[:, 0]


def _two_levels(cells: Tensor, near: Tensor) -> Tensor:
    """(M,) bool: two levels are closer to the inverse depth of cells (M, k, k) than a plane."""
    known = cells > 0
    weight = known.double()
    value = torch.where(known, 1 / cells.double(), 0.0)
    # In units of its own size, so that no tolerance below depends on the unit of depth.
    value = value / value.amax(dim=(1, 2), keepdim=True).clamp_min(1e-300)
    levels = torch.zeros(len(cells), dtype=value.dtype, device=value.device)
    for part in (near, known & ~near):
        levels += _spread(value, part.double())
    return levels < _plane_error(value, weight)


def _spread(value: Tensor, weight: Tensor) -> Tensor:
    """(M,) sum of squares around the mean."""
    mean = (value * weight).sum((1, 2)) / weight.sum((1, 2)).clamp_min(1)
    return ((value - mean[:, None, None]).square() * weight).sum((1, 2))


def _plane_error(value: Tensor, weight: Tensor) -> Tensor:
    """(M,) sum of squares around the plane that fits best."""
    side = value.shape[1]
    steps = (torch.arange(side, dtype=value.dtype, device=value.device) + 0.5) * 2 / side - 1
    rows, cols = torch.meshgrid(steps, steps, indexing="ij")
    basis = torch.stack([torch.ones_like(rows), cols, rows]).flatten(1)
    flat, weights = value.flatten(1), weight.flatten(1)
    normal = torch.einsum("in,mn,jn->mij", basis, weights, basis)
    # Cells with samples on one line only have many such planes; any of them will do.
    normal = normal + 1e-9 * torch.eye(3, dtype=value.dtype, device=value.device)
    right = torch.einsum("in,mn->mi", basis, weights * flat)
    plane = torch.linalg.solve(normal, right) @ basis
    return ((flat - plane).square() * weights).sum(1)


def _masks(near: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """(M,) int16 masks of the near squares, and (M,) bool, whether the parts hang together."""
    squares = "m (r a) (c b) -> m (r c) (a b)"
    sizes = {"r": SIDE, "c": SIDE}
    nearer = rearrange(near, squares, **sizes).sum(-1)
    all_known = rearrange(known, squares, **sizes).sum(-1)
    mine = (nearer >= NEAR_SHARE * all_known) & (all_known > 0)
    fitting = torch.maximum(nearer, all_known - nearer).sum(1)
    coherent = fitting >= COHERENT * all_known.sum(1)
    bits = (mine.int() << torch.arange(SIDE * SIDE, device=mine.device)).sum(1)
    # The highest bit is the sign of 16 bits.
    return torch.where(bits >= 1 << 15, bits - (1 << 16), bits).to(torch.int16), coherent


def unpacked(mask: Tensor) -> Tensor:
    """(..., 4, 4) bool squares, rows first, of masks (...) int16."""
    bits = torch.arange(SIDE * SIDE, device=mask.device)
    return ((mask.int()[..., None] >> bits) & 1).bool().unflatten(-1, (SIDE, SIDE))


def area(mask: Tensor) -> Tensor:
    """(...) int32: how many of the 16 squares masks (...) int16 have."""
    bits = mask.int() & 0xFFFF
    bits = bits - ((bits >> 1) & 0x5555)
    bits = (bits & 0x3333) + ((bits >> 2) & 0x3333)
    bits = (bits + (bits >> 4)) & 0x0F0F
    return (bits + (bits >> 8)) & 0x1F


def mask_centre(mask: Tensor) -> Tensor:
    """(..., 2) float32: the middle of each mask, x then y, from -1 to 1 across the cell.

    0 for whole cells, exactly.
    """
    squares = unpacked(mask).float()
    steps = (torch.arange(SIDE, device=mask.device) + 0.5) * 2 / SIDE - 1
    total = squares.sum((-1, -2)).clamp_min(1)
    x, y = (squares.sum(axis) @ steps for axis in (-2, -1))
    return torch.stack([x, y], dim=-1) / total[..., None]


def covers_half(mask: Tensor) -> Tensor:
    """Whether points stand for at least half of their cell: (...) bool for masks (...) int16."""
    return 2 * area(mask) >= SIDE * SIDE


def inside_mask(mask: Tensor, local: Tensor) -> Tensor:
    """Whether places of a patch belong to a point.

    Args:
        mask: (M,) int16.
        local: (M, 2) x and y from -1 to 1 across the cell; beyond it the nearest square counts.

    Returns:
        (M,) bool.
    """
    column, row = ((local + 1) * (SIDE / 2)).floor().clamp(0, SIDE - 1).int().unbind(1)
    return ((mask.int() >> (row * SIDE + column)) & 1).bool()
