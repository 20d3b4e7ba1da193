"""Sees what a rollout makes: every decoded frame, its depth, and how long each stage took."""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..geometry.frame_geometry import FrameGeometry
from ..geometry.trajectory import Trajectory
from ..rollout.depth_source import DepthSource

Learn = Callable[[Tensor, FrameGeometry, Trajectory, Sequence[int]], None]
"""Is told of latent frames (T, H, W, 3), their depth, cameras and numbers in the shot."""


@dataclass(eq=False)
class Witness:
    """Stands between a rollout and its depth, and looks at its frames in passing.

    Attributes:
        depth: Where depth comes from.
        filtered: Keep out of the memory what the depth's exclusion mask says.
        learn: Told of the latent frames of every finished chunk, for memories beside the shot's.
        frames: Decoded frames (F, H, W, 3) of every chunk, those that it shares included.
        geometry: Depth of every chunk's latent frames.
        seconds: By stage.
    """

    depth: DepthSource
    filtered: bool = True
    learn: Learn | None = None
    frames: list[Tensor] = field(default_factory=list)
    geometry: list[FrameGeometry] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _stage: str = ""
    _since: float = 0.0
    _last: tuple[Trajectory, Sequence[int]] | None = None

    @property
    def scaled(self) -> bool:
        """Whether depth is in scene units."""
        return self.depth.scaled

    def __call__(
        self, frames: Tensor, cameras: Trajectory, numbers: Sequence[int]
    ) -> FrameGeometry:
        """The depth of a chunk's latent frames."""
        found = self.depth(frames, cameras, numbers)
        if not self.filtered:
            found = dataclasses.replace(found, exclude=None)
        self.geometry.append(found)
        self._last = cameras, numbers
        return found

    def masks(self, frames: Tensor, cameras: Trajectory, numbers: Sequence[int]) -> None:
        """Take note of a chunk's decoded frames; there are no masks but the depth's own."""
        self.frames.append(frames.float().cpu())
        if self.learn is not None and self._last is not None:
            step = (len(frames) - 1) // max(1, len(self._last[1]) - 1)
            self.learn(frames[::step], self.geometry[-1], *self._last)

    def stage(self, name: str) -> None:
        """Say that a stage begins, or goes on; all work of the device counts for its stage."""
        if name == self._stage:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._stage:
            self.seconds[self._stage] += now - self._since
        self._stage, self._since = name, now
