"""LoRA on the video model: as PEFT layers, or added to the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from ..checkpoints.lora_format import LoraFile, read_lora
from ..errors import ModelMismatchError

_PLAIN_TYPES: Final = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class LoraInfo:
    """What was applied.

    Attributes:
        name: Of the PEFT adapter; empty when the weights were changed instead.
        layers: Names of the layers, as diffusers calls them.
        ranks: All ranks that occur, ascending.
        scales: All factors alpha / rank that occur in the file, ascending.
    """

    name: str
    layers: tuple[str, ...]
    ranks: tuple[int, ...]
    scales: tuple[float, ...]


def apply_lora(
    transformer: Any,
    path: Path | str,
    scale: float | None = None,
    *,
    name: str | None = None,
    fuse: bool = False,
) -> LoraInfo:
    """Apply a LoRA: W + scale * (alpha / rank) * B A.

    Rank, layers and alpha come from the file; released files store no alpha, which means
    alpha = rank. Everything is checked before the model is changed. A second LoRA goes on top of
    the first. What was trainable stays so; the adapter is not.

    Args:
        transformer: A `MirageTransformer3DModel`.
        path: A ``.safetensors`` file under the names of the released training code, ComfyUI,
            diffusers, PEFT or kohya.
        scale: Strength; 1 by default.
        name: Of the PEFT adapter; the file's name by default.
        fuse: Change the weights instead of adding layers: as fast as without a LoRA, but it
            cannot be taken back, and 8-bit and GGUF weights cannot be changed.

    Raises:
        ModelMismatchError: The file is damaged or no LoRA, a layer is not in this model or of
            another size (the first such is named), or the weights cannot be changed.
    """
    lora = read_lora(Path(path))
    modules = _targets(transformer, lora)
    strength = 1.0 if scale is None else float(scale)
    if fuse:
        _fuse(transformer, modules, lora, strength)
        used = ""
    else:
        used = _free_name(transformer, name or lora.path.stem)
        _add_adapter(transformer, lora, strength, used)
    return LoraInfo(
        used,
        tuple(sorted(modules)),
        tuple(sorted({lora.rank(layer) for layer in modules})),
        tuple(sorted({lora.scale(layer) for layer in modules})),
    )


def switch_lora(transformer: Any, name: str, on: bool) -> None:
    """Switch one LoRA that `apply_lora` added as a PEFT adapter; the others stay as they are.

    No weights are copied or changed, so it may be switched as often as one likes. What was
    trainable stays so.

    Args:
        transformer: A `MirageTransformer3DModel`.
        name: Of the adapter, from `LoraInfo.name`.
        on: Whether the LoRA is in force.

    Raises:
        ModelMismatchError: The model has no such adapter.
    """
    known = getattr(transformer, "peft_config", {})
    if name not in known:
        raise ModelMismatchError(
            "The model has no such LoRA to switch",
            got=name or "no name, since it was added to the weights",
            expected=", ".join(known) or "a LoRA that was applied with fuse=False",
            fix="Apply the LoRA with fuse=False, and give the name that apply_lora returns",
        )
    active = [other for other in _active(transformer) if other != name]
    active += [name] if on else []
    with _keeping_trainable(transformer):
        if active:
            transformer.enable_adapters()
            transformer.set_adapters(active, weights=1.0)
        else:
            transformer.disable_adapters()


def _active(transformer: Any) -> list[str]:
    """Adapters that are in force, in their order."""
    for layer in transformer.modules():
        if hasattr(layer, "base_layer"):
            return [] if layer.disable_adapters else [*layer.active_adapters]
    return []


@contextmanager
def _keeping_trainable(transformer: Any) -> Iterator[None]:
    """PEFT makes adapters trainable and freezes all else: what was trainable stays so."""
    trainable = {id(own): own.requires_grad for own in transformer.parameters()}
    yield
    for own in transformer.parameters():
        own.requires_grad_(trainable.get(id(own), False))


def _targets(transformer: Any, lora: LoraFile) -> dict[str, nn.Module]:
    """The layers that the file changes, all of them in the model and of the right size."""
    modules = dict(transformer.named_modules())
    for layer in lora.down:
        module = modules.get(layer)
        into, out = getattr(module, "in_features", None), getattr(module, "out_features", None)
        if into is None or out is None:
            raise _mismatch(lora, f"{layer}, which this model does not have")
        found = (int(lora.up[layer].shape[0]), int(lora.down[layer].shape[1]))
        if found != (out, into):
            raise _mismatch(lora, f"{layer} of {found} instead of {(out, into)}")
    parameters = dict(transformer.named_parameters())
    for parameter, change in lora.changes.items():
        own = parameters.get(parameter)
        if own is None or own.shape != change.shape:
            size = "none" if own is None else tuple(own.shape)
            raise _mismatch(lora, f"{parameter} of {tuple(change.shape)} instead of {size}")
    return {layer: modules[layer] for layer in lora.down}


def _mismatch(lora: LoraFile, got: str) -> ModelMismatchError:
    return ModelMismatchError(
        f"The LoRA {lora.path.name} was made for another model",
        got=got,
        expected="a LoRA for Wan2.2-TI2V-5B",
        fix="Use the LoRA that belongs to the model, or load the model that it belongs to",
    )


def _add_adapter(transformer: Any, lora: LoraFile, strength: float, name: str) -> None:
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise ModelMismatchError(
            "LoRA requires the package peft",
            got="it is not installed",
            fix="Install it with: pip install peft, or fuse the LoRA into the weights",
        ) from error
    if lora.changes:
        raise ModelMismatchError(
            f"The LoRA {lora.path.name} also changes full tensors",
            got=next(iter(lora.changes)),
            expected="matrices only",
            fix="Apply it with fuse=True, which changes the weights",
        )
    state: dict[str, Tensor] = {}
    for layer, down in lora.down.items():
        # All factors go into B: PEFT takes alpha = rank where it is told nothing.
        factor = strength * lora.scale(layer)
        state[f"{layer}.lora_A.weight"] = down
        state[f"{layer}.lora_B.weight"] = (lora.up[layer].float() * factor).to(down.dtype)
    # Adapters that were switched off stay so.
    active = _active(transformer)
    with _keeping_trainable(transformer):
        transformer.load_lora_adapter(state, prefix=None, adapter_name=name)
        transformer.enable_adapters()
        transformer.set_adapters([*active, name], weights=1.0)
        _match_types(transformer, lora, name)


def _match_types(transformer: Any, lora: LoraFile, name: str) -> None:
    """The adapter in the type of the layers that it stands in."""
    modules = dict(transformer.named_modules())
    for layer in lora.down:
        weight = modules[layer].base_layer.weight
        dtype = weight.dtype if weight.dtype in _PLAIN_TYPES else torch.bfloat16
        for part in (modules[layer].lora_A[name], modules[layer].lora_B[name]):
            part.to(weight.device, dtype)


def _fuse(
    transformer: Any, modules: dict[str, nn.Module], lora: LoraFile, strength: float
) -> None:
    weights = {layer: _weight(module) for layer, module in modules.items()}
    parameters = dict(transformer.named_parameters())
    changed = [*weights.items(), *((name, parameters[name]) for name in lora.changes)]
    narrow = [name for name, weight in changed if weight.dtype not in _PLAIN_TYPES]
    if narrow:
        raise ModelMismatchError(
            "The LoRA cannot be added to these weights",
            got=f"{narrow[0]} is stored in a quantised format",
            expected="bf16, fp16 or fp32 weights",
            fix="Apply it with fuse=False, or load the bf16 model",
        )
    with torch.no_grad():
        for layer, weight in weights.items():
            up, down = (part[layer].to(weight.device).float() for part in (lora.up, lora.down))
            change = strength * lora.scale(layer) * (up @ down)
            weight.copy_(weight.float() + change)
        for name, change in lora.changes.items():
            own = parameters[name]
            own.copy_(own.float() + strength * change.to(own.device).float())


def _weight(module: Any) -> Tensor:
    """The weight of a layer, under adapters too."""
    weight: Tensor = getattr(module, "base_layer", module).weight
    return weight


def _free_name(transformer: Any, wanted: str) -> str:
    """A name that no adapter has; PEFT takes no dots."""
    plain, known = wanted.replace(".", "_"), getattr(transformer, "peft_config", {})
    number, name = 1, plain
    while name in known:
        number += 1
        name = f"{plain}_{number}"
    return name
