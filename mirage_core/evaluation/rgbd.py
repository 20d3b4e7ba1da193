"""Recordings of depth cameras: pictures, depth and poses, whatever folders they came in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor

from ..constants import WHITE_8, WHITE_16
from ..errors import CacheFormatError, GeometryError
from ..geometry.camera import latent_size, scale_intrinsics
from ..geometry.frame_geometry import FrameGeometry
from ..geometry.picture_files import read_levels, read_picture
from ..geometry.trajectory import Trajectory
from ..training.data.fit import Fit


@dataclass(frozen=True, eq=False)
class Views:
    """Pictures with depth and cameras.

    Attributes:
        frames: (F, H, W, 3) in 0..1.
        geometry: Depth of the F frames in metres, with their poses.
        cameras: The F cameras, in pixels of H x W.
    """

    frames: Tensor
    geometry: FrameGeometry
    cameras: Trajectory

    def __len__(self) -> int:
        return len(self.frames)

    def select(self, numbers: Sequence[int]) -> Views:
        """Some of them."""
        chosen = list(numbers)
        return Views(
            self.frames[chosen], self.geometry.select(chosen), self.cameras.select(chosen)
        )


class Recording(Protocol):
    """Views that are loaded when they are wanted."""

    def __len__(self) -> int:
        """How many there are."""

    def select(self, numbers: Sequence[int]) -> Views:
        """Some of them."""


class Recordings(Protocol):
    """Recordings of one picture size; is sent to the workers."""

    def settings(self) -> dict[str, Any]:
        """What results depend on."""

    def items(self) -> Sequence[str]:
        """Names of the recordings, without loading them."""

    def open(self, item: str) -> Recording:
        """One of them."""


@dataclass(frozen=True)
class Files:
    """What one frame consists of."""

    picture: Path
    depth: Path


@dataclass(frozen=True, eq=False)
class RecordedFiles:
    """A recording in files.

    Attributes:
        name: For messages.
        files: Picture and depth of the F frames; depth is registered to the pictures.
        world_to_camera: (F, 4, 4) float64.
        intrinsics: (F, 3, 3) float64 in pixels of the pictures, or of ``lens_size``.
        unit: Levels of the depth files in a metre.
        invalid: Level that stands for no reading, beside 0.
        lens_size: (width, height) that the intrinsics count in; the pictures' own when None.
    """

    name: str
    files: Sequence[Files]
    world_to_camera: Tensor
    intrinsics: Tensor
    unit: float = 1000.0
    invalid: int | None = None
    lens_size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def load(self, numbers: Sequence[int], width: int, height: int) -> Views:
        """Some of the frames, scaled to cover a picture size, the middle cut out.

        Raises:
            CacheFormatError: A file is missing or damaged, or pictures differ in size.
            GeometryError: A frame has no depth.
        """
        latent_size(width, height)
        chosen = list(numbers)
        pictures = [_picture(self.files[number].picture) for number in chosen]
        depth = [self._depth(self.files[number].depth) for number in chosen]
        _expect_one_size(self.name, pictures, "pictures")
        _expect_one_size(self.name, depth, "depth maps")
        rows, columns = (int(side) for side in pictures[0].shape[:2])
        lens = self.intrinsics[chosen]
        if self.lens_size is not None:
            lens = scale_intrinsics(lens, self.lens_size[::-1], (rows, columns))
        poses = self.world_to_camera[chosen]
        own = Trajectory(poses, lens, columns, rows)
        maps = torch.stack(depth)
        size = (int(maps.shape[1]), int(maps.shape[2]))
        geometry = FrameGeometry(
            maps, scale_intrinsics(lens, (rows, columns), size), poses, metric=True
        )
        fit = Fit((columns, rows), (width, height))
        frames = torch.stack([fit.picture(picture) for picture in pictures])
        return Views(frames.float() / WHITE_8, fit.geometry(geometry), fit.cameras(own))

    def sized(self, width: int, height: int) -> Recording:
        """The recording at one picture size."""
        return _Sized(self, width, height)

    def _depth(self, path: Path) -> Tensor:
        levels, floating = read_levels(path)
        values = levels[..., 0] if floating else np.rint(levels[..., 0] * WHITE_16)
        known = values > 0
        if self.invalid is not None:
            known &= values != self.invalid
        return torch.from_numpy(np.where(known, values / self.unit, 0.0)).float()


@dataclass(frozen=True, eq=False)
class _Sized:
    files: RecordedFiles
    width: int
    height: int

    def __len__(self) -> int:
        return len(self.files)

    def select(self, numbers: Sequence[int]) -> Views:
        return self.files.load(numbers, self.width, self.height)


def _picture(path: Path) -> Tensor:
    values = read_picture(path)
    if values.dtype != np.uint8:
        values = np.rint(values * WHITE_8).astype(np.uint8)
    return torch.from_numpy(values)


def _expect_one_size(name: str, maps: Sequence[Tensor], what: str) -> None:
    sizes = {tuple(values.shape[:2]) for values in maps}
    if len(sizes) > 1:
        raise CacheFormatError(
            f"The {what} of {name} have different sizes", got=sorted(sizes), expected="one size"
        )


NEAREST: Final = 0.02
"""Seconds by which picture, depth and pose of one frame may be apart."""


def associated(wanted: np.ndarray, offered: np.ndarray) -> np.ndarray:
    """For each time the number of the nearest one offered, or -1 where none is near.

    Args:
        wanted: (N,) seconds.
        offered: (M,) seconds, in any order.
    """
    if not len(offered):
        return np.full(len(wanted), -1)
    order = np.argsort(offered, kind="stable")
    times = offered[order]
    after = np.searchsorted(times, wanted).clip(0, len(times) - 1)
    before = (after - 1).clip(0)
    earlier = np.abs(times[before] - wanted) <= np.abs(times[after] - wanted)
    closer = np.where(earlier, before, after)
    return np.where(np.abs(times[closer] - wanted) <= NEAREST, order[closer], -1)


def expect_frames(name: str, count: int) -> None:
    """Raise `GeometryError` for a recording without usable frames."""
    if count == 0:
        raise GeometryError(
            f"{name} has no usable frame",
            got="no picture with depth and a pose",
            expected="pictures, depth and poses of the same moments",
            fix="Unpack the whole recording",
        )
