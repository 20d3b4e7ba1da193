"""What a memory holds, told from the codec that it names, and what draws it."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from torch import Tensor

from ..constants import SPATIAL_STRIDE
from ..errors import ModelMismatchError
from .colours import COLOUR_NAMES, ColourCodec
from .dct import CODEC_NAME, DctCodec


class MemoryKind(str, Enum):
    """What the points of a memory carry."""

    TOKENS = "tokens"
    COLOURS = "colours"

    @classmethod
    def of(cls, codec: str) -> MemoryKind:
        """The kind of a memory that names this codec."""
        return cls.COLOURS if codec in COLOUR_NAMES else cls.TOKENS


def memory_stride(codec: str) -> int:
    """Pixels along each side of what one point of a memory stands for."""
    return COLOUR_NAMES.get(codec, SPATIAL_STRIDE)


class Drawer(Protocol):
    """Draws what one point of a memory carries, without knowing the others."""

    @property
    def name(self) -> str:
        """The codec that the memory names."""

    @property
    def spatial_stride(self) -> int:
        """Pixels along each side of what a point stands for."""

    def decode_patches(self, tokens: Tensor) -> Tensor:
        """What N points carry (N, C) as (N, s, s, 3) pixels; not clamped.

        s is the spatial stride, or 1 where all pixels of a patch are alike.
        """


def expect_tokens(held: str) -> None:
    """Raise `ModelMismatchError` if a memory that names this codec holds colours."""
    if MemoryKind.of(held) is MemoryKind.COLOURS:
        raise ModelMismatchError(
            "A memory of tokens is needed, which the video model can read",
            got="a memory of colours",
            fix="Make the memory with what = tokens, or draw the colours with Mirage Render",
        )


def memory_drawer(held: str) -> Drawer:
    """What draws the points of a memory that names this codec.

    Raises:
        ModelMismatchError: The memory holds tokens that mean nothing one by one.
    """
    if MemoryKind.of(held) is MemoryKind.COLOURS:
        return ColourCodec.named(held)
    if held == CODEC_NAME:
        return DctCodec()
    raise ModelMismatchError(
        "Tokens of this memory cannot be drawn one by one",
        got=f"a memory of tokens of {held!r}",
        expected="a memory of colours, or one of the embedded codec",
        fix="Make the memory with what = colours, or let the VAE decode a readout's latent",
    )
