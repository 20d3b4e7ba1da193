"""Geometry files: depth with cameras, as arrays.

====================  =====================================================================
file                  holds
====================  =====================================================================
``.safetensors``      everything, as `save_geometry` writes it
``.npz``              arrays under the names that estimators give them (`npz`), which
                      `geometry_arrays` brings together; objects are never unpickled
``.exr``              one depth map, from the channel that `exr_channels` takes
``.tif``              one depth map: floating-point numbers in scene units, or 16 bits in
                      millimetres
====================  =====================================================================

Several files that differ by a number are the frames of one shot: `sequence`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save as to_bytes

from ..errors import CacheFormatError, ModelMismatchError
from ..files import atomic_write, with_suffix
from ..tensor_files import read_header, read_tensors
from .depth_picture import DepthReading, geometry_from_picture
from .exr import read_exr
from .frame_geometry import FrameGeometry, joined
from .geometry_arrays import geometry_from_arrays, no_lens
from .npz import read_npz
from .sequence import is_pattern, numbered_files

FORMAT: Final = "mirage-geometry"
VERSION: Final = 1

SUFFIXES: Final = (".safetensors", ".npz", ".exr", ".tif", ".tiff")
"""Files that `load_geometry` reads."""

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


def load_geometry(path: Path, fov: float | None = None, channel: str = "") -> FrameGeometry:
    """Read a geometry file, or numbered files as the frames of one shot.

    Args:
        path: One of `SUFFIXES`; with ``#`` for digits all files that differ in these alone.
        fov: Horizontal field of view in degrees, for files without intrinsics.
        channel: Channel or layer of an .exr file, or array of an .npz file, that is depth; empty
            for the one that says so by its name.

    Raises:
        CacheFormatError: The file is damaged, of another kind, or from a newer version; or a
            numbered file is missing.
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
    # Of a name that no file can have this is False.
    there = os.path.isfile(path)
    if is_pattern(path) and not there:
        return joined([_load_one(file, fov, channel) for file in numbered_files(path)], path.name)
    if not there:
        raise CacheFormatError("The geometry file does not exist", got=path, fix="Check its name")
    return _load_one(path, fov, channel)


def _load_one(path: Path, fov: float | None, channel: str) -> FrameGeometry:
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return geometry_from_arrays(*read_npz(path, channel), fov)
    if suffix == ".exr":
        depth, label, channels = read_exr(path, channel)
        geometry = geometry_from_arrays({"depth": depth[None]}, (), fov)
        notes = (f"taken: {label}", *([f"channels: {channels}"] if channels > 1 else []))
        return dataclasses.replace(geometry, notes=notes)
    if suffix in (".tif", ".tiff"):
        return _from_picture(path, fov)
    return _read_own(path)


def _from_picture(path: Path, fov: float | None) -> FrameGeometry:
    # Pillow is ComfyUI's; the library does without it where no picture is read.
    from .picture_files import page_count, read_levels

    levels, floats = read_levels(path)
    if fov is None:
        raise no_lens()
    geometry = geometry_from_picture(
        torch.from_numpy(levels)[None], DepthReading(), fov, floats=floats
    )
    if not floats and not geometry.metric:
        raise CacheFormatError(
            f"{path.name} does not say what its levels mean",
            got="a depth picture that is stretched to its range",
            expected="floating-point numbers in scene units, or 16 bits in millimetres",
            fix="Use Load Image and Mirage Geometry, or --depth, which take a range",
        )
    if (pages := page_count(path)) > 1:
        notes = (*geometry.notes, f"the first of {pages} pages")
        return dataclasses.replace(geometry, notes=notes)
    return geometry


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
    tensors: dict[str, Any] = dict(read_tensors(path))
    unknown = sorted(set(tensors) - set(_FIELDS))
    missing = sorted({"depth", "intrinsics"} - set(tensors))
    if unknown or missing:
        raise CacheFormatError(
            "The geometry file does not hold the right arrays",
            got=f"missing {missing}, unknown {unknown}",
            fix="Save it anew",
        )
    return FrameGeometry(**tensors, metric=header.metadata.get("metric") == "true")
