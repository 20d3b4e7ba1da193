"""COLMAP binary models: ``cameras.bin`` and ``images.bin`` beside each other, little endian."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

from ...errors import CacheFormatError
from .camera_file import CameraFile, Wanted
from .colmap import Image, camera_lens, model
from .lenses import Lens, perspective_model
from .text_files import expect_poses

CAMERAS: Final = "cameras.bin"
IMAGES: Final = "images.bin"

_MODELS: Final = (
    ("SIMPLE_PINHOLE", 3), ("PINHOLE", 4), ("SIMPLE_RADIAL", 4), ("RADIAL", 5), ("OPENCV", 8),
    ("OPENCV_FISHEYE", 8), ("FULL_OPENCV", 12), ("FOV", 5), ("SIMPLE_RADIAL_FISHEYE", 4),
    ("RADIAL_FISHEYE", 5), ("THIN_PRISM_FISHEYE", 12), ("RAD_TAN_THIN_PRISM_FISHEYE", 16),
)  # fmt: skip
"""COLMAP's camera models by number, and how many parameters each has."""

_IMAGE = struct.Struct("<I7dI")
_CAMERA = struct.Struct("<IiQQ")
_COUNT = struct.Struct("<Q")
_POINT_BYTES = 24
_LONGEST_NAME = 4096


def read_colmap_binary(path: Path, wanted: Wanted) -> CameraFile:
    """Cameras of a COLMAP binary model, in the natural order of the pictures' names.

    Args:
        path: Its ``images.bin``, beside ``cameras.bin``.
        wanted: What it is read for.

    Raises:
        CacheFormatError: A file is missing, cut off or damaged, or the lens is no perspective
            one.
        GeometryError: The numbers are not those of cameras.
    """
    name = path.name
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            images = _images(file, size, name)
        name = CAMERAS
        with open(path.with_name(CAMERAS), "rb") as file:
            lenses = _cameras(file)
    except (OSError, struct.error, UnicodeError) as error:
        raise CacheFormatError(
            f"{name} cannot be read",
            got=str(error)[:200],
            expected="a complete COLMAP binary model",
            fix="Copy both images.bin and cameras.bin again, or export the model as text",
        ) from error
    return model(images, lenses, path.name, wanted)


def _images(file: BinaryIO, size: int, name: str) -> list[Image]:
    (count,) = _read(file, _COUNT)
    expect_poses(count, name)
    images: list[Image] = []
    for _ in range(count):
        _, *pose, camera = _read(file, _IMAGE)
        title = _name(file)
        (points,) = _read(file, _COUNT)
        if points * _POINT_BYTES > size - file.tell():
            raise struct.error(f"the file ends within picture {len(images) + 1} of {count}")
        file.seek(points * _POINT_BYTES, 1)
        images.append(Image(title, str(camera), tuple(pose)))
    return images


def _cameras(file: BinaryIO) -> dict[str, Callable[[], Lens]]:
    (count,) = _read(file, _COUNT)
    expect_poses(count, CAMERAS)
    lenses: dict[str, Callable[[], Lens]] = {}
    for _ in range(count):
        number, kind, width, height = _read(file, _CAMERA)
        where = f"Camera {number} of {CAMERAS}"
        if not 0 <= kind < len(_MODELS):
            # How long its entry is, and so where the next camera begins, is not known.
            perspective_model(f"camera model number {kind}", where)
        title, parameters = _MODELS[kind]
        values = list(_read(file, struct.Struct(f"<{parameters}d")))
        size = [float(width), float(height)]
        lenses[str(number)] = partial(camera_lens, where, title, size, values)
    return lenses


def _name(file: BinaryIO) -> str:
    """A name that ends with a zero byte."""
    start = file.tell()
    found = file.read(_LONGEST_NAME).split(b"\0", 1)
    if len(found) == 1:
        raise struct.error("the name of a picture does not end")
    file.seek(start + len(found[0]) + 1)
    return found[0].decode("utf-8")


def _read(file: BinaryIO, layout: struct.Struct) -> tuple[Any, ...]:
    return layout.unpack(file.read(layout.size))
