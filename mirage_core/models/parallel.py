"""Context parallelism: every device takes an equal share of every frame.

The side branch has fewer tokens than the backbone, since it never sees the reference frames. Equal
parts of the whole sequence would therefore give a device hints for tokens that it does not hold.
Tokens are kept as (B, frames, tokens of a frame, channels), and what is split is the third axis:
each device then holds the same part of each frame in both stacks, and hints need no communication.
"""

from __future__ import annotations

from typing import Any, Final

from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from torch import Tensor, nn

from ..errors import ShapeError

TOKEN_AXIS: Final = 2
TOKEN_DIMS: Final = 4

CONTEXT_PARALLEL_PLAN: Final[dict[str, Any]] = {
    "shard": {
        0: ContextParallelInput(split_dim=TOKEN_AXIS, expected_dims=TOKEN_DIMS, split_output=True)
    },
    "proj_out": ContextParallelOutput(gather_dim=TOKEN_AXIS, expected_dims=TOKEN_DIMS),
}
"""Which modules of the transformer split and gather, in the form that diffusers takes."""


class TokenShard(nn.Module):
    """The place where tokens are split over devices; without context parallelism the identity."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (B, F, n, C) as it is; diffusers' hook on this module takes the device's part."""
        return tokens


def expect_divisible(parallel: Any, tokens: int) -> None:
    """Raise `ShapeError` unless the tokens of a frame can be divided evenly.

    Args:
        parallel: What `enable_parallelism` left at the model, None without it.
        tokens: Tokens of one frame.
    """
    context = getattr(parallel, "context_parallel_config", None)
    devices = 1 if context is None else context.ring_degree * context.ulysses_degree
    if tokens % devices:
        raise ShapeError(
            "The tokens of a frame are not divisible by the number of devices",
            got=f"{tokens} tokens in a frame, {devices} devices",
            expected="a number of tokens divisible by the number of devices",
            fix="Use a picture size with width * height / 1024 divisible by the number of devices",
        )
