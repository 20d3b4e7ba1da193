"""Camera moves from and to files of any program."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ...errors import CacheFormatError, TrajectoryError, ValueRangeError
from ...files import with_suffix
from ...geometry.trajectory import Trajectory
from ...log import logger
from ..files import FORMAT as MIRAGE_FORMAT
from ..files import MAX_BYTES, parse_json, read_document, save_trajectory
from . import chan, colmap, colmap_binary, pose_json, realestate
from .axes import camera_frame
from .camera_file import DEFAULT_FOV, CameraFile, Wanted
from .camera_path import is_camera_path, read_camera_path
from .gltf_read import read_gltf
from .gltf_write import write_gltf
from .pose_text import CHAN_SUFFIX, read_pose_text
from .text_files import MAX_TEXT, read_text
from .transforms_json import is_transforms, read_transforms, write_transforms
from .unknown import unknown_file, unknown_suffix

SUFFIXES: Final = (".json", ".txt", ".glb", ".gltf", CHAN_SUFFIX)
"""Endings of files that `import_trajectory` reads; it also reads `MODEL_FILES`."""

_GLTF: Final = (".glb", ".gltf")

MODEL_FILES: Final = (colmap_binary.IMAGES,)
"""Whole names of files that `import_trajectory` reads."""

MIRAGE, GLTF, COLMAP, REALESTATE, TRANSFORMS, WAN_FUN, RECAMMASTER, CHAN = (
    "Mirage JSON", "glTF binary", "COLMAP text", "RealEstate10K text", "Blender transforms.json",
    "Wan-Fun text", "ReCamMaster JSON", "Nuke chan",
)  # fmt: skip
FORMATS: Final = (GLTF, MIRAGE, COLMAP, REALESTATE, TRANSFORMS, WAN_FUN, RECAMMASTER, CHAN)
"""Formats that `export_trajectory` writes."""

_HEAD = 1000
"""Characters in which a file says what it is."""


def import_trajectory(
    path: Path, *, width: int, height: int, fps: float, fov: float = DEFAULT_FOV, camera: str = ""
) -> Trajectory:
    """The camera move that `read_cameras` reads; what it has to tell goes to the log.

    Args:
        path: The file.
        width: Picture width that the move is for.
        height: Picture height.
        fps: Frames per second, for formats that do not state it.
        fov: Horizontal field of view in degrees, for formats that do not state it.
        camera: Which camera of a file with several; empty for the first.

    Raises:
        CacheFormatError: As in `read_cameras`.
        GeometryError: As in `read_cameras`.
        TrajectoryError: As in `read_cameras`.
        ValueRangeError: As in `read_cameras`.
    """
    found = read_cameras(path, Wanted(width, height, fps, fov, camera))
    for note in found.notes:
        logger.warning("%s: %s", path.name, note)
    return found.trajectory


def read_cameras(path: Path, wanted: Wanted) -> CameraFile:
    """Read a camera move; the file's own content tells its format.

    Args:
        path: A file with one of `SUFFIXES` or `MODEL_FILES`, or the folder of a COLMAP model.
        wanted: What it is read for.

    Raises:
        CacheFormatError: The file is missing, damaged, of an unknown format, or has no camera
            of the wanted name.
        GeometryError: The numbers are not those of cameras.
        TrajectoryError: It holds no camera.
        ValueRangeError: A field of view or a frame rate is none.
    """
    # Of a name that no file can have this is False, and reading it says what is wrong.
    if os.path.isdir(path) or path.name in (colmap.CAMERAS, colmap_binary.CAMERAS):
        path = _model_images(path)
    suffix = path.suffix.lower()
    if path.name in MODEL_FILES:
        return colmap_binary.read_colmap_binary(path, wanted)
    if suffix in _GLTF:
        return read_gltf(path, wanted)
    if wanted.animation:
        raise TrajectoryError(
            "Only glTF files hold several animations to choose from",
            got=path.name,
            fix="Leave the name of the animation empty",
        )
    if suffix not in SUFFIXES:
        raise unknown_suffix(path.name, suffix)
    if suffix == ".json":
        return _json(path, wanted)
    if suffix != CHAN_SUFFIX and colmap.is_colmap(path, _start(path)):
        return colmap.read_colmap(path, wanted)
    return _alone(read_pose_text(path, wanted), path, wanted)


def _json(path: Path, wanted: Wanted) -> CameraFile:
    name = path.name
    limit = MAX_BYTES if MIRAGE_FORMAT in _start(path) else MAX_TEXT
    data = parse_json(read_text(path, limit), name)
    if is_transforms(data):
        return read_transforms(data, name, wanted)
    if is_camera_path(data):
        return _alone(read_camera_path(data, name, wanted), path, wanted)
    if isinstance(data, dict) and "format" in data:
        own, repaired = read_document(data, name)
        fits = (own.width, own.height) == (wanted.width, wanted.height)
        move = own if fits else _refit(own, wanted.width, wanted.height)
        return _alone(
            CameraFile(move, MIRAGE_FORMAT, (repaired,) if repaired else ()), path, wanted
        )
    found = pose_json.read_pose_json(data, name, wanted)
    return found if found.cameras else _alone(found, path, wanted)


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
    writers: dict[str, Callable[[Trajectory, Path], Path]] = {
        COLMAP: colmap.write_colmap,
        REALESTATE: realestate.write_realestate,
        TRANSFORMS: write_transforms,
        WAN_FUN: realestate.write_wan_fun,
        RECAMMASTER: pose_json.write_recammaster,
        CHAN: chan.write_chan,
    }
    if form in writers:
        return writers[form](trajectory, path)
    raise ValueRangeError("The camera format is unknown", got=form, expected=", ".join(FORMATS))


def _model_images(path: Path) -> Path:
    """The pictures of a COLMAP model, of which a folder or the cameras are named."""
    if not path.is_dir():
        return path.with_name(
            colmap.IMAGES if path.name == colmap.CAMERAS else colmap_binary.IMAGES
        )
    for name in (colmap.IMAGES, colmap_binary.IMAGES):
        if (path / name).is_file():
            return path / name
    raise unknown_file(path.name, "a folder without a COLMAP model")


def _start(path: Path) -> str:
    """The first characters of a file, as far as they are text; reading it says what is wrong."""
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD).decode("utf-8", "replace")
    except (OSError, ValueError):
        return ""


def _alone(found: CameraFile, path: Path, wanted: Wanted) -> CameraFile:
    """``found``, of a file whose only camera has no name."""
    if wanted.camera and not found.cameras:
        raise CacheFormatError(
            f"{path.name} holds one camera without a name",
            got=repr(wanted.camera[:60]),
            fix="Leave the name of the camera empty",
        )
    return found


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
