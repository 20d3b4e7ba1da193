"""`FrameMasks`: what moves in frames and where sky is, and who finds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import ShapeError
from ..validate import expect_shape


@dataclass(frozen=True)
class Track:
    """One thing that is followed through frames.

    Attributes:
        number: Its number in a map of tracks, from 1.
        name: What it is, such as ``person``; empty where nobody said.
    """

    number: int
    name: str = ""


@dataclass(frozen=True, eq=False)
class FrameMasks:
    """What stays out of the memory in F frames, in pixels of the frames.

    Attributes:
        moving: (F, H, W) bool, True where something moves.
        sky: (F, H, W) bool, True where there is sky; None where nobody looked for it.
        track_map: (F, H, W) int32, the number of the track that each pixel shows, 0 where it
            shows none; None where things are not told apart.
        tracks: The tracks that ``track_map`` may show.

    Raises:
        ShapeError: The arrays have different sizes, or the map shows a track that is not listed.
    """

    moving: Tensor
    sky: Tensor | None = None
    track_map: Tensor | None = None
    tracks: tuple[Track, ...] = ()

    def __post_init__(self) -> None:
        sizes = expect_shape("The mask of moving things", self.moving, "F H W")
        object.__setattr__(self, "moving", self.moving.bool())
        if self.sky is not None:
            expect_shape("The sky mask", self.sky, "F H W", **sizes)
            object.__setattr__(self, "sky", self.sky.bool())
        if self.track_map is None:
            return
        expect_shape("The map of tracks", self.track_map, "F H W", **sizes)
        object.__setattr__(self, "track_map", self.track_map.int())
        known = {0, *(track.number for track in self.tracks)}
        shown = set(self.track_map.unique().tolist())
        if shown - known:
            raise ShapeError(
                "The map of tracks shows tracks that are not listed",
                got=f"numbers {sorted(shown - known)}",
                expected=f"some of {sorted(known)}",
            )

    def __len__(self) -> int:
        return len(self.moving)

    @property
    def left_out(self) -> Tensor:
        """(F, H, W) bool, what moves or is sky."""
        return self.moving if self.sky is None else self.moving | self.sky

    def of_track(self, number: int) -> Tensor:
        """(F, H, W) bool, where one track is seen."""
        if self.track_map is None:
            return torch.zeros_like(self.moving)
        return self.track_map == number


class MaskProvider(Protocol):
    """Finds what must not be remembered."""

    def __call__(self, frames: Tensor, numbers: Sequence[int]) -> FrameMasks:
        """Masks of some frames of a shot.

        Args:
            frames: (F, H, W, 3) consecutive frames in 0..1.
            numbers: Their F numbers in the shot, from 0.

        Returns:
            Masks of the F frames, in their size or in another one of the same crop.
        """
