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
from typing import Any

import torch
from torch import Tensor

from ...errors import CacheFormatError
from ...files import atomic_write, with_suffix
from ...geometry.trajectory import Trajectory
from ...validate import expect_rigid
from ..files import MAX_FRAMES, describe, expect_numbers
from .axes import camera_frame, from_z_up, to_z_up


def is_transforms(data: object) -> bool:
    """True for a parsed ``transforms.json``."""
    return isinstance(data, dict) and "frames" in data and "format" not in data


def read_transforms(
    data: Mapping[str, Any], name: str, *, width: int, height: int, fps: float
) -> Trajectory:
    """Cameras of a ``transforms.json``, in the order of the file.

    Args:
        data: The parsed file.
        name: How error messages call it.
        width: Picture width.
        height: Picture height.
        fps: Frames per second.

    Raises:
        CacheFormatError: It is malformed, or does not say how wide the camera sees.
        GeometryError: The numbers are not those of cameras.
    """
    frames = data["frames"]
    if not isinstance(frames, list) or not 1 <= len(frames) <= MAX_FRAMES:
        raise CacheFormatError(
            f'"frames" of {name} is malformed', got=describe(frames), expected="a list of frames"
        )
    poses, intrinsics = [], []
    for number, frame in enumerate(frames):
        where = f"Frame {number} of {name}"
        rows = frame.get("transform_matrix") if isinstance(frame, dict) else None
        if not isinstance(rows, list) or len(rows) not in (3, 4):
            raise CacheFormatError(
                f'"transform_matrix" of {where} is malformed',
                got=describe(rows),
                expected="4 rows of 4 numbers",
            )
        matrix = [expect_numbers(row, 4, f'"transform_matrix" of {where}') for row in rows]
        poses.append([*matrix[:3], [0.0, 0.0, 0.0, 1.0]])
        intrinsics.append(_lens({**data, **frame}, where, width, height))
    camera_to_world = torch.tensor(poses, dtype=torch.float64)
    expect_rigid(f"{name}: the matrix", camera_to_world)
    return Trajectory(from_z_up(camera_to_world), torch.cat(intrinsics), width, height, fps)


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
        "camera_angle_x": angle,
        "w": trajectory.width,
        "h": trajectory.height,
        "frames": frames,
    }
    with atomic_write(path, "w") as file:
        file.write(json.dumps(document, allow_nan=False))
    return path


def _lens(data: Mapping[str, Any], where: str, width: int, height: int) -> Tensor:
    (own_width,) = expect_numbers([data.get("w", width)], 1, f'"w" of {where}')
    (own_height,) = expect_numbers([data.get("h", height)], 1, f'"h" of {where}')
    if "fl_x" in data:
        keys = (data["fl_x"], data.get("fl_y", data["fl_x"]))
        focal = expect_numbers(keys, 2, f'"fl_x" and "fl_y" of {where}')
    elif "camera_angle_x" in data:
        (angle,) = expect_numbers([data["camera_angle_x"]], 1, f'"camera_angle_x" of {where}')
        focal = [own_width / (2 * math.tan(angle / 2))] * 2
    else:
        raise CacheFormatError(
            f"{where} has no field of view",
            expected='"camera_angle_x", or "fl_x" with "w" and "h"',
        )
    middle = (data.get("cx", own_width / 2), data.get("cy", own_height / 2))
    centre = expect_numbers(middle, 2, f'"cx" and "cy" of {where}')
    return camera_frame(
        torch.tensor([focal], dtype=torch.float64),
        torch.tensor([centre], dtype=torch.float64),
        (own_width, own_height),
        width,
        height,
    )
