"""A node pack without nodes that has ComfyUI's SAM3 mark the left half of every frame.

All around its network is ComfyUI's own: loading, words, the packing of masks.
"""

from __future__ import annotations

from typing import Any

import comfy.ldm.sam3.detector
import torch
from comfy.ldm.sam3.tracker import pack_masks

NODE_CLASS_MAPPINGS: dict[str, Any] = {}

SIDE = 64


def _forward_video(
    self: torch.nn.Module, images: torch.Tensor, *_: Any, text_prompts: Any = None, **__: Any
) -> dict[str, Any]:
    """One track of the left half, where there is something to look for."""
    masks = torch.zeros(len(images), 1, SIDE, SIDE)
    masks[..., : SIDE // 2] = 1 if text_prompts else 0
    return {"packed_masks": pack_masks(masks), "n_frames": len(images)}


comfy.ldm.sam3.detector.SAM3Model.forward_video = _forward_video
