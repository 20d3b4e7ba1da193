"""Reading the video model, and the side branch that goes with it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import init_empty_weights
from torch import Tensor

from ..checkpoints.branch import BranchConfig
from ..checkpoints.branch_file import BranchWeights, load_branch, shapes_of
from ..checkpoints.branch_format import BranchFormat
from ..checkpoints.names import is_branch, to_diffusers
from ..checkpoints.transformer_format import (
    TransformerFormat,
    open_transformer,
    plain_name,
    read_format,
    transformer_folder,
)
from ..checkpoints.weight_files import keep_float32_words, load_into, parameter_type
from ..conditioning.features import format_features
from ..errors import ModelMismatchError
from ..tensor_files import expect_tensors
from .gguf_file import read_gguf_header, read_gguf_tensors
from .transformer import MirageTransformer3DModel

SideInit = Literal["zero", "copy"]
"""How a new side branch begins: random with outputs of zero, or as copies of the backbone's
blocks with outputs of zero."""

Branch = Path | str | BranchWeights | BranchConfig


def load_transformer(
    path: Path | str,
    *,
    branch: Branch | None = None,
    branch_format: BranchFormat | str = "auto",
    side_init: SideInit | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
) -> MirageTransformer3DModel:
    """Read Wan2.2-TI2V-5B, with or without a side branch.

    What the model is made for comes from the shapes of its tensors, and nothing is left out:
    a tensor that is missing, unexpected or of another shape is an error.

    Args:
        path: A folder in diffusers' layout (of the whole model or its ``transformer``), a
            ``.safetensors`` file under Wan's, ComfyUI's or diffusers' names, or a ``.gguf``
            file. Files in 8 bits (``fp8_scaled`` and plain) are widened to ``dtype``.
        branch: A branch file or what was read from it, or the configuration of a new branch.
            A branch that is part of the model file is read by itself.
        branch_format: What 96 input planes of a branch mean where its file does not say it, see
            `mirage_core.checkpoints.branch_format`.
        side_init: How a new branch begins; "zero" by default.
        dtype: Type of the parameters; those that the model wants in float32 stay so. In a GGUF
            file it is the type to compute in: matrices stay quantised.
        device: Where the parameters go.

    Raises:
        ModelMismatchError: The files are missing, damaged, pickled or of another model, the
            branch does not fit or leaves open what it was made for, or ``side_init`` is given
            without a new branch.
    """
    path = transformer_folder(Path(path))
    if side_init is not None and not isinstance(branch, BranchConfig):
        raise ModelMismatchError(
            "Only a new side branch can be initialised",
            got=f"side_init {side_init} with {'no branch' if branch is None else 'a branch file'}",
            expected="the configuration of the new branch",
        )
    if path.suffix.lower() == ".gguf":
        model, known = _load_gguf(path, branch, branch_format, dtype, device)
    else:
        model, known = _load_safetensors(path, branch, branch_format, dtype, device)
    if isinstance(branch, BranchConfig):
        _add_new_branch(model, branch, side_init or "zero", dtype, device)
    elif known is not None:
        _add_branch(model, known, dtype, device)
    return model.eval()


def _load_safetensors(
    path: Path,
    branch: Branch | None,
    branch_format: str,
    dtype: torch.dtype,
    device: torch.device | str,
) -> tuple[Any, BranchWeights | None]:
    files = open_transformer(path)
    form = read_format(files.shapes, files.metadata, files.name, branch_format)
    known = _branch_weights(branch, form, branch_format)
    with init_empty_weights():
        model: Any = MirageTransformer3DModel(**form.arguments, **side_arguments(form.branch))
    load_into(model, files, dtype, device, keep_float32=keep_float32_words(model))
    return model.to(device), known


def _load_gguf(
    path: Path,
    branch: Branch | None,
    branch_format: str,
    dtype: torch.dtype,
    device: torch.device | str,
) -> tuple[Any, BranchWeights | None]:
    from diffusers import GGUFQuantizationConfig

    shapes, metadata = read_gguf_header(path, plain_name)
    form = read_format(shapes, metadata, f"The model {path.name}", branch_format)
    known = _branch_weights(branch, form, branch_format)
    arguments = {**form.arguments, **side_arguments(form.branch)}
    with init_empty_weights():
        model: Any = MirageTransformer3DModel(**arguments)
    expected = shapes_of(model.state_dict())
    expect_tensors(f"The model {path.name}", shapes, expected, "Download the file again")
    linear = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    tensors = read_gguf_tensors(path, plain_name, linear.__contains__)
    with tempfile.TemporaryDirectory() as folder:
        # Given a configuration, diffusers neither guesses the model nor asks the network.
        content = json.dumps({"_class_name": type(model).__name__, **arguments})
        (Path(folder) / "config.json").write_text(content, encoding="utf-8")
        model = MirageTransformer3DModel.from_single_file(
            tensors,
            config=folder,
            quantization_config=GGUFQuantizationConfig(compute_dtype=dtype),
            dtype=dtype,
            local_files_only=True,
        )
    return model.to(device), known


def _branch_weights(
    branch: Branch | None, form: TransformerFormat, branch_format: str
) -> BranchWeights | None:
    """What the branch file holds, after a check that it fits; None for new or no branches."""
    if branch is None:
        return None
    if isinstance(branch, BranchConfig):
        form.expect_fits(branch)
        return None
    known = (
        branch
        if isinstance(branch, BranchWeights)
        else load_branch(branch, form.arguments["num_layers"], form=branch_format)
    )
    form.expect_fits(known.config)
    return known


def side_arguments(config: BranchConfig | None) -> dict[str, Any]:
    """Arguments of `MirageTransformer3DModel` for a side branch."""
    if config is None:
        return {}
    return {
        "side_layers": tuple(config.layers),
        "side_features": format_features(config.features),
        "side_shared_embedding": config.shared_embedding,
    }


def _add_branch(
    model: Any, branch: BranchWeights, dtype: torch.dtype, device: torch.device | str
) -> None:
    model.add_branch(branch.config, device="meta")
    tensors = {to_diffusers(name): tensor for name, tensor in branch.tensors.items()}
    expected = {
        name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if is_branch(name)
    }
    expect_tensors(f"The side branch {branch.path.name}", shapes_of(tensors), expected)
    _assign(model, tensors, dtype, device)


def _add_new_branch(
    model: Any,
    config: BranchConfig,
    mode: SideInit,
    dtype: torch.dtype,
    device: torch.device | str,
) -> None:
    model.add_branch(config)
    model.init_branch(mode)
    fresh = {name: tensor for name, tensor in model.state_dict().items() if is_branch(name)}
    _assign(model, fresh, dtype, device)


def _assign(
    model: Any, tensors: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device | str
) -> None:
    words = keep_float32_words(model)
    cast = {
        name: tensor.to(device, parameter_type(name, dtype, words))
        for name, tensor in tensors.items()
    }
    model.load_state_dict(cast, strict=False, assign=True)
