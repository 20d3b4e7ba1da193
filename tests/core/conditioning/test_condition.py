"""A chunk's condition: consistent sizes, and the planes made from it."""

from __future__ import annotations

import pytest
import torch

from mirage_core.conditioning.condition import Condition
from mirage_core.conditioning.features import (
    DRAWINGS,
    SCENE_AND_HOLES,
    SCENE_AND_VISIBLE,
    SCENE_AND_WHITE,
    SCENE_ONLY,
    SideFeature,
)
from mirage_core.conditioning.segments import Segments
from mirage_core.errors import ShapeError
from mirage_core.readout.readout import grid_intrinsics, read

GRID = (4, 6)
PLANES = (SideFeature.OFFSET, SideFeature.DEPTH_RATIO)


@pytest.fixture
def parts(make) -> dict[str, torch.Tensor]:
    return {
        "projection": make.noise(48, 3, *GRID),
        "visible": make.uniform(3, *GRID, seed=1) > 0.5,
        "references": make.noise(48, 4, *GRID, seed=2),
        "preceding": make.noise(48, 2, *GRID, seed=3),
        "preceding_projection": make.noise(48, 2, *GRID, seed=4),
        "preceding_visible": make.uniform(2, *GRID, seed=5) > 0.5,
    }


def test_frames_are_counted(parts) -> None:
    assert Condition(**parts).segments == Segments(3, references=4, preceding=2)


def test_clean_target_frames_are_counted(parts) -> None:
    assert Condition(**parts, clean=2).segments == Segments(3, 4, 2, clean=2)
    assert Condition(**parts, clean=2).to("cpu").clean == 2


def test_a_scene_alone(parts) -> None:
    condition = Condition.of_projection(parts["projection"], parts["visible"])
    assert condition.segments == Segments(3)
    assert torch.equal(condition.side_input(SCENE_ONLY), parts["projection"])


def test_the_side_input_is_target_then_preceding(parts, make) -> None:
    condition = Condition(**parts)
    white = make.noise(48, 5, *GRID, seed=6)
    scene = torch.cat([parts["projection"], parts["preceding_projection"]], dim=1)
    visible = torch.cat([parts["visible"], parts["preceding_visible"]])[None].float()
    for features, plane in (
        (SCENE_AND_WHITE, white),
        (SCENE_AND_VISIBLE, visible),
        (SCENE_AND_HOLES, 1 - visible),
    ):
        found = condition.side_input(features, white)
        assert torch.equal(found, torch.cat([scene, plane]))


def test_the_white_latent_covers_the_preceding_frames(parts) -> None:
    with pytest.raises(ShapeError, match="white latent"):
        Condition(**parts).side_input(SCENE_AND_WHITE, torch.zeros(48, 3, *GRID))


@pytest.mark.parametrize("drawing", DRAWINGS)
def test_branches_that_take_drawings_see_preceding_frames_themselves(parts, drawing) -> None:
    condition = Condition(**parts)
    side = condition.side_input((drawing, SideFeature.VISIBLE))
    assert torch.equal(side[:48, :3], parts["projection"])
    assert torch.equal(side[:48, 3:], parts["preceding"])


def test_planes_of_a_readout(make) -> None:
    """Where points fall in their cells, found again by projecting each of them."""
    cache, trajectory = make.cache(300, 200), make.trajectory(5)
    readout = read(cache, trajectory)
    condition = Condition.of_readout(readout)
    side = condition.side_input((*SCENE_AND_VISIBLE, *PLANES))
    assert side.shape == (52, 2, 4, 4)
    points = torch.cat([block.points for block in cache.blocks]).double()
    cameras = trajectory.select([0, 4])
    lens = grid_intrinsics(cameras, (4, 4))
    shown = readout.visible.nonzero().tolist()
    assert len(shown) > 10
    for frame, row, column in shown:
        number = int(readout.winner[frame, row, column])
        block = cache.blocks[number >= 300]
        source = block.world_to_camera[block.source[number % 300]]
        place = torch.cat([points[number], torch.ones(1)])
        now = lens[frame] @ (cameras.world_to_camera[frame] @ place)[:3]
        inside = now[:2] / now[2] - torch.tensor([column + 0.5, row + 0.5])
        seen = float((source @ place)[2])
        expected = torch.stack([2 * inside[0], 2 * inside[1], 2 * (now[2] / seen).log()])
        if seen > 0:
            assert torch.allclose(side[49:, frame, row, column].double(), expected, atol=1e-4)
    assert not bool(side[49:, ~readout.visible].any())


def test_planes_of_the_target_alone(parts) -> None:
    with pytest.raises(ShapeError, match="same planes"):
        Condition(**parts, offset=torch.zeros(2, 3, *GRID))
    with pytest.raises(ShapeError, match="preceding frames' plane"):
        Condition(
            **parts, log_depth=torch.zeros(3, *GRID), preceding_log_depth=torch.zeros(3, *GRID)
        )


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("projection", (48, 4, 5), "The projection"),
        ("projection", (16, 3, *GRID), "The references"),
        ("visible", (2, *GRID), "The visibility"),
        ("references", (48, 4, 4, 5), "The references"),
        ("references", (16, 4, *GRID), "The references"),
        ("preceding", (48, 2, 5, 6), "The preceding frames"),
        ("preceding_projection", (48, 1, *GRID), "What they showed"),
        ("preceding_visible", (3, *GRID), "Where they showed it"),
    ],
)
def test_sizes_that_differ(parts, name: str, shape: tuple, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Condition(**parts | {name: torch.zeros(shape)})
