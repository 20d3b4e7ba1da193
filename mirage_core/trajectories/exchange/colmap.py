"""COLMAP models: ``images`` and ``cameras`` beside each other, as text or binary.

An image is ``id qw qx qy qz tx ty tz camera_id name``: world to camera, OpenCV axes, and the
corner of the first pixel is (0, 0), as in the project.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch

from ...errors import CacheFormatError
from ...files import atomic_write
from ...geometry.trajectory import Trajectory
from .axes import poses_of, quaternions
from .camera_file import CameraFile, Wanted
from .frame_order import play_order
from .lenses import Lens, intrinsics_of, lens_notes, perspective_model
from .text_files import MAX_POSES, expect_poses, is_number, malformed, parse_numbers, read_lines

FORMAT: Final = "COLMAP"
CAMERAS: Final = "cameras.txt"
IMAGES: Final = "images.txt"
POINTS: Final = "points3D.txt"

_IMAGE_WORDS = 10
_POINT_WORDS = 3
_FEW_POINTS = 4 * _POINT_WORDS
_SCALED = 1000.0
"""How far from 1 the length of a quaternion may be."""


@dataclass(frozen=True)
class Image:
    """One picture of a model.

    Attributes:
        name: Name of its file, with folders.
        camera: Id of its camera.
        pose: (qw, qx, qy, qz, tx, ty, tz).
    """

    name: str
    camera: str
    pose: tuple[float, ...]


def is_colmap(path: Path, start: str) -> bool:
    """True for the ``images.txt`` of a COLMAP model, of which ``start`` are the first lines."""
    return path.name == IMAGES or "QW, QX, QY, QZ" in start


def read_colmap(path: Path, wanted: Wanted) -> CameraFile:
    """Cameras of a COLMAP text model, in the natural order of the pictures' names.

    Args:
        path: Its ``images.txt``, beside ``cameras.txt``.
        wanted: What it is read for.

    Raises:
        CacheFormatError: A file is missing or malformed, or the lens is no perspective one.
        GeometryError: The numbers are not those of cameras.
    """
    return model(list(_images(path)), _cameras(path.with_name(CAMERAS)), path.name, wanted)


def model(
    images: list[Image], lenses: Mapping[str, Callable[[], Lens]], name: str, wanted: Wanted
) -> CameraFile:
    """The camera move of a model's pictures.

    Args:
        images: Its pictures.
        lenses: What makes the lens of a camera, by id; only those that are played are made.
        name: How messages call the file.
        wanted: What it is read for.

    Raises:
        CacheFormatError: There is no picture, or a picture's camera is missing.
        GeometryError: The numbers are not those of cameras.
    """
    expect_poses(len(images), name)
    order = play_order([image.name for image in images], wanted.camera, name, sort_words=True)
    played = [images[frame] for frame in order.frames]
    for image in played:
        if image.camera not in lenses:
            raise CacheFormatError(
                f"A camera of {name} is missing",
                got=f"camera {image.camera} of {image.name[:60]}",
                expected=f"one of {len(lenses)} cameras",
                fix="Export the model again",
            )
    values = torch.tensor([image.pose for image in played], dtype=torch.float64)
    length = values[:, :4].norm(dim=1)
    # NaN fails this comparison as well.
    if not bool(((length > 1 / _SCALED) & (length < _SCALED)).all()):
        raise malformed(f"A rotation in {name}", f"quaternions of length {length.min():g} and up")
    poses = poses_of(values[:, [1, 2, 3, 0]], values[:, 4:])
    made = {camera: lenses[camera]() for camera in {image.camera for image in played}}
    used = [made[image.camera] for image in played]
    shift = max(lens.corner_shift() for lens in set(used))
    move = wanted.move(poses, intrinsics_of(used, wanted.width, wanted.height))
    notes = (order.note, *lens_notes(shift))
    return CameraFile(move, FORMAT, tuple(filter(None, notes)), order.cameras, shift)


def camera_lens(where: str, kind: str, size: list[float], values: list[float]) -> Lens:
    """The lens of one camera of a model.

    Args:
        where: How messages call the camera.
        kind: COLMAP's name of the camera model.
        size: Width and height.
        values: Its parameters.

    Raises:
        CacheFormatError: The lens is no perspective one, or its numbers are malformed.
    """
    focals, names = perspective_model(kind, where)
    if len(values) != focals + 2 + len(names):
        raise malformed(where, f"{kind} with {len(values)} parameters")
    focal = values[:focals]
    if min(size) <= 0 or min(focal) <= 0:
        raise malformed(where, f"{kind} of {size[0]:g} x {size[1]:g}, focal length {focal[0]:g}")
    distortion = dict(zip(names, values[focals + 2 :], strict=True))

    def of(*keys: str) -> tuple[float, ...]:
        return tuple(distortion.get(key, 0.0) for key in keys)

    return Lens(
        (size[0], size[1]),
        (focal[0], focal[-1]),
        (values[focals], values[focals + 1]),
        of("k1", "k2", "k3"),
        of("k4", "k5", "k6"),
        (distortion.get("p1", 0.0), distortion.get("p2", 0.0)),
    )


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


def _images(path: Path) -> Iterator[Image]:
    """Pictures of an ``images.txt``.

    Every picture has a second line with its feature points. It may be empty, and tools that
    drop empty lines leave it out.
    """
    where = f"A line of {path.name}"
    after_image = False
    count = 0
    for line in read_lines(path):
        if line.startswith("#"):
            continue
        if after_image and _is_points(line):
            after_image = False
            continue
        words = line.split(maxsplit=_IMAGE_WORDS - 1)
        if not words:
            continue
        if len(words) != _IMAGE_WORDS:
            raise malformed(where, line)
        pose = tuple(parse_numbers(words[1:8], where))
        count += 1
        if count > MAX_POSES:
            expect_poses(count, path.name)
        yield Image(words[9].strip(), words[8], pose)
        after_image = True


def _is_points(line: str) -> bool:
    """Whether a line is empty or holds feature points, (x, y, id) each."""
    # The first ones tell: a picture's own line has ten words, the last of them its name.
    head = line.split(maxsplit=_FEW_POINTS)[:_FEW_POINTS]
    few = len(head) < _FEW_POINTS
    return all(is_number(word) for word in head) and not (few and len(head) % _POINT_WORDS)


def _cameras(path: Path) -> dict[str, Callable[[], Lens]]:
    lenses: dict[str, Callable[[], Lens]] = {}
    for line in read_lines(path):
        words = line.split()
        if not words or line.startswith("#"):
            continue
        where = f"Camera {words[0][:20]} of {path.name}"
        if len(words) < 4:  # noqa: PLR2004
            raise malformed(where, line)
        values = parse_numbers(words[2:], where)
        lenses[words[0]] = partial(camera_lens, where, words[1], values[:2], values[2:])
    return lenses
