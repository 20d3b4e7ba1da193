"""Files of the Wan2.2 autoencoder: names of tensors, sizes told from shapes, statistics."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from ..constants import LATENT_CHANNELS, SPATIAL_STRIDE, TEMPORAL_STRIDE
from ..errors import ModelMismatchError
from .branch import Shape

LATENT_MEAN: Final = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557,
    -0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098, 0.0375, -0.1825,
    -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230,
    -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748,
    0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)  # fmt: skip
"""Mean of each latent channel over the model's training videos."""

LATENT_STD: Final = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013,
    0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978,
    0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093,
    0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887,
    0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)  # fmt: skip
"""Standard deviation of each latent channel."""

MULTIPLIERS: Final = (1, 2, 4, 4)
"""Width of each level in units of the base width."""

PIXEL_CHANNELS: Final = 12
"""Channels of the encoder's input: RGB of 2 x 2 pixels."""

_RULES: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^conv1\.", "quant_conv."),
        (r"^conv2\.", "post_quant_conv."),
        (r"^(encoder|decoder)\.conv1\.", r"\1.conv_in."),
        (r"^(encoder|decoder)\.head\.0\.", r"\1.norm_out."),
        (r"^(encoder|decoder)\.head\.2\.", r"\1.conv_out."),
        (r"^(encoder|decoder)\.middle\.0\.", r"\1.mid_block.resnets.0."),
        (r"^(encoder|decoder)\.middle\.1\.", r"\1.mid_block.attentions.0."),
        (r"^(encoder|decoder)\.middle\.2\.", r"\1.mid_block.resnets.1."),
        # The last member of a level is its resampling: it alone has these parts.
        (r"\.downsamples\.(\d+)\.downsamples\.\d+\.(resample|time_conv)\.",
         r".down_blocks.\1.downsampler.\2."),
        (r"\.downsamples\.(\d+)\.downsamples\.(\d+)\.", r".down_blocks.\1.resnets.\2."),
        (r"\.upsamples\.(\d+)\.upsamples\.\d+\.(resample|time_conv)\.",
         r".up_blocks.\1.upsampler.\2."),
        (r"\.upsamples\.(\d+)\.upsamples\.(\d+)\.", r".up_blocks.\1.resnets.\2."),
        (r"\.residual\.0\.", ".norm1."),
        (r"\.residual\.2\.", ".conv1."),
        (r"\.residual\.3\.", ".norm2."),
        (r"\.residual\.6\.", ".conv2."),
        (r"\.shortcut\.", ".conv_shortcut."),
    )
)  # fmt: skip

_PREFIXES: Final = re.compile(r"^(?:first_stage_model\.|vae\.|module\.|model\.)+")


def to_diffusers(name: str) -> str:
    """A tensor's name in diffusers, from the released one or from its own."""
    name = _PREFIXES.sub("", name)
    for pattern, replacement in _RULES:
        name = pattern.sub(replacement, name)
    return name


def infer_config(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Arguments of `diffusers.AutoencoderKLWan`, from the shapes under diffusers' names.

    Raises:
        ModelMismatchError: This is not the autoencoder of Wan2.2.
    """
    latent = shapes.get("post_quant_conv.weight")
    encoder, decoder = shapes.get("encoder.conv_in.weight"), shapes.get("decoder.conv_in.weight")
    if latent is None or encoder is None or decoder is None:
        raise not_wan22("a file without the tensors of a Wan VAE")
    if latent[0] != LATENT_CHANNELS or encoder[1] != PIXEL_CHANNELS:
        old = " (Wan2.1)" if latent[0] == 16 else ""  # noqa: PLR2004
        raise not_wan22(f"an autoencoder with {latent[0]} latent channels{old}")
    return wan22_config(encoder[0], decoder[0] // MULTIPLIERS[-1])


def wan22_config(base_dim: int = 160, decoder_base_dim: int = 256) -> dict[str, Any]:
    """Arguments of `diffusers.AutoencoderKLWan` for Wan2.2; the widths are the released ones."""
    return {
        "base_dim": base_dim,
        "decoder_base_dim": decoder_base_dim,
        "z_dim": LATENT_CHANNELS,
        "dim_mult": list(MULTIPLIERS),
        "num_res_blocks": 2,
        "attn_scales": [],
        "temperal_downsample": [False, True, True],
        "latents_mean": list(LATENT_MEAN),
        "latents_std": list(LATENT_STD),
        "is_residual": True,
        "in_channels": PIXEL_CHANNELS,
        "out_channels": PIXEL_CHANNELS,
        "patch_size": 2,
        "scale_factor_temporal": TEMPORAL_STRIDE,
        "scale_factor_spatial": SPATIAL_STRIDE,
    }


def not_wan22(got: str) -> ModelMismatchError:
    """The error for an autoencoder of another model."""
    return ModelMismatchError(
        "This is not the Wan2.2 VAE",
        got=got,
        expected=f"{LATENT_CHANNELS} latent channels, {SPATIAL_STRIDE} x {SPATIAL_STRIDE} "
        "pixels for each latent cell",
        fix="Use wan2.2_vae.safetensors, or the vae folder of Wan2.2-TI2V-5B-Diffusers",
    )
