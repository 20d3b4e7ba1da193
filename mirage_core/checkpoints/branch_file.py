"""Side-branch files: read strictly, written whole, split off a model they were merged into."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from torch import Tensor

from ..constants import LATENT_CHANNELS, PATCH_SIZE
from ..errors import ModelMismatchError
from ..files import with_suffix
from ..tensor_files import expect_tensors, read_header, read_tensors, write_tensors
from .branch import (
    FEATURES_KEY,
    LAYERS_KEY,
    MASK_EMBEDDING,
    PATCH_EMBEDDING,
    BranchConfig,
    Shape,
    infer_branch,
)
from .branch_format import BranchFormat
from .names import is_branch, strip_wrappers, without_wrappers

FileKind = Literal["branch", "merged", "backbone", "lora", "vae", "text", "unknown"]
"""What a weight file holds; ``merged`` is a backbone with a side branch in the same file."""

DOWNLOAD_AGAIN: Final = (
    "Download the branch file again; if the error remains, it was made for another model or "
    "by another program"
)

_BACKBONE_BLOCK = re.compile(r"^blocks\.(\d{1,6})\.")
_LORA = re.compile(r"(^|\.)(lora_(A|B|up|down|unet)|alpha$)|^lora_unet_")
_VAE: Final = ("decoder.conv1.", "decoder.conv_in.", "encoder.conv1.", "encoder.conv_in.")
_TEXT: Final = ("encoder.block.0.layer.0.SelfAttention.", "shared.")


@dataclass(frozen=True, eq=False)
class BranchWeights:
    """A side branch as its file holds it.

    Attributes:
        config: What it is made for.
        tensors: Every tensor under its plain released name (``vace_blocks.0...``).
        path: Where it came from.
    """

    config: BranchConfig
    tensors: Mapping[str, Tensor]
    path: Path


def expected_shapes(config: BranchConfig) -> dict[str, Shape]:
    """Shape of every tensor of a branch under its plain released name.

    29 for each block, 2 more for the first, and those of the embedding: none of them depends
    on the width of the text, which enters through the backbone.
    """
    patch = (1, PATCH_SIZE, PATCH_SIZE)
    shapes: dict[str, Shape] = {}
    beside = config.in_channels - LATENT_CHANNELS
    if not config.shared_embedding:
        shapes |= _affine("vace_patch_embedding", (config.dim, config.in_channels, *patch))
    elif beside:
        # The backbone's own embedding adds the bias.
        shapes[MASK_EMBEDDING] = (config.dim, beside, *patch)
    for number in range(len(config.layers)):
        block = f"vace_blocks.{number}"
        shapes |= _block(block, config.dim, config.ffn_dim)
        if number == 0:
            shapes |= _affine(f"{block}.before_proj", (config.dim, config.dim))
        shapes |= _affine(f"{block}.after_proj", (config.dim, config.dim))
    return shapes


def load_branch(
    path: Path | str,
    backbone_layers: int | None = None,
    *,
    merged: bool = False,
    device: str = "cpu",
    form: BranchFormat | str = "auto",
) -> BranchWeights:
    """Read a side branch.

    Names may carry what training frameworks put before them. Every tensor that belongs to the
    branch has to be there in its shape, and nothing else.

    Args:
        path: A ``.safetensors`` file.
        backbone_layers: Layers of the video model; needed when the file does not name the
            layers that it was made for.
        merged: True to take the branch out of a file that holds the video model as well.
        device: Where the tensors go.
        form: What 96 input planes mean where the file does not say it.

    Raises:
        ModelMismatchError: The file is damaged, pickled or of another kind; a tensor is
            missing, unexpected or of another shape; or the layers, or the meaning of the
            planes, are left open.
    """
    path = Path(path)
    config, names = _described(path, backbone_layers, merged, form)
    tensors = read_tensors(path, names.values(), device)
    return BranchWeights(config, {plain: tensors[name] for plain, name in names.items()}, path)


def read_branch_config(
    path: Path | str, backbone_layers: int | None = None, form: BranchFormat | str = "auto"
) -> BranchConfig:
    """What a side branch is made for, without its weights.

    Args:
        path: A ``.safetensors`` file.
        backbone_layers: As in `load_branch`.
        form: As in `load_branch`.

    Raises:
        ModelMismatchError: As `load_branch`.
    """
    return _described(Path(path), backbone_layers, False, form)[0]


def _described(
    path: Path, backbone_layers: int | None, merged: bool, form: BranchFormat | str
) -> tuple[BranchConfig, dict[str, str]]:
    """What a branch is made for, and its tensors' plain names with those in the file."""
    header = read_header(path)
    original = without_wrappers({name: name for name in header.shapes})
    kind = kind_of(original)
    if kind != "branch" and not (merged and kind == "merged"):
        raise _not_a_branch(path, kind)
    names = {plain: name for plain, name in original.items() if is_branch(plain)}
    shapes = {plain: header.shapes[name] for plain, name in names.items()}
    config = infer_branch(
        shapes,
        header.metadata,
        backbone_layers=backbone_layers or (backbone_layer_count(original) or None),
        form=form,
        name=path.name,
    )
    expect_tensors(f"The side branch {path.name}", shapes, expected_shapes(config), DOWNLOAD_AGAIN)
    return config, names


