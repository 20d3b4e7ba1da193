"""Finished latent frames of a shot by number, and what the memory showed when they were made."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..constants import TEMPORAL_STRIDE
from .plan import Chunk
from .run_folder import load_record
from .state import ChunkRecord, RolloutState


def history_length(state: RolloutState) -> int:
    """Latent frames that are finished."""
    return latents_of(state.plan[state.done - 1]).stop if state.done else 0


def latents_of(chunk: Chunk) -> range:
    """Numbers, over the whole shot, of the latent frames that a chunk added."""
    first = chunk.first_frame // TEMPORAL_STRIDE
    return range(first + chunk.shared_latents, first + chunk.latent_frames)


def shared_frames(state: RolloutState) -> range:
    """Numbers of the finished latent frames that the next chunk begins with; none at first."""
    if state.done == 0:
        return range(0)
    end = history_length(state)
    return range(end - state.lengths.overlap_latents, end)


def preceding_frames(state: RolloutState, count: int) -> list[int]:
    """Numbers of the latent frames right before the overlapping ones, in order."""
    first = shared_frames(state).start
    return list(range(max(0, first - count), first))


class History:
    """Finished latent frames by number; each chunk is read at most once.

    Args:
        state: The state before the next chunk.
        load: What chunk k left behind; by default it is read from the rollout's folder.
    """

    def __init__(
        self, state: RolloutState, load: Callable[[int], ChunkRecord] | None = None
    ) -> None:
        self._state = state
        self._load = load or (lambda index: load_record(state, index))
        self._records: dict[int, ChunkRecord] = {}
        self._index = [
            (chunk.index, number)
            for chunk in state.plan[: state.done]
            for number in range(len(latents_of(chunk)))
        ]

    def latents(self, frames: list[int]) -> Tensor:
        """(C, len(frames), h, w) float32 latents.

        Raises:
            ResumeError: Earlier chunks are needed, and the rollout has no folder.
            CacheFormatError: The file of an earlier chunk is damaged.
        """
        parts = [record.latents[:, number] for record, number in map(self._find, frames)]
        return torch.stack(parts, dim=1).float() if parts else self._none()

    def projections(self, frames: list[int]) -> Tensor:
        """(C, len(frames), h, w) float32, what the memory showed; raises as `latents`."""
        parts = [record.projections[:, number] for record, number in map(self._find, frames)]
        return torch.stack(parts, dim=1).float() if parts else self._none()

    def visible(self, frames: list[int]) -> Tensor:
        """(len(frames), y, x) bool, where it showed anything; raises as `latents`."""
        parts = [record.visible[number] for record, number in map(self._find, frames)]
        return torch.stack(parts) if parts else torch.zeros(0, *self._state.grid).bool()

    def planes(self, frames: list[int]) -> Tensor | None:
        """(3, len(frames), y, x) float32 `Readout.planes` of that time; raises as `latents`.

        None where a chunk of an earlier version has none.
        """
        parts = []
        for record, number in map(self._find, frames):
            if record.planes is None:
                return None
            parts.append(record.planes[:, number].float())
        return torch.stack(parts, dim=1) if parts else torch.zeros(3, 0, *self._state.grid)

    def _none(self) -> Tensor:
        return torch.zeros(self._state.channels, 0, *self._state.latent_grid)

    def _find(self, frame: int) -> tuple[ChunkRecord, int]:
        chunk, number = self._index[frame]
        if chunk not in self._records:
            self._records[chunk] = self._load(chunk)
        return self._records[chunk], number
