"""``camera_path.json`` of nerfstudio's viewer: what its video is rendered with.

Every entry of ``camera_path`` has ``camera_to_world``, 16 numbers row by row, with OpenGL camera
axes and z up, and ``fov``, the vertical field of view in degrees. There is one for each frame.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import torch

from ...errors import CacheFormatError
from ..files import describe, expect_numbers
from ..rotations import nearest_rigid
from .axes import from_z_up
from .camera_file import CameraFile, Wanted
from .lenses import Lens, intrinsics_of, perspective_model
from .load3d import vertical_fov
from .text_files import expect_poses, malformed

FORMAT: Final = "nerfstudio camera path"

_MATRIX = 16


def is_camera_path(data: object) -> bool:
    """True for a parsed ``camera_path.json``."""
    return isinstance(data, dict) and "camera_path" in data


def read_camera_path(data: Mapping[str, Any], name: str, wanted: Wanted) -> CameraFile:
    """Cameras of a ``camera_path.json``.

    Args:
        data: The parsed file.
        name: How error messages call it.
        wanted: What it is read for.

    Raises:
        CacheFormatError: It is malformed, or its lens is no perspective one.
        GeometryError: The numbers are not those of cameras.
        ValueRangeError: A field of view is not between 0 and 180 degrees.
    """
    frames = data["camera_path"]
    if not isinstance(frames, list):
        raise CacheFormatError(
            f'"camera_path" of {name} is malformed', got=describe(frames), expected="a list"
        )
    expect_poses(len(frames), name)
    kind = data.get("camera_type", "perspective")
    perspective_model(kind if isinstance(kind, str) else describe(kind), name)
    size = _size(data, name)
    matrices, lenses = [], []
    for number, frame in enumerate(frames):
        where = f"Camera {number} of {name}"
        if not isinstance(frame, dict):
            raise CacheFormatError(f"{where} is malformed", got=describe(frame))
        flat = frame.get("camera_to_world")
        if isinstance(flat, list) and len(flat) == 4:  # noqa: PLR2004
            flat = [value for row in flat if isinstance(row, list) for value in row]
        matrices.append(expect_numbers(flat, _MATRIX, f'"camera_to_world" of {where}'))
        expect_numbers([frame.get("fov")], 1, f'"fov" of {where}')
        focal = size[1] / 2 / math.tan(math.radians(vertical_fov(frame, where)) / 2)
        lenses.append(Lens(size, (focal, focal), (size[0] / 2, size[1] / 2)))
    camera_to_world = torch.tensor(matrices, dtype=torch.float64).view(-1, 4, 4)
    poses, repaired = nearest_rigid(f"{name}: the matrix", camera_to_world)
    intrinsics = intrinsics_of(lenses, wanted.width, wanted.height)
    move = wanted.move(from_z_up(poses), intrinsics, _fps(data, name))
    return CameraFile(move, FORMAT, (repaired,) if repaired else ())


def _size(data: Mapping[str, Any], name: str) -> tuple[float, float]:
    keys = ("render_width", "render_height")
    width, height = expect_numbers(
        [data.get(key) for key in keys], 2, f'"render_width" and "render_height" of {name}'
    )
    if min(width, height) <= 0:
        raise malformed(f"The picture size of {name}", f"{width:g} x {height:g}")
    return width, height


def _fps(data: Mapping[str, Any], name: str) -> float:
    if "fps" not in data:
        return 0.0
    return expect_numbers([data["fps"]], 1, f'"fps" of {name}')[0]
