"""RealEstate10K text: one line per frame, after a line with the video's address.

``timestamp fx fy cx cy 0 0 r00 r01 r02 tx r10 .. tz``: focal lengths and principal point in
picture widths and heights, and the upper three rows of world to camera, OpenCV axes.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ...errors import CacheFormatError
from ...files import atomic_write, with_suffix
from ...geometry.frame_geometry import ASPECT_TOLERANCE
from ...geometry.trajectory import Trajectory
from .axes import camera_frame
from .text_files import malformed, parse_numbers, read_text

_COLUMNS = 19
_MICROSECONDS = 1_000_000


def read_realestate(path: Path, *, width: int, height: int, fps: float) -> Trajectory:
    """Cameras of a RealEstate10K file.

    Its numbers refer to 16:9 pictures; another aspect ratio keeps the horizontal field of view.

    Args:
        path: The text file.
        width: Picture width.
        height: Picture height.
        fps: Frames per second; the file's own timestamps are not used.

    Raises:
        CacheFormatError: The file is missing or malformed.
        GeometryError: The numbers are not those of cameras.
    """
    rows = []
    for number, line in enumerate(read_text(path).splitlines()):
        words = line.split()
        if not words or (number == 0 and len(words) == 1):
            continue
        where = f"Line {number + 1} of {path.name}"
        if len(words) != _COLUMNS:
            raise malformed(where, line)
        rows.append(parse_numbers(words, where))
    if not rows:
        raise CacheFormatError(f"{path.name} contains no camera", fix="Download the file again")
    values = torch.tensor(rows, dtype=torch.float64)
    ratio = _side_ratio(values[:, 1:3], height / width)
    size = (1.0, ratio)
    scale = torch.tensor(size, dtype=torch.float64)
    intrinsics = camera_frame(values[:, 1:3] * scale, values[:, 3:5] * scale, size, width, height)
    poses = torch.eye(4, dtype=torch.float64).repeat(len(rows), 1, 1)
    poses[:, :3] = values[:, 7:].view(-1, 3, 4)
    return Trajectory(poses, intrinsics, width, height, fps)


def _side_ratio(focal: torch.Tensor, picture: float) -> float:
    """Height by width of the pictures that normalised focal lengths (F, 2) refer to.

    Pixels are square, so the ratio of the focal lengths tells; where it is about that of the
    picture, the picture's own is meant.
    """
    if not bool((focal > 0).all()):
        return picture
    ratio = float((focal[:, 0] / focal[:, 1]).mean())
    return picture if abs(ratio / picture - 1) < ASPECT_TOLERANCE else ratio


def write_realestate(trajectory: Trajectory, path: Path) -> Path:
    """Write a RealEstate10K file.

    Raises:
        StorageError: The disk is full or the folder is not writable.
    """
    path = with_suffix(path, ".txt")
    size = torch.tensor([trajectory.width, trajectory.height], dtype=torch.float64)
    k = trajectory.intrinsics
    focal = torch.stack([k[:, 0, 0], k[:, 1, 1]], dim=1) / size
    centre = k[:, :2, 2] / size
    lines = ["mirage\n"]
    for number in range(len(trajectory)):
        values = [
            *focal[number].tolist(),
            *centre[number].tolist(),
            0.0,
            0.0,
            *trajectory.world_to_camera[number, :3].flatten().tolist(),
        ]
        time = round(number * _MICROSECONDS / trajectory.fps)
        lines.append(" ".join([str(time), *(repr(value) for value in values)]) + "\n")
    with atomic_write(path, "w") as file:
        file.writelines(lines)
    return path
