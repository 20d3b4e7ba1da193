"""Packages that only some settings need: told before the first gigabyte is read."""

from __future__ import annotations

import importlib.util

from ..errors import PackageError
from .settings import TrainingSettings


def expect_packages(settings: TrainingSettings) -> None:
    """Raise `PackageError` when a setting needs a package that is not installed."""
    if settings.wandb and not _installed("wandb"):
        raise PackageError(
            "Weights & Biases is not installed",
            got=f"wandb = {settings.wandb!r}",
            fix="Run pip install wandb, or leave --wandb out; TensorBoard's files are written "
            "either way",
        )
    if settings.optimiser == "adamw8bit" and not _installed("torchao"):
        raise PackageError(
            "The optimiser adamw8bit needs torchao, which is not installed",
            fix="Run pip install torchao, or choose the optimiser adamw",
        )


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
