"""LoRAs, side branches and video models: small valid files, and what reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import torch

import tiny_weights
from mirage_core.checkpoints.branch_file import inspect, load_branch
from mirage_core.checkpoints.lora_format import for_comfyui, read_lora
from mirage_core.checkpoints.transformer_format import open_transformer, plain_name, read_format
from mirage_core.models.gguf_file import read_gguf_header, read_gguf_tensors
from reliability.kinds import Format, each


def _loras(folder: Path) -> list[Path]:
    shapes = {"lora_A.weight": (2, 8), "lora_B.weight": (8, 2), "alpha": ()}
    layers = ("blocks.0.self_attn.q", "blocks.1.ffn.0")
    own = {
        f"diffusion_model.{layer}.{part}": torch.ones(shape)
        for layer in layers for part, shape in shapes.items()
    }  # fmt: skip
    own["diffusion_model.blocks.0.self_attn.q.diff_b"] = torch.ones(8)
    plain = {
        f"transformer.{layer}.{part}": torch.ones(shape)
        for layer in layers for part, shape in shapes.items() if part != "alpha"
    }  # fmt: skip
    config = {"transformer.lora_alpha": 4, "transformer.alpha_pattern": {"blocks.0.attn1.to_q": 2}}
    return [
        tiny_weights.write(folder / "a.safetensors", own),
        tiny_weights.write(
            folder / "b.safetensors", plain, {"lora_adapter_metadata": json.dumps(config)}
        ),
    ]


def _read_lora(path: Path) -> None:
    lora = read_lora(path)
    for layer in lora.down:
        lora.scale(layer)
    for_comfyui(lora)


_SMALL: Final = tiny_weights.Backbone(dim=4, heads=2, ffn_dim=4, layers=2, text_dim=4, freq_dim=4)


def _branches(folder: Path) -> list[Path]:
    config = tiny_weights.branch_config(_SMALL)
    return [
        tiny_weights.write(
            folder / "a.safetensors", tiny_weights.branch_tensors(config), config.metadata()
        ),
        tiny_weights.write(
            folder / "mirage_vace.safetensors",
            tiny_weights.branch_tensors(config),
            {"mirage.heads": "2"},
        ),
    ]


def _read_branch(path: Path) -> None:
    each(lambda: inspect(path), lambda: load_branch(path, 2))


def _models(folder: Path) -> list[Path]:
    tensors = tiny_weights.backbone_tensors(_SMALL)
    parts = tiny_weights.write_folder(folder / "parts", tensors, {"num_attention_heads": 2}, 2)
    eight = tiny_weights.fp8_scaled(tensors, newer=True)
    return [
        tiny_weights.write(folder / "a.safetensors", tensors, tiny_weights.metadata(_SMALL)),
        tiny_weights.write(folder / "b.safetensors", eight, tiny_weights.metadata(_SMALL)),
        *(path for path in sorted(parts.iterdir()) if path.suffix == ".json"),
    ]


def _read_model(path: Path) -> None:
    files = open_transformer(path.parent if path.suffix == ".json" else path)
    read_format(files.shapes, files.metadata, files.name)
    for name in list(files.shapes)[:8]:
        files.read(name)


def _ggufs(folder: Path) -> list[Path]:
    size = tiny_weights.Backbone(dim=32, heads=2, ffn_dim=32, layers=1, text_dim=4, freq_dim=4)
    meta = tiny_weights.metadata(size)
    return [tiny_weights.write_gguf(folder / "a.gguf", tiny_weights.backbone_tensors(size), meta)]


def _read_gguf(path: Path) -> None:
    shapes, metadata = read_gguf_header(path, plain_name)
    each(
        lambda: read_format(shapes, metadata, path.name),
        lambda: read_gguf_tensors(path, plain_name, lambda name: "blocks." in name),
    )


WEIGHT_FILES: Final[dict[str, Format]] = {
    "lora": Format(_loras, _read_lora),
    "branch": Format(_branches, _read_branch),
    "model": Format(_models, _read_model),
    "gguf": Format(_ggufs, _read_gguf),
}
