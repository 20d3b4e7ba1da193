"""What reading a camera file takes and gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from ...geometry.trajectory import Trajectory, intrinsics_from_fov

DEFAULT_FOV: Final = 60.0
"""Horizontal field of view in degrees where neither the file nor the caller states one."""


@dataclass(frozen=True)
class Wanted:
    """What a camera move is read for.

    Attributes:
        width: Picture width.
        height: Picture height; another aspect ratio than the file's keeps the horizontal field
            of view.
        fps: Frames per second, for formats that do not state it.
        fov: Horizontal field of view in degrees, for formats that do not state it.
        camera: Which camera of a file with several; empty for the first.
    """

    width: int
    height: int
    fps: float
    fov: float = DEFAULT_FOV
    camera: str = ""

    def default_lens(self, frames: int) -> Tensor:
        """(F, 3, 3) intrinsics of ``fov`` for a file that states no lens."""
        return intrinsics_from_fov(self.width, self.height, self.fov).repeat(frames, 1, 1)

    def lens_note(self) -> str:
        """What to tell about a file that states no lens."""
        return f"The file states no lens: a field of view of {self.fov:.3g} degrees is taken."

    def move(self, poses: Tensor, intrinsics: Tensor | None, fps: float = 0.0) -> Trajectory:
        """The trajectory of poses (F, 4, 4), ``world_to_camera``.

        Args:
            poses: Poses of every frame.
            intrinsics: (F, 3, 3) for pictures of the wanted size; `default_lens` if None.
            fps: Frames per second that the file states, if any.
        """
        lens = self.default_lens(len(poses)) if intrinsics is None else intrinsics
        return Trajectory(poses.to(torch.float64), lens, self.width, self.height, fps or self.fps)


@dataclass(frozen=True)
class CameraFile:
    """A camera move and what there is to say about how it was read.

    Attributes:
        trajectory: The move.
        format: Name of the file's format.
        notes: Sentences for the user: what was chosen, repaired or left out.
        cameras: Names of the cameras that the file holds, where it names them.
        corner_shift: How far the lens moves a corner, as a share of its distance from the
            principal point; 0 for a pinhole.
        states_lens: Whether the file says how wide the camera sees.
    """

    trajectory: Trajectory
    format: str
    notes: tuple[str, ...] = field(default=())
    cameras: tuple[str, ...] = field(default=())
    corner_shift: float = 0.0
    states_lens: bool = True
