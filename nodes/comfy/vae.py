"""ComfyUI's VAE and LATENT: the embedded codec behind them, and model space at the border."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import comfy.latent_formats
import comfy.ldm.wan.vae
import comfy.model_management
import comfy.sd
import torch
from torch import Tensor

from ...mirage_core.codecs.colours import ColourCodec
from ...mirage_core.codecs.dct import CODEC_NAME, DctCodec
from ...mirage_core.codecs.memory_kind import MemoryKind
from ...mirage_core.constants import (
    LATENT_CHANNELS,
    SPATIAL_STRIDE,
    TEMPORAL_STRIDE,
    WAN21_CHANNELS,
    WAN21_CODEC,
    WAN_CODEC,
)
from ...mirage_core.errors import ModelMismatchError, ShapeError
from ...mirage_core.geometry.camera import latent_stride
from ...mirage_core.rollout.state import RolloutState
from ...mirage_core.validate import expect_frame_size, expect_token_channels
from .cancel import stop_when_cancelled, stopping_between

Latent = dict[str, Any]
"""ComfyUI's LATENT: ``samples`` (B, C, T, h, w) in the VAE's own, raw space; C is 48, or 16 of
the Wan2.1 VAE."""

VAE_NAMES = {LATENT_CHANNELS: "the Wan2.2 VAE", WAN21_CHANNELS: "the Wan2.1 VAE"}
"""How people call the VAEs that a shot can be made with, by the channels of their latents."""


class DctVAE(comfy.sd.VAE):
    """The embedded codec behind ComfyUI's VAE interface, so that stock nodes take it.

    Raw latents are the codec's tokens taken out of model space, as those of the Wan2.2 VAE.
    """

    def __init__(self) -> None:
        self.codec = DctCodec()
        # ComfyUI's class declares no types, and those of its own models are inferred for it.
        self.first_stage_model = torch.nn.Identity()  # type: ignore[assignment]
        self.device = torch.device("cpu")
        self.output_device = comfy.model_management.intermediate_device()
        self.vae_dtype = torch.float32
        self.latent_channels = LATENT_CHANNELS
        self.output_channels = 3
        self.latent_dim = 3
        self.not_video = False
        self.crop_input = True
        self.size = None
        self.upscale_ratio = (  # type: ignore[assignment]
            lambda frames: max(0, frames * TEMPORAL_STRIDE - TEMPORAL_STRIDE + 1),
            SPATIAL_STRIDE,
            SPATIAL_STRIDE,
        )
        self.downscale_ratio = (  # type: ignore[assignment]
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
            latents.append(self.codec.encode(video[:whole, :, :, :3], stop_when_cancelled))
        return from_model_space(torch.stack(latents)).to(self.output_device)

    def decode(self, samples_in: Tensor, vae_options: dict[str, Any] | None = None) -> Tensor:
        """Raw latents (B, 48, T, h, w) to (B, 4T - 3, H, W, 3) in 0..1."""
        expect_token_channels("The latent", samples_in.shape[1])
        latents = to_model_space(samples_in)
        videos = [self.codec.decode(latent, stop_when_cancelled) for latent in latents]
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


class VaeCodec:
    """A VAE of ComfyUI as the library's codec, see `mirage_core.codecs.base.LatentCodec`.

    Tokens are on the CPU and in model space; ComfyUI puts the VAE where it computes.

    Args:
        vae: A VAE of Wan2.2's family, or Mirage Embedded Codec; for a memory of colours that of
            Wan2.1 as well.
        on_image: Called with (done, total) after each picture that is encoded alone; may raise
            to cancel.
        memory: What the memory holds.

    Raises:
        ModelMismatchError: The VAE is of another family.
    """

    temporal_stride = TEMPORAL_STRIDE

    def __init__(
        self,
        vae: comfy.sd.VAE,
        on_image: Callable[[int, int], None] | None = None,
        memory: MemoryKind = MemoryKind.TOKENS,
    ) -> None:
        self.channels = expect_vae(vae, memory)
        self.spatial_stride = latent_stride(self.channels)
        self._vae, self._on_image = vae, on_image
        self.drawable = dct_codec(vae) is not None
        wan = WAN21_CODEC if self.channels == WAN21_CHANNELS else WAN_CODEC
        self.name = CODEC_NAME if self.drawable else wan

    def encode(self, frames: Tensor) -> Tensor:
        """One video (4T - 3, H, W, 3): tokens (C, T, h, w)."""
        with stopping_between(_layers(self._vae)):
            raw = self._vae.encode(frames)
        return to_model_space(raw.reshape(-1, *raw.shape[-4:]).cpu())[0]

    def encode_images(self, images: Tensor) -> Tensor:
        """Each picture (F, H, W, 3) alone: tokens (C, F, h, w).

        Raises:
            ShapeError: The size is not a multiple of 32.
        """
        expect_frame_size(int(images.shape[2]), int(images.shape[1]))
        tokens = []
        for number in range(len(images)):
            with stopping_between(_layers(self._vae)):
                raw = self._vae.encode(images[number : number + 1, :, :, :3])
            latent = raw.reshape(1, self.channels, 1, *raw.shape[-2:]).cpu()
            tokens.append(to_model_space(latent)[0])
            if self._on_image is not None:
                self._on_image(number + 1, len(images))
        return torch.cat(tokens, dim=1)

    def decode(self, latents: Tensor) -> Tensor:
        """Tokens (C, T, h, w) to frames (4T - 3, H, W, 3) in 0..1, as VAE Decode makes them."""
        with stopping_between(_layers(self._vae)):
            images = self._vae.decode(make_latent(latents)["samples"])
        return images.reshape(-1, *images.shape[-3:])

    def white_latent(self, frames: int, height: int, width: int) -> Tensor:
        """Tokens (C, T, h, w) of a white video of 4T - 3 frames."""
        return self.encode(torch.ones(frames, height, width, 3))


def _layers(vae: comfy.sd.VAE) -> Iterator[torch.nn.Module]:
    """Everything that a VAE computes with."""
    model = getattr(vae, "first_stage_model", None)
    return model.modules() if isinstance(model, torch.nn.Module) else iter(())


def expect_vae(vae: comfy.sd.VAE, memory: MemoryKind = MemoryKind.TOKENS) -> int:
    """Channels of the VAE's latents.

    Raises:
        ModelMismatchError: They are not 48, nor 16 of the Wan2.1 VAE for a memory of colours.
    """
    channels = getattr(vae, "latent_channels", None)
    if channels is None:
        raise ModelMismatchError("The VAE input is not a VAE", got=type(vae).__name__)
    if memory is MemoryKind.TOKENS or channels != WAN21_CHANNELS:
        expect_token_channels("The VAE", int(channels))
        return int(channels)
    model = getattr(vae, "first_stage_model", None)
    # Pictures' VAEs and those of other video models have 16 channels as well.
    if not isinstance(model, comfy.ldm.wan.vae.WanVAE):
        raise ModelMismatchError(
            "Latents of this VAE are not those of a Wan model",
            got=f"a VAE of 16 channels ({type(model).__name__})",
            expected="the Wan2.1 VAE or the Wan2.2 VAE",
            fix="Load wan_2.1_vae.safetensors or wan2.2_vae.safetensors in Load VAE",
        )
    return int(channels)


def expect_shot_vae(state: RolloutState, codec: VaeCodec) -> None:
    """Raise `ModelMismatchError` unless a VAE is of the kind that the shot was begun with."""
    if codec.channels == state.channels:
        return
    begun = VAE_NAMES.get(state.channels, f"a VAE of {state.channels} channels")
    raise ModelMismatchError(
        "The VAE is not the one that the shot was begun with",
        got="Mirage Embedded Codec" if codec.drawable else VAE_NAMES[codec.channels],
        expected=f"{begun}, whose latent Mirage Rollout Start was given",
        fix="Connect one VAE to Mirage Cache Init and to every node of the loop",
    )


def _format(samples: Tensor) -> comfy.latent_formats.LatentFormat:
    wan21 = samples.shape[1] == WAN21_CHANNELS
    return comfy.latent_formats.Wan21() if wan21 else comfy.latent_formats.Wan22()


def to_model_space(samples: Tensor) -> Tensor:
    """Raw VAE latents (B, C, T, h, w), C = 48 or 16, as the model sees them."""
    return _format(samples).process_in(samples.float())


def from_model_space(samples: Tensor) -> Tensor:
    """The inverse of `to_model_space`."""
    return _format(samples).process_out(samples.float())


def latent_tokens(latent: Latent, name: str, memory: MemoryKind = MemoryKind.TOKENS) -> Tensor:
    """Model-space tokens (C, T, h, w), on the CPU, of the one video in a LATENT.

    Args:
        latent: The latent.
        name: How the error message calls it.
        memory: What the memory of its shot holds.

    Raises:
        ShapeError: The latent is not one video.
        ModelMismatchError: C is not 48, nor 16 for a memory of colours.
    """
    samples = latent["samples"]
    if samples.ndim != 5 or samples.shape[0] != 1:  # noqa: PLR2004
        raise ShapeError(
            f"{name} is not one video latent",
            got=tuple(samples.shape),
            expected="(1, 48, T, h, w)",
            fix="Encode with the Wan2.2 VAE or Mirage Embedded Codec, one video at a time",
        )
    if memory is MemoryKind.TOKENS or samples.shape[1] != WAN21_CHANNELS:
        expect_token_channels(name, samples.shape[1])
    return to_model_space(samples.cpu())[0]


def make_latent(tokens: Tensor) -> Latent:
    """LATENT of model-space tokens (C, T, h, w), C = 48 or 16."""
    return {"samples": from_model_space(tokens[None])}


def make_clean_latent(tokens: Tensor) -> Latent:
    """LATENT of model-space tokens (C, K, h, w) that are to be kept, see `clean_tokens`."""
    latent = make_latent(tokens)
    if tokens.shape[1] > 1:
        latent["noise_mask"] = torch.zeros_like(latent["samples"][:, :1])
    return latent


def clean_tokens(latent: Latent, name: str, memory: MemoryKind = MemoryKind.TOKENS) -> Tensor:
    """Model-space tokens (C, K, h, w), on the CPU, of the frames to keep at a latent's start.

    These are the leading frames that its noise mask keeps; the first frame alone when there is
    no mask that speaks of frames.

    Raises:
        ShapeError: The latent is not one video.
        ModelMismatchError: C is not 48, nor 16 for a memory of colours.
    """
    tokens, mask = latent_tokens(latent, name, memory), latent.get("noise_mask")
    if mask is None or mask.ndim != 5 or mask.shape[2] != tokens.shape[1]:  # noqa: PLR2004
        return tokens[:, :1]
    return tokens[:, : max(1, leading_clean(mask))]


def leading_clean(mask: Tensor) -> int:
    """How many frames, from the first on, a noise mask (B, C, T, h, w) keeps whole."""
    made = mask.ne(0).movedim(2, 0).flatten(1).any(dim=1)
    return int((made.cumsum(0) == 0).sum())


def token_colours(tokens: Tensor, codec: str) -> Tensor:
    """Approximate colours (N, 3) in 0..1 of model-space tokens (N, 48), for display.

    Those of a memory of colours are exact.
    """
    if MemoryKind.of(codec) is MemoryKind.COLOURS:
        return ColourCodec.named(codec).decode_patches(tokens.cpu())[:, 0, 0]
    if codec == CODEC_NAME:
        colours = [DctCodec().decode_patches(part).mean((1, 2)) for part in _parts(tokens)]
        return torch.cat(colours or [torch.zeros(0, 3)]).clamp(0, 1)
    latent_format = comfy.latent_formats.Wan22()
    factors = torch.tensor(latent_format.latent_rgb_factors)
    bias = torch.tensor(latent_format.latent_rgb_factors_bias)
    return ((tokens.float().cpu() @ factors + bias) / 2 + 0.5).clamp(0, 1)


def _parts(tokens: Tensor) -> Iterator[Tensor]:
    return iter(tokens.float().split(16384))
