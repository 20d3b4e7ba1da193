"""Which cells a camera sees better than any view in the memory, and which views that replaces."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..cache.build import Observation
from ..cache.footprints import seen, source_cameras, viewers
from ..cache.types import LatentCache
from ..geometry.camera import PixelConvention, projection_matrices
from ..geometry.depth import surface_slope
from ..ops.best_view import BestView, front_band, view_bins
from ..ops.splat import project_runs, walk_runs


@dataclass(frozen=True)
class ViewRule:
    """When a view is worth writing beside others of its surface.

    Attributes:
        view: What the front surface is, and how views of it score.
        score: Least score, for the camera that sees a place now, of all views that are held.
        most: Views of a place from which no further one is written; 0 for any number.
        central: A place is the middle quarter of a cell, not the whole cell. Of a cell that the
            frame splits it is the whole cell.
    """

    view: BestView
    score: float
    most: int
    central: bool


def better_views(
    cache: LatentCache, observation: Observation, known: Tensor, rule: ViewRule
) -> tuple[Tensor, Tensor]:
    """Cells of one frame that no remembered view shows well.

    Args:
        cache: The memory, of the paper's pixel convention and with at least one point.
        observation: One frame.
        known: (h, w) float32, the nearest remembered depth of each place, 0 where none is.
        rule: What a good view is.

    Returns:
        (h, w) bool, cells of a surface that is remembered, but only from views that score
        ``rule.score`` or more here; and (M,) int64, ascending, the views of these cells for
        whose own observers the new one scores less than that.
    """
    # One bin holds all scores that are good enough.
    numbers = dataclasses.replace(rule.view, bin=rule.score).numbers
    depth = observation.depth[0].to(known.device)
    band = front_band(surface_slope(observation.depth)[0].to(known.device), numbers)
    one_surface = (known > 0) & (depth > 0) & (depth <= known * (1 + band))
    held = _front_views(cache, observation, known, rule.central, numbers)
    here = viewers(observation.world_to_camera, observation.intrinsics, cache.device)
    good = view_bins(held.points, held.observers, here[0], numbers) == 0
    cells = known.numel()
    served = torch.zeros(cells, dtype=torch.bool, device=known.device)
    served[held.cell[good]] = True
    better = one_surface.flatten() & ~served
    missed = view_bins(held.points, here.expand(len(held.cell), 4), held.observers, numbers) > 0
    if rule.most:
        count = torch.zeros(cells, dtype=torch.int64, device=known.device)
        count.index_add_(0, held.cell, missed.long())
        better &= count < rule.most
    unmissed = held.number[better[held.cell] & ~missed]
    return better.view_as(known), unmissed.sort().values


def quarter_lens(intrinsics: Tensor, convention: PixelConvention) -> Tensor:
    """Intrinsics (F, 3, 3) of a grid twice as fine, moved by a quarter of a cell.

    Every other cell of it, from the first, is the middle quarter of a cell.
    """
    finer = intrinsics.clone()
    finer[:, :2] *= 2
    finer[:, :2, 2] -= convention.centre
    return finer


class _Held(NamedTuple):
    """Views of the front surface.

    Attributes:
        cell: (M,) int64 place on the grid, row by row.
        number: (M,) int64 point of the memory.
        points: (M, 3) float32.
        observers: (M, 4) float32, who saw each point.
    """

    cell: Tensor
    number: Tensor
    points: Tensor
    observers: Tensor


def _front_views(
    cache: LatentCache, observation: Observation, known: Tensor, central: bool, rule: list[float]
) -> _Held:
    """Points of the front surface in each place of one camera, as `best_view` finds them."""
    cell, depth, number = _hits(cache, observation, known, central)
    nearest = known.flatten()[cell]
    slope = cache.gather(number, [block.slope for block in cache.blocks])
    # The front itself is in its band whatever is known of its slope.
    near = (depth <= front_band(slope, rule).add_(1).mul_(nearest)) | (depth == nearest)
    cell, number = cell[near], number[near]
    observers = torch.cat(list(seen(cache).observers))[source_cameras(cache, number)]
    points = cache.gather(number, [block.points for block in cache.blocks])
    return _Held(cell, number, points, observers)


def _hits(
    cache: LatentCache, observation: Observation, known: Tensor, central: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Place, depth and number (M,) of every point in a place of one camera."""
    size = (int(known.shape[0]), int(known.shape[1]))
    cut = observation.cutouts
    if not central or cut is None or not bool(cut.split.any()):
        return _points_in(cache, observation, size, central)
    # No point of a cell that two surfaces share lies in its middle: all of it is the place.
    split = cut.split[0].to(cache.device).flatten()
    middle = _points_in(cache, observation, size, True)
    anywhere = _points_in(cache, observation, size, False)
    kept = (~split[middle[0]], split[anywhere[0]])
    cell, depth, number = (
        torch.cat([one[kept[0]], other[kept[1]]])
        for one, other in zip(middle, anywhere, strict=True)
    )
    return cell, depth, number


def _points_in(
    cache: LatentCache, observation: Observation, size: tuple[int, int], central: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Cell, depth and number (M,) of every point in a cell of one camera, or in its middle."""
    finer, lens = 1, observation.intrinsics
    if central:
        finer, lens = 2, quarter_lens(lens, cache.convention)
    height, width = finer * size[0], finer * size[1]
    matrix = projection_matrices(observation.world_to_camera, lens).to(cache.device)
    blocks = cache.blocks
    points, bounds = [block.points for block in blocks], [block.bounds for block in blocks]
    found = [torch.zeros(0, dtype=torch.int64, device=cache.device)]
    depths = [torch.zeros(0, device=cache.device)]
    numbers = [found[0]]
    for _, runs in walk_runs(points, bounds, matrix, height, width):
        hits = project_runs(runs, matrix[0].tolist(), height, width, False)
        row, column = hits.cell // width, hits.cell % width
        inside = ((row % finer == 0) & (column % finer == 0)).nonzero()[:, 0]
        hits = hits.take(inside)
        found.append(row[inside] // finer * size[1] + column[inside] // finer)
        depths.append(hits.depth)
        numbers.append(hits.number)
    return torch.cat(found), torch.cat(depths), torch.cat(numbers)
