"""Wan2.2 with a side branch, on diffusers: one forward pass over all frames of a chunk."""

from __future__ import annotations

from typing import Any, Final

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.utils import apply_lora_scale
from einops import rearrange
from torch import Tensor, nn

from ..conditioning.segments import Segments
from ..constants import LATENT_CHANNELS, PATCH_SIZE
from ..errors import ModelMismatchError, ShapeError
from ..validate import expect_shape, expect_token_channels
from .blocks import PATCH, Rotary, backbone_blocks
from .parallel import CONTEXT_PARALLEL_PLAN, TokenShard, expect_divisible
from .rope import SegmentRope
from .side_branch import SIDE_MODULES, SideBranchMixin
from .timesteps import DoubleTimesteps

BACKBONE_ATTENTION: Final = r"blocks\.\d+\.attn1\.(to_q|to_k|to_v|to_out\.0)"
"""The backbone's self-attention, as a pattern that PEFT matches in full.

Bare names of layers (``to_q``) would hit the side branch as well.
"""


class MirageTransformer3DModel(SideBranchMixin, WanTransformer3DModel):
    """Wan2.2-TI2V-5B that sees clean frames beside the noisy ones, and what the memory shows.

    Frames come as ``[reference R | target T | preceding P]``, each with its own timestep. A side
    branch takes the readout for the target and preceding frames, and adds a hint to the tokens
    of these frames after each of its layers. Reference frames never get a hint. Without a
    branch, or at scale 0, this is the stock model with segment positions.

    A plain Wan2.2 folder can be loaded and be given a branch afterwards (`add_branch`).

    Args:
        patch_size: Latent cells per token; (1, 2, 2).
        num_attention_heads: Attention heads.
        attention_head_dim: Channels of one head.
        in_channels: Latent channels; 48.
        out_channels: Latent channels; 48.
        text_dim: Channels of the text encoder.
        freq_dim: Channels of the timestep's sinusoids.
        ffn_dim: Channels inside the feed-forward part.
        num_layers: Backbone blocks.
        cross_attn_norm: True for a norm before the attention to the text.
        qk_norm: Kind of norm on queries and keys.
        eps: Added to variances.
        image_dim: Of Wan2.1's picture encoder; this family has none.
        added_kv_proj_dim: Of Wan2.1's picture encoder; this family has none.
        rope_max_seq_len: Kept for the configuration; positions have no limit here.
        pos_embed_seq_len: Of Wan2.1's picture encoder; this family has none.
        side_layers: Backbone layers that get a hint; empty for no branch.
        side_features: Input planes of the branch, such as "scene,white".
        side_shared_embedding: True when the scene goes through the backbone's patch embedding.

    Raises:
        ModelMismatchError: The configuration is that of another model.
    """

    _skip_layerwise_casting_patterns = [
        *WanTransformer3DModel._skip_layerwise_casting_patterns,
        "vace_mask_embedding",
    ]
    _no_split_modules = ["FrameBlock", "SideBlock"]
    _repeated_blocks = ["FrameBlock", "SideBlock"]
    _cp_plan = CONTEXT_PARALLEL_PLAN

    @register_to_config
    def __init__(  # noqa: PLR0913
        self,
        patch_size: tuple[int, ...] = PATCH,
        num_attention_heads: int = 24,
        attention_head_dim: int = 128,
        in_channels: int = LATENT_CHANNELS,
        out_channels: int = LATENT_CHANNELS,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 14336,
        num_layers: int = 30,
        cross_attn_norm: bool = True,
        qk_norm: str | None = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = None,
        added_kv_proj_dim: int | None = None,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
        side_layers: tuple[int, ...] = (),
        side_features: str = "scene,white",
        side_shared_embedding: bool = False,
    ) -> None:
        expect_token_channels("The video model's input", in_channels)
        _expect_family(tuple(patch_size), image_dim, added_kv_proj_dim, pos_embed_seq_len)
        # Without layers, since these would be stock blocks of no use here.
        super().__init__(
            patch_size=patch_size,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            text_dim=text_dim,
            freq_dim=freq_dim,
            ffn_dim=ffn_dim,
            num_layers=0,
            cross_attn_norm=cross_attn_norm,
            qk_norm=qk_norm,
            eps=eps,
            rope_max_seq_len=rope_max_seq_len,
        )
        self.register_to_config(num_layers=num_layers)
        self.condition_embedder.timesteps_proj = DoubleTimesteps(freq_dim)
        self.rope = SegmentRope(attention_head_dim)
        self.shard = TokenShard()
        dim = num_attention_heads * attention_head_dim
        self.blocks = backbone_blocks(
            num_layers, dim, ffn_dim, num_attention_heads, self._block_options()
        )
        for name in SIDE_MODULES:
            self.register_module(name, None)
        config = self.branch_config
        if config is not None:
            config.expect_backbone(dim=dim, layers=num_layers)
            self._attach(config)

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        side_hidden_states: Tensor | None = None,
        num_reference_frames: int = 0,
        num_preceding_frames: int = 0,
        side_scale: float = 1.0,
        attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict the velocity of all frames.

        Args:
            hidden_states: (B, 48, R + T + P, h, w) latents in model space.
            timestep: (B, R + T + P), 0..1000, or (B,) where all frames have the same.
            encoder_hidden_states: (B, L, text_dim) text.
            side_hidden_states: (B, channels, T + P, h, w) input of the side branch; None for
                none, which is the plain model.
            num_reference_frames: R.
            num_preceding_frames: P.
            side_scale: Factor on the hints; at 0 the branch does not run.
            attention_kwargs: ``scale`` of the adapters, as everywhere in diffusers.
            return_dict: False for a plain tuple.

        Returns:
            (B, 48, R + T + P, h, w) as ``sample``, or as a tuple of one.

        Raises:
            ShapeError: Sizes differ.
            ModelMismatchError: There is side input and no side branch.
        """
        total = hidden_states.shape[2] if hidden_states.ndim > 2 else 0  # noqa: PLR2004
        segments = Segments(
            target=total - num_reference_frames - num_preceding_frames,
            references=num_reference_frames,
            preceding=num_preceding_frames,
        )
        self._check_inputs(hidden_states, timestep, side_hidden_states, segments)
        height, width = (size // PATCH_SIZE for size in hidden_states.shape[-2:])

        angles = [
            self.shard(table) for table in self.rope(segments, height, width, hidden_states.device)
        ]
        tokens = self.shard(_by_frame(self.patch_embedding(hidden_states))).contiguous()
        temb, modulation, text = self._embed(timestep, encoder_hidden_states)
        side = None
        if side_hidden_states is not None and side_scale != 0:
            side = self.shard(self._embed_side(side_hidden_states)).contiguous()

        tokens = self._run_blocks(
            tokens, side, text, modulation, angles, num_reference_frames, side_scale
        )
        output = _from_patches(self._project(tokens, temb), height, width)
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)

    def _run_blocks(
        self,
        tokens: Tensor,
        side: Tensor | None,
        text: Tensor,
        modulation: Tensor,
        angles: list[Tensor],
        references: int,
        side_scale: float,
    ) -> Tensor:
        """Both stacks, the side block of a layer right before that layer.

        Hints do not depend on the backbone's blocks. The released code computes all of them
        first and keeps them; here only one at a time is alive.
        """
        checkpoint = torch.is_grad_enabled() and self.gradient_checkpointing

        def run(block: nn.Module, *inputs: object) -> Any:
            if checkpoint:
                return self._gradient_checkpointing_func(block, *inputs)
            return block(*inputs)

        rotary = _rotary(angles)
        side_rotary = _rotary([table[:, references:] for table in angles])
        side_modulation = modulation[:, references:] if modulation.shape[1] > 1 else modulation
        start: Tensor | None = tokens[:, references:]
        waiting = {} if side is None else self._blocks_by_layer()
        for layer, block in enumerate(self.blocks):
            hint = None
            if layer in waiting:
                hint, side = run(waiting[layer], side, start, text, side_modulation, side_rotary)
                start = None
            tokens = run(block, tokens, text, modulation, rotary)
            if hint is not None:
                tokens = _add_hint(tokens, hint * side_scale, references)
        return tokens

    def _embed(self, timestep: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Time (B, F, D), modulation (B, F, 6, D), F = 1 for all alike, and text (B, L, D)."""
        frames = timestep.shape[1] if timestep.ndim > 1 else None
        temb, projected, text, _ = self.condition_embedder(
            timestep.flatten(), text, None, timestep_seq_len=frames
        )
        if frames is None:
            temb, projected = temb[:, None], projected[:, None]
        return temb, projected.unflatten(2, (6, -1)), text

    def _embed_side(self, planes: Tensor) -> Tensor:
        """(B, channels, T + P, h, w) as tokens (B, T + P, n, D)."""
        if self.vace_patch_embedding is not None:
            return _by_frame(self.vace_patch_embedding(planes))
        tokens = self.patch_embedding(planes[:, :LATENT_CHANNELS])
        if self.vace_mask_embedding is not None:
            tokens = tokens + self.vace_mask_embedding(planes[:, LATENT_CHANNELS:])
        return _by_frame(tokens)

    def _project(self, tokens: Tensor, temb: Tensor) -> Tensor:
        """Final norm and projection: (B, F, n, 4 * 48)."""
        table = self.scale_shift_table.to(temb.device) + temb.unsqueeze(2)
        shift, scale = table.to(tokens.device).chunk(2, dim=2)
        normed = self.norm_out(tokens.float()) * (1 + scale) + shift
        return self.proj_out(normed.type_as(tokens))

    def _check_inputs(
        self, latents: Tensor, timestep: Tensor, side: Tensor | None, segments: Segments
    ) -> None:
        sizes = expect_shape("The latents", latents, "B C F h w", C=self.config.in_channels)
        if sizes["h"] % PATCH_SIZE or sizes["w"] % PATCH_SIZE:
            raise ShapeError(
                "The latents do not fit the video model's grid",
                got=f"{sizes['w']} x {sizes['h']} cells",
                expected=f"width and height divisible by {PATCH_SIZE}",
            )
        expect_divisible(self._parallel_config, sizes["h"] * sizes["w"] // PATCH_SIZE**2)
        frames = {"B": sizes["B"], "F": sizes["F"]}
        expect_shape("The timestep", timestep, "B F" if timestep.ndim > 1 else "B", **frames)
        if side is None:
            return
        channels = self._expect_branch()
        size = {name: sizes[name] for name in ("B", "h", "w")}
        expect_shape("The side input", side, "B C F h w", C=channels, F=segments.main, **size)


def _expect_family(patch: tuple[int, ...], *picture_encoder: int | None) -> None:
    """Raise `ModelMismatchError` for a configuration of Wan2.1 or of a 14B model."""
    if patch == PATCH and all(size is None for size in picture_encoder):
        return
    raise ModelMismatchError(
        "This is not the configuration of Wan2.2-TI2V-5B",
        got=f"patches {patch}, picture encoder sizes {picture_encoder}",
        expected=f"patches {PATCH} and no picture encoder",
        fix="Load the transformer of Wan2.2-TI2V-5B",
    )


def _by_frame(embedded: Tensor) -> Tensor:
    """(B, D, F, h, w) as (B, F, h * w, D)."""
    return rearrange(embedded, "b d f h w -> b f (h w) d")


def _from_patches(patches: Tensor, height: int, width: int) -> Tensor:
    """(B, F, n, 4 * 48) of height * width = n patches, as (B, 48, F, h, w)."""
    return rearrange(
        patches,
        "b f (h w) (ph pw c) -> b c f (h ph) (w pw)",
        h=height,
        w=width,
        ph=PATCH_SIZE,
        pw=PATCH_SIZE,
    )


def _rotary(angles: list[Tensor]) -> Rotary:
    """Tables (1, F, n, head_dim) in the form that attention takes: (1, F * n, 1, head_dim)."""
    cos, sin = (table.flatten(1, 2).unsqueeze(2) for table in angles)
    return cos, sin


def _add_hint(tokens: Tensor, hint: Tensor, references: int) -> Tensor:
    """Add a hint (B, T + P, n, D) to all tokens (B, R + T + P, n, D) but the references'."""
    if references == 0:
        return tokens + hint
    return torch.cat([tokens[:, :references], tokens[:, references:] + hint], dim=1)
