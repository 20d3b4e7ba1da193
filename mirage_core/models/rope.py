"""Rotary positions of reference, target and preceding frames."""

from __future__ import annotations

from typing import Final

import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import Tensor, nn

from ..conditioning.segments import Segments

THETA: Final = 10000.0
"""Base of the rotary frequencies, in all models of the Wan family."""

_NO_FLOAT64: Final = ("mps", "npu")
"""Devices that have no float64."""


class SegmentRope(nn.Module):
    """Rotary angles of every token, from its position in time, down and across.

    The model's own table begins at position 0 and ends at 1023. Reference frames stand before
    it, at negative times, so the angles are computed and not looked up:
    cos(-p a) = cos(p a) and sin(-p a) = -sin(p a). Without references the result is bit-equal
    to the stock model's. There is no buffer that a cast to bfloat16 could round.

    Args:
        head_dim: Channels of one attention head; even, and split over (t, y, x) as in Wan.
    """

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        spatial = 2 * (head_dim // 6)
        self.axes = (head_dim - 2 * spatial, spatial, spatial)

    def forward(
        self, segments: Segments, height: int, width: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each number twice in a row.

        Args:
            segments: How many frames of each kind there are.
            height: Rows of tokens in a frame.
            width: Columns of tokens in a frame.
            device: Where the result lives.

        Returns:
            Two tensors (1, R + T + P, height * width, head_dim) float32.
        """
        positions = segments.positions(height, width, device)
        dtype = torch.float32 if device.type in _NO_FLOAT64 else torch.float64
        tables = [
            get_1d_rotary_pos_embed(
                channels,
                positions[:, axis],
                THETA,
                use_real=True,
                repeat_interleave_real=True,
                freqs_dtype=dtype,
            )
            for axis, channels in enumerate(self.axes)
        ]
        cos = torch.cat([table[0] for table in tables], dim=-1)
        sin = torch.cat([table[1] for table in tables], dim=-1)
        shape = (1, segments.total, height * width, -1)
        return cos.reshape(shape), sin.reshape(shape)
