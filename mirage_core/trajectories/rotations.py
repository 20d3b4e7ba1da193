"""Rotations as files hold them: rounded, or with a scale that belongs to another object."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from ..errors import GeometryError
from ..validate import ROTATION_TOLERANCE, expect_finite, expect_rigid

ROUNDING: Final = 1e-2
"""Largest deviation of R^T R from the identity, its scale taken out, that is repaired."""


def nearest_rigid(name: str, poses: Tensor, *, centre_in_column: bool = True) -> tuple[Tensor, str]:
    """Poses with the nearest rotations in place of scaled or rounded ones.

    Args:
        name: How messages call the matrices.
        poses: (F, 4, 4) float64.
        centre_in_column: Whether the last column is a place in the world (camera to world). In
            world to camera a scale is in the last column as well, and goes from there too.

    Returns:
        (F, 4, 4) poses, and a sentence about what was repaired, or "".

    Raises:
        GeometryError: A matrix is not finite, mirrors, or is no rotation but for its scale and
            for rounding.
    """
    expect_finite(name, poses)
    rotation = poses[:, :3, :3]
    off = _deviation(rotation)
    bad = off > ROTATION_TOLERANCE
    if not bool(bad.any()):
        expect_rigid(name, poses)
        return poses, ""
    determinant = torch.linalg.det(rotation[bad])
    flat = bad.nonzero()[:, 0][determinant == 0]
    if len(flat):
        raise GeometryError(
            f"{name} of frame {int(flat[0])} is not a rotation",
            got="a matrix that flattens the scene",
            expected="a rotation",
            fix="Export the cameras again",
        )
    scale = determinant.abs().pow(1 / 3)
    scaled = rotation[bad] / scale[:, None, None]
    repairable = (_deviation(scaled) <= ROUNDING) & (determinant > 0)
    result = poses.clone()
    u, _, v = torch.linalg.svd(scaled[repairable])
    rows = bad.nonzero()[:, 0][repairable]
    result[rows, :3, :3] = u @ v
    if not centre_in_column:
        result[rows, :3, 3] /= scale[repairable, None]
    expect_rigid(name, result)
    return result, _told(scale, off[bad])


def _deviation(rotation: Tensor) -> Tensor:
    eye = torch.eye(3, dtype=rotation.dtype)
    return (rotation.mT @ rotation - eye).abs().amax(dim=(1, 2)).nan_to_num(nan=torch.inf)


def _told(scale: Tensor, off: Tensor) -> str:
    if float((scale - 1).abs().max()) > ROUNDING:
        low, high = float(scale.min()), float(scale.max())
        size = f"{low:.3g}" if high - low < ROUNDING * high else f"{low:.3g} to {high:.3g}"
        return f"The matrices of {len(scale)} frames were scaled by {size}; the scale was removed."
    return (
        f"The matrices of {len(scale)} frames were rounded, by up to {float(off.max()):.1g}; the "
        "nearest rotations were taken."
    )
