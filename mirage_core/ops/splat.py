"""The z-buffer: which point does each cell of each view show.

A point competes for a cell with the 64-bit key ``depth bits << 32 | ~index``. The bits of a
positive float order as the float does, so the minimum of the keys is the nearest point, and
the newest one among equal depths, whatever the order in which points arrive: the result has
the same bits on every device and for every number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

EMPTY_KEY: Final = torch.iinfo(torch.int64).max
"""Key of a cell that no point falls into."""

_RUN_BITS: Final = 7

BOUNDS_RUN: Final = 1 << _RUN_BITS
"""Consecutive points that share one bounding box: a run."""

CHUNK_POINTS: Final = 512 * BOUNDS_RUN
"""Points that are projected at once; bounds the extra memory whatever the size of a memory."""

GROUP_POINTS: Final = 1024 * BOUNDS_RUN
"""Points that all views look at before the next ones, so that they stay in a CPU's cache."""

INDEX_MASK: Final = 0xFFFFFFFF
"""Lower half of a key: the bits of the point's index, all of them turned over."""

_CULL_MARGIN: Final = 1e-4


def point_bounds(points: Tensor) -> Tensor:
    """Boxes of runs of `BOUNDS_RUN` consecutive points.

    Points with a NaN or infinite coordinate are never visible and do not count.

    Args:
        points: (N, 3) float32.

    Returns:
        (ceil(N / BOUNDS_RUN), 6) float32: lower corner, upper corner. A run without a finite
        point has an empty box (lower above upper).
    """
    finite = torch.isfinite(points).all(dim=1, keepdim=True)
    missing = -len(points) % BOUNDS_RUN
    corners = []
    for fill, reduce in ((torch.inf, torch.amin), (-torch.inf, torch.amax)):
        padded = functional.pad(torch.where(finite, points, fill), (0, 0, 0, missing), value=fill)
        corners.append(reduce(padded.view(-1, BOUNDS_RUN, 3), dim=1))
    return torch.cat(corners, dim=1)


def visible_runs(bounds: Tensor, projection: Tensor, height: int, width: int) -> Tensor:
    """Runs of points that may be inside a view; never leaves one out that is.

    Args:
        bounds: (B, 6) from `point_bounds`.
        projection: (T, 3, 4) matrices of `mirage_core.geometry.camera.projection_matrices`.
        height: Rows of the grid.
        width: Columns of the grid.

    Returns:
        (T, B) bool.
    """
    lower, upper = bounds[:, :3].double(), bounds[:, 3:].double()
    middle, half = (lower + upper) / 2, (upper - lower) / 2
    x, y, z = projection.double().unbind(1)
    # One cell more on every side covers both rounding rules.
    planes = torch.stack([z, x + z, y + z, (width + 1) * z - x, (height + 1) * z - y], dim=1)
    normal, offset = planes[..., :3], planes[..., 3:]
    reach = normal @ middle.T + offset + normal.abs() @ half.T
    scale = normal.abs() @ middle.abs().T + offset.abs() + normal.abs() @ half.T
    # A box that overflows is kept: the comparison with NaN is False.
    outside = reach < -_CULL_MARGIN * scale
    empty = (lower > upper).any(dim=1)
    return ~outside.any(dim=1) & ~empty


def splat(
    keys: Tensor,
    points: Tensor,
    bounds: Tensor,
    projection: Tensor,
    *,
    height: int,
    width: int,
    first_index: int = 0,
    nearest_centre: bool = False,
) -> None:
    """Let points compete for the cells of T views; updates ``keys`` in place.

    Point p of view t lies at ``(x, y, z) = P_t (p, 1)``, in the cell of ``(x / z, y / z)``
    (paper Eq. 9), and wins where its depth z is least (Eq. 10).

    Args:
        keys: (T, height * width) int64, `EMPTY_KEY` where nothing was seen yet.
        points: (N, 3) float32, any strides. Non-finite points are ignored, and so are points
            at or behind the camera.
        bounds: Boxes of the points from `point_bounds`.
        projection: (T, 3, 4) float32.
        height: Rows of the grid.
        width: Columns of the grid.
        first_index: Index of the first point; newer points have higher indices.
        nearest_centre: Round to the nearest integer centre instead of flooring.
    """
    splat_blocks(
        keys, [points], [bounds], projection, height=height, width=width,
        first_index=first_index, nearest_centre=nearest_centre,
    )  # fmt: skip


