"""Steering without a side branch, and the library's sampler, behind ComfyUI's interfaces."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...mirage_core.conditioning.blend import edge_weights
from ...mirage_core.readout.readout import Readout
from .chunk_guide import KEY, Wrappers, sample_chunk, without_mirage
from .model import Patcher
from .vae import from_model_space


class TrainingFreeGuide:
    """Pins what the memory shows while the overall picture is formed.

    The model's estimate of the clean latent is replaced by the readout in visible cells. On the
    straight path of flow matching, ``x = (1 - sigma) z + sigma n``, a cell whose estimate is
    always z is z re-noised to the present sigma at every step, with the noise that the run
    began with, or with the fresh noise of samplers that add some. Working on the estimate
    instead of x keeps the history of multistep samplers consistent.

    Args:
        readout: What the memory shows.
        first: (C, K, h, w) clean leading frames in model space.
        until: Share of the steps for which visible cells are pinned.
        softness: Width of the edge between pinned and free cells, in cells.
    """

    def __init__(self, readout: Readout, first: Tensor, until: float, softness: float) -> None:
        self.tokens = readout.tokens.float()
        self.weights = edge_weights(readout.visible, softness)
        if readout.weights is not None:
            self.weights = self.weights * readout.weights.to(self.weights)
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


