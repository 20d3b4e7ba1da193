"""How far each cell of a chunk follows the memory, when no side branch decides it."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from ..validate import expect_range, expect_shape

MAX_SOFTNESS = 64.0
"""Widest ramp in latent cells: more than half of a frame."""


def edge_weights(visible: Tensor, softness: float) -> Tensor:
    """Weight of what the memory shows: 1 inside the visible region, falling towards its edge.

    A cell whose nearest hole of the same frame is d cells away gets ``min(1, d / (1 + s))``, so
    that ``s`` cells along the edge lie between the memory and free generation. The border of
    the picture is no edge. Holes get 0.

    Args:
        visible: (T, h, w) bool, where the memory shows something.
        softness: ``s``, in latent cells; 0 is a hard edge.

    Returns:
        (T, h, w) float32 on the device of ``visible``.

    Raises:
        ShapeError: ``visible`` has another number of axes.
        ValueRangeError: The softness is negative or beyond any picture.
    """
    expect_shape("The visibility", visible, "T h w")
    expect_range("The softness", softness, 0.0, MAX_SOFTNESS)
    frames = visible.cpu().numpy()
    # Without a hole there is no edge, and the transform has nothing to measure from.
    distances = [
        np.full(frame.shape, np.inf) if frame.all() else distance_transform_edt(frame)
        for frame in frames
    ]
    distance = torch.from_numpy(np.stack(distances)) if distances else torch.zeros(visible.shape)
    return (distance / (1 + softness)).clamp(max=1).float().to(visible.device)
