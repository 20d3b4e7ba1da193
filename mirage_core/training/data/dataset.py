"""A data set: a folder of shards that several writers extend and readers read at random."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, overload

import torch
from torch import Tensor

from ...errors import CacheFormatError, ValueRangeError
from ...files import ensure_writable_folder
from ...log import logger
from .clip import TrainingClip
from .shards import (
    FIELDS,
    FLAGS,
    FLOATS,
    IndexEntry,
    ShardIndex,
    clip_of,
    field_of,
    index_path,
    item_of,
    map_shard,
    read_index,
    write_shard,
)

PREFIX: Final = "clips-"
"""Beginning of the names of shards."""

STORED: Final = torch.float16
"""Type of the stored numbers."""

SHARD_BYTES: Final = 256 << 20
SHARD_CLIPS: Final = 4096
FLUSH_SECONDS: Final = 60.0
"""Clips are stored at least this often while they are added, so that little is lost by a kill."""

OPEN_SHARDS: Final = 256
"""Most shards that a reader keeps mapped."""


class ClipWriter:
    """Adds clips to a data set; several writers may work on one folder.

    Clips gather in memory until a shard is full or a minute has passed. What a killed program
    had not stored is missing from the data set, and nothing is damaged.

    Args:
        folder: The data set; made when missing.
        name: Part of the names of this writer's shards; random by default.
        dtype: Type of the stored numbers.
        shard_bytes: Size at which a shard is stored.
        shard_clips: Number of clips at which a shard is stored.
        flush_seconds: Age at which a shard is stored, checked when a clip is added.

    Raises:
        StorageError: The folder cannot be written.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        name: str | None = None,
        dtype: torch.dtype = STORED,
        shard_bytes: int = SHARD_BYTES,
        shard_clips: int = SHARD_CLIPS,
        flush_seconds: float = FLUSH_SECONDS,
    ) -> None:
        self.folder = ensure_writable_folder(folder)
        self._name = name or secrets.token_hex(4)
        self._dtype = dtype
        self._limits = (shard_bytes, shard_clips, flush_seconds)
        self._waiting: list[TrainingClip] = []
        self._spread: dict[str, int] = {}
        self._bytes = 0
        self._since = 0.0
        # Whoever ends a worker has it store what is waiting while another thread adds to it.
        self._lock = threading.RLock()

    def add(self, *clips: TrainingClip, total: int | None = None) -> tuple[str, ...]:
        """Take clips; those of one call are stored together or not at all.

        Args:
            *clips: Clips of items that are finished with them; or of one item with ``total``.
            total: Clips that the item has in all shards together, or 0 where more will come.

        Returns:
            Keys of the clips that this call stored: none, or all that had been waiting.

        Raises:
            ValueRangeError: A clip holds numbers that are not finite in the stored type. None
                of the call's clips is taken then.
            StorageError: The disk is full, or the folder cannot be written. The clips are
                still waiting then.
        """
        for clip in clips:
            expect_storable(clip, self._dtype)
        max_bytes, max_clips, seconds = self._limits
        with self._lock:
            if not self._waiting:
                self._since = time.monotonic()
            if total is not None:
                self._spread |= {item_of(clip.key): total for clip in clips}
            self._waiting += clips
            self._bytes += sum(_numbers(clip) for clip in clips) * self._dtype.itemsize
            full = self._bytes >= max_bytes or len(self._waiting) >= max_clips
            return self.flush() if full or time.monotonic() - self._since >= seconds else ()

    def flush(self) -> tuple[str, ...]:
        """Store what is waiting.

        Returns:
            Keys of the clips that were stored.

        Raises:
            StorageError: The disk is full, or the folder cannot be written. The clips are
                still waiting then.
        """
        with self._lock:
            if not self._waiting:
                return ()
            number = 0
            while (path := self._path(number)).exists() or index_path(path).exists():
                number += 1
            write_shard(path, self._waiting, self._dtype, self._spread)
            keys = tuple(clip.key for clip in self._waiting)
            self._waiting, self._spread, self._bytes = [], {}, 0
            return keys

    def _path(self, number: int) -> Path:
        return self.folder / f"{PREFIX}{self._name}-{number:05d}.safetensors"

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.flush()


def _numbers(clip: TrainingClip) -> int:
    values = (field_of(clip, name) for name in FLOATS)
    return sum(value.numel() for value in values if value is not None)


def expect_storable(clip: TrainingClip, dtype: torch.dtype = STORED) -> None:
    """Raise `ValueRangeError` unless all numbers of a clip are finite in the stored type."""
    for name in FLOATS:
        value = field_of(clip, name)
        if value is not None and not bool(torch.isfinite(value.to(dtype)).all()):
            raise ValueRangeError(
                f"The clip {clip.key!r} contains numbers that cannot be stored",
                got=f"NaN or infinite values in {name} as {str(dtype).removeprefix('torch.')}",
                expected="finite numbers",
                fix="Check the frames and the depth of this clip",
            )


