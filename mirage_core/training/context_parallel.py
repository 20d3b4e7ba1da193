"""Context parallelism in training: several processes take parts of every frame of one clip.

What is split is described in `mirage_core.models.parallel`. Attention exchanges heads for tokens
(Ulysses), through diffusers and PyTorch's own attention, which is the one that has a backward pass
on every device. A process's gradient is then that of its tokens, and the sum over a group is that
of the clip.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ContextParallelConfig
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from ..errors import ModelMismatchError, ValueRangeError
from .distributed import Distributed
from .settings import TrainingSettings

BACKEND = "native"
"""Attention of diffusers that can exchange heads and go backward without further packages."""


def share_frames(model: Any, settings: TrainingSettings, processes: Distributed) -> None:
    """Let groups of neighbouring processes share the frames of each clip, as the settings say.

    Called before `Distributed.shard`. Nothing changes where every process has clips of its own.

    Args:
        model: A `mirage_core.models.transformer.MirageTransformer3DModel` on its device.
        settings: Of the run; ``context_parallel`` is the size of a group.
        processes: Of the run.

    Raises:
        ValueRangeError: The processes or the attention heads cannot be divided so.
        ModelMismatchError: The processes have no accelerators, or blocks are compiled.
    """
    degree = settings.context_parallel
    if degree == 1:
        return
    _expect_possible(model, settings)
    groups = processes.count // processes.expect_groups(degree)
    mesh = init_device_mesh(
        processes.device.type, (groups, 1, degree), mesh_dim_names=("clips", "ring", "ulysses")
    )
    model.set_attention_backend(BACKEND)
    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=degree, mesh=mesh))
    for name, module in model.named_modules():
        if name.endswith(("attn1.norm_q", "attn1.norm_k")):
            module.register_forward_hook(as_given)


def as_given(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    """Queries and keys in the type of the values.

    Autocast may widen what a norm gives, and the exchange has no backward pass for mixed types.
    """
    return output.type_as(inputs[0])


def _expect_possible(model: Any, settings: TrainingSettings) -> None:
    degree, heads = settings.context_parallel, int(model.config.num_attention_heads)
    if heads % degree:
        raise ValueRangeError(
            "The attention heads are not divisible by the processes that share a clip",
            got=f"{heads} heads, context_parallel {degree}",
            expected="a divisor of the number of heads",
        )
    if settings.compile:
        raise ModelMismatchError(
            "Compiled blocks cannot share their frames with other processes",
            got=f"compile and context_parallel {degree}",
            fix="Leave one of them out",
        )
    if torch.accelerator.device_count() == 0:
        raise ModelMismatchError(
            "Frames are shared between accelerators, and there is none",
            got=f"context_parallel {degree} on a CPU",
            fix="Leave --context-parallel out",
        )
