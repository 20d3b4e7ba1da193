"""Frames brought to the colours of what the memory shows, so that drift does not add up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ..constants import GREY
from ..validate import expect_range, expect_shape

MIN_KNOWN: Final = 0.01
"""Share of known pixels below which colours are left as they are."""

MAX_GAIN: Final = 2.0
"""Largest change of a channel's spread, up or down; what asks for more is no drift."""

MIN_SPREAD: Final = 1e-3
"""Spread below which a channel has nothing to scale: only its mean moves."""


@dataclass(frozen=True)
class ColourShift:
    """What brings the colours of a chunk back: ``gain * frame + offset`` in each channel.

    Attributes:
        gain: Of red, green and blue.
        offset: Of red, green and blue.
        known: Share of pixels by which it was found.
    """

    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    known: float = 0.0

    def apply(self, frames: Tensor, strength: float = 1.0) -> Tensor:
        """Frames (..., 3) in 0..1 with the shift, or a share of it."""
        gain = 1 + strength * (frames.new_tensor(self.gain) - 1)
        return (frames * gain + strength * frames.new_tensor(self.offset)).clamp(0, 1)

    def describe(self) -> str:
        """The shift in one line, in hundredths of full brightness at mid grey."""
        return self._told("moved", 100)

    def describe_drift(self) -> str:
        """What the shift would take back, in one line like `describe`."""
        return self._told("differ from what is remembered", -100)

    def _told(self, what: str, scale: float) -> str:
        if not self.known:
            return "colours: too little is known to compare with"
        red, green, blue = (
            # Zero has no sign.
            round(scale * (GREY * gain + offset - GREY), 1) + 0.0
            for gain, offset in zip(self.gain, self.offset, strict=True)
        )
        return (
            f"colours {what} at mid grey by {red:+.1f}, {green:+.1f}, {blue:+.1f} hundredths "
            f"(red, green, blue), by {self.known:.0%} of the pixels"
        )


def colour_shift(frames: Tensor, images: Tensor, holes: Tensor) -> ColourShift:
    """How the colours of a chunk differ from the memory's, where the memory shows anything.

    Mean and spread of each channel over all known pixels of the chunk: one shift for all of its
    frames, so that nothing flickers as the known part changes.

    Args:
        frames: (F, H, W, 3) what a model made, in 0..1.
        images: (F, H, W, C) drawings of the memory in 0..1; of C channels the first 3 count.
        holes: (F, H, W), anything but 0 where a drawing is unknown.

    Raises:
        ShapeError: Sizes differ.
    """
    sizes = expect_shape("The frames", frames, "F H W 3")
    expect_shape("The drawings", images[..., :3], "F H W 3", **sizes)
    expect_shape("The masks of holes", holes, "F H W", **sizes)
    sums = torch.zeros(2, 2, 3, dtype=torch.float64)
    count = 0
    for frame, image, hole in zip(frames, images, holes, strict=True):
        known = hole == 0
        count += int(known.sum())
        for row, picture in enumerate((frame, image[..., :3])):
            chosen = picture[known].double().cpu()
            sums[row] += torch.stack([chosen.sum(0), chosen.square().sum(0)])
    share = count / max(1, holes.numel())
    if share < MIN_KNOWN:
        return ColourShift()
    mean, square = (sums / count).unbind(1)
    spread = (square - mean.square()).clamp_min(0).sqrt()
    gain = (spread[1] / spread[0]).clamp(1 / MAX_GAIN, MAX_GAIN)
    gain = torch.where(spread[0] < MIN_SPREAD, 1.0, gain)
    offset = mean[1] - gain * mean[0]
    return ColourShift(_three(gain), _three(offset), share)


def match_colours(
    frames: Tensor, images: Tensor, holes: Tensor, strength: float = 1.0
) -> tuple[Tensor, ColourShift]:
    """Frames with the colours that the memory shows, see `colour_shift`; the input stays as it is.

    Args:
        frames: (F, H, W, 3) what a model made, in 0..1.
        images: (F, H, W, C) drawings of the memory in 0..1.
        holes: (F, H, W), anything but 0 where a drawing is unknown.
        strength: Share of the shift, 0..1.

    Raises:
        ShapeError: Sizes differ.
        ValueRangeError: The strength is out of range.
    """
    expect_range("The strength", strength, 0, 1)
    shift = colour_shift(frames, images, holes)
    return shift.apply(frames, strength), shift


def _three(values: Tensor) -> tuple[float, float, float]:
    red, green, blue = values.tolist()
    return red, green, blue
