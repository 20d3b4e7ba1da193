"""Finished weights under the released names, for the graph, the library and the released code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ..checkpoints.branch import HEADS_KEY
from ..checkpoints.branch_file import save_branch
from ..checkpoints.names import is_branch, to_released
from ..tensor_files import write_tensors
from .stages import ADAPTER

RELEASED_PREFIX: Final = "pipe.dit."
"""What the released code puts before the names of a LoRA."""

COMFYUI_PREFIX: Final = "diffusion_model."
"""What ComfyUI's LoRA loader looks for."""


def export_weights(
    folder: Path,
    step: int,
    transformer: Any,
    trained: Mapping[str, Tensor],
    dtype: torch.dtype,
    *,
    full_model: bool = False,
) -> list[Path]:
    """Write what a stage has trained.

    ``vace/step_0001000_vace.safetensors`` is the side branch, whose header says what it is made
    for. ``lora/step_0001000_lora.safetensors`` is the LoRA as the released code names it, with
    alpha = rank; the same with ``_comfyui`` is for ComfyUI's LoRA loaders, and the library reads
    both. ``model/step_0001000_model.safetensors`` is the whole model with its branch.

    Args:
        folder: Of the run.
        step: Steps that are done.
        transformer: The model, for what the branch is made for.
        trained: Whole trained tensors by the model's names, on the CPU.
        dtype: Type in the files.
        full_model: True when everything was trained.

    Returns:
        The files.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    name = f"step_{step:07d}"
    cast = {key: tensor.to(dtype).contiguous() for key, tensor in trained.items()}
    if full_model:
        path = folder / "model" / f"{name}_model.safetensors"
        released = {to_released(key): tensor for key, tensor in cast.items()}
        return [write_tensors(path, released, _meta(transformer))]
    paths = []
    branch = {to_released(key): tensor for key, tensor in cast.items() if is_branch(key)}
    if branch:
        path = folder / "vace" / f"{name}_vace.safetensors"
        paths.append(save_branch(path, branch, transformer.branch_config))
    lora = {_lora_name(key): tensor for key, tensor in cast.items() if f".{ADAPTER}." in key}
    for suffix, prefix in (("", RELEASED_PREFIX), ("_comfyui", COMFYUI_PREFIX)):
        if lora:
            path = folder / "lora" / f"{name}_lora{suffix}.safetensors"
            paths.append(write_tensors(path, {prefix + key: t for key, t in lora.items()}))
    return paths


def _lora_name(name: str) -> str:
    """``blocks.0.attn1.to_q.lora_A.mirage.weight`` as ``blocks.0.self_attn.q.lora_A.weight``."""
    return to_released(name.replace(f".{ADAPTER}.", "."))


def _meta(transformer: Any) -> dict[str, str]:
    """What a model file has to say that its shapes do not tell."""
    branch = transformer.branch_config
    heads = {HEADS_KEY: str(transformer.config.num_attention_heads)}
    return heads if branch is None else branch.metadata()
