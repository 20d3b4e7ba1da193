"""Depth passes of renderers: the depth channel of an OpenEXR file, whatever it is called.

The package OpenEXR decodes; which channel is depth is decided here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import PackageError
from .exr_channels import Box, Channel, Depth, choose_depth, refuse
from .limits import most_bytes

FARTHEST: Final = 1e9
"""Renderers write 1e10, or infinity, where there is no surface."""

FARTHEST_HALF: Final = 65504.0
"""The largest number of 16 bits, for the same; files of 32 bits may come from such."""


class ExrDepth(NamedTuple):
    """Depth of an EXR file.

    Attributes:
        depth: (H, W) float32, infinite where there is no surface.
        label: The channel, or the layer of equal ones, that it was read from.
        channels: How many the file has.
    """

    depth: Tensor
    label: str
    channels: int


def read_exr(path: Path, channel: str = "") -> ExrDepth:
    """Depth of an EXR file, from the channel that `choose_depth` takes.

    H and W are those of the display window: pixels beyond it are left out, and what has no
    pixels has no surface.

    Args:
        path: The file.
        channel: Channel or layer to read; empty for the one that is depth.

    Raises:
        CacheFormatError: The file is damaged, deep or too large, or none of its channels is
            depth, or several are.
        PackageError: The package OpenEXR is not installed.
    """
    package = _package()
    channels = _channels(package, path)
    chosen = choose_depth(path.name, channels, channel)
    planes = _decode(package, path, channels, chosen)
    first, *others = (plane.astype(np.float32) for plane in planes)
    if not all(np.array_equal(first, other, equal_nan=True) for other in others):
        refuse(
            path.name,
            f"a picture in colour ({chosen.label})",
            "depth: equal channels, or one called Z",
            fix="Name the one channel of it that is depth, or render the depth pass of its own",
        )
    values = torch.from_numpy(first)
    surface = (values < FARTHEST) & (values != FARTHEST_HALF)
    depth = torch.where(surface, values, torch.inf)
    placed = _in_picture(path.name, depth, chosen.channels[0])
    return ExrDepth(placed, chosen.label, len(channels))


def read_exr_depth(path: Path, channel: str = "") -> Tensor:
    """Depth (H, W) float32 alone of what `read_exr` reads."""
    return read_exr(path, channel).depth


def _package() -> Any:
    try:
        import OpenEXR
    except ImportError as error:
        raise PackageError(
            "EXR files need the package OpenEXR",
            got=str(error),
            fix='Install it with: pip install "OpenEXR>=3.5"',
        ) from error
    return OpenEXR


def _channels(package: Any, path: Path) -> list[Channel]:
    """The channels that the header lists, before the package makes room for them."""
    try:
        size = path.stat().st_size
        with package.File(str(path), header_only=True) as file:
            # Copies: closing the file empties its own.
            headers = [dict(file.header(part)) for part in range(len(file.parts))]
        deep = any(
            header.get("type") in (package.deepscanline, package.deeptile) for header in headers
        )
        channels = [
            channel
            for part, header in enumerate(headers)
            for channel in _listed(part, header, named=len(headers) > 1)
        ]
    except Exception as error:  # the package has no error of its own: it raises whatever it meets
        refuse(path.name, _reason(error), "a whole OpenEXR file", error)
    if deep:
        refuse(path.name, "deep pixels", "flat pixels")
    tile = max((_tile(header) for header in headers), default=0)
    needed = 4 * sum(max(tile, channel.values) for channel in channels)
    most = most_bytes(size)
    if needed > most:
        refuse(
            path.name,
            f"{needed >> 20} MiB of pixels in {len(channels)} channels",
            f"at most {most >> 20} MiB in a file of {size} bytes",
        )
    return channels


def _tile(header: dict[str, Any]) -> int:
    """Values of one tile, which may be larger than the picture."""
    tiles = header.get("tiles")
    return 0 if tiles is None else int(tiles.xSize) * int(tiles.ySize)


def _listed(part: int, header: dict[str, Any], named: bool) -> list[Channel]:
    """The channels of one part; ``named`` if their labels begin with its name."""
    data, picture = _box(header["dataWindow"]), _box(header["displayWindow"])
    prefix = f"{header.get('name', part)}." if named else ""
    return [
        Channel(part, channel.name, prefix + channel.name, data, picture)
        for channel in header["channels"]
    ]


def _box(window: tuple[np.ndarray, np.ndarray]) -> Box:
    (left, top), (right, bottom) = (corner.tolist() for corner in window)
    return Box(top, left, bottom + 1, right + 1)


def _decode(package: Any, path: Path, channels: list[Channel], chosen: Depth) -> list[np.ndarray]:
    """Arrays (H, W) of the chosen channels, in the types of the file."""
    try:
        with package.File(str(path), separate_channels=True) as file:
            # A part that cannot be decoded is left out, and those behind it move up.
            if len(file.parts) != len({channel.part for channel in channels}):
                raise ValueError("pixels that are damaged, or were cut off")
            found = [file.channels(channel.part)[channel.name] for channel in chosen.channels]
            if any(channel.xSampling * channel.ySampling != 1 for channel in found):
                raise ValueError(f"{chosen.label} with fewer values than pixels")
            return [channel.pixels for channel in found]
    except Exception as error:  # as above
        refuse(path.name, _reason(error), "a whole OpenEXR file", error)


def _in_picture(name: str, depth: Tensor, channel: Channel) -> Tensor:
    """Depth of the data window, (H, W) of the display window."""
    data, picture = channel.data, channel.picture
    top, left = max(data.top, picture.top), max(data.left, picture.left)
    bottom, right = min(data.bottom, picture.bottom), min(data.right, picture.right)
    if top >= bottom or left >= right:
        refuse(name, "a data window beside the display window", "pixels within the picture")
    placed = torch.full(picture.shape, torch.inf)
    placed[top - picture.top : bottom - picture.top, left - picture.left : right - picture.left] = (
        depth[top - data.top : bottom - data.top, left - data.left : right - data.left]
    )
    return placed


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
