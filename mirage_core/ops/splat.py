"""The z-buffer: which point does each cell of each view show.

A point competes for a cell with the 64-bit key ``depth bits << 32 | ~index``. The bits of a
positive float order as the float does, so the minimum of the keys is the nearest point, and
the newest one among equal depths, whatever the order in which points arrive: the result has
the same bits on every device and for every number of threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

EMPTY_KEY: Final = torch.iinfo(torch.int64).max
"""Key of a cell that no point falls into."""

BOUNDS_RUN: Final = 512
"""Consecutive points that share one bounding box."""

CHUNK_POINTS: Final = 128 * BOUNDS_RUN
"""Points that are projected at once; bounds the extra memory whatever the size of a memory."""

GROUP_POINTS: Final = 256 * BOUNDS_RUN
"""Points that all views look at before the next ones, so that they stay in a CPU's cache."""

_INDEX_MASK: Final = 0xFFFFFFFF
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
        padded = torch.nn.functional.pad(
            torch.where(finite, points, fill), (0, 0, 0, missing), value=fill
        )
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
    if not any(len(block) for block in points):
        return
    boxes = bounds[0] if len(bounds) == 1 else torch.cat(list(bounds))
    runs = visible_runs(boxes, projection, height, width).tolist()
    matrices = projection.cpu().tolist()
    for group in _groups(points, first_index):
        for view, matrix in enumerate(matrices):
            # Cut after culling: a call costs as much for a few points as for many.
            seen = (span for part in group for span in part.visible(runs[view]))
            for spans in _chunks(seen):
                _splat_view(keys[view], spans, matrix, height, width, nearest_centre)


class _Span(NamedTuple):
    """Consecutive points of one block.

    Attributes:
        axes: x, y and z of all points of the block.
        begin: First point, within the block.
        end: One past the last point.
        first: Index of the first point, within the memory.
    """

    axes: tuple[Tensor, ...]
    begin: int
    end: int
    first: int

    def __len__(self) -> int:
        return self.end - self.begin

    def cut(self, count: int) -> tuple[_Span, _Span]:
        """The first ``count`` points, and the others."""
        middle, first = self.begin + count, self.first + count
        return (
            _Span(self.axes, self.begin, middle, self.first),
            _Span(self.axes, middle, self.end, first),
        )


class _Part(NamedTuple):
    """A span that begins with a run.

    Attributes:
        span: The points.
        run: Number of the run that begins with the first point, within the memory.
    """

    span: _Span
    run: int

    def visible(self, runs: list[bool]) -> Iterator[_Span]:
        """Maximal spans of points whose runs are chosen."""
        number, last = self.run, self.run - (-len(self.span) // BOUNDS_RUN)
        while number < last:
            if not runs[number]:
                number += 1
                continue
            start = number
            while number < last and runs[number]:
                number += 1
            _, span = self.span.cut((start - self.run) * BOUNDS_RUN)
            yield span.cut(min(len(span), (number - start) * BOUNDS_RUN))[0]


def _groups(points: Sequence[Tensor], index: int) -> Iterator[list[_Part]]:
    """Parts of up to `GROUP_POINTS` points: large blocks cut, small ones joined."""
    group: list[_Part] = []
    run = 0
    for block in points:
        axes = block.unbind(1)
        for begin in range(0, len(block), GROUP_POINTS):
            end = min(len(block), begin + GROUP_POINTS)
            part = _Part(_Span(axes, begin, end, index + begin), run + begin // BOUNDS_RUN)
            if group and sum(len(held.span) for held in group) + end - begin > GROUP_POINTS:
                yield group
                group = []
            group.append(part)
        index += len(block)
        run -= -len(block) // BOUNDS_RUN
    yield group


def _chunks(spans: Iterable[_Span]) -> Iterator[list[_Span]]:
    """The same points, `CHUNK_POINTS` at a time."""
    chunk: list[_Span] = []
    room = CHUNK_POINTS
    for span in spans:
        rest = span
        while len(rest):
            head, rest = rest.cut(min(len(rest), room))
            chunk.append(head)
            room -= len(head)
            if room == 0:
                yield chunk
                chunk, room = [], CHUNK_POINTS
    if chunk:
        yield chunk


def _splat_view(
    keys: Tensor,
    spans: list[_Span],
    matrix: list[list[float]],
    height: int,
    width: int,
    nearest_centre: bool,
) -> None:
    kept = [
        torch.cat([span.axes[axis][span.begin : span.end] for span in spans]) for axis in range(3)
    ]
    x, y, z = (_row(kept, row) for row in matrix)
    u, v = x.div_(z), y.div_(z)
    if nearest_centre:
        u.round_()
        v.round_()
    inside = z > 0
    for passed in (z < torch.inf, u >= 0, u < width, v >= 0, v < height):
        inside &= passed
    hits = inside.nonzero()[:, 0]
    if len(hits) == 0:
        return
    u, v, z = (values.index_select(0, hits) for values in (u, v, z))
    cell = v.long().mul_(width).add_(u.long())
    key = z.view(torch.int32).long().bitwise_left_shift_(32)
    key += _INDEX_MASK - _index_of(hits, spans)
    better = (key < keys.index_select(0, cell)).nonzero()[:, 0]
    cell, key = cell.index_select(0, better), key.index_select(0, better)
    keys.scatter_reduce_(0, cell, key, "amin")


def _index_of(kept: Tensor, spans: list[_Span]) -> Tensor:
    """Indices within the memory of points of the joined spans."""
    if len(spans) == 1:
        return kept + spans[0].first
    ends = torch.tensor([len(span) for span in spans]).cumsum(0)
    starts = ends - ends.diff(prepend=ends.new_zeros(1))
    shift = torch.tensor([span.first for span in spans]) - starts
    owner = torch.bucketize(kept, ends.to(kept.device), right=True)
    return kept + shift.to(kept.device).index_select(0, owner)


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
    index = torch.where(seen, _INDEX_MASK - (keys & _INDEX_MASK), -1)
    depth = torch.where(seen, keys >> 32, 0).to(torch.int32).view(torch.float32)
    return index, depth
