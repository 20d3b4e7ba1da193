"""Finding footage and what goes with it, and reading it frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from ...constants import WHITE_8
from ...errors import CacheFormatError, GeometryError
from ...geometry.geometry_io import SUFFIXES as GEOMETRY_SUFFIXES
from ...geometry.picture_files import read_picture
from ...rollout.video import open_video, read_frames
from ...trajectories.exchange.formats import SUFFIXES as CAMERA_SUFFIXES
from ...trajectories.exchange.text_files import read_text

VIDEOS: Final = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
PICTURES: Final = (".png", ".jpg", ".jpeg", ".webp")
CAPTION_SUFFIX: Final = ".caption.txt"
"""Ending of a text file beside footage that says what it shows."""

_TIMED: Final = 19
"""Words in a line of a RealEstate10K file."""


@dataclass(frozen=True)
class Footage:
    """A video file, or a folder of pictures, one for each frame.

    Attributes:
        path: The file or folder.
    """

    path: Path

    def pictures(self) -> list[Path]:
        """Pictures of a folder in the order of their names; numbers count by value."""
        return sorted(
            (path for path in self.path.iterdir() if path.suffix.lower() in PICTURES),
            key=lambda path: (int(path.stem) if path.stem.isdecimal() else -1, path.name),
        )

    def measure(self) -> tuple[int, int, int]:
        """Number of frames, width and height, without decoding.

        Raises:
            CacheFormatError: The footage is damaged or empty.
        """
        if self.path.is_dir():
            pictures = self.pictures()
            height, width = _read(pictures[0]).shape[:2] if pictures else (0, 0)
            return len(pictures), width, height
        try:
            with open_video(self.path) as (container, stream):
                count = sum(1 for packet in container.demux(stream) if packet.size)
                return count, stream.width, stream.height
        except CacheFormatError as error:
            raise _unreadable(self.path, error.__cause__ or error) from error

    def frames(self) -> Iterator[Tensor]:
        """Frames in order, (H, W, 3) uint8.

        Raises:
            CacheFormatError: The footage is damaged.
        """
        if not self.path.is_dir():
            try:
                yield from read_frames(self.path)
            except CacheFormatError as error:
                raise _unreadable(self.path, error.__cause__ or error) from error
            return
        for path in self.pictures():
            yield _read(path)

    def expect_times(self, cameras: Path) -> None:
        """Check the names of pictures against the times of a RealEstate10K file, if it is one.

        Raises:
            GeometryError: A picture is of another time than its camera.
        """
        if cameras.suffix.lower() != ".txt" or not self.path.is_dir():
            return
        rows = [line.split() for line in read_text(cameras).splitlines()]
        times = [row[0] for row in rows if len(row) == _TIMED]
        names = [path.stem for path in self.pictures()]
        if not times or not all(name.isdecimal() for name in names):
            return
        wrong = [name for name, time in zip(names, times, strict=False) if int(name) != int(time)]
        # Frames that are numbered from 0 or 1, and not named by their time, tell nothing.
        if wrong and int(names[-1]) > len(names):
            raise GeometryError(
                f"The pictures of {self.path.name} do not match the cameras",
                got=f"a picture of the time {wrong[0]}",
                expected=f"the times in {cameras.name}",
                fix="Extract the frames at exactly the listed times",
            )


def _unreadable(path: Path, error: BaseException) -> CacheFormatError:
    return CacheFormatError(
        f"The video {path.name} cannot be read",
        got=str(error)[:200] or type(error).__name__,
        expected="a complete file with a video stream",
        fix="The file is damaged: copy it again, or remove it",
    )


def _read(path: Path) -> Tensor:
    """(H, W, 3) uint8, upright."""
    values = read_picture(path)
    if values.dtype != np.uint8:
        values = np.rint(values * WHITE_8).astype(np.uint8)
    return torch.from_numpy(values)


def find_footage(root: Path) -> tuple[str, ...]:
    """Videos and folders of pictures below a folder, as sorted relative paths.

    Raises:
        CacheFormatError: There are none.
    """
    found: set[str] = set()
    for path in root.rglob("*"):
        if path.suffix.lower() in VIDEOS and path.is_file():
            found.add(path.relative_to(root).as_posix())
        elif path.suffix.lower() in PICTURES and path.parent != root:
            found.add(path.parent.relative_to(root).as_posix())
    if not found:
        raise CacheFormatError(
            "The folder contains no footage",
            got=root,
            expected=f"videos ({', '.join(VIDEOS)}), or folders of pictures, one per frame",
            fix="Check the path",
        )
    return tuple(sorted(found))


def base_name(item: str) -> str:
    """Relative path of an item without the ending of a video."""
    path = Path(item)
    return path.with_suffix("").as_posix() if path.suffix.lower() in VIDEOS else item


def find_beside(
    root: Path, item: str, suffixes: tuple[str, ...], taken: Path | None = None
) -> Path | None:
    """The file that goes with an item: of the same relative path, with another ending.

    Args:
        root: Where to look.
        item: Relative path of the footage.
        suffixes: Endings, the first that is there counts.
        taken: A file that is something else.
    """
    candidates = (root / f"{base_name(item)}{suffix}" for suffix in suffixes)
    return next((path for path in candidates if path.is_file() and path != taken), None)


def find_cameras(root: Path, item: str, taken: Path | None = None) -> Path | None:
    """Path of the camera file next to an item, which is not ``taken``; None without one."""
    return find_beside(root, item, CAMERA_SUFFIXES, taken)


def find_geometry(root: Path, item: str) -> Path | None:
    """Path of the geometry file next to an item; None when there is none."""
    return find_beside(root, item, GEOMETRY_SUFFIXES)


def find_caption(root: Path, item: str, captions: Path | None = None) -> Path | None:
    """Path of an item's caption, in a folder of captions or next to it; None without one.

    In a folder that is named as that of captions ``.txt`` is one; elsewhere it is cameras.
    """
    path = None if captions is None else find_beside(captions, item, (CAPTION_SUFFIX, ".txt"))
    return path or find_beside(root, item, (CAPTION_SUFFIX,))


def read_caption(path: Path | None, default: str) -> str:
    """The words of a caption's file, or the default without one."""
    return default if path is None else " ".join(read_text(path).split())
