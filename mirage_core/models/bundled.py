"""The small video model that ships with the pack: its files, and how the library reads them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from ..constants import TEXT_WIDTH
from ..errors import ModelMismatchError

if TYPE_CHECKING:
    from .transformer import MirageTransformer3DModel

FOLDER: Final = Path(__file__).parent / "weights"

MODEL: Final = "mirage_embedded_model.safetensors"
"""The video model, under Wan2.2's names."""

BRANCH: Final = "mirage_embedded_branch.safetensors"
"""Its side branch, under the released names."""

STEPS: Final = 4
"""Sampling steps of a chunk that the model was judged with."""

SHIFT: Final = 3.0
"""Shift of the noise levels that it was trained with."""


def model_path() -> Path:
    """The video model's file.

    Raises:
        ModelMismatchError: The pack was installed without it.
    """
    return _shipped(MODEL)


def branch_path() -> Path:
    """The side branch's file.

    Raises:
        ModelMismatchError: The pack was installed without it.
    """
    return _shipped(BRANCH)


def empty_text() -> Tensor:
    """(1, 1, 4096) the one text that the model knows: it was trained without captions."""
    return torch.zeros(1, 1, TEXT_WIDTH)


def load_embedded_transformer(
    *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> MirageTransformer3DModel:
    """The shipped model with its side branch, for `mirage_core.rollout.generate`.

    Its branch takes drawings of the memory: pass
    `mirage_core.rollout.denoisers.projection_source` to the models of the loop.

    Raises:
        ModelMismatchError: The pack was installed without it, or a file is damaged.
    """
    from .load import load_transformer

    model = load_transformer(model_path(), branch=branch_path(), dtype=dtype, device=device)
    return model.eval()


def _shipped(name: str) -> Path:
    path = FOLDER / name
    if not path.is_file():
        raise ModelMismatchError(
            "A file of the shipped model is missing",
            got=path,
            expected="the file that comes with the pack",
            fix="Reinstall the pack, or train the model again: see docs/embedded-model.md",
        )
    return path
