"""Geometry files: depth with cameras, as arrays.

====================  =====================================================================
file                  holds
====================  =====================================================================
``.safetensors``      everything, as `save_geometry` writes it
``.npz``              arrays of other tools: ``depths`` or ``depth`` (F, H, W), and if they are
                      there ``intrinsics`` (F, 3, 3) in pixels, ``poses_c2w`` (camera to world)
                      or ``world_to_camera`` (F, 4, 4) with OpenCV axes, ``masks`` (F, H, W),
                      True where depth is valid; objects are never unpickled
``.exr``              one depth map: the only channel, the one called ``Z`` or depth in any
                      layer or part, or colours that are all the same
====================  =====================================================================
"""

from __future__ import annotations

import json
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from ..errors import CacheFormatError, GeometryError, ModelMismatchError
from ..files import atomic_write, with_suffix
from ..tensor_files import read_header, read_tensors
from ..validate import expect_shape
from .exr import read_exr_depth
from .frame_geometry import FrameGeometry
from .trajectory import intrinsics_from_fov
from .transform import invert_rigid

FORMAT: Final = "mirage-geometry"
VERSION: Final = 1

SUFFIXES: Final = (".safetensors", ".npz", ".exr")
"""Files that `load_geometry` reads."""

MAX_VALUES: Final = 1 << 31
"""Most values of one array: a header that promises more is not believed."""

_FIELDS: Final = ("depth", "intrinsics", "world_to_camera", "exclude", "confidence")


def save_geometry(geometry: FrameGeometry, path: Path) -> Path:
    """Write a geometry as safetensors; a crash leaves the old file or none.

    Args:
        geometry: What to save.
        path: Target; gets the suffix ``.safetensors``.

    Returns:
        The path that was written.

    Raises:
        StorageError: The disk is full or the folder is not writable.
    """
    target = with_suffix(path, ".safetensors")
    tensors = {
        name: value.cpu().contiguous()
        for name in _FIELDS
        if (value := getattr(geometry, name)) is not None
    }
    header = {"format": FORMAT, "version": str(VERSION), "metric": json.dumps(geometry.metric)}
    with atomic_write(target, "wb") as file:
        file.write(to_bytes(tensors, metadata=header))
    return target


def load_geometry(path: Path, fov: float | None = None) -> FrameGeometry:
    """Read a geometry file.

    Args:
        path: One of `SUFFIXES`.
        fov: Horizontal field of view in degrees, for files without intrinsics.

    Raises:
        CacheFormatError: The file is damaged, of another kind, or from a newer version.
        GeometryError: It has no intrinsics and ``fov`` is None, or its depth is unusable.
        PackageError: It is an .exr file, and the package OpenEXR is not installed.
        ShapeError: Its arrays do not fit together.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise CacheFormatError(
            "This is not a geometry file",
            got=path.name,
            expected=" or ".join(SUFFIXES),
            fix="Export depth as one of these",
        )
    if not path.is_file():
        raise CacheFormatError("The geometry file does not exist", got=path, fix="Check its name")
    if suffix == ".npz":
        return _from_arrays(_read_npz(path), fov)
    if suffix == ".exr":
        return _from_arrays({"depth": read_exr_depth(path)[None]}, fov)
    return _read_own(path)


def _read_own(path: Path) -> FrameGeometry:
    try:
        header = read_header(path)
    except ModelMismatchError as error:
        raise CacheFormatError(
            f"{path.name} cannot be read as geometry",
            got=error.got,
            fix="The file is damaged or cut short: save or copy it again",
        ) from error
    if header.metadata.get("format") != FORMAT:
        raise CacheFormatError(
            "This safetensors file does not hold geometry",
            got=header.metadata.get("format", "no format entry"),
            expected=FORMAT,
            fix="Choose a file that Mirage Geometry Save wrote",
        )
    if header.metadata.get("version") != str(VERSION):
        raise CacheFormatError(
            "The geometry file is from another version of Mirage",
            got=f"version {header.metadata.get('version')}",
            expected=f"version {VERSION}",
            fix="Update Mirage",
        )
    tensors = read_tensors(path)
    unknown = sorted(set(tensors) - set(_FIELDS))
    missing = sorted({"depth", "intrinsics"} - set(tensors))
    if unknown or missing:
        raise CacheFormatError(
            "The geometry file does not hold the right arrays",
            got=f"missing {missing}, unknown {unknown}",
            fix="Save it anew",
        )
    return FrameGeometry(**tensors, metric=header.metadata.get("metric") == "true")


def _from_arrays(arrays: dict[str, Tensor], fov: float | None) -> FrameGeometry:
    depth = arrays.get("depths", arrays.get("depth"))
    if depth is None:
        raise CacheFormatError(
            "The geometry file holds no depth",
            got=f"arrays {sorted(arrays)}",
            expected="an array named depths or depth, (frames, height, width)",
        )
    depth = depth[None] if depth.ndim == 2 else depth  # noqa: PLR2004
    sizes = expect_shape("The file's depth", depth, "F H W")
    intrinsics = arrays.get("intrinsics")
    if intrinsics is None:
        if fov is None:
            raise GeometryError(
                "The geometry file does not say how wide the camera sees",
                expected="intrinsics in the file, or a field of view",
                fix="Give the horizontal field of view in degrees",
            )
        intrinsics = intrinsics_from_fov(sizes["W"], sizes["H"], fov)
    if intrinsics.ndim == 2:  # noqa: PLR2004
        intrinsics = intrinsics.expand(sizes["F"], 3, 3)
    poses = arrays.get("world_to_camera")
    if poses is None and "poses_c2w" in arrays:
        poses = invert_rigid(arrays["poses_c2w"].double())
    masks = arrays.get("masks")
    return FrameGeometry(
        depth,
        intrinsics,
        world_to_camera=poses,
        exclude=None if masks is None else masks < 0.5,  # noqa: PLR2004
    )


_DAMAGED: Final = (
    zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, SyntaxError, ValueError,
    LookupError, RuntimeError, OSError, EOFError, MemoryError,
)  # fmt: skip
"""What numpy and zipfile raise for a damaged file."""


def _read_npz(path: Path) -> dict[str, Tensor]:
    wanted = ("depths", "depth", "intrinsics", "poses_c2w", "world_to_camera", "masks")
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in wanted:
                if f"{name}.npy" in archive.namelist():
                    with archive.open(f"{name}.npy") as member:
                        array = np.lib.format.read_array(member, allow_pickle=False)
                    arrays[name] = _numbers(array, name)
    except _DAMAGED as error:
        raise CacheFormatError(
            f"{path.name} cannot be read as arrays",
            got=str(error)[:200] or type(error).__name__,
            expected="an .npz file of plain numbers",
            fix="Save it again with numpy.savez",
        ) from error
    return arrays


def _numbers(array: np.ndarray, name: str) -> Tensor:
    if array.size > MAX_VALUES or array.dtype.kind not in "bfiu":
        raise ValueError(f"{name} holds {array.size} values of type {array.dtype}")
    exact = np.float64 if name in ("intrinsics", "poses_c2w", "world_to_camera") else np.float32
    return torch.from_numpy(array.astype(exact))
