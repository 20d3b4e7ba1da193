"""Two meanings of 96 planes: by metadata, by choice, by name, and never by guessing."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import tiny_weights as tiny
from mirage_core.checkpoints.branch import BranchConfig, infer_branch
from mirage_core.checkpoints.branch_file import expected_shapes, load_branch, save_branch
from mirage_core.checkpoints.branch_format import unnamed_features
from mirage_core.conditioning.features import (
    RENDER_AND_SCORE,
    SCENE_AND_HOLES,
    SCENE_AND_WHITE,
    SCENE_ONLY,
)
from mirage_core.errors import ModelMismatchError, ValueRangeError


def branch_of(features: tuple) -> BranchConfig:
    return tiny.branch_config(features=features)


@pytest.fixture
def unnamed(tmp_path: Path):
    """A 96-plane file whose metadata tells nothing but its heads, under a name."""
    tensors = tiny.branch_tensors(tiny.branch_config())
    return lambda name: tiny.write(tmp_path / name, tensors, tiny.metadata())


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("step-8500.safetensors", RENDER_AND_SCORE),
        ("Spatia_branch_fp16.safetensors", RENDER_AND_SCORE),
        ("vace_point-bs64-lr1e-5.safetensors", RENDER_AND_SCORE),
        ("Mirage_vace.safetensors", SCENE_AND_WHITE),
    ],
)
def test_auto_goes_by_the_name_and_says_so(unnamed, caplog, name: str, features) -> None:
    with caplog.at_level(logging.INFO, logger="mirage"):
        assert load_branch(unnamed(name), 3).config.features == features
    assert name in caplog.text
    assert "by its file name" in caplog.text


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("step_0008500_vace.safetensors", "neither format"),
        ("branch.safetensors", "neither format"),
        ("mirage_or_spatia.safetensors", "both formats"),
    ],
)
def test_what_tells_nothing_is_not_taken(unnamed, name: str, told: str) -> None:
    with pytest.raises(ModelMismatchError) as caught:
        load_branch(unnamed(name), 3)
    for word in (name, told, "mirage (", "white latent", "spatia (", "--branch-format", "node"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("form", "features"), [("mirage", SCENE_AND_WHITE), ("spatia", RENDER_AND_SCORE)]
)
@pytest.mark.parametrize(
    "name", ["branch.safetensors", "mirage.safetensors", "step-8500.safetensors"]
)
def test_a_choice_comes_before_the_name(unnamed, form: str, features, name: str) -> None:
    assert load_branch(unnamed(name), 3, form=form).config.features == features


@pytest.mark.parametrize("features", [SCENE_AND_WHITE, RENDER_AND_SCORE])
@pytest.mark.parametrize("form", ["auto", "mirage", "spatia"])
def test_metadata_comes_before_the_choice(tmp_path, caplog, features, form: str) -> None:
    config = branch_of(features)
    name = "step-8500" if features == SCENE_AND_WHITE else "mirage"
    path = save_branch(tmp_path / name, tiny.branch_tensors(config), config)
    with caplog.at_level(logging.INFO, logger="mirage"):
        assert load_branch(path, form=form).config == config
    contradicted = form == ("spatia" if features == SCENE_AND_WHITE else "mirage")
    assert ("is ignored" in caplog.text) == contradicted


def test_eight_blocks_of_thirty_layers_are_every_fourth() -> None:
    """As the published file has them: full size, no metadata."""
    layers = (0, 4, 8, 12, 16, 20, 24, 28)
    config = BranchConfig(layers, RENDER_AND_SCORE, False, dim=3072, ffn_dim=14336, heads=24)
    shapes = expected_shapes(config)
    assert len(shapes) == 236
    assert shapes["vace_patch_embedding.weight"] == (3072, 96, 1, 2, 2)
    assert infer_branch(shapes, {}, backbone_layers=30, name="step-8500.safetensors") == config


@pytest.mark.parametrize(("channels", "features"), [(49, SCENE_AND_HOLES), (48, SCENE_ONLY)])
def test_other_numbers_of_planes_need_no_choice(channels: int, features) -> None:
    assert unnamed_features(channels, "auto", "any.safetensors") == features
    assert unnamed_features(channels, "mirage", "") == features
    with pytest.raises(ModelMismatchError, match="not a branch of Spatia's"):
        unnamed_features(channels, "spatia", "any.safetensors")


def test_an_unknown_choice() -> None:
    with pytest.raises(ValueRangeError, match="auto, mirage, spatia"):
        unnamed_features(96, "vace", "mirage.safetensors")
