"""Transformer blocks that modulate by frame, and the modules of the side branch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from torch import Tensor, nn

from ..checkpoints.branch import BranchConfig
from ..constants import LATENT_CHANNELS, PATCH_SIZE

PATCH = (1, PATCH_SIZE, PATCH_SIZE)
"""Latent cells per token: (t, y, x)."""

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines, each (1, F * n, 1, head_dim) float32."""


class _ByFrame(WanTransformerBlock):
    """A Wan block whose modulation has one row for each frame.

    All tokens of a frame have one timestep. The stock block repeats the six modulation vectors
    for each token, in float32: 0.91 GiB at 13,200 tokens of width 3072. Here tokens stand as
    (B, F, n, D) and the vectors as (B, F, 1, D). The arithmetic for each token is the stock
    block's, in the same order.
    """

    def transform(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        rotary_emb: Rotary,
    ) -> Tensor:
        """Run self-attention, attention to the text, and the feed-forward part.

        Args:
            hidden_states: (B, F, n, D) tokens, by frame.
            encoder_hidden_states: (B, L, D) text.
            temb: (B, F, 6, D) modulation of each frame, or (B, 1, 6, D) for all alike.
            rotary_emb: Angles of all F * n tokens.

        Returns:
            (B, F, n, D).
        """
        shift, scale, gate, ff_shift, ff_scale, ff_gate = (
            self.scale_shift_table + temb.float()
        ).chunk(6, dim=2)
        frames = hidden_states.shape[1:3]

        normed = self.norm1(hidden_states.float()) * (1 + scale) + shift
        attended = self.attn1(_sequence(normed, hidden_states), None, None, rotary_emb)
        attended = attended.unflatten(1, frames)
        hidden_states = (hidden_states.float() + attended * gate).type_as(hidden_states)

        normed = self.norm2(hidden_states.float())
        attended = self.attn2(_sequence(normed, hidden_states), encoder_hidden_states, None, None)
        hidden_states = hidden_states + attended.unflatten(1, frames)

        normed = self.norm3(hidden_states.float()) * (1 + ff_scale) + ff_shift
        fed = self.ffn(_sequence(normed, hidden_states)).unflatten(1, frames)
        return (hidden_states.float() + fed.float() * ff_gate).type_as(hidden_states)


def _sequence(tokens: Tensor, like: Tensor) -> Tensor:
    """(B, F, n, D) as (B, F * n, D), in the type of ``like``."""
    return tokens.type_as(like).flatten(1, 2)


class FrameBlock(_ByFrame):
    """A block of the backbone."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        rotary_emb: Rotary,
    ) -> Tensor:
        """Do what `transform` does."""
        return self.transform(hidden_states, encoder_hidden_states, temb, rotary_emb)


class SideBlock(_ByFrame):
    """A block of the side branch: a backbone block between two projections.

    Args:
        first: True for the branch's first block, which also takes the backbone's tokens.
        *args: What `WanTransformerBlock` takes.
        **kwargs: What `WanTransformerBlock` takes.
    """

    def __init__(self, *args: object, first: bool, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        dim = self.scale_shift_table.shape[-1]
        self.proj_in = nn.Linear(dim, dim) if first else None
        self.proj_out = nn.Linear(dim, dim)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(
        self,
        side_states: Tensor,
        hidden_states: Tensor | None,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        rotary_emb: Rotary,
    ) -> tuple[Tensor, Tensor]:
        """Compute the hint for one backbone layer.

        Args:
            side_states: (B, T + P, n, D) state of the side branch.
            hidden_states: (B, T + P, n, D) the backbone's tokens before its first block; taken
                by the branch's first block only.
            encoder_hidden_states: (B, L, D) text.
            temb: (B, T + P, 6, D) modulation, or (B, 1, 6, D).
            rotary_emb: Angles of the (T + P) * n tokens.

        Returns:
            The hint and the branch's next state, both (B, T + P, n, D).
        """
        if self.proj_in is not None:
            side_states = self.proj_in(side_states) + hidden_states
        side_states = self.transform(side_states, encoder_hidden_states, temb, rotary_emb)
        return self.proj_out(side_states), side_states


@dataclass(frozen=True)
class BlockOptions:
    """What a block takes beside its widths.

    Attributes:
        qk_norm: Kind of norm on queries and keys.
        cross_attn_norm: True for a norm before the attention to the text.
        eps: Added to variances.
    """

    qk_norm: str | None
    cross_attn_norm: bool
    eps: float


def backbone_blocks(
    count: int, dim: int, ffn_dim: int, heads: int, options: BlockOptions
) -> nn.ModuleList:
    """The backbone's blocks, with random weights."""
    return nn.ModuleList(
        FrameBlock(dim, ffn_dim, heads, options.qk_norm, options.cross_attn_norm, options.eps)
        for _ in range(count)
    )


def side_modules(config: BranchConfig, options: BlockOptions) -> Mapping[str, nn.Module | None]:
    """The modules of a side branch, with random weights and projections out that are zero.

    Args:
        config: What the branch is made for.
        options: The backbone's, which the branch shares.

    Returns:
        By the name that the released code gives them; None where this branch has none.
    """
    beside = config.in_channels - LATENT_CHANNELS
    own = mask = None
    if not config.shared_embedding:
        own = nn.Conv3d(config.in_channels, config.dim, PATCH, PATCH)
    elif beside:
        # Its sum with the backbone's embedding is one embedding of all planes, with one bias.
        mask = nn.Conv3d(beside, config.dim, PATCH, PATCH, bias=False)
    blocks = nn.ModuleList(
        SideBlock(
            config.dim,
            config.ffn_dim,
            config.heads,
            options.qk_norm,
            options.cross_attn_norm,
            options.eps,
            first=number == 0,
        )
        for number in range(len(config.layers))
    )
    return {"vace_patch_embedding": own, "vace_mask_embedding": mask, "vace_blocks": blocks}
