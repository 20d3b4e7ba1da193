"""`Tracks`: which pixels of some frames show which thing that moves."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from ..errors import ShapeError, ValueRangeError
from ..geometry.masks import MASKED
from ..validate import expect_shape

MAX_THINGS: Final = 1000
"""Most things of one map, as many as a memory has actors."""


@dataclass(frozen=True, eq=False)
class Tracks:
    """What a tracker found.

    Attributes:
        map: (F, H, W) int32, number of the thing that a pixel shows, 0 where nothing moves.
        names: What each of the things is called, by number.
        lasting: The same number means the same thing in every chunk of a shot. Off, numbers say
            nothing beyond the frames at hand.

    Raises:
        ShapeError: The map is not (F, H, W).
        ValueRangeError: A number is negative, or has no name.
    """

    map: Tensor
    names: Mapping[int, str] = field(default_factory=dict)
    lasting: bool = False

    def __post_init__(self) -> None:
        expect_shape("The map of tracks", self.map, "F H W")
        object.__setattr__(self, "map", self.map.int())
        names = {int(number): str(name).strip() for number, name in self.names.items()}
        object.__setattr__(self, "names", MappingProxyType(names))
        found = [number for number in self.map.unique().tolist() if number]
        wrong = [number for number in found if number < 0 or not names.get(number)]
        if wrong or len(found) > MAX_THINGS:
            raise ValueRangeError(
                "The map of tracks has things without a name",
                got=f"{len(found)} things, without a name: {wrong[:16]}",
                expected=f"0 where nothing moves, else numbers with names, at most {MAX_THINGS}",
            )

    @property
    def moving(self) -> Tensor:
        """(F, H, W) bool, where anything moves."""
        return self.map > 0

    @property
    def numbers(self) -> list[int]:
        """Numbers of the things that are in any frame."""
        return [number for number in self.map.unique().tolist() if number]

    def of(self, number: int) -> Tensor:
        """(F, H, W) bool, where one thing is."""
        return self.map == number

    def select(self, frames: list[int]) -> Tracks:
        """The tracks of some of the frames."""
        return dataclasses.replace(self, map=self.map[frames])

    def with_thing(self, name: str, mask: Tensor) -> Tracks:
        """The same with one more thing, before the others where they overlap.

        Args:
            name: What it is called.
            mask: (F, H, W), masked above one half.

        Raises:
            ShapeError: The mask has another size.
        """
        sizes = dict(zip("FHW", self.map.shape, strict=True))
        expect_shape("The mask of one more thing", mask, "F H W", **sizes)
        number = max([0, *self.names]) + 1
        marked = mask if mask.dtype == torch.bool else mask > MASKED
        where = torch.where(marked.to(self.map.device), number, self.map)
        return dataclasses.replace(self, map=where, names={**self.names, number: name})


def one_track(name: str, mask: Tensor, *, lasting: bool = False) -> Tracks:
    """Tracks of a single thing from its mask (F, H, W), masked above one half."""
    expect_shape("The mask of a thing", mask, "F H W")
    nothing = torch.zeros(mask.shape, dtype=torch.int32, device=mask.device)
    return Tracks(nothing, {}, lasting).with_thing(name, mask)


def expect_frames(tracks: Tracks, frames: int, every: int) -> Tracks:
    """Tracks of ``frames`` frames: those given, or every so many of 1 + every * (frames - 1).

    Raises:
        ShapeError: The tracks have neither number of frames.
    """
    given, all_frames = len(tracks.map), every * (frames - 1) + 1
    if given == frames:
        return tracks
    if given == all_frames:
        return tracks.select(list(range(0, given, every)))
    raise ShapeError(
        "The tracks do not belong to this chunk",
        got=f"{given} frames",
        expected=f"{frames} (every fourth) or {all_frames} (all)",
        fix="Track things on exactly the chunk's decoded frames",
    )
