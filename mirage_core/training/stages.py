"""What is trained: giving the model a branch and a LoRA, and choosing its parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from peft import LoraConfig
from torch import Tensor, nn

from ..checkpoints.branch import BranchConfig
from ..checkpoints.lora_format import LoraFile
from ..checkpoints.names import is_branch
from ..conditioning.features import parse_features
from ..errors import ModelMismatchError
from ..models.transformer import BACKBONE_ATTENTION
from .float8 import store_frozen
from .sampler import WEIGHTS_SEED, mixed_seed
from .settings import TrainingSettings

ADAPTER: Final = "mirage"
"""Name of the LoRA that is trained, inside the model."""

RELEASED_LAYERS: Final = (
    r"blocks\.\d+\.(attn[12]\.(to_q|to_k|to_v|to_out\.0)|ffn\.net\.(0\.proj|2))"
)
"""The layers of the released code's LoRA, as a pattern that PEFT matches in full."""


def prepare_model(
    transformer: Any, settings: TrainingSettings, lora: LoraFile | None = None
) -> dict[str, nn.Parameter]:
    """Make a model ready for its stage.

    A model without a branch gets a new one, where the stage trains branches. What is trained
    becomes float32 and the rest is frozen in the type that it has, or in 8 bits.

    Args:
        transformer: A `mirage_core.models.transformer.MirageTransformer3DModel` with floating
            point weights, on its device.
        settings: Of the run.
        lora: What the LoRA begins as; None for a new one.

    Returns:
        The trained parameters by name.

    Raises:
        ModelMismatchError: The branch does not belong to the stage: one is missing that an
            earlier stage should have made, or there is one already; or the LoRA is another one
            than the settings describe.
    """
    _expect_branch(transformer, settings)
    _expect_plain_weights(transformer)
    with seeded(mixed_seed(settings.seed, WEIGHTS_SEED), transformer.device):
        if transformer.branch_config is None and settings.with_branch:
            transformer.add_branch(new_branch(transformer, settings))
            if transformer.device.type != "meta":
                transformer.init_branch(settings.side_init)
        if settings.with_lora:
            transformer.add_adapter(lora_config(settings), adapter_name=ADAPTER)
    if lora is not None:
        _begin_with(transformer, lora, settings)
    for name, parameter in transformer.named_parameters():
        trained = is_trained(name, settings)
        parameter.requires_grad_(trained)
        if trained:
            parameter.data = parameter.data.float()
    if settings.frozen_dtype == "float8":
        store_frozen(transformer, settings.compute_dtype)
    if settings.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    if settings.compute_dtype != torch.float32:
        exclude_from_autocast(transformer.condition_embedder.time_embedder)
    return {name: p for name, p in transformer.named_parameters() if p.requires_grad}


def is_trained(name: str, settings: TrainingSettings) -> bool:
    """Whether a stage trains the parameter of this name."""
    if settings.trains_full_model:
        return True
    if is_branch(name):
        return settings.with_branch
    return settings.with_lora and f".{ADAPTER}." in name


def new_branch(transformer: Any, settings: TrainingSettings) -> BranchConfig:
    """What a new side branch of this model is made for."""
    own = transformer.config
    return BranchConfig(
        layers=even_layers(settings.side_blocks, own.num_layers),
        features=parse_features(settings.side_features),
        shared_embedding=settings.side_shared_embedding,
        dim=own.num_attention_heads * own.attention_head_dim,
        ffn_dim=own.ffn_dim,
        heads=own.num_attention_heads,
    )


def even_layers(blocks: int, backbone_layers: int) -> tuple[int, ...]:
    """Evenly spaced layers from layer 0 on; of several spacings the closest.

    Raises:
        ModelMismatchError: No spacing gives this number.
    """
    for step in range(1, backbone_layers + 1):
        layers = tuple(range(0, backbone_layers, step))
        if len(layers) == blocks:
            return layers
    counts = {len(range(0, backbone_layers, step)) for step in range(1, backbone_layers + 1)}
    raise ModelMismatchError(
        "This number of side blocks cannot be spaced evenly",
        got=f"{blocks} blocks for a model of {backbone_layers} layers",
        expected=f"one of {', '.join(map(str, sorted(counts)))}",
    )


def lora_config(settings: TrainingSettings) -> LoraConfig:
    """The LoRA; alpha equals the rank, so that no program has to know it."""
    wide = settings.lora_layers == "released"
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_rank,
        lora_dropout=settings.lora_dropout,
        target_modules=RELEASED_LAYERS if wide else BACKBONE_ATTENTION,
    )


@torch.no_grad()
def _begin_with(transformer: Any, lora: LoraFile, settings: TrainingSettings) -> None:
    """Put a LoRA into the adapter, whose own factor is 1."""
    places = {
        name: module
        for name, module in transformer.named_modules()
        if ADAPTER in getattr(module, "lora_A", ())
    }
    if not settings.with_lora or lora.changes or set(lora.down) != set(places):
        raise _other_lora(
            lora,
            f"{len(lora.down)} layers, and {len(lora.changes)} whole tensors",
            f"matrices for the {len(places)} layers of --lora-layers {settings.lora_layers}"
            if settings.with_lora
            else f"no LoRA, which the stage {settings.stage} does not train",
        )
    for layer, module in places.items():
        down, up = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
        if lora.down[layer].shape != down.shape or lora.up[layer].shape != up.shape:
            raise _other_lora(
                lora,
                f"rank {lora.rank(layer)}, {tuple(lora.up[layer].shape)} for {layer}",
                f"rank {settings.lora_rank}, {tuple(up.shape)}",
            )
        down.copy_(lora.down[layer])
        up.copy_(lora.scale(layer) * lora.up[layer].float())


def _other_lora(lora: LoraFile, got: str, expected: str) -> ModelMismatchError:
    return ModelMismatchError(
        f"The LoRA {lora.path.name} is not one that this run trains",
        got=got,
        expected=expected,
        fix="Set --lora-layers and --lora-rank to those of the file, or leave --lora out",
    )


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's own generators begin at a seed inside, and go on as before outside."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def exclude_from_autocast(module: nn.Module) -> None:
    """Take a module out of autocast: the time embedding is float32 in generation as well."""
    open_contexts: list[torch.autocast] = []

    def enter(owner: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        context = torch.autocast(inputs[0].device.type, enabled=False)
        context.__enter__()
        open_contexts.append(context)

    def leave(owner: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        open_contexts.pop().__exit__(None, None, None)

    module.register_forward_pre_hook(enter)
    module.register_forward_hook(leave, always_call=True)


def _expect_branch(transformer: Any, settings: TrainingSettings) -> None:
    given = transformer.branch_config is not None
    if settings.stage in ("joint", "lora") and not given:
        raise ModelMismatchError(
            f"The stage {settings.stage} requires a trained side branch",
            got="a model without one",
            fix="Set the branch of the first stage, or choose the stage single",
        )
    if settings.stage in ("single", "backbone") and given:
        wanted = "a new side branch" if settings.with_branch else "a model that has none"
        raise ModelMismatchError(
            f"The stage {settings.stage} begins with {wanted}",
            got="a model that has one",
            fix="Choose the stage joint, or full for a small model",
        )


def _expect_plain_weights(transformer: nn.Module) -> None:
    for name, parameter in transformer.named_parameters():
        if not parameter.is_floating_point() or parameter.element_size() < 2:  # noqa: PLR2004
            raise ModelMismatchError(
                "Quantised weights cannot be trained",
                got=f"{name} of type {parameter.dtype}",
                expected="a model in bf16, fp16 or fp32",
            )
