"""What a run would take on many devices: parts and memory, without a device or weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from ..checkpoints.weight_files import keep_float32_words, parameter_type
from ..constants import MAX_CHUNK_FRAMES, PATCH_SIZE, TEMPORAL_STRIDE
from ..geometry.camera import latent_size
from ..models.transformer import MirageTransformer3DModel
from ..validate import expect_range
from .distributed import sharded_blocks
from .settings import TrainingSettings
from .stages import prepare_model

GIB: Final = 1 << 30
MOMENT_COPIES: Final = 2
"""Float32 numbers that AdamW keeps for each trained one."""

NARROW_BLOCK: Final = 256
"""Numbers that share a factor where moments have 8 bits."""

MIN_NARROW: Final = 4096
"""Tensors of fewer numbers keep moments in 32 bits there."""

UNITS_AT_ONCE: Final = 2
"""Blocks that are gathered at the same time: one computes, the next is on its way."""

SAVED_ACTIVATIONS: Final = {"frozen": (18, 1), "lora": (30, 1), "trained": (38, 2)}
"""Numbers that a block keeps for each token between its forward and backward pass: so many for
each channel, and so many for each channel inside the feed-forward part. Counted in bfloat16 with
``saved_tensors_hooks``, with attention that does not keep its scores."""


@dataclass(frozen=True)
class UnitPlan:
    """One unit that is gathered at a time: a block, or all that is in no block.

    Attributes:
        name: How the model calls it.
        parameters: Numbers that it has.
        trained: How many of them are trained.
        largest_part: Bytes of the largest part that one device holds.
        gathered: Bytes of the whole unit.
    """

    name: str
    parameters: int
    trained: int
    largest_part: int
    gathered: int


@dataclass(frozen=True)
class MemoryPlan:
    """What one device holds at the most, in bytes.

    Attributes:
        devices: How many there are.
        units: All units.
        weights: Its part of all weights: trained ones in float32, frozen ones in their type.
        gradients: Its part of the gradients.
        moments: Its part of the optimizer's moments.
        average: Its part of the averaged weights.
        gathered: Units that are gathered at the same time, with their gradients.
        activations: Estimate of what is kept for the backward pass of one micro-batch.
        tokens: Tokens of a clip with all references and preceding frames.
        channels: Channels of its latents.
    """

    devices: int
    units: tuple[UnitPlan, ...]
    weights: int
    gradients: int
    moments: int
    average: int
    gathered: int
    activations: int
    tokens: int
    channels: int

    @property
    def total(self) -> int:
        """Peak bytes of one device."""
        parts = (self.weights, self.gradients, self.moments, self.average)
        return sum(parts) + self.gathered + self.activations


def unloaded_model(settings: TrainingSettings, **sizes: Any) -> Any:
    """A video model on ``meta``, each parameter in the type that it would have when loaded.

    Args:
        settings: Of the run.
        **sizes: Arguments of `MirageTransformer3DModel`; those of Wan2.2-TI2V-5B by default.
    """
    with torch.device("meta"):
        model: Any = MirageTransformer3DModel(**sizes)
    words = keep_float32_words(model)
    dtype = torch.float32 if settings.trains_full_model else settings.compute_dtype
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(parameter_type(name, dtype, words))
    return model


def plan_memory(
    model: Any,
    settings: TrainingSettings,
    devices: int,
    size: tuple[int, int] = (1280, 704),
) -> MemoryPlan:
    """Plan a run.

    Parts are exact: each parameter is cut along its first axis into equal numbers of rows, and
    the first devices hold one row more where it does not come out even. Activations are an
    estimate from the sizes of blocks.

    Args:
        model: A `mirage_core.models.transformer.MirageTransformer3DModel`, on ``meta`` for a
            model that is not there; the stage's branch and LoRA are added to it.
        settings: Of the run.
        devices: How many share it.
        size: Width and height of the pictures.

    Raises:
        ValueRangeError: ``devices`` is not positive.
        ModelMismatchError: The model does not fit the stage.
        ShapeError: The size does not fit the video model's grid.
    """
    expect_range("The number of devices", devices, 1, 1 << 20)
    prepare_model(model, settings)
    return plan_prepared(model, settings, devices, latent_size(*size))


def plan_prepared(
    model: Any, settings: TrainingSettings, devices: int, grid: tuple[int, int]
) -> MemoryPlan:
    """`plan_memory` for a model that is prepared for its stage already.

    Args:
        model: On any device.
        settings: Of the run.
        devices: How many share it.
        grid: Rows and columns of the latents.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    blocks = {id(block): block for block in sharded_blocks(model)}
    units = [
        _unit(name, list(module.parameters()), devices)
        for name, module in model.named_modules()
        if id(module) in blocks
    ]
    inside = {id(p) for block in blocks.values() for p in block.parameters()}
    units.append(_unit("the rest", [p for p in model.parameters() if id(p) not in inside], devices))
    part = sum(_rows(p, devices) * 4 for p in trained.values())
    largest = sorted((_with_gradient(unit) for unit in units[:-1]), reverse=True)
    gathered = (sum(largest[:UNITS_AT_ONCE]) + _with_gradient(units[-1])) if devices > 1 else 0
    tokens, side_tokens = _tokens(settings, grid)
    shared = settings.context_parallel
    return MemoryPlan(
        devices=devices,
        units=tuple(units),
        weights=sum(unit.largest_part for unit in units),
        gradients=part,
        moments=sum(_moments(p, settings, devices) for p in trained.values()),
        average=part if settings.ema_decay else 0,
        gathered=gathered,
        activations=_activations(model, settings, tokens // shared, side_tokens // shared),
        tokens=tokens,
        channels=int(model.config.in_channels),
    )


def _unit(name: str, parameters: list[nn.Parameter], devices: int) -> UnitPlan:
    return UnitPlan(
        name=name,
        parameters=sum(p.numel() for p in parameters),
        trained=sum(p.numel() for p in parameters if p.requires_grad),
        largest_part=sum(_rows(p, devices) * p.element_size() for p in parameters),
        gathered=sum(p.numel() * p.element_size() for p in parameters),
    )


def _with_gradient(unit: UnitPlan) -> int:
    return unit.gathered + 4 * unit.trained


def _rows(parameter: Tensor, devices: int) -> int:
    """Numbers of a parameter that the first device holds."""
    length = parameter.shape[0] if parameter.ndim else 1
    return -(-length // devices) * (parameter.numel() // max(1, length))


def _moments(parameter: Tensor, settings: TrainingSettings, devices: int) -> int:
    """Bytes that AdamW keeps for a parameter on the first device."""
    numbers = _rows(parameter, devices)
    narrow = numbers >= MIN_NARROW and numbers % NARROW_BLOCK == 0
    if settings.optimiser == "adamw8bit" and narrow:
        return MOMENT_COPIES * (numbers + 4 * numbers // NARROW_BLOCK)
    return MOMENT_COPIES * 4 * numbers


def _tokens(settings: TrainingSettings, grid: tuple[int, int]) -> tuple[int, int]:
    """Tokens in the backbone and in the side branch, of a clip of full length."""
    height, width = grid
    frame = height * width // PATCH_SIZE**2
    target = (MAX_CHUNK_FRAMES - 1) // TEMPORAL_STRIDE + 1
    main = target + settings.preceding
    return frame * (main + settings.references), frame * main


def _activations(
    model: Any, settings: TrainingSettings, tokens: int, side_tokens: int
) -> int:
    """Bytes of one micro-batch."""
    width = model.config.num_attention_heads * model.config.attention_head_dim
    layers, side_layers = model.config.num_layers, len(model.config.side_layers)
    number = torch.finfo(settings.compute_dtype).bits // 8

    def inside(kind: str) -> int:
        each, inner = SAVED_ACTIVATIONS[kind]
        return number * (each * width + inner * model.config.ffn_dim)

    full = "trained" if settings.trains_full_model else "frozen"
    backbone = tokens * inside("lora" if settings.with_lora else full)
    side = side_tokens * inside("trained" if settings.with_branch else "frozen")
    if settings.gradient_checkpointing:
        # Each block's input, and a hint for each side block; then one block at a time.
        kept = number * width * (layers * tokens + 2 * side_layers * side_tokens)
        return settings.micro_batch * (kept + max(backbone, side))
    return settings.micro_batch * (layers * backbone + side_layers * side)


def describe_plan(plan: MemoryPlan) -> str:
    """The plan as a table: parameters and MiB per unit, GiB per device."""
    lines = [
        f"{plan.devices} devices, {plan.tokens} tokens in a clip with {plan.channels}-channel "
        "latents",
        f"{'unit':<20} {'parameters':>14} {'trained':>14} {'part, MiB':>10} {'whole, MiB':>11}",
    ]
    for unit in plan.units:
        lines.append(
            f"{unit.name:<20} {unit.parameters:>14,} {unit.trained:>14,} "
            f"{unit.largest_part / 2**20:>10.1f} {unit.gathered / 2**20:>11.1f}"
        )
    parameters = sum(unit.parameters for unit in plan.units)
    trained = sum(unit.trained for unit in plan.units)
    lines.append(f"{'all':<20} {parameters:>14,} {trained:>14,}")
    lines.append("on each device, GiB:")
    for name in ("weights", "gradients", "moments", "average", "gathered", "activations"):
        note = " (estimate)" if name == "activations" else ""
        lines.append(f"  {name:<12} {getattr(plan, name) / GIB:>8.2f}{note}")
    lines.append(f"  {'total':<12} {plan.total / GIB:>8.2f}")
    return "\n".join(lines)