def splat_blocks(
    keys: Tensor,
    points: Sequence[Tensor],
    bounds: Sequence[Tensor],
    projection: Tensor,
    *,
    height: int,
    width: int,
    first_index: int = 0,
    nearest_centre: bool = False,
) -> None:
    """`splat` for the blocks of a memory, whose points are numbered one after the other.

    Args:
        keys: As for `splat`.
        points: One (N_b, 3) float32 tensor per block.
        bounds: Boxes of each block's points.
        projection: (T, 3, 4) float32.
        height: Rows of the grid.
        width: Columns of the grid.
        first_index: Index of the first point of the first block.
        nearest_centre: Round to the nearest integer centre instead of flooring.
    """
    matrices = projection.cpu().tolist()
    for view, runs in walk_runs(points, bounds, projection, height, width, first_index):
        hits = project_runs(runs, matrices[view], height, width, nearest_centre)
        compete(keys[view], hits.cell, hits.keys())


def compete(keys: Tensor, cell: Tensor, key: Tensor) -> None:
    """Let keys (M,) of cells (M,) compete with those of one view; updates ``keys`` in place."""
    # Few of many are better, and a minimum costs more than a comparison.
    better = (key < keys.index_select(0, cell)).nonzero()[:, 0]
    keys.scatter_reduce_(0, cell.index_select(0, better), key.index_select(0, better), "amin")


