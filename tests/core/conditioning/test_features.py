"""What the side branch gets to see, as planes in a stated order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mirage_core.conditioning.features import (
    FIRST,
    RENDER_AND_SCORE,
    SCENE_AND_HOLES,
    SCENE_AND_VISIBLE,
    SCENE_AND_WHITE,
    SCENE_ONLY,
    SideFeature,
    channel_count,
    features_of_channels,
    format_features,
    parse_features,
    stack_features,
)
from mirage_core.errors import ModelMismatchError, ShapeError

GRID = (3, 4, 6)
beside = st.lists(st.sampled_from([f for f in SideFeature if f not in FIRST]))


@pytest.fixture
def scene(make) -> torch.Tensor:
    return make.noise(48, *GRID)


@pytest.fixture
def visible(make) -> torch.Tensor:
    return make.uniform(*GRID, seed=1) > 0.5


@pytest.mark.parametrize(
    ("features", "channels"),
    [
        (SCENE_AND_WHITE, 96),
        (RENDER_AND_SCORE, 96),
        (SCENE_AND_HOLES, 49),
        (SCENE_AND_VISIBLE, 49),
        (SCENE_ONLY, 48),
    ],
)
def test_channels(features, channels: int) -> None:
    assert channel_count(features) == channels


@pytest.mark.parametrize(
    ("channels", "features"), [(96, SCENE_AND_WHITE), (49, SCENE_AND_HOLES), (48, SCENE_ONLY)]
)
def test_unnamed_features_are_the_released_codes(channels: int, features) -> None:
    assert features_of_channels(channels) == features


@pytest.mark.parametrize("channels", [0, 16, 32, 50, 97])
def test_other_channels_are_unknown(channels: int) -> None:
    with pytest.raises(ModelMismatchError, match="96 or 49 or 48"):
        features_of_channels(channels)


@given(st.sampled_from(FIRST), beside)
def test_names_come_back(first: SideFeature, others: list[SideFeature]) -> None:
    features = (first, *others)
    assert parse_features(format_features(features)) == features


def test_names_may_have_blanks_between_them() -> None:
    assert parse_features("scene, visible") == SCENE_AND_VISIBLE


@pytest.mark.parametrize(
    "text",
    [
        "", "white", "white,scene", "scene,depth", "scene,,white", "scene,drawn", "drawn,scene",
        "render,scene", "score,render",
    ],  # fmt: skip
)
def test_unknown_names(text: str) -> None:
    with pytest.raises(ModelMismatchError, match="scene, drawn, drawn_best or render, then any of"):
        parse_features(text)


@given(st.sampled_from(FIRST), beside)
def test_planes_stand_in_the_order_of_the_features(
    first: SideFeature, others: list[SideFeature]
) -> None:
    generator = torch.Generator().manual_seed(3)
    scene, white, render, score = torch.randn(4, 48, 2, 2, 3, generator=generator)
    visible = torch.rand(2, 2, 3, generator=generator) > 0.5
    offset, log_depth = torch.randn(3, 2, 2, 3, generator=generator).split([2, 1])
    features = (first, *others)
    found = stack_features(
        features, scene, visible, white, offset, log_depth[0], render, score
    )
    planes = {
        SideFeature.SCENE: scene,
        SideFeature.DRAWN: scene,
        SideFeature.DRAWN_BEST: scene,
        SideFeature.RENDER: render,
        SideFeature.SCORE: score,
        SideFeature.WHITE: white,
        SideFeature.VISIBLE: visible[None].float(),
        SideFeature.HOLES: 1 - visible[None].float(),
        SideFeature.OFFSET: 2 * offset,
        SideFeature.DEPTH_RATIO: 2 * log_depth,
    }
    parts = found.split([feature.channels for feature in features])
    for feature, part in zip(features, parts, strict=True):
        assert torch.equal(part, planes[feature])


def test_planes_have_the_type_of_the_scene(scene, visible, make) -> None:
    white = make.noise(48, *GRID, seed=2).double()
    for features in (SCENE_AND_WHITE, SCENE_AND_VISIBLE, SCENE_AND_HOLES, SCENE_ONLY):
        assert stack_features(features, scene.half(), visible, white).dtype == torch.float16


def test_sizes_that_differ(scene, visible) -> None:
    with pytest.raises(ShapeError, match="projection"):
        stack_features(SCENE_ONLY, scene[0], visible)
    with pytest.raises(ShapeError, match="visibility"):
        stack_features(SCENE_AND_VISIBLE, scene, visible[:, :2])
    with pytest.raises(ShapeError, match="white latent"):
        stack_features(SCENE_AND_WHITE, scene, visible, scene[:, :2])
    with pytest.raises(ShapeError, match="white video"):
        stack_features(SCENE_AND_WHITE, scene, visible)
    with pytest.raises(ShapeError, match="sub-cell offset"):
        stack_features((SideFeature.SCENE, SideFeature.OFFSET), scene, visible)
    with pytest.raises(ShapeError, match="depth ratio"):
        stack_features(
            (SideFeature.SCENE, SideFeature.DEPTH_RATIO), scene, visible, log_depth=scene[0, :2]
        )


def test_a_branch_that_needs_a_render_is_told_that_there_is_none(scene, visible) -> None:
    for part in ({}, {"render": scene}, {"score": scene}):
        with pytest.raises(ModelMismatchError, match=r"colour render.*--way spatia"):
            stack_features(RENDER_AND_SCORE, scene, visible, **part)
    with pytest.raises(ShapeError, match="latent of the score"):
        stack_features(RENDER_AND_SCORE, scene, visible, render=scene, score=scene[:, :2])
