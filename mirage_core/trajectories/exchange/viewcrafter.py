"""ViewCrafter's text: three lines of numbers, azimuth and elevation in degrees, distance.

The camera turns about the point that the middle of the picture shows, from an elevation of 5
degrees. Each line begins with 0, has 2 to 25 numbers, and is interpolated by itself over 25
frames. Positive azimuth goes right, negative elevation up, and negative distance forward, in
units of the distance at the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from ...geometry.transform import rigid
from .axes import from_y_up
from .camera_file import CameraFile, Wanted
from .text_files import malformed

FORMAT: Final = "ViewCrafter"

_LINES = 3
_LONGEST = 25
_FRAMES = 25
_ELEVATION = 5.0
_SMOOTH_FROM = 4
_FARTHEST = 1e6


def is_viewcrafter(rows: Sequence[Sequence[float]]) -> bool:
    """Whether lines of numbers are a move of ViewCrafter: no other format has three zeros."""
    return (
        len(rows) == _LINES
        and all(
            2 <= len(row) <= _LONGEST and row[0] == 0
            for row in rows  # noqa: PLR2004
        )
        and not _is_matrix_rows(rows)
    )


def viewcrafter_file(rows: Sequence[Sequence[float]], name: str, wanted: Wanted) -> CameraFile:
    """The camera move of three lines, around a point one unit ahead.

    Args:
        rows: Azimuth, elevation and distance.
        name: How error messages call the file.
        wanted: What it is read for.

    Raises:
        CacheFormatError: The numbers lead out of the scene.
    """
    if max(abs(value) for row in rows for value in row) > _FARTHEST:
        raise malformed(f"A line of {name}", "a number of more than six digits")
    azimuth, elevation, distance = (_interpolated(row) for row in rows)
    start = _turn("x", torch.tensor([-_ELEVATION], dtype=torch.float64))[0]
    place = start[:, 2].repeat(_FRAMES, 1)
    # As there: along z of the world, by the share of the distance that is along it.
    place[:, 2] = place[:, 2] * (1 + distance)
    turn = _turn("y", azimuth) @ _turn("x", elevation)
    poses = rigid(turn @ start, (turn @ place[:, :, None])[..., 0])
    notes = (
        f"{_FRAMES} frames, as ViewCrafter makes; 1 unit is the distance to the middle of the "
        "picture.",
        wanted.lens_note(),
    )
    return CameraFile(wanted.move(from_y_up(poses), None), FORMAT, notes, states_lens=False)


def _is_matrix_rows(rows: Sequence[Sequence[float]]) -> bool:
    """Whether three lines are three matrices, alone or behind the lens of Wan-Fun's files."""
    lengths = {len(row) for row in rows}
    if len(lengths) > 1 or not lengths <= {12, 16, 19}:
        return False
    first = 7 if lengths == {19} else 0
    matrices = [row[first : first + 12] for row in rows]
    rotation = torch.tensor(matrices, dtype=torch.float64).view(-1, 3, 4)
    return bool(((rotation[..., :3].norm(dim=2) - 1).abs() < 0.1).all())  # noqa: PLR2004


def _interpolated(values: Sequence[float]) -> Tensor:
    """The values of every frame; ends are kept, and longer lists smoothed as there."""
    from scipy.interpolate import UnivariateSpline

    at = np.linspace(0, 1, len(values))
    frames = np.linspace(0, 1, _FRAMES)
    if len(values) < _SMOOTH_FROM:
        return torch.from_numpy(np.interp(frames, at, values))
    result = UnivariateSpline(at, values, k=3)(frames)
    result[0], result[-1] = values[0], values[-1]
    return torch.from_numpy(result)


def _turn(axis: str, degrees: Tensor) -> Tensor:
    from scipy.spatial.transform import Rotation

    turns = Rotation.from_euler(axis, degrees.numpy()[:, None], degrees=True)
    return torch.from_numpy(turns.as_matrix())
