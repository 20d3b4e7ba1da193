"""Picture, depth and camera move of a shot, from files."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..checkpoints.branch_format import FORMATS
from ..constants import WHITE_8
from ..errors import ShapeError
from ..geometry import depth_picture
from ..geometry.depth_picture import AUTO, DepthReading, geometry_from_picture
from ..geometry.frame_geometry import ASPECT_TOLERANCE, FrameGeometry
from ..geometry.geometry_io import load_geometry
from ..geometry.picture_files import MAX_PIXELS, read_levels, read_picture
from ..geometry.trajectory import Trajectory, fov_of
from ..geometry.transform import invert_rigid
from ..trajectories.exchange.camera_file import Wanted
from ..trajectories.exchange.formats import read_cameras
from ..trajectories.lens import fit_lens
from ..trajectories.presets import preset_trajectory
from ..validate import expect_frame_size

NEAR_WHITE, NEAR_WHITE_LINEAR, FAR_WHITE = "near-white", "near-white-linear", "far-white"
ENCODINGS: Final = {
    AUTO: AUTO,
    NEAR_WHITE: depth_picture.NEAR_INVERSE,
    NEAR_WHITE_LINEAR: depth_picture.NEAR_LINEAR,
    FAR_WHITE: depth_picture.FAR_LINEAR,
    "millimetres": depth_picture.MILLIMETRES,
    "scene-units": depth_picture.SCENE_UNITS,
}
"""How a depth picture's values become distances, by the words of the command line."""

BLACKS: Final = {
    AUTO: AUTO,
    "no-reading": depth_picture.NO_READING,
    "distance": depth_picture.A_DISTANCE,
}
"""What black is in a depth picture, by the words of the command line."""


_NAME_BYTES: Final = 255
"""Longest name of a file or folder."""

_DIGITS: Final = 5
"""Most digits of a side of a picture."""


def add_branch_format(group: Any) -> None:
    """Add ``--branch-format`` to a parser or to a group of its arguments."""
    group.add_argument(
        "--branch-format", choices=FORMATS, default="auto",
        help="what 96 input planes of a side branch mean where its file does not say it "
        "(default: auto, by the file's name)",
    )  # fmt: skip


def parse_path(text: str) -> Path:
    """A path that some file system could have, for argparse."""
    longest = max((len(os.fsencode(part)) for part in Path(text).parts), default=0)
    if longest > _NAME_BYTES or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text[:60]!r} cannot be the name of a file")
    return Path(text)


def parse_size(text: str) -> tuple[int, int]:
    """``1280x704`` as (width, height), for argparse."""
    width, cross, height = text.lower().partition("x")
    sides = (width, height)
    if not (cross and all(side.isdecimal() and len(side) <= _DIGITS for side in sides)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 1280x704")
    if int(width) * int(height) > MAX_PIXELS:
        raise argparse.ArgumentTypeError(f"{text} is more than {MAX_PIXELS:,} pixels")
    return int(width), int(height)


def load_picture(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """A picture as (H, W, 3) float32 in 0..1, upright and with all of its bits.

    Args:
        path: Any format that PIL reads; transparency is dropped.
        size: (width, height) to resize to; the picture's own by default. It is never cropped,
            since its depth would have to be cropped alike.

    Raises:
        CacheFormatError: The file is missing or no picture, or too large for its bytes.
        ShapeError: The size does not fit the video model's grid, or would distort the picture.
    """
    picture = read_picture(path)
    rows, columns = picture.shape[:2]
    width, height = size or (columns, rows)
    expect_frame_size(width, height)
    distortion = (width / height) / (columns / rows)
    if abs(distortion - 1) > ASPECT_TOLERANCE:
        raise ShapeError(
            "Resizing to this size would distort the picture",
            got=f"a picture of {columns} x {rows}",
            expected=f"the aspect ratio of {width} x {height}",
            fix="Crop the picture first, and crop its depth in the same way",
        )
    if (columns, rows) != (width, height):
        picture = _resized(picture, (width, height))
    if picture.dtype == np.uint8:
        return torch.from_numpy(picture).float() / WHITE_8
    return torch.from_numpy(picture).clamp(0, 1)


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    filtered = Image.Resampling.LANCZOS
    if picture.dtype == np.uint8:
        return np.asarray(Image.fromarray(picture).resize(size, filtered)).copy()
    # Pillow has no colours of floats: one at a time.
    channels = (Image.fromarray(channel) for channel in np.moveaxis(picture, -1, 0))
    return np.stack([np.asarray(channel.resize(size, filtered)) for channel in channels], axis=-1)


def load_depth_picture(
    path: Path,
    encoding: str = AUTO,
    near: float = 1.0,
    far: float = 20.0,
    fov: float = 60.0,
    black: str = AUTO,
) -> FrameGeometry:
    """Depth from a picture of it: 8 or 16 bits, or floating-point numbers.

    Args:
        path: The picture, turned upright as its EXIF data says; colours are averaged.
        encoding: One of `ENCODINGS`; floating-point numbers beyond 1 are scene units in any case.
        near: Distance of the nearest surface.
        far: Distance of the farthest surface.
        fov: Horizontal field of view in degrees.
        black: One of `BLACKS`.

    Raises:
        CacheFormatError: The file is missing or no picture, or too large for its bytes.
        GeometryError: The range is empty.
        ValueRangeError: The field of view is out of range, or a name is unknown.
    """
    levels, floats = read_levels(path)
    reading = DepthReading(ENCODINGS.get(encoding, encoding), near, far, BLACKS.get(black, black))
    return geometry_from_picture(torch.from_numpy(levels)[None], reading, fov, floats=floats)


def read_geometry(arguments: argparse.Namespace) -> FrameGeometry:
    """The geometry that ``--geometry`` or ``--depth`` names."""
    named = arguments.geometry if arguments.geometry is not None else arguments.depth
    if arguments.geometry is not None or named.suffix.lower() in (".exr", ".npz"):
        return load_geometry(named, arguments.fov, arguments.depth_channel)
    return load_depth_picture(
        named, arguments.depth_encoding, arguments.near, arguments.far, arguments.fov,
        arguments.depth_black,
    )  # fmt: skip


def read_trajectory(
    arguments: argparse.Namespace, geometry: FrameGeometry, size: tuple[int, int]
) -> Trajectory:
    """The camera move that ``--trajectory`` or ``--move`` names, for pictures of (W, H).

    What a file's move was chosen from, and its lens, are written to standard output.
    """
    width, height = size
    lens = geometry.intrinsics_for((height, width))[0]
    if arguments.trajectory is not None:
        wanted = Wanted(
            width, height, arguments.fps, fov_of(lens, width),
            arguments.camera.strip(), arguments.animation.strip(),
        )  # fmt: skip
        move = read_cameras(arguments.trajectory, wanted)
        fitted = fit_lens(move.trajectory, lens, arguments.lens)
        sys.stdout.write("".join(f"{line}\n" for line in (*move.notes, fitted.report)))
        return fitted.trajectory
    poses = geometry.world_to_camera
    return preset_trajectory(
        arguments.move,
        arguments.frames,
        intrinsics=lens,
        width=width,
        height=height,
        scene_depth=geometry.typical_depth(),
        amount=arguments.amount,
        there_and_back=arguments.there_and_back,
        easing=arguments.easing,
        fps=arguments.fps,
        start=None if poses is None else invert_rigid(poses[:1])[0],
    )
