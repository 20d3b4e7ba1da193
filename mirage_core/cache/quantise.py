"""Tokens as 8-bit whole numbers with one scale per token."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

LEVELS: Final = 127
"""Largest magnitude of a stored number; -128 is not used, so that signs are symmetric."""


def quantise(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Round tokens to int8 with the largest entry of each at full scale.

    The scale is rounded to float16 first and the numbers are made for the rounded scale. The
    error of an entry is at most half a step, ``scale / 2``, with ``scale = max |token| / 127``.

    Args:
        tokens: (N, C) floating point, finite.

    Returns:
        (N, C) int8 and (N,) float16.
    """
    wide = tokens.float()
    largest = wide.abs().amax(dim=1) if wide.numel() else wide.new_zeros(len(wide))
    scale = (largest / LEVELS).clamp_max(torch.finfo(torch.float16).max).half()
    step = torch.where(scale > 0, scale.float(), torch.inf)
    numbers = (wide / step[:, None]).round().clamp(-LEVELS, LEVELS)
    return numbers.to(torch.int8), scale
