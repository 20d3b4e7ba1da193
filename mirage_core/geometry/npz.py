"""Arrays of ``.npz`` files: which are read, under the names that estimators give them."""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from ..errors import CacheFormatError
from .limits import most_bytes

DEPTH: Final = (
    "depths", "depth", "depth_map", "depth_maps", "depthmap", "depthmaps", "pred_depth",
    "depth_pred", "metric_depth", "depth_z",
)  # fmt: skip
"""z-depth. Of several the first one that is there."""

INTRINSICS: Final = (
    "intrinsics", "intrinsic", "camera_intrinsics", "cam_intrinsics", "camera_matrix", "K", "Ks",
)  # fmt: skip
FOCAL: Final = ("focallength_px", "focal_length_px", "focal_px", "f_px")
"""A focal length alone, in pixels: the principal point is then in the middle."""

TO_CAMERA: Final = (
    "world_to_camera", "extrinsics", "extrinsic", "w2c", "world2cam", "cam_from_world", "viewmats",
)  # fmt: skip
TO_WORLD: Final = (
    "poses_c2w", "cam_c2w", "c2w", "camera_to_world", "cam2world", "world_from_cam",
    "camera_poses",
)  # fmt: skip
VALID: Final = ("masks", "mask", "valid", "valid_mask", "valid_masks", "non_ambiguous_mask")
"""True where depth is valid."""

CONFIDENCE: Final = ("conf", "confidence", "depth_conf")
SKY: Final = ("sky", "sky_mask")
"""Above one half where there is no surface."""

_EXACT: Final = (*INTRINSICS, *FOCAL, *TO_CAMERA, *TO_WORLD)

_UNNAMED: Final = "arr_0"
"""What numpy calls the only array that was saved without a name."""

_HEADER: Final = 16384
"""Bytes that hold the header of any plain array."""

_DAMAGED: Final = (
    zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, SyntaxError, ValueError,
    TypeError, ArithmeticError, LookupError, RuntimeError, OSError, EOFError, MemoryError,
)  # fmt: skip
"""What numpy and zipfile raise for a damaged file."""


def read_npz(path: Path, depth: str = "") -> tuple[dict[str, Tensor], list[str]]:
    """The arrays of a file that mean something here.

    Args:
        path: The file.
        depth: Name of the array that is depth; empty for the first of `DEPTH`.

    Returns:
        Arrays by name, float64 of cameras and float32 of maps, and the names of those that were
        not read.

    Raises:
        CacheFormatError: The file is damaged, or asks for more memory than it can hold numbers;
            objects are never unpickled.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {
                member.filename.removesuffix(".npy"): member
                for member in archive.infolist()
                if member.filename.endswith(".npy")
            }
            wanted = _wanted(members, (depth,) if depth else DEPTH)
            _expect_room(archive, [members[name] for name in wanted], path.stat().st_size)
            arrays = {name: _read(archive, members[name], name) for name in wanted}
    except _DAMAGED as error:
        raise CacheFormatError(
            f"{path.name} cannot be read as arrays",
            got=str(error)[:200] or type(error).__name__,
            expected="an .npz file of plain numbers",
            fix="Save it again with numpy.savez",
        ) from error
    unread = sorted(set(members) - set(wanted))
    if _UNNAMED in arrays:
        arrays = {DEPTH[0]: arrays[_UNNAMED]}
    return arrays, unread


def _wanted(members: Mapping[str, object], depth: tuple[str, ...]) -> list[str]:
    """One name for each thing; the first one of those that mean the same."""
    kinds: Iterable[tuple[str, ...]] = (
        depth, INTRINSICS, FOCAL, (*TO_CAMERA, *TO_WORLD), VALID, CONFIDENCE, SKY,
    )  # fmt: skip
    found = [next((name for name in kind if name in members), None) for kind in kinds]
    if list(members) == [_UNNAMED] and depth is DEPTH:
        return [_UNNAMED]
    return [name for name in found if name is not None]


def _expect_room(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], size: int) -> None:
    """Raise `ValueError` before anything is read that is too large, or no plain array."""
    needed = 0
    for member in members:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{member.filename} is compressed in a way that numpy does not use")
        with archive.open(member) as file:
            head = io.BytesIO(file.read(_HEADER))
        shape, dtype = _header(head)
        if dtype.kind not in "bfiu" or any(type(side) is not int or side < 0 for side in shape):
            raise ValueError(f"{member.filename} holds {shape} values of type {dtype}")
        count = math.prod(shape)
        if member.file_size != head.tell() + count * dtype.itemsize:
            raise ValueError(f"{member.filename} is not as long as its header says")
        needed += count * (dtype.itemsize + 4)
    most = most_bytes(size)
    if needed > most:
        raise ValueError(f"{needed >> 20} MiB of numbers in a file of {size} bytes")


def _header(file: io.BytesIO) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"arrays of version {version}")
    shape, _, dtype = read(file)
    return shape, dtype


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> Tensor:
    with archive.open(member) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    exact = np.float64 if name in _EXACT else np.float32
    return torch.from_numpy(np.ascontiguousarray(array, dtype=exact))
