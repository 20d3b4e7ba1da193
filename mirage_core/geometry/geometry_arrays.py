"""Arrays of depth estimators, brought to depth with cameras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from ..errors import CacheFormatError, GeometryError, ShapeError
from ..validate import expect_shape
from . import npz
from .frame_geometry import FrameGeometry
from .trajectory import intrinsics_from_fov
from .transform import invert_rigid, nearest_rotations

NEARLY_RIGID: Final = 1e-2
"""Deviation of R^T R from the identity up to which a matrix is a rotation of low precision."""

IN_METRES: Final = ("metric_depth", "focallength_px")
"""Names that only estimators of metres give."""

_PLANES, _MATRICES = 3, 3
"""Axes of maps (F, H, W) and of matrices (F, rows, columns)."""

_VECTOR: Final = 4
"""Numbers of a lens without a matrix: fx, fy, cx, cy."""


def geometry_from_arrays(
    arrays: Mapping[str, Tensor], unread: Sequence[str], fov: float | None
) -> FrameGeometry:
    """Depth with the cameras that its file has.

    Maps may be (H, W), (F, H, W), or these with axes of one before or behind; cameras one for all
    frames or one for each, poses (3, 4) or (4, 4). Intrinsics are in pixels of the depth map, or
    shares of its size as MoGe gives them.

    Args:
        arrays: Arrays by the names of `npz`, cameras in float64.
        unread: Names of arrays that were left unread; the notes list them.
        fov: Horizontal field of view in degrees, where there are no intrinsics.

    Raises:
        CacheFormatError: None of the arrays is depth.
        GeometryError: There is no lens, or depth or cameras are unusable.
        ShapeError: Arrays do not fit together.
    """
    used = _used(arrays)
    name = used.get("depth")
    if name is None:
        raise CacheFormatError(
            "The geometry file holds no depth",
            got=f"arrays {', '.join(sorted([*arrays, *unread]))[:300] or 'none'}",
            expected=f"an array named {', '.join(npz.DEPTH)}: (frames, height, width)",
            fix="Save z-depth under one of these names, or name its array",
        )
    depth = _maps(name, arrays[name])
    frames, height, width = depth.shape
    if 0 in depth.shape:
        raise ShapeError(
            "The geometry file holds no pixels",
            got=f"{name} of {tuple(arrays[name].shape)}",
            expected="at least one frame",
        )
    intrinsics = _lens(arrays, used, (frames, height, width), fov)
    poses = _poses(arrays, used, frames)
    confidence = _fitting(arrays, used.get("confidence"), depth)
    taken = sorted(set(used.values()))
    left = sorted({*unread, *arrays} - set(taken))
    notes = (f"taken: {', '.join(taken)}",)
    return FrameGeometry(
        depth,
        intrinsics,
        world_to_camera=poses,
        exclude=_excluded(arrays, used, depth),
        confidence=confidence,
        metric=any(found in IN_METRES for found in taken),
        notes=(*notes, f"not used: {', '.join(left)[:300]}") if left else notes,
    )


def _used(arrays: Mapping[str, Tensor]) -> dict[str, str]:
    """The name of the array for each thing that is there; a lens needs no focal length beside."""
    kinds = {
        "lens": npz.INTRINSICS, "focal": npz.FOCAL, "to camera": npz.TO_CAMERA,
        "to world": npz.TO_WORLD, "valid": npz.VALID, "confidence": npz.CONFIDENCE, "sky": npz.SKY,
    }  # fmt: skip
    used = {
        kind: found
        for kind, names in kinds.items()
        if (found := next((name for name in names if name in arrays), None)) is not None
    }
    if "lens" in used:
        used.pop("focal", None)
    if "to camera" in used:
        used.pop("to world", None)
    others = {name for names in kinds.values() for name in names}
    depth = [*(name for name in npz.DEPTH if name in arrays), *(arrays.keys() - others)]
    return {**used, "depth": depth[0]} if depth else used


def _maps(name: str, array: Tensor) -> Tensor:
    """(F, H, W) of maps with axes of one anywhere."""
    maps = array
    while maps.ndim > _PLANES and 1 in (maps.shape[-1], maps.shape[-3], maps.shape[0]):
        axis = -1 if maps.shape[-1] == 1 else -3 if maps.shape[-3] == 1 else 0
        maps = maps.squeeze(axis)
    if maps.ndim == _PLANES and maps.shape[-1] == 1:
        maps = maps.squeeze(-1)
    maps = maps[None] if maps.ndim == _PLANES - 1 else maps
    if maps.ndim != _PLANES:
        raise ShapeError(
            f"The file's array {name} is not of maps",
            got=tuple(array.shape),
            expected="(height, width) or (frames, height, width)",
            fix="Save one number for each pixel",
        )
    return maps


def _fitting(arrays: Mapping[str, Tensor], name: str | None, depth: Tensor) -> Tensor | None:
    """Maps of the depth's size, one for all frames or one for each."""
    if name is None:
        return None
    maps = _maps(name, arrays[name])
    maps = maps.expand(len(depth), -1, -1) if len(maps) == 1 else maps
    sizes = dict(zip("FHW", depth.shape, strict=True))
    expect_shape(f"The file's array {name}", maps, "F H W", **sizes)
    return maps


