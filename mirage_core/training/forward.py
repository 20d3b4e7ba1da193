"""The model's forward pass in training and in its validation."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from .batch import TrainingBatch
from .settings import TrainingSettings


def precision(
    settings: TrainingSettings, device: torch.device
) -> AbstractContextManager[Any]:
    """Compute in the run's type; trained weights stay float32 and are cast where they are used.

    Casts are not kept: with sharded weights they would hold whole copies of them.
    """
    if settings.compute_dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, settings.compute_dtype, cache_enabled=False)


def velocity(model: Any, batch: TrainingBatch, settings: TrainingSettings) -> Tensor:
    """(B, C, T, h, w) predicted velocity of the target frames."""
    with precision(settings, batch.latents.device):
        (output,) = model(
            batch.latents,
            batch.timesteps,
            batch.text,
            side_hidden_states=batch.side,
            num_reference_frames=batch.segments.references,
            num_preceding_frames=batch.segments.preceding,
            return_dict=False,
        )
    frames: Tensor = output[:, :, batch.segments.target_frames]
    return frames
