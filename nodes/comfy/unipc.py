"""The library's UniPC behind ComfyUI's sampler interface."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...mirage_core.errors import ModelMismatchError
from ...mirage_core.sampling.schedule import MAX_SIGMA, TRAINING_STEPS
from ...mirage_core.sampling.solve import sample
from .vae import leading_clean

_MIN_TIMESTEP = 0.1
"""Below it, a velocity cannot be told from the model's clean estimate in float32."""


class LibrarySampler(comfy.samplers.Sampler):
    """The library's UniPC, as the released code runs it, behind ComfyUI's sampler interface."""

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callable[[int, Tensor, Tensor, int], None] | None,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """From noise (B, C, T, h, w) to latents, both in model space."""
        # Any, since it takes the two below without declaring them, as ComfyUI itself gives them.
        model: Any = comfy.samplers.KSamplerX0Inpaint(model_wrap, sigmas)
        model.latent_image, model.noise = latent_image, noise
        options = extra_args | {"denoise_mask": denoise_mask}
        # The solver acts on each number alone, so a batch may pass as more channels.
        shape, folded = noise.shape, (-1, *noise.shape[2:])

        def denoise(latents: Tensor, timestep: float) -> Tensor:
            sigma = max(timestep, _MIN_TIMESTEP) / TRAINING_STEPS
            x = latents.reshape(shape)
            clean = model(x, x.new_full(shape[:1], sigma), **options)
            return ((x - clean) / sigma).reshape(folded)

        def on_step(done: int, total: int, clean: Tensor) -> None:
            if callback is not None:
                estimate = clean.reshape(shape)
                callback(done - 1, estimate, estimate, total)

        start = noise
        if latent_image is not None and float(sigmas[0]) < MAX_SIGMA:
            start = torch.lerp(latent_image, noise, sigmas[0].to(noise))
        first = None
        if latent_image is not None and denoise_mask is not None:
            given = leading_clean(denoise_mask)
            if given:
                first = latent_image[:, :, :given].reshape(-1, given, *shape[3:])
        found = sample(denoise, start.reshape(folded), first, sigmas, on_step=on_step)
        return found.reshape(shape)


def expect_library_solver() -> None:
    """Raise `ModelMismatchError` unless the library's solver can run."""
    if find_spec("diffusers") is None:
        raise ModelMismatchError(
            "The UniPC solver of the library requires diffusers, which is not installed",
            expected="diffusers 0.35 or newer in the environment of ComfyUI",
            fix="Run `pip install diffusers` with ComfyUI's Python, or use KSampler with uni_pc, "
            "which needs nothing",
        )
