"""Axes of other programs. Camera and world change together, so that up stays up.

====================  ==============================  ======================================
name                  world                           camera
====================  ==============================  ======================================
project (OpenCV)      x right, y down, z forward      x right, y down, z forward
y up (glTF, three)    x right, y up, z backward       x right, y up, looks along -z
z up (Blender)        x right, y forward, z up        x right, y up, looks along -z
====================  ==============================  ======================================

Directions in the world are those that the camera of the first picture sees.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from ...errors import TrajectoryError
from ...geometry.transform import invert_rigid, rigid

_CAMERA: Final = ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0))
_Y_UP: Final = _CAMERA
_Z_UP: Final = ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, -1.0, 0.0))


def to_y_up(world_to_camera: Tensor) -> Tensor:
    """``camera_to_world`` (F, 4, 4) of glTF and three.js for poses of the project."""
    return _convert(invert_rigid(world_to_camera), _Y_UP)


def from_y_up(camera_to_world: Tensor) -> Tensor:
    """The inverse of `to_y_up`."""
    return invert_rigid(_restore(camera_to_world, _Y_UP))


def to_z_up(world_to_camera: Tensor) -> Tensor:
    """``camera_to_world`` (F, 4, 4) of Blender for poses of the project."""
    return _convert(invert_rigid(world_to_camera), _Z_UP)


def from_z_up(camera_to_world: Tensor) -> Tensor:
    """The inverse of `to_z_up`."""
    return invert_rigid(_restore(camera_to_world, _Z_UP))


def _convert(pose: Tensor, world: tuple[tuple[float, ...], ...]) -> Tensor:
    turn, camera = pose.new_tensor(world), pose.new_tensor(_CAMERA)
    rotation = turn @ pose[..., :3, :3] @ camera
    return rigid(rotation, (turn @ pose[..., :3, 3:])[..., 0])


def _restore(pose: Tensor, world: tuple[tuple[float, ...], ...]) -> Tensor:
    turn, camera = pose.new_tensor(world).T, pose.new_tensor(_CAMERA)
    rotation = turn @ pose[..., :3, :3] @ camera
    return rigid(rotation, (turn @ pose[..., :3, 3:])[..., 0])


def quaternions(poses: Tensor) -> Tensor:
    """(F, 4) unit quaternions (x, y, z, w) of the rotations of (F, 4, 4)."""
    from scipy.spatial.transform import Rotation

    return torch.from_numpy(Rotation.from_matrix(poses[:, :3, :3].numpy()).as_quat())


def poses_of(quaternion: Tensor, translation: Tensor) -> Tensor:
    """(F, 4, 4) transforms of quaternions (F, 4), (x, y, z, w), and translations (F, 3).

    Raises:
        TrajectoryError: A quaternion is zero, which is no direction.
    """
    from scipy.spatial.transform import Rotation

    zero = (quaternion == 0).all(dim=1).nonzero()
    if len(zero):
        raise TrajectoryError(
            f"The camera of frame {int(zero[0])} looks nowhere",
            got="a quaternion of zeros",
            expected="a rotation",
            fix="Export the cameras again",
        )
    rotation = Rotation.from_quat(quaternion.double().numpy()).as_matrix()
    return rigid(torch.from_numpy(rotation), translation.double())


def camera_frame(
    focal: Tensor, centre: Tensor, size: tuple[float, float], width: int, height: int
) -> Tensor:
    """Intrinsics (F, 3, 3) for a picture of another size; its width decides.

    Args:
        focal: (F, 2) focal lengths in pixels of ``size``.
        centre: (F, 2) principal points in pixels of ``size``.
        size: (width, height) that the numbers refer to.
        width: Picture width.
        height: Picture height; with another aspect ratio the view is cut or grows at the top
            and the bottom, and keeps its horizontal field of view.
    """
    scale = width / size[0]
    result = torch.zeros(len(focal), 3, 3, dtype=torch.float64)
    result[:, 0, 0], result[:, 1, 1] = focal[:, 0] * scale, focal[:, 1] * scale
    result[:, 0, 2] = centre[:, 0] * scale
    result[:, 1, 2] = height / 2 + (centre[:, 1] - size[1] / 2) * scale
    result[:, 2, 2] = 1
    return result
