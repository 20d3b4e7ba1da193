"""Compaction: few blocks whose runs of points lie close together, so that reading skips most.

Points are put in Morton order once, when they are written. Compaction joins neighbouring
blocks and keeps the order of the points. The index of a point, which decides among equal
depths, never changes by it, and so every readout keeps its bits.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import torch
from torch import Tensor

from ..ops.splat import BOUNDS_RUN
from .build import merge_blocks
from .types import CacheBlock, LatentCache

BLOCK_POINTS: Final = 256 * BOUNDS_RUN
"""Neighbouring blocks are joined up to this many points. A write that changes a block saves it
again, so larger blocks would make larger files of chunks."""

_BITS: Final = 21


def morton_codes(points: Tensor) -> Tensor:
    """Place of points (N, 3) on the Morton curve through their bounding box: (N,) int64.

    The longest side is cut into 2^21 - 2 steps, the others into steps of the same length.
    Points with a NaN or infinite coordinate come last.
    """
    finite = torch.isfinite(points).all(dim=1)
    inside = points[finite].double()
    codes = torch.full((len(points),), torch.iinfo(torch.int64).max, device=points.device)
    if len(inside) == 0:
        return codes
    low = inside.amin(dim=0)
    extent = float((inside.amax(dim=0) - low).max())
    steps = ((inside - low) / max(extent, torch.finfo(torch.float64).tiny)).clamp(0, 1)
    cells = (steps * ((1 << _BITS) - 2)).long()
    x, y, z = (_spread(axis) for axis in cells.unbind(1))
    codes[finite] = x | (y << 1) | (z << 2)
    return codes


def _spread(values: Tensor) -> Tensor:
    """Two zero bits between the 21 bits of each value."""
    for shift, mask in (
        (32, 0x1F00000000FFFF),
        (16, 0x1F0000FF0000FF),
        (8, 0x100F00F00F00F00F),
        (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):
        values = (values | (values << shift)) & mask
    return values


def culling_order(points: Tensor) -> Tensor:
    """Order (N,) int64 in which consecutive points lie close together; equal places keep theirs.

    Points that share one box anyway stay as they are.
    """
    if len(points) <= BOUNDS_RUN:
        return torch.arange(len(points), device=points.device)
    return morton_codes(points).argsort(stable=True)


def compact(cache: LatentCache, largest: int = BLOCK_POINTS) -> LatentCache:
    """Join neighbouring blocks, up to ``largest`` points in one; every readout keeps its bits.

    Cameras that no remaining point was seen by are dropped from joined blocks.

    Returns:
        The memory with fewer blocks; the same memory when there is nothing to join.
    """
    groups: list[list[CacheBlock]] = []
    for block in cache.blocks:
        if groups and sum(map(len, groups[-1])) + len(block) <= largest:
            groups[-1].append(block)
        else:
            groups.append([block])
    if all(len(group) == 1 for group in groups):
        return cache
    blocks = [group[0] if len(group) == 1 else _joined(group) for group in groups]
    return dataclasses.replace(cache, blocks=tuple(blocks))


def _joined(group: list[CacheBlock]) -> CacheBlock:
    block = merge_blocks(group)
    used, source = torch.unique(block.source.long(), return_inverse=True)
    used = used.cpu()
    return dataclasses.replace(
        block,
        source=source,
        world_to_camera=block.world_to_camera[used],
        intrinsics=block.intrinsics[used],
        frames=block.frames[used],
    )
