"""What points show, kept by their tokens: a cell of a picture, under what the VAE made of it.

Tokens of Wan's autoencoder mean nothing one by one, and a memory holds no pictures. So whoever
writes to a memory puts the pictures here, and whoever takes up a shot those of its clips. Whatever
then becomes of the points, thinned, moved to another block, saved and loaded, their tokens stay,
and with them what they show.
"""

from __future__ import annotations

import threading
from typing import Final

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from ...mirage_core.cache.types import CacheBlock, LatentCache
from ...mirage_core.cache.view import source_cells
from ...mirage_core.codecs.dct import CODEC_NAME
from ...mirage_core.codecs.memory_kind import MemoryKind
from ...mirage_core.constants import SPATIAL_STRIDE, WHITE_8
from ...mirage_core.geometry.trajectory import Trajectory
from ...mirage_core.rollout.saved_frames import saved_frames
from ...mirage_core.rollout.state import RolloutState

MOST: Final = 1 << 16
"""Squares that are kept, 768 bytes each; the oldest go first."""


class PatchShelf:
    """Squares of 16 x 16 pixels by the tokens of points."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._keys = np.empty(0, np.uint64)
        self._squares = np.empty((0, SPATIAL_STRIDE, SPATIAL_STRIDE, 3), np.uint8)

    @property
    def full(self) -> bool:
        """Whether the oldest squares go when more come."""
        return len(self._keys) >= self._most

    def put(self, block: CacheBlock, rows: Tensor, squares: Tensor) -> None:
        """Keep what some points of a block show.

        Args:
            block: N points.
            rows: (K,) int64, which of them.
            squares: (K, 16, 16, 3) float in 0..1.
        """
        keys = token_keys(block)[rows.numpy()]
        levels = (squares.float().cpu().clamp(0, 1) * WHITE_8).round().to(torch.uint8).numpy()
        with self._lock:
            # The first one of several stays.
            keys, first = np.unique(keys, return_index=True)
            fresh = ~np.isin(keys, self._keys)
            self._keys = np.concatenate([self._keys, keys[fresh]])[-self._most :]
            self._squares = np.concatenate([self._squares, levels[first[fresh]]])[-self._most :]

    def get(self, block: CacheBlock) -> tuple[Tensor, Tensor]:
        """What the points of a block show.

        Returns:
            (N,) bool, which of them are known, and (M, 16, 16, 3) float32 squares of those.
        """
        keys = token_keys(block)
        with self._lock:
            if not len(self._keys):
                return torch.zeros(len(block), dtype=torch.bool), torch.zeros(0, 16, 16, 3)
            order = np.argsort(self._keys)
            place = np.searchsorted(self._keys, keys, sorter=order).clip(max=len(order) - 1)
            found = self._keys[order[place]] == keys
            squares = self._squares[order[place[found]]]
        return torch.from_numpy(found), torch.from_numpy(squares).float() / WHITE_8


def token_keys(block: CacheBlock) -> NDArray[np.uint64]:
    """(N,) uint64 numbers that tell the tokens of a block apart."""
    raw = block.tokens.detach().cpu().contiguous().view(torch.uint8).numpy()
    padded = np.zeros((len(raw), -(-raw.shape[1] // 8) * 8), np.uint8)
    padded[:, : raw.shape[1]] = raw
    words = padded.view(np.uint64)
    odd = np.random.default_rng(0).integers(0, 1 << 63, words.shape[1], np.uint64) * 2 + 1
    mixed = (words ^ (words >> np.uint64(29))) * odd
    return (mixed ^ (mixed >> np.uint64(32))).sum(axis=1, dtype=np.uint64)


SHELF: Final = PatchShelf()
"""What all memories of this server show."""


def keep_pictures(
    cache: LatentCache, pictures: Tensor, world_to_camera: Tensor, frames: Tensor
) -> LatentCache:
    """Remember what the points show that some pictures were written as; returns the memory.

    Does nothing for memories that can be drawn without pictures.

    Args:
        cache: The memory after these pictures were written.
        pictures: (V, H, W, 3) in 0..1.
        world_to_camera: (V, 4, 4) of their cameras.
        frames: (V,) int64, the pixel frame that each stands for.
    """
    if _drawn_alone(cache):
        return cache
    for block in cache.blocks:
        cells = source_cells(block, cache.convention)
        for number, picture in enumerate(pictures):
            poses = torch.isclose(block.world_to_camera, world_to_camera[number].double().cpu())
            taken = poses.flatten(1).all(1) & (block.frames == int(frames[number]))
            rows = taken[block.source.cpu().long()].nonzero()[:, 0]
            squares = cell_squares(picture)
            column, row = cells[rows].unbind(1)
            inside = (column >= 0) & (column < squares.shape[1])
            inside &= (row >= 0) & (row < squares.shape[0])
            SHELF.put(block, rows[inside], squares[row[inside], column[inside]])
    return cache


def keep_saved_pictures(state: RolloutState) -> RolloutState:
    """Remember what the points of finished chunks show, from their clips; returns the state.

    A server that was started since those chunks were made knows nothing of them. The newest come
    first, until the shelf is full.

    Args:
        state: The state after chunks that are saved in its folder.

    Raises:
        ResumeError, CacheFormatError: As `mirage_core.rollout.saved_frames.saved_frames`.
    """
    if not state.done or _drawn_alone(state.cache):
        return state
    unknown = _unknown_frames(state.cache, state.trajectory)
    for chunk in reversed(state.plan[: state.done]):
        numbers = [n for n in unknown if chunk.output_start <= n < chunk.output_end]
        if not numbers or SHELF.full:
            continue
        poses = state.trajectory.world_to_camera[numbers]
        keep_pictures(state.cache, saved_frames(state, numbers), poses, torch.tensor(numbers))
    return state


def _drawn_alone(cache: LatentCache) -> bool:
    """Whether a memory can be drawn without pictures."""
    return cache.codec == CODEC_NAME or MemoryKind.of(cache.codec) is MemoryKind.COLOURS


def _unknown_frames(cache: LatentCache, trajectory: Trajectory) -> list[int]:
    """Frames of a shot that show points of which no square is there."""
    found: set[int] = set()
    for block in cache.blocks:
        known, _ = SHELF.get(block)
        cameras = block.source.cpu().long()[~known].unique()
        # A memory may hold another shot's frames of the same numbers.
        cameras = cameras[block.frames[cameras] < len(trajectory)]
        frames = block.frames[cameras]
        poses = trajectory.world_to_camera[frames]
        same = torch.isclose(block.world_to_camera[cameras], poses).flatten(1).all(1)
        found.update(frames[same].tolist())
    return sorted(found)


def cell_squares(picture: Tensor) -> Tensor:
    """(h, w, 16, 16, 3) squares of a picture (H, W, C), of which the first 3 channels count."""
    pattern = "(h a) (w b) c -> h w a b c"
    sizes = {"a": SPATIAL_STRIDE, "b": SPATIAL_STRIDE}
    return rearrange(picture[..., :3].float().cpu(), pattern, **sizes)
