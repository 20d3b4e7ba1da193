"""Where Mirage may compute beside ComfyUI's models."""

from __future__ import annotations

from typing import Final

import comfy.model_management
import torch

ROOM: Final = 2 << 30
"""Bytes that drawing takes beside the models, with room to spare."""


def drawing_device() -> torch.device:
    """The GPU, with room made on it, where float64 is at home there; else the CPU."""
    device = comfy.model_management.get_torch_device()
    if device.type != "cuda":
        return torch.device("cpu")
    comfy.model_management.free_memory(ROOM, device)
    return device
