"""Known pixels put back over what a video model made of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..validate import expect_range, expect_shape

MAX_FEATHER = 1024
"""Pixels beyond which a rim is wider than what is known."""


def paste_known(
    frames: Tensor,
    images: Tensor,
    holes: Tensor,
    feather: float = 0,
    strength: float = 1,
    on_frame: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Frames with the known pixels of a drawing over them.

    A known pixel counts fully from ``feather`` pixels inside the known on, and less the nearer
    it is to a hole; nothing of a hole is taken. The picture's border is no hole.

    Args:
        frames: (F, H, W, 3) what a model made, in 0..1.
        images: (F, H, W, C) drawings in 0..1; of C channels the first 3 count.
        holes: (F, H, W), anything but 0 where a drawing is unknown.
        feather: Width of the rim, in pixels.
        strength: Share of the drawing where it counts fully.
        on_frame: Called with (done, total) after each frame; may raise to cancel.

    Returns:
        (F, H, W, 3) of the frames' type and device.

    Raises:
        ShapeError: Sizes differ.
        ValueRangeError: A number is out of range.
    """
    sizes = expect_shape("The frames", frames, "F H W 3")
    expect_shape("The drawings", images[..., :3], "F H W 3", **sizes)
    expect_shape("The masks of holes", holes, "F H W", **sizes)
    expect_range("The feather", feather, 0, MAX_FEATHER)
    expect_range("The strength", strength, 0, 1)
    pasted = frames.clone()
    for number, mask in enumerate(holes):
        weight = strength * known_weight(mask > 0, feather)
        pasted[number].lerp_(images[number, ..., :3].to(pasted), weight[..., None].to(pasted))
        if on_frame is not None:
            on_frame(number + 1, len(holes))
    return pasted


def known_weight(unknown: Tensor, feather: float) -> Tensor:
    """How much a known pixel counts: (H, W) float32 in 0..1, 0 in holes.

    Args:
        unknown: (H, W) bool.
        feather: Pixels from a hole over which the weight rises.
    """
    from scipy.ndimage import distance_transform_edt

    if feather == 0 or not bool(unknown.any()):
        return (~unknown).float()
    distance = torch.from_numpy(distance_transform_edt(~unknown.cpu().numpy()))
    return (distance / (feather + 1)).clamp(max=1).float()
