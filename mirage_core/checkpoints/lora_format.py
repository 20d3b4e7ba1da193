"""LoRA files: names of many programs, and the factors that belong to them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ..errors import ModelMismatchError
from ..tensor_files import read_header, read_tensors, write_tensors
from .names import is_branch, strip_wrappers, to_diffusers, to_released

ADAPTER_METADATA: Final = "lora_adapter_metadata"
"""Entry of the safetensors header in which diffusers keeps an adapter's configuration."""

COMFYUI_PREFIX: Final = "diffusion_model."
"""What ComfyUI's LoRA loader looks for."""

_UNSCALED: Final = "pipe.dit."
"""Prefix of the released training code and of Spatia's, whose loaders add ``B A`` as it is: they
read no alpha and do not divide by the rank."""

_PART: Final = re.compile(
    r"^(?P<module>.+?)\."
    r"(?:(?P<a>lora_A(?:\.\w+)?\.weight|lora_down\.weight|lora\.down\.weight)"
    r"|(?P<b>lora_B(?:\.\w+)?\.weight|lora_up\.weight|lora\.up\.weight)"
    r"|(?P<alpha>alpha)|(?P<diff>diff)|(?P<diff_b>diff_b))$"
)
_MAX_ALPHA: Final = 1e30
_SHOWN: Final = 40
"""Characters of a foreign value that an error message repeats."""

_FLAT_PREFIX: Final = "lora_unet_"
_FLAT: Final = (
    (re.compile(r"^((?:vace_)?blocks)_(\d+)_(self_attn|cross_attn|ffn)_(\w+)$"), r"\1.\2.\3.\4"),
    (re.compile(r"^(text_embedding|time_embedding|time_projection|head)_(\w+)$"), r"\1.\2"),
)


@dataclass
class LoraFile:
    """A LoRA as its file holds it, under diffusers' names of the layers.

    Attributes:
        path: Where it came from.
        down: (rank, in) matrix of each layer: A.
        up: (out, rank) matrix of each layer: B.
        alpha: What B A is multiplied by, times the rank; layers without it count 1 / rank.
        changes: Whole tensors that are added to parameters, by the parameter's name.
    """

    path: Path
    down: dict[str, Tensor] = field(default_factory=dict)
    up: dict[str, Tensor] = field(default_factory=dict)
    alpha: dict[str, float] = field(default_factory=dict)
    changes: dict[str, Tensor] = field(default_factory=dict)

    def rank(self, layer: str) -> int:
        """Rank of one layer's update: rows of its down matrix."""
        return int(self.down[layer].shape[0])

    def scale(self, layer: str) -> float:
        """Factor of one layer's update: alpha / rank."""
        return self.alpha.get(layer, float(self.rank(layer))) / self.rank(layer)


def read_lora(path: Path) -> LoraFile:
    """Read a LoRA of the video model.

    Names of the released training code and of Spatia (``pipe.dit.``), ComfyUI, diffusers, PEFT and
    kohya are understood. Under ``pipe.dit.`` the factor is always 1.

    Raises:
        ModelMismatchError: The file is missing, damaged or pickled, is not a LoRA, is of a kind
            that is not a pair of matrices for each layer, or lacks one of a pair.
    """
    header = read_header(path)
    lora = LoraFile(path)
    known = {"a": lora.down, "b": lora.up}
    for name, tensor in read_tensors(path).items():
        match = _PART.match(name)
        if match is None:
            raise _unknown(path, name)
        layer, kind = _layer(match["module"]), str(match.lastgroup)
        if not tensor.is_floating_point() and kind != "alpha":
            raise _malformed(path, f"{name} of type {tensor.dtype}", "floating point numbers")
        if kind in known:
            _add_once(known[kind], layer, tensor, name)
        elif kind == "alpha":
            lora.alpha |= {} if _UNSCALED in name else {layer: _alpha(path, name, tensor)}
        else:
            lora.changes[f"{layer}.{'bias' if kind == 'diff_b' else 'weight'}"] = tensor
    _expect_pairs(lora)
    _add_metadata(lora, header.metadata)
    return lora


def for_comfyui(lora: LoraFile) -> dict[str, Tensor]:
    """The tensors of a LoRA under the names that ComfyUI's loader reads.

    It leaves tensors of other names out, those of the released training code among them.

    Raises:
        ModelMismatchError: The LoRA changes the side branch, which ComfyUI's loader cannot.
    """
    foreign = next((name for name in (*lora.down, *lora.changes) if is_branch(name)), None)
    if foreign is not None:
        raise ModelMismatchError(
            f"The LoRA {lora.path.name} changes the side branch",
            got=foreign,
            expected="a LoRA of the video model alone, which is all that ComfyUI's loader reads",
            fix="Use it on the command line: mirage rollout --lora",
        )
    tensors: dict[str, Tensor] = {}
    for layer, down in lora.down.items():
        name = _comfyui_name(layer)
        tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": lora.up[layer]}
        if layer in lora.alpha:
            tensors[f"{name}.alpha"] = torch.tensor(lora.alpha[layer])
    for parameter, change in lora.changes.items():
        layer, _, part = parameter.rpartition(".")
        tensors[f"{_comfyui_name(layer)}.{'diff_b' if part == 'bias' else 'diff'}"] = change
    return tensors


