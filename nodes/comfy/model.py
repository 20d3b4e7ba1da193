"""ComfyUI's models as Mirage drives them: the video model, the side branch, the white latent."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import comfy.ldm.wan.model
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.utils
import comfy.weight_adapter
import folder_paths
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from torch import Tensor

from ...mirage_core.checkpoints.branch import LAYERS_KEY, BranchConfig, block_count, spread_layers
from ...mirage_core.checkpoints.branch_file import load_branch
from ...mirage_core.checkpoints.names import without_wrappers
from ...mirage_core.constants import LATENT_CHANNELS, PATCH_SIZE
from ...mirage_core.errors import ModelMismatchError, StorageError
from ...mirage_core.models.bundled import SHIFT
from ...mirage_core.tensor_files import TensorHeader, read_header
from .vae import VaeCodec

BRANCH_FOLDER = "model_patches"
"""ComfyUI's folder for weights that are added to a model."""

MODEL_FOLDER = "diffusion_models"
"""ComfyUI's folder for video models."""

Patcher = comfy.model_patcher.ModelPatcher
Backbone = comfy.ldm.wan.model.WanModel

_PATCH = (1, PATCH_SIZE, PATCH_SIZE)


class MirageSideBranch(torch.nn.Module):
    """The weights of a side branch, in ComfyUI's own blocks and operations.

    Args:
        config: What the branch is made for.
        device: Where the parameters are made; ``meta`` makes none.
    """

    def __init__(self, config: BranchConfig, device: str = "meta") -> None:
        super().__init__()
        self.config = config
        operations = comfy.ops.manual_cast
        beside = config.in_channels - LATENT_CHANNELS
        self.vace_patch_embedding = self.vace_mask_embedding = None
        if not config.shared_embedding:
            self.vace_patch_embedding = operations.Conv3d(
                config.in_channels, config.dim, _PATCH, _PATCH, device=device
            )
        elif beside:
            self.vace_mask_embedding = operations.Conv3d(
                beside, config.dim, _PATCH, _PATCH, bias=False, device=device
            )
        self.vace_blocks = torch.nn.ModuleList(
            comfy.ldm.wan.model.VaceWanAttentionBlock(
                "t2v_cross_attn",
                config.dim,
                config.ffn_dim,
                config.heads,
                cross_attn_norm=True,
                block_id=number,
                operation_settings={"operations": operations, "device": device, "dtype": None},
            )
            for number in range(len(config.layers))
        )

    def embed(self, planes: Tensor, backbone: Backbone, dtype: torch.dtype) -> Tensor:
        """Tokens (1, N, dim) of the input planes (1, channels, T, h, w)."""
        planes = planes.float()
        if self.vace_patch_embedding is not None:
            tokens = self.vace_patch_embedding(planes)
        else:
            tokens = backbone.patch_embedding(planes[:, :LATENT_CHANNELS])
            if self.vace_mask_embedding is not None:
                tokens = tokens + self.vace_mask_embedding(planes[:, LATENT_CHANNELS:])
        return tokens.flatten(2).transpose(1, 2).to(dtype)


@dataclass(frozen=True, eq=False)
class Branch:
    """A side branch on the wires.

    Attributes:
        patcher: Lets ComfyUI's memory management load and offload the weights.
        config: What the branch is made for; its layers are final only if ``named_layers``.
        named_layers: True when the file itself names the layers.
        white: Latents of white videos by VAE and size. They depend on nothing else and cost as
            much as many sampling steps, so they are kept as long as branch and VAE live.
    """

    patcher: Patcher
    config: BranchConfig
    named_layers: bool
    white: WeakKeyDictionary[comfy.sd.VAE, dict[tuple[int, int, int], Tensor]] = field(
        default_factory=WeakKeyDictionary
    )

    def fitted(self, backbone: Backbone) -> BranchConfig:
        """What the branch is made for, as part of this video model.

        Raises:
            ModelMismatchError: The branch was made for another model.
        """
        config = self.config
        layers = int(backbone.num_layers)
        if backbone.dim == config.dim and not self.named_layers:
            spread = spread_layers(len(config.layers), layers)
            config = dataclasses.replace(config, layers=spread)
        config.expect_backbone(dim=backbone.dim, layers=layers, ffn_dim=backbone.ffn_dim)
        return config

    def white_latent(self, vae: comfy.sd.VAE, frames: int, height: int, width: int) -> Tensor:
        """Model-space latent (C, frames, height, width) of a white video, on the CPU."""
        codec = VaeCodec(vae)
        known = self.white.setdefault(vae, {})
        shape = (frames, height, width)
        if shape not in known:
            count = codec.temporal_stride * (frames - 1) + 1
            stride = codec.spatial_stride
            known[shape] = codec.white_latent(count, height * stride, width * stride)
        return known[shape]


