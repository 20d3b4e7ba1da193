"""Where the noise of a chunk comes from."""

from __future__ import annotations

import torch
from torch import Tensor


def chunk_noise(shape: tuple[int, int, int, int], seed: int) -> Tensor:
    """Standard normal noise for a latent, the same on every machine.

    The numbers are those that ComfyUI draws for a latent (1, C, T, h, w) and this seed, so
    that a shot made in the graph and one made by the library agree. They come from a generator
    of their own: the global one is neither used nor moved.

    Args:
        shape: (C, T, h, w).
        seed: 0 to 2^64 - 1; `mirage_core.rollout.state.chunk_seed` gives one per chunk.

    Returns:
        (C, T, h, w) float32 on the CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((1, *shape), generator=generator, dtype=torch.float32)[0]
