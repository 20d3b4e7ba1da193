"""Shots of real footage: videos or pictures, with cameras and depth from files or estimators."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...constants import DEFAULT_FPS, MAX_CHUNK_FRAMES, TEMPORAL_STRIDE, WHITE_8
from ...errors import CacheFormatError, GeometryError, MirageError, ShapeError
from ...geometry.camera import latent_size
from ...geometry.frame_geometry import FrameGeometry
from ...geometry.geometry_io import load_geometry
from ...geometry.trajectory import Trajectory
from ...log import logger
from ...trajectories.exchange.camera_file import Wanted
from ...trajectories.exchange.formats import read_cameras
from ...trajectories.exchange.lenses import CORNER_TOLERANCE
from ...validate import expect_range
from .build_clip import CHUNK_STEP, Shot
from .fit import Fit
from .footage_files import (
    Footage,
    find_cameras,
    find_caption,
    find_footage,
    find_geometry,
    read_caption,
)
from .pipeline import BadShot, UnusedFrames
from .scale import to_camera_units
from .shot_masks import ShotMasks, masked

if TYPE_CHECKING:
    from ...masks.types import MaskProvider
    from ...models.geometry_estimators import GeometryEstimator


@dataclass(frozen=True)
class FootageSource:
    """Footage below a folder, cut into shots.

    What goes with ``a/b.mp4`` or the folder of pictures ``a/b`` has the same path with another
    ending: ``a/b.json`` and the like for cameras, ``a/b.npz`` and the like for geometry,
    ``a/b.caption.txt`` for the caption. RealEstate10K camera files are cameras like others.

    Attributes:
        root: Folder of the footage, and of captions.
        width: Width of the training pictures, a multiple of 32.
        height: Their height, a multiple of 32. Footage is scaled to cover, and cut.
        cameras: Folder of camera files; ``root`` by default.
        geometry: Folder of geometry files; ``root`` by default.
        estimator: Makes the geometry estimator, for footage without a geometry file; called
            once per worker.
        shot_frames: Frames of a shot, 32n + 1: the memory lives this long. Long footage is
            cut into several shots.
        stride: Take every n-th frame of the footage.
        exact_depth: Geometry files are those of a renderer, and get errors in training.
        caption: Caption of footage without one.
        captions: Folder of captions, in which ``.txt`` is one too; ``root`` by default, where
            that is cameras. It may be ``root``.
        masks: What stays out of the memory: moving things and sky; None for nothing.

    Raises:
        ShapeError: The picture size is not a multiple of 32, or a shot is not of whole chunks.
        ValueRangeError: ``stride`` or ``shot_frames`` is out of range.
    """

    root: Path
    width: int
    height: int
    cameras: Path | None = None
    geometry: Path | None = None
    estimator: Callable[[], GeometryEstimator] | None = None
    shot_frames: int = 3 * CHUNK_STEP + 1
    stride: int = 1
    exact_depth: bool = False
    caption: str = ""
    captions: Path | None = None
    masks: ShotMasks | None = None

    def __post_init__(self) -> None:
        latent_size(self.width, self.height)
        expect_range("The stride", self.stride, 1, 1000)
        expect_range("The frames of a shot", self.shot_frames, MAX_CHUNK_FRAMES, 100_001)
        if self.shot_frames % CHUNK_STEP != 1:
            raise ShapeError(
                "A shot consists of whole chunks",
                got=f"{self.shot_frames} frames",
                expected=f"{CHUNK_STEP}n + 1 frames",
                fix=f"Use {self.shot_frames // CHUNK_STEP * CHUNK_STEP + 1}",
            )

    def items(self) -> tuple[str, ...]:
        """Relative paths of all footage, after the name of the folder.

        Raises:
            CacheFormatError: There is none.
        """
        return tuple(f"{self.root.name}/{path}" for path in find_footage(self.root))

    @cached_property
    def _estimate(self) -> GeometryEstimator | None:
        return None if self.estimator is None else self.estimator()

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_estimate"}

    def load(self, item: str) -> Iterator[Shot | BadShot | UnusedFrames]:
        """Read one video or folder of pictures as shots, and say what is left over at its end.

        Raises:
            CacheFormatError: Footage, cameras or geometry are damaged.
            GeometryError: There are no cameras or no depth, or they do not match the frames.
            ShapeError: The footage is shorter than a chunk.
        """
        return self.rest(item, ())

    def rest(
        self, item: str, stored: Collection[str]
    ) -> Iterator[Shot | BadShot | UnusedFrames]:
        """The same without the shots of these keys, of which no depth is estimated.

        Raises:
            MirageError: As `load`.
        """
        path = item.removeprefix(f"{self.root.name}/")
        parts = _Parts.of(self, path)
        left = (parts.count - 1) // self.stride + 1
        for number, (start, frames) in enumerate(self._cut(parts)):
            key = f"{item}/{number}"
            left -= len(frames)
            if key in stored:
                continue
            try:
                yield self._shot(key, parts, start, frames.float() / WHITE_8)
            except MirageError as error:
                yield BadShot(key, str(error))
        if left:
            yield UnusedFrames(left)

    def _cut(self, parts: _Parts) -> Iterator[tuple[int, Tensor]]:
        """Whole chunks of frames, (F, H, W, 3) uint8 at the wanted size, with their first."""
        gathered: list[Tensor] = []
        start = count = 0
        for picture in parts.footage.frames():
            _expect_size(parts, picture)
            if count % self.stride == 0:
                gathered.append(parts.fit.picture(picture))
            count += 1
            if len(gathered) == self.shot_frames:
                # Let go of first: whoever takes the shot holds it once, not twice.
                frames, gathered = torch.stack(gathered), []
                yield start, frames
                start += self.shot_frames
        if count != parts.count:
            raise _incomplete(parts.footage.path.name, count, parts.count)
        usable = (len(gathered) - 1) // CHUNK_STEP * CHUNK_STEP + 1
        if usable >= MAX_CHUNK_FRAMES:
            yield start, torch.stack(gathered[:usable])

    def _shot(self, key: str, parts: _Parts, start: int, frames: Tensor) -> Shot:
        """A shot of frames that begin at frame ``start`` of the thinned footage."""
        wanted = [(start + number) * self.stride for number in range(len(frames))]
        cameras = None if parts.cameras is None else parts.cameras.select(wanted)
        left_out = None
        if self.masks is not None and parts.masks is not None:
            left_out = self.masks.left_out(parts.masks, frames, wanted)
        if parts.geometry is not None and cameras is not None:
            depth = parts.fit.geometry(parts.geometry.select(wanted[::TEMPORAL_STRIDE]))
            poses = cameras.world_to_camera[::TEMPORAL_STRIDE]
            geometry = dataclasses.replace(depth, world_to_camera=poses)
        elif self._estimate is not None:
            cameras, geometry = _estimated(self._estimate, frames, cameras)
        else:
            raise _missing(key, "cameras" if cameras is None else "depth")
        exact = self.exact_depth and parts.geometry is not None
        geometry = masked(geometry, left_out, frames)
        return Shot(key, frames, cameras, geometry, exact=exact, caption=parts.caption)


@dataclass(frozen=True, eq=False)
class _Parts:
    """Footage with all that goes with it.

    ``cameras`` are those of the training pictures, one per frame; ``geometry`` still has the
    size that its file has.
    """

    footage: Footage
    count: int
    fit: Fit
    cameras: Trajectory | None
    geometry: FrameGeometry | None
    caption: str
    masks: MaskProvider | None

    @classmethod
    def of(cls, source: FootageSource, path: str) -> _Parts:
        footage = Footage(source.root / path)
        count, width, height = footage.measure()
        if (count - 1) // source.stride + 1 < MAX_CHUNK_FRAMES:
            raise ShapeError(
                f"{path} is shorter than one chunk",
                got=f"{count} frames, of which every {source.stride}th is used",
                expected=f"at least {MAX_CHUNK_FRAMES}",
            )
        fit = Fit((width, height), (source.width, source.height))
        caption = find_caption(source.root, path, source.captions)
        file = find_cameras(source.cameras or source.root, path, caption)
        cameras = None
        if file is not None:
            footage.expect_times(file)
            cameras = _cameras(file, width, height)
            _expect_count(path, file, len(cameras), count)
        file = find_geometry(source.geometry or source.root, path)
        geometry = None
        if file is not None:
            geometry = load_geometry(file, _field_of_view(cameras))
            _expect_count(path, file, len(geometry), count)
            if cameras is None and geometry.world_to_camera is not None:
                intrinsics = geometry.intrinsics_for((height, width))
                cameras = Trajectory(geometry.world_to_camera, intrinsics, width, height)
        return cls(
            footage,
            count,
            fit,
            None if cameras is None else fit.cameras(cameras),
            geometry,
            read_caption(caption, source.caption),
            None if source.masks is None else source.masks.source.of_item(path, count, fit),
        )


def _cameras(file: Path, width: int, height: int) -> Trajectory:
    """Cameras that fit the pictures: of a known lens, and without distortion."""
    found = read_cameras(file, Wanted(width, height, DEFAULT_FPS))
    if found.corner_shift >= CORNER_TOLERANCE or not found.states_lens:
        raise CacheFormatError(
            f"The lens of {file.name} does not fit its footage",
            got=" ".join(found.notes),
            expected="the lens of every frame, and pictures without distortion",
            fix="Undistort the pictures (colmap image_undistorter), and use the cameras it writes",
        )
    for note in found.notes:
        logger.warning("%s: %s", file.name, note)
    return found.trajectory


def _field_of_view(cameras: Trajectory | None) -> float | None:
    """Horizontal field of view in degrees, for geometry files that do not state it."""
    if cameras is None:
        return None
    return math.degrees(2 * math.atan(cameras.width / (2 * float(cameras.intrinsics[0, 0, 0]))))


def _estimated(
    estimate: GeometryEstimator, frames: Tensor, cameras: Trajectory | None
) -> tuple[Trajectory, FrameGeometry]:
    """Cameras of all frames, and depth of every fourth."""
    seen = frames[::TEMPORAL_STRIDE]
    known = None if cameras is None else cameras.select(slice(None, None, TEMPORAL_STRIDE))
    geometry = estimate(seen, known)
    if cameras is not None and known is not None:
        return cameras, to_camera_units(geometry, known, seen)
    if geometry.world_to_camera is None:
        raise _missing("The footage", "cameras")
    height, width = int(frames.shape[1]), int(frames.shape[2])
    poses, intrinsics = geometry.world_to_camera, geometry.intrinsics_for((height, width))
    # Only every fourth camera is ever looked at; those between take the one before.
    owner = torch.arange(len(frames)) // TEMPORAL_STRIDE
    return Trajectory(poses[owner], intrinsics[owner], width, height), geometry


def _expect_size(parts: _Parts, picture: Tensor) -> None:
    width, height = parts.fit.own
    if picture.shape[:2] != (height, width):
        raise CacheFormatError(
            f"The pictures of {parts.footage.path.name} have different sizes",
            got=f"{picture.shape[1]} x {picture.shape[0]}",
            expected=f"{width} x {height}, like the first one",
            fix="Scale them to one size, or put them into separate folders",
        )


def _expect_count(item: str, file: Path, found: int, count: int) -> None:
    if found != count:
        raise GeometryError(
            f"{file.name} does not match the frames of {item}",
            got=f"{found} entries for {count} frames",
            expected="one entry for every frame",
            fix="Use the file that was made for exactly these frames",
        )


def _incomplete(name: str, found: int, count: int) -> CacheFormatError:
    return CacheFormatError(
        f"{name} is damaged",
        got=f"{found} frames that can be decoded",
        expected=f"{count}, as stated by the file",
        fix="Copy it again, or remove it",
    )


def _missing(key: str, what: str) -> GeometryError:
    return GeometryError(
        f"{key} has no {what}",
        got="no such file, and no estimator for them",
        expected="a camera file and a geometry file next to the footage, or an estimator",
        fix="Choose an estimator, or put the files next to the footage",
    )
