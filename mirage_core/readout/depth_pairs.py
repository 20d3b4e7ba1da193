"""New depth maps beside the depth that the memory shows to the same cameras.

A z-buffer keeps the nearest of many noisy points, which is nearer than the surface. A scale
that followed it would shrink from chunk to chunk. Here every point of the front surface counts,
and each is compared with the new depth at its own place in the picture, not at a cell's centre.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cache.types import CacheBlock, LatentCache
from ..constants import MAX_CHUNK_FRAMES
from ..geometry.align import DepthPairs
from ..geometry.camera import PixelConvention, project, projection_matrices
from ..geometry.depth import valid_depth
from ..ops.splat import BOUNDS_RUN, visible_runs
from ..validate import expect_shape

FRONT_LAYER: Final = 0.10
"""Points of one cell that differ by less than this, in logarithms of depth, are one surface."""


def depth_pairs(
    cache: LatentCache,
    depth: Tensor,
    world_to_camera: Tensor,
    intrinsics: Tensor,
    size: tuple[int, int],
    skip: Tensor | None = None,
) -> DepthPairs:
    """New and remembered depth of every latent cell of T frames.

    Points that were seen early in the shot weigh more: errors of scale add up from chunk to
    chunk, and theirs is the sum of fewer.

    Args:
        cache: The memory.
        depth: (T, H, W) new z-depth at any resolution; invalid where 0, negative or not finite.
        world_to_camera: (T, 4, 4).
        intrinsics: (T, 3, 3) of the latent grid.
        size: (h, w) of the latent grid.
        skip: (T, h, w) bool, cells that do not count.

    Returns:
        (T, h, w) pairs: geometric means over the points of the front surface of each cell.

    Raises:
        ShapeError: Shapes do not fit together.
    """
    frames = expect_shape("The depth", depth, "T H W")["T"]
    expect_shape("The poses", world_to_camera, "T 4 4", T=frames)
    height, width = size
    if skip is not None:
        expect_shape("The cells to skip", skip, "T h w", T=frames, h=height, w=width)
    projection = projection_matrices(world_to_camera, intrinsics).to(cache.device)
    runs = [visible_runs(block.bounds, projection, height, width) for block in cache.blocks]
    sums = torch.zeros(frames, 3, height * width, device=cache.device)
    for frame in range(frames):
        found = [
            _seen(cache, block, mask[frame], projection[frame], depth[frame], size)
            for block, mask in zip(cache.blocks, runs, strict=True)
        ]
        cell, known, new, weight = (
            torch.cat(part) for part in zip(*found, strict=True)
        ) if found else (torch.zeros(0, dtype=torch.int64), *torch.zeros(3, 0))
        ratio = known - new
        front = torch.full((height * width,), torch.inf, device=cache.device)
        front.scatter_reduce_(0, cell, ratio, "amin")
        weight = torch.where(ratio <= front[cell] + FRONT_LAYER, weight, 0.0)
        rows = torch.stack([weight, weight * new, weight * known])
        sums[frame].index_add_(1, cell, rows)
    weight, new, known = sums.view(frames, 3, height, width).to(depth.device).unbind(1)
    share = weight.clamp_min(1e-20)
    # One cell counts once, whether it holds two points or two hundred.
    counted = (weight > 0).float()
    if skip is not None:
        counted = counted * ~skip.to(counted.device)
    return DepthPairs((new / share).exp(), (known / share).exp(), counted)


def _seen(
    cache: LatentCache,
    block: CacheBlock,
    runs: Tensor,
    projection: Tensor,
    depth: Tensor,
    size: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cell, log of own depth, log of new depth, and weight of a block's points in one view."""
    index = runs.nonzero()[:, 0, None] * BOUNDS_RUN
    index = (index + torch.arange(BOUNDS_RUN, device=index.device)).flatten()
    index = index[index < len(block)]
    x, y, z = project(block.points[index], projection)
    u, v = x / z, y / z
    column, row = cache.convention.cells(u), cache.convention.cells(v)
    inside = (z > 0) & (row >= 0) & (row < size[0]) & (column >= 0) & (column < size[1])
    # The released convention puts rays half a cell beside the depth that they carry.
    beside = 0.5 - PixelConvention(cache.convention).centre
    place = torch.stack([(u + beside) / size[1], (v + beside) / size[0]], dim=1)
    new = _sample(depth.to(z.device), torch.where(inside[:, None], place, 0.5))
    chosen = inside & (new > 0)
    frames = block.frames.to(index.device)[block.source[index[chosen]].long()]
    weight = 1 / (1 + frames.clamp_min(0) / MAX_CHUNK_FRAMES)
    cell = row[chosen].long() * size[1] + column[chosen].long()
    return cell, z[chosen].log(), new[chosen].log(), weight.float()


def _sample(depth: Tensor, place: Tensor) -> Tensor:
    """Depth (N,) at places (N, 2) in 0..1; bilinear in inverse depth, which is exact on planes.

    0 where any of the four pixels around is invalid.
    """
    valid = valid_depth(depth)
    inverse = torch.where(valid, 1 / depth, 0.0)
    maps = torch.stack([inverse, (~valid).float()])[None].float()
    grid = (2 * place - 1)[None, None]
    sampled = F.grid_sample(
        maps, grid, mode="bilinear", padding_mode="border", align_corners=False
    )[0, :, 0]
    known = (sampled[0] > 0) & (sampled[1] == 0)
    return torch.where(known, 1 / torch.where(known, sampled[0], 1.0), 0.0)
