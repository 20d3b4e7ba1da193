"""Model folders of a ComfyUI for tests: the real formats and names, a few megabytes in all.

The video model has Wan2.2-TI2V-5B's layout with 5 layers of width 256, the side branch belongs to
it, text encoder and VAE have the released names. ComfyUI reads the sizes of the first two from
the files; it fixes those of the others, which is what `tiny_sizes` is for.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mirage_core.checkpoints.branch import BranchConfig
from mirage_core.checkpoints.branch_file import expected_shapes
from tiny_weights import (
    Backbone,
    Shapes,
    backbone_shapes,
    branch_config,
    noise,
    sentencepiece_model,
    text_shapes,
    vae_tensors,
    write,
)

VIDEO_MODEL = "tiny_wan2.2_ti2v.safetensors"
BRANCH = "tiny_mirage_vace.safetensors"
LORA = "tiny_lora.safetensors"
TEXT_ENCODER = "tiny_umt5.safetensors"
VAE = "tiny_wan2.2_vae.safetensors"

SIZE = Backbone(dim=256, heads=2, ffn_dim=512, layers=5, text_dim=4096, freq_dim=256)
"""ComfyUI takes heads of 128 channels, text of 4096 and timesteps of 256 for granted."""

STD = 0.05
"""Wide enough that every part of the input is felt, narrow enough that rounding is not."""

WORDS = 48
"""Pieces that the tiny text encoder knows."""


def video_model(size: Backbone = SIZE, seed: int = 0) -> dict[str, Tensor]:
    """Tensors of a video model under released names; text weighs as much as in the real one."""
    tensors = noise(backbone_shapes(size), seed, STD)
    tensors["text_embedding.0.weight"] *= (256 / size.text_dim) ** 0.5
    return tensors


def inpaint_shapes(size: Backbone) -> Shapes:
    """Tensors of a model that takes noise, four mask planes and a picture's latent, as Fun InP."""
    shapes = backbone_shapes(size)
    name = "patch_embedding.weight"
    width, channels, *patch = shapes[name]
    shapes[name] = (width, 2 * channels + 4, *patch)
    return shapes


def inpaint_model(size: Backbone = SIZE, seed: int = 8) -> dict[str, Tensor]:
    """A video model that is told what is known, as Fun InP is."""
    tensors = noise(inpaint_shapes(size), seed, STD)
    tensors["text_embedding.0.weight"] *= (256 / size.text_dim) ** 0.5
    return tensors


def vace_shapes(size: Backbone, blocks: int) -> Shapes:
    """Tensors of a Wan2.1 VACE model under released names."""
    shapes = backbone_shapes(size)
    inner = [name for name in shapes if name.startswith("blocks.0.")]
    for number in range(blocks):
        for name in inner:
            shapes[name.replace("blocks.0.", f"vace_blocks.{number}.", 1)] = shapes[name]
        for part in ("before_proj", "after_proj")[number > 0 :]:
            shapes[f"vace_blocks.{number}.{part}.weight"] = (size.dim, size.dim)
            shapes[f"vace_blocks.{number}.{part}.bias"] = (size.dim,)
    shapes["vace_patch_embedding.weight"] = (size.dim, 96, 1, 2, 2)
    shapes["vace_patch_embedding.bias"] = (size.dim,)
    return shapes


def vace_model(seed: int = 0) -> dict[str, Tensor]:
    """A Wan2.1 VACE model under released names: 4 layers, of which 0 and 2 have a VACE block."""
    size = replace(SIZE, channels=16, layers=4)
    tensors = noise(vace_shapes(size, 2), seed, STD)
    tensors["text_embedding.0.weight"] *= (256 / size.text_dim) ** 0.5
    return tensors


def side_branch(config: BranchConfig | None = None, seed: int = 1) -> dict[str, Tensor]:
    """Tensors of a side branch under released names."""
    return noise(expected_shapes(config or branch_config(SIZE)), seed, STD)


def lora(size: Backbone = SIZE, rank: int = 4, seed: int = 3) -> dict[str, Tensor]:
    """A LoRA on the self-attention, under the names that ComfyUI reads."""
    shapes = {}
    for layer in range(size.layers):
        for part in "qkvo":
            name = f"diffusion_model.blocks.{layer}.self_attn.{part}"
            shapes[f"{name}.lora_A.weight"] = (rank, size.dim)
            shapes[f"{name}.lora_B.weight"] = (size.dim, rank)
    return noise(shapes, seed, 0.1)


def text_encoder(seed: int = 4) -> dict[str, Tensor]:
    """A UMT5 encoder of full depth and width with its tokenizer, narrow everywhere else."""
    tensors = noise(text_shapes(WORDS, SIZE.text_dim, heads=2, layers=24, ffn=8), seed, STD)
    model = sentencepiece_model(WORDS)
    return tensors | {"spiece_model": torch.frombuffer(bytearray(model), dtype=torch.uint8)}


def conditioning(seed: int, tokens: int = 12) -> list:
    """CONDITIONING as a text encoder makes it, from a seed."""
    rng = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, tokens, SIZE.text_dim, generator=rng), {}]]


def write_models(models: Path) -> Path:
    """Fill a ComfyUI's models folder with one file of each kind."""
    for folder, name, tensors in (
        ("diffusion_models", VIDEO_MODEL, video_model()),
        ("model_patches", BRANCH, side_branch()),
        ("loras", LORA, lora()),
        ("text_encoders", TEXT_ENCODER, text_encoder()),
        ("vae", VAE, vae_tensors(base=8, decoder_base=8)),
    ):
        (models / folder).mkdir(parents=True, exist_ok=True)
        write(models / folder / name, tensors)
    return models


def add_sizes(custom_nodes: Path) -> Path:
    """Teach a ComfyUI the sizes of the tiny text encoder and VAE."""
    target = custom_nodes / "tiny_sizes" / "__init__.py"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(__file__).with_name("tiny_sizes.py"), target)
    return target
