"""Lists of poses as text: which format it is, and reading it.

=============  =======================================================  ===================
format         a line                                                   pose
=============  =======================================================  ===================
RealEstate10K  ``time fx fy cx cy 0 0`` and 3 x 4                       world to camera
Wan-Fun        ``fx fy cx cy 0 0`` and 3 x 4                            world to camera
TUM            ``time tx ty tz qx qy qz qw``                            camera to world
KITTI          3 x 4 or 4 x 4, perhaps with a number before             camera to world
Nuke chan      ``frame tx ty tz rx ry rz``, perhaps ``vfov``            camera to world
ViewCrafter    three lines: azimuth, elevation, distance                orbit
=============  =======================================================  ===================

Axes are OpenCV's, but for Nuke: y up, and the camera looks along -z.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from ...geometry.transform import invert_rigid
from ..rotations import nearest_rigid
from .axes import poses_of
from .camera_file import CameraFile, Wanted
from .chan import chan_file
from .realestate import COLUMNS, COLUMNS_WITHOUT_TIME, realestate_file
from .text_files import (
    MAX_POSES,
    MAX_TEXT,
    expect_poses,
    is_number,
    malformed,
    parse_numbers,
    read_lines,
    split_words,
)
from .unknown import unknown_file
from .viewcrafter import is_viewcrafter, viewcrafter_file

TUM: Final = "TUM"
KITTI: Final = "KITTI"

CHAN_SUFFIX: Final = ".chan"

_LONGEST_LINE = 64 * 2**10
_QUATERNION_TOLERANCE = 1e-2
_MOST = 0.5
"""Share of lines with a unit quaternion above which a file of eight columns is TUM's."""
_TUM_COLUMNS = 8
_CHAN_COLUMNS = (7, 8)
_MATRIX_COLUMNS = (12, 13, 16, 17)
_CORNER = 4


@dataclass(frozen=True)
class _Lines:
    """The numbers of a file, line by line, and its first line if that is none of them."""

    rows: list[list[float]]
    header: str

    @property
    def columns(self) -> int:
        """Numbers in every line; 0 where lines differ."""
        widths = {len(row) for row in self.rows}
        return widths.pop() if len(widths) == 1 else 0


def read_pose_text(path: Path, wanted: Wanted) -> CameraFile:
    """Cameras of a list of poses.

    Args:
        path: The text file.
        wanted: What it is read for.

    Raises:
        CacheFormatError: The file is missing, malformed, or of an unknown format.
        GeometryError: The numbers are not those of cameras.
    """
    lines = _read(path)
    if is_viewcrafter(lines.rows):
        return viewcrafter_file(lines.rows, path.name, wanted)
    expect_poses(len(lines.rows), path.name)
    return _of_columns(lines, path, wanted)


def rows_file(rows: list[list[float]], name: str, wanted: Wanted) -> CameraFile:
    """Cameras of lines of 18 or 19 numbers that came from elsewhere than a text file."""
    values = torch.tensor(rows, dtype=torch.float64)
    return realestate_file(values, "", name, wanted)


def _of_columns(lines: _Lines, path: Path, wanted: Wanted) -> CameraFile:
    columns, name = lines.columns, path.name
    if columns == 0:
        number = next(n for n, row in enumerate(lines.rows) if len(row) != len(lines.rows[0]))
        raise malformed(
            f"Line {number + 1} of the cameras of {name}", f"{len(lines.rows[number])} numbers"
        )
    values = torch.tensor(lines.rows, dtype=torch.float64)
    if columns in (COLUMNS, COLUMNS_WITHOUT_TIME):
        return realestate_file(values, lines.header, name, wanted)
    if columns in _MATRIX_COLUMNS and path.suffix.lower() != CHAN_SUFFIX:
        return _kitti(values, name, wanted)
    if columns == _TUM_COLUMNS - 1 and path.suffix.lower() != CHAN_SUFFIX and _is_unit(values):
        raise unknown_file(name, "lines of 7 numbers: TUM's without the time")
    if path.suffix.lower() == CHAN_SUFFIX or not _is_tum(values):
        if columns in _CHAN_COLUMNS and _counts(values[:, 0]):
            return chan_file(values, name, wanted)
        raise unknown_file(name, f"lines of {columns} numbers")
    return _tum(values, name, wanted)


def _read(path: Path) -> _Lines:
    rows: list[list[float]] = []
    header = ""
    for number, line in enumerate(read_lines(path, longest=_LONGEST_LINE, limit=MAX_TEXT)):
        if len(rows) > MAX_POSES:
            expect_poses(len(rows), path.name)
        words = split_words(line)
        if not words or words[0].startswith(("#", "//")):
            continue
        if not rows and not header and not is_number(words[0]):
            header = line.strip()
            continue
        if not is_number(words[0]) and len(rows) == 0:
            raise unknown_file(path.name, repr(line[:40]))
        rows.append(parse_numbers(words, f"Line {number + 1} of {path.name}"))
    if not rows:
        raise unknown_file(path.name, repr(header[:40]) if header else "an empty file")
    return _Lines(rows, header)


def _is_tum(values: Tensor) -> bool:
    return values.shape[1] == _TUM_COLUMNS and _is_unit(values)


def _is_unit(values: Tensor) -> bool:
    return float(_unit(values).double().mean()) > _MOST


def _unit(values: Tensor) -> Tensor:
    """(F,) whether the last four numbers of a line are a rotation."""
    return (values[:, -4:].norm(dim=1) - 1).abs() < _QUATERNION_TOLERANCE


def _counts(frames: Tensor) -> bool:
    """Whether a column holds numbers of frames, in any order."""
    return bool((frames == frames.round()).all()) and len(frames.unique()) == len(frames)


def _tum(values: Tensor, name: str, wanted: Wanted) -> CameraFile:
    """``time tx ty tz qx qy qz qw``, in the order of time."""
    wrong = (~_unit(values)).nonzero()
    if len(wrong):
        row = values[int(wrong[0])]
        raise malformed(f"A rotation of {name}", " ".join(f"{value:g}" for value in row[4:]))
    values = values[values[:, 0].argsort(stable=True)]
    span = float(values[-1, 0] - values[0, 0])
    timing = f"{len(values)} poses from time {values[0, 0]:.15g} on, over {span:.4g}: one a frame."
    return _lensless(TUM, poses_of(values[:, 4:], values[:, 1:4]), (timing,), wanted)


def _kitti(values: Tensor, name: str, wanted: Wanted) -> CameraFile:
    """Rows of matrices, in the order of the number before them if there is one."""
    if values.shape[1] in (13, 17):
        values = values[values[:, 0].argsort(stable=True)][:, 1:]
    matrices = torch.eye(4, dtype=torch.float64).repeat(len(values), 1, 1)
    matrices[:, : values.shape[1] // _CORNER] = values.view(len(values), -1, 4)
    poses, repaired = nearest_rigid(f"{name}: the matrix", matrices)
    return _lensless(KITTI, poses, (repaired,), wanted)


def _lensless(
    form: str, camera_to_world: Tensor, notes: tuple[str, ...], wanted: Wanted
) -> CameraFile:
    move = wanted.move(invert_rigid(camera_to_world), None)
    told = tuple(filter(None, (*notes, wanted.lens_note())))
    return CameraFile(move, form, told, states_lens=False)