class ClipDataset(Sequence[TrainingClip]):
    """Reads a data set at random, also while it grows.

    The number of a clip never changes while the data set is open: shards that `refresh` finds come
    after the ones that are there. A program that must find the same numbers later, such as a
    resumed training, gives `shards` back. A data set can be sent to other processes; they map the
    files anew.

    Args:
        folder: The data set.
        shards: Names of shards that come first, in this order; the others follow by name.
        dtype: Type of the numbers that are handed out; None for the stored one.

    Raises:
        CacheFormatError: The folder holds no clip, or lacks one of ``shards``.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        shards: Sequence[str] = (),
        dtype: torch.dtype | None = torch.float32,
    ) -> None:
        self.folder = Path(folder)
        self.damaged: dict[str, str] = {}
        self._dtype = dtype
        self._shards: list[ShardIndex] = []
        self._rows: list[tuple[int, int]] = []
        self._numbers: dict[str, int] = {}
        self._mapped: OrderedDict[int, tuple[Mapping[str, Tensor], list[tuple[int, ...]]]] = (
            OrderedDict()
        )
        for name in shards:
            self._append(self._required(name))
        self.refresh()
        if not self._numbers:
            raise CacheFormatError(
                f"The folder {self.folder.name} contains no training clips",
                got=self.folder,
                expected="a folder that was filled by `mirage data make`",
                fix="Check the path",
            )

    def _required(self, name: str) -> ShardIndex:
        """The index of a shard whose clips have numbers already; it must not be made again."""
        try:
            return read_index(self.folder / f"{name}.json")
        except CacheFormatError as error:
            raise CacheFormatError(
                "A shard of this run's data set is missing or damaged",
                got=str(error.__cause__ or error)[:300] + f" ({name})",
                expected="all shards that existed when the epoch began",
                fix="Restore the shard and its index from a backup. Without one, start a new run "
                "from the last finished weights, in another folder",
            ) from error

    def refresh(self) -> int:
        """Look for shards that were added meanwhile.

        Damaged shards are left out and reported; `damaged` says why, by file name.

        Returns:
            How many clips there are more than before.
        """
        before = len(self)
        known = {shard.path.stem for shard in self._shards}
        for path in sorted(self.folder.glob(f"{PREFIX}*.json")):
            if path.stem in known or path.name in self.damaged:
                continue
            try:
                self._append(read_index(path))
            except CacheFormatError as error:
                self.damaged[path.name] = str(error)
                logger.warning("Skipped a damaged shard: %s", error)
        return len(self) - before

    def _append(self, index: ShardIndex) -> None:
        """Add a shard; a clip that two writers made counts once."""
        number = len(self._shards)
        self._shards.append(index)
        for row, entry in enumerate(index.clips):
            if entry.key not in self._numbers:
                self._numbers[entry.key] = len(self._rows)
                self._rows.append((number, row))

    @property
    def shards(self) -> tuple[str, ...]:
        """Names of the shards in the order in which clips are numbered."""
        return tuple(shard.path.stem for shard in self._shards)

    def finished(self) -> set[str]:
        """Items of which all clips are there, by the names that keys begin with."""
        counts = Counter(map(item_of, self._numbers))
        totals: dict[str, int] = {}
        for shard in self._shards:
            for item, total in shard.spread.items():
                totals[item] = max(total, totals.get(item, 0))
        return {
            item for item, count in counts.items()
            if item not in totals or 0 < totals[item] <= count
        }  # fmt: skip

    def keys(self) -> tuple[str, ...]:
        """Keys of all clips; position i belongs to clip number i."""
        return tuple(self._numbers)

    def find(self, key: str) -> int | None:
        """Number of the clip with this key; None when there is none."""
        return self._numbers.get(key)

    def entry(self, number: int) -> IndexEntry:
        """Key, caption and sizes of a clip, without touching its shard."""
        shard, row = self._rows[number]
        return self._shards[shard].clips[row]

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, number: int) -> TrainingClip: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[TrainingClip]: ...

    def __getitem__(self, number: int | slice) -> TrainingClip | Sequence[TrainingClip]:
        """A clip, in memory of its own on the CPU.

        Raises:
            IndexError: There is no clip of this number.
            CacheFormatError: Its shard was damaged since it was indexed.
        """
        if isinstance(number, slice):
            return [self[row] for row in range(*number.indices(len(self)))]
        shard, row = self._rows[number]
        tensors, starts = self._map(shard)
        entry = self._shards[shard].clips[row]
        shapes = entry.sizes.shapes(self._shards[shard].channels)
        values: dict[str, Any] = {}
        for name, start, end in zip(FIELDS, starts[row], starts[row + 1], strict=True):
            if name in shapes:
                flat = tensors[name][start:end]
                kind = torch.bool if name in FLAGS else self._dtype or flat.dtype
                values[name] = flat.to(kind, copy=True).view(shapes[name])
        return clip_of(values, key=entry.key, caption=entry.caption)

    def _map(self, shard: int) -> tuple[Mapping[str, Tensor], list[tuple[int, ...]]]:
        if shard in self._mapped:
            self._mapped.move_to_end(shard)
            return self._mapped[shard]
        index = self._shards[shard]
        self._mapped[shard] = map_shard(index), index.starts()
        if len(self._mapped) > OPEN_SHARDS:
            self._mapped.popitem(last=False)
        return self._mapped[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": OrderedDict()}
