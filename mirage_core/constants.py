"""Every number that the video model fixes, in one place.

The values describe Wan2.2-TI2V-5B and its causal video autoencoder. Nothing else in the
project repeats them as literals.
"""

from __future__ import annotations

from typing import Final

LATENT_CHANNELS: Final = 48
"""Channels of one latent token."""

WAN_CODEC: Final = "wan2.2"
"""Name under which a memory remembers that the Wan2.2 VAE made its tokens."""

SPATIAL_STRIDE: Final = 16
"""Pixels per latent cell, along each image axis."""

WAN21_CODEC: Final = "wan2.1"
"""Name of the Wan2.1 VAE. No memory holds its tokens: shots with it remember colours."""

WAN21_CHANNELS: Final = 16
"""Channels of one latent of the Wan2.1 VAE."""

WAN21_SPATIAL_STRIDE: Final = 8
"""Pixels per latent cell of the Wan2.1 VAE, along each image axis."""

WAN21_FPS: Final = 16.0
"""Frames per second of the videos that Wan2.1's models were trained with."""

TEMPORAL_STRIDE: Final = 4
"""Pixel frames per latent frame, after the first frame, which stands alone."""

TEXT_WIDTH: Final = 4096
"""Channels of a text token, those of UMT5-xxl; ComfyUI takes them for granted."""

PATCH_SIZE: Final = 2
"""Latent cells per transformer token, along each image axis."""

SIZE_MULTIPLE: Final = SPATIAL_STRIDE * PATCH_SIZE
"""Width and height in pixels are multiples of this."""

GREY: Final = 0.5
"""Level of pictures where nothing is given: 0 for the autoencoders, as models were trained."""

WHITE_8: Final = 255
"""White of 8 bits: pictures in 0..1 times this are bytes."""

WHITE_16: Final = 65535
"""White of 16 bits."""

MAX_CHUNK_FRAMES: Final = 33
"""Pixel frames that the method's models generate at once, and were trained with."""

DEFAULT_FPS: Final = 24.0
"""Frames per second of the model's training videos."""
