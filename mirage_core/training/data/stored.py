"""Which items of a data set are stored, whole or in part."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ...errors import CacheFormatError
from .dataset import ClipDataset
from .shards import item_of


def items_of(keys: Iterable[str]) -> tuple[str, ...]:
    """Items that clips belong to, by their keys."""
    return tuple(dict.fromkeys(map(item_of, keys)))


def without_item(item: str, keys: Iterable[str]) -> list[str]:
    """Keys of the clips of other items."""
    return [key for key in keys if item_of(key) != item]


def finished_items(folder: Path) -> set[str]:
    """Items whose clips are all stored. Clips of damaged shards do not count."""
    dataset = _opened(folder)
    return set() if dataset is None else dataset.finished()


def has_clips(folder: Path) -> bool:
    """True when a data set holds a clip that can be read."""
    return _opened(folder) is not None


def begun_items(folder: Path) -> dict[str, tuple[str, ...]]:
    """Keys of the clips that are stored, of every item that is not finished."""
    dataset = _opened(folder)
    if dataset is None:
        return {}
    finished = dataset.finished()
    found: dict[str, tuple[str, ...]] = {}
    for key in dataset.keys():
        if (item := item_of(key)) not in finished:
            found[item] = (*found.get(item, ()), key)
    return found


def _opened(folder: Path) -> ClipDataset | None:
    try:
        return ClipDataset(folder)
    except CacheFormatError:
        return None