def save_branch(path: Path | str, tensors: Mapping[str, Tensor], config: BranchConfig) -> Path:
    """Write a side branch whose file says what it is made for.

    Args:
        path: Target; gets the suffix ``.safetensors`` unless it has it.
        tensors: Every tensor of the branch; names may carry wrappers.
        config: What the branch is made for.

    Returns:
        The file's path.

    Raises:
        ModelMismatchError: The tensors are not those of such a branch.
        StorageError: The file cannot be written.
    """
    path = with_suffix(path, ".safetensors")
    plain = without_wrappers(tensors)
    expect_tensors("The side branch", shapes_of(plain), expected_shapes(config))
    write_tensors(path, plain, config.metadata())
    return path


def split_merged(
    path: Path | str,
    backbone_out: Path | str,
    branch_out: Path | str,
    form: BranchFormat | str = "auto",
) -> tuple[Path, Path]:
    """Take a file that holds a video model and its side branch apart.

    The video model keeps its names, so that it loads wherever it loaded before.

    Args:
        path: The merged ``.safetensors`` file; it stays as it is.
        backbone_out: Where the video model goes.
        branch_out: Where the branch goes; its file says what it is made for.
        form: What 96 input planes mean where the merged file does not say it.

    Returns:
        Paths of the video model and of the branch.

    Raises:
        ModelMismatchError: The file is damaged, holds no side branch beside a model, or leaves
            open what the branch is made for.
        StorageError: One of the files cannot be written.
    """
    path = Path(path)
    branch = load_branch(path, merged=True, form=form)
    header = read_header(path)
    rest = [name for name in header.shapes if not is_branch(strip_wrappers(name))]
    if not rest:
        raise ModelMismatchError(
            "There is nothing to split",
            got=f"{path.name}, which holds a side branch only",
            expected="a model file with a side branch in it",
            fix="Load the file as it is, with Mirage Load Branch",
        )
    gone = (LAYERS_KEY, FEATURES_KEY)
    metadata = {key: value for key, value in header.metadata.items() if key not in gone}
    saved = save_branch(branch_out, branch.tensors, branch.config)
    backbone = with_suffix(backbone_out, ".safetensors")
    write_tensors(backbone, read_tensors(path, rest), metadata)
    return backbone, saved


def inspect(path: Path | str) -> FileKind:
    """What a safetensors file holds, from the names of its tensors.

    Raises:
        ModelMismatchError: The file is missing, damaged, pickled or cut short.
    """
    return kind_of(strip_wrappers(name) for name in read_header(Path(path)).shapes)


def kind_of(names: Iterable[str]) -> FileKind:
    """What a file with tensors of these plain names holds."""
    known = list(names)
    if any(_LORA.search(name) for name in known):
        return "lora"
    backbone = backbone_layer_count(known) > 0
    if any(is_branch(name) for name in known):
        return "merged" if backbone else "branch"
    if backbone:
        return "backbone"
    if any(name.startswith(_TEXT) for name in known):
        return "text"
    return "vae" if any(name.startswith(_VAE) for name in known) else "unknown"


def backbone_layer_count(names: Iterable[str]) -> int:
    """Layers of the video model among plain tensor names; 0 when there is none."""
    numbers = {int(match[1]) for name in names if (match := _BACKBONE_BLOCK.match(name))}
    return len(numbers)


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    """Shape of every tensor."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


_INSTEAD: Final[dict[str, str]] = {
    "merged": "Split it in two with `python -m mirage_core split`, then load the model and the "
    "branch separately",
    "backbone": "Load it with Load Diffusion Model; the branch is a separate file",
    "lora": "Load it with a LoRA loader; the branch is a separate file (*_vace.safetensors)",
    "vae": "Load it with Load VAE; the branch is a separate file",
    "text": "Load it with Load CLIP; the branch is a separate file",
    "unknown": "Choose a branch file (*_vace.safetensors) in models/model_patches",
}


def _not_a_branch(path: Path, kind: FileKind) -> ModelMismatchError:
    found = {
        "merged": "a video model with a side branch merged into it",
        "backbone": "a video model",
        "lora": "a LoRA",
        "vae": "a VAE",
        "text": "a text encoder",
    }.get(kind, f"no tensor named {PATCH_EMBEDDING} or vace_blocks.*")
    return ModelMismatchError(
        f"{path.name} is not a side-branch file",
        got=found,
        expected="a file that contains only the side branch",
        fix=_INSTEAD[kind],
    )


def _affine(name: str, weight: Shape) -> dict[str, Shape]:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def _block(name: str, dim: int, ffn_dim: int) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {f"{name}.modulation": (1, 6, dim)}
    for attention in ("self_attn", "cross_attn"):
        for part in "qkvo":
            shapes |= _affine(f"{name}.{attention}.{part}", (dim, dim))
        for part in "qk":
            shapes[f"{name}.{attention}.norm_{part}.weight"] = (dim,)
    shapes |= _affine(f"{name}.norm3", (dim,))
    shapes |= _affine(f"{name}.ffn.0", (ffn_dim, dim))
    shapes |= _affine(f"{name}.ffn.2", (dim, ffn_dim))
    return shapes
