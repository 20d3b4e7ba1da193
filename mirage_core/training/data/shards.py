"""A shard: one safetensors file of many clips, and the JSON index that says where each is.

A shard holds one flat tensor per field, with the values of all its clips in a row, so that its
header stays short however many clips there are. The index holds sizes, from which offsets
follow. A shard counts once its index is there, which is written last.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ...conditioning.condition import Condition
from ...constants import LATENT_CHANNELS
from ...errors import CacheFormatError
from ...files import atomic_write
from ...tensor_files import is_count, map_tensors, write_safetensors
from .clip import TrainingClip

FORMAT: Final = "mirage-clips"
VERSION: Final = 1

MAX_SIZE: Final = 1 << 16
"""Largest size of a clip along one axis: products of larger ones leave the range of torch."""

PATH_NUMBERS: Final = 6
"""Numbers of a camera in a path: where it is, and where it looks to."""

FLOATS: Final = (
    "target", "scene", "preceding", "preceding_scene", "references",
    "offset", "log_depth", "preceding_offset", "preceding_log_depth", "text",
    "path",
)  # fmt: skip
FLAGS: Final = ("visible", "preceding_visible")
FIELDS: Final = (*FLOATS, *FLAGS)
"""Tensors of a clip, in the order in which offsets are counted."""

_OWN: Final = ("target", "text", "path")
"""Fields that are not part of a clip's condition."""

CONDITION: Final = {
    "scene": "projection",
    "preceding_scene": "preceding_projection",
    **{name: name for name in FIELDS if name not in (*_OWN, "scene", "preceding_scene")},
}
"""The part of a clip's condition that each field of a file holds."""


@dataclass(frozen=True)
class ClipSizes:
    """Sizes of a clip's tensors.

    Attributes:
        target: Latent frames T.
        height: Rows of the latent grid.
        width: Columns of the latent grid.
        preceding: Preceding frames P.
        references: Reference frames R.
        words: Tokens of the caption L; 0 when there is no text.
        text: Channels of a text token; 0 when there is no text.
        planes: 1 when the extra planes are there, else 0.
        path: 1 when the cameras are there, else 0. Files of earlier versions do not say it.
    """

    target: int
    height: int
    width: int
    preceding: int
    references: int
    words: int
    text: int
    planes: int
    path: int = 0

    @classmethod
    def of(cls, clip: TrainingClip) -> ClipSizes:
        """Sizes of the tensors of a clip."""
        words, text = (0, 0) if clip.text is None else clip.text.shape
        _, frames, height, width = clip.target.shape
        told = clip.condition
        preceding, references = told.preceding.shape[1], told.references.shape[1]
        flags = int(clip.has_planes), int(clip.path is not None)
        return cls(frames, height, width, preceding, references, int(words), int(text), *flags)

    def shapes(self, channels: int) -> dict[str, tuple[int, ...]]:
        """Shape of every field that is there, of latents with so many channels."""
        grid = (self.height, self.width)
        target, before = (self.target, *grid), (self.preceding, *grid)
        shapes: dict[str, tuple[int, ...]] = {
            "target": (channels, *target),
            "scene": (channels, *target),
            "preceding": (channels, *before),
            "preceding_scene": (channels, *before),
            "references": (channels, self.references, *grid),
            "visible": target,
            "preceding_visible": before,
        }
        if self.planes:
            shapes |= {"offset": (2, *target), "log_depth": target}
            shapes |= {"preceding_offset": (2, *before), "preceding_log_depth": before}
        if self.text:
            shapes["text"] = (self.words, self.text)
        if self.path:
            shapes["path"] = (self.target, PATH_NUMBERS)
        return shapes


_SIZES: Final = len(fields(ClipSizes))


@dataclass(frozen=True)
class IndexEntry:
    """What the index says of one clip."""

    key: str
    caption: str
    sizes: ClipSizes


@dataclass(frozen=True)
class ShardIndex:
    """What the index says of one shard.

    Attributes:
        path: The shard's safetensors file.
        length: Bytes of that file.
        clips: Its clips, in order.
        channels: Channels of their latents.
        spread: Items whose clips are in several shards: how many there are in all, or 0 where
            more were to come.
    """

    path: Path
    length: int
    clips: tuple[IndexEntry, ...]
    channels: int = LATENT_CHANNELS
    spread: Mapping[str, int] = field(default_factory=dict)

    def starts(self) -> list[tuple[int, ...]]:
        """Where the values of each clip begin, for each of `FIELDS`."""
        counts = []
        for entry in self.clips:
            shapes = entry.sizes.shapes(self.channels)
            counts.append(tuple(math.prod(shapes.get(name, (0,))) for name in FIELDS))
        columns = [accumulate(column, initial=0) for column in zip(*counts, strict=True)]
        return list(zip(*columns, strict=True))


def item_of(key: str) -> str:
    """The item that a clip belongs to: ``<item>/<shot>#<chunk>`` is its key."""
    return key.rsplit("#", 1)[0].rsplit("/", 1)[0]


def shot_of(key: str) -> str:
    """The key of the shot that a clip belongs to."""
    return key.rsplit("#", 1)[0]


