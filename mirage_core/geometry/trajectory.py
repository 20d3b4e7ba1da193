"""The camera path of a shot: one pose and one set of intrinsics per pixel frame."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..constants import DEFAULT_FPS
from ..errors import GeometryError, TrajectoryError
from ..validate import (
    LAST_ROW_TOLERANCE,
    expect_finite,
    expect_range,
    expect_rigid,
    expect_shape,
)
from .transform import invert_rigid


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Cameras of F pixel frames; immutable and checked when it is made.

    Attributes:
        world_to_camera: (F, 4, 4) float64 on the CPU, OpenCV axes (the paper's E).
        intrinsics: (F, 3, 3) float64 on the CPU, in pixels of ``width`` x ``height``.
        width: Picture width in pixels.
        height: Picture height in pixels.
        fps: Frames per second.
        own_lens: The lens was chosen to stay as it is where that of a picture differs; says
            nothing about the cameras themselves.
        numbers: (F,) int64, the frame of the shot that each camera stands for; 0, 1, 2 and so on
            when missing. Says when things are that move; no part of the content.

    Raises:
        GeometryError: Poses are not finite, not rotations, or mirrored; focal lengths are
            not positive.
        ShapeError: The tensors do not have the shapes above.
        TrajectoryError: There is no frame at all.
    """

    world_to_camera: Tensor
    intrinsics: Tensor
    width: int
    height: int
    fps: float = DEFAULT_FPS
    own_lens: bool = False
    numbers: Tensor | None = None

    def __post_init__(self) -> None:
        poses = self.world_to_camera.detach().to("cpu", torch.float64).clone()
        intrinsics = self.intrinsics.detach().to("cpu", torch.float64).clone()
        object.__setattr__(self, "world_to_camera", poses)
        object.__setattr__(self, "intrinsics", intrinsics)
        object.__setattr__(self, "fps", float(self.fps))
        expect_shape("The trajectory's poses", poses, "F 4 4")
        if len(poses) == 0:
            raise TrajectoryError("The trajectory is empty", expected="at least one frame")
        expect_shape("The trajectory's intrinsics", intrinsics, "F 3 3", F=len(poses))
        expect_rigid("The camera pose", poses)
        expect_intrinsics("The trajectory's intrinsics", intrinsics)
        expect_range("The trajectory's width", self.width, 1, 65536)
        expect_range("The trajectory's height", self.height, 1, 65536)
        expect_range("The frame rate", self.fps, 0.1, 1000)
        if self.numbers is not None:
            expect_shape("The trajectory's frame numbers", self.numbers, "F", F=len(poses))

    def __len__(self) -> int:
        return len(self.world_to_camera)

    @property
    def camera_to_world(self) -> Tensor:
        """(F, 4, 4) float64 inverse poses."""
        return invert_rigid(self.world_to_camera)

    @property
    def positions(self) -> Tensor:
        """(F, 3) float64 camera centres in world coordinates."""
        return self.camera_to_world[:, :3, 3]

    @property
    def frame_numbers(self) -> Tensor:
        """(F,) int64, the frame of the shot that each camera stands for."""
        return torch.arange(len(self)) if self.numbers is None else self.numbers

    def select(self, frames: Tensor | list[int] | slice) -> Trajectory:
        """The trajectory of the given frames only, in the given order; they keep their numbers."""
        return dataclasses.replace(
            self,
            world_to_camera=self.world_to_camera[frames],
            intrinsics=self.intrinsics[frames],
            numbers=self.frame_numbers[frames],
        )

    def resized(self, width: int, height: int) -> Trajectory:
        """The same cameras for pictures of another size: ``diag(w/W, h/H, 1) K``."""
        scale = torch.tensor(
            [[width / self.width], [height / self.height], [1.0]], dtype=torch.float64
        )
        return dataclasses.replace(
            self, intrinsics=self.intrinsics * scale, width=width, height=height
        )

    def fingerprint(self, frames: slice = slice(None)) -> str:
        """Hex digest of the content, whole or of some frames; equal cameras have equal ones."""
        digest = hashlib.sha256()
        for tensor in (self.world_to_camera, self.intrinsics):
            # Adding zero turns -0.0, which equals 0.0, into 0.0.
            digest.update((tensor[frames] + 0.0).contiguous().numpy().tobytes())
        digest.update(f"{self.width}x{self.height}@{self.fps}".encode())
        return digest.hexdigest()


def expect_intrinsics(name: str, intrinsics: Tensor) -> None:
    """Raise `GeometryError` unless (F, 3, 3) matrices are pinhole intrinsics."""
    expect_shape(name, intrinsics, "F 3 3")
    expect_finite(name, intrinsics)
    focal = intrinsics.diagonal(dim1=1, dim2=2)[:, :2]
    if bool((focal <= 0).any()):
        raise GeometryError(
            f"{name} have a focal length that is not positive",
            got=float(focal.min()),
            expected="a focal length in pixels, above 0",
        )
    bottom = torch.tensor([0.0, 0.0, 1.0], dtype=intrinsics.dtype, device=intrinsics.device)
    if bool(((intrinsics[:, 2] - bottom).abs() > LAST_ROW_TOLERANCE).any()):
        raise GeometryError(f"{name} have a last row that is not (0, 0, 1)")


def intrinsics_from_fov(width: int, height: int, fov_x_degrees: float) -> Tensor:
    """(3, 3) float64 intrinsics in pixels from a horizontal field of view.

    The principal point is the middle of the picture.

    Raises:
        ValueRangeError: The angle is not between 1 and 170 degrees.
    """
    expect_range("The field of view", fov_x_degrees, 1, 170)
    focal = width / 2 / math.tan(math.radians(fov_x_degrees) / 2)
    return torch.tensor(
        [[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64
    )


def fov_of(intrinsics: Tensor, width: int) -> float:
    """Horizontal field of view in degrees of (3, 3) intrinsics in pixels of a width."""
    return math.degrees(2 * math.atan(width / (2 * float(intrinsics[0, 0]))))
