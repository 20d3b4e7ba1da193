"""COLMAP text models: ``cameras.txt`` and ``images.txt`` beside each other.

An image line is ``id qw qx qy qz tx ty tz camera_id name``: world to camera, OpenCV axes, and
the corner of the first pixel is (0, 0), as in the project.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ...errors import CacheFormatError
from ...files import atomic_write
from ...geometry.trajectory import Trajectory
from .axes import camera_frame, poses_of, quaternions
from .text_files import malformed, parse_numbers, read_text

CAMERAS = "cameras.txt"
IMAGES = "images.txt"
POINTS = "points3D.txt"

_FOCALS = {"SIMPLE_PINHOLE": 1, "PINHOLE": 2, "SIMPLE_RADIAL": 1, "RADIAL": 1, "OPENCV": 2}
"""Camera models and how many focal lengths each begins with; the rest beyond is distortion."""

_IMAGE_WORDS = 10


@dataclass(frozen=True)
class _Camera:
    width: float
    height: float
    focal: tuple[float, float]
    centre: tuple[float, float]


def is_colmap(path: Path, text: str) -> bool:
    """True for the ``images.txt`` of a COLMAP model."""
    return path.name == IMAGES or "QW, QX, QY, QZ" in text[:1000]


def read_colmap(path: Path, *, width: int, height: int, fps: float) -> Trajectory:
    """Cameras of a COLMAP text model, in the order of the pictures' names.

    Args:
        path: Its ``images.txt``, beside ``cameras.txt``.
        width: Picture width.
        height: Picture height.
        fps: Frames per second.

    Raises:
        CacheFormatError: A file is missing or malformed, or the lens has distortion.
        GeometryError: The numbers are not those of cameras.
    """
    cameras = _cameras(path.with_name(CAMERAS))
    lines = [line for line in read_text(path).splitlines() if not line.startswith("#")]
    found = []
    # Every image has two lines; the second one, with its feature points, may be empty.
    for line in lines[::2]:
        words = line.split(maxsplit=_IMAGE_WORDS - 1)
        if not words:
            continue
        where = f"A line of {path.name}"
        if len(words) != _IMAGE_WORDS or words[8] not in cameras:
            raise malformed(where, line)
        found.append((words[9], parse_numbers(words[1:8], where), cameras[words[8]]))
    if not found:
        raise CacheFormatError(f"{path.name} contains no image", fix="Export the model as text")
    found.sort(key=lambda image: image[0])
    values = torch.tensor([image[1] for image in found], dtype=torch.float64)
    intrinsics = [
        camera_frame(
            torch.tensor([camera.focal], dtype=torch.float64),
            torch.tensor([camera.centre], dtype=torch.float64),
            (camera.width, camera.height),
            width,
            height,
        )
        for _, _, camera in found
    ]
    if bool((values[:, :4].norm(dim=1) == 0).any()):
        raise malformed(f"A rotation in {path.name}", "0 0 0 0")
    poses = poses_of(values[:, [1, 2, 3, 0]], values[:, 4:])
    return Trajectory(poses, torch.cat(intrinsics), width, height, fps)


def write_colmap(trajectory: Trajectory, folder: Path) -> Path:
    """Write a COLMAP text model without points.

    Returns:
        The path of its ``images.txt``.

    Raises:
        StorageError: The disk is full or the folder is not writable.
    """
    lenses: dict[str, int] = {}
    images = []
    quaternion = quaternions(trajectory.world_to_camera).tolist()
    for number, pose in enumerate(trajectory.world_to_camera):
        k = trajectory.intrinsics[number]
        parameters = (k[0, 0], k[1, 1], k[0, 2], k[1, 2])
        values = " ".join(repr(float(value)) for value in parameters)
        camera = lenses.setdefault(values, len(lenses) + 1)
        x, y, z, w = quaternion[number]
        numbers_ = " ".join(repr(value) for value in (w, x, y, z, *pose[:3, 3].tolist()))
        images.append(f"{number + 1} {numbers_} {camera} frame_{number:06}.png\n\n")
    size = f"{trajectory.width} {trajectory.height}"
    cameras = "".join(f"{camera} PINHOLE {size} {values}\n" for values, camera in lenses.items())
    texts = {
        CAMERAS: "# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]\n" + cameras,
        POINTS: "# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)\n",
        IMAGES: "# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME\n"
        "# POINTS2D[] as (X, Y, POINT3D_ID)\n" + "".join(images),
    }
    for name, text in texts.items():
        with atomic_write(folder / name, "w") as file:
            file.write(text)
    return folder / IMAGES


def _cameras(path: Path) -> dict[str, _Camera]:
    cameras = {}
    for line in read_text(path).splitlines():
        words = line.split()
        if not words or line.startswith("#"):
            continue
        where = f"A line of {path.name}"
        focals = _FOCALS.get(words[1]) if len(words) > 1 else None
        values = parse_numbers(words[2:], where)
        if focals is None or len(values) < focals + 4:
            raise malformed(where, line)
        size, focal = values[:2], values[2 : 2 + focals]
        centre, distortion = values[2 + focals : 4 + focals], values[4 + focals :]
        if any(distortion) or min(size) <= 0:
            raise CacheFormatError(
                f"Camera {words[0]} of {path.name} is not a pinhole camera",
                got=f"{words[1]} with distortion {distortion}",
                expected="no distortion",
                fix="Undistort the pictures first (colmap image_undistorter)",
            )
        cameras[words[0]] = _Camera(
            size[0], size[1], (focal[0], focal[-1]), (centre[0], centre[1])
        )
    return cameras
