"""Steering without a side branch, and the library's sampler, behind ComfyUI's interfaces."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ..mirage_core.conditioning.blend import edge_weights
from ..mirage_core.errors import ModelMismatchError
from ..mirage_core.readout.render import Readout
from ..mirage_core.sampling.schedule import LARGEST_SIGMA, TRAINING_STEPS
from ..mirage_core.sampling.solve import sample
from .adapters import from_model_space
from .adapters_model import Patcher
from .adapters_sampling import KEY, Wrappers, sample_chunk, without_mirage

_LEAST_TIMESTEP = 0.1
"""Below it, a velocity cannot be told from the model's clean estimate in float32."""


class TrainingFreeGuide:
    """Pins what the memory shows while the overall picture is formed.

    The model's estimate of the clean latent is replaced by the readout in visible cells. On the
    straight path of flow matching, ``x = (1 - sigma) z + sigma n``, a cell whose estimate is
    always z is z re-noised to the present sigma at every step, with the noise that the run
    began with, or with the fresh noise of samplers that add some. Working on the estimate
    instead of x keeps the history of multistep samplers consistent.

    Args:
        readout: What the memory shows.
        first: (C, 1, h, w) clean first frame in model space.
        until: Share of the steps for which visible cells are pinned.
        softness: Width of the edge between pinned and free cells, in cells.
    """

    def __init__(self, readout: Readout, first: Tensor, until: float, softness: float) -> None:
        self.tokens = readout.tokens.float()
        self.weights = edge_weights(readout.visible, softness)
        self.first = from_model_space(first[None])
        self.until = until

    def patch(self, model: Patcher) -> Patcher:
        """A clone of ``model`` that follows the readout when it is sampled."""
        patched = without_mirage(model)
        patched.add_wrapper_with_key(Wrappers.OUTER_SAMPLE, KEY, self.outer_sample)
        patched.add_wrapper_with_key(Wrappers.PREDICT_NOISE, KEY, self.predict_noise)
        return patched

    def outer_sample(self, executor: Any, *args: Any, **options: Any) -> Tensor:
        """Around a whole sampling run."""
        frames, height, width = self.weights.shape
        return sample_chunk(executor, (frames, height, width), self.first, *args, **options)

    def predict_noise(
        self,
        executor: Any,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Around one estimate of the clean latent, guidance included."""
        options = model_options or {}
        clean = executor(x, timestep, options, seed)
        sigmas = options["transformer_options"]["sample_sigmas"]
        done = int((sigmas[:-1] > timestep.max().to(sigmas)).sum())
        if done >= self.until * (len(sigmas) - 1):
            return clean
        return torch.lerp(clean, self.tokens.to(clean)[None], self.weights.to(clean))


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
        model = comfy.samplers.KSamplerX0Inpaint(model_wrap, sigmas)
        model.latent_image, model.noise = latent_image, noise
        options = extra_args | {"denoise_mask": denoise_mask}
        # The solver acts on each number alone, so a batch may pass as more channels.
        shape, folded = noise.shape, (-1, *noise.shape[2:])

        def denoise(latents: Tensor, timestep: float) -> Tensor:
            sigma = max(timestep, _LEAST_TIMESTEP) / TRAINING_STEPS
            x = latents.reshape(shape)
            clean = model(x, x.new_full(shape[:1], sigma), **options)
            return ((x - clean) / sigma).reshape(folded)

        def on_step(done: int, total: int, clean: Tensor) -> None:
            if callback is not None:
                estimate = clean.reshape(shape)
                callback(done - 1, estimate, estimate, total)

        start = noise
        if latent_image is not None and float(sigmas[0]) < LARGEST_SIGMA:
            start = torch.lerp(latent_image, noise, sigmas[0].to(noise))
        first = None
        if denoise_mask is not None and not bool(denoise_mask[:, :, :1].any()):
            first = latent_image[:, :, :1].reshape(-1, 1, *shape[3:])
        found = sample(denoise, start.reshape(folded), first, sigmas, on_step=on_step)
        return found.reshape(shape)


def expect_library_solver() -> None:
    """Raise `ModelMismatchError` unless the library's solver can run."""
    if find_spec("diffusers") is None:
        raise ModelMismatchError(
            "The UniPC solver of the library needs diffusers, which is not installed",
            expected="diffusers 0.35 or newer beside ComfyUI",
            fix="Run `pip install diffusers` with ComfyUI's Python, or use KSampler with uni_pc, "
            "which needs nothing",
        )