def model_files(folder: str) -> list[str]:
    """Names of the files in a model folder of ComfyUI, for the options of a loader."""
    return folder_paths.get_filename_list(folder)


def model_file(folder: str, name: str) -> Path:
    """Path of a file that `model_files` offered.

    Raises:
        ModelMismatchError: The file is gone.
    """
    path = folder_paths.get_full_path(folder, name)
    if path is None:
        raise ModelMismatchError(
            "The weight file does not exist",
            got=name,
            expected=f"a file in models/{folder}",
            fix="Put the file there and choose it again",
        )
    return Path(path)


def embedded_video_model(path: Path) -> Patcher:
    """The small model that ships, with the shift of its noise levels, as ComfyUI's loaders do.

    Raises:
        ModelMismatchError: The file is damaged.
    """
    read_header(path)
    model = comfy.sd.load_diffusion_model(str(path))
    (shifted,) = ModelSamplingSD3().patch(model, SHIFT)
    return shifted


def branch_from_file(path: Path, form: str = "auto") -> Branch:
    """A side branch, ready to be loaded by ComfyUI's memory management.

    Args:
        path: Its file.
        form: What 96 input planes mean where the file does not say it.

    Raises:
        ModelMismatchError: The file is damaged, of another kind, or leaves the meaning open.
    """
    header = read_header(path)
    named = LAYERS_KEY in header.metadata
    # Without named layers the model decides; until then every block stands for a layer.
    weights = load_branch(path, None if named else _blocks(header), form=form)
    return make_branch(weights.config, weights.tensors, named_layers=named)


def _blocks(header: TensorHeader) -> int | None:
    names = without_wrappers(header.shapes)
    return block_count(names) if any(name.startswith("vace_blocks.") for name in names) else None


def make_branch(
    config: BranchConfig, tensors: Mapping[str, Tensor], *, named_layers: bool
) -> Branch:
    """A side branch from its tensors under released names."""
    module = MirageSideBranch(config).requires_grad_(False).eval()
    offload = comfy.model_management.unet_offload_device()
    # Assigned, not copied: each tensor keeps the type that the file gives it.
    module.load_state_dict(dict(tensors), strict=True, assign=True)
    module.to(offload)
    # Looked up at the call: ComfyUI rebinds the class when it starts.
    patcher = comfy.model_patcher.CoreModelPatcher(
        module,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=offload,
    )
    return Branch(patcher, config, named_layers)


def expect_video_model(model: Patcher) -> Backbone:
    """The transformer of a native Wan2.2-TI2V-5B model.

    Raises:
        ModelMismatchError: The model is of another kind, or has a side branch merged into it.
    """
    base = getattr(model, "model", None)
    backbone: Any = getattr(base, "diffusion_model", None)
    channels = (getattr(backbone, "in_dim", None), getattr(backbone, "out_dim", None))
    ours = channels == (LATENT_CHANNELS, LATENT_CHANNELS)
    if ours and isinstance(backbone, comfy.ldm.wan.model.VaceWanModel):
        raise ModelMismatchError(
            "A side branch is merged into the video model's file",
            got="one file with the tensors of both, which ComfyUI loads as a VACE model",
            expected="the video model alone, and the branch in a separate file",
            fix="Split the file with Mirage Split Checkpoint, or `python -m mirage_core split`, "
            "then load the model with Load Diffusion Model and the branch with Mirage Load "
            "Branch",
        )
    if ours and isinstance(base, comfy.model_base.WAN22):
        return backbone
    found = type(base).__name__
    if isinstance(backbone, Backbone):
        found += f", width {backbone.dim}, {channels[0]} input and {channels[1]} latent channels"
    raise ModelMismatchError(
        "Mirage drives Wan2.2-TI2V-5B, and this is another model",
        got=found,
        expected=f"Wan2.2-TI2V-5B, with {LATENT_CHANNELS} latent channels (Wan2.1 and the 14B "
        "models have 16)",
        fix="Load wan2.2_ti2v_5B_fp16.safetensors in Load Diffusion Model",
    )


