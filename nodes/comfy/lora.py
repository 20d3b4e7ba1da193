"""LoRAs of the video model on ComfyUI's model, under any of the names that Mirage reads."""

from __future__ import annotations

from pathlib import Path

import comfy.sd

from ...mirage_core.checkpoints.lora_format import comfyui_weights, for_comfyui, read_lora
from ...mirage_core.errors import ModelMismatchError
from .model import Patcher, expect_fitting_loras, expect_video_model

LORA_FOLDER = "loras"
"""ComfyUI's folder for LoRAs."""


def with_lora(model: Patcher, path: Path, strength: float) -> Patcher:
    """A clone of a model with a LoRA on it; ComfyUI patches the weights when it loads them.

    ComfyUI's own loader leaves out, with lines in the log only, what it cannot match by name.

    Raises:
        ModelMismatchError: The model is of another family, the file is no LoRA, or it changes
            something that the model does not have, or a matrix of another size.
    """
    expect_video_model(model)
    lora = read_lora(path)
    tensors = for_comfyui(lora)
    own = model.model.state_dict().keys()
    missing = [name for name in comfyui_weights(lora) if name not in own]
    if missing:
        raise ModelMismatchError(
            f"The LoRA {path.name} was made for another model",
            got=f"a change of {missing[0]}, which this model does not have",
            expected="a LoRA for Wan2.2-TI2V-5B",
            fix="Choose the LoRA that belongs to the model",
        )
    patched, _ = comfy.sd.load_lora_for_models(model, None, tensors, strength, 0.0)
    expect_fitting_loras(patched)
    return patched
