"""Depth passes of renderers: the depth channel of an OpenEXR file, whatever it is called.

The decoder that comes with av knows colours and one grey channel, by name. So the wanted
channel is given that name in memory, and all others one that the decoder passes over.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final, NoReturn

import av
import numpy as np
import torch
from torch import Tensor

from ..errors import CacheFormatError

MAGIC: Final = 20000630
NOT_FLAT: Final = {0x800: "deep pixels", 0x1000: "several parts"}
"""Flags of the header for what is not one plain picture."""

TILED: Final = 0x200
"""Flag of the header for tiles in place of lines."""

UINT, HALF = 0, 1
"""Types of a channel that are treated apart."""

COLOURS: Final = {"R", "G", "B", "A"}

FARTHEST: Final = 1e9
"""Renderers write 1e10, or infinity, where there is no surface."""

FARTHEST_HALF: Final = 65504.0
"""The largest number of 16 bits, for the same."""


@dataclass(frozen=True)
class Channel:
    """A channel of an EXR file.

    Attributes:
        name: With its layers, such as ``ViewLayer.Depth.Z``.
        place: Where the name begins in the file.
        kind: 0 for integers, 1 for 16 bits, 2 for 32 bits.
    """

    name: str
    place: int
    kind: int


def read_exr_depth(path: Path) -> Tensor:
    """Depth (H, W) float32 of an EXR file: infinite where there is no surface.

    Taken is the only channel; or the one that is called ``Z`` or depth, in any layer; or
    colours, when all three are the same.

    Raises:
        CacheFormatError: The file is damaged, or none of its channels is depth.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        _refuse(path.name, str(error), "a file that may be read", error)
    channels = _header(path.name, content)
    chosen = _depth_channel(path.name, channels)
    layer = ""
    kinds = {channel.kind for channel in channels}
    if chosen is not None:
        content, layer = _named_grey(content, channels, chosen)
        kinds = {chosen.kind}
    if UINT in kinds:
        _refuse(path.name, "channels of whole numbers", "channels of 16 or 32 bit floats")
    values = _decode(path.name, content, layer)
    farthest = FARTHEST_HALF if kinds == {HALF} else FARTHEST
    return torch.where(values < farthest, values, torch.inf)


def _header(name: str, content: bytes) -> list[Channel]:
    """The channels that the header lists; what lies behind it is checked to be whole."""
    try:
        magic, version = struct.unpack_from("<II", content)
        if magic != MAGIC:
            _refuse(name, "a file of another kind", "an OpenEXR file")
        for flag, what in NOT_FLAT.items():
            if version & flag:
                _refuse(name, what, "one plain picture")
        channels: list[Channel] = []
        place = 8
        while content[place]:
            attribute = content.index(0, place)
            kind = content.index(0, attribute + 1)
            (size,) = struct.unpack_from("<i", content, kind + 1)
            if content[attribute + 1 : kind] == b"chlist":
                channels = _channel_list(content, kind + 5)
            # A negative size would lead back, and round for ever.
            place = kind + 5 + max(0, size)
        whole = version & TILED or _is_whole(content, place + 1)
    except (struct.error, ValueError, IndexError, UnicodeDecodeError) as error:
        _refuse(name, "a damaged header", "an OpenEXR file", error)
    if not channels or not whole:
        _refuse(name, "a file that was cut off", "a whole OpenEXR file")
    return channels


def _is_whole(content: bytes, table: int) -> bool:
    """Whether all lines are there: the decoder would leave out those that are not.

    Behind the header stands a table of where blocks of lines begin; each says its own size.
    """
    (first,) = struct.unpack_from("<Q", content, table)
    starts = struct.unpack_from(f"<{(first - table) // 8}Q", content, table)
    sizes = [struct.unpack_from("<i", content, start + 4)[0] for start in starts]
    return all(
        start > table and size >= 0 and start + 8 + size <= len(content)
        for start, size in zip(starts, sizes, strict=True)
    )


def _channel_list(content: bytes, place: int) -> list[Channel]:
    found = []
    while content[place]:
        end = content.index(0, place)
        (kind,) = struct.unpack_from("<i", content, end + 1)
        found.append(Channel(content[place:end].decode("utf-8"), place, kind))
        place = end + 17
    return found


def _depth_channel(name: str, channels: list[Channel]) -> Channel | None:
    """The channel to read alone; None for colours."""
    if len(channels) == 1:
        return channels[0]
    named = [c for c in channels if c.name.split(".")[-1].upper() == "Z"]
    named = named or [c for c in channels if "depth" in c.name.lower()]
    if len(named) == 1:
        return named[0]
    names = {channel.name for channel in channels}
    if not named and names <= COLOURS and len(names - {"A"}) == len(COLOURS) - 1:
        return None
    _refuse(
        name,
        f"channels {', '.join(sorted(names))[:200]}",
        "one channel, or one that is called Z or depth",
    )


def _named_grey(content: bytes, channels: list[Channel], chosen: Channel) -> tuple[bytes, str]:
    """The file with one channel under the decoder's name for grey, and the layer it is in."""
    changed = bytearray(content)
    for channel in channels:
        length = len(channel.name.encode("utf-8"))
        name = b"q" * (length - 1) + b"Y" if channel is chosen else b"_" * length
        changed[channel.place : channel.place + length] = name
    return bytes(changed), "q" * (len(chosen.name.encode("utf-8")) - 1)


def _decode(name: str, content: bytes, layer: str) -> Tensor:
    try:
        with av.open(BytesIO(content), mode="r", format="exr_pipe") as container:
            stream = container.streams.video[0]
            if layer:
                stream.codec_context.options = {"layer": layer}
            frame = next(container.decode(stream))
            planes = [_plane(frame, number) for number in range(min(3, len(frame.planes)))]
    except (av.error.FFmpegError, StopIteration, ValueError, IndexError) as error:
        _refuse(name, str(error)[:200] or type(error).__name__, "a whole scan-line EXR", error)
    if any(not torch.equal(planes[0], plane) for plane in planes[1:]):
        _refuse(name, "a picture in colour", "depth: three equal channels, or one called Z")
    return planes[0]


def _plane(frame: av.VideoFrame, number: int) -> Tensor:
    """(H, W) float32 of one plane; av's own conversions would cut values off at 1."""
    plane = frame.planes[number]
    numbers: type[np.floating] = np.float16 if "f16" in frame.format.name else np.float32
    rows = np.frombuffer(bytes(plane), numbers).reshape(frame.height, -1)
    return torch.from_numpy(rows[:, : frame.width].astype(np.float32))


def _refuse(name: str, got: str, expected: str, cause: Exception | None = None) -> NoReturn:
    raise CacheFormatError(
        f"{name} cannot be read as OpenEXR depth",
        got=got,
        expected=expected,
        fix="Render the depth pass as a plain scan-line EXR of floats, or save it as .npz",
    ) from cause
