"""The hard cap: thinning what is sampled too densely, so that no place is forgotten."""

from __future__ import annotations

import dataclasses
from typing import Final

import torch
from torch import Tensor

from .footprints import sample_size
from .types import LatentCache

SLACK: Final = 0.9
"""A memory above its cap is thinned to this share of it, so that not every write thins."""

_DOUBLINGS: Final = 32
_BITS: Final = 18


def thin(cache: LatentCache, limit: int) -> LatentCache:
    """Remove points where the memory is densest until at most ``limit`` are left.

    Space is cut into cubes whose edge is a point's sample size: where points were seen from
    near, cubes are small. Of the points of one cube one is enough. While there are too many
    points the edge is doubled, so that density falls everywhere alike, measured in what each
    view could resolve. Of a cube the first point stays. Points that remain keep their order.

    Args:
        cache: The memory.
        limit: The cap, at least 1.

    Returns:
        A memory of at most ``limit`` points; the same memory when it holds no more.
    """
    if len(cache) <= limit:
        return cache
    keep = _kept(cache, max(1, int(SLACK * limit)))
    blocks = []
    for block, first in zip(cache.blocks, cache.offsets, strict=False):
        mine = keep[first : first + len(block)]
        if bool(mine.all()):
            blocks.append(block)
        elif bool(mine.any()):
            blocks.append(block.take(mine))
    return dataclasses.replace(cache, blocks=tuple(blocks))


def _kept(cache: LatentCache, limit: int) -> Tensor:
    """(N,) bool: the ``limit`` points that stay."""
    index = torch.arange(len(cache), device=cache.device)
    points = torch.cat([block.points for block in cache.blocks]).double()
    size = sample_size(cache, index).double().clamp_min(torch.finfo(torch.float32).tiny)
    level = size.log2().floor()
    survivors, chosen = index, index
    for doubling in range(_DOUBLINGS):
        if len(chosen) <= limit:
            break
        survivors = chosen
        edge = torch.exp2(level[survivors] + doubling)
        chosen = survivors[_first(points[survivors], edge, level[survivors])]
    if len(chosen) > limit:
        chosen = chosen[:0]
    return _filled(survivors, chosen, limit, len(cache))


def _first(points: Tensor, edge: Tensor, level: Tensor) -> Tensor:
    """Positions, ascending, of the first point in every cube."""
    reach = 1 << (_BITS - 1)
    cubes = (points / edge[:, None]).floor().clamp(-reach, reach - 1).long() + reach
    key = level.long() - int(level.min())
    for axis in cubes.unbind(1):
        key = (key << _BITS) | axis
    _, cube = torch.unique(key, return_inverse=True)
    place = torch.arange(len(points), device=points.device)
    first = place.new_full((int(cube.max()) + 1,), len(points))
    return first.scatter_reduce_(0, cube, place, "amin").sort().values


def _filled(survivors: Tensor, chosen: Tensor, limit: int, count: int) -> Tensor:
    """The chosen points and as many of the other survivors, evenly spread, as there is room."""
    keep = torch.zeros(count, dtype=torch.bool, device=chosen.device)
    keep[chosen] = True
    others = survivors[~keep[survivors]]
    room = min(limit - len(chosen), len(others))
    if room:
        keep[others[torch.arange(room, device=chosen.device) * len(others) // room]] = True
    return keep
