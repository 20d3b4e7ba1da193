"""The z-buffer that shows, of the points of the front surface, the one that was seen best.

Of many noisy points in a cell the nearest is rarely the right one. A first pass finds the
nearest depth of each cell, as in `mirage_core.ops.splat`. Points a little behind it belong to
the same surface; among them the one wins whose observer looked most as this camera looks now.

Scores are counted in bins: two points that one camera saw have different angles at their
places, the farther one less, so the plain score would let a surface behind win. Inside a bin
the nearest wins, and among equal depths the newest. A point competes with the 64-bit key
``bin << 56 | (depth bits - front depth bits) << 32 | ~index``, so the result has the same bits
whatever the order of points. Every operation of the score is rounded once, in the same order
on every device: no library's ``acos`` or ``log`` is asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

from ..errors import ValueRangeError
from .gather import by_block
from .splat import EMPTY_KEY, INDEX_MASK, Hits, project_runs, walk_runs

BINS: Final = 128
"""Bins of scores; worse scores, and those that are not numbers, count in the last one."""

MAX_BAND: Final = 0.5
"""Widest band behind the front, as a share of its depth, for which keys have room."""

ACOS: Final = (-0.01872930, 0.07426100, -0.21211440, 1.57072880)
"""``acos(x) = sqrt(1 - x) p(x)`` for x in 0..1 within 7e-5 (Abramowitz and Stegun, 4.4.45)."""

ATANH: Final = (0.14285715, 0.2, 0.33333334, 1.0)
"""``ln(m) = 2 t p(t^2)`` with ``t = (m - 1) / (m + 1)`` for m in 1..2 within 3e-5."""

LN2: Final = 0.69314718
PI: Final = 3.14159274
LIMIT: Final = 1e30
"""Ratios of sizes, squared, are kept below this and above its inverse."""

_OFFSET_BITS: Final = 24
_BIN_SHIFT: Final = 32 + _OFFSET_BITS
_OFFSET_MASK: Final = (1 << _OFFSET_BITS) - 1


@dataclass(frozen=True)
class BestView:
    """What counts as the front surface, and which view of it is best.

    Attributes:
        band: How far behind the nearest point of a cell the front surface reaches where it
            faces its observer, as a share of the depth.
        lean: What a surface that leans adds to the band: times the relative change of its
            inverse depth over one cell.
        limit: Widest band.
        bin: Width of a bin of scores.
        coarser: What it costs to have been seen coarser than it is looked at, per factor e.
        finer: What it costs to have been seen finer, per factor e.

    Raises:
        ValueRangeError: A number is negative or not finite, a bin is empty, or the band is too
            wide.
    """

    band: float = 0.03
    lean: float = 2.0
    limit: float = 0.10
    bin: float = 0.10
    coarser: float = 0.5
    finer: float = 0.125

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueRangeError(
                    f"{name} of the best view is out of range",
                    got=value,
                    expected="0 or a positive number",
                )
        if self.bin < 1e-3 or self.limit > MAX_BAND:  # noqa: PLR2004
            raise ValueRangeError(
                "The best view's bins are too narrow, or its band is too wide",
                got=f"bins of {self.bin}, a band up to {self.limit}",
                expected=f"bins of at least 0.001, a band of at most {MAX_BAND}",
            )

    @property
    def numbers(self) -> list[float]:
        """The settings as the operators take them."""
        return [self.band, self.lean, self.limit, 1 / self.bin, self.coarser, self.finer]


class Seen(NamedTuple):
    """Who saw the points of a memory; one tensor for each block.

    Attributes:
        source: (N_b,) int32, which of the block's observers saw each point.
        slope: (N_b, 2) float16, how the surface leans, see `mirage_core.cache.types.CacheBlock`.
        observers: (S_b, 4) float32: position in the world, and focal length in cells.
    """

    source: Sequence[Tensor]
    slope: Sequence[Tensor]
    observers: Sequence[Tensor]


def best_view(
    points: Sequence[Tensor],
    bounds: Sequence[Tensor],
    source: Sequence[Tensor],
    slope: Sequence[Tensor],
    observers: Sequence[Tensor],
    projection: Tensor,
    viewers: Tensor,
    height: int,
    width: int,
    rule: Sequence[float],
    nearest_centre: bool,
) -> tuple[Tensor, Tensor]:
    """Which point each cell of T views shows, and at which depth.

    Args:
        points: One (N_b, 3) float32 tensor per block.
        bounds: Boxes of each block's points.
        source: As `Seen.source`.
        slope: As `Seen.slope`.
        observers: As `Seen.observers`.
        projection: (T, 3, 4) float32.
        viewers: (T, 4) float32: position of each camera, and focal length in cells.
        height: Rows of the grid.
        width: Columns of the grid.
        rule: `BestView.numbers`.
        nearest_centre: Round to the nearest integer centre instead of flooring.

    Returns:
        (T, height * width) int64 index of the winner, -1 where empty, and float32 depth, 0
        where empty.
    """
    shape = (len(projection), height * width)
    front = torch.full(shape, EMPTY_KEY, dtype=torch.int64, device=projection.device)
    found: list[list[Hits]] = [[] for _ in range(len(projection))]
    matrices = projection.cpu().tolist()
    for view, runs in walk_runs(points, bounds, projection, height, width):
        hits = project_runs(runs, matrices[view], height, width, nearest_centre)
        if len(hits.cell):
            front[view].scatter_reduce_(0, hits.cell, hits.keys(), "amin")
            found[view].append(_in_band(hits, front[view], rule[2]))
    keys = torch.full_like(front, EMPTY_KEY)
    seen = Seen(source, slope, observers)
    for view, parts in enumerate(found):
        if parts:
            hits = _in_band(Hits(*map(torch.cat, zip(*parts, strict=True))), front[view], rule[2])
            _compete(keys[view], front[view], hits, points, seen, viewers[view].tolist(), rule)
    return best_winners(front, keys)


def best_winners(front: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Winning point and its depth from the keys of both passes, of one shape.

    Returns:
        Index (int64, -1 where the cell is empty), and z-depth (float32, 0 there).
    """
    seen = keys != EMPTY_KEY
    index = torch.where(seen, INDEX_MASK - (keys & INDEX_MASK), -1)
    bits = (front >> 32) + ((keys >> 32) & _OFFSET_MASK)
    depth = torch.where(seen, bits, 0).to(torch.int32).view(torch.float32)
    return index, depth


