"""Camera moves from and to files of any program."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ...errors import CacheFormatError, TrajectoryError, ValueRangeError
from ...files import with_suffix
from ...geometry.trajectory import Trajectory
from ..files import parse_json, save_trajectory, trajectory_from_json
from .axes import camera_frame
from .camera_file import CameraFile, Wanted
from .colmap import is_colmap, read_colmap, write_colmap
from .gltf_read import read_gltf
from .gltf_write import write_gltf
from .realestate import read_realestate, write_realestate
from .text_files import read_text
from .transforms_json import is_transforms, read_transforms, write_transforms

SUFFIXES: Final = (".json", ".txt", ".glb", ".gltf")
"""Files that `read_cameras` reads."""

_GLTF: Final = (".glb", ".gltf")

MIRAGE, GLTF, COLMAP, REALESTATE, TRANSFORMS = (
    "Mirage JSON", "glTF binary", "COLMAP text", "RealEstate10K text", "Blender transforms.json",
)  # fmt: skip
FORMATS: Final = (GLTF, MIRAGE, COLMAP, REALESTATE, TRANSFORMS)
"""Formats that `export_trajectory` writes."""


def import_trajectory(path: Path, *, width: int, height: int, fps: float) -> Trajectory:
    """The camera move of a file, as `read_cameras` reads it.

    Raises:
        CacheFormatError: The file is missing, damaged or of an unknown format.
        GeometryError: The numbers are not those of cameras.
        TrajectoryError: It holds no camera.
    """
    return read_cameras(path, Wanted(width, height, fps)).trajectory


def read_cameras(path: Path, wanted: Wanted) -> CameraFile:
    """Read a camera move; the file's own content tells its format.

    Args:
        path: A file with one of `SUFFIXES`: Mirage or ``transforms.json``, the ``images.txt``
            of a COLMAP text model, RealEstate10K text, or glTF.
        wanted: What it is read for. A camera and an animation are chosen in glTF files only.

    Raises:
        CacheFormatError: The file is missing, damaged or of an unknown format.
        GeometryError: The numbers are not those of cameras.
        TrajectoryError: It holds no camera, or not what was chosen.
    """
    if path.suffix.lower() in _GLTF:
        return read_gltf(path, wanted)
    if wanted.camera.strip() or wanted.animation.strip():
        raise TrajectoryError(
            "Only glTF files hold several cameras or animations to choose from",
            got=path.name,
            fix="Leave camera and animation empty",
        )
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise CacheFormatError(
            "This is not a camera file", got=path.name, expected=" or ".join(SUFFIXES)
        )
    text = read_text(path)
    if suffix == ".txt":
        colmap = is_colmap(path, text)
        read = read_colmap if colmap else read_realestate
        move = read(path, width=wanted.width, height=wanted.height, fps=wanted.fps)
        return CameraFile(move, COLMAP if colmap else REALESTATE)
    data = parse_json(text, path.name)
    if is_transforms(data):
        move = read_transforms(
            data, path.name, width=wanted.width, height=wanted.height, fps=wanted.fps
        )
        return CameraFile(move, TRANSFORMS)
    own = trajectory_from_json(data, path.name)
    fits = (own.width, own.height) == (wanted.width, wanted.height)
    return CameraFile(own if fits else _refit(own, wanted.width, wanted.height), MIRAGE)


def export_trajectory(trajectory: Trajectory, path: Path, form: str) -> Path:
    """Write a camera move for another program.

    Args:
        trajectory: The move.
        path: Target; its suffix follows from the format. A COLMAP model is a folder.
        form: One of `FORMATS`.

    Returns:
        The file that `import_trajectory` reads back.

    Raises:
        ValueRangeError: The format is unknown.
        StorageError: The disk is full or the folder is not writable.
    """
    if form == GLTF:
        return write_gltf(trajectory, with_suffix(path, ".glb"))
    if form == MIRAGE:
        return save_trajectory(path, trajectory)
    if form == COLMAP:
        return write_colmap(trajectory, path)
    if form == REALESTATE:
        return write_realestate(trajectory, path)
    if form == TRANSFORMS:
        return write_transforms(trajectory, path)
    raise ValueRangeError("The camera format is unknown", got=form, expected=", ".join(FORMATS))


def _refit(trajectory: Trajectory, width: int, height: int) -> Trajectory:
    k = trajectory.intrinsics
    focal = k[:, [0, 1], [0, 1]]
    own = (float(trajectory.width), float(trajectory.height))
    return Trajectory(
        trajectory.world_to_camera,
        camera_frame(focal, k[:, :2, 2], own, width, height),
        width,
        height,
        trajectory.fps,
    )
