"""Conditioning of ComfyUI's models that paint holes, such as Wan2.2-Fun-5B-InP."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import comfy.model_management
import comfy.sd
import node_helpers
import torch
from torch import Tensor

from ...mirage_core.conditioning.inpaint import InpaintPlanes
from ...mirage_core.constants import GREY
from .vae import Latent, VaeCodec, from_model_space

Conditioning = list[Any]
"""ComfyUI's CONDITIONING: pairs of a text's tensor and a dict of everything else."""

_blanks: WeakKeyDictionary[comfy.sd.VAE, dict[tuple[int, int, int], Tensor]] = WeakKeyDictionary()
"""Latents of blank videos by VAE and size. They depend on nothing else and cost as much as many
sampling steps, so they are kept as long as the VAE lives."""


def blank_latent(vae: comfy.sd.VAE, frames: int, height: int, width: int) -> Tensor:
    """Model-space latent (C, frames, height, width) of a mid grey video, on the CPU."""
    codec = VaeCodec(vae)
    known, shape = _blanks.setdefault(vae, {}), (frames, height, width)
    if shape not in known:
        count = codec.temporal_stride * (frames - 1) + 1
        stride = codec.spatial_stride
        video = torch.full((count, height * stride, width * stride, 3), GREY)
        known[shape] = codec.encode(video)
    return known[shape]


def told(conditioning: Conditioning, planes: InpaintPlanes) -> Conditioning:
    """A copy of a conditioning that tells the model what is known.

    The latent is in the VAE's own space: the model brings it to its own. Of the mask, 0 is given
    and 1 is to be made: the model turns it round.
    """
    entries = {
        "concat_latent_image": from_model_space(planes.latent[None]),
        "concat_mask": planes.unknown[None],
    }
    return node_helpers.conditioning_set_values(conditioning, entries)


def empty_latent(planes: InpaintPlanes) -> Latent:
    """LATENT of zeros of a clip's size."""
    device = comfy.model_management.intermediate_device()
    return {"samples": torch.zeros(1, *planes.latent.shape, device=device)}