def index_path(shard: Path) -> Path:
    """Path of the JSON index that belongs to the safetensors file of a shard."""
    return shard.with_suffix(".json")


def field_of(clip: TrainingClip, name: str) -> Tensor | None:
    """The tensor of a clip that a field of a file holds; None where the clip has none."""
    owner = clip.condition if name in CONDITION else clip
    value: Tensor | None = getattr(owner, CONDITION.get(name, name))
    return value


def clip_of(fields: Mapping[str, Tensor], *, key: str, caption: str) -> TrainingClip:
    """The clip whose fields a file holds; the inverse of `field_of`."""
    told: dict[str, Any] = {
        CONDITION[name]: value for name, value in fields.items() if name in CONDITION
    }
    own = {name: value for name, value in fields.items() if name not in CONDITION}
    return TrainingClip(**own, condition=Condition(**told), key=key, caption=caption)


def write_shard(
    path: Path,
    clips: Sequence[TrainingClip],
    dtype: torch.dtype,
    spread: Mapping[str, int] | None = None,
) -> ShardIndex:
    """Write clips as a shard with its index; it appears whole or not at all.

    Args:
        path: The safetensors file, which does not exist yet.
        clips: At least one.
        dtype: Type of the stored numbers.
        spread: See `ShardIndex`.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    tensors = {}
    for name in FIELDS:
        kind = torch.bool if name in FLAGS else dtype
        values = [field_of(clip, name) for clip in clips]
        parts = [value.detach().to("cpu", kind).flatten() for value in values if value is not None]
        if parts:
            tensors[name] = torch.cat(parts)
    write_safetensors(path, tensors, {"format": FORMAT, "version": VERSION})
    entries = tuple(IndexEntry(clip.key, clip.caption, ClipSizes.of(clip)) for clip in clips)
    channels = clips[0].target.shape[0]
    index = ShardIndex(path, path.stat().st_size, entries, channels, dict(spread or {}))
    document = {
        "format": FORMAT,
        "version": VERSION,
        "shard": path.name,
        "bytes": index.length,
        "channels": channels,
        "sizes": [field.name for field in fields(ClipSizes)],
        "clips": [
            [entry.key, entry.caption, *vars(entry.sizes).values()] for entry in entries
        ],
        **({"spread": index.spread} if spread else {}),
    }
    with atomic_write(index_path(path), "w") as file:
        json.dump(document, file, separators=(",", ":"), ensure_ascii=False)
    return index


def read_index(path: Path) -> ShardIndex:
    """The index of a shard, after a look at the length of the shard itself.

    Args:
        path: The JSON file.

    Raises:
        CacheFormatError: The index is damaged or of a newer version, or the shard is missing
            or was cut short.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT or document["version"] != VERSION:
            raise damaged(path, f"{document['format']!r} of version {document['version']}")
        clips = tuple(_entry(row) for row in document["clips"])
        # Files that do not say it hold Wan2.2's.
        channels = document.get("channels", LATENT_CHANNELS)
        if not is_count(channels) or channels == 0:
            raise ValueError(f"latents of {channels!r} channels")
        spread = document.get("spread", {})
        if not isinstance(spread, dict) or not all(map(is_count, spread.values())):
            raise ValueError("counts of clips of items")
        shard = path.with_name(_plain(document["shard"]))
        index = ShardIndex(shard, document["bytes"], clips, channels, spread)
        found = index.path.stat().st_size
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(path, str(error) or type(error).__name__) from error
    if not clips or found != index.length:
        raise damaged(index.path, f"{found} bytes instead of {index.length}")
    return index


def _entry(row: list[Any]) -> IndexEntry:
    key, caption, *sizes = row
    known = len(sizes) in (_SIZES - 1, _SIZES)
    if not known or not all(is_count(size) and size <= MAX_SIZE for size in sizes):
        raise ValueError(f"sizes of the clip {key!r}")
    if type(key) is not str or type(caption) is not str or not key:
        raise ValueError(f"the clip {key!r}")
    # Halves of characters, which JSON can hold, could be written nowhere.
    (key + caption).encode()
    return IndexEntry(key, caption, ClipSizes(*sizes))


def _plain(name: str) -> str:
    if Path(name).name != name or not name.endswith(".safetensors"):
        raise ValueError(f"the shard {name!r}")
    return name


def map_shard(index: ShardIndex) -> Mapping[str, Tensor]:
    """The flat tensors of a shard, mapped from the file: pages are read when touched.

    Raises:
        CacheFormatError: The file is damaged, or is not the one that the index describes.
    """
    tensors = map_tensors(
        index.path, lambda path, error: damaged(path, str(error) or type(error).__name__)
    )
    counts = dict(zip(FIELDS, index.starts()[-1], strict=True))
    absent = torch.zeros(0)
    for name, count in counts.items():
        if tuple(tensors.setdefault(name, absent).shape) != (count,):
            raise damaged(index.path, f"{name} does not have {count} values")
    return tensors


def damaged(path: Path, got: str) -> CacheFormatError:
    """The error for a file of a data set that cannot be used."""
    return CacheFormatError(
        f"The shard {path.name} is damaged",
        got=got[:300],
        expected="a shard and the index that was written with it",
        fix="Run `mirage data make` again with the same folder: only missing clips are made",
    )
