"""Files of the video model: where its tensors are, what it is made for, what it is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..constants import LATENT_CHANNELS
from ..errors import ModelMismatchError
from ..tensor_files import read_header
from .branch import (
    FEATURES_KEY,
    HEAD_DIM,
    HEADS_KEY,
    LAYERS_KEY,
    BranchConfig,
    Shape,
    infer_branch,
    natural_numbers,
)
from .branch_file import backbone_layer_count, kind_of
from .branch_format import BranchFormat
from .names import is_branch, strip_wrappers, to_diffusers
from .weight_files import WeightFiles, open_weights, read_config, weight_paths

CHECKPOINT_PREFIX: Final = "model.diffusion_model."
"""What the video model's tensors begin with in a file that holds other models as well."""

TEXT_KEY: Final = "mirage.text"
"""Entry of a model file's metadata that says whether its prompts mean anything."""

NO_TEXT: Final = "none"
"""Value of `TEXT_KEY` for a model that gives the same whatever the prompt is."""

TEXT_EMBEDDING: Final = "text_embedding.0.weight"
"""Released name of the first tensor that a prompt meets; where it is 0, the model knows no text."""

FIX: Final = (
    "Use Wan2.2-TI2V-5B: wan2.2_ti2v_5B_fp16.safetensors, a GGUF of it, or the folder "
    "Wan2.2-TI2V-5B-Diffusers"
)

_OLD_CHANNELS: Final = (16, 36)
_FOUND: Final[dict[str, str]] = {
    "branch": "a side branch without a video model",
    "lora": "a LoRA",
    "vae": "a VAE",
    "text": "a text encoder",
}


@dataclass(frozen=True)
class TransformerFormat:
    """What the tensors of a video model say about it.

    Attributes:
        arguments: For `diffusers.WanTransformer3DModel`.
        branch: The side branch that is part of the same files, if any.
    """

    arguments: dict[str, Any]
    branch: BranchConfig | None

    @property
    def dim(self) -> int:
        """Channels of a token inside the transformer."""
        return int(
            self.arguments["num_attention_heads"] * self.arguments["attention_head_dim"]
        )

    def expect_fits(self, branch: BranchConfig) -> None:
        """Raise `ModelMismatchError` unless the model can take this branch."""
        branch.expect_backbone(
            dim=self.dim,
            layers=self.arguments["num_layers"],
            ffn_dim=self.arguments["ffn_dim"],
        )
        heads = self.arguments["num_attention_heads"]
        if branch.heads != heads:
            raise ModelMismatchError(
                "The side branch was made for another video model",
                got=f"{branch.heads} attention heads on a model with {heads}",
                fix="Use the branch that was trained for this model",
            )
        if self.branch is not None:
            raise ModelMismatchError(
                "The model file already contains a side branch",
                got="a second branch",
                fix="Load the model without a branch file, or split the model file first",
            )


def transformer_folder(path: Path) -> Path:
    """The folder or file of the transformer: ``path`` itself, or its part of that name."""
    inner = path / "transformer"
    return inner if inner.is_dir() else path


def open_transformer(path: Path) -> WeightFiles:
    """Look at the safetensors files of a video model; names become diffusers' ones.

    A folder's configuration adds what tensors do not tell.

    Raises:
        ModelMismatchError: The files are missing, damaged, pickled or of another kind.
    """
    paths = weight_paths(path, "a video model")
    own = [name for file in paths for name in read_header(file).shapes]
    several = any(name.startswith(CHECKPOINT_PREFIX) for name in own)
    files = open_weights(
        paths,
        plain_name,
        f"The model {path.name}",
        (lambda name: name.startswith(CHECKPOINT_PREFIX)) if several else None,
    )
    if path.is_dir():
        files.metadata.update(_metadata_of(read_config(path, "a video model")))
    return files


def knows_text(path: Path) -> bool:
    """False for the files of a video model that say that prompts mean nothing to it.

    Args:
        path: As for `mirage_core.models.load.load_transformer`; of a GGUF file prompts count.

    Raises:
        ModelMismatchError: The files are missing, damaged, pickled or of another kind.
    """
    path = transformer_folder(path)
    if path.suffix.lower() == ".gguf":
        return True
    return open_transformer(path).metadata.get(TEXT_KEY) != NO_TEXT


