"""Giving the transformer a side branch: from its configuration, a branch file, or scratch."""

from __future__ import annotations

from typing import Any, Final, Literal, cast

import torch
from torch import nn

from ..checkpoints.branch import BranchConfig
from ..conditioning.features import format_features, parse_features
from ..errors import ModelMismatchError, ValueRangeError
from .blocks import BlockOptions, side_modules

SIDE_MODULES: Final = ("vace_patch_embedding", "vace_mask_embedding", "vace_blocks")
"""Attributes of the transformer that hold its side branch; None where it has none."""

BranchInit = Literal["zero", "copy"]


class SideBranchMixin:
    """What a diffusers model with ``blocks`` needs to hold a side branch.

    The branch is described by the model's configuration alone, so that a saved model comes back
    with it.
    """

    config: Any
    device: torch.device
    dtype: torch.dtype
    training: bool
    blocks: nn.ModuleList
    vace_patch_embedding: nn.Module | None
    vace_mask_embedding: nn.Module | None
    vace_blocks: nn.ModuleList
    register_to_config: Any
    _keep_in_fp32_modules: list[str]
    _side_channels: int | None = None

    @property
    def branch_config(self) -> BranchConfig | None:
        """What the side branch is made for; None without one."""
        config = self.config
        if not config.side_layers:
            return None
        return BranchConfig(
            layers=tuple(config.side_layers),
            features=parse_features(config.side_features),
            shared_embedding=config.side_shared_embedding,
            dim=config.num_attention_heads * config.attention_head_dim,
            ffn_dim=config.ffn_dim,
            heads=config.num_attention_heads,
        )

    def add_branch(self, config: BranchConfig, device: torch.device | str | None = None) -> None:
        """Give a plain model a side branch, as `init_branch` with "zero" does.

        Do it before hooks for offloading or casting are set, since they would miss the branch.

        Args:
            config: What the branch is made for.
            device: Where its tensors live; by default where the model's do. On ``meta`` they
                wait for ``load_state_dict(..., strict=False, assign=True)``.

        Raises:
            ModelMismatchError: The model has a branch, or this one is made for another model.
        """
        if self.branch_config is not None:
            raise ModelMismatchError(
                "The video model already has a side branch",
                got=f"one for layers {list(self.config.side_layers)}",
                fix="Load the plain model to give it another branch",
            )
        own = self.config
        config.expect_backbone(
            dim=own.num_attention_heads * own.attention_head_dim,
            layers=own.num_layers,
            ffn_dim=own.ffn_dim,
        )
        if config.heads != own.num_attention_heads:
            raise ModelMismatchError(
                "The side branch was made for another video model",
                got=f"{config.heads} attention heads",
                expected=own.num_attention_heads,
            )
        self._attach(config, torch.device(device or self.device))
        self.register_to_config(
            side_layers=config.layers,
            side_features=format_features(config.features),
            side_shared_embedding=config.shared_embedding,
        )

    def init_branch(self, mode: BranchInit) -> None:
        """Initialise the branch. Its output projections are zero, so it changes nothing at first.

        Args:
            mode: "zero" for random blocks (released code), "copy" for copies of the backbone's
                blocks at the branch's layers (paper).

        Raises:
            ModelMismatchError: There is no branch, or the backbone's weights cannot be copied.
            ValueRangeError: ``mode`` is unknown.
        """
        if mode not in ("zero", "copy"):
            raise ValueRangeError(
                "The initialisation of the side branch is unknown",
                got=mode,
                expected="zero or copy",
            )
        self._expect_branch()
        config = cast(BranchConfig, self.branch_config)
        if mode == "copy":
            self._expect_copyable(config.layers)
        self._attach(config, torch.device(self.device))
        if mode == "copy":
            for layer, block in zip(config.layers, self.vace_blocks, strict=True):
                block.load_state_dict(self.blocks[layer].state_dict(), strict=False)

    def _expect_branch(self) -> int:
        """Input channels of the branch; `ModelMismatchError` without one."""
        if self._side_channels is None:
            raise ModelMismatchError(
                "The video model has no side branch",
                fix="Load one together with the model, or call add_branch",
            )
        return self._side_channels

    def _expect_copyable(self, layers: tuple[int, ...]) -> None:
        names = {name for name, _ in self.vace_blocks[-1].named_parameters()}
        for layer in layers:
            for name, parameter in self.blocks[layer].named_parameters():
                if name in names and parameter.is_floating_point() and not parameter.is_meta:
                    continue
                raise ModelMismatchError(
                    "The backbone's blocks cannot be copied into the side branch",
                    got=f"blocks.{layer}.{name} of type {parameter.dtype}",
                    expected="plain floating point weights",
                    fix="Copy before adapters are added, from a model that is not quantised",
                )

    def _block_options(self) -> BlockOptions:
        return BlockOptions(self.config.qk_norm, self.config.cross_attn_norm, self.config.eps)

    def _attach(self, config: BranchConfig, device: torch.device | None = None) -> None:
        """Build the branch's modules, in the model's type where a device is given."""
        if list(config.layers) != sorted({layer for layer in config.layers if layer >= 0}):
            raise ModelMismatchError(
                "The layers of the side branch are not in order",
                got=list(config.layers),
                expected="ascending numbers of backbone layers, from 0 on",
            )
        if device is None:
            modules = side_modules(config, self._block_options())
        else:
            with device:
                modules = side_modules(config, self._block_options())
        # Kept as a number, since torch.compile cannot trace how the configuration is parsed.
        self._side_channels = config.in_channels
        for name, module in modules.items():
            if module is not None and device is not None:
                self._match_type(module.train(self.training))
            setattr(self, name, module)

    def _match_type(self, module: nn.Module) -> None:
        """The model's type, but float32 where diffusers keeps it when it loads a model."""
        for name, parameter in module.named_parameters():
            exact = not set(self._keep_in_fp32_modules).isdisjoint(name.split("."))
            parameter.data = parameter.data.to(torch.float32 if exact else self.dtype)

    def _blocks_by_layer(self) -> dict[int, nn.Module]:
        return dict(zip(self.config.side_layers, self.vace_blocks, strict=True))
