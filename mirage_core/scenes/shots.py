"""Moves through a room one after another, such as a walk that becomes longer and longer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor

from ..geometry.trajectory import Trajectory
from .scene import ProceduralScene

KEPT_BYTES: Final = 512 << 20
"""Most that is kept of the last move: a longer one is rendered anew as a whole."""


@lru_cache(maxsize=1)
def shot_renderer(seed: int) -> ShotRenderer:
    """The renderer of a room; that of the last room asked for is kept, with its textures."""
    return ShotRenderer(ProceduralScene.from_seed(seed))


@dataclass(frozen=True, eq=False)
class _Shot:
    cameras: Trajectory
    frames: Tensor
    depth: Tensor


class ShotRenderer:
    """Renders moves through one room; of a move that begins as the last one only what is new.

    Args:
        scene: The room.
    """

    def __init__(self, scene: ProceduralScene) -> None:
        self.scene = scene
        self._last: _Shot | None = None

    def render(
        self, cameras: Trajectory, on_frame: Callable[[int, int], None] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Render the room from every camera, on the CPU; the same pixels as without a last move.

        Args:
            cameras: F cameras inside the room.
            on_frame: As in `ProceduralScene.render`, of the frames that are new.

        Returns:
            Colours (F, H, W, 3) float32 in 0..1, and z-depth (F, H, W) float32 in metres. They
            may be kept: not to be written to.

        Raises:
            GeometryError: A camera is outside of the room.
        """
        last = self._last
        shared = 0 if last is None else _shared(last.cameras, cameras)
        parts = []
        if last is not None and shared:
            parts.append((last.frames[:shared], last.depth[:shared]))
        if shared < len(cameras):
            new = cameras.select(slice(shared, None))
            parts.append(self.scene.render(new, on_frame=on_frame))
        frames, depth = (torch.cat(part) for part in zip(*parts, strict=True))
        fits = frames.nbytes + depth.nbytes <= KEPT_BYTES
        self._last = _Shot(cameras, frames, depth) if fits else None
        return frames, depth


def _shared(one: Trajectory, other: Trajectory) -> int:
    """How many leading cameras are the same, to the last bit."""
    if (one.width, one.height) != (other.width, other.height):
        return 0
    count = min(len(one), len(other))
    same = torch.ones(count, dtype=torch.bool)
    for name in ("world_to_camera", "intrinsics"):
        ours, theirs = getattr(one, name)[:count], getattr(other, name)[:count]
        same &= (ours == theirs).flatten(1).all(1).cpu()
    return int(same.cumprod(0).sum())
