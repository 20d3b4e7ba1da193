"""Noise levels of the sampling steps."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

from ..errors import ValueRangeError
from ..validate import expect_range

DEFAULT_STEPS: Final = 40
"""Steps of the paper; the released code's own default is 20."""

DEFAULT_SHIFT: Final = 5.0
"""How far the grid leans towards high noise."""

MAX_SIGMA: Final = 0.999
"""Where the grid begins before it is shifted (released setting)."""

TRAINING_STEPS: Final = 1000
"""Timestep of pure noise; a timestep is this times sigma."""

MAX_STEPS: Final = 1000
MAX_SHIFT: Final = 100.0


def sigma_schedule(
    steps: int = DEFAULT_STEPS, shift: float = DEFAULT_SHIFT, start: float = MAX_SIGMA
) -> Tensor:
    """The released grid of noise levels.

    ``sigma' = shift sigma / (1 + (shift - 1) sigma)`` of evenly spaced sigmas.

    Spatia's UniPC has the defaults; its Euler sampler begins at 1 and keeps exact timesteps.

    Args:
        steps: Sampling steps.
        shift: 1 keeps the even spacing, larger values spend more steps at high noise.
        start: Where the even spacing begins.

    Returns:
        (steps + 1,) float32, falling; the last entry is 0.

    Raises:
        ValueRangeError: A number is out of range.
    """
    expect_range("The number of steps", steps, 1, MAX_STEPS)
    expect_range("The shift", shift, 0.01, MAX_SHIFT)
    expect_range("The first noise level", start, 0.01, 1)
    even = np.linspace(start, 0, steps + 1)
    return torch.from_numpy(shift * even / (1 + (shift - 1) * even)).float()


def expect_sigmas(sigmas: Tensor) -> None:
    """Raise `ValueRangeError` unless noise levels fall from at most 1 to exactly 0."""
    falling = sigmas.ndim == 1 and len(sigmas) > 1 and bool((sigmas.diff() < 0).all())
    if falling and float(sigmas[0]) <= 1 and float(sigmas[-1]) == 0:
        return
    raise ValueRangeError(
        "The noise levels are not a sampling schedule",
        got=sigmas.flatten().tolist()[:4] if sigmas.numel() else "none",
        expected="at least two numbers that fall from at most 1 to 0",
    )


def timesteps_of(sigmas: Tensor, *, integer: bool = True) -> list[float]:
    """What the model is told of each step's noise level: 1000 sigma.

    Args:
        sigmas: (N + 1,) noise levels; the last one, 0, is never shown to the model.
        integer: Truncate to integers, as the released sampler does: sigma 0.9785 becomes
            timestep 978. False keeps the exact level.

    Returns:
        N timesteps.
    """
    exact = (sigmas[:-1].double() * TRAINING_STEPS).tolist()
    return [float(int(step)) for step in exact] if integer else exact
