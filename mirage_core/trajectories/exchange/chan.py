"""Nuke's ``.chan``: ``frame tx ty tz rx ry rz vfov``, one line for each frame.

y is up, and the camera looks along -z. Angles are in degrees and turn about z first, then x,
then y, which is the order that Nuke's cameras have unless it is changed. ``vfov`` is vertical,
in degrees; cameras that are not exported as such have none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from ...files import atomic_write, with_suffix
from ...geometry.trajectory import Trajectory
from ...geometry.transform import rigid
from .axes import camera_frame, from_y_up, to_y_up
from .camera_file import CameraFile, Wanted
from .text_files import expect_poses, malformed

FORMAT: Final = "Nuke chan"

_ORDER = "zxy"
_WITH_LENS = 8
_WIDEST = 179.0


def chan_file(values: Tensor, name: str, wanted: Wanted) -> CameraFile:
    """The camera move of a ``.chan`` file, at every frame from its first to its last.

    Args:
        values: (F, 7 or 8) float64 lines; no two are of one frame.
        name: How error messages call the file.
        wanted: What it is read for.

    Raises:
        CacheFormatError: It has too many frames, or a field of view that no lens has.
    """
    values = values[values[:, 0].argsort()]
    span = float(values[-1, 0] - values[0, 0]) + 1
    expect_poses(int(min(span, 2**31)), name)
    frames = torch.arange(int(span), dtype=torch.float64) + values[0, 0]
    rotation, rest = _at(values, frames)
    move_to = rigid(rotation, rest[:, :3])
    intrinsics = None
    notes = []
    if len(frames) > len(values):
        notes.append(
            f"{len(frames) - len(values)} frames between those of the file are interpolated."
        )
    if values.shape[1] == _WITH_LENS:
        fov = rest[:, 3]
        if not bool(((fov > 0) & (fov <= _WIDEST)).all()):
            raise malformed(f"A field of view in {name}", f"{float(fov.min()):g} degrees")
        focal = 0.5 / torch.tan(torch.deg2rad(fov) / 2)
        aspect = wanted.width / wanted.height
        intrinsics = camera_frame(
            torch.stack([focal, focal], dim=1),
            torch.tensor([[aspect / 2, 0.5]], dtype=torch.float64).expand(len(focal), 2),
            (aspect, 1.0),
            wanted.width,
            wanted.height,
        )
    else:
        notes.append(wanted.lens_note())
    move = wanted.move(from_y_up(move_to), intrinsics)
    return CameraFile(move, FORMAT, tuple(notes), states_lens=intrinsics is not None)


def write_chan(trajectory: Trajectory, path: Path) -> Path:
    """Write a ``.chan`` file whose first frame is 1.

    The lens is the vertical field of view; a principal point off the middle has no place in it.

    Raises:
        StorageError: The disk is full or the folder is not writable.
    """
    from scipy.spatial.transform import Rotation

    path = with_suffix(path, ".chan")
    poses = to_y_up(trajectory.world_to_camera)
    z, x, y = (
        np.unwrap(angle, period=360)
        for angle in Rotation.from_matrix(poses[:, :3, :3].numpy()).as_euler(_ORDER, True).T
    )
    fov = 2 * torch.rad2deg(torch.atan(trajectory.height / 2 / trajectory.intrinsics[:, 1, 1]))
    columns = (*poses[:, :3, 3].T.tolist(), x.tolist(), y.tolist(), z.tolist(), fov.tolist())
    with atomic_write(path, "w") as file:
        for number, line in enumerate(zip(*columns, strict=True)):
            file.write(" ".join([str(number + 1), *(repr(value) for value in line)]) + "\n")
    return path


def _at(values: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Rotations (F, 3, 3), and places with the rest of a line (F, 3 or 4), at every frame."""
    from scipy.spatial.transform import Rotation, Slerp

    turns = Rotation.from_euler(_ORDER, values[:, [6, 4, 5]].numpy(), degrees=True)
    rest = values[:, [1, 2, 3, *range(7, values.shape[1])]]
    if len(frames) == len(values):
        return torch.from_numpy(turns.as_matrix()), rest
    known = values[:, 0].numpy()
    at = frames.numpy()
    between = [np.interp(at, known, column) for column in rest.T.numpy()]
    rotation = Slerp(known, turns)(at).as_matrix()
    return torch.from_numpy(rotation), torch.from_numpy(np.stack(between, axis=1))
