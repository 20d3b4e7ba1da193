"""Side-branch checkpoints: what they are made for, read from the file and never guessed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from ..conditioning.features import (
    DRAWINGS,
    SCENE_AND_VISIBLE,
    SCENE_ONLY,
    Features,
    SideFeature,
    channel_count,
    drawing_of,
    format_features,
    parse_features,
)
from ..errors import ModelMismatchError
from ..ops.best_view import BestView
from .branch_format import BranchFormat, note_metadata, unnamed_features

HEAD_DIM: Final = 128
"""Channels of one attention head, in all models of the Wan family."""

BRANCH_PREFIX: Final = "vace_"
"""What every tensor of a side branch begins with."""

PATCH_EMBEDDING: Final = "vace_patch_embedding.weight"
"""Separate patch embedding; a branch without it shares the backbone's."""

MASK_EMBEDDING: Final = "vace_mask_embedding.weight"
"""Embedding of the planes beside the scene, in a branch that shares the backbone's."""

LAYERS_KEY: Final = "mirage.layers"
"""Entry of the file's metadata that names the backbone layers, comma separated."""

FEATURES_KEY: Final = "mirage.features"
"""Entry of the file's metadata that names the input planes."""

HEADS_KEY: Final = "mirage.heads"
"""Entry of the file's metadata for attention heads that are not 128 wide."""

Shape = tuple[int, ...]

_DIGITS: Final = 6
"""Most digits of a number of heads or of a layer."""

_BLOCK = re.compile(r"^vace_blocks\.(\d{1,6})\.")

_AXES: Final[dict[str, int]] = {
    "vace_blocks.0.ffn.0.weight": 2, PATCH_EMBEDDING: 5, MASK_EMBEDDING: 5,
}  # fmt: skip
"""Axes of the tensors that tell what a branch was made for."""


@dataclass(frozen=True)
class BranchConfig:
    """What a side branch is made for.

    Attributes:
        layers: Backbone layers that get a hint, ascending; one block each.
        features: Input planes in their order.
        shared_embedding: True when the scene goes through the backbone's patch embedding.
        dim: Channels of a token inside the transformer.
        ffn_dim: Channels inside the feed-forward part.
        heads: Attention heads.
    """

    layers: tuple[int, ...]
    features: Features
    shared_embedding: bool
    dim: int
    ffn_dim: int
    heads: int

    @property
    def in_channels(self) -> int:
        """Planes that the branch takes."""
        return channel_count(self.features)

    @property
    def needs_white(self) -> bool:
        """True when the latent of a white video is one of the inputs."""
        return SideFeature.WHITE in self.features

    @property
    def needs_drawing(self) -> bool:
        """True when the branch takes the memory's tokens drawn at their places."""
        return drawing_of(self.features) is not None

    @property
    def drawn_view(self) -> BestView | None:
        """How the memory is looked at for the drawings that the branch takes."""
        drawing = drawing_of(self.features)
        return None if drawing is None else DRAWINGS[drawing]

    @property
    def needs_render(self) -> bool:
        """True when the branch is steered by a colour render of points, or by its holes."""
        return not {SideFeature.RENDER, SideFeature.SCORE}.isdisjoint(self.features)

    def metadata(self) -> dict[str, str]:
        """Entries for the safetensors header of a branch file."""
        return {
            LAYERS_KEY: ",".join(map(str, self.layers)),
            FEATURES_KEY: format_features(self.features),
            HEADS_KEY: str(self.heads),
        }

    def expect_backbone(self, *, dim: int, layers: int, ffn_dim: int | None = None) -> None:
        """Raise `ModelMismatchError` unless the branch fits a backbone of this size."""
        wrong_ffn = ffn_dim is not None and ffn_dim != self.ffn_dim
        if dim == self.dim and self.layers[-1] < layers and not wrong_ffn:
            return
        raise ModelMismatchError(
            "The side branch was made for another video model",
            got=f"a branch of width {self.dim} for layers up to {self.layers[-1]}, on a model "
            f"of width {dim} with {layers} layers",
            expected="a branch of the model's own width",
            fix="Load Wan2.2-TI2V-5B (width 3072, 30 layers) with a branch trained for it",
        )


def spread_layers(blocks: int, backbone_layers: int) -> tuple[int, ...]:
    """Layers that ``blocks`` evenly spaced side blocks belong to, from layer 0 on.

    15 blocks on 30 layers are layers 0, 2, .., 28 (released code), 8 are 0, 4, .., 28 (paper).

    Raises:
        ModelMismatchError: No spacing, or more than one, gives this number.
    """
    fitting = [
        tuple(range(0, backbone_layers, step))
        for step in range(1, backbone_layers + 1)
        if len(range(0, backbone_layers, step)) == blocks
    ]
    if len(fitting) != 1:
        raise ModelMismatchError(
            "The layers of the side branch cannot be determined from its file",
            got=f"{blocks} blocks for a model of {backbone_layers} layers; "
            f"{len(fitting)} spacings fit",
            expected=f"exactly one, or a file whose metadata names them as {LAYERS_KEY}",
            fix="Save the branch again with Mirage, or load the model that it was made for",
        )
    return fitting[0]


