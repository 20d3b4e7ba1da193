"""What a write changed, so that a file of it need not hold the whole memory again.

A write drops points of blocks that it keeps, and adds blocks at the end. Which points were
dropped is found by comparison, and nothing is told as dropped that does not give the new
block bit for bit.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import CacheFormatError
from .actor import Actor
from .types import CacheBlock, LatentCache


@dataclass(frozen=True, eq=False)
class CacheDelta:
    """The way from one memory to the next.

    Attributes:
        dropped: For each kept block of the old memory, from the first on: the (M,) int32 rows
            that went.
        added: Blocks that follow the kept ones.
        actors: All actors of the new memory; None where they are those of the old one.
    """

    dropped: tuple[Tensor, ...]
    added: tuple[CacheBlock, ...]
    actors: tuple[Actor, ...] | None = None


def difference(old: LatentCache, new: LatentCache) -> CacheDelta:
    """The delta that turns ``old`` into ``new``."""
    dropped: list[Tensor] = []
    for before, after in zip(old.blocks, new.blocks, strict=False):
        rows = _dropped_rows(before, after)
        if rows is None:
            break
        dropped.append(rows)
    return CacheDelta(tuple(dropped), new.blocks[len(dropped) :], _changed_actors(old, new))


def _changed_actors(old: LatentCache, new: LatentCache) -> tuple[Actor, ...] | None:
    same = len(old.actors) == len(new.actors) and all(
        one is other for one, other in zip(old.actors, new.actors, strict=True)
    )
    return None if same else new.actors


def apply_difference(old: LatentCache, delta: CacheDelta) -> LatentCache:
    """The memory after a delta; the inverse of `difference`.

    Raises:
        CacheFormatError: The delta belongs to another memory.
    """
    if len(delta.dropped) > len(old.blocks):
        raise CacheFormatError(
            "The change of the memory does not fit the memory",
            got=f"{len(delta.dropped)} kept blocks",
            expected=f"at most {len(old.blocks)}",
        )
    kept = tuple(
        _without(block, rows) for block, rows in zip(old.blocks, delta.dropped, strict=False)
    )
    cache = dataclasses.replace(old, blocks=kept)
    for block in delta.added:
        cache = cache.append(block)
    return cache if delta.actors is None else cache.with_actors(delta.actors)


def _without(block: CacheBlock, rows: Tensor) -> CacheBlock:
    if len(rows) == 0:
        return block
    if rows.dtype != torch.int32 or rows.ndim != 1:
        raise CacheFormatError(
            "The change of the memory names its points wrongly",
            got=f"{rows.dtype} of shape {tuple(rows.shape)}",
            expected="a list of int32",
        )
    if not 0 <= int(rows.min()) <= int(rows.max()) < len(block):
        raise CacheFormatError(
            "The change of the memory drops points that the memory does not hold",
            got=f"points {int(rows.min())} to {int(rows.max())}",
            expected=f"0 to {len(block) - 1}",
        )
    keep = torch.ones(len(block), dtype=torch.bool, device=block.points.device)
    keep[rows.long()] = False
    return block.take(keep)


def _dropped_rows(before: CacheBlock, after: CacheBlock) -> Tensor | None:
    """Rows of ``before`` that ``after`` lacks; None when it holds anything else."""
    nothing = torch.zeros(0, dtype=torch.int32)
    if before is after:
        return nothing
    if len(after) > len(before) or before.world_to_camera is not after.world_to_camera:
        return None
    keep = torch.isin(_digest(before), _digest(after))
    candidate = before.take(keep) if not bool(keep.all()) else before
    mine, theirs = candidate.content, after.content
    same = mine.keys() == theirs.keys() and all(
        torch.equal(part, theirs[name]) for name, part in mine.items()
    )
    return (~keep).nonzero()[:, 0].int().cpu() if same else None


def _digest(block: CacheBlock) -> Tensor:
    """(N,) int64 that differs, nearly always, for different points."""
    x, y, z = (axis.contiguous().view(torch.int32).long() for axis in block.points.unbind(1))
    return ((x * 1_000_003 + y) * 1_000_003 + z) * 1_000_003 + block.source
