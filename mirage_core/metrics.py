"""Measures of picture quality."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .errors import ShapeError

MAX_PSNR = 100.0
"""Reported for pictures that are equal."""


def psnr(one: Tensor, other: Tensor, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB of pictures in 0..1.

    ``10 log10(1 / mean((a - b)^2))``

    Args:
        one: (..., 3) pictures in 0..1.
        other: Of the same shape.
        mask: (...) bool; only these pixels count.

    Returns:
        The ratio, at most 100 dB.

    Raises:
        ShapeError: The shapes differ, or no pixel counts.
    """
    if one.shape != other.shape:
        raise ShapeError(
            "Pictures of different sizes cannot be compared",
            got=f"{tuple(one.shape)} and {tuple(other.shape)}",
        )
    error = (one.double() - other.double()).square()
    if mask is not None:
        error = error[mask]
    if error.numel() == 0:
        raise ShapeError("There is no pixel to compare")
    mean = float(error.mean())
    return min(MAX_PSNR, -10 * math.log10(max(mean, 1e-12)))


def returns_to_start(poses: Tensor, tolerance: float = 1e-6) -> bool:
    """True when the last pose of a path (F, 4, 4) is the first one again."""
    return len(poses) > 1 and bool(torch.allclose(poses[0], poses[-1], atol=tolerance))
