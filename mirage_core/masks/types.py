"""`FrameMasks`: what moves in frames and where sky is, and who finds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..validate import expect_shape
from .tracks import Tracks


@dataclass(frozen=True, eq=False)
class FrameMasks:
    """What stays out of the memory in F frames, in pixels of the frames.

    Attributes:
        moving: (F, H, W) bool, True where something moves.
        sky: (F, H, W) bool, True where there is sky; None where nobody looked for it.
        tracks: Which thing moves where, in the same pixels; None where things are not told apart.

    Raises:
        ShapeError: The arrays have different sizes.
    """

    moving: Tensor
    sky: Tensor | None = None
    tracks: Tracks | None = None

    def __post_init__(self) -> None:
        sizes = expect_shape("The mask of moving things", self.moving, "F H W")
        object.__setattr__(self, "moving", self.moving.bool())
        if self.sky is not None:
            expect_shape("The sky mask", self.sky, "F H W", **sizes)
            object.__setattr__(self, "sky", self.sky.bool())
        if self.tracks is not None:
            expect_shape("The map of tracks", self.tracks.map, "F H W", **sizes)

    def __len__(self) -> int:
        return len(self.moving)

    @property
    def left_out(self) -> Tensor:
        """(F, H, W) bool, what moves or is sky."""
        return self.moving if self.sky is None else self.moving | self.sky


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
