"""Flow matching: noise levels, noisy latents, and the loss.

``x = (1 - sigma) z + sigma n`` with target ``v = n - z`` on the noisy target frames. The first
target frame, preceding and reference frames stay clean, at time 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..codecs.base import LatentCodec
from ..sampling.schedule import TRAINING_STEPS


def draw_sigmas(
    clips: int, frames: int, generator: torch.Generator, *, shift: float, per_frame: bool
) -> Tensor:
    """Noise levels of a micro-batch: ``shift u / (1 + (shift - 1) u)`` of uniform u.

    Args:
        clips: B.
        frames: T target frames.
        generator: On the CPU.
        shift: 1 keeps them uniform, larger values lean to high noise.
        per_frame: A level for each frame instead of one for each clip.

    Returns:
        (B, T) float32; 0 for the first frame.
    """
    uniform = torch.rand(clips, frames if per_frame else 1, generator=generator)
    return _with_clean_first(shifted(uniform, shift).expand(clips, frames))


def spaced_sigmas(clips: int, frames: int, level: float, *, shift: float) -> Tensor:
    """(B, T) one noise level for all frames but the first, from ``level`` in 0..1."""
    return _with_clean_first(shifted(torch.full((clips, frames), level), shift))


def shifted(uniform: Tensor, shift: float) -> Tensor:
    """``shift u / (1 + (shift - 1) u)``, the spacing of `mirage_core.sampling.schedule`."""
    return shift * uniform / (1 + (shift - 1) * uniform)


def noisy(target: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """(B, C, T, h, w) latents at noise levels (B, T)."""
    level = sigmas[:, None, :, None, None].to(target)
    return (1 - level) * target + level * noise


def timesteps(sigmas: Tensor) -> Tensor:
    """(B, T) timesteps 0..1000 of noise levels; not rounded."""
    return TRAINING_STEPS * sigmas


def flow_loss(
    velocity: Tensor, target: Tensor, noise: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Mean square error of the velocity over all frames but the first.

    Args:
        velocity: (B, C, T, h, w) what the model predicts.
        target: (B, C, T, h, w) clean latents.
        noise: (B, C, T, h, w).
        weights: (C,) weight of each channel, of mean 1; None for equal ones.

    Returns:
        A float32 scalar.
    """
    wanted = (noise - target)[:, :, 1:].float()
    error = (velocity[:, :, 1:].float() - wanted).square()
    if weights is not None:
        error = error * weights.to(error)[:, None, None, None]
    return error.mean()


@torch.no_grad()
def pixel_weights(codec: LatentCodec, step: float = 0.05) -> Tensor:
    """What each latent channel does to pixels, as weights of a loss.

    The change of the second latent frame's pixels under a small step of one channel in the
    middle of a grey picture, squared and summed. For a linear codec the weighted loss is the
    pixel error; for a network it is that near a grey picture.

    Args:
        codec: Latents to pixels.
        step: Size of the step in model space.

    Returns:
        (C,) float32 of mean 1, on the CPU.
    """
    grey = torch.zeros(codec.channels, 2, 4, 4)
    base = codec.decode(grey).float()
    energy = torch.zeros(codec.channels)
    for channel in range(codec.channels):
        moved = grey.clone()
        moved[channel, 1, 1:3, 1:3] = step
        energy[channel] = (codec.decode(moved).float() - base)[1:].square().sum()
    return energy / energy.mean()


def _with_clean_first(sigmas: Tensor) -> Tensor:
    sigmas = sigmas.clone()
    sigmas[:, 0] = 0
    return sigmas
