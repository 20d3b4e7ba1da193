"""GGUF files of the video model: headers, and tensors as diffusers keeps them quantised."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoints.branch import HEADS_KEY, Shape
from ..errors import ModelMismatchError


def read_gguf_header(
    path: Path, rename: Callable[[str], str]
) -> tuple[dict[str, Shape], dict[str, str]]:
    """Shapes by name in the model, and the entries that Mirage understands.

    Raises:
        ModelMismatchError: The package ``gguf`` is missing, or the file is missing or damaged.
    """
    reader = _open(path)
    # GGUF counts axes from the last one.
    shapes = {
        rename(tensor.name): tuple(int(size) for size in reversed(tensor.shape))
        for tensor in reader.tensors
    }
    heads = reader.get_field(HEADS_KEY)
    try:
        return shapes, {} if heads is None else {HEADS_KEY: str(heads.contents())}
    except (ValueError, IndexError) as error:
        raise _damaged(path, error) from error


def read_gguf_tensors(
    path: Path, rename: Callable[[str], str], matrices: Callable[[str], bool]
) -> dict[str, Tensor]:
    """Tensors by name in the model; matrices stay quantised, all else is widened.

    Args:
        path: The file.
        rename: From a tensor's name in the file to its name in the model.
        matrices: Which names in the model belong to a layer that multiplies quantised weights.

    Raises:
        ModelMismatchError: The file uses a quantisation that diffusers does not read.
    """
    from diffusers.models.model_loading_utils import load_gguf_checkpoint
    from diffusers.quantizers.gguf.utils import GGUFParameter, dequantize_gguf_tensor

    _open(path)
    try:
        raw = load_gguf_checkpoint(str(path))
    except ValueError as error:
        raise ModelMismatchError(
            f"{path.name} uses an unsupported quantisation",
            got=str(error).splitlines()[0],
            expected="one of the types Q4_0 to Q8_0, Q2_K to Q6_K, BF16, F16 or F32",
            fix="Use the Q8_0 or Q4_K_M version of the file",
        ) from error
    tensors = {}
    for own, tensor in raw.items():
        name = rename(own)
        widen = isinstance(tensor, GGUFParameter) and not matrices(name)
        tensors[name] = dequantize_gguf_tensor(tensor) if widen else tensor
    return tensors


def _open(path: Path) -> Any:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ModelMismatchError(
            "GGUF files require the package gguf",
            got="it is not installed",
            fix="Install it with: pip install gguf",
        ) from error
    if not os.path.isfile(path):
        raise ModelMismatchError("The weight file does not exist", got=path, fix="Check the path")
    try:
        return GGUFReader(str(path))
    except (ValueError, IndexError, KeyError, OverflowError, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ModelMismatchError:
    return ModelMismatchError(
        f"The weight file {path.name} cannot be read as GGUF",
        got=str(error) or type(error).__name__,
        expected="a complete .gguf file",
        fix="Download the file again: the download was probably incomplete",
    )
