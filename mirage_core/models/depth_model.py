"""Monocular depth from a model folder in the format of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from ..checkpoints.pretrained import load_pretrained
from ..errors import ModelMismatchError
from ..validate import expect_shape

MAX_RELATIVE_DEPTH: Final = 100.0
"""Relative depth is clipped at this many times the smallest distance."""


class DepthModel:
    """Estimates depth of pictures with any depth model of transformers.

    Attributes:
        metric: True when the network gives distances, as `is_metric` reads it from the folder;
            False when it gives inverse depth of unknown scale and shift, as the relative models
            of the Depth Anything and MiDaS families do.
        network: The network.
        processor: What prepares its pictures.
    """

    def __init__(self, network: Any, processor: Any, *, metric: bool) -> None:
        self.network = network.eval().requires_grad_(False)
        self.processor = processor
        self.metric = metric

    def __call__(self, frames: Tensor) -> Tensor:
        """Estimate depth, one picture after the other.

        A metric model's output is taken as z-depth. A relative model's output r becomes 1 / r;
        cells of which it says that they lie at infinity get 0, which is not written.

        Args:
            frames: (F, H, W, 3) in 0..1.

        Returns:
            (F, H, W) float32 on the CPU, 0 where nothing is known.
        """
        expect_shape("The frames", frames, "F H W 3")
        return torch.stack([self._one(frame) for frame in frames])

    def _one(self, frame: Tensor) -> Tensor:
        size = (int(frame.shape[0]), int(frame.shape[1]))
        picture = frame.detach().float().cpu().clamp(0, 1).permute(2, 0, 1)
        inputs = self.processor(images=picture, return_tensors="pt", do_rescale=False)
        pixels = inputs["pixel_values"].to(self.network.device, self.network.dtype)
        with torch.inference_mode():
            outputs = self.network(pixel_values=pixels)
        found = self.processor.post_process_depth_estimation(outputs)[0]["predicted_depth"]
        # The processor's own bicubic resizing overshoots at the edges of things.
        values = functional.interpolate(
            found.float().cpu().clone()[None, None], size, mode="bilinear", align_corners=False
        )[0, 0]
        return torch.where(values > 0, values, 0.0) if self.metric else _from_inverse(values)


def _from_inverse(inverse: Tensor) -> Tensor:
    """Depth of unknown scale from inverse depth, 0 where that is next to nothing."""
    least = inverse.max().clamp_min(0) / MAX_RELATIVE_DEPTH
    known = (inverse > least) & torch.isfinite(inverse)
    return torch.where(known, 1 / inverse, 0.0)


def is_metric(folder: Path) -> bool | None:
    """Whether a model folder says that its depth is in metres; None when it does not say."""
    config = _config(folder)
    kind = config.get("depth_estimation_type")
    return None if kind is None else kind == "metric"


def load_depth_model(
    folder: Path,
    *,
    metric: bool | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> DepthModel:
    """Read a depth model from a folder on this machine; nothing is fetched.

    Args:
        folder: With ``config.json``, safetensors weights and ``preprocessor_config.json``, such
            as a copy of Depth-Anything-V2-Small-hf.
        metric: Whether the network gives distances; None takes the folder's word.
        device: Where it computes.
        dtype: Type of its parameters.

    Raises:
        ModelMismatchError: The folder holds no depth model, does not say whether its depth is
            metric, or transformers is not installed.
    """
    try:
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation
    except ImportError as error:
        raise ModelMismatchError(
            "Depth models need transformers", got=str(error), fix="Run pip install transformers"
        ) from error
    metric = is_metric(folder) if metric is None else metric
    if metric is None:
        raise ModelMismatchError(
            f"The depth model {folder.name} does not say whether its depth is metric",
            expected="depth_estimation_type in its config.json, or an explicit choice",
            fix="Choose metric for distances, or relative for inverse depth",
        )
    network, processor = load_pretrained(
        folder, AutoModelForDepthEstimation, AutoImageProcessor, dtype,
        what="no depth model that can be loaded",
        expected="a depth-estimation model of transformers, with safetensors weights",
        fix="Download the complete folder, for example Depth-Anything-V2-Small-hf",
    )  # fmt: skip
    return DepthModel(network.to(device), processor, metric=metric)


def _config(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelMismatchError(
            f"The folder {folder} contains no depth model",
            got=str(error)[:200],
            expected="a folder with config.json, safetensors weights and preprocessor_config.json",
            fix="Check the path",
        ) from error
    return content if isinstance(content, dict) else {}
