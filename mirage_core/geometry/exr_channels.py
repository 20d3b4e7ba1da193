"""Which channels of an OpenEXR file are depth, whatever their renderer calls them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final, NamedTuple, NoReturn

from ..errors import CacheFormatError

ALPHA: Final = "A"
COLOURS: Final = {"R", "G", "B"}
VECTOR: Final = {"X", "Y"}
"""What stands beside a Z that is part of a normal, a position or a motion."""

NO_DEPTH: Final = frozenset(
    "mist fog normal normals n position p motion velocity vector vectors inverse disparity "
    "uv".split()
)
"""Words for what is no distance, although renderers call a channel of it Z or depth."""

_WORDS: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
"""Words of a name, with an underscore or a capital between them."""

_AXES: Final = frozenset("xyzwrgbav")
"""Words that tell which channel of a layer it is, and nothing of the layer."""

DEPTH_LAYERS: Final = {"depth", "z", "zdepth", "vrayzdepth"}
"""Names of layers that mean depth and nothing else; others only contain the word."""


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
    """

    part: int
    name: str
    label: str
    data: Box
    picture: Box

    @property
    def leaf(self) -> str:
        """The name without its layers, in capitals."""
        return self.name.rpartition(".")[2].upper()

    @property
    def layer(self) -> str:
        """The label without the channel's own name."""
        return self.label.rpartition(".")[0]

    @property
    def values(self) -> int:
        """Values that decoding or placing it makes room for."""
        return max(math.prod(self.data.shape), math.prod(self.picture.shape))


class Depth(NamedTuple):
    """Channels that are one depth: a single one, or several that should be the same.

    Attributes:
        label: What they are called: the channel, or the layer of several.
        channels: At least one.
    """

    label: str
    channels: tuple[Channel, ...]


def choose_depth(name: str, channels: Sequence[Channel], wanted: str = "") -> Depth:
    """The channels to read.

    Without a wish nothing is taken that `NO_DEPTH` has a word for. Taken is the only channel; else
    ``Z`` in no layer; else a layer that is called depth; else a ``Z`` in any other layer; else the
    colours, which must then be the same. A Z with X and Y beside it is a vector's.

    Args:
        name: How errors call the file.
        channels: All that the file has.
        wanted: Label or name of a channel or of a layer, as errors list them.

    Raises:
        CacheFormatError: No channel is depth, or several are.
    """
    if wanted:
        return _wanted(name, channels, wanted)
    if len(channels) == 1 and _may_be_depth(channels[0]):
        return Depth(channels[0].label, (channels[0],))
    for found in _by_rank(channels):
        if len(found) == 1:
            return found[0]
        if found:
            refuse(
                name,
                f"channels {_listed([depth.label for depth in found])}, each of which may be depth",
                "one of them to be chosen",
                fix="Name the one to read: channel of Mirage Geometry Load, or --depth-channel",
            )
    labels = [channel.label for channel in channels]
    refuse(
        name,
        f"channels {_listed(labels)}" if labels else "no channels",
        "one channel, or one that is called Z or depth, and is not part of a normal, nor mist, "
        "a position, a motion or inverse depth",
        fix="Render the depth pass as a flat EXR file of its own, save it as .npz, or name the "
        "channel to read",
    )


def _may_be_depth(channel: Channel) -> bool:
    """Whether neither the name nor the innermost layer that tells something is of `NO_DEPTH`."""
    *layers, leaf = ([w.lower() for w in _WORDS.findall(name)] for name in channel.label.split("."))
    telling = [words for words in layers if not _AXES.issuperset(words)][-1:]
    return NO_DEPTH.isdisjoint(sum(telling, leaf))


def _by_rank(channels: Sequence[Channel]) -> list[list[Depth]]:
    """What may be depth, in groups: the surest first."""
    layers: dict[tuple[int, str], list[Channel]] = {}
    for channel in channels:
        layers.setdefault((channel.part, channel.layer), []).append(channel)
    scalar = [
        channel
        for members in layers.values()
        if not {c.leaf for c in members} >= VECTOR
        for channel in members
        if channel.leaf == "Z" and _may_be_depth(channel)
    ]
    named = [depth for members in layers.values() for depth in _named_depth(members)]
    sure = [depth for depth in named if _words(depth)[-1] in DEPTH_LAYERS]
    plain = {channel.label for channel in channels} - {ALPHA} == COLOURS
    return [
        [Depth(c.label, (c,)) for c in scalar if "." not in c.name],
        sure,
        named,
        [Depth(c.label, (c,)) for c in scalar],
        [_layer("R, G, B", channels)] if plain else [],
    ]


def _named_depth(members: list[Channel]) -> list[Depth]:
    """Depths of one layer: the layer itself if it is called so, or channels that are."""
    layer = members[0].layer
    if "depth" in layer.lower():
        values = [c for c in members if c.leaf != ALPHA and _may_be_depth(c)]
        z = [channel for channel in values if channel.leaf == "Z"]
        if len(z) == 1 and not {channel.leaf for channel in values} >= VECTOR:
            return [Depth(z[0].label, (z[0],))]
        # Colours and axes have one letter; longer names are depths of different things.
        if any(len(channel.leaf) > 1 for channel in values):
            return [Depth(c.label, (c,)) for c in values]
        return [_layer(layer, values)] if values else []
    named = [c for c in members if "depth" in c.leaf.lower() and _may_be_depth(c)]
    return [Depth(c.label, (c,)) for c in named]


def _words(depth: Depth) -> list[str]:
    """The layers and the name of a depth in small letters, without the channel of a layer."""
    words = depth.label.lower().split(".")
    leaf = depth.channels[0].leaf.lower()
    in_layer = len(words) > 1 and words[-1] == leaf and "depth" not in leaf
    return words[:-1] if in_layer else words


def _layer(label: str, channels: Sequence[Channel]) -> Depth:
    values = tuple(channel for channel in channels if channel.leaf != ALPHA)
    return Depth(values[0].label if len(values) == 1 else label, values)


def _wanted(name: str, channels: Sequence[Channel], wanted: str) -> Depth:
    exact = [c for c in channels if c.label == wanted] or [c for c in channels if c.name == wanted]
    if len(exact) == 1:
        return Depth(exact[0].label, (exact[0],))
    layer = [c for c in channels if c.layer == wanted and c.leaf != ALPHA]
    if layer and not exact:
        return _layer(wanted, layer)
    refuse(
        name,
        f"the channel {wanted[:80]!r} is not there once",
        f"one of {_listed([channel.label for channel in channels])}",
        fix="Name one of these as the channel to read",
    )


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(sorted(labels))[:300]


def refuse(
    name: str,
    got: str,
    expected: str,
    cause: Exception | None = None,
    fix: str = "Render the depth pass as a flat EXR file of its own, or save it as .npz",
) -> NoReturn:
    """Raise `CacheFormatError` for an EXR file that holds no depth to read."""
    raise CacheFormatError(
        f"{name} cannot be read as OpenEXR depth", got=got, expected=expected, fix=fix
    ) from cause