def view_bins(
    points: Tensor, seen: Tensor, viewer: Tensor, rule: Sequence[float]
) -> Tensor:
    """How well points were seen, for a camera that looks at them now.

    The score is the angle at the point between the ray that saw it and the ray that looks now,
    and what its size costs: ``coarser ln r`` where a cell of the observer was r times larger at
    the point than one of this camera, ``finer ln 1 / r`` where it was smaller.

    Args:
        points: (N, 3) float32.
        seen: (N, 4) float32, the observer of each point: position and focal length in cells.
        viewer: (4,) or (N, 4): position and focal length of the camera that looks.
        rule: `BestView.numbers`.

    Returns:
        (N,) int64 bins from 0, the best, to `BINS` - 1.
    """
    return _bins(points.unbind(1), seen.unbind(1), viewer.unbind(-1), rule)


def _bins(
    points: Sequence[Tensor],
    seen: Sequence[Tensor],
    viewer: Sequence[Tensor] | Sequence[float],
    rule: Sequence[float],
) -> Tensor:
    """`view_bins` of axes apart, with the camera's numbers as they come."""
    away = [points[axis] - seen[axis] for axis in range(3)]
    here = [points[axis] - viewer[axis] for axis in range(3)]
    before, now, both = _dot(away, away), _dot(here, here), _dot(away, here)
    score = _angle(both / (before.sqrt() * now.sqrt()))
    # A float here and a tensor there: dividing is done in float32 either way.
    lens = torch.as_tensor(viewer[3], dtype=torch.float32) / seen[3]
    size = _log(before / now * (lens * lens)) * 0.5
    score = score + size.clamp_min(0.0) * rule[4] + (-size).clamp_min(0.0) * rule[5]
    scaled = (score * rule[3]).floor()
    # NaN compares false: a direction that does not exist is the worst.
    return torch.where(scaled < BINS - 1, scaled, float(BINS - 1)).long()


