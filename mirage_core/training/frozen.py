"""Weights that a run does not train: how another model is told from the one that it began with."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from ..digests import tensors_digest
from ..errors import ModelMismatchError

SAMPLES: Final = 64
"""Numbers of each tensor that the digest covers: other weights differ everywhere, and reading
all of them would take as long as loading."""


def frozen_digest(model: nn.Module) -> str:
    """Digest of names, types and shapes of all frozen parameters, and of some numbers of each.

    The file's format and place do not count. Empty when everything is trained.

    Args:
        model: With unsharded parameters.
    """
    frozen = {n: p for n, p in model.named_parameters() if not p.requires_grad}
    return tensors_digest({_named(n, p): _sample(p) for n, p in frozen.items()}) if frozen else ""


def expect_same_frozen(saved: str, own: str) -> None:
    """Raise `ModelMismatchError` for other frozen weights than a run began with.

    Args:
        saved: Digest of the state; empty in states of earlier versions.
        own: Digest of the model.
    """
    if saved and saved != own:
        raise ModelMismatchError(
            "The run was begun with another model: weights that it does not train have changed",
            got="a model, or a side branch that is not trained, with other numbers",
            expected="the files that the run began with",
            fix="Set the same --transformer and --branch, or begin a run in another folder",
        )


def _named(name: str, parameter: Tensor) -> str:
    return f"{name} {tuple(parameter.shape)}"


def _sample(parameter: Tensor) -> Tensor:
    flat = parameter.detach().reshape(-1)
    if flat.element_size() == 1:
        # What reads some numbers of a tensor is not there for 8-bit floats on every device.
        flat = flat.view(torch.uint8)
    places = torch.linspace(0, max(0, flat.numel() - 1), min(SAMPLES, flat.numel())).long()
    return flat[places.to(flat.device)].cpu()
