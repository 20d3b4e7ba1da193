"""Frozen weights in 8 bits: half the memory of bfloat16, widened while a layer computes.

Each row of a matrix has a factor that is a power of two. So a widened number is exactly the stored
one, also in bfloat16, and the only rounding is the one when the weights are stored.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from .distributed import sharded_blocks

STORED: Final = torch.float8_e4m3fn
LARGEST: Final = torch.finfo(STORED).max


class _Product(torch.autograd.Function):
    """A linear layer that keeps its 8 bits for the backward pass, and no widened copy."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(weight, scale)
        return functional.linear(inputs, widened(weight, scale, inputs.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        weight, scale = ctx.saved_tensors
        (gradient,) = gradients
        return gradient @ widened(weight, scale, gradient.dtype), None, None, None


class Float8Linear(nn.Module):
    """A frozen linear layer whose matrix is stored in 8 bits.

    Args:
        linear: The layer; its parameters are taken over.
        dtype: Type to compute in.

    Attributes:
        weight: (out, in) float8_e4m3fn.
        scale: (out, 1) float32 powers of two.
        bias: (out,) in ``dtype``; None without one.
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._dtype = dtype
        weight, scale = narrowed(linear.weight.detach())
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.bias = linear.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) to (..., out), both in the type to compute in."""
        bias = None if self.bias is None else self.bias.to(self._dtype)
        found: Tensor = _Product.apply(inputs.to(self._dtype), self.weight, self.scale, bias)
        return found


def narrowed(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix (out, in) in 8 bits, and the powers of two (out, 1) that belong to its rows."""
    largest = weight.float().abs().amax(dim=1, keepdim=True)
    scale = torch.exp2((largest / LARGEST).log2().ceil())
    # A row of zeros has no logarithm.
    scale = torch.where(largest > 0, scale, torch.ones_like(scale))
    return (weight.float() / scale).clamp(-LARGEST, LARGEST).to(STORED), scale


def widened(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The matrix that `narrowed` has stored."""
    return weight.to(dtype) * scale.to(dtype)


def store_frozen(model: nn.Module, dtype: torch.dtype) -> int:
    """Store all frozen matrices of a model's blocks in 8 bits.

    Args:
        model: A prepared `mirage_core.models.transformer.MirageTransformer3DModel`.
        dtype: Type to compute in.

    Returns:
        How many layers that were.
    """
    found = [
        (parent, name, layer)
        for block in sharded_blocks(model)
        for parent in block.modules()
        for name, layer in parent.named_children()
        if type(layer) is nn.Linear and not layer.weight.requires_grad
    ]
    for parent, name, layer in found:
        setattr(parent, name, Float8Linear(layer, dtype))
    return len(found)
