"""ComfyUI's VAE and LATENT: the embedded codec behind them, and model space at the border."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import comfy.latent_formats
import comfy.model_management
import comfy.sd
import comfy.utils
import torch
from torch import Tensor

from ...mirage_core.cache.types import LatentCache
from ...mirage_core.codecs.dct import CODEC_NAME, DctCodec
from ...mirage_core.constants import LATENT_CHANNELS, SPATIAL_STRIDE, TEMPORAL_STRIDE, WAN_CODEC
from ...mirage_core.errors import ModelMismatchError, ShapeError
from ...mirage_core.validate import expect_frame_size, expect_token_channels

if TYPE_CHECKING:
    import comfy.sd


Latent = dict[str, Any]
"""ComfyUI's LATENT: ``samples`` (B, 48, T, h, w) in the VAE's own, raw space."""


class DctVAE(comfy.sd.VAE):
    """The embedded codec behind ComfyUI's VAE interface, so that stock nodes take it.

    Raw latents are the codec's tokens taken out of model space, as those of the Wan2.2 VAE.
    """

    def __init__(self) -> None:
        self.codec = DctCodec()
        self.first_stage_model = torch.nn.Identity()
        self.device = torch.device("cpu")
        self.output_device = comfy.model_management.intermediate_device()
        self.vae_dtype = torch.float32
        self.latent_channels = LATENT_CHANNELS
        self.output_channels = 3
        self.latent_dim = 3
        self.not_video = False
        self.crop_input = True
        self.size = None
        self.upscale_ratio = (
            lambda frames: max(0, frames * TEMPORAL_STRIDE - TEMPORAL_STRIDE + 1),
            SPATIAL_STRIDE,
            SPATIAL_STRIDE,
        )
        self.downscale_ratio = (
            lambda frames: max(0, (frames + TEMPORAL_STRIDE - 1) // TEMPORAL_STRIDE),
            SPATIAL_STRIDE,
            SPATIAL_STRIDE,
        )
        self.upscale_index_formula = (TEMPORAL_STRIDE, SPATIAL_STRIDE, SPATIAL_STRIDE)
        self.downscale_index_formula = self.upscale_index_formula

    def encode(self, pixel_samples: Tensor) -> Tensor:
        """(F, H, W, 3) or (B, F, H, W, 3) in 0..1 to raw latents (B, 48, T, h, w)."""
        videos = pixel_samples if pixel_samples.ndim == 5 else pixel_samples[None]  # noqa: PLR2004
        latents = []
        for video in videos:
            whole = (len(video) - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1
            latents.append(self.codec.encode(video[:whole, :, :, :3]))
        return from_model_space(torch.stack(latents)).to(self.output_device)

    def decode(self, samples_in: Tensor, vae_options: dict[str, Any] | None = None) -> Tensor:
        """Raw latents (B, 48, T, h, w) to (B, 4T - 3, H, W, 3) in 0..1."""
        expect_token_channels("The latent", samples_in.shape[1])
        videos = [self.codec.decode(latent) for latent in to_model_space(samples_in)]
        return torch.stack(videos).to(self.output_device)

    def encode_tiled(self, pixel_samples: Tensor, **_: Any) -> Tensor:  # noqa: ANN401
        """As `encode`: cells do not depend on each other, so tiles change nothing."""
        return self.encode(pixel_samples)

    def decode_tiled(self, samples: Tensor, **_: Any) -> Tensor:  # noqa: ANN401
        """As `decode`: cells do not depend on each other, so tiles change nothing."""
        return self.decode(samples)

    def throw_exception_if_invalid(self) -> None:
        """The codec has no weights that could be missing."""

    def get_sd(self) -> dict[str, Tensor]:
        """The codec has no weights to save."""
        return {}


def dct_codec(vae: comfy.sd.VAE) -> DctCodec | None:
    """The embedded codec behind a VAE, or None for a VAE with weights."""
    return getattr(vae, "codec", None) if isinstance(vae, comfy.sd.VAE) else None


def codec_name(vae: comfy.sd.VAE) -> str:
    """Name under which a memory remembers whose tokens it holds.

    Raises:
        ModelMismatchError: The VAE is not of Wan2.2's family.
    """
    expect_vae(vae)
    return WAN_CODEC if dct_codec(vae) is None else CODEC_NAME


def expect_vae(vae: comfy.sd.VAE) -> None:
    """Raise `ModelMismatchError` unless the VAE makes latents of 48 channels."""
    channels = getattr(vae, "latent_channels", None)
    if channels is None:
        raise ModelMismatchError("The VAE input is not a VAE", got=type(vae).__name__)
    expect_token_channels("The VAE", int(channels))


def to_model_space(samples: Tensor) -> Tensor:
    """Raw VAE latents (B, 48, T, h, w) as the model sees them."""
    return comfy.latent_formats.Wan22().process_in(samples.float())


def from_model_space(samples: Tensor) -> Tensor:
    """The inverse of `to_model_space`."""
    return comfy.latent_formats.Wan22().process_out(samples.float())


def latent_tokens(latent: Latent, name: str) -> Tensor:
    """Model-space tokens (48, T, h, w), on the CPU, of the one video in a LATENT.

    Raises:
        ShapeError: The latent is not one video.
        ModelMismatchError: The latent does not have 48 channels.
    """
    samples = latent["samples"]
    if samples.ndim != 5 or samples.shape[0] != 1:  # noqa: PLR2004
        raise ShapeError(
            f"{name} is not one video latent",
            got=tuple(samples.shape),
            expected="(1, 48, T, h, w)",
            fix="Encode with the Wan2.2 VAE or Mirage Embedded Codec, one video at a time",
        )
    expect_token_channels(name, samples.shape[1])
    return to_model_space(samples.cpu())[0]


def make_latent(tokens: Tensor) -> Latent:
    """LATENT of model-space tokens (48, T, h, w)."""
    return {"samples": from_model_space(tokens[None])}


def encode_images(
    vae: comfy.sd.VAE, images: Tensor, on_image: Callable[[int, int], None] | None = None
) -> Tensor:
    """Encode each picture (F, H, W, 3) alone: model-space tokens (48, F, h, w) on the CPU.

    Raises:
        ShapeError: The size is not a multiple of 32.
        ModelMismatchError: The VAE is not of Wan2.2's family.
    """
    expect_vae(vae)
    expect_frame_size(int(images.shape[2]), int(images.shape[1]))
    tokens = []
    for number in range(len(images)):
        raw = vae.encode(images[number : number + 1, :, :, :3])
        latent = raw.reshape(1, LATENT_CHANNELS, 1, *raw.shape[-2:]).cpu()
        tokens.append(to_model_space(latent)[0])
        if on_image is not None:
            on_image(number + 1, len(images))
    return torch.cat(tokens, dim=1)


def encode_video(vae: comfy.sd.VAE, frames: Tensor) -> Tensor:
    """Encode one video (4T - 3, H, W, 3): model-space tokens (48, T, h, w) on the CPU."""
    raw = vae.encode(frames)
    return to_model_space(raw.reshape(-1, *raw.shape[-4:]).cpu())[0]


def decode_video(vae: comfy.sd.VAE, latent: Latent) -> Tensor:
    """Frames (F, H, W, 3) in 0..1 of the one video in a LATENT, as VAE Decode makes them."""
    images = vae.decode(latent["samples"])
    return images.reshape(-1, *images.shape[-3:])


def token_colours(tokens: Tensor, codec: str) -> Tensor:
    """Approximate colours (N, 3) in 0..1 of model-space tokens (N, 48), for display."""
    if codec == CODEC_NAME:
        colours = [DctCodec().decode_patches(part).mean((1, 2)) for part in _parts(tokens)]
        return torch.cat(colours or [torch.zeros(0, 3)]).clamp(0, 1)
    latent_format = comfy.latent_formats.Wan22()
    factors = torch.tensor(latent_format.latent_rgb_factors)
    bias = torch.tensor(latent_format.latent_rgb_factors_bias)
    return ((tokens.float().cpu() @ factors + bias) / 2 + 0.5).clamp(0, 1)


def _parts(tokens: Tensor) -> Iterator[Tensor]:
    return iter(tokens.float().split(16384))


def expect_same_codec(cache: LatentCache, vae: comfy.sd.VAE) -> None:
    """Raise `ModelMismatchError` unless the memory holds this VAE's latents."""
    name = codec_name(vae)
    if cache.codec != name:
        raise ModelMismatchError(
            "The memory was made with another VAE",
            got=f"a memory of {cache.codec!r}",
            expected=name,
            fix="Connect the VAE that the memory was made with, or make the memory again",
        )
