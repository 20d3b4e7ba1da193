"""Fitting a camera move to a shot: where it begins, how large it is, how long it takes."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..constants import TEMPORAL_STRIDE
from ..errors import TrajectoryError
from ..geometry.trajectory import Trajectory
from ..geometry.transform import invert_rigid, rigid
from ..validate import expect_frame_count, expect_range, expect_shape


def begin_at(trajectory: Trajectory, start: Tensor | None = None) -> Trajectory:
    """The same move, seen from a first camera that stands elsewhere.

    Args:
        trajectory: The move.
        start: (4, 4) ``camera_to_world`` of the new first camera; the world's origin, where a
            picture without a pose is taken to be, if None.
    """
    origin = torch.eye(4, dtype=torch.float64) if start is None else start.cpu().double()
    expect_shape("The first camera", origin, "4 4")
    # Rounding leaves the first camera exactly where it was asked for.
    move = trajectory.camera_to_world[0] @ invert_rigid(origin)
    poses = trajectory.world_to_camera @ move
    poses[0] = invert_rigid(origin)
    return dataclasses.replace(trajectory, world_to_camera=poses)


def scaled(trajectory: Trajectory, scale: float) -> Trajectory:
    """The same move in a world whose units are ``scale`` times as long, about its first camera.

    Raises:
        ValueRangeError: The scale is not between 1e-6 and 1e6.
    """
    expect_range("The scale of the move", scale, 1e-6, 1e6)
    pose = trajectory.camera_to_world
    first = pose[:1, :3, 3]
    centres = first + (pose[:, :3, 3] - first) * scale
    return dataclasses.replace(
        trajectory, world_to_camera=invert_rigid(rigid(pose[:, :3, :3], centres))
    )


def largest_step(trajectory: Trajectory) -> tuple[float, int]:
    """The longest way between two neighbouring frames, in scene units, and the frame it ends at.

    Args:
        trajectory: A move of two frames or more.
    """
    steps = (trajectory.positions[1:] - trajectory.positions[:-1]).norm(dim=1)
    return float(steps.max()), int(steps.argmax()) + 1


def retimed(trajectory: Trajectory, frames: int) -> Trajectory:
    """The same move in another number of frames, evenly slower or faster.

    Positions and intrinsics are interpolated linearly, rotations the shortest way.

    Args:
        trajectory: The move.
        frames: Pixel frames, 4n + 1.

    Raises:
        PlanError: ``frames`` is not 4n + 1.
        TrajectoryError: The move has one frame only.
    """
    from scipy.spatial.transform import Rotation, Slerp

    expect_frame_count(frames)
    if frames == len(trajectory):
        return trajectory
    if len(trajectory) == 1:
        raise TrajectoryError(
            "A single camera is not a move", expected="at least two frames",
            fix="Export the animation, not one frame",
        )
    pose = trajectory.camera_to_world
    at = torch.linspace(0, len(pose) - 1, frames, dtype=torch.float64)
    lower = at.floor().long().clamp(max=len(pose) - 2)
    share = at - lower

    def blend(values: Tensor) -> Tensor:
        weight = share.view(-1, *[1] * (values.ndim - 1))
        return values[lower] + weight * (values[lower + 1] - values[lower])

    turn = Slerp(range(len(pose)), Rotation.from_matrix(pose[:, :3, :3].numpy()))
    rotation = torch.from_numpy(turn(at.numpy()).as_matrix())
    return dataclasses.replace(
        trajectory,
        world_to_camera=invert_rigid(rigid(rotation, blend(pose[:, :3, 3]))),
        intrinsics=blend(trajectory.intrinsics),
        numbers=None,
    )


def resampled(trajectory: Trajectory, fps: float) -> Trajectory:
    """The same move at another frame rate, as long as before to the nearest 4n + 1 frames.

    Args:
        trajectory: The move.
        fps: Frames per second.

    Raises:
        TrajectoryError: The move has one frame only.
        ValueRangeError: The frame rate is out of range.
    """
    expect_range("The frame rate", fps, 0.1, 1000)
    frames = frames_at(trajectory, fps)
    return dataclasses.replace(retimed(trajectory, frames), fps=fps)


def frames_at(trajectory: Trajectory, fps: float) -> int:
    """Pixel frames, 4n + 1 and at least 5, of a move at another frame rate."""
    steps = (len(trajectory) - 1) * fps / trajectory.fps / TEMPORAL_STRIDE
    return max(1, round(steps)) * TEMPORAL_STRIDE + 1
