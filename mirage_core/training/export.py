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
from ..checkpoints.transformer_format import NO_TEXT, TEXT_EMBEDDING, TEXT_KEY
from ..constants import TEXT_WIDTH
from ..tensor_files import write_tensors
from .checkpoint import step_name
from .stages import ADAPTER

RELEASED_PREFIX: Final = "pipe.dit."
"""What the released code puts before the names of a LoRA."""

COMFYUI_PREFIX: Final = "diffusion_model."
"""What ComfyUI's LoRA loader looks for."""

BRANCH_PREFIX: Final = "vace."
"""What the branch's tensors begin with in a file that holds the video model as well: ComfyUI's
loader would take the file for a VACE model otherwise, and leaves them out this way."""


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
    both. ``model/step_0001000_model.safetensors`` is the whole model with its branch, which is
    written alone as well: ComfyUI's loader takes the video model from the first file, and Mirage
    Load Branch the branch from the second.

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
    name = step_name(step)
    cast = {key: tensor.to(dtype).contiguous() for key, tensor in trained.items()}
    paths = []
    if full_model:
        path = folder / "model" / f"{name}_model.safetensors"
        released = {to_released(key): tensor for key, tensor in cast.items()}
        paths.append(write_tensors(path, *_whole_model(released, transformer)))
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


def _whole_model(
    tensors: dict[str, Tensor], transformer: Any
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a model file, and what it has to say that their shapes do not tell."""
    branch = transformer.branch_config
    metadata = {HEADS_KEY: str(transformer.config.num_attention_heads)}
    metadata |= {} if branch is None else branch.metadata()
    text = tensors[TEXT_EMBEDDING]
    if not bool(text.any()):
        # As wide as ComfyUI takes for granted: more columns of zeros change nothing.
        tensors[TEXT_EMBEDDING] = text.new_zeros(text.shape[0], max(TEXT_WIDTH, text.shape[1]))
        metadata[TEXT_KEY] = NO_TEXT
    named = {BRANCH_PREFIX + key if is_branch(key) else key: t for key, t in tensors.items()}
    return named, metadata
