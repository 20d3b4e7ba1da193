"""A chunk as models of the VACE kind are told of it: a video, and what of it is to be made."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..constants import GREY
from ..errors import ShapeError
from ..validate import expect_shape


@dataclass(frozen=True, eq=False)
class ControlVideo:
    """What a VACE model is shown of a chunk.

    Attributes:
        frames: (F, H, W, 3) float32 in 0..1, grey where something is to be made.
        masks: (F, H, W) float32, one for every frame: 1 is to be made, 0 is kept.
    """

    frames: Tensor
    masks: Tensor


def control_video(images: Tensor, holes: Tensor, known: Tensor | None = None) -> ControlVideo:
    """Known frames, then what the memory shows, with grey in its holes.

    Args:
        images: (F, H, W, C) drawings of the memory in 0..1; of C channels the first 3 count.
        holes: (F, H, W), anything but 0 where a drawing is unknown.
        known: (K, H, W, 3) the chunk's first K frames, which are kept whole; none if None.

    Raises:
        ShapeError: Sizes differ, or more frames are known than there are.
    """
    sizes = expect_shape("The drawings", images[..., :3], "F H W 3")
    expect_shape("The masks of holes", holes, "F H W", **sizes)
    unknown = holes > 0
    frames = torch.where(unknown[..., None], GREY, images[..., :3].float())
    masks = unknown.float()
    if known is not None:
        del sizes["F"]
        count = expect_shape("The known frames", known, "K H W 3", **sizes)["K"]
        if count > len(frames):
            raise ShapeError(
                "More frames are known than the chunk has", got=count,
                expected=f"at most {len(frames)}",
            )  # fmt: skip
        frames[:count] = known.to(frames)
        masks[:count] = 0
    return ControlVideo(frames, masks)
