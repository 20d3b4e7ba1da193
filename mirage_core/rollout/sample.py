"""Reading the memory for a chunk, and sampling its latents."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..readout.readout import Readout, read
from ..sampling.noise import chunk_noise
from ..sampling.schedule import sigma_schedule
from ..sampling.solve import OnStep, sample
from .conditions import OnPart
from .models import GenerationModels
from .settings import GenerationSettings
from .state import RolloutState, chunk_seed

NoiseSource = Callable[[RolloutState, tuple[int, int, int, int]], Tensor]
"""Noise (C, T, h, w) of the next chunk, from the state before it and the shape."""


def sample_chunk(
    state: RolloutState,
    models: GenerationModels,
    settings: GenerationSettings,
    on_step: OnStep | None = None,
    noise: NoiseSource | None = None,
    on_part: OnPart | None = None,
) -> tuple[Readout, Tensor]:
    """Read the memory for the next chunk, and sample its latents.

    Args:
        state: The state before the chunk.
        models: The parts that hold weights.
        settings: How the shot is generated.
        on_step: Called after every step; may raise to cancel.
        noise: Where noise comes from; `chunk_noise` of the chunk's seed by default.
        on_part: Called while the condition is made, before the first step; may raise to cancel.

    Returns:
        The readout, and (C, T, h, w) float32 latents, the overlapping ones first.
    """
    readout = read(state.cache, state.frame_cameras, settings.memory.view)
    condition = models.condition_source(state, readout, settings, on_part)
    if models.prepare is not None:
        models.prepare(state)
    height, width = state.grid
    shape = (state.channels, state.chunk.latent_frames, height, width)
    drawn = (noise or seeded_noise)(state, shape)
    latents = sample(
        models.denoiser(condition),
        drawn.to(models.device),
        state.overlap_latent,
        sigma_schedule(settings.steps, settings.shift),
        method=settings.method,
        integer_timesteps=settings.integer_timesteps,
        on_step=on_step,
    )
    return readout, latents


def seeded_noise(state: RolloutState, shape: tuple[int, int, int, int]) -> Tensor:
    """Noise of the next chunk from the shot's seed and the chunk's number."""
    return chunk_noise(shape, chunk_seed(state.seed, state.done))
