"""Depth of the frames that a chunk adds: where it comes from, and on which scale it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..errors import ShapeError
from ..geometry.frame_geometry import FrameGeometry
from ..geometry.trajectory import Trajectory


class DepthSource(Protocol):
    """Where the depth of new frames comes from."""

    @property
    def scaled(self) -> bool:
        """True when depth is in scene units already; else it is scaled to the memory."""

    def __call__(
        self, frames: Tensor, cameras: Trajectory, numbers: Sequence[int]
    ) -> FrameGeometry:
        """Depth of some frames of the shot.

        Args:
            frames: (F, H, W, 3) decoded frames in 0..1.
            cameras: Their F cameras, in pixels of H x W.
            numbers: Their F numbers in the shot, from 0.
        """


@dataclass(frozen=True)
class KnownDepth:
    """Depth that is there for the whole shot, from a renderer or from a geometry file.

    Attributes:
        geometry: One depth map for every pixel frame of the shot, in scene units.
    """

    geometry: FrameGeometry
    scaled: bool = True

    def __call__(
        self, frames: Tensor, cameras: Trajectory, numbers: Sequence[int]
    ) -> FrameGeometry:
        """The depth maps of the frames' numbers; the frames themselves are not looked at."""
        self.expect_length(max(numbers, default=-1) + 1)
        return self.geometry.select(list(numbers))

    def expect_length(self, frames: int) -> None:
        """Raise `ShapeError` unless there is depth for this many frames of a shot."""
        if len(self.geometry) < frames:
            raise ShapeError(
                "The geometry does not cover the whole shot",
                got=f"{len(self.geometry)} depth maps",
                expected=f"{frames}, one for every frame of the trajectory",
                fix="Use geometry of the whole shot, or a depth model for the new frames",
            )


@dataclass(frozen=True)
class EstimatedDepth:
    """Depth that a network estimates from the frames.

    The cameras of the trajectory are taken as they are; only depth is estimated.

    Attributes:
        estimate: Geometry of frames (F, H, W, 3) in 0..1 for their F cameras, such as one
            of `mirage_core.models.geometry_estimators`.
        scaled: True when the estimate can be trusted to be in scene units. Most cannot, not
            even those that are called metric.
    """

    estimate: Callable[[Tensor, Trajectory], FrameGeometry]
    scaled: bool = False

    def __call__(
        self, frames: Tensor, cameras: Trajectory, numbers: Sequence[int]
    ) -> FrameGeometry:
        """Estimate depth of the frames."""
        return self.estimate(frames, cameras)
