"""Poses as JSON of models that follow a camera, and of splatting and Unreal.

===================  ==============================================  ============================
format               holds                                           pose
===================  ==============================================  ============================
MotionCtrl           a list of 3 x 4, as 12 numbers                  world to camera
CameraCtrl, Wan-Fun  a list of 18 or 19 numbers, as in their text    world to camera
Gaussian splatting   a list of ``position``, ``rotation``, ``fx``    camera to world
ReCamMaster          ``frame0: {cam01: "[..] [..] [..] [..]"}``      rows of Unreal's matrix
Unreal               ``actor: {0: {position, rotation}}``            roll, pitch, yaw in degrees
===================  ==============================================  ============================

Axes are OpenCV's, but for the last two: x forward, y right, z up, and centimetres.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ...errors import CacheFormatError
from ...files import atomic_write, with_suffix
from ...geometry.trajectory import Trajectory
from ...geometry.transform import invert_rigid, rigid
from ..files import describe, expect_numbers
from ..rotations import nearest_rigid
from .camera_file import CameraFile, Wanted
from .frame_order import choose, natural_key, play_order
from .lenses import Lens, intrinsics_of
from .pose_text import rows_file
from .realestate import COLUMNS, COLUMNS_WITHOUT_TIME
from .text_files import expect_poses, malformed, parse_numbers
from .unknown import unknown_file

MOTIONCTRL: Final = "MotionCtrl"
RECAMMASTER: Final = "ReCamMaster"
SPLATTING: Final = "Gaussian splatting cameras"
UNREAL: Final = "Unreal JSON"

_CENTIMETRES = 100.0
_MATRIX = 12
_UNREAL_AXES = ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0))
"""Columns are right, down and forward of the project in Unreal's forward, right and up."""
_ROW = re.compile(r"\[([^\[\]]*)\]")
_FRAME = re.compile(r"frame_?\d+")
_LONGEST = 2000


def read_pose_json(data: object, name: str, wanted: Wanted) -> CameraFile:
    """Cameras of parsed JSON in one of the formats above.

    Args:
        data: The parsed file.
        name: How error messages call it.
        wanted: What it is read for.

    Raises:
        CacheFormatError: It is malformed, or of an unknown format.
        GeometryError: The numbers are not those of cameras.
    """
    if isinstance(data, list) and data:
        expect_poses(len(data), name)
        if isinstance(data[0], dict) and {"position", "rotation"} <= data[0].keys():
            return _splatting(data, name, wanted)
        if isinstance(data[0], list):
            return _rows(data, name, wanted)
    if isinstance(data, dict) and data:
        expect_poses(len(data), name)
        first = next(iter(data.values()))
        if all(_FRAME.fullmatch(key) for key in data) and isinstance(first, dict):
            return _recammaster(data, name, wanted)
        if isinstance(first, dict) and _is_actor(first):
            return _unreal(data, name, wanted)
    raise unknown_file(name, describe(data))


def write_recammaster(trajectory: Trajectory, path: Path) -> Path:
    """Write a ``camera_extrinsics.json`` with one camera, ``cam01``. It states no lens.

    Raises:
        StorageError: The disk is full or the folder is not writable.
    """
    path = with_suffix(path, ".json")
    axes = torch.tensor(_UNREAL_AXES, dtype=torch.float64)
    pose = trajectory.camera_to_world
    rotation = axes @ pose[:, :3, :3] @ axes.T
    place = pose[:, :3, 3] @ axes.T * _CENTIMETRES
    # Unreal's vectors are rows: its matrix is the transpose.
    rows = rigid(rotation, place).mT.tolist()
    frames = {
        f"frame{number}": {
            "cam01": " ".join("[" + " ".join(repr(v) for v in row) + "]" for row in matrix) + " "
        }
        for number, matrix in enumerate(rows)
    }
    with atomic_write(path, "w") as file:
        file.write(json.dumps(frames, allow_nan=False))
    return path


def _rows(data: Sequence[object], name: str, wanted: Wanted) -> CameraFile:
    rows: list[list[float]] = []
    for number, row in enumerate(data):
        flat = row
        if isinstance(row, list) and row and isinstance(row[0], list):
            flat = [value for part in row if isinstance(part, list) for value in part]
        count = len(flat) if isinstance(flat, list) else 0
        if count not in (_MATRIX, COLUMNS_WITHOUT_TIME, COLUMNS) or (
            rows and count != len(rows[0])
        ):
            raise unknown_file(name, f"a list whose entry {number} is {describe(flat)}")
        rows.append(expect_numbers(flat, count, f"Entry {number} of {name}"))
    if len(rows[0]) != _MATRIX:
        return rows_file(rows, name, wanted)
    matrices = torch.eye(4, dtype=torch.float64).repeat(len(rows), 1, 1)
    matrices[:, :3] = torch.tensor(rows, dtype=torch.float64).view(-1, 3, 4)
    poses, repaired = nearest_rigid(f"{name}: the matrix", matrices, centre_in_column=False)
    return _lensless(MOTIONCTRL, poses, (repaired,), (), wanted)


