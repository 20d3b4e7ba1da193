"""`LatentCodec`: what turns pixels into the tokens that a memory holds, and back."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class LatentCodec(Protocol):
    """Pixels to model-space latents and back, such as `mirage_core.models.vae.WanCodec`."""

    @property
    def name(self) -> str:
        """Under which a memory remembers whose tokens it holds."""

    def encode_each(self, frames: Tensor, /) -> Tensor:
        """Pictures (F, H, W, 3) in 0..1, each alone, to (C, F, h, w)."""

    def decode(self, latents: Tensor, /) -> Tensor:
        """Latents (C, T, h, w) of a video to (4T - 3, H, W, 3) frames in 0..1."""
