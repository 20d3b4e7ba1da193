"""MoGe 2 in the format that ComfyUI's Load MoGe Model reads, small enough to make in a test.

Its weights are random, but for a straight way from each pixel's place to its ray: so it sees
every picture through one lens, with depth that varies with the picture.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from tiny_weights import Shapes, noise, write

FOV = 55.0
"""Horizontal field of view, in degrees, that the network finds in square pictures."""

WIDTH, NARROW, LAYERS, LEVELS = 64, 4, 4, 5
_PATCHES = 37 * 37 + 1
_HEADS = {"points_head": 3, "mask_head": 1, "normal_head": 3}


def moge_shapes() -> Shapes:
    """The tensors of MoGe 2; names as released, DINOv2's as ComfyUI stores them."""
    shapes: Shapes = {"encoder.image_mean": (1, 3, 1, 1), "encoder.image_std": (1, 3, 1, 1)}

    def affine(name: str, *weight: int, bias: int = 0) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = weight, (weight[bias],)

    _backbone(shapes)
    for number in range(LAYERS):
        affine(f"encoder.output_projections.{number}", NARROW, WIDTH, 1, 1)
    for stack in ("neck", *_HEADS):
        for level in range(LEVELS):
            into = NARROW if stack != "neck" else 2 + (NARROW if level == 0 else 0)
            affine(f"{stack}.input_blocks.{level}", NARROW, into, 1, 1)
            for layer in (2, 5):
                affine(f"{stack}.res_blocks.{level}.0.layers.{layer}", NARROW, NARROW, 3, 3)
        for level in range(LEVELS - 1):
            if level < LEVELS - 2:
                affine(f"{stack}.resamplers.{level}.0", NARROW, NARROW, 2, 2, bias=1)
            affine(f"{stack}.resamplers.{level}.1", NARROW, NARROW, 3, 3)
        if stack in _HEADS:
            affine(f"{stack}.output_blocks.{LEVELS - 1}", _HEADS[stack], NARROW, 1, 1)
    affine("scale_head.0", NARROW, WIDTH)
    affine("scale_head.2", 1, NARROW)
    return shapes


def _backbone(shapes: Shapes) -> None:
    root = "encoder.backbone"
    shapes[f"{root}.embeddings.position_embeddings"] = (1, _PATCHES, WIDTH)
    shapes[f"{root}.embeddings.cls_token"] = (1, 1, WIDTH)
    shapes[f"{root}.embeddings.mask_token"] = (1, WIDTH)
    matrices = {f"{root}.embeddings.patch_embeddings.projection": (WIDTH, 3, 14, 14)}
    for number in range(LAYERS):
        layer = f"{root}.encoder.layer.{number}"
        for part in ("attention.query", "attention.key", "attention.value", "output.dense"):
            matrices[f"{layer}.attention.{part}"] = (WIDTH, WIDTH)
        matrices[f"{layer}.mlp.fc1"] = (4 * WIDTH, WIDTH)
        matrices[f"{layer}.mlp.fc2"] = (WIDTH, 4 * WIDTH)
        for part in ("norm1", "norm2"):
            matrices[f"{layer}.{part}"] = (WIDTH,)
        for part in ("layer_scale1", "layer_scale2"):
            shapes[f"{layer}.{part}.lambda1"] = (WIDTH,)
    matrices[f"{root}.layernorm"] = (WIDTH,)
    for name, shape in matrices.items():
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]


def moge_tensors(seed: int = 5) -> dict[str, Tensor]:
    """A MoGe 2 that finds surfaces about a metre away in everything, and no sky."""
    tensors = noise(moge_shapes(), seed, 0.1)
    tensors["encoder.image_mean"] = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    tensors["encoder.image_std"] = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    last = LEVELS - 1
    # Channels 0 and 1 hold a pixel's place on its way to the x and y of its ray.
    for stack in ("neck", "points_head"):
        for name in ("resamplers.3.1", "res_blocks.4.0.layers.5"):
            tensors[f"{stack}.{name}.weight"][:2] = 0
            tensors[f"{stack}.{name}.bias"][:2] = 0
        entry = tensors[f"{stack}.input_blocks.{last}.weight"]
        entry[:2], tensors[f"{stack}.input_blocks.{last}.bias"][:2] = 0, 0
        entry[0, 0] = entry[1, 1] = 1
    rays = tensors[f"points_head.output_blocks.{last}.weight"]
    rays[:2], tensors[f"points_head.output_blocks.{last}.bias"][:] = 0, 0
    rays[2, :2], rays[2, 2:] = 0, 2.0
    rays[0, 0] = rays[1, 1] = math.sqrt(2) * math.tan(math.radians(FOV) / 2)
    tensors[f"mask_head.output_blocks.{last}.bias"][:] = 6
    tensors["scale_head.2.bias"][:] = math.log(3)
    return tensors


def write_moge(path: Path) -> Path:
    """A file for models/geometry_estimation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write(path, moge_tensors())
