"""Estimators with packages of their own under ComfyUI's memory management."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import folder_paths
import torch
from torch import Tensor

from ...mirage_core.errors import ModelMismatchError
from ...mirage_core.geometry.frame_geometry import FrameGeometry
from ...mirage_core.geometry.trajectory import Trajectory
from .cancel import stop_when_cancelled, stopping_between

FOLDER = "geometry_estimation"
"""ComfyUI's folder of models for depth."""


@dataclass(frozen=True)
class Estimator:
    """An estimator, and the patcher that moves its network to the device and back.

    Attributes:
        estimator: `mirage_core.models.geometry_estimators.GeometryEstimator`.
        patcher: ComfyUI's handle on its network.
    """

    estimator: Any
    patcher: Any

    def run(self, frames: Tensor, cameras: Trajectory | None) -> FrameGeometry:
        """Estimate geometry, after ComfyUI has made room for the network."""
        stop_when_cancelled()
        comfy.model_management.load_models_gpu([self.patcher])
        with stopping_between(self.patcher.model.modules()):
            return self.estimator(frames, cameras)


class _NetworkModule(torch.nn.Module):
    """A network inside a module whose attributes ComfyUI may set."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network


def model_folders() -> list[str]:
    """Folders with a ``config.json`` below models/geometry_estimation."""
    found = []
    for root in map(Path, folder_paths.get_folder_paths(FOLDER)):
        if root.is_dir():
            configs = sorted(root.glob("**/config.json"))
            found += [config.parent.relative_to(root).as_posix() for config in configs]
    return found


def load_offloaded(name: str, folder: str, fov: float) -> Estimator:
    """Load an estimator on the offload device.

    Raises:
        ModelMismatchError: The folder is gone, its package is not installed, or it holds
            something else.
    """
    from ...mirage_core.models.geometry_estimators import load_estimator

    roots = [Path(root) / folder for root in folder_paths.get_folder_paths(FOLDER)]
    path = next((root for root in roots if (root / "config.json").is_file()), None)
    if path is None or ".." in Path(folder).parts:
        raise ModelMismatchError(
            "The estimator's folder does not exist",
            got=folder,
            expected=f"a folder with config.json below models/{FOLDER}",
            fix="Copy the model there, then press R to refresh the list",
        )
    offload = comfy.model_management.unet_offload_device()
    estimator: Any = load_estimator(name, path, device=offload, fov=fov)
    network = estimator.network if hasattr(estimator, "network") else estimator.estimate.network
    # Foreign layers cannot be cast on the fly, so ComfyUI loads them completely or not at all.
    patcher = comfy.model_patcher.ModelPatcher(
        _NetworkModule(network),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=offload,
    )
    return Estimator(estimator, patcher)