def expect_fitting_loras(model: Patcher, wanted: str = "Wan2.2-TI2V-5B") -> None:
    """Raise `ModelMismatchError` if a LoRA was made for a model of another width.

    ComfyUI itself only logs such layers and skips them.

    Args:
        model: With LoRAs, if any.
        wanted: What errors call the model.
    """
    for key, entries in model.patches.items():
        size = _matrix_size(model, key)
        for entry in entries:
            found = _change_size(entry[1]) if entry[3] is None else None
            if size is not None and found is not None and found != size:
                raise ModelMismatchError(
                    "A LoRA was made for another model",
                    got=f"a change of {found} to {key}, which is {size}",
                    expected=f"a LoRA for {wanted}",
                    fix="Remove the LoRA, or load one that was trained for this model",
                )


def _matrix_size(model: Patcher, key: Any) -> tuple[int, int] | None:
    """(out, in) of the matrix of a model that a key names; None where it names none."""
    if not isinstance(key, str) or not key.endswith(".weight"):
        return None
    layer = comfy.utils.get_attr(model.model, key.removesuffix(".weight"))
    # Not the weight's own shape: loaders of quantised files pack it.
    rows, columns = getattr(layer, "out_features", None), getattr(layer, "in_features", None)
    return (rows, columns) if isinstance(rows, int) and isinstance(columns, int) else None


def _change_size(value: Any) -> tuple[int, int] | None:
    """(out, in) of the matrix that an entry of a LoRA file changes; None for anything else."""
    kinds = comfy.weight_adapter
    if isinstance(value, kinds.LoRAAdapter):
        up, down, _, middle, _, reshape = value.weights
        return _product(up, down) if middle is None and reshape is None else None
    if isinstance(value, kinds.LoHaAdapter):
        up, down, _, _, _, core = value.weights[:6]
        return _product(up, down) if core is None else None
    if isinstance(value, kinds.LoKrAdapter):
        one, other, _, up, down, other_up, other_down, core = value.weights[:8]
        if core is not None:
            return None
        left = _product(up, down) if one is None else _flat(one)
        right = _product(other_up, other_down) if other is None else _flat(other)
        return left[0] * right[0], left[1] * right[1]
    if isinstance(value, tuple) and value[0] == "diff" and len(value[1]) == 1:
        return _flat(value[1][0])
    return None


def _flat(matrix: Tensor) -> tuple[int, int]:
    return int(matrix.shape[0]), math.prod(matrix.shape[1:])


def _product(up: Tensor, down: Tensor) -> tuple[int, int]:
    """(out, in) of the product of (out, rank) and (rank, in)."""
    return int(up.shape[0]), math.prod(down.shape[1:])


def split_targets(path: Path) -> tuple[Path, Path]:
    """Where the video model and the branch of a merged file go, in folders that loaders read.

    Raises:
        StorageError: A file of this name is there already.
    """
    targets = (
        Path(folder_paths.get_output_directory()) / MODEL_FOLDER / f"{path.stem}_model.safetensors",
        Path(folder_paths.get_folder_paths(BRANCH_FOLDER)[0]) / f"{path.stem}_vace.safetensors",
    )
    for target in targets:
        if target.exists():
            raise StorageError(
                "This file was already split",
                got=target,
                fix="Use the existing files, or remove them first",
            )
    return targets
