"""The timestep as the video model was trained to see it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import ShapeError

PERIOD = 10_000.0
"""Longest period of the sinusoids, in units of the timestep."""


class DoubleTimesteps(nn.Module):
    """Sinusoids of timesteps, computed in 64 bits as Wan's own code does.

    ``[cos(t w_k) | sin(t w_k)]`` with ``w_k = PERIOD^(-k / (channels / 2))``. In 32 bits a
    timestep near 1000 leaves errors of 6e-5 in its fastest sinusoids, which large weights carry on.

    Args:
        channels: Of the result; even.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels % 2:
            raise ShapeError(
                "Sinusoids of a timestep come in pairs", got=channels, expected="an even number"
            )
        self.channels = channels

    def forward(self, timesteps: Tensor) -> Tensor:
        """Sinusoids (N, channels) float32 of timesteps (N,), on their device."""
        # Metal has no numbers of 64 bits; there are only a few timesteps to carry over.
        device = torch.device("cpu") if timesteps.device.type == "mps" else timesteps.device
        half = self.channels // 2
        steps = torch.arange(half, dtype=torch.float64, device=device)
        phases = timesteps.to(device, torch.float64)[:, None] * PERIOD ** (-steps / half)
        return torch.cat([phases.cos(), phases.sin()], dim=1).float().to(timesteps.device)
