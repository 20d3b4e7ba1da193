"""`LatentCodec`: what turns pixels into the tokens that a memory holds, and back.

Whatever depends on the tokens of one autoencoder (channels, strides, whether a token alone can be
drawn) is asked of the codec. So another autoencoder is a class that has this interface.
"""

from __future__ import annotations

from typing import Protocol, TypeGuard

from torch import Tensor

from ..errors import ModelMismatchError
from .memory_kind import Drawer, expect_tokens


class LatentCodec(Protocol):
    """Pixels to model-space latents and back.

    Frames are (F, H, W, 3) in 0..1, latents (C, T, h, w), with h = H / `spatial_stride`, and
    T = (F - 1) / `temporal_stride` + 1 for a video: its first frame stands alone.
    """

    @property
    def name(self) -> str:
        """Under which a memory remembers whose tokens it holds."""

    @property
    def channels(self) -> int:
        """C, numbers of a token."""

    @property
    def spatial_stride(self) -> int:
        """Pixels along each side of a latent cell."""

    @property
    def temporal_stride(self) -> int:
        """Pixel frames of every latent frame but the first."""

    @property
    def drawable(self) -> bool:
        """True when a token alone can be drawn as a patch, see `PatchCodec`."""

    def encode(self, frames: Tensor, /) -> Tensor:
        """A video (F, H, W, 3) to (C, T, h, w)."""

    def encode_images(self, frames: Tensor, /) -> Tensor:
        """Pictures (F, H, W, 3), each alone, to (C, F, h, w)."""

    def decode(self, latents: Tensor, /) -> Tensor:
        """Latents (C, T, h, w) of a video to (F, H, W, 3) frames in 0..1."""

    def white_latent(self, frames: int, height: int, width: int, /) -> Tensor:
        """Latent of an all-white video of this many pixel frames, in pixels.

        Side branches of the released code take it as an input.
        """


class PatchCodec(LatentCodec, Drawer, Protocol):
    """A codec whose cells do not depend on each other, so that each token can be drawn."""

    def static_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens (C, ...) of a group of equal frames that show what image tokens show."""


def is_drawable(codec: LatentCodec) -> TypeGuard[PatchCodec]:
    """Whether the codec's tokens can be drawn one by one."""
    return codec.drawable


def expect_drawable(codec: LatentCodec, what: str, fix: str) -> PatchCodec:
    """The codec, if its tokens can be drawn one by one.

    Args:
        codec: Any codec.
        what: What wants to draw them, as a sentence.
        fix: The remedy.

    Raises:
        ModelMismatchError: They cannot.
    """
    if not is_drawable(codec):
        raise ModelMismatchError(
            what,
            got=f"the codec {codec.name!r}",
            expected="the embedded codec, whose tokens can be drawn one by one",
            fix=fix,
        )
    return codec


def expect_same_codec(held: str, codec: LatentCodec) -> None:
    """Raise `ModelMismatchError` unless a memory holds the tokens of this codec.

    Args:
        held: The codec that the memory names.
        codec: The codec in use.
    """
    expect_tokens(held)
    if held != codec.name:
        raise ModelMismatchError(
            "The memory was made with another VAE",
            got=f"a memory of {held!r}",
            expected=codec.name,
            fix="Use the VAE or codec that the memory was made with, or make the memory again",
        )
