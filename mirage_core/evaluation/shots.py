"""Footage and rooms as shots to make again: from their first frame and their cameras."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..constants import TEMPORAL_STRIDE
from ..errors import GeometryError, ShapeError
from ..geometry.frame_geometry import FrameGeometry
from ..geometry.trajectory import Trajectory
from ..rollout.depth_source import DepthSource
from ..training.data.build_clip import Shot
from ..training.data.footage import FootageSource
from ..training.data.pipeline import BadShot, UnusedFrames
from .estimators import described, described_data
from .systems import Request


class Shots(Protocol):
    """Where shots come from; is sent to the workers."""

    def settings(self) -> dict[str, Any]:
        """What results depend on."""

    def items(self) -> Sequence[str]:
        """Names of the shots, without loading them."""

    def load(self, item: str) -> Iterable[Shot | BadShot | UnusedFrames]:
        """What is in an item; the first shot is taken."""


@dataclass(frozen=True)
class FootageShots:
    """Footage as the trainer reads it: RealEstate10K's text with videos or frames, and others.

    Attributes:
        source: The footage.
    """

    source: FootageSource

    def settings(self) -> dict[str, Any]:
        """What results depend on."""
        source = self.source
        places = {"cameras": source.cameras, "geometry": source.geometry}
        return {
            "data": described_data(source.root),
            "size": [source.width, source.height],
            "frames": source.shot_frames,
            "stride": source.stride,
            "exact depth": source.exact_depth,
            **{name: described_data(where) for name, where in places.items() if where is not None},
            **depth_by(source.estimator),
        }

    def items(self) -> tuple[str, ...]:
        """All footage below the folder.

        Raises:
            CacheFormatError: There is none.
        """
        return self.source.items()

    def load(self, item: str) -> Iterable[Shot | BadShot | UnusedFrames]:
        """The shots of one piece of footage."""
        return self.source.load(item)


def depth_by(estimator: object | None) -> dict[str, str]:
    """The setting of what estimates depth where files have none; nothing where nothing does."""
    return {} if estimator is None else {"depth where none is": described(estimator, "estimated")}


def first_shot(shots: Shots, item: str) -> Shot:
    """The first shot of an item.

    Raises:
        GeometryError: None of it can be used; the message says why.
        MirageError: As the source.
    """
    for found in shots.load(item):
        if isinstance(found, Shot):
            return found
        if isinstance(found, BadShot):
            raise GeometryError(f"{item} cannot be used", got=found.reason)
    raise ShapeError(f"{item} has no shot", expected="at least 33 frames with cameras and depth")


@dataclass(frozen=True)
class ShotDepth:
    """Depth of a shot's frames, known for each of them or for every fourth.

    Attributes:
        geometry: Depth, in scene units where ``scaled``.
        order: Number in the geometry of every frame of the path, -1 where it is not known.
        scaled: True for a renderer's depth.
    """

    geometry: FrameGeometry
    order: tuple[int, ...]
    scaled: bool

    def __call__(
        self, frames: Tensor, cameras: Trajectory, numbers: Sequence[int]
    ) -> FrameGeometry:
        """The depth maps of frames by their numbers.

        Raises:
            ShapeError: A frame has none.
        """
        chosen = [self.order[number] for number in numbers]
        if min(chosen) < 0:
            raise ShapeError(
                "The depth does not cover the frames that are remembered",
                got=f"no depth of frame {numbers[chosen.index(min(chosen))]}",
                expected="depth of every frame, or of every fourth from the first",
            )
        return self.geometry.select(chosen)


def along(
    shot: Shot, path: Sequence[int], depth: DepthSource | None = None, what: str = ""
) -> Request:
    """The request to make some frames of a shot, one after the other.

    Args:
        shot: Footage with cameras and depth.
        path: Numbers of its frames.
        depth: Where the depth of made frames comes from; the shot's own when None.
        what: Tells this request from others of the same shot, in its name.
    """
    step = 1 if len(shot.geometry) == len(shot.frames) else TEMPORAL_STRIDE
    order = tuple(number // step if number % step == 0 else -1 for number in path)
    own = ShotDepth(shot.geometry, order, shot.exact)
    first = dataclasses.replace(shot.geometry.select([path[0] // step]), world_to_camera=None)
    return Request(
        shot.frames[path[0]], first, shot.cameras.select(list(path)), depth or own,
        shot.seed() % (1 << 31), shot.caption, f"{shot.key}_{what}" if what else shot.key,
    )  # fmt: skip


def there_and_back(frames: int) -> list[int]:
    """Numbers of frames that go to the middle of a shot and return: 4n + 1 of them.

    Args:
        frames: Of the shot, 4n + 1.
    """
    turn = (frames - 1) // 2 // 2 * 2
    return [*range(turn + 1), *range(turn - 1, -1, -1)]


def still_pixels(shot: Shot, path: Sequence[int]) -> Tensor | None:
    """(F, H, W) bool where nothing moves, as far as the depth of every frame says it."""
    moving = shot.geometry.exclude
    if moving is None or len(moving) != len(shot.frames):
        return None
    chosen = moving[list(path)]
    if chosen.shape[1:] == shot.frames.shape[1:3]:
        return ~chosen
    size = (int(shot.frames.shape[1]), int(shot.frames.shape[2]))
    resized = torch.nn.functional.interpolate(chosen[:, None].float(), size, mode="nearest-exact")
    return resized[:, 0] == 0
