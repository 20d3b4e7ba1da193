"""`Tracks`: which pixels of some frames show which thing that moves."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from ..errors import ValueRangeError
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
        lasting: Numbers that mean the same thing in every chunk of a shot. The others say nothing
            beyond the frames at hand.

    Raises:
        ShapeError: The map is not (F, H, W).
        ValueRangeError: A number is negative, or has no name.
    """

    map: Tensor
    names: Mapping[int, str] = field(default_factory=dict)
    lasting: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        expect_shape("The map of tracks", self.map, "F H W")
        object.__setattr__(self, "map", self.map.int())
        names = {int(number): str(name).strip() for number, name in self.names.items()}
        object.__setattr__(self, "names", MappingProxyType(names))
        object.__setattr__(self, "lasting", frozenset(self.lasting))
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

    def with_thing(self, name: str, mask: Tensor, *, lasting: bool = False) -> Tracks:
        """The same with one more thing, before the others where they overlap.

        Args:
            name: What it is called.
            mask: (F, H, W), masked above one half.
            lasting: Its number means the same thing in every chunk.

        Raises:
            ShapeError: The mask has another size.
        """
        sizes = dict(zip("FHW", self.map.shape, strict=True))
        expect_shape("The mask of one more thing", mask, "F H W", **sizes)
        number = max([0, *self.names]) + 1
        marked = mask if mask.dtype == torch.bool else mask > MASKED
        where = torch.where(marked.to(self.map.device), number, self.map)
        return Tracks(
            where, {**self.names, number: name}, self.lasting | ({number} if lasting else set())
        )
