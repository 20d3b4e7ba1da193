"""Finer novelty: the middle of a cell, free space, nearer views, and what is never lost."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mirage_core.cache.build import Observation, append_all
from mirage_core.cache.footprints import sample_size, source_cameras
from mirage_core.cache.types import LatentCache
from mirage_core.geometry.camera import PixelConvention
from mirage_core.geometry.lift import lift
from mirage_core.geometry.transform import invert_rigid, rigid, rotation_about
from mirage_core.readout.readout import read_winners
from mirage_core.writing.novelty import (
    MAX_FOOTPRINT,
    NoveltyRule,
    free_space_violations,
    hide,
    novel_cells,
)
from mirage_core.writing.policy import WRITE_POLICIES, WriteLimits, WriteRules, write

GRID = (8, 12)
LOOSE = WriteLimits(compact=False)


def pose(x: float = 0, y: float = 0, z: float = 0, turn: float = 0) -> Tensor:
    """world_to_camera of a camera at (x, y, z) that is turned to the right."""
    rotation = rotation_about("y", torch.tensor([turn], dtype=torch.float64))
    centre = torch.tensor([[x, y, z]], dtype=torch.float64)
    return invert_rigid(rigid(rotation, centre))[0]


def on_plane(
    make, camera: Tensor, normal: Tensor, distance: float, convention=PixelConvention.PAPER
) -> Observation:
    """A frame of the plane ``normal . p = distance``, seen from ``camera``."""
    ones = torch.ones(1, *GRID)
    lens = make.lens(*GRID)
    far = lift(ones, lens, camera[None], convention).double()
    eye = invert_rigid(camera[None])[0, :3, 3]
    along = (far - eye) @ normal
    depth = (distance - eye @ normal) / along
    depth = torch.where((depth > 0) & (depth < 50), depth, 0.0).float()
    return make.observation(depth, pose=camera, seed=int(1e6 * abs(float(eye.sum()))))


def rows(cache: LatentCache) -> set[tuple[float, ...]]:
    return {tuple(point) for block in cache.blocks for point in block.points.tolist()}


@pytest.mark.parametrize(
    ("shift", "shown"), [(0.0, True), (0.2, True), (0.3, False), (-0.2, True), (-0.3, False)]
)
@pytest.mark.parametrize("axis", [0, 1])
def test_only_the_middle_quarter_counts(
    make, convention: PixelConvention, shift: float, shown: bool, axis: int
) -> None:
    """Points that lie ``shift`` cells beside the centres of all cells."""
    depth = torch.full((1, *GRID), 2.0)
    seen = make.observation(depth)
    lens = seen.intrinsics.clone()
    lens[:, axis, 2] -= shift
    moved = dataclasses.replace(seen, intrinsics=lens)
    cache = append_all(LatentCache(convention=convention), moved)
    novel, _ = novel_cells(cache, seen, NoveltyRule())
    assert bool(novel.any()) != shown
    assert bool(novel.all()) != shown
    whole, _ = novel_cells(cache, seen, NoveltyRule(central=False))
    assert not whole.any()


def brute_contradicted(cache: LatentCache, seen: Observation, share: float) -> list[int]:
    """The rule, point by point, in float64."""
    height, width = GRID
    camera, lens = seen.world_to_camera[0].double(), seen.intrinsics[0].double()
    size = sample_size(cache, torch.arange(len(cache)))
    points = torch.cat([block.points for block in cache.blocks]).double()
    found = []
    for number, point in enumerate(points):
        x, y, z = lens @ (camera[:3, :3] @ point + camera[:3, 3])
        if z <= 0:
            continue
        column, row = (int(cache.convention.cells(value)) for value in (x / z, y / z))
        if not (0 <= column < width and 0 <= row < height):
            continue
        around = seen.depth[
            0, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2
        ]
        cell = z / lens[0, 0]
        if float(z) < float(around.min()) * (1 - share) and size[number] <= 3 * cell:
            found.append(number)
    return found


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.05, 0.1, 0.3]))
def test_contradicted_points_by_a_loop(make, seed: int, share: float) -> None:
    smooth = 1 + 3 * make.uniform(1, 1, 3, 3, seed=seed)
    depth = torch.nn.functional.interpolate(smooth, GRID, mode="bilinear")[0]
    depth = depth.where(make.uniform(1, *GRID, seed=seed + 1) > 0.03, 0.0)
    camera = make.poses(1, seed=seed)[0]
    cache = LatentCache()
    for number in range(2):
        other = 1 + 2 * make.uniform(1, *GRID, seed=seed + 2 + number)
        where = make.poses(1, seed=seed + 5 + number)[0]
        cache = append_all(cache, make.observation(other, pose=where))
    seen = make.observation(depth, pose=camera)
    found = free_space_violations(cache, seen, share)
    assert found.tolist() == brute_contradicted(cache, seen, share)


def test_the_loop_is_worth_comparing_with(make) -> None:
    """Of the random cases some points are contradicted and some are not."""
    cache = append_all(LatentCache(), make.observation(1 + 2 * make.uniform(1, *GRID, seed=1)))
    found = free_space_violations(cache, make.observation(torch.full((1, *GRID), 2.5)), 0.1)
    assert 10 < len(found) < 90


def test_what_is_seen_through_goes_and_the_rest_stays(make, convention: PixelConvention) -> None:
    near = make.observation(torch.full((1, *GRID), 1.0))
    depth = torch.zeros(1, *GRID)
    depth[:, 2:6, 3:9] = 1.0
    cache = append_all(LatentCache(convention=convention), dataclasses.replace(near, depth=depth))
    wall = make.observation(torch.full((1, *GRID), 3.0), seed=4)
    after = write(cache, wall, WriteRules(limits=LOOSE))
    assert len(cache) == 24
    assert len(after) == 96
    _, shown = read_winners(after, wall.world_to_camera, wall.intrinsics, GRID)
    assert torch.allclose(shown, wall.depth)
    kept = write(cache, wall, WriteRules(novelty=NoveltyRule(carve=0)))
    assert rows(cache) <= rows(kept)


@pytest.mark.parametrize("what", ["hole", "edge", "depth"])
def test_cells_beside_the_unknown_contradict_nothing(make, what: str) -> None:
    """One point in front of the middle of a wall; something beside it is not sure."""
    depth = torch.zeros(1, *GRID)
    depth[0, 4, 6] = 1.0
    cache = append_all(LatentCache(), make.observation(depth))
    wall = torch.full((1, *GRID), 3.0)
    assert free_space_violations(cache, make.observation(wall), 0.1).tolist() == [0]
    wall[0, 3, 7] = {"hole": 0.0, "edge": 1.05, "depth": torch.nan}[what]
    assert len(free_space_violations(cache, make.observation(wall.nan_to_num(0.0)), 0.1)) == 0


def test_a_token_of_a_large_area_is_not_contradicted_by_few_cells(make) -> None:
    """Seen from far away, then passed at a small part of the distance."""
    depth = torch.zeros(1, *GRID)
    depth[0, 4, 6] = 8.0
    cache = append_all(LatentCache(), make.observation(depth))
    for rest in (0.5 * 8 / MAX_FOOTPRINT, 1.5 * 8 / MAX_FOOTPRINT):
        near = make.observation(torch.full((1, *GRID), 9.0), pose=pose(z=8 - rest))
        assert len(free_space_violations(cache, near, 0.1)) == int(8 <= MAX_FOOTPRINT * rest)


@pytest.mark.parametrize("rest", [0.3, 0.45, 0.55, 1.0])
def test_a_nearer_view_replaces_the_farther_one(make, rest: float) -> None:
    """A wall at 4, seen again from ``rest`` of the distance."""
    wall = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    far = on_plane(make, pose(), wall, 4.0)
    near = on_plane(make, pose(z=4 * (1 - rest)), wall, 4.0)
    cache = append_all(LatentCache(), far)
    after = write(cache, near, WriteRules(limits=LOOSE))
    lost = rows(cache) - rows(after)
    assert bool(lost) == (rest < NoveltyRule().upgrade)
    kept = write(cache, near, WriteRules(novelty=NoveltyRule(upgrade=0), limits=LOOSE))
    assert rows(cache) <= rows(kept)
    _, known = read_winners(after, near.world_to_camera, near.intrinsics, GRID)
    assert torch.allclose(known, near.depth, rtol=1e-4)
    size = sample_size(after, torch.arange(len(after)))
    assert float(size.min()) == pytest.approx(4 * rest / (0.9 * GRID[1]), rel=1e-5)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    policy=st.sampled_from(WRITE_POLICIES),
    tilt=st.floats(-0.6, 0.6),
)
def test_no_point_of_an_agreed_surface_is_lost(make, seed: int, policy: str, tilt: float) -> None:
    """A plane seen from four places at about the same distance: every view agrees."""
    normal = torch.tensor([tilt, 0.1, 1.0], dtype=torch.float64)
    normal = normal / normal.norm()
    numbers = make.uniform(4, 4, seed=seed) - 0.5
    cache, held = LatentCache(), set()
    for x, y, z, turn in numbers.tolist():
        seen = on_plane(make, pose(x, y, 0.5 * z, 0.4 * turn), normal, 3.0)
        cache = write(cache, seen, WriteRules(policy, NoveltyRule(view_score=0)))
        assert held <= rows(cache)
        held = rows(cache)
        _, known = read_winners(cache, seen.world_to_camera, seen.intrinsics, GRID)
        shown = known[seen.depth > 0]
        assert torch.allclose(shown, seen.depth[seen.depth > 0], rtol=0.3)
        assert (shown > 0).all()


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_what_a_write_removes_was_contradicted_or_replaced(make, seed: int) -> None:
    rule = NoveltyRule()
    first = make.observation(1 + 2 * make.uniform(1, *GRID, seed=seed), pose=make.poses(1)[0])
    smooth = 1 + 3 * make.uniform(1, 1, 3, 3, seed=seed + 1)
    depth = torch.nn.functional.interpolate(smooth, GRID, mode="bilinear")[0]
    second = make.observation(depth, pose=make.poses(1, seed=seed)[0], seed=9)
    cache = append_all(LatentCache(), first)
    free = free_space_violations(cache, second, rule.carve)
    _, replaced = novel_cells(hide(cache, free), second, rule)
    gone = torch.cat([free, replaced])
    points = cache.blocks[0].points
    expected = {tuple(point) for point in points[gone].tolist()}
    after = write(cache, second, WriteRules(novelty=rule, limits=LOOSE))
    assert rows(cache) - rows(after) == expected
    assert len(write(after, second, WriteRules(novelty=rule))) == len(after)


def test_hidden_points_are_counted_and_never_seen(make) -> None:
    cache = make.cache(30, 20)
    index = torch.tensor([0, 29, 30, 41])
    hidden = hide(cache, index)
    assert len(hidden) == 50
    winner, _ = read_winners(hidden, make.poses(3), make.lens(*GRID, 3), GRID)
    assert not torch.isin(winner, index).any()
    assert cache.blocks[0].points.isfinite().all()
    assert hide(cache, index[:0]) is cache


def test_a_memory_of_nothing_but_phantoms_is_replaced(make) -> None:
    """Every block may go; what was written stays."""
    cache = append_all(LatentCache(codec="a"), make.observation(torch.full((1, *GRID), 1.0)))
    after = write(cache, make.observation(torch.full((1, *GRID), 4.0), seed=2), "novelty")
    assert [len(block) for block in after.blocks] == [96]
    assert after.codec == "a"


def test_sample_size_and_source(make) -> None:
    cache = append_all(LatentCache(), make.observation(torch.full((1, *GRID), 2.0)))
    there = make.observation(torch.full((1, *GRID), 6.0), pose=pose(x=1, turn=0.4))
    cache = append_all(cache, there)
    index = torch.tensor([[0, 95], [96, 191]])
    expected = torch.tensor([[2.0, 2.0], [6.0, 6.0]]) / (0.9 * GRID[1])
    assert torch.allclose(sample_size(cache, index), expected, rtol=1e-5)
    assert source_cameras(cache, index).tolist() == [[0, 0], [1, 1]]


def test_the_same_bits_every_time(make) -> None:
    depth = 2 + make.uniform(4, *GRID)
    first, second = (
        write(make.cache(300, 200), make.observation(depth), "novelty") for _ in range(2)
    )
    assert first.fingerprint() == second.fingerprint()