def _angle(cosine: Tensor) -> Tensor:
    size = cosine.abs().clamp_max(1.0)
    series = size * ACOS[0] + ACOS[1]
    series = series * size + ACOS[2]
    series = series * size + ACOS[3]
    acute = (1.0 - size).sqrt() * series
    return torch.where(cosine < 0, PI - acute, acute)


def _log(ratio: Tensor) -> Tensor:
    # Not clamp, whose NaN has another sign on other devices.
    kept = torch.where(ratio < LIMIT, ratio, LIMIT)
    kept = torch.where(kept > 1 / LIMIT, kept, 1 / LIMIT)
    bits = kept.view(torch.int32)
    exponent = ((bits >> 23) - 127).float()
    mantissa = ((bits & 0x7FFFFF) | 0x3F800000).view(torch.float32)
    part = (mantissa - 1.0) / (mantissa + 1.0)
    square = part * part
    series = square * ATANH[0] + ATANH[1]
    series = series * square + ATANH[2]
    series = series * square + ATANH[3]
    return exponent * LN2 + part * 2.0 * series


def _dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """``(x x' + y y') + z z'`` with one rounding per operation on every device."""
    total = one[0] * other[0]
    total += one[1] * other[1]
    total += one[2] * other[2]
    return total


def _front_of(front: Tensor, cell: Tensor) -> Tensor:
    """(M,) int64 bits of the front's depth in cells that are not empty."""
    return front.index_select(0, cell).bitwise_right_shift_(32)


def _in_band(hits: Hits, front: Tensor, band: float) -> Hits:
    """The hits at most a share of the depth behind the front as it is known so far."""
    nearest = _front_of(front, hits.cell).int().view(torch.float32)
    return hits.take((hits.depth <= nearest.mul_(1 + band)).nonzero()[:, 0])


def _compete(
    keys: Tensor,
    front: Tensor,
    hits: Hits,
    points: Sequence[Tensor],
    seen: Seen,
    viewer: Sequence[float],
    rule: Sequence[float],
) -> None:
    """Let the points of the front surface of one view compete; updates ``keys`` in place."""
    first = 0
    for number, mine in enumerate(by_block(hits.number, points)):
        here = hits.take(mine)
        local = here.number - first
        first += len(points[number])
        bits = _front_of(front, here.cell)
        nearest = bits.int().view(torch.float32)
        lean = seen.slope[number].index_select(0, local).float().abs().sum(dim=1)
        band = (lean * rule[1] + rule[0]).clamp_max(rule[2])
        # The front itself is in its band whatever is known of its slope.
        near = (here.depth <= nearest * (band + 1)) | (here.depth == nearest)
        kept = near.nonzero()[:, 0]
        here, local, bits = here.take(kept), local.index_select(0, kept), bits[kept]
        who = seen.source[number].index_select(0, local)
        axes = [points[number][:, axis].index_select(0, local) for axis in range(3)]
        score = _bins(axes, seen.observers[number].index_select(0, who).unbind(1), viewer, rule)
        key = score.bitwise_left_shift_(_BIN_SHIFT)
        key += (here.depth.view(torch.int32).long() - bits).bitwise_left_shift_(32)
        key += INDEX_MASK - here.number
        keys.scatter_reduce_(0, here.cell, key, "amin")
