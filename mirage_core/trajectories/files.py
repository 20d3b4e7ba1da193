"""Trajectory files: JSON that says which convention its matrices follow.

.. code-block:: json

    {"format": "mirage-trajectory", "version": 1,
     "convention": {"axes": "opencv", "matrix": "world_to_camera", "intrinsics": "pixels"},
     "width": 832, "height": 480, "fps": 24.0,
     "frames": [{"matrix": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
                 "intrinsics": [700.0, 700.0, 416.0, 240.0]}]}

``axes`` names the axes of the camera: ``opencv`` is x right, y down, z forward; ``opengl`` is x
right, y up, z backward. The world's axes are kept as they are, so that positions in the file
are positions in the scene. ``intrinsics`` are fx, fy, cx, cy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ..errors import CacheFormatError, GeometryError, ValueRangeError
from ..files import atomic_write, with_suffix
from ..geometry.trajectory import Trajectory
from ..geometry.transform import invert_rigid
from ..log import logger
from .rotations import nearest_rigid

FORMAT: Final = "mirage-trajectory"
VERSION: Final = 1
MAX_FRAMES: Final = 1_000_000
MAX_BYTES: Final = 256 * 2**20

_AXES: Final = ("opencv", "opengl")
_MATRICES: Final = ("world_to_camera", "camera_to_world")
_SHOWN: Final = 40
"""Characters of a foreign value that an error message repeats."""


def describe(value: object) -> str:
    """A short description of any JSON value for an error message."""
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "...")
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, int) and abs(value) > 10**_SHOWN:
        return "a number with too many digits"
    return "nothing" if value is None else repr(value)[:_SHOWN]


def parse_json(text: str, name: str) -> Any:
    """Parse JSON strictly: NaN and infinity, which JSON does not have, are refused.

    Raises:
        CacheFormatError: The text is not JSON, is cut off, or is nested too deeply.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise CacheFormatError(
            f"{name} is not valid JSON",
            got=str(error)[:200],
            fix="The text is damaged or truncated: copy or save it again",
        ) from error


def expect_document(data: object, name: str, expected: str, newest: int) -> dict[str, Any]:
    """Check the format name and version of a JSON document, and return it.

    Raises:
        CacheFormatError: It is foreign, or from a newer version.
    """
    if not isinstance(data, dict) or data.get("format") != expected:
        got = data.get("format") if isinstance(data, dict) else data
        raise CacheFormatError(
            f"{name} is not a {expected} document",
            got=f"format {describe(got)}" if isinstance(data, dict) else describe(data),
            expected=f'an object with "format": "{expected}" and "version": {newest}',
        )
    version = data.get("version")
    if type(version) is not int or version < 1:
        raise CacheFormatError(
            f"{name} has no valid version", got=describe(version), expected=f'"version": {newest}'
        )
    if version > newest:
        raise CacheFormatError(
            f"{name} was written by a newer Mirage",
            got=f"version {describe(version)}",
            expected=f"at most {newest}",
            fix="Update Mirage to read it",
        )
    return data


def expect_tag(data: Mapping[str, Any], name: str, tag: str, allowed: tuple[str, ...]) -> str:
    """Read one tag of a document's ``convention``; there is no default to guess wrongly.

    Raises:
        CacheFormatError: The tag is missing or unknown.
    """
    convention = data.get("convention")
    value = convention.get(tag) if isinstance(convention, dict) else None
    if not isinstance(value, str) or value not in allowed:
        choices = " or ".join(f'"{choice}"' for choice in allowed)
        raise CacheFormatError(
            f"{name} does not say which {tag} convention it follows",
            got=describe(value),
            expected=choices,
            fix=f'Add "{tag}": {choices} to its "convention" object',
        )
    return value


def expect_numbers(value: object, count: int, what: str) -> list[float]:
    """Check a JSON list of ``count`` finite numbers, and return it as floats.

    Raises:
        CacheFormatError: It is something else.
    """
    if not isinstance(value, list | tuple) or len(value) != count:
        raise CacheFormatError(
            f"{what} is malformed", got=describe(value), expected=f"{count} numbers"
        )
    for number in value:
        if type(number) not in (int, float) or not _is_finite(number):
            raise CacheFormatError(
                f"{what} contains something that is not a number",
                got=describe(number),
                expected=f"{count} finite numbers",
            )
    return [float(number) for number in value]


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond the range of float
        return False


def trajectory_to_json(trajectory: Trajectory) -> dict[str, Any]:
    """The trajectory as a JSON document; `trajectory_from_json` gives back the same bits.

    Raises:
        GeometryError: Intrinsics have a skew, which the format cannot hold.
    """
    intrinsics = trajectory.intrinsics
    skewed = (intrinsics[:, 0, 1].abs() + intrinsics[:, 1, 0].abs()).nonzero().flatten()
    if len(skewed):
        raise GeometryError(
            f"The intrinsics of frame {int(skewed[0])} have a skew",
            got=intrinsics[skewed[0], :2, :2].tolist(),
            expected="0 beside the two focal lengths",
            fix="Rectify the pictures, or set the skew to 0",
        )
    flat = intrinsics[:, [0, 1, 0, 1], [0, 1, 2, 2]].tolist()
    return {
        "format": FORMAT,
        "version": VERSION,
        "convention": {"axes": "opencv", "matrix": "world_to_camera", "intrinsics": "pixels"},
        "width": int(trajectory.width),
        "height": int(trajectory.height),
        "fps": float(trajectory.fps),
        "frames": [
            {"matrix": matrix, "intrinsics": values}
            for matrix, values in zip(trajectory.world_to_camera.tolist(), flat, strict=True)
        ],
    }