def walk_runs(
    points: Sequence[Tensor],
    bounds: Sequence[Tensor],
    projection: Tensor,
    height: int,
    width: int,
    first_index: int = 0,
) -> Iterator[tuple[int, Runs]]:
    """Points that may be inside each view, in pieces of up to `CHUNK_POINTS`.

    Args:
        points: One (N_b, 3) float32 tensor per block.
        bounds: Boxes of each block's points.
        projection: (T, 3, 4) float32.
        height: Rows of the grid.
        width: Columns of the grid.
        first_index: Index of the first point of the first block.

    Yields:
        Number of a view, and whole runs of points.
    """
    for parts in _groups(points, bounds, first_index):
        visible = visible_runs(
            torch.cat([part.bounds for part in parts]), projection, height, width
        )
        if not bool(visible.any()):
            continue
        runs = Runs.of(parts)
        for view in range(len(projection)):
            # Cut after culling: a call costs as much for a few points as for many.
            for some in visible[view].nonzero()[:, 0].split(max(1, CHUNK_POINTS // BOUNDS_RUN)):
                yield view, runs.select(some)


class _Part(NamedTuple):
    """Consecutive points of one block that begin with a run.

    Attributes:
        points: (n, 3).
        bounds: (ceil(n / BOUNDS_RUN), 6) boxes.
        first: Index of the first point, within the memory.
    """

    points: Tensor
    bounds: Tensor
    first: int


class Runs(NamedTuple):
    """Whole runs, so that any of them are taken at the cost of a copy.

    Attributes:
        axes: x, y and z, each (R, BOUNDS_RUN); NaN where the points of a block end.
        first: (R,) int64 index of each run's first point, within the memory.
    """

    axes: tuple[Tensor, ...]
    first: Tensor

    @classmethod
    def of(cls, parts: Sequence[_Part]) -> Runs:
        """All runs of some parts."""
        missing = [-len(part.points) % BOUNDS_RUN for part in parts]
        axes = []
        for axis in range(3):
            rows = [
                functional.pad(part.points[:, axis], (0, room), value=torch.nan) if room else
                part.points[:, axis]
                for part, room in zip(parts, missing, strict=True)
            ]  # fmt: skip
            axes.append((rows[0] if len(rows) == 1 else torch.cat(rows)).reshape(-1, BOUNDS_RUN))
        device = parts[0].points.device
        first = [
            part.first + torch.arange(0, len(part.points), BOUNDS_RUN, device=device)
            for part in parts
        ]
        return cls(tuple(axes), torch.cat(first))

    def select(self, some: Tensor) -> Runs:
        """The runs of the given numbers."""
        axes = tuple(axis.index_select(0, some) for axis in self.axes)
        return Runs(axes, self.first.index_select(0, some))


def _groups(
    points: Sequence[Tensor], bounds: Sequence[Tensor], index: int
) -> Iterator[list[_Part]]:
    """Parts of up to `GROUP_POINTS` points: large blocks cut, small ones joined."""
    group: list[_Part] = []
    room = GROUP_POINTS
    for block, boxes in zip(points, bounds, strict=True):
        for begin in range(0, len(block), GROUP_POINTS):
            end = min(len(block), begin + GROUP_POINTS)
            if end - begin > room:
                yield group
                group, room = [], GROUP_POINTS
            runs = slice(begin // BOUNDS_RUN, -(-end // BOUNDS_RUN))
            group.append(_Part(block[begin:end], boxes[runs], index + begin))
            room -= end - begin
        index += len(block)
    if group:
        yield group


class Hits(NamedTuple):
    """Points inside one view.

    Attributes:
        cell: (M,) int64, ``row * width + column``.
        depth: (M,) float32 z-depth.
        number: (M,) int64 index within the memory.
    """

    cell: Tensor
    depth: Tensor
    number: Tensor

    def keys(self) -> Tensor:
        """(M,) int64 keys of the z-buffer."""
        key = self.depth.view(torch.int32).long().bitwise_left_shift_(32)
        key += INDEX_MASK
        return key.sub_(self.number)

    def take(self, rows: Tensor) -> Hits:
        """The hits of the given rows."""
        return Hits(*(part.index_select(0, rows) for part in self))


def project_runs(
    runs: Runs, matrix: list[list[float]], height: int, width: int, nearest_centre: bool
) -> Hits:
    """The points of some runs that one view shows, were nothing in front of them."""
    kept = [axis.flatten() for axis in runs.axes]
    x, y, z = (_row(kept, row) for row in matrix)
    u, v = x.div_(z), y.div_(z)
    if nearest_centre:
        u.round_()
        v.round_()
    inside = z > 0
    for passed in (z < torch.inf, u >= 0, u < width, v >= 0, v < height):
        inside &= passed
    hits = inside.nonzero()[:, 0]
    u, v, z = (values.index_select(0, hits) for values in (u, v, z))
    cell = v.long().mul_(width).add_(u.long())
    number = runs.first.index_select(0, hits >> _RUN_BITS)
    return Hits(cell, z, number.add_(hits.bitwise_and_(BOUNDS_RUN - 1)))


def _row(chunk: list[Tensor], row: list[float]) -> Tensor:
    """``((r0 x + r1 y) + r2 z) + r3`` with one rounding per operation on every device."""
    total = chunk[0] * row[0]
    total += chunk[1] * row[1]
    total += chunk[2] * row[2]
    total += row[3]
    return total


def winners(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Winning point and its depth from z-buffer keys.

    Args:
        keys: int64 keys of any shape.

    Returns:
        Index of the winning point (int64, -1 where the cell is empty) and its z-depth
        (float32, 0 where the cell is empty), in the shape of ``keys``.
    """
    seen = keys != EMPTY_KEY
    index = torch.where(seen, INDEX_MASK - (keys & INDEX_MASK), -1)
    depth = torch.where(seen, keys >> 32, 0).to(torch.int32).view(torch.float32)
    return index, depth