def comfyui_weights(lora: LoraFile) -> list[str]:
    """Names that ComfyUI's model gives the weights and biases that a LoRA changes."""
    changed = [f"{layer}.weight" for layer in lora.down] + list(lora.changes)
    parts = (name.rpartition(".") for name in changed)
    return sorted({f"{_comfyui_name(layer)}.{part}" for layer, _, part in parts})


def write_for_comfyui(lora: LoraFile, path: Path) -> Path:
    """Write what `for_comfyui` gives.

    Args:
        lora: What was read.
        path: Target.

    Returns:
        ``path``.

    Raises:
        ModelMismatchError: The LoRA changes the side branch, which ComfyUI's loader cannot.
        StorageError: The file cannot be written.
    """
    return write_tensors(path, for_comfyui(lora))


def _comfyui_name(layer: str) -> str:
    return COMFYUI_PREFIX + to_released(f"{layer}.").removesuffix(".")


def _layer(module: str) -> str:
    plain = strip_wrappers(module)
    if plain.startswith(_FLAT_PREFIX):
        plain = plain.removeprefix(_FLAT_PREFIX)
        for pattern, replacement in _FLAT:
            plain = pattern.sub(replacement, plain)
    # The rules of names look for what follows a layer's name.
    return to_diffusers(f"{plain}.").removesuffix(".")


def _add_once(known: dict[str, Tensor], layer: str, tensor: Tensor, name: str) -> None:
    if layer in known:
        raise ModelMismatchError(
            "The LoRA contains a matrix twice", got=f"{layer}, again as {name}"
        )
    known[layer] = tensor


def _expect_pairs(lora: LoraFile) -> None:
    alone = sorted(set(lora.down) ^ set(lora.up))
    if alone:
        raise ModelMismatchError(
            f"The LoRA {lora.path.name} is incomplete",
            got=f"one matrix of two for {alone[0]}",
            fix="Download the file again",
        )
    if not lora.down:
        raise _unknown(lora.path, "no matrices")
    for layer, down in lora.down.items():
        up = lora.up[layer]
        matrices = down.ndim == 2 and up.ndim == 2  # noqa: PLR2004
        if not matrices or not 0 < down.shape[0] == up.shape[1]:
            raise ModelMismatchError(
                f"The LoRA {lora.path.name} has matrices that do not fit together",
                got=f"{tuple(down.shape)} and {tuple(up.shape)} for {layer}",
                expected="(rank, in) and (out, rank)",
                fix="Download the file again",
            )


def _add_metadata(lora: LoraFile, metadata: Mapping[str, str]) -> None:
    """Alphas from the configuration that diffusers writes; those in tensors come first."""
    config = _adapter_config(lora.path, metadata.get(ADAPTER_METADATA, "{}"))
    if config.get("use_dora") or config.get("use_rslora"):
        raise _unknown(lora.path, "a DoRA or rank-stabilised LoRA")
    default, special = config.get("lora_alpha"), config.get("alpha_pattern") or {}
    if not isinstance(special, dict):
        raise _malformed(lora.path, "an alpha_pattern that is no object", "alphas by layer")
    for layer in lora.down:
        value = special.get(layer, default)
        if value is not None:
            lora.alpha.setdefault(layer, _stated_alpha(lora.path, layer, value))


def _adapter_config(path: Path, text: str) -> dict[str, Any]:
    """What diffusers noted of the adapter, without the prefix of the part that it belongs to."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _malformed(path, f"{ADAPTER_METADATA}: {error}", "a JSON object") from error
    if not isinstance(content, dict):
        raise _malformed(path, f"{ADAPTER_METADATA}: {text[:_SHOWN]}", "a JSON object")
    return {key.rpartition("transformer.")[2]: value for key, value in content.items()}


def _stated_alpha(path: Path, layer: str, value: object) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # Compared and not converted: a whole number may be beyond the range of float.
    if not number or not -_MAX_ALPHA <= value <= _MAX_ALPHA:  # type: ignore[operator]
        raise _malformed(path, f"an alpha of {str(value)[:_SHOWN]} for {layer}", "finite numbers")
    return float(value)  # type: ignore[arg-type]


def _alpha(path: Path, name: str, tensor: Tensor) -> float:
    single = tensor.numel() == 1 and not tensor.is_complex()
    if not single or not math.isfinite(float(tensor)):
        raise _malformed(
            path, f"{name} of shape {tuple(tensor.shape)}, {tensor.dtype}", "one finite number"
        )
    return float(tensor)


def _malformed(path: Path, got: str, expected: str) -> ModelMismatchError:
    return ModelMismatchError(
        f"The LoRA {path.name} holds what no LoRA holds",
        got=got,
        expected=expected,
        fix="Download the file again",
    )


def _unknown(path: Path, got: str) -> ModelMismatchError:
    return ModelMismatchError(
        f"{path.name} is not a LoRA that can be read",
        got=got,
        expected="two matrices for each layer (lora_A and lora_B, or lora_down and lora_up)",
        fix="Use a LoRA for Wan2.2-TI2V-5B in safetensors; LoHa, LoKr and DoRA are not read",
    )
