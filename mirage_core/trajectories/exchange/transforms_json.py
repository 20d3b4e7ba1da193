"""``transforms.json`` of Blender exporters and radiance-field tools (NeRF, instant-ngp).

Every frame has a ``transform_matrix``: camera to world, OpenGL camera axes, z up. The lens is
``fl_x``, ``fl_y``, ``cx``, ``cy`` with ``w`` and ``h``, or ``camera_angle_x`` in radians, for the
file or for each frame.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from ...errors import CacheFormatError
from ...files import atomic_write, with_suffix
from ...geometry.trajectory import Trajectory
from ..files import describe, expect_numbers
from ..rotations import nearest_rigid
from .axes import from_z_up, to_z_up
from .camera_file import CameraFile, Wanted
from .frame_order import play_order
from .lenses import Lens, intrinsics_of, lens_notes, not_perspective, perspective_model
from .text_files import expect_poses, malformed

FORMAT: Final = "transforms.json"

_OTHER_LENSES: Final = {
    "is_fisheye": "fisheye", "ftheta_p0": "fisheye", "equirectangular": "panorama",
    "latlong": "panorama", "orthographic": "orthographic",
}  # fmt: skip
"""Keys by which tools mark a lens that is no perspective one."""


def is_transforms(data: object) -> bool:
    """True for a parsed ``transforms.json``."""
    return isinstance(data, dict) and isinstance(data.get("frames"), list) and "format" not in data


def read_transforms(data: Mapping[str, Any], name: str, wanted: Wanted) -> CameraFile:
    """Cameras of a ``transforms.json``, by the numbers of their pictures.

    Args:
        data: The parsed file.
        name: How error messages call it.
        wanted: What it is read for.

    Raises:
        CacheFormatError: It is malformed, does not say how wide the camera sees, or its lens is
            no perspective one.
        GeometryError: The numbers are not those of cameras.
    """
    frames = data["frames"]
    expect_poses(len(frames), name)
    for number, frame in enumerate(frames):
        if not isinstance(frame, dict):
            raise CacheFormatError(
                f"Frame {number} of {name} is malformed", got=describe(frame), expected="an object"
            )
    pictures = [frame.get("file_path", "") for frame in frames]
    pictures = [picture if isinstance(picture, str) else "" for picture in pictures]
    order = play_order(pictures, wanted.camera, name)
    common = {key: value for key, value in data.items() if key != "frames"}
    matrices, lenses = [], []
    for number in order.frames:
        where = f"Frame {number} of {name}"
        matrices.append(_matrix(frames[number].get("transform_matrix"), where))
        lenses.append(_lens({**common, **frames[number]}, where, wanted))
    poses, repaired = nearest_rigid(
        f"{name}: the matrix", torch.tensor(matrices, dtype=torch.float64)
    )
    shift = max(lens.corner_shift() for lens in set(lenses))
    move = wanted.move(from_z_up(poses), intrinsics_of(lenses, wanted.width, wanted.height))
    notes = (order.note, repaired, *lens_notes(shift))
    return CameraFile(move, FORMAT, tuple(filter(None, notes)), order.cameras, shift)


def write_transforms(trajectory: Trajectory, path: Path) -> Path:
    """Write a ``transforms.json``.

    Raises:
        StorageError: The disk is full or the folder is not writable.
    """
    path = with_suffix(path, ".json")
    frames = []
    for number, matrix in enumerate(to_z_up(trajectory.world_to_camera).tolist()):
        k = trajectory.intrinsics[number]
        frames.append(
            {
                "file_path": f"frame_{number:06}.png",
                "transform_matrix": matrix,
                "fl_x": float(k[0, 0]),
                "fl_y": float(k[1, 1]),
                "cx": float(k[0, 2]),
                "cy": float(k[1, 2]),
            }
        )
    angle = 2 * math.atan(trajectory.width / (2 * frames[0]["fl_x"]))
    document = {
        "camera_model": "PINHOLE",
        "camera_angle_x": angle,
        "w": trajectory.width,
        "h": trajectory.height,
        "frames": frames,
    }
    with atomic_write(path, "w") as file:
        file.write(json.dumps(document, allow_nan=False))
    return path


def _matrix(rows: object, where: str) -> list[list[float]]:
    if not isinstance(rows, list) or len(rows) not in (3, 4):
        raise CacheFormatError(
            f'"transform_matrix" of {where} is malformed',
            got=describe(rows),
            expected="4 rows of 4 numbers",
        )
    matrix = [expect_numbers(row, 4, f'"transform_matrix" of {where}') for row in rows]
    return [*matrix[:3], [0.0, 0.0, 0.0, 1.0]]


def _lens(data: Mapping[str, Any], where: str, wanted: Wanted) -> Lens:
    kind = data.get("camera_model", "PERSPECTIVE")
    perspective_model(kind if isinstance(kind, str) else describe(kind), where)
    for key, other in _OTHER_LENSES.items():
        if data.get(key):
            raise not_perspective(where, other, key)

    def number(key: str, default: float) -> float:
        return expect_numbers([data.get(key, default)], 1, f'"{key}" of {where}')[0]

    pixels = [key for key in ("fl_x", "fl_y", "cx", "cy") if key in data]
    if pixels and not {"w", "h"} <= set(data):
        raise CacheFormatError(
            f"{where} gives {pixels[0]} in pixels of a picture whose size it does not say",
            expected='"w" and "h", its width and height',
            fix="Add both to the file",
        )
    size = number("w", wanted.width), number("h", wanted.height)
    focal = _focal(data, where, size)
    if min(*size, *focal) <= 0:
        raise malformed(where, f"a lens of {focal[0]:g} pixels for {size[0]:g} x {size[1]:g}")
    # nerfstudio's k4 goes with r^8.
    return Lens(
        size,
        focal,
        (number("cx", size[0] / 2), number("cy", size[1] / 2)),
        tuple(number(key, 0.0) for key in ("k1", "k2", "k3", "k4")),
        (),
        (number("p1", 0.0), number("p2", 0.0)),
    )


def _focal(data: Mapping[str, Any], where: str, size: tuple[float, float]) -> tuple[float, float]:
    def one(key: str) -> float:
        return expect_numbers([data[key]], 1, f'"{key}" of {where}')[0]

    def by_angle(key: str, side: float) -> float:
        angle = one(key)
        if not 0 < angle < math.pi:
            raise malformed(where, f'"{key}" of {angle:g}')
        return side / (2 * math.tan(angle / 2))

    if "fl_x" in data or "fl_y" in data:
        first, second = ("fl_x", "fl_y") if "fl_x" in data else ("fl_y", "fl_y")
        return one(first), one(second if second in data else first)
    # Exporters give the other angle for another aspect ratio: pixels are square.
    if "camera_angle_x" in data:
        focal = by_angle("camera_angle_x", size[0])
    elif "camera_angle_y" in data:
        focal = by_angle("camera_angle_y", size[1])
    else:
        raise CacheFormatError(
            f"{where} has no field of view",
            expected='"camera_angle_x", or "fl_x" with "w" and "h"',
            fix="Export the cameras again",
        )
    return focal, focal
