"""Whether cameras that an estimator found are those of the shot."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from ..errors import GeometryError
from ..validate import expect_shape
from .frame_geometry import FrameGeometry
from .trajectory import Trajectory
from .transform import invert_rigid

FOCAL_TOLERANCE: Final = 0.25
"""Share by which a focal length may differ; estimators are seldom off by more."""

CENTRE_TOLERANCE: Final = 0.15
"""Share of the picture by which a principal point may differ."""

MAX_DEGREES: Final = 15.0
"""Angle by which an estimated rotation may differ from the shot's."""

MAX_OFF_PATH: Final = 0.5
"""Share of the path's length by which estimated positions may leave it."""

MIN_MOVE: Final = 0.05
"""Moves below this share of the typical depth say nothing about positions."""


def expect_same_lens(geometry: FrameGeometry, cameras: Trajectory) -> None:
    """Raise `GeometryError` when depth was estimated for another field of view."""
    own = geometry.intrinsics_for((cameras.height, cameras.width))
    wanted = cameras.intrinsics
    expect_shape("The depth's intrinsics", own, "F 3 3", F=len(wanted))
    focal = (own[:, 0, 0] / wanted[:, 0, 0]).log().abs().max()
    size = torch.tensor([cameras.width, cameras.height], dtype=torch.float64)
    centre = ((own[:, :2, 2] - wanted[:, :2, 2]) / size).abs().max()
    if float(focal) <= math.log(1 + FOCAL_TOLERANCE) and float(centre) <= CENTRE_TOLERANCE:
        return
    raise GeometryError(
        "The depth's intrinsics differ from the shot's",
        got=f"a field of view of {_degrees(float(own[0, 0, 0]), cameras.width):.1f} degrees, "
        f"principal point ({float(own[0, 0, 2]):.0f}, {float(own[0, 1, 2]):.0f})",
        expected=f"about {_degrees(float(wanted[0, 0, 0]), cameras.width):.1f} degrees, "
        f"({float(wanted[0, 0, 2]):.0f}, {float(wanted[0, 1, 2]):.0f})",
        fix="Pass the trajectory's field of view to the depth estimator, and uncropped frames",
    )


def expect_same_path(geometry: FrameGeometry, cameras: Trajectory) -> None:
    """Raise `GeometryError` when estimated poses do not follow the shot's cameras.

    Rotations are compared relative to the first frame; positions up to one scale, and only
    when the estimated cameras move at all.
    """
    if geometry.world_to_camera is None:
        return
    expect_shape("The depth's poses", geometry.world_to_camera, "F 4 4", F=len(cameras))
    found = _from_first(geometry.world_to_camera)
    wanted = _from_first(cameras.world_to_camera)
    turn = found[:, :3, :3].transpose(1, 2) @ wanted[:, :3, :3]
    cosine = (turn.diagonal(dim1=1, dim2=2).sum(-1) - 1) / 2
    angle = float(cosine.clamp(-1, 1).acos().rad2deg().max())
    if angle > MAX_DEGREES:
        _raise_off_path(f"rotations up to {angle:.0f} degrees off", f"{MAX_DEGREES:.0f} degrees")
    one, other = found[:, :3, 3], wanted[:, :3, 3]
    if float(one.norm(dim=1).max()) < MIN_MOVE * geometry.typical_depth():
        return
    length = max(float(other.norm(dim=1).max()), 1e-12)
    scale = max(0.0, float((one * other).sum() / one.square().sum().clamp_min(1e-12)))
    off = float((scale * one - other).norm(dim=1).max()) / length
    if off > MAX_OFF_PATH:
        _raise_off_path(f"positions off by {off:.0%} of the path length", f"{MAX_OFF_PATH:.0%}")


def _from_first(world_to_camera: Tensor) -> Tensor:
    """Poses (F, 4, 4) of cameras in the first one's axes."""
    poses = world_to_camera.double()
    return poses[:1] @ invert_rigid(poses)


def _raise_off_path(got: str, limit: str) -> None:
    raise GeometryError(
        "The geometry's frames do not follow the trajectory",
        got=got,
        expected=f"at most {limit}",
        fix="Estimate the depth on this chunk's own frames, in their order; if the order is "
        "right, the video did not follow the camera: make the chunk again with another seed",
    )


def _degrees(focal: float, width: int) -> float:
    return math.degrees(2 * math.atan(width / (2 * focal)))
