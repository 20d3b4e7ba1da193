"""Colours as what a memory holds: one point for every pixel, or for every second one.

A memory names the codec of its tokens. That of colours needs no weights and loses nothing but
what 8 bits lose, so what the memory shows are pictures; a video model reads them only after
its own VAE has encoded them.
"""

from __future__ import annotations

from typing import Final

import torch
from einops import rearrange, reduce
from torch import Tensor

from ..constants import WHITE_8
from ..errors import ModelMismatchError, ValueRangeError
from ..validate import expect_shape

COLOUR_CHANNELS: Final = 3

COLOUR_NAMES: Final = {"rgb": 1, "rgb-2": 2, "rgb-4": 4, "rgb-16": 16}
"""Codec names of memories of colours, and how many pixels lie along each side of a point."""

COARSEST_FOR_SHOTS: Final = 2
"""Pixels along each side of the coarsest points that shots are offered. Coarser ones hold as many
numbers for a cell as tokens do (4), or as many points (16): they are there to be compared with."""


class ColourCodec:
    """Pictures to 8-bit colours and back.

    Attributes:
        step: Pixels along each side of a point.

    Raises:
        ValueRangeError: No memory has such a step.
    """

    channels: Final = COLOUR_CHANNELS

    def __init__(self, step: int = 1) -> None:
        if step not in COLOUR_NAMES.values():
            raise ValueRangeError(
                "The pixels along each side of a point are none that a memory has",
                got=step,
                expected=", ".join(map(str, COLOUR_NAMES.values())),
            )
        self.step = step

    @classmethod
    def named(cls, codec: str) -> ColourCodec:
        """The codec of a memory of colours.

        Raises:
            ModelMismatchError: The memory holds tokens.
        """
        if codec not in COLOUR_NAMES:
            raise ModelMismatchError(
                "A memory of colours is needed",
                got=f"a memory of tokens of {codec!r}",
                fix="Make the memory with what = colours",
            )
        return cls(COLOUR_NAMES[codec])

    @property
    def name(self) -> str:
        """Under which a memory remembers what its colours stand for."""
        return next(name for name, step in COLOUR_NAMES.items() if step == self.step)

    @property
    def spatial_stride(self) -> int:
        """Pixels along each side of a point."""
        return self.step

    def encode_images(self, frames: Tensor) -> Tensor:
        """Pictures (F, H, W, 3) in 0..1 to (3, F, H / step, W / step) uint8 mean colours.

        Raises:
            ShapeError: The tensor is not a video.
        """
        expect_shape("The video", frames, "F H W 3")
        pattern = "f (h a) (w b) c -> c f h w"
        mean = reduce(frames.float(), pattern, "mean", a=self.step, b=self.step)
        return (mean.clamp(0, 1) * WHITE_8).round().to(torch.uint8)

    def decode_patches(self, tokens: Tensor) -> Tensor:
        """Colours (N, 3) to patches (N, 1, 1, 3) float32 in 0..1.

        Raises:
            ShapeError: The tensor is no list of colours.
        """
        expect_shape("The list of colours", tokens, "N 3")
        return rearrange(tokens.float() / WHITE_8, "n c -> n 1 1 c")
