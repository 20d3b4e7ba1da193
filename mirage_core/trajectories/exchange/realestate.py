"""RealEstate10K text, and the same lines without a time as Wan-Fun's nodes write them.

``timestamp fx fy cx cy 0 0 r00 r01 r02 tx r10 .. tz``: focal lengths and principal point in
picture widths and heights, and the upper three rows of world to camera, OpenCV axes. The first
line is the video's address, which every reader skips.

VideoX-Fun takes the numbers for those of a 16:9 picture that covers the video. So a file for it
has another lens, for videos of other aspect ratios; its first line says their size.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from ...files import atomic_write, with_suffix
from ...geometry.frame_geometry import ASPECT_TOLERANCE
from ...geometry.trajectory import Trajectory
from ..rotations import nearest_rigid
from .axes import camera_frame
from .camera_file import CameraFile, Wanted

FORMAT: Final = "RealEstate10K"
WAN_FUN: Final = "Wan-Fun"
COLUMNS: Final = 19
COLUMNS_WITHOUT_TIME: Final = 18

_MICROSECONDS = 1_000_000
_COVERING = 16 / 9
_SIZE = re.compile(r"mirage-wan-fun-(\d{1,5})x(\d{1,5})")


def realestate_file(values: Tensor, header: str, name: str, wanted: Wanted) -> CameraFile:
    """The camera move of lines of numbers.

    Its lens refers to pictures with square pixels; another aspect ratio keeps the horizontal
    field of view.

    Args:
        values: (F, 18 or 19) float64; a timestamp comes first where there are 19. Only the
            order of the timestamps is used.
        header: The first line, if it holds no numbers.
        name: How error messages call the file.
        wanted: What it is read for.

    Raises:
        GeometryError: The numbers are not those of cameras.
    """
    timed = values.shape[1] == COLUMNS
    if timed:
        values = values[values[:, 0].argsort(stable=True)][:, 1:]
    poses = torch.eye(4, dtype=torch.float64).repeat(len(values), 1, 1)
    poses[:, :3] = values[:, 6:].view(-1, 3, 4)
    poses, repaired = nearest_rigid(f"{name}: the matrix", poses, centre_in_column=False)
    own = _SIZE.fullmatch(header)
    if own and min(int(own[1]), int(own[2])) > 0:
        size = float(own[1]), float(own[2])
        intrinsics = _covered(values[:, :4], size, wanted)
    else:
        size = 1.0, _side_ratio(values[:, :2], wanted.height / wanted.width)
        scale = torch.tensor(size, dtype=torch.float64)
        intrinsics = camera_frame(
            values[:, :2] * scale, values[:, 2:4] * scale, size, wanted.width, wanted.height
        )
    form = FORMAT if timed and not own else WAN_FUN
    return CameraFile(wanted.move(poses, intrinsics), form, (repaired,) if repaired else ())


def write_realestate(trajectory: Trajectory, path: Path) -> Path:
    """Write a RealEstate10K file.

    Raises:
        StorageError: The disk is full or the folder is not writable.
    """
    size = torch.tensor([trajectory.width, trajectory.height], dtype=torch.float64)
    times = [
        float(round(number * _MICROSECONDS / trajectory.fps)) for number in range(len(trajectory))
    ]
    return _write(trajectory, path, "mirage", times, size)


def write_wan_fun(trajectory: Trajectory, path: Path) -> Path:
    """Write a camera file for VideoX-Fun's Wan models: the time is 0 in every line.

    Raises:
        StorageError: The disk is full or the folder is not writable.
    """
    header = f"mirage-wan-fun-{trajectory.width}x{trajectory.height}"
    size = _covering(trajectory.width, trajectory.height)
    return _write(trajectory, path, header, [0.0] * len(trajectory), size)


def _write(
    trajectory: Trajectory, path: Path, header: str, times: list[float], size: Tensor
) -> Path:
    path = with_suffix(path, ".txt")
    k = trajectory.intrinsics
    focal = (torch.stack([k[:, 0, 0], k[:, 1, 1]], dim=1) / size).tolist()
    picture = torch.tensor([trajectory.width, trajectory.height], dtype=torch.float64)
    centre = (k[:, :2, 2] / picture).tolist()
    poses = trajectory.world_to_camera[:, :3].flatten(1).tolist()
    lines = [f"{header}\n"]
    for time, lens, middle, pose in zip(times, focal, centre, poses, strict=True):
        values = [*lens, *middle, 0.0, 0.0, *pose]
        lines.append(" ".join([str(int(time)), *(repr(value) for value in values)]) + "\n")
    with atomic_write(path, "w") as file:
        file.writelines(lines)
    return path


def _covering(width: float, height: float) -> Tensor:
    """(width, height) of the 16:9 picture that covers one of another size."""
    if width / height < _COVERING:
        size = [height * _COVERING, height]
    else:
        size = [width, width / _COVERING]
    return torch.tensor(size, dtype=torch.float64)


def _covered(lens: Tensor, size: tuple[float, float], wanted: Wanted) -> Tensor:
    """Intrinsics of a file for VideoX-Fun that says the size of the video."""
    centre = lens[:, 2:4] * torch.tensor(size, dtype=torch.float64)
    return camera_frame(lens[:, :2] * _covering(*size), centre, size, wanted.width, wanted.height)


def _side_ratio(focal: Tensor, picture: float) -> float:
    """Height by width of the pictures that normalised focal lengths (F, 2) refer to.

    Pixels are square, so the ratio of the focal lengths tells; where it is about that of the
    picture, the picture's own is meant.
    """
    if not bool((focal > 0).all()):
        return picture
    ratio = float((focal[:, 0] / focal[:, 1]).mean())
    return picture if abs(ratio / picture - 1) < ASPECT_TOLERANCE else ratio
