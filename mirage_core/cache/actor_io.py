"""Actors in files: their points as a memory's blocks, tracks as tensors, the rest in the header."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from ..errors import (
    CacheFormatError,
    GeometryError,
    ModelMismatchError,
    ShapeError,
    ValueRangeError,
)
from ..tensor_files import is_count
from .actor import MAX_ACTORS, Actor
from .track import Behaviour, Track
from .types import CacheBlock, LatentCache

ACTORS: Final = "actors"
"""Entry of the header that describes the actors; files without any have none."""

MAX_BLOCKS: Final = 100_000
"""Most blocks of a memory, and of an actor."""

MAX_IDS: Final = 10_000

_TRACK_TYPES: Final = {
    "frames": torch.int64,
    "positions": torch.float64,
    "headings": torch.float64,
    "up": torch.float64,
}

BlockTensorsOf = Callable[[CacheBlock, str], dict[str, Tensor]]
BlockOf = Callable[[dict[str, Tensor], str], CacheBlock]


def actor_tensors(actors: Sequence[Actor], of_block: BlockTensorsOf) -> dict[str, Tensor]:
    """The tensors of actors by the names that a file gives them."""
    tensors: dict[str, Tensor] = {}
    for number, actor in enumerate(actors):
        prefix = f"actor.{number}"
        for index, block in enumerate(actor.cache.blocks):
            tensors |= of_block(block, f"{prefix}.block.{index}")
        for kind, track in (("track", actor.track), ("path", actor.path)):
            if track is not None:
                tensors |= {f"{prefix}.{kind}.{name}": t for name, t in track.tensors.items()}
    return tensors


def actor_entries(actors: Sequence[Actor]) -> list[dict[str, Any]]:
    """What the header says of each actor."""
    return [
        {
            "name": actor.name,
            "behaviour": actor.behaviour.value,
            "ids": list(actor.ids),
            "blocks": len(actor.cache.blocks),
            "points": len(actor),
            "path": actor.path is not None,
            "gone": actor.gone,
        }
        for actor in actors
    ]


def actors_from(
    entries: object, tensors: dict[str, Tensor], like: LatentCache, of_block: BlockOf
) -> tuple[Actor, ...]:
    """The inverse of `actor_tensors` and `actor_entries`, trusting nothing in the file.

    Args:
        entries: What the header holds under `ACTORS`.
        tensors: All tensors of the file.
        like: The memory that the actors belong to; only its settings count.
        of_block: Makes a block of the tensors under a name.

    Raises:
        CacheFormatError: An actor is incomplete, or holds what no actor holds.
    """
    if not isinstance(entries, list) or len(entries) > MAX_ACTORS:
        raise CacheFormatError("The file does not say which actors it holds", got=type(entries))
    return tuple(
        _actor(entry, tensors, f"actor.{number}", like, of_block)
        for number, entry in enumerate(entries)
    )


class _Described(NamedTuple):
    """What the header says of an actor."""

    name: str
    behaviour: Behaviour
    ids: tuple[int, ...]
    blocks: int
    points: int
    path: bool
    gone: bool


def _actor(
    entry: object, tensors: dict[str, Tensor], prefix: str, like: LatentCache, of_block: BlockOf
) -> Actor:
    told = _described(entry)
    blocks = tuple(of_block(tensors, f"{prefix}.block.{index}") for index in range(told.blocks))
    try:
        actor = Actor(
            told.name,
            LatentCache(blocks, like.convention, like.codec, like.channels),
            _track(tensors, f"{prefix}.track"),
            told.behaviour,
            _track(tensors, f"{prefix}.path") if told.path else None,
            told.ids,
            told.gone,
        )
    except (ModelMismatchError, ShapeError, ValueRangeError, GeometryError) as error:
        raise _broken(str(error)) from error
    if len(actor) != told.points:
        raise _broken(f"{len(actor)} points")
    return actor


def _described(entry: object) -> _Described:
    """What the header says of an actor, after a look at each value."""
    if not isinstance(entry, dict):
        raise _broken(f"an entry of type {type(entry).__name__}")
    name, behaviour, ids = (entry.get(key) for key in ("name", "behaviour", "ids"))
    blocks, points, path = (entry.get(key) for key in ("blocks", "points", "path"))
    gone = entry.get("gone")
    known = [one.value for one in Behaviour]
    if not isinstance(name, str) or behaviour not in known or not isinstance(path, bool):
        raise _broken(f"name {name!r:.80}, behaviour {behaviour!r:.80}, path {path!r:.80}")
    if not isinstance(gone, bool):
        raise _broken(f"gone {gone!r:.80}")
    if not is_count(points) or not is_count(blocks) or blocks > MAX_BLOCKS:
        raise _broken("impossible counts")
    if not isinstance(ids, list) or len(ids) > MAX_IDS or not all(map(is_count, ids)):
        raise _broken("impossible numbers of a tracker")
    return _Described(name, Behaviour(behaviour), tuple(ids), blocks, points, path, gone)


def _track(tensors: dict[str, Tensor], prefix: str) -> Track:
    parts: dict[str, Tensor] = {}
    for name, dtype in _TRACK_TYPES.items():
        part = tensors.get(f"{prefix}.{name}")
        if part is None or part.dtype != dtype:
            raise _broken(f"{prefix}.{name} of type {None if part is None else part.dtype}")
        parts[name] = part
    return Track(**parts)


def _broken(got: str) -> CacheFormatError:
    return CacheFormatError(
        "The file holds an actor that cannot be one",
        got=got,
        fix="The file is damaged: copy or make it again",
    )
