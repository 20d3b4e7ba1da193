"""What a memory costs: every byte that it holds, by what the byte is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from .types import LatentCache

PURPOSE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "points": "coordinates",
        "tokens": "tokens",
        "scale": "tokens",
        "source": "origin",
        "slope": "origin",
        "mask": "origin",
        "bounds": "culling",
        "world_to_camera": "cameras",
        "intrinsics": "cameras",
        "frames": "cameras",
    }
)
"""What each tensor of a block is for. ``origin`` says of a point which camera saw it and how the
surface leaned there, and which part of its cell it is: the preview and the write policies need
it, reading does not."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of a memory.

    Attributes:
        points: Number of points.
        blocks: Number of blocks.
        parts: Bytes by purpose, see `PURPOSE`; every tensor of every block is in one of them.
        actors: Bytes of what moves, with tracks and paths; a layer of its own.
    """

    points: int
    blocks: int
    parts: Mapping[str, int]
    actors: int = 0

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.parts.values()) + self.actors

    @property
    def mebibytes(self) -> float:
        """All bytes in MiB."""
        return self.total / 2**20

    @property
    def bytes_per_point(self) -> float:
        """Bytes of the still points divided by their number; 0 without points."""
        return (self.total - self.actors) / self.points if self.points else 0.0


def footprint(cache: LatentCache) -> Footprint:
    """Count every byte that the tensors of a memory hold."""
    parts = dict.fromkeys(PURPOSE.values(), 0)
    for block in cache.blocks:
        for name, tensor in block.parts.items():
            parts[PURPOSE[name]] += tensor.numel() * tensor.element_size()
    actors = sum(actor.nbytes for actor in cache.actors)
    return Footprint(len(cache), len(cache.blocks), MappingProxyType(parts), actors)
