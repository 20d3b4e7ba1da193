"""A trained side branch that is to be shown something else: its blocks, with new input planes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from ..checkpoints.branch import PATCH_EMBEDDING, BranchConfig
from ..checkpoints.branch_file import (
    BranchWeights,
    backbone_layer_count,
    expected_shapes,
    load_branch,
)
from ..checkpoints.branch_format import BranchFormat
from ..checkpoints.transformer_format import open_transformer, transformer_folder
from ..conditioning.features import parse_features
from .settings import TrainingSettings

EMBEDDINGS: Final = ("vace_patch_embedding.", "vace_mask_embedding.")
"""What the names of the input planes' parameters begin with."""

_BIAS: Final = "vace_patch_embedding.bias"


def is_plane(name: str) -> bool:
    """True for a parameter that the input planes of a side branch go through."""
    return name.startswith(EMBEDDINGS)


def load_with_new_planes(
    branch: Path, transformer: Path, settings: TrainingSettings, form: BranchFormat | str = "auto"
) -> BranchWeights:
    """Read a side branch, and give it the planes that the settings name.

    Args:
        branch: Its file.
        transformer: The video model that it goes with.
        settings: ``side_features`` and ``side_shared_embedding`` say what it is shown.
        form: What 96 planes of the file mean where it does not say it.

    Raises:
        ModelMismatchError: A file is damaged or of another kind, or leaves open what the branch
            was made for.
    """
    layers = backbone_layer_count(open_transformer(transformer_folder(transformer)).shapes)
    return with_new_planes(load_branch(branch, layers, form=form), settings)


def with_new_planes(branch: BranchWeights, settings: TrainingSettings) -> BranchWeights:
    """A side branch whose blocks are the given one's, shown what the settings name.

    The first 48 planes are those of a latent in every branch, and begin with the weights that the
    given branch had for its own: what a latent looks like need not be learnt again. All further
    planes begin at 0.
    """
    config = planes_of(branch.config, settings)
    kept = {name: tensor for name, tensor in branch.tensors.items() if not is_plane(name)}
    return dataclasses.replace(branch, config=config, tensors=kept | _planes(branch, config))


def planes_of(config: BranchConfig, settings: TrainingSettings) -> BranchConfig:
    """What a branch is made for once it has the planes that the settings name."""
    return dataclasses.replace(
        config,
        features=parse_features(settings.side_features),
        shared_embedding=settings.side_shared_embedding,
    )


def _planes(branch: BranchWeights, config: BranchConfig) -> dict[str, Tensor]:
    """Tensors of the embedding, in the type of the branch."""
    shapes = {name: shape for name, shape in expected_shapes(config).items() if is_plane(name)}
    dtype = next(iter(branch.tensors.values())).dtype
    planes = {name: torch.zeros(shape, dtype=dtype) for name, shape in shapes.items()}
    own = branch.tensors.get(PATCH_EMBEDDING)
    if own is not None and not config.shared_embedding:
        first = config.features[0].channels
        planes[PATCH_EMBEDDING][:, :first] = own[:, :first]
        planes[_BIAS] = branch.tensors[_BIAS].clone()
    return planes
