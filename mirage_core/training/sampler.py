"""Which clips a step sees: a function of the seed and the data set, never of the machine.

Every epoch is a new order of all clips. Clips of one forward pass have one size, so an epoch is
cut into micro-batches by size; what does not fill one is left out until the next epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from ..errors import ResumeError, ShapeError
from ..tensor_files import is_count
from .data.dataset import ClipDataset
from .data.shards import ClipSizes

WEIGHTS_SEED: Final = 0
ORDER_SEED: Final = 1
BATCH_SEED: Final = 2
VALIDATION_SEED: Final = 3
"""What a seed is for: the second number of `mixed_seed`, after the run's seed."""

_GOLDEN: Final = 0x9E3779B97F4A7C15
_MASK: Final = (1 << 63) - 1


def mixed_seed(*numbers: int) -> int:
    """A seed in 0..2^63 - 1 from several numbers; similar numbers give unrelated seeds."""
    value = _GOLDEN
    for number in numbers:
        value = (value ^ (number & _MASK)) * _GOLDEN & ((1 << 64) - 1)
        value = (value ^ (value >> 29)) * 0xBF58476D1CE4E5B9 & ((1 << 64) - 1)
        value ^= value >> 32
    return value & _MASK


@dataclass(frozen=True)
class Position:
    """How far the reading of a data set is.

    Attributes:
        epoch: Number of the epoch.
        batch: Micro-batches of the epoch that are read.
        clips: Clips that the data set had when the epoch began.
        shards: Its shards, in order; numbers of clips follow from them.
    """

    epoch: int
    batch: int
    clips: int
    shards: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-serialisable fields, for `from_json`."""
        return {**vars(self), "shards": list(self.shards)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Position:
        """The inverse of `to_json`.

        Raises:
            ResumeError: Something is missing, or is not what belongs there.
        """
        epoch, batch, clips = (content.get(name) for name in ("epoch", "batch", "clips"))
        shards: Any = content.get("shards")
        named = isinstance(shards, list) and all(isinstance(name, str) for name in shards)
        if not named or not (is_count(epoch) and is_count(batch) and is_count(clips)):
            raise ResumeError(
                "The saved position in the data set is damaged",
                got=f"epoch {epoch!r}, batch {batch!r}, clips {clips!r}"[:200],
                expected="three whole numbers, and the names of the shards",
            )
        return cls(epoch, batch, clips, tuple(shards))


class ClipSampler:
    """Gives out the clips of one micro-batch after the other, for ever.

    Args:
        dataset: The data set. It is looked at again at the beginning of each epoch.
        micro_batch: Clips of a micro-batch.
        seed: Of the order.
        position: Where to begin; the beginning by default. The data set must have been opened
            with the position's shards.

    Raises:
        ShapeError: There are not enough clips of any size for one micro-batch.
        ResumeError: The data set has lost clips since the position was saved.
    """

    def __init__(
        self, dataset: ClipDataset, micro_batch: int, seed: int, position: Position | None = None
    ) -> None:
        self._dataset, self._micro_batch, self._seed = dataset, micro_batch, seed
        if position is None:
            position = Position(0, 0, len(dataset), dataset.shards)
        held = dataset.shards[: len(position.shards)]
        if position.clips > len(dataset) or held != position.shards:
            raise ResumeError(
                "The data set is not the one that the run was started with",
                got=f"{len(dataset)} clips",
                expected=f"at least the {position.clips} clips of {len(position.shards)} shards",
                fix="Use the same folder; clips may be added, but not removed",
            )
        self._position = position
        self._batches = self._cut()

    @property
    def position(self) -> Position:
        """Where the next micro-batch is."""
        return self._position

    def __next__(self) -> tuple[int, ...]:
        """Numbers of the clips of the next micro-batch, all of one size."""
        if self._position.batch >= len(self._batches):
            self._dataset.refresh()
            count, shards = len(self._dataset), self._dataset.shards
            self._position = Position(self._position.epoch + 1, 0, count, shards)
            self._batches = self._cut()
        now = self._position
        self._position = Position(now.epoch, now.batch + 1, now.clips, now.shards)
        return self._batches[now.batch]

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return self

    def _cut(self) -> list[tuple[int, ...]]:
        """The epoch in micro-batches."""
        seed = mixed_seed(self._seed, ORDER_SEED, self._position.epoch)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(self._position.clips, generator=generator).tolist()
        sizes: Sequence[ClipSizes] = [self._dataset.entry(number).sizes for number in order]
        waiting: dict[tuple[int, ...], list[int]] = {}
        batches = []
        for number, size in zip(order, sizes, strict=True):
            group = waiting.setdefault((size.target, size.height, size.width, size.planes), [])
            group.append(number)
            if len(group) == self._micro_batch:
                batches.append(tuple(group))
                group.clear()
        if not batches:
            raise ShapeError(
                "There are too few clips for one micro-batch",
                got=f"{self._position.clips} clips of {len(waiting)} sizes",
                expected=f"{self._micro_batch} clips of one size",
                fix="Make more clips, or lower micro_batch",
            )
        return batches
