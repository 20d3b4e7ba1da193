"""ComfyUI's own camera (LOAD3D_CAMERA): right-handed, y up, looks along -z, vertical angle."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from ...constants import TEMPORAL_STRIDE
from ...errors import CacheFormatError, GeometryError
from ...geometry.trajectory import Trajectory
from ...geometry.transform import rigid
from ...validate import expect_range
from ..files import describe, expect_numbers
from ..keyframes import MIN_QUATERNION_NORM, Keyframe
from .axes import from_y_up, poses_of, quaternions, to_y_up

MAX_DISTANCE: Final = 1e12
"""Largest coordinate of a camera; the squares of much larger ones overflow."""

MIN_DISTANCE: Final = 1e-12
"""Smallest distance from a camera to its target that still gives a direction."""

DEFAULT_FOV = 50.0
"""Vertical field of view of a three.js camera that does not state one."""


def camera_pose(camera: Mapping[str, Any], name: str = "The camera") -> Tensor:
    """``world_to_camera`` (4, 4) of one camera.

    Raises:
        CacheFormatError: Something other than numbers stands where numbers belong.
        GeometryError: The camera is orthographic, or looks nowhere.
        ValueRangeError: A coordinate is too large to compute with.
    """
    if camera.get("cameraType", "perspective") != "perspective":
        raise GeometryError(
            f"{name} is orthographic", expected="a perspective camera", fix="Switch its type"
        )
    position = _vector(camera, "position", "xyz", name)
    if camera.get("quaternion"):
        quaternion = _vector(camera, "quaternion", "xyzw", name)
        largest = float(quaternion.abs().max())
        if largest < MIN_QUATERNION_NORM:
            raise GeometryError(f"{name} has a rotation of length 0")
        # Scaled first: the square of a large number would overflow.
        pose = poses_of(quaternion[None] / largest, position[None])
    else:
        pose = _facing(position, _vector(camera, "target", "xyz", name), name)[None]
    return from_y_up(pose)[0]


def vertical_fov(camera: Mapping[str, Any], name: str = "The camera") -> float:
    """Vertical field of view in degrees, its digital zoom included.

    Raises:
        CacheFormatError: It is not a number.
        ValueRangeError: It is not between 0 and 180 degrees, or the zoom is not above 0.
    """
    (fov,) = expect_numbers([camera.get("fov", DEFAULT_FOV)], 1, f'"fov" of {name}')
    (zoom,) = expect_numbers([camera.get("zoom", 1.0)], 1, f'"zoom" of {name}')
    expect_range(f"The field of view of {name}", fov, 0.1, 179)
    expect_range(f"The zoom of {name}", zoom, 1e-3, 1e3)
    return math.degrees(2 * math.atan(math.tan(math.radians(fov) / 2) / zoom))


def keyframes_of_cameras(
    cameras: Sequence[Mapping[str, Any]], frames: int, *, width: int, height: int
) -> tuple[Keyframe, ...]:
    """Keyframes at even distances, one for each camera.

    Args:
        cameras: One or more cameras, in order.
        frames: Pixel frames of the shot.
        width: Picture width.
        height: Picture height.

    Raises:
        CacheFormatError: A camera is malformed, or there is none.
        GeometryError: A camera is orthographic, or looks nowhere.
        ValueRangeError: A coordinate or a field of view is out of range.
        TrajectoryError: There are more cameras than frames.
    """
    if not cameras:
        raise CacheFormatError("There is no camera", fix="Connect at least one camera")
    keys = []
    for number, camera in enumerate(cameras):
        name = f"Camera {number + 1}"
        if not isinstance(camera, Mapping):
            raise CacheFormatError(f"{name} is malformed", got=describe(camera))
        pose = torch.linalg.inv(camera_pose(camera, name))
        x, y, z = pose[:3, 3].tolist()
        qx, qy, qz, qw = quaternions(pose[None])[0].tolist()
        half = math.tan(math.radians(vertical_fov(camera, name)) / 2)
        fov_x = math.degrees(2 * math.atan(half * width / height))
        frame = round(number * (frames - 1) / max(1, len(cameras) - 1))
        keys.append(Keyframe(frame, (x, y, z), (qx, qy, qz, qw), fov_x))
    return tuple(keys)


def camera_of_frame(trajectory: Trajectory, frame: int) -> dict[str, Any]:
    """LOAD3D_CAMERA of one frame; it looks at a point one unit ahead."""
    pose = to_y_up(trajectory.world_to_camera[frame : frame + 1])[0]
    k = trajectory.intrinsics[frame]
    position = pose[:3, 3]
    quaternion = quaternions(pose[None])[0].tolist()
    fov = 2 * math.atan(trajectory.height / (2 * float(k[1, 1])))
    return {
        "position": _named(position.tolist(), "xyz"),
        "target": _named((position - pose[:3, 2]).tolist(), "xyz"),
        "quaternion": _named(quaternion, "xyzw"),
        "fov": math.degrees(fov),
        "aspect": trajectory.width / trajectory.height,
        "zoom": 1.0,
        "cameraType": "perspective",
    }


def cameras_of_move(trajectory: Trajectory) -> list[dict[str, Any]]:
    """LOAD3D_CAMERA of every latent frame of a move, in order: frames 0, 4, 8 and so on."""
    return [
        camera_of_frame(trajectory, frame) for frame in range(0, len(trajectory), TEMPORAL_STRIDE)
    ]


def _named(values: Sequence[float], names: str) -> dict[str, float]:
    return dict(zip(names, values, strict=True))


def _vector(camera: Mapping[str, Any], key: str, names: str, name: str) -> Tensor:
    value = camera.get(key)
    if not isinstance(value, Mapping):
        raise CacheFormatError(f'"{key}" of {name} is malformed', got=describe(value))
    parts = [value.get(axis, 0.0) for axis in names]
    numbers = expect_numbers(parts, len(names), f'"{key}" of {name}')
    for number in numbers if names == "xyz" else ():
        expect_range(f'"{key}" of {name}', number, -MAX_DISTANCE, MAX_DISTANCE)
    return torch.tensor(numbers, dtype=torch.float64)


def _facing(position: Tensor, target: Tensor, name: str) -> Tensor:
    """Upright ``camera_to_world`` with y up; it looks along -z."""
    back = position - target
    if float(back.norm()) < MIN_DISTANCE:
        raise GeometryError(
            f"{name} has no viewing direction",
            got="a target at the camera's own position",
            fix="Move the target",
        )
    back = back / back.norm()
    up = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    if abs(float(back @ up)) > 1 - 1e-9:
        up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    right = torch.linalg.cross(up, back)
    right = right / right.norm()
    rotation = torch.stack([right, torch.linalg.cross(back, right), back], dim=1)
    return rigid(rotation, position)
