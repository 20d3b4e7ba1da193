"""The policy ``novelty``: write what the memory does not show, remove what stands in free space."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cache.build import Observation, make_block, merge_blocks
from ..cache.compact import culling_order
from ..cache.footprints import focal_length, sample_size
from ..cache.types import CacheBlock, LatentCache
from ..codecs.memory_kind import MemoryKind
from ..geometry.camera import PixelConvention, project, projection_matrices
from ..ops.best_view import MIN_BIN
from ..ops.splat import BOUNDS_RUN, visible_runs
from ..readout.readout import default_view, read_winners
from ..validate import expect_range
from .better_views import ViewRule, better_views, quarter_lens

MAX_FOOTPRINT: Final = 3.0
"""Cells across. One look at 3 x 3 cells cannot outvote a token that stands for more."""


@dataclass(frozen=True)
class NoveltyRule:
    """When a cell is new, and when a remembered point goes.

    Shares are of the observed depth.

    Attributes:
        nearer: A cell is new when its surface is in front of the remembered one by this share.
        central: Only the middle quarter of a cell counts as shown by a point in it. Without
            this, points gather at the rims of cells and leave holes when the camera moves. Not
            for memories of colours, whose points are drawn as large as they are.
        carve: A point violates free space, and is removed, when the observation sees through it:
            all of the 3 x 3 cells around it show surfaces farther than it by this share.
            0 keeps every point.
        upgrade: A point is replaced when its sample size is above the new one divided by this
            and both show one surface. 0 replaces none.
        same: Depths that differ by less than this share belong to one surface.
        view_score: A cell is also new when the best remembered view of its surface scores at
            least this for the camera that sees it now, see `mirage_core.ops.best_view`. A view
            goes when the new one scores less than this for the camera that saw it: no camera
            would miss it. 0 never asks; neither do memories that are looked at by nearest
            points, see `mirage_core.readout.readout.default_view`.
        max_views: Views of one place, the middle quarter of a cell, from which no further one is
            written; 0 for any number.

    Raises:
        ValueRangeError: A setting is out of range.
    """

    nearer: float = 0.10
    central: bool = True
    carve: float = 0.10
    upgrade: float = 0.5
    same: float = 0.05
    view_score: float = 0.1
    max_views: int = 2

    def __post_init__(self) -> None:
        for name in ("nearer", "carve", "upgrade", "same"):
            expect_range(f"The share {name!r} of what is new", getattr(self, name), 0.0, 1.0)
        if self.view_score:
            expect_range("The score of a better view", self.view_score, MIN_BIN, 100.0)
        expect_range("The most views of a place", self.max_views, 0, 1 << 20)


def write_novel(
    cache: LatentCache,
    observation: Observation,
    rule: NoveltyRule,
    on_frame: Callable[[int, int], None] | None = None,
) -> LatentCache:
    """Write the new cells of an observation, frame by frame; the input memory stays as it is.

    Args:
        cache: The memory.
        observation: F latent frames with geometry.
        rule: What counts as new.
        on_frame: Called with (done, total) after each frame; may raise to cancel.

    Returns:
        The memory without the points that were removed or replaced, and with one more
        block; the same memory when nothing changed.
    """
    working = cache
    total = len(observation.depth)
    for number in range(total):
        one = observation.frame(number)
        if rule.carve:
            working = hide(working, free_space_violations(working, one, rule.carve))
        novel, replaced = novel_cells(working, one, rule)
        working = hide(working, replaced)
        block = make_block(one, cache.convention, novel)
        if len(block):
            working = working.append(block)
        if on_frame is not None:
            on_frame(number + 1, total)
    return _settle(cache, working)


def novel_cells(
    cache: LatentCache, observation: Observation, rule: NoveltyRule
) -> tuple[Tensor, Tensor]:
    """What one frame has to say that the memory does not say yet.

    Args:
        cache: The memory.
        observation: One or more frames; each is compared with the memory alone.
        rule: What counts as new.

    Returns:
        (F, h, w) bool, the new cells, and (M,) int64, the points that they replace.
    """
    if len(cache) == 0:
        everywhere = torch.ones_like(observation.depth, dtype=torch.bool)
        return everywhere, torch.zeros(0, dtype=torch.int64, device=everywhere.device)
    central = rule.central and cache.kind is MemoryKind.TOKENS
    winner, known = _shown(cache, observation, central)
    depth = observation.depth.to(known.device)
    novel = (winner < 0) | (depth < known * (1 - rule.nearer))
    replaced = [torch.zeros(0, dtype=torch.int64, device=winner.device)]
    if rule.upgrade:
        one_surface = (winner >= 0) & ((known - depth).abs() < rule.same * depth)
        new_size = depth / focal_length(observation.intrinsics).to(depth)[:, None, None]
        old_size = sample_size(cache, winner.clamp_min(0))
        coarse = one_surface & (new_size < rule.upgrade * old_size)
        novel |= coarse
        replaced.append(winner[coarse])
    view = default_view(cache)
    if rule.view_score and view is not None:
        asked = ViewRule(view, rule.view_score, rule.max_views, central)
        for number in range(len(depth)):
            better, unmissed = better_views(cache, observation.frame(number), known[number], asked)
            novel[number] |= better
            replaced.append(unmissed)
    return novel, torch.cat(replaced).unique()


def _shown(cache: LatentCache, observation: Observation, central: bool) -> tuple[Tensor, Tensor]:
    """Winner and depth (F, h, w) of every cell, or of the middle quarter of every cell."""
    height, width = (int(size) for size in observation.depth.shape[1:])
    pose, intrinsics = observation.world_to_camera, observation.intrinsics
    if not central:
        return read_winners(cache, pose, intrinsics, (height, width))
    finer = quarter_lens(intrinsics, cache.convention)
    winner, known = read_winners(cache, pose, finer, (2 * height, 2 * width))
    return _with_split_cells(cache, observation, winner[:, ::2, ::2], known[:, ::2, ::2])


def _with_split_cells(
    cache: LatentCache, observation: Observation, winner: Tensor, known: Tensor
) -> tuple[Tensor, Tensor]:
    """The same, but what shows anywhere in cells that two surfaces share.

    Points of such a cell lie in its parts, and none in its middle: it would be new for ever.
    """
    cut = observation.cutouts
    if cut is None or not bool(cut.split.any()):
        return winner, known
    size = (int(winner.shape[1]), int(winner.shape[2]))
    split = cut.split.to(winner.device)
    pose, intrinsics = observation.world_to_camera, observation.intrinsics
    whole, depth = read_winners(cache, pose, intrinsics, size)
    return torch.where(split, whole, winner), torch.where(split, depth, known)


def free_space_violations(cache: LatentCache, observation: Observation, share: float) -> Tensor:
    """Points in the free space that one frame looks through.

    Args:
        cache: The memory.
        observation: One frame. Cells without depth, and those beside them, remove nothing.
        share: How far in front of the nearest surface around it a point has to be.

    Returns:
        (M,) int64 indices of points, ascending.
    """
    device = cache.device
    # The least of 3 x 3 depths is 0 wherever one of them is unknown.
    nearest = -F.max_pool2d(-observation.depth, 3, stride=1, padding=1)[0]
    limit = (nearest * (1 - share)).to(device)
    matrix = projection_matrices(observation.world_to_camera, observation.intrinsics).to(device)
    found = [
        _in_front(block, matrix, limit, cache.convention) + first
        for block, first in zip(cache.blocks, cache.offsets, strict=False)
    ]
    index = torch.cat([torch.zeros(0, dtype=torch.int64, device=device), *found])
    points = cache.gather(index, [block.points for block in cache.blocks])
    if len(index) == 0:
        return index
    depth = points @ matrix[0, 2, :3] + matrix[0, 2, 3]
    cell = depth / focal_length(observation.intrinsics).float().to(device)
    return index[sample_size(cache, index) <= MAX_FOOTPRINT * cell]


def _in_front(
    block: CacheBlock, matrix: Tensor, limit: Tensor, convention: PixelConvention
) -> Tensor:
    """Rows of a block in front of the limiting depth (h, w) of one view."""
    height, width = limit.shape
    runs = visible_runs(block.bounds, matrix, height, width)[0]
    rows = runs.repeat_interleave(BOUNDS_RUN)[: len(block)].nonzero()[:, 0]
    x, y, z = project(block.points[rows], matrix[0])
    column, row = convention.cells(x / z), convention.cells(y / z)
    inside = (z > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    rows, z = rows[inside], z[inside]
    return rows[z < limit[row[inside].long(), column[inside].long()]]


def hide(cache: LatentCache, index: Tensor) -> LatentCache:
    """The memory with some points at no place: they stay counted, and are never seen."""
    if len(index) == 0:
        return cache
    blocks = list(cache.blocks)
    offsets = cache.offsets
    for number, block in enumerate(blocks):
        mine = index[(index >= offsets[number]) & (index < offsets[number + 1])]
        if len(mine):
            points = block.points.T.clone().T
            points[mine - offsets[number]] = torch.nan
            blocks[number] = dataclasses.replace(block, points=points)
    return dataclasses.replace(cache, blocks=tuple(blocks))


def _settle(cache: LatentCache, working: LatentCache) -> LatentCache:
    """Remove hidden points, and join what was written to one block."""
    held = len(cache.blocks)
    blocks = [
        old if old is now else old.take(~(now.points[:, 0].isnan() & ~old.points[:, 0].isnan()))
        for old, now in zip(cache.blocks, working.blocks, strict=False)
    ]
    fresh = [block.take(~block.points[:, 0].isnan()) for block in working.blocks[held:]]
    if any(len(block) for block in fresh):
        merged = merge_blocks(fresh)
        blocks.append(merged.take(culling_order(merged.points)))
    if len(blocks) == held and all(a is b for a, b in zip(blocks, cache.blocks, strict=True)):
        return cache
    return dataclasses.replace(cache, blocks=tuple(block for block in blocks if len(block)))
