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
from .splat import EMPTY_KEY, INDEX_MASK, Hits, compete, project_runs, walk_runs

BINS: Final = 128
"""Bins of scores; worse scores, and those that are not numbers, count in the last one."""

MAX_BAND: Final = 0.5
"""Widest band behind the front, as a share of its depth, for which keys have room."""

MIN_BIN: Final = 1e-3
"""Narrowest bin: scores have about so many digits."""

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
    bin: float = 0.05
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
        if self.bin < MIN_BIN or self.limit > MAX_BAND:
            raise ValueRangeError(
                "The best view's bins are too narrow, or its band is too wide",
                got=f"bins of {self.bin}, a band up to {self.limit}",
                expected=f"bins of at least {MIN_BIN}, a band of at most {MAX_BAND}",
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
            compete(front[view], hits.cell, hits.keys())
            found[view].append(_perhaps_front(hits, front[view], rule[2]))
    keys = torch.full_like(front, EMPTY_KEY)
    known = _Known.of(points, Seen(source, slope, observers))
    for view, parts in enumerate(found):
        if known is not None and parts:
            hits = Hits(*map(_joined, zip(*parts, strict=True)))
            _compete(keys[view], front[view], hits, known, viewers[view].tolist(), rule)
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


def view_bins(points: Tensor, seen: Tensor, viewer: Tensor, rule: Sequence[float]) -> Tensor:
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


def front_band(slope: Tensor, rule: Sequence[float]) -> Tensor:
    """How far behind the front points may lie to belong to it, as a share of its depth.

    Args:
        slope: (..., 2), as `Seen.slope`.
        rule: `BestView.numbers`.

    Returns:
        (...) float32.
    """
    lean = slope.float().abs().sum(dim=-1)
    return lean.mul_(rule[1]).add_(rule[0]).clamp_max_(rule[2])


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
    score = _angle(both.div_(before.sqrt().mul_(now.sqrt())))
    # A float here and a tensor there: dividing is done in float32 either way.
    lens = torch.as_tensor(viewer[3], dtype=torch.float32) / seen[3]
    size = _log(before.div_(now).mul_(lens.mul_(lens))).mul_(0.5)
    score += size.clamp_min(0.0).mul_(rule[4])
    score += size.neg_().clamp_min_(0.0).mul_(rule[5])
    scaled = score.mul_(rule[3]).floor_()
    # NaN compares false: a direction that does not exist is the worst.
    return torch.where(scaled < BINS - 1, scaled, float(BINS - 1)).long()


def _angle(cosine: Tensor) -> Tensor:
    size = cosine.abs().clamp_max_(1.0)
    series = size * ACOS[0]
    series.add_(ACOS[1]).mul_(size).add_(ACOS[2]).mul_(size).add_(ACOS[3])
    acute = size.neg_().add_(1.0).sqrt_().mul_(series)
    return torch.where(cosine < 0, PI - acute, acute)


def _log(ratio: Tensor) -> Tensor:
    # Not clamp, whose NaN has another sign on other devices.
    kept = torch.where(ratio < LIMIT, ratio, LIMIT)
    bits = torch.where(kept > 1 / LIMIT, kept, 1 / LIMIT).view(torch.int32)
    exponent = (bits >> 23).sub_(127).float()
    mantissa = bits.bitwise_and_(0x7FFFFF).bitwise_or_(0x3F800000).view(torch.float32)
    part = (mantissa - 1.0).div_(mantissa + 1.0)
    square = part * part
    series = square * ATANH[0]
    series.add_(ATANH[1]).mul_(square).add_(ATANH[2]).mul_(square).add_(ATANH[3])
    return exponent.mul_(LN2).add_(part.mul_(2.0).mul_(series))


def _dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """``(x x' + y y') + z z'`` with one rounding per operation on every device."""
    total = one[0] * other[0]
    total += one[1] * other[1]
    total += one[2] * other[2]
    return total


def _perhaps_front(hits: Hits, front: Tensor, limit: float) -> Hits:
    """The hits that the front as it is known so far may still leave in the widest band.

    In a large memory most points are hidden: they are let go of before the next ones come.
    """
    nearest = front.index_select(0, hits.cell).bitwise_right_shift_(32).int().view(torch.float32)
    # Added in float32, as for the band itself: the last bit would depend on how points are cut.
    widest = torch.tensor(limit, dtype=torch.float32).add_(1).item()
    near = (hits.depth <= nearest.mul_(widest)).nonzero()[:, 0]
    return hits if 2 * len(near) > len(hits.cell) else hits.take(near)


class _Known(NamedTuple):
    """The points of all blocks one after the other, and who saw them.

    Attributes:
        axes: x, y and z, each (N,) float32.
        who: (N,) int64 number of an observer, counted through all blocks.
        slope: (N, 2) float16.
        observers: Position in x, y and z and focal length, each (S,) float32.
    """

    axes: tuple[Tensor, ...]
    who: Tensor
    slope: Tensor
    observers: tuple[Tensor, ...]

    @classmethod
    def of(cls, points: Sequence[Tensor], seen: Seen) -> _Known | None:
        """None where there is no block."""
        if not points:
            return None
        first, who = 0, []
        for source, cameras in zip(seen.source, seen.observers, strict=True):
            who.append(source.int() + first)
            first += len(cameras)
        return cls(
            tuple(_joined([block[:, axis] for block in points]) for axis in range(3)),
            _joined(who),
            _joined(seen.slope),
            tuple(column.contiguous() for column in _joined(seen.observers).unbind(1)),
        )


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _compete(
    keys: Tensor,
    front: Tensor,
    hits: Hits,
    known: _Known,
    viewer: Sequence[float],
    rule: Sequence[float],
) -> None:
    """Let the points of the front surface of one view compete; updates ``keys`` in place."""
    bits = front.index_select(0, hits.cell).bitwise_right_shift_(32)
    nearest = bits.int().view(torch.float32)
    band = front_band(known.slope.index_select(0, hits.number), rule)
    # The front itself is in its band whatever is known of its slope.
    near = (hits.depth <= band.add_(1).mul_(nearest)) | (hits.depth == nearest)
    kept = near.nonzero()[:, 0]
    hits, bits = hits.take(kept), bits.index_select(0, kept)
    who = known.who.index_select(0, hits.number)
    axes = [axis.index_select(0, hits.number) for axis in known.axes]
    observers = [column.index_select(0, who) for column in known.observers]
    key = _bins(axes, observers, viewer, rule).bitwise_left_shift_(_BIN_SHIFT)
    key += hits.depth.view(torch.int32).long().sub_(bits).bitwise_left_shift_(32)
    key += INDEX_MASK
    keys.scatter_reduce_(0, hits.cell, key.sub_(hits.number), "amin")
