"""Rigid transforms in the project's one convention: OpenCV axes, ``world_to_camera`` inside."""

from __future__ import annotations

import torch
from torch import Tensor


def invert_rigid(poses: Tensor) -> Tensor:
    """Invert rigid transforms without a general matrix inverse.

    Args:
        poses: (..., 4, 4) rotations with a translation.

    Returns:
        (..., 4, 4): ``[R^T, -R^T t]`` for every ``[R, t]``.
    """
    rotation_t = poses[..., :3, :3].transpose(-1, -2)
    inverse = torch.zeros_like(poses)
    inverse[..., :3, :3] = rotation_t
    inverse[..., :3, 3:] = -rotation_t @ poses[..., :3, 3:]
    inverse[..., 3, 3] = 1
    return inverse


def rigid(rotation: Tensor, translation: Tensor) -> Tensor:
    """Assemble (..., 4, 4) transforms from (..., 3, 3) rotations and (..., 3) translations."""
    pose = torch.zeros(*rotation.shape[:-2], 4, 4, dtype=rotation.dtype, device=rotation.device)
    pose[..., :3, :3] = rotation
    pose[..., :3, 3] = translation
    pose[..., 3, 3] = 1
    return pose


def nearest_rotations(matrices: Tensor) -> Tensor:
    """The orthogonal matrices nearest to (..., 3, 3), such as networks give in low precision.

    What mirrors still does.
    """
    left, _, right = torch.linalg.svd(matrices)
    return left @ right


def rotation_about(axis: str, radians: Tensor) -> Tensor:
    """Right-handed rotations (..., 3, 3) about the OpenCV axis ``"x"``, ``"y"`` or ``"z"``.

    A positive angle about ``y`` (down) turns the forward axis ``z`` towards ``x``: it pans to
    the right. A positive angle about ``x`` turns ``z`` towards ``-y``: it tilts up. A positive
    angle about ``z`` turns ``x`` towards ``y``: it rolls clockwise.
    """
    i = "xyz".index(axis)
    j, k = (i + 1) % 3, (i + 2) % 3
    cos, sin = torch.cos(radians), torch.sin(radians)
    rotation = torch.zeros(*radians.shape, 3, 3, dtype=radians.dtype, device=radians.device)
    rotation[..., i, i] = 1
    rotation[..., j, j] = cos
    rotation[..., k, k] = cos
    rotation[..., j, k] = -sin
    rotation[..., k, j] = sin
    return rotation


def look_at(position: Tensor, target: Tensor) -> Tensor:
    """``camera_to_world`` (..., 4, 4) of upright cameras at ``position`` facing ``target``.

    Both are (..., 3) in world coordinates whose ``-y`` axis is up.
    """
    forward = torch.nn.functional.normalize(target - position, dim=-1)
    down = torch.zeros_like(forward)
    down[..., 1] = 1
    right = torch.nn.functional.normalize(torch.linalg.cross(down, forward), dim=-1)
    below = torch.linalg.cross(forward, right)
    return rigid(torch.stack([right, below, forward], dim=-1), position)