def trajectory_from_json(data: dict[str, Any], name: str = "The trajectory") -> Trajectory:
    """Read a trajectory document, trusting nothing in it.

    What `read_document` tells goes to the log.

    Args:
        data: The parsed JSON.
        name: How error messages call it.

    Raises:
        CacheFormatError: As in `read_document`.
        GeometryError: As in `read_document`.
    """
    trajectory, repaired = read_document(data, name)
    if repaired:
        logger.warning("%s: %s", name, repaired)
    return trajectory


def read_document(data: dict[str, Any], name: str) -> tuple[Trajectory, str]:
    """A trajectory document, and a sentence about rotations that were repaired, or "".

    Args:
        data: The parsed JSON.
        name: How error messages call it.

    Raises:
        CacheFormatError: It is foreign, from a newer version, incomplete, of an unstated
            convention, or holds something other than numbers where numbers belong.
        GeometryError: The numbers are not those of cameras.
    """
    data = expect_document(data, name, FORMAT, VERSION)
    axes = expect_tag(data, name, "axes", _AXES)
    matrix = expect_tag(data, name, "matrix", _MATRICES)
    expect_tag(data, name, "intrinsics", ("pixels",))
    width, height = _pixels(data, name, "width"), _pixels(data, name, "height")
    (fps,) = expect_numbers([data.get("fps")], 1, f'"fps" of {name}')
    poses, intrinsics = _frames(data.get("frames"), name)
    in_column = matrix == "camera_to_world"
    poses, repaired = nearest_rigid(f"{name}: the matrix", poses, centre_in_column=in_column)
    try:
        move = Trajectory(_to_project(poses, axes, matrix), intrinsics, width, height, fps)
    except ValueRangeError as error:
        raise CacheFormatError(f"{name} contains an impossible value", got=str(error)) from error
    return move, repaired


def _pixels(data: Mapping[str, Any], name: str, key: str) -> int:
    value = data.get(key)
    if type(value) is not int or not 0 < value <= 2**16:
        raise CacheFormatError(
            f'"{key}" of {name} is not a picture size',
            got=describe(value),
            expected="a whole number of pixels",
        )
    return value


def _frames(frames: object, name: str) -> tuple[Tensor, Tensor]:
    """Matrices (F, 4, 4) and intrinsics (F, 3, 3) as they stand in the document."""
    if not isinstance(frames, list) or not 1 <= len(frames) <= MAX_FRAMES:
        raise CacheFormatError(
            f'"frames" of {name} is malformed',
            got=describe(frames),
            expected=f"a list of 1 to {MAX_FRAMES} frames",
        )
    matrices, values = [], []
    for number, frame in enumerate(frames):
        where = f"Frame {number} of {name}"
        if not isinstance(frame, dict):
            raise CacheFormatError(
                f"{where} is malformed", got=describe(frame), expected="an object"
            )
        rows = frame.get("matrix")
        if not isinstance(rows, list) or len(rows) != 4:  # noqa: PLR2004
            raise CacheFormatError(
                f'"matrix" of {where} is malformed', got=describe(rows), expected="4 rows of 4"
            )
        matrices.append([expect_numbers(row, 4, f'"matrix" of {where}') for row in rows])
        values.append(expect_numbers(frame.get("intrinsics"), 4, f'"intrinsics" of {where}'))
    intrinsics = torch.eye(3, dtype=torch.float64).repeat(len(values), 1, 1)
    intrinsics[:, [0, 1, 0, 1], [0, 1, 2, 2]] = torch.tensor(values, dtype=torch.float64)
    return torch.tensor(matrices, dtype=torch.float64), intrinsics


def _to_project(poses: Tensor, axes: str, matrix: str) -> Tensor:
    """Poses of the stated convention as ``world_to_camera`` with OpenCV axes."""
    if matrix == "camera_to_world":
        poses = invert_rigid(poses)
    if axes == "opengl":
        flip = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=poses.dtype)
        poses = flip[:, None] * poses
    return poses


def save_trajectory(path: Path | str, trajectory: Trajectory) -> Path:
    """Save a trajectory.

    Args:
        path: Target; ``.json`` is appended when missing.
        trajectory: The trajectory.

    Returns:
        The path that was written.

    Raises:
        GeometryError: Intrinsics have a skew, which the format cannot hold.
        StorageError: The disk is full, or the folder cannot be written.
    """
    path = with_suffix(path, ".json")
    text = json.dumps(trajectory_to_json(trajectory), allow_nan=False)
    with atomic_write(path, "w") as file:
        file.write(text)
    return path


def load_trajectory(path: Path | str) -> Trajectory:
    """Load a trajectory from a file in any stated convention.

    Raises:
        CacheFormatError: The file is missing, damaged, foreign, from a newer version, larger
            than 256 MiB, or does not state its convention.
        GeometryError: The numbers are not those of cameras.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise CacheFormatError(
                f"{path.name} is too large for a trajectory",
                got=f"more than {MAX_BYTES // 2**20} MiB",
            )
        text = content.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise CacheFormatError(
            f"{path.name} cannot be read",
            got=str(error)[:200],
            expected="a JSON file",
            fix="The file is missing or damaged: check the path, or save it again",
        ) from error
    return trajectory_from_json(parse_json(text, path.name), path.name)