def infer_branch(
    shapes: Mapping[str, Shape],
    metadata: Mapping[str, str] | None = None,
    *,
    backbone_layers: int | None = None,
    form: BranchFormat | str = "auto",
    name: str = "",
) -> BranchConfig:
    """What a branch is made for, from the shapes of its tensors and the file's metadata.

    Args:
        shapes: Shape of every tensor under its released name (``vace_blocks.0...``).
        metadata: Entries of the safetensors header, if any.
        backbone_layers: Layers of the video model; needed when the metadata does not name
            the branch's layers.
        form: What 96 planes mean where the metadata does not say it, one of
            `mirage_core.checkpoints.branch_format.FORMATS`.
        name: The file's name, by which ``auto`` goes.

    Raises:
        ModelMismatchError: These are not the tensors of a side branch, or they leave open
            what it was made for.
    """
    known = dict(metadata or {})
    blocks = block_count(shapes)
    _expect_axes(shapes)
    dim, ffn_dim = _widths(shapes)
    features, shared = _features(shapes, known, form, name)
    layers = _layers(known, blocks, backbone_layers)
    heads = next(iter(natural_numbers(known.get(HEADS_KEY, str(dim // HEAD_DIM)))), 0)
    if heads < 1 or dim % heads:
        raise ModelMismatchError(
            "The side branch's attention heads cannot be determined from its file",
            got=f"width {dim}, {heads} heads",
            expected=f"a width that is a multiple of {HEAD_DIM}, or the number of heads as "
            f"{HEADS_KEY} in the file's metadata",
        )
    return BranchConfig(layers, features, shared, dim, ffn_dim, heads)


def block_count(names: Iterable[str]) -> int:
    """Number of side blocks among tensor names.

    Raises:
        ModelMismatchError: There is none, or numbers are missing.
    """
    numbers = {int(match[1]) for name in names if (match := _BLOCK.match(name))}
    if not numbers or numbers != set(range(len(numbers))):
        raise ModelMismatchError(
            "This file does not contain a complete Mirage side branch",
            got=f"blocks {sorted(numbers)}" if numbers else "no tensor named vace_blocks.*",
            expected="vace_blocks.0, vace_blocks.1, ... without gaps",
            fix="Choose a branch file (*_vace.safetensors) in models/model_patches",
        )
    return len(numbers)


def _expect_axes(shapes: Mapping[str, Shape]) -> None:
    for name, axes in _AXES.items():
        if name in shapes and len(shapes[name]) != axes:
            raise ModelMismatchError(
                "The side-branch file is inconsistent",
                got=f"{name} of shape {shapes[name]}",
                expected=f"{axes} axes",
                fix="Download the file again",
            )


def _widths(shapes: Mapping[str, Shape]) -> tuple[int, int]:
    name = "vace_blocks.0.ffn.0.weight"
    if name not in shapes:
        raise ModelMismatchError(
            "A tensor of the side branch is missing",
            got=f"no {name}",
            fix="Download the file again",
        )
    ffn_dim, dim = shapes[name][0], shapes[name][-1]
    return dim, ffn_dim


def _features(
    shapes: Mapping[str, Shape], metadata: Mapping[str, str], form: str, name: str
) -> tuple[Features, bool]:
    embedding, mask = shapes.get(PATCH_EMBEDDING), shapes.get(MASK_EMBEDDING)
    named = parse_features(metadata[FEATURES_KEY]) if FEATURES_KEY in metadata else None
    if named is not None:
        note_metadata(named, form, name)
    if embedding is not None:
        features = named or unnamed_features(embedding[1], form, name)
        found = embedding[1]
    else:
        features = named or (SCENE_ONLY if mask is None else SCENE_AND_VISIBLE)
        found = channel_count(SCENE_ONLY) + (0 if mask is None else mask[1])
    if channel_count(features) != found:
        raise ModelMismatchError(
            "The side-branch file is inconsistent",
            got=f"{found} input channels, and features {format_features(features)} with "
            f"{channel_count(features)}",
            fix="Download the file again",
        )
    return features, embedding is None


def _layers(
    metadata: Mapping[str, str], blocks: int, backbone_layers: int | None
) -> tuple[int, ...]:
    if LAYERS_KEY in metadata:
        layers = natural_numbers(metadata[LAYERS_KEY])
        if len(layers) == blocks and list(layers) == sorted(set(layers)):
            return layers
        raise ModelMismatchError(
            "The side-branch file is inconsistent",
            got=f"{blocks} blocks for layers {metadata[LAYERS_KEY][:60]}",
            fix="Download the file again",
        )
    if backbone_layers is None:
        raise ModelMismatchError(
            "The layers of the side branch depend on the video model",
            expected=f"the model's number of layers, or {LAYERS_KEY} in the file's metadata",
        )
    return spread_layers(blocks, backbone_layers)


def natural_numbers(text: str) -> tuple[int, ...]:
    """Natural numbers, comma separated; none at all where one is something else, or huge."""
    words = [word.strip() for word in text.split(",")]
    plain = all(word.isdecimal() and len(word) <= _DIGITS for word in words)
    return tuple(map(int, words)) if plain else ()
