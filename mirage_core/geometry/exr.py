"""Depth passes of renderers: the depth channel of an OpenEXR file, whatever it is called.

The package OpenEXR decodes; which channel is depth is decided here.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor

from ..errors import CacheFormatError, PackageError

COLOURS: Final = {"R", "G", "B", "A"}

FARTHEST: Final = 1e9
"""Renderers write 1e10, or infinity, where there is no surface."""

FARTHEST_HALF: Final = 65504.0
"""The largest number of 16 bits, for the same."""

MAX_BYTES: Final = 4 << 30
"""Most bytes of all channels. All are decoded, and a damaged header may promise any size."""

SMALL: Final = 128 << 20
MAX_RATIO: Final = 2048
"""Pixels that take more than `SMALL` bytes take at most so many for each byte of the file; depth
in one constant stays below that in all compressions but HTJ2K."""


class Box(NamedTuple):
    """A part of the plane that pictures lie in; ``bottom`` and ``right`` are behind the last."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left


class Channel(NamedTuple):
    """A channel of an EXR file.

    Attributes:
        part: Number of the picture in the file that it belongs to.
        name: With its layers, such as ``ViewLayer.Depth.Z``.
        label: The name, behind that of its part where there are several parts.
        data: Where pixels are.
        picture: Where the camera looks: the display window.
        room: Values that decoding makes room for.
    """

    part: int
    name: str
    label: str
    data: Box
    picture: Box
    room: int


def read_exr_depth(path: Path) -> Tensor:
    """Depth (H, W) float32 of an EXR file: infinite where there is no surface.

    Taken is the only channel; or the one that is called ``Z`` or depth, in any layer or part; or
    colours, when all three are the same. H and W are those of the display window: pixels beyond
    it are left out, and what has no pixels has no surface.

    Raises:
        CacheFormatError: The file is damaged, deep or too large, or none of its channels is depth.
        PackageError: The package OpenEXR is not installed.
    """
    package = _package()
    channels = _channels(package, path)
    chosen = _depth_channels(path.name, channels)
    planes = _decode(package, path, channels, chosen)
    half = {plane.dtype for plane in planes} == {np.dtype(np.float16)}
    values, *others = (torch.from_numpy(plane.astype(np.float32)) for plane in planes)
    if any(not torch.equal(values, other) for other in others):
        _refuse(path.name, "a picture in colour", "depth: three equal channels, or one called Z")
    depth = torch.where(values < (FARTHEST_HALF if half else FARTHEST), values, torch.inf)
    return _in_picture(path.name, depth, chosen[0])


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
        _refuse(path.name, _reason(error), "a whole OpenEXR file", error)
    if deep:
        _refuse(path.name, "deep pixels", "flat pixels")
    needed = 4 * sum(channel.room for channel in channels)
    most = min(MAX_BYTES, max(SMALL, size * MAX_RATIO))
    if needed > most:
        _refuse(
            path.name,
            f"{needed >> 20} MiB of pixels in {len(channels)} channels",
            f"at most {most >> 20} MiB in a file of {size} bytes",
        )
    return channels


def _listed(part: int, header: dict[str, Any], named: bool) -> list[Channel]:
    """The channels of one part; ``named`` if their labels begin with its name."""
    data, picture = _box(header["dataWindow"]), _box(header["displayWindow"])
    tiles = header.get("tiles")
    tile = 0 if tiles is None else tiles.xSize * tiles.ySize
    room = max(tile, math.prod(data.shape), math.prod(picture.shape))
    prefix = f"{header.get('name', part)}." if named else ""
    return [
        Channel(part, channel.name, prefix + channel.name, data, picture, room)
        for channel in header["channels"]
    ]


def _box(window: tuple[np.ndarray, np.ndarray]) -> Box:
    (left, top), (right, bottom) = (corner.tolist() for corner in window)
    return Box(top, left, bottom + 1, right + 1)


def _depth_channels(name: str, channels: list[Channel]) -> list[Channel]:
    """The channel to read; three for colours."""
    if len(channels) == 1:
        return channels
    named = [c for c in channels if c.name.split(".")[-1].upper() == "Z"]
    named = named or [c for c in channels if "depth" in c.label.lower()]
    if len(named) == 1:
        return named
    labels = {channel.label for channel in channels}
    if not named and labels <= COLOURS and len(labels - {"A"}) == len(COLOURS) - 1:
        return [channel for channel in channels if channel.name != "A"]
    _refuse(
        name,
        f"channels {', '.join(sorted(labels))[:200]}" if labels else "no channels",
        "one channel, or one that is called Z or depth",
    )


def _decode(
    package: Any, path: Path, channels: list[Channel], chosen: list[Channel]
) -> list[np.ndarray]:
    """Arrays (H, W) of the chosen channels, in the types of the file."""
    try:
        with package.File(str(path), separate_channels=True) as file:
            # A part that cannot be decoded is left out, and those behind it move up.
            if len(file.parts) != len({channel.part for channel in channels}):
                raise ValueError("pixels that are damaged, or were cut off")
            found = [file.channels(channel.part)[channel.name] for channel in chosen]
            if any(channel.xSampling * channel.ySampling != 1 for channel in found):
                raise ValueError(f"{chosen[0].label} with fewer values than pixels")
            return [channel.pixels for channel in found]
    except Exception as error:  # as above
        _refuse(path.name, _reason(error), "a whole OpenEXR file", error)


def _in_picture(name: str, depth: Tensor, channel: Channel) -> Tensor:
    """Depth of the data window, (H, W) of the display window."""
    data, picture = channel.data, channel.picture
    top, left = max(data.top, picture.top), max(data.left, picture.left)
    bottom, right = min(data.bottom, picture.bottom), min(data.right, picture.right)
    if top >= bottom or left >= right:
        _refuse(name, "a data window beside the display window", "pixels within the picture")
    placed = torch.full(picture.shape, torch.inf)
    placed[top - picture.top : bottom - picture.top, left - picture.left : right - picture.left] = (
        depth[top - data.top : bottom - data.top, left - data.left : right - data.left]
    )
    return placed


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _refuse(name: str, got: str, expected: str, cause: Exception | None = None) -> NoReturn:
    raise CacheFormatError(
        f"{name} cannot be read as OpenEXR depth",
        got=got,
        expected=expected,
        fix="Render the depth pass as a flat EXR file of its own, or save it as .npz",
    ) from cause
