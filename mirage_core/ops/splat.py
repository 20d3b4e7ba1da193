"""The z-buffer: which point does each cell of each view show.

A point competes for a cell with the 64-bit key ``depth bits << 32 | ~index``. The bits of a
positive float order as the float does, so the minimum of the keys is the nearest point, and
the newest one among equal depths, whatever the order in which points arrive: the result has
the same bits on every device and for every number of threads.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

EMPTY_KEY: Final = torch.iinfo(torch.int64).max
"""Key of a cell that no point falls into."""

BOUNDS_RUN: Final = 512
"""Consecutive points that share one bounding box."""

CHUNK_POINTS: Final = 64 * BOUNDS_RUN
"""Points that are projected at once; bounds the extra memory whatever the size of a memory."""

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
    count = len(points)
    if count == 0:
        return
    coordinates = points.unbind(1)
    runs = visible_runs(bounds, projection, height, width).tolist()
    matrices = projection.cpu().tolist()
    per_chunk = CHUNK_POINTS // BOUNDS_RUN
    for start in range(0, len(bounds), per_chunk):
        window = slice(start * BOUNDS_RUN, min(count, (start + per_chunk) * BOUNDS_RUN))
        chunk = [axis[window] for axis in coordinates]
        for view, matrix in enumerate(matrices):
            chosen = runs[view][start : start + per_chunk]
            base = first_index + window.start
            _splat_view(keys[view], chunk, chosen, matrix, height, width, base, nearest_centre)


def _splat_view(
    keys: Tensor,
    chunk: list[Tensor],
    runs: list[bool],
    matrix: list[list[float]],
    height: int,
    width: int,
    base: int,
    nearest_centre: bool,
) -> None:
    spans = _spans(runs, len(chunk[0]))
    if not spans:
        return
    kept = [torch.cat([axis[a:b] for a, b in spans]) for axis in chunk]
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
    key += (_INDEX_MASK - base) - _position(hits, spans)
    better = (key < keys.index_select(0, cell)).nonzero()[:, 0]
    cell, key = cell.index_select(0, better), key.index_select(0, better)
    keys.scatter_reduce_(0, cell, key, "amin")


def _spans(runs: list[bool], count: int) -> list[tuple[int, int]]:
    """Maximal intervals of points whose runs are chosen."""
    spans: list[tuple[int, int]] = []
    for number, chosen in enumerate(runs):
        begin, end = number * BOUNDS_RUN, min(count, (number + 1) * BOUNDS_RUN)
        if not chosen:
            continue
        if spans and spans[-1][1] == begin:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((begin, end))
    return spans


def _position(kept: Tensor, spans: list[tuple[int, int]]) -> Tensor:
    """Where points of the joined spans stood in their chunk."""
    if len(spans) == 1:
        return kept + spans[0][0]
    lengths = torch.tensor([end - begin for begin, end in spans])
    ends = lengths.cumsum(0)
    shift = torch.tensor([begin for begin, _ in spans]) - (ends - lengths)
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
