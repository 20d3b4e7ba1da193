"""What a branch file is made for, read from names, shapes and metadata alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirage_core.checkpoints.branch import (
    FEATURES_KEY,
    HEADS_KEY,
    LAYERS_KEY,
    MASK_EMBEDDING,
    PATCH_EMBEDDING,
    BranchConfig,
    block_count,
    infer_branch,
    spread_layers,
)
from mirage_core.checkpoints.branch_file import expected_shapes
from mirage_core.conditioning.features import (
    RENDER_AND_SCORE,
    SCENE_AND_HOLES,
    SCENE_AND_VISIBLE,
    SCENE_AND_WHITE,
    SCENE_ONLY,
)
from mirage_core.errors import ModelMismatchError

FORMS = (RENDER_AND_SCORE, SCENE_AND_WHITE, SCENE_AND_HOLES, SCENE_AND_VISIBLE, SCENE_ONLY)


def config_of(**other) -> BranchConfig:
    known = {
        "layers": tuple(range(0, 30, 2)),
        "features": SCENE_AND_WHITE,
        "shared_embedding": False,
        "dim": 3072,
        "ffn_dim": 14336,
        "heads": 24,
    }
    return BranchConfig(**known | other)


configs = st.builds(
    BranchConfig,
    layers=st.sets(st.integers(0, 39), min_size=1, max_size=8).map(sorted).map(tuple),
    features=st.sampled_from(FORMS),
    shared_embedding=st.booleans(),
    dim=st.sampled_from([48, 256]),
    ffn_dim=st.sampled_from([64, 100]),
    heads=st.sampled_from([1, 2]),
)


@given(configs)
def test_a_file_says_what_it_is_made_for(config: BranchConfig) -> None:
    assert infer_branch(expected_shapes(config), config.metadata()) == config


@pytest.mark.parametrize(
    ("blocks", "layers", "expected"),
    [
        (15, 30, tuple(range(0, 30, 2))),
        (8, 30, (0, 4, 8, 12, 16, 20, 24, 28)),
        (8, 40, (0, 5, 10, 15, 20, 25, 30, 35)),
        (30, 30, tuple(range(30))),
        (2, 4, None),
    ],
)
def test_layers_are_spread_evenly(blocks: int, layers: int, expected) -> None:
    if expected is None:
        with pytest.raises(ModelMismatchError, match="2 spacings fit"):
            spread_layers(blocks, layers)
    else:
        assert spread_layers(blocks, layers) == expected


@pytest.mark.parametrize("blocks", [0, 14, 16, 31])
def test_numbers_of_blocks_without_a_spacing(blocks: int) -> None:
    with pytest.raises(ModelMismatchError, match="cannot be determined"):
        spread_layers(blocks, 30)


@pytest.mark.parametrize(
    ("layers", "features", "tensors"),
    [
        (tuple(range(0, 30, 2)), SCENE_AND_WHITE, 439),
        (tuple(range(0, 30, 4)), SCENE_AND_HOLES, 236),
    ],
)
def test_released_files_need_no_metadata(layers, features, tensors: int) -> None:
    config = config_of(layers=layers, features=features)
    shapes = expected_shapes(config)
    assert len(shapes) == tensors
    assert infer_branch(shapes, backbone_layers=30, form="mirage") == config


def test_without_its_own_embedding_it_shares_the_backbones() -> None:
    for features in (SCENE_ONLY, SCENE_AND_VISIBLE):
        config = config_of(features=features, shared_embedding=True)
        assert infer_branch(expected_shapes(config), backbone_layers=30) == config


def test_what_a_config_tells() -> None:
    assert config_of().in_channels == 96
    assert config_of().needs_white
    assert config_of(features=SCENE_AND_VISIBLE).in_channels == 49
    assert not config_of(features=SCENE_AND_VISIBLE).needs_white
    assert config_of(features=RENDER_AND_SCORE).in_channels == 96
    assert config_of(features=RENDER_AND_SCORE).needs_render
    assert not config_of().needs_render
    assert config_of(layers=(0, 4)).metadata() == {
        LAYERS_KEY: "0,4",
        FEATURES_KEY: "scene,white",
        HEADS_KEY: "24",
    }


def test_a_backbone_that_fits() -> None:
    config_of().expect_backbone(dim=3072, layers=30)
    config_of().expect_backbone(dim=3072, layers=29, ffn_dim=14336)


@pytest.mark.parametrize(
    "backbone",
    [
        {"dim": 5120, "layers": 40},
        {"dim": 3072, "layers": 28},
        {"dim": 3072, "layers": 30, "ffn_dim": 13824},
    ],
)
def test_a_backbone_that_does_not_fit(backbone: dict) -> None:
    with pytest.raises(ModelMismatchError, match="Wan2.2-TI2V-5B"):
        config_of().expect_backbone(**backbone)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({FEATURES_KEY: "scene"}, "is inconsistent"),
        ({FEATURES_KEY: "scene,depth"}, "does not know"),
        ({LAYERS_KEY: "0,2"}, "is inconsistent"),
        ({LAYERS_KEY: "4,2,0"}, "is inconsistent"),
        ({LAYERS_KEY: "0,0,2"}, "is inconsistent"),
        ({LAYERS_KEY: "-2,0,2"}, "is inconsistent"),
        ({LAYERS_KEY: "0,two,4"}, "is inconsistent"),
        ({HEADS_KEY: "0"}, "heads"),
        ({HEADS_KEY: "7"}, "heads"),
        ({HEADS_KEY: "many"}, "heads"),
    ],
)
def test_metadata_that_contradicts_the_tensors(change: dict, message: str) -> None:
    config = config_of(layers=(0, 2, 4))
    with pytest.raises(ModelMismatchError, match=message):
        infer_branch(expected_shapes(config), config.metadata() | change)


def test_layers_that_nothing_tells() -> None:
    with pytest.raises(ModelMismatchError, match="depend on the video model"):
        infer_branch(expected_shapes(config_of()), form="mirage")


def test_channels_that_no_branch_has() -> None:
    shapes = expected_shapes(config_of()) | {PATCH_EMBEDDING: (3072, 32, 1, 2, 2)}
    with pytest.raises(ModelMismatchError, match="32 channels"):
        infer_branch(shapes, backbone_layers=30)


def test_planes_beside_the_scene_that_no_name_tells() -> None:
    shared = expected_shapes(config_of(features=SCENE_AND_VISIBLE, shared_embedding=True))
    with pytest.raises(ModelMismatchError, match="is inconsistent"):
        infer_branch(shared | {MASK_EMBEDDING: (3072, 2, 1, 2, 2)}, backbone_layers=30)


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["blocks.0.ffn.0.weight"],
        ["vace_blocks.1.ffn.0.weight"],
        ["vace_blocks.0.modulation", "vace_blocks.2.modulation"],
    ],
)
def test_blocks_that_are_not_whole(names: list[str]) -> None:
    with pytest.raises(ModelMismatchError, match="complete Mirage side branch"):
        block_count(names)


def test_a_missing_tensor_is_named() -> None:
    shapes = expected_shapes(config_of())
    del shapes["vace_blocks.0.ffn.0.weight"]
    with pytest.raises(ModelMismatchError, match=r"vace_blocks\.0\.ffn\.0\.weight"):
        infer_branch(shapes, backbone_layers=30)


def test_a_narrow_branch_has_no_known_heads() -> None:
    with pytest.raises(ModelMismatchError, match="multiple of 128"):
        infer_branch(
            expected_shapes(config_of(dim=48, heads=2)), backbone_layers=30, form="mirage"
        )
