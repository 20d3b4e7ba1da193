"""Sinusoids of timesteps against numpy's in 64 bits, to the last bit of a float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mirage_core.errors import ShapeError
from mirage_core.models.timesteps import DoubleTimesteps

STEPS = torch.tensor([0.0, 1.0, 0.3333, 123.456, 857.142883, 937.5, 999.9, 1000.0])


def in_64_bits(steps: Tensor, channels: int) -> np.ndarray:
    half = channels // 2
    rates = np.exp(-np.log(10000.0) * np.arange(half) / half)
    phases = np.outer(steps.double().numpy(), rates)
    return np.concatenate([np.cos(phases), np.sin(phases)], axis=1)


@pytest.mark.parametrize("channels", [2, 64, 256])
def test_they_are_exact_to_a_float32(channels: int) -> None:
    found = DoubleTimesteps(channels)(STEPS)
    assert found.dtype == torch.float32
    assert np.abs(found.numpy() - in_64_bits(STEPS, channels)).max() < 6e-8


def test_32_bits_would_not_do() -> None:
    """What the stock module gives is a hundred times farther off."""
    embeddings = pytest.importorskip("diffusers.models.embeddings", reason="needs diffusers")
    stock = embeddings.Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)
    assert np.abs(stock(STEPS).numpy() - in_64_bits(STEPS, 256)).max() > 1e-5


def test_coarse_timesteps_are_taken_as_they_are() -> None:
    coarse = STEPS.bfloat16()
    assert torch.equal(DoubleTimesteps(64)(coarse), DoubleTimesteps(64)(coarse.float()))


def test_an_odd_number_of_channels_is_refused() -> None:
    with pytest.raises(ShapeError, match="pairs"):
        DoubleTimesteps(63)
