"""Models in the folders of transformers: read from this machine, as safetensors, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import ModelMismatchError


def load_pretrained(
    folder: Path,
    network: Any,
    processor: Any,
    dtype: torch.dtype,
    *,
    what: str,
    expected: str,
    fix: str = "Download the complete folder",
) -> tuple[Any, Any]:
    """Read a network and what prepares its input; nothing is fetched.

    Args:
        folder: With ``config.json``, safetensors weights and what the processor needs.
        network: Class of transformers, with ``from_pretrained``.
        processor: The same of the processor.
        dtype: Type of the network's parameters.
        what: What errors say of a folder that cannot be read, as in "the folder x contains no ...".
        expected: What it has to hold.
        fix: The remedy.

    Raises:
        ModelMismatchError: The folder holds no such model, or not all of it.
    """
    try:
        loaded = network.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, dtype=dtype
        )
        prepared = processor.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # each library below raises errors of its own for bad folders
        raise ModelMismatchError(
            f"The folder {folder.name} contains {what}",
            got=str(error).splitlines()[0][:300] if str(error) else type(error).__name__,
            expected=expected,
            fix=fix,
        ) from error
    return loaded, prepared