def _excluded(
    arrays: Mapping[str, Tensor], used: Mapping[str, str], depth: Tensor
) -> Tensor | None:
    """(F, H, W) bool, True where the file says that there is no depth, or sky."""
    valid = _fitting(arrays, used.get("valid"), depth)
    sky = _fitting(arrays, used.get("sky"), depth)
    half = 0.5
    if sky is None:
        return None if valid is None else valid < half
    return sky > half if valid is None else (valid < half) | (sky > half)


def _matrices(name: str, array: Tensor, frames: int) -> Tensor:
    """(F, rows, columns) of one matrix for all frames, or of one for each."""
    matrices = array
    while matrices.ndim > _MATRICES and 1 in matrices.shape[:2]:
        matrices = matrices.squeeze(0 if matrices.shape[0] == 1 else 1)
    matrices = matrices[None] if matrices.ndim == _MATRICES - 1 else matrices
    if matrices.ndim != _MATRICES:
        raise ShapeError(
            f"The file's array {name} is not of matrices",
            got=tuple(array.shape),
            expected="one matrix, or one for each frame",
        )
    return matrices.expand(frames, -1, -1) if len(matrices) == 1 else matrices


def _lens(
    arrays: Mapping[str, Tensor],
    used: Mapping[str, str],
    sizes: tuple[int, int, int],
    fov: float | None,
) -> Tensor:
    """(F, 3, 3) intrinsics in pixels of the depth map."""
    frames, height, width = sizes
    if "lens" in used:
        found = _lens_matrices(used["lens"], arrays[used["lens"]], frames)
        middle = found[:, :2, 2]
        # A principal point within the first pixel: shares of the picture's sides.
        if min(height, width) > 1 and bool(((middle > 0) & (middle < 1)).all()):
            found = torch.diag(torch.tensor([width, height, 1.0], dtype=torch.float64)) @ found
        return found
    if "focal" in used:
        focal = arrays[used["focal"]].flatten()
        if len(focal) not in (1, frames):
            raise ShapeError(
                f"The file's array {used['focal']} has the wrong shape",
                got=tuple(focal.shape),
                expected=f"one focal length, or {frames}",
            )
        lens = torch.eye(3, dtype=torch.float64).repeat(frames, 1, 1)
        lens[:, 0, 0] = lens[:, 1, 1] = focal
        lens[:, :2, 2] = torch.tensor([width / 2, height / 2], dtype=torch.float64)
        return lens
    if fov is None:
        raise no_lens()
    return intrinsics_from_fov(width, height, fov).expand(frames, 3, 3)


def no_lens() -> GeometryError:
    """The error for depth whose lens neither the file nor the caller knows."""
    return GeometryError(
        "The geometry file does not say how wide the camera sees",
        expected="intrinsics in the file, or a field of view",
        fix="Give the horizontal field of view in degrees",
    )


def _lens_matrices(name: str, array: Tensor, frames: int) -> Tensor:
    square = array.shape[-2:] == (_VECTOR, _VECTOR) and bool(
        (array[..., 3, :] == array.new_tensor([0.0, 0.0, 0.0, 1.0])).all()
    )
    # Three frames of four numbers have this shape, too, but no focal lengths of 0.
    projection = array.shape[-2:] == (_MATRICES, _VECTOR) and bool(
        (array[..., 2, :3] == array.new_tensor([0.0, 0.0, 1.0])).all()
    )
    if projection:
        return _matrices(name, array[..., :3], frames)
    if array.shape[-1:] == (_VECTOR,) and not square:
        rows = array.reshape(-1, _VECTOR)
        lens = torch.eye(3, dtype=torch.float64).repeat(len(rows), 1, 1)
        lens[:, 0, 0], lens[:, 1, 1] = rows[:, 0], rows[:, 1]
        lens[:, :2, 2] = rows[:, 2:]
        return _matrices(name, lens, frames)
    matrices = _matrices(name, array, frames)
    return matrices[:, :3, :3] if square else matrices


def _poses(arrays: Mapping[str, Tensor], used: Mapping[str, str], frames: int) -> Tensor | None:
    """(F, 4, 4) world to camera; rotations of low precision are made whole."""
    name = used.get("to camera", used.get("to world"))
    if name is None:
        return None
    found = _matrices(name, arrays[name].double(), frames)
    if found.shape[1:] not in ((3, 4), (4, 4)):
        raise ShapeError(
            f"The file's array {name} has the wrong shape",
            got=tuple(arrays[name].shape),
            expected=f"(3, 4) or (4, 4), for all frames or for each of {frames}",
        )
    poses = torch.eye(4, dtype=torch.float64).repeat(len(found), 1, 1)
    poses[:, : found.shape[1]] = found
    rotation = poses[:, :3, :3]
    off = (rotation.mT @ rotation - torch.eye(3, dtype=torch.float64)).abs().amax()
    if bool(off < NEARLY_RIGID):
        poses[:, :3, :3] = nearest_rotations(rotation)
    return poses if "to camera" in used else invert_rigid(poses)
