"""A node pack without nodes that lets ComfyUI load a tiny Qwen3-VL and a tiny SAM3.1 for tests.

ComfyUI fixes the sizes of both. Here they are small, and files with the names that the blueprint
*Mirage Moving Things* asks for are written when the server starts. Their weights are random, but
that the language model has one answer. All that reads and runs them is ComfyUI's own.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import comfy.ldm.sam3.detector
import comfy.ops
import comfy.text_encoders.qwen3vl
import comfy.text_encoders.sam3_clip
import folder_paths
import torch
from safetensors.torch import save_file

NODE_CLASS_MAPPINGS: dict[str, Any] = {}

LANGUAGE_MODEL = "qwen3vl_8b_fp8_scaled.safetensors"
SAM3 = "sam3.1_multiplex_fp16.safetensors"
ANSWER = "dog"
WIDTH = 64
STD = 0.05

_qwen = comfy.text_encoders.qwen3vl
_sam3 = comfy.ldm.sam3.detector
_clip = comfy.text_encoders.sam3_clip


@dataclasses.dataclass
class TinyQwen(_qwen.Qwen3VL_8BConfig):
    """The language model's sizes; its heads keep their 128 channels, its words their number."""

    hidden_size: int = WIDTH
    intermediate_size: int = WIDTH
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    num_key_value_heads: int = 1


class TinySAM3(_sam3.SAM3Model):
    """SAM3's network with few channels."""

    def __init__(self, **settings: Any) -> None:
        sizes = {"embed_dim": WIDTH, "d_model": 32, "mem_dim": 32, "depth": 1, "num_queries": 4}
        super().__init__(**settings | sizes | {"global_att_blocks": ()})


_qwen.QWEN3VL_CONFIGS["qwen3vl_8b"] = TinyQwen
_qwen.QWEN3VL_VISION["qwen3vl_8b"] = {
    "hidden_size": 128, "intermediate_size": 128, "depth": 2, "deepstack_visual_indexes": [0],
}  # fmt: skip
_sam3.SAM3Model = TinySAM3
_clip.SAM3_CLIP_CONFIG |= {
    "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_attention_heads": 2,
    "num_hidden_layers": 1,
}  # fmt: skip

OPEN_CLIP = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "final_layer_norm.": "ln_final.",
    "encoder.layers.": "transformer.resblocks.",
    ".layer_norm1.": ".ln_1.",
    ".layer_norm2.": ".ln_2.",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
    ".self_attn.out_proj.": ".attn.out_proj.",
}
"""Parts of names in ComfyUI, and in the released files."""


def _random(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Random tensors of a network's names; scales of norms are about one."""
    rng = torch.Generator().manual_seed(0)
    found = {}
    for name, value in network.state_dict().items():
        tensor = STD * torch.randn(value.shape, generator=rng)
        found[name] = tensor + 1 if "norm" in name and name.endswith("weight") else tensor
    return found


def _language_model() -> dict[str, torch.Tensor]:
    """Qwen3-VL under its names in a file. It answers `ANSWER`, whatever it is shown."""
    ops = comfy.ops.disable_weight_init
    tensors = _random(_qwen.Qwen3VL({}, torch.float32, "cpu", ops))
    folder = Path(_qwen.__file__).with_name("qwen25_tokenizer")
    word = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))[ANSWER]
    # Every word has the first channel, which asks for the answer; that one has the second as
    # well, which asks for the end.
    words, head = tensors["model.embed_tokens.weight"], tensors["model.lm_head.weight"]
    words[:, 0], words[word, 1] = 5, 5
    head.zero_()
    head[word, 0], head[TinyQwen.stop_tokens[-1], 1] = 1, 2
    released = {
        "model.lm_head.": "lm_head.",
        "model.": "model.language_model.",
        "visual.": "model.visual.",
    }
    result = {}
    for name, value in tensors.items():
        old = next(prefix for prefix in released if name.startswith(prefix))
        result[released[old] + name.removeprefix(old)] = value
    return result


def _segmenter() -> dict[str, torch.Tensor]:
    ops = comfy.ops.disable_weight_init
    network = TinySAM3(image_model="SAM31", dtype=torch.float32, device="cpu", operations=ops)
    return _random(network) | _words()


def _words() -> dict[str, torch.Tensor]:
    """SAM3's text encoder under its names in a checkpoint."""
    tensors = _random(_clip.SAM3ClipModel().transformer)
    result = {}
    for name, value in tensors.items():
        short = name.removeprefix("text_model.")
        for ours, theirs in OPEN_CLIP.items():
            short = short.replace(ours, theirs)
        if ".self_attn." not in short:
            result[short] = value
    root = "text_model.encoder.layers.0.self_attn"
    for part in ("weight", "bias"):
        three = [tensors[f"{root}.{name}_proj.{part}"] for name in "qkv"]
        result[f"transformer.resblocks.0.attn.in_proj_{part}"] = torch.cat(three)
    return {f"detector.backbone.language_backbone.encoder.{k}": v for k, v in result.items()}


def _write(folder: str, name: str, tensors: dict[str, torch.Tensor]) -> None:
    target = Path(folder_paths.models_dir) / folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, target)


_write("text_encoders", LANGUAGE_MODEL, _language_model())
_write("checkpoints", SAM3, _segmenter())
