"""Picture, depth and camera move of a shot, from files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..checkpoints.branch_format import FORMATS
from ..errors import CacheFormatError, ShapeError
from ..geometry.frame_geometry import ASPECT_TOLERANCE, FrameGeometry, depth_from_picture
from ..geometry.geometry_io import load_geometry
from ..geometry.trajectory import Trajectory, fov_of, intrinsics_from_fov
from ..geometry.transform import invert_rigid
from ..trajectories.exchange.formats import import_trajectory
from ..trajectories.presets import preset_trajectory
from ..validate import expect_frame_size

NEAR_WHITE, NEAR_WHITE_LINEAR, FAR_WHITE = "near-white", "near-white-linear", "far-white"
ENCODINGS = (NEAR_WHITE, NEAR_WHITE_LINEAR, FAR_WHITE)
"""How a depth picture's grey values become distances."""


def add_branch_format(group: Any) -> None:
    """Add ``--branch-format`` to a parser or to a group of its arguments."""
    group.add_argument(
        "--branch-format", choices=FORMATS, default="auto",
        help="what 96 input planes of a side branch mean where its file does not say it "
        "(default: auto, by the file's name)",
    )  # fmt: skip


def parse_size(text: str) -> tuple[int, int]:
    """``1280x704`` as (width, height), for argparse."""
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 1280x704")
    return int(width), int(height)


def load_picture(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """A picture as (H, W, 3) float32 in 0..1.

    Args:
        path: Any format that PIL reads; transparency is dropped.
        size: (width, height) to resize to; the picture's own by default. It is never cropped,
            since its depth would have to be cropped alike.

    Raises:
        CacheFormatError: The file is missing or no picture.
        ShapeError: The size does not fit the video model's grid, or would distort the picture.
    """
    picture = _open(path).convert("RGB")
    width, height = size or picture.size
    expect_frame_size(width, height)
    distortion = (width / height) / (picture.width / picture.height)
    if abs(distortion - 1) > ASPECT_TOLERANCE:
        raise ShapeError(
            "Resizing to this size would distort the picture",
            got=f"a picture of {picture.width} x {picture.height}",
            expected=f"the aspect ratio of {width} x {height}",
            fix="Crop the picture first, and crop its depth in the same way",
        )
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(picture).copy()).float() / 255


def load_depth_picture(
    path: Path, encoding: str, near: float, far: float, fov: float
) -> FrameGeometry:
    """Depth from a picture of it, with 8 or 16 bits.

    Args:
        path: The picture; colours are averaged.
        encoding: One of `ENCODINGS`.
        near: Distance of the nearest surface.
        far: Distance of the farthest surface.
        fov: Horizontal field of view in degrees.

    Raises:
        CacheFormatError: The file is missing or no picture.
        GeometryError: The range is empty.
        ValueRangeError: The field of view is out of range.
    """
    picture = _open(path)
    # 16-bit grey pictures open as one of PIL's integer modes.
    whole = picture.mode.startswith("I")
    values = np.asarray(picture if whole else picture.convert("RGB"), dtype=np.float32)
    level = torch.from_numpy(values.copy()) / (65535 if whole else 255)
    level = level if whole else level.mean(dim=-1)
    level = 1 - level if encoding == NEAR_WHITE_LINEAR else level
    depth = depth_from_picture(level[None], near, far, inverse=encoding == NEAR_WHITE)
    intrinsics = intrinsics_from_fov(int(depth.shape[2]), int(depth.shape[1]), fov)
    return FrameGeometry(depth, intrinsics[None])


def read_geometry(arguments: argparse.Namespace) -> FrameGeometry:
    """The geometry that ``--geometry`` or ``--depth`` names."""
    if arguments.geometry is not None:
        return load_geometry(arguments.geometry, arguments.fov)
    return load_depth_picture(
        arguments.depth, arguments.depth_encoding, arguments.near, arguments.far, arguments.fov
    )


def read_trajectory(
    arguments: argparse.Namespace, geometry: FrameGeometry, size: tuple[int, int]
) -> Trajectory:
    """The camera move that ``--trajectory`` or ``--move`` names, for pictures of (W, H)."""
    width, height = size
    if arguments.trajectory is not None:
        return import_trajectory(
            arguments.trajectory, width=width, height=height, fps=arguments.fps,
            fov=fov_of(geometry.intrinsics_for((height, width))[0], width),
            camera=arguments.camera,
        )  # fmt: skip
    poses = geometry.world_to_camera
    return preset_trajectory(
        arguments.move,
        arguments.frames,
        intrinsics=geometry.intrinsics_for((height, width))[0],
        width=width,
        height=height,
        scene_depth=geometry.typical_depth(),
        amount=arguments.amount,
        there_and_back=arguments.there_and_back,
        easing=arguments.easing,
        fps=arguments.fps,
        start=None if poses is None else invert_rigid(poses[:1])[0],
    )


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise CacheFormatError(
            f"The picture {path.name} cannot be read",
            got=str(error)[:200] or type(error).__name__,
            expected="a PNG, JPEG or WebP file",
            fix="Check the path",
        ) from error