def plain_name(name: str) -> str:
    """A tensor's name in diffusers, from any of the names that files use."""
    return to_diffusers(strip_wrappers(name))


def read_format(
    shapes: Mapping[str, Shape],
    metadata: Mapping[str, str],
    name: str,
    branch_format: BranchFormat | str = "auto",
) -> TransformerFormat:
    """What a video model is made for, from shapes under diffusers' names.

    Args:
        shapes: Shape of every tensor.
        metadata: Free text entries of the files.
        name: How error messages call the model.
        branch_format: What 96 input planes of a branch in the same file mean where the metadata
            does not say it.

    Raises:
        ModelMismatchError: This is not Wan2.2-TI2V-5B or a model of its kind, or a branch in it
            leaves open what it was made for.
    """
    needed = {
        "patch_embedding.weight": 5,
        "blocks.0.ffn.net.0.proj.weight": 2,
        "condition_embedder.text_embedder.linear_1.weight": 2,
        "condition_embedder.time_embedder.linear_1.weight": 2,
    }
    missing = [key for key, axes in needed.items() if len(shapes.get(key, ())) != axes]
    if missing:
        found = _FOUND.get(kind_of(shapes), f"no tensor for its {missing[0]}")
        raise ModelMismatchError(
            f"{name} is not the video model", got=found, expected="Wan2.2-TI2V-5B", fix=FIX
        )
    patch, ffn, text, time = (shapes[key] for key in needed)
    _expect_latents(patch[1], patch[0], name)
    layers = backbone_layer_count(shapes)
    heads = _heads(patch[0], metadata, name)
    arguments = {
        "patch_size": (1, 2, 2),
        "num_attention_heads": heads,
        "attention_head_dim": patch[0] // heads,
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "text_dim": text[1],
        "freq_dim": time[1],
        "ffn_dim": ffn[0],
        "num_layers": layers,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "eps": 1e-6,
        "image_dim": None,
        "added_kv_proj_dim": None,
        "rope_max_seq_len": 1024,
    }
    known = {**metadata, HEADS_KEY: str(heads)}
    return TransformerFormat(arguments, _branch_of(shapes, known, layers, branch_format, name))


def _expect_latents(channels: int, dim: int, name: str) -> None:
    if channels == LATENT_CHANNELS:
        return
    old = " (a 14B or Wan2.1 model)" if channels in _OLD_CHANNELS else ""
    raise ModelMismatchError(
        f"{name} uses a different latent space",
        got=f"{channels} input channels, width {dim}{old}",
        expected=f"{LATENT_CHANNELS} channels, those of the Wan2.2 VAE",
        fix=FIX,
    )


def _heads(dim: int, metadata: Mapping[str, str], name: str) -> int:
    text = metadata.get(HEADS_KEY, str(dim // HEAD_DIM))
    heads = next(iter(natural_numbers(text)), 0)
    if heads > 0 and dim % heads == 0:
        return heads
    raise ModelMismatchError(
        f"The attention heads of {name} cannot be determined from its file",
        got=f"width {dim}, {text[:20]} heads",
        expected=f"a width that is a multiple of {HEAD_DIM}, or {HEADS_KEY} in the metadata",
    )


def _branch_of(
    shapes: Mapping[str, Shape],
    metadata: Mapping[str, str],
    layers: int,
    form: BranchFormat | str,
    owner: str,
) -> BranchConfig | None:
    found = {
        name.replace(".ffn.net.0.proj.", ".ffn.0."): shape
        for name, shape in shapes.items()
        if is_branch(name)
    }
    if not found:
        return None
    return infer_branch(found, metadata, backbone_layers=layers, form=form, name=owner)


def _metadata_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Entries of a folder's configuration, as a single file would have them."""
    found = {}
    if isinstance(config.get("num_attention_heads"), int):
        found[HEADS_KEY] = str(config["num_attention_heads"])
    layers = config.get("side_layers")
    if layers:
        found[LAYERS_KEY] = ",".join(map(str, layers if isinstance(layers, list) else [layers]))
        found[FEATURES_KEY] = str(config.get("side_features"))
    return found
