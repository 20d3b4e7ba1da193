"""Motion that nobody named: what is held back, and what is not."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mirage_core.cache.build import Observation, append_all
from mirage_core.cache.types import LatentCache
from mirage_core.errors import ShapeError, ValueRangeError
from mirage_core.ops.best_view import BestView
from mirage_core.readout.readout import read_winners
from mirage_core.writing.consistency import ConsistencyConfig, find_inconsistent, remove_points
from mirage_core.writing.views import SourceViews, cell_range, memory_source_views

GRID = (12, 20)
BALL = (4, 6)
"""Rows and columns of the thing that moves, in cells."""

EXACT = ConsistencyConfig(grow=0)


def room(frames: int, columns: list[int], near: float = 2.0, far: float = 4.0) -> torch.Tensor:
    """A wall, and in front of it a thing whose left edge is at the given column of each frame."""
    depth = torch.full((frames, *GRID), far)
    for frame, column in enumerate(columns):
        depth[frame, 4 : 4 + BALL[0], column : column + BALL[1]] = near
    return depth


def views(observation: Observation) -> SourceViews:
    return SourceViews(
        observation.depth,
        observation.depth,
        observation.tokens,
        observation.depth > 0,
        observation.world_to_camera,
        observation.intrinsics,
    )


def find(make, depth: torch.Tensor, cache: LatentCache | None = None, config=EXACT, tokens=None):
    observation = make.observation(depth)
    observation = dataclasses.replace(observation, frames=100 + 4 * torch.arange(len(depth)))
    if tokens is not None:
        observation = dataclasses.replace(observation, tokens=tokens)
    return find_inconsistent(cache or LatentCache(), observation, views(observation), config)


def test_what_moves_within_a_chunk_is_rejected_whole(make) -> None:
    columns = [1, 3, 5, 7, 9, 11, 13]
    depth = room(7, columns)
    held = find(make, depth, config=ConsistencyConfig()).rejected
    assert held[depth == 2].all()
    assert held[depth == 4].float().mean() < 0.15


def test_without_growth_nothing_that_stands_still_is_rejected(make) -> None:
    depth = room(7, [1, 3, 5, 7, 9, 11, 13])
    held = find(make, depth).rejected
    assert not held[depth == 4].any()
    assert held[depth == 2].float().mean() > 0.8


def test_what_stands_still_is_written(make) -> None:
    assert not find(make, room(7, [5] * 7)).rejected.any()


def test_one_bad_frame_rejects_nothing(make) -> None:
    """A frame with a phantom is one voice; the phantom itself is seen past by all others."""
    depth = room(7, [5] * 7)
    depth[3, 4:8, 5:11] = 4.0
    held = find(make, depth).rejected
    assert not held[[0, 1, 2, 4, 5, 6]].any()
    phantom = room(7, [5] * 7)
    phantom[3, 0:3, 14:18] = 1.0
    held = find(make, phantom).rejected
    assert held[3, 1, 15] and not held[[0, 1, 2, 4, 5, 6]].any()


@given(seed=st.integers(0, 500), noise=st.floats(0, 0.015), step=st.floats(0, 0.15))
def test_parallax_is_consistent(make, seed, noise, step) -> None:
    """A camera passes a box in front of a wall: hidden wall appears, seen wall disappears."""
    frames = 7
    pose = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    pose[:, 0, 3] = -step * torch.arange(frames)
    lens = make.lens(*GRID, frames)
    column = (torch.arange(GRID[1]) + 0.5 - GRID[1] / 2) / float(lens[0, 0, 0])
    row = (torch.arange(GRID[0]) + 0.5 - GRID[0] / 2) / float(lens[0, 0, 0])
    depth = torch.full((frames, *GRID), 4.0)
    for frame in range(frames):
        x, y = 2.0 * column + step * frame, 2.0 * row
        box = (y.abs() < 0.5)[:, None] & ((x > -0.4) & (x < 0.5))
        depth[frame][box] = 2.0
    depth *= (noise * make.noise(*depth.shape, seed=seed)).exp()
    observation = dataclasses.replace(
        make.observation(depth), world_to_camera=pose, frames=100 + 4 * torch.arange(frames)
    )
    first = Observation(*(getattr(observation, name)[keep] for name, keep in (
        ("tokens", (slice(None), slice(0, 1))), ("depth", slice(0, 1)),
        ("world_to_camera", slice(0, 1)), ("intrinsics", slice(0, 1)),
        ("frames", slice(0, 1)),
    )))  # fmt: skip
    cache = append_all(LatentCache(), dataclasses.replace(first, frames=torch.zeros(1)))
    found = find_inconsistent(cache, observation, views(observation), EXACT)
    # Noise moves points across the box's outline, seldom twice at one place.
    assert found.rejected.float().mean() <= (0.01 if noise > 0 else 0)
    assert len(found.gone) <= (2 if noise > 0 else 0)


def earlier(make, depth: torch.Tensor, times: list[int]) -> LatentCache:
    """A memory of frames at some times."""
    observation = make.observation(depth)
    return append_all(
        LatentCache(), dataclasses.replace(observation, frames=torch.tensor(times))
    )


def test_what_came_since_an_earlier_chunk_is_rejected(make) -> None:
    """It does not move in this chunk, but earlier ones saw an empty place."""
    cache = earlier(make, room(4, []), [0, 16, 32, 48])
    depth = room(7, [5] * 7)
    slow = dataclasses.replace(EXACT, share=0.2)
    held = find(make, depth, cache, slow).rejected
    assert held[:, 5:7, 6:10].all()
    assert not held[depth == 4].any()


def test_what_has_left_is_gone_and_the_place_is_written(make) -> None:
    cache = earlier(make, room(1, [5]), [0])
    depth = room(7, [])
    found = find(make, depth, cache)
    assert not found.rejected.any()
    remembered = cache.blocks[0].points[found.gone]
    assert torch.allclose(remembered[:, 2], torch.tensor(2.0))
    assert len(found.gone) >= 0.8 * BALL[0] * BALL[1]
    left = remove_points(cache, found.gone)
    assert len(left) == len(cache) - len(found.gone)
    assert len(cache) == GRID[0] * GRID[1]
    assert not len(find(make, depth, left).gone)


def test_what_is_hidden_is_not_gone(make) -> None:
    cache = earlier(make, room(1, []), [0])
    found = find(make, room(7, [5] * 7), cache)
    assert not len(found.gone)


def test_forgetting_nothing_gives_the_same_memory(make) -> None:
    cache = make.cache(30, 20)
    assert remove_points(cache, torch.zeros(0, dtype=torch.int64)) is cache
    left = remove_points(cache, torch.tensor([2, 29]))
    assert [len(block) for block in left.blocks] == [28, 20]
    assert left.blocks[1] is cache.blocks[1]
    assert [len(block) for block in remove_points(left, torch.arange(28)).blocks] == [20]


def test_a_place_that_changes_its_looks_is_rejected_when_asked(make) -> None:
    """A screen: depth says nothing, tokens do."""
    depth = room(8, [])
    tokens = make.noise(8, 1, *GRID).expand(8, 8, *GRID).clone()
    show = make.noise(8, 8, seed=5)
    tokens[:, :, 4:9, 6:12] = 3 * show[..., None, None]
    ordinary = find(make, depth, tokens=tokens).rejected
    asked = dataclasses.replace(EXACT, token=1.5)
    noticed = find(make, depth, config=asked, tokens=tokens).rejected
    assert not ordinary.any()
    assert noticed[:, 5:8, 7:11].float().mean() > 0.8
    assert not noticed[:, :, 14:].any()


def test_unknown_cells_are_never_rejected(make) -> None:
    depth = room(7, [1, 3, 5, 7, 9, 11, 13])
    depth[:, 5] = 0
    held = find(make, depth, config=ConsistencyConfig()).rejected
    assert not held[:, 5].any()


def test_ranges_of_cells_leave_out_invalid_pixels() -> None:
    depth = torch.tensor([[[1.0, torch.inf, 0.0, -1.0], [3.0, 2.0, torch.nan, 0.0]]])
    near, far = cell_range(depth, (1, 2))
    assert near[0, 0].tolist() == [1, 0]
    assert far[0, 0].tolist() == [3, 0]


def test_witnesses_are_near_and_far_apart_in_time(make) -> None:
    cache = earlier(make, room(10, []), [4 * k for k in range(10)])
    asked = memory_source_views(cache, torch.eye(4)[None], torch.tensor([60]), GRID)
    assert len(asked) == 3
    none = memory_source_views(cache, torch.eye(4)[None], torch.tensor([20]), GRID)
    assert len(none) <= 2
    assert len(memory_source_views(LatentCache(), torch.eye(4)[None], torch.tensor([0]), GRID)) == 0


def test_witnesses_and_what_is_gone_are_looked_at_as_asked(make) -> None:
    """Two noisy copies of one wall: the best views are other points than the nearest."""
    cache = LatentCache()
    for number, shift in enumerate((0.0, 0.8)):
        depth = 4 * (1 + 0.02 * make.noise(1, *GRID, seed=number))
        pose = torch.eye(4, dtype=torch.float64)[None].clone()
        pose[:, 0, 3] = shift
        seen = dataclasses.replace(make.observation(depth, seed=number), world_to_camera=pose)
        cache = append_all(cache, seen)
    here, time = torch.eye(4).double()[None], torch.tensor([60])
    past = make.observation(torch.full((2, *GRID), 6.0))
    gone = {}
    for view in (None, BestView()):
        asked = memory_source_views(cache, here, time, GRID, limit=1, view=view)
        winner, depth = read_winners(cache, here, make.lens(*GRID), GRID, view=view)
        assert torch.equal(asked.nearest, depth)
        config = ConsistencyConfig(votes=1, share=0)
        gone[view] = find_inconsistent(cache, past, views(past), config, view=view).gone
        assert len(gone[view]) > 100
        assert torch.isin(gone[view], winner).all()
    assert not torch.equal(*gone.values())


def test_depth_and_tokens_of_witnesses_share_a_grid(make) -> None:
    seen = views(make.observation(room(2, [])))
    with pytest.raises(ShapeError, match="do not fit together"):
        dataclasses.replace(
            seen, nearest=torch.ones(2, 18, 30), farthest=torch.ones(2, 18, 30)
        )


@pytest.mark.parametrize(
    "settings", [{"depth": 0.0}, {"votes": 0}, {"share": 1.5}, {"grow": -1}, {"token": 0.0}]
)
def test_impossible_settings(settings) -> None:
    with pytest.raises(ValueRangeError):
        ConsistencyConfig(**settings)
