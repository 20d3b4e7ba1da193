"""Means with the intervals in which they lie, by resampling the items."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.stats import bootstrap

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 4999
SEED: Final = 0


@dataclass(frozen=True)
class Estimate:
    """A mean over items.

    Attributes:
        mean: The mean.
        low: Lower end of its 95 % interval; None where there is none to tell.
        high: Upper end.
        count: Items.
    """

    mean: float
    low: float | None
    high: float | None
    count: int


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of at least one value, with its bootstrap interval (BCa).

    One value has no interval. Values that are all alike have one of no width.
    """
    numbers = np.asarray(values, dtype=np.float64)
    mean = float(numbers.mean())
    if len(numbers) == 1:
        return Estimate(mean, None, None, 1)
    if float(np.ptp(numbers)) == 0:
        return Estimate(mean, mean, mean, len(numbers))
    with warnings.catch_warnings():
        # Few items can give a distribution that BCa cannot correct; it says so and gives NaN.
        warnings.simplefilter("ignore")
        found = _interval(numbers, "BCa")
        if not np.isfinite(found).all():
            found = _interval(numbers, "percentile")
    return Estimate(mean, found[0], found[1], len(numbers))


def _interval(numbers: np.ndarray, method: str) -> tuple[float, float]:
    found = bootstrap(
        (numbers,), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE,
        method=method, random_state=np.random.default_rng(SEED), vectorized=True,
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)