def _splatting(data: Sequence[object], name: str, wanted: Wanted) -> CameraFile:
    entries = []
    for number, entry in enumerate(data):
        if not isinstance(entry, dict):
            raise CacheFormatError(f"Entry {number} of {name} is malformed", got=describe(entry))
        entries.append(entry)
    pictures = [entry.get("img_name", "") for entry in entries]
    pictures = [picture if isinstance(picture, str) else "" for picture in pictures]
    order = play_order(pictures, wanted.camera, name)
    places, rotations, lenses = [], [], []
    for number in order.frames:
        where = f"Entry {number} of {name}"
        entry, rows = entries[number], entries[number].get("rotation")
        if not isinstance(rows, list) or len(rows) != 3:  # noqa: PLR2004
            raise CacheFormatError(
                f'"rotation" of {where} is malformed', got=describe(rows), expected="3 rows of 3"
            )
        rotations.append([expect_numbers(row, 3, f'"rotation" of {where}') for row in rows])
        places.append(expect_numbers(entry.get("position"), 3, f'"position" of {where}'))
        keys = ("width", "height", "fx", "fy")
        size = expect_numbers(
            [entry.get(key) for key in keys], 4, f'"width", "height", "fx" and "fy" of {where}'
        )
        if min(size) <= 0:
            raise malformed(where, f"a lens of {size[2]:g} pixels for {size[0]:g} x {size[1]:g}")
        middle = size[0] / 2, size[1] / 2
        lenses.append(Lens((size[0], size[1]), (size[2], size[3]), middle))
    turn = torch.tensor(rotations, dtype=torch.float64)
    poses = rigid(turn, torch.tensor(places, dtype=torch.float64))
    poses, repaired = nearest_rigid(f"{name}: the matrix", poses)
    intrinsics = intrinsics_of(lenses, wanted.width, wanted.height)
    notes = tuple(filter(None, (order.note, repaired)))
    move = wanted.move(invert_rigid(poses), intrinsics)
    return CameraFile(move, SPLATTING, notes, order.cameras)


def _recammaster(data: Mapping[str, Any], name: str, wanted: Wanted) -> CameraFile:
    frames = sorted(data, key=natural_key)
    cameras = data[frames[0]]
    if not isinstance(cameras, dict) or not cameras:
        raise CacheFormatError(
            f"{frames[0]} of {name} is malformed", got=describe(cameras), expected="cameras"
        )
    order = sorted(cameras, key=natural_key)
    camera, note = choose(order, wanted.camera, name)
    matrices = []
    for frame in frames:
        where = f"{camera[:20]} of {frame} of {name}"
        text = data[frame].get(camera) if isinstance(data[frame], dict) else None
        if not isinstance(text, str) or len(text) > _LONGEST:
            raise CacheFormatError(
                f"{where} is malformed", got=describe(text), expected='"[..] [..] [..] [..]"'
            )
        rows = [parse_numbers(row.split(), where) for row in _ROW.findall(text)]
        if [len(row) for row in rows] != [4, 4, 4, 4]:
            raise malformed(where, text)
        matrices.append(rows)
    matrix = torch.tensor(matrices, dtype=torch.float64).mT
    return _from_unreal(RECAMMASTER, matrix, name, (note,), tuple(order), wanted)


def _unreal(data: Mapping[str, Any], name: str, wanted: Wanted) -> CameraFile:
    from scipy.spatial.transform import Rotation

    actors = sorted((key for key in data if _is_actor(data[key])), key=natural_key)
    actor, note = choose(actors, wanted.camera, name)
    expect_poses(len(data[actor]), name)
    places, angles = [], []
    for frame in sorted(data[actor], key=natural_key):
        where = f"Frame {frame[:20]} of {name}"
        entry = data[actor][frame]
        if not isinstance(entry, dict):
            raise CacheFormatError(f"{where} is malformed", got=describe(entry))
        places.append(expect_numbers(entry.get("position"), 3, f'"position" of {where}'))
        angles.append(expect_numbers(entry.get("rotation"), 3, f'"rotation" of {where}'))
    # Unreal's pitch is positive upwards, and its roll clockwise, against the sense of its axes.
    turned = torch.tensor(angles, dtype=torch.float64) * torch.tensor([-1.0, -1.0, 1.0])
    rotation = Rotation.from_euler("xyz", turned.numpy(), degrees=True).as_matrix()
    matrix = rigid(torch.from_numpy(rotation), torch.tensor(places, dtype=torch.float64))
    return _from_unreal(UNREAL, matrix, name, (note,), tuple(actors), wanted)


def _is_actor(value: object) -> bool:
    if not isinstance(value, dict) or not value:
        return False
    first = next(iter(value.values()))
    return isinstance(first, dict) and {"position", "rotation"} <= first.keys()


def _from_unreal(
    form: str,
    matrix: Tensor,
    name: str,
    notes: tuple[str, ...],
    cameras: tuple[str, ...],
    wanted: Wanted,
) -> CameraFile:
    """A move of Unreal's matrices (F, 4, 4), whose columns are axes and place."""
    pose, repaired = nearest_rigid(f"{name}: the matrix", matrix)
    axes = torch.tensor(_UNREAL_AXES, dtype=torch.float64)
    rotation = axes.T @ pose[:, :3, :3] @ axes
    place = pose[:, :3, 3] / _CENTIMETRES @ axes
    world_to_camera = invert_rigid(rigid(rotation, place))
    return _lensless(form, world_to_camera, (*notes, repaired), cameras, wanted)


def _lensless(
    form: str,
    world_to_camera: Tensor,
    notes: tuple[str, ...],
    cameras: tuple[str, ...],
    wanted: Wanted,
) -> CameraFile:
    told = tuple(filter(None, (*notes, wanted.lens_note())))
    return CameraFile(wanted.move(world_to_camera, None), form, told, cameras, states_lens=False)
