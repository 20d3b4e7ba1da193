"""Views that are written since none that is held shows the place well, and those let go of."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mirage_core.cache.build import Observation, append_all, make_block
from mirage_core.cache.footprints import focal_length, sample_size, seen, source_cameras, viewers
from mirage_core.cache.types import LatentCache
from mirage_core.errors import ValueRangeError
from mirage_core.geometry.camera import PixelConvention
from mirage_core.geometry.depth import surface_slope
from mirage_core.geometry.lift import lift
from mirage_core.geometry.transform import invert_rigid, rigid, rotation_about
from mirage_core.ops import splat
from mirage_core.ops.best_view import BestView, view_bins
from mirage_core.readout.readout import default_view, read_winners
from mirage_core.writing.better_views import ViewRule, better_views, quarter_lens
from mirage_core.writing.novelty import NoveltyRule, hide, novel_cells
from mirage_core.writing.policy import WriteLimits, WriteRules, write

GRID = (8, 12)
WALL = 4.0
LOOSE = WriteLimits(compact=False)
ONLY_VIEWS = NoveltyRule(carve=0, upgrade=0)
TODAY = NoveltyRule(view_score=0)


def around(angle: float, distance: float = WALL) -> Tensor:
    """world_to_camera of a camera that looks at the middle of the wall from the side."""
    turn = rotation_about("y", torch.tensor([-angle], dtype=torch.float64))
    spot = [distance * math.sin(angle), 0.0, WALL - distance * math.cos(angle)]
    return invert_rigid(rigid(turn, torch.tensor([spot], dtype=torch.float64)))[0]


def wall(make, camera: Tensor, seed: int = 0) -> Observation:
    """A frame of the wall at z = 4."""
    lens = make.lens(*GRID)
    eye = invert_rigid(camera[None])[0, :3, 3]
    far = lift(torch.ones(1, *GRID), lens, camera[None]).double()
    depth = (WALL - eye[2]) / (far[..., 2] - eye[2])
    depth = torch.where((depth > 0) & (depth < 50), depth, 0.0).float()
    return make.observation(depth, pose=camera, seed=seed)


def places(cache: LatentCache) -> set[tuple[float, ...]]:
    return {tuple(point) for block in cache.blocks for point in block.points.tolist()}


def known_depth(cache: LatentCache, frame: Observation, central: bool) -> Tensor:
    height, width = GRID
    lens, step = frame.intrinsics, 1
    if central:
        lens, step = quarter_lens(lens, cache.convention), 2
    _, known = read_winners(cache, frame.world_to_camera, lens, (step * height, step * width))
    return known[0, ::step, ::step]


def searched(cache: LatentCache, frame: Observation, rule: ViewRule) -> tuple[Tensor, list[int]]:
    """The rule cell by cell, from all points, each projected alone."""
    view = dataclasses.replace(rule.view, bin=rule.score)
    camera, lens = frame.world_to_camera[0].double(), frame.intrinsics[0].double()
    points = torch.cat([block.points for block in cache.blocks])
    slope = torch.cat([block.slope for block in cache.blocks]).float().abs().sum(1)
    number = torch.arange(len(cache))
    eyes = torch.cat(list(seen(cache).observers))[source_cameras(cache, number)]
    here = viewers(frame.world_to_camera, frame.intrinsics, cache.device)
    score = view_bins(points, eyes, here[0], view.numbers)
    back = view_bins(points, here.expand(len(points), 4), eyes, view.numbers)
    inside: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for index, point in enumerate(points.double()):
        x, y, z = (lens @ (camera[:3, :3] @ point + camera[:3, 3])).tolist()
        if not z > 0:
            continue
        column, row = x / z, y / z
        if rule.central and not all(0.25 <= axis % 1 < 0.75 for axis in (column, row)):
            continue
        inside.setdefault((math.floor(row), math.floor(column)), []).append((index, z))
    lean = surface_slope(frame.depth)[0].float().abs().sum(-1)
    better, gone = torch.zeros(GRID, dtype=torch.bool), []
    for (row, column), mine in inside.items():
        if not (0 <= row < GRID[0] and 0 <= column < GRID[1]):
            continue
        front = min(z for _, z in mine)
        held = [
            n
            for n, z in mine
            if z <= front * (1 + min(view.limit, view.band + view.lean * float(slope[n])))
        ]
        band = min(view.limit, view.band + view.lean * float(lean[row, column]))
        depth = float(frame.depth[0, row, column])
        apart = [n for n in held if back[n] > 0]
        if (
            0 < depth <= front * (1 + band)
            and all(score[n] > 0 for n in held)
            and (not rule.most or len(apart) < rule.most)
        ):
            better[row, column] = True
            gone += [n for n in held if back[n] == 0]
    return better, sorted(gone)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    score=st.sampled_from([0.03, 0.1, 0.4]),
    most=st.sampled_from([0, 1, 3]),
    central=st.booleans(),
)
def test_it_is_what_a_plain_search_finds(
    make, seed: int, score: float, most: int, central: bool
) -> None:
    cache = LatentCache()
    for number, (angle, way) in enumerate(make.uniform(4, 2, seed=seed).tolist()):
        frame = wall(make, around(0.8 * angle - 0.4, 2 + 3 * way), seed=number)
        rough = frame.depth * (1 + 0.03 * make.noise(1, *GRID, seed=seed + number))
        cache = append_all(cache, dataclasses.replace(frame, depth=rough))
    cache = hide(cache, torch.arange(0, len(cache), 7))
    frame = wall(make, around(0.1, 3.0))
    holed = frame.depth.where(make.uniform(1, *GRID, seed=seed) > 0.1, 0.0)
    frame = dataclasses.replace(frame, depth=holed)
    rule = ViewRule(BestView(), score, most, central)
    better, gone = better_views(cache, frame, known_depth(cache, frame, central), rule)
    expected, lost = searched(cache, frame, rule)
    assert torch.equal(better, expected)
    assert gone.tolist() == lost


def test_the_search_is_worth_comparing_with(make) -> None:
    """Of the cases above some cells are better and some views go, never all."""
    cache = append_all(LatentCache(), wall(make, around(0.0)))
    frame = wall(make, around(0.0, 3.2))
    better, gone = better_views(
        cache, frame, known_depth(cache, frame, True), ViewRule(BestView(), 0.1, 0, True)
    )
    assert 5 < int(better.sum()) < 90
    assert 5 < len(gone) < 90


@pytest.mark.parametrize(("angle", "worth"), [(0.05, False), (0.15, True), (0.5, True)])
def test_a_view_from_aside_is_written_and_takes_nothing_away(make, angle, worth) -> None:
    cache = append_all(LatentCache(), wall(make, around(0.0)))
    after = write(cache, wall(make, around(angle)), WriteRules(novelty=ONLY_VIEWS, limits=LOOSE))
    before = write(
        cache,
        wall(make, around(angle)),
        WriteRules(novelty=dataclasses.replace(ONLY_VIEWS, view_score=0), limits=LOOSE),
    )
    assert (len(after) > len(before)) == worth
    assert places(cache) <= places(after)


@pytest.mark.parametrize(
    ("nearer", "written", "goes"),
    [(1.1, False, False), (1.3, True, True), (1.5, True, True), (2.5, True, False)],
)
def test_a_nearer_view_from_the_same_side_replaces(make, nearer, written, goes) -> None:
    """At 1.5 the old view costs 0.20 here, and the new one 0.05 for its camera; at 2.5, 0.11."""
    cache = append_all(LatentCache(), wall(make, around(0.0)))
    frame = wall(make, around(0.0, WALL / nearer))
    better, gone = better_views(
        cache, frame, known_depth(cache, frame, False), ViewRule(BestView(), 0.1, 0, False)
    )
    assert bool(better.any()) == written
    assert bool(len(gone)) == goes


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), most=st.sampled_from([0, 2]))
def test_after_a_write_every_place_is_seen_well_or_full(make, seed: int, most: int) -> None:
    rule = dataclasses.replace(ONLY_VIEWS, max_views=most)
    cache = LatentCache()
    for number, (angle, way) in enumerate(make.uniform(5, 2, seed=seed).tolist()):
        frame = wall(make, around(1.2 * angle - 0.6, 3 + 2 * way), seed=number)
        cache = write(cache, frame, WriteRules(novelty=rule))
        novel, replaced = novel_cells(cache, frame, rule)
        assert not (novel & (frame.depth > 0)).any()
        assert not len(replaced)


def test_views_of_a_place_are_bounded(make) -> None:
    """A camera that goes round and round: with a bound the memory stops growing."""
    sizes = {}
    for most in (0, 2, 4):
        cache = LatentCache()
        rules = WriteRules(novelty=dataclasses.replace(ONLY_VIEWS, max_views=most))
        for step in range(24):
            cache = write(cache, wall(make, around(0.05 * step - 0.6), seed=step), rules)
        sizes[most] = len(cache)
    assert sizes[2] < sizes[4] < sizes[0]


def test_what_lies_behind_or_floats_in_front_is_no_view(make) -> None:
    """A surface that the new one would not be shown with asks for no better view."""
    frame = wall(make, around(0.3))
    for share in (0.8, 1.3):
        cache = append_all(LatentCache(), wall(make, around(0.0)))
        moved = dataclasses.replace(frame, depth=frame.depth * share)
        known = known_depth(cache, moved, True)
        better, gone = better_views(cache, moved, known, ViewRule(BestView(), 0.1, 0, True))
        band = 1 + BestView().limit
        assert not (better & (moved.depth[0] > known * band)).any()
        assert bool(better.any()) == (share < 1)
        assert not len(gone)


def test_hidden_points_are_no_views(make) -> None:
    cache = append_all(LatentCache(), wall(make, around(0.0)))
    frame = wall(make, around(0.0), seed=3)
    assert not novel_cells(cache, frame, ONLY_VIEWS)[0].any()
    novel, _ = novel_cells(hide(cache, torch.arange(96)), frame, ONLY_VIEWS)
    assert novel.all()


def old_novel_cells(
    cache: LatentCache, frame: Observation, rule: NoveltyRule
) -> tuple[Tensor, Tensor]:
    """New cells and replaced points by the nearest points alone."""
    height, width = GRID
    lens = quarter_lens(frame.intrinsics, cache.convention)
    winner, known = read_winners(cache, frame.world_to_camera, lens, (2 * height, 2 * width))
    winner, known = winner[:, ::2, ::2], known[:, ::2, ::2]
    novel = (winner < 0) | (frame.depth < known * (1 - rule.nearer))
    same = (winner >= 0) & ((known - frame.depth).abs() < rule.same * frame.depth)
    size = frame.depth / focal_length(frame.intrinsics).to(frame.depth)[:, None, None]
    coarse = same & (size < rule.upgrade * sample_size(cache, winner.clamp_min(0)))
    return novel | coarse, winner[coarse].unique()


@pytest.mark.parametrize("seed", range(6))
def test_released_memories_and_a_score_of_0_keep_the_nearest_points(
    make, convention: PixelConvention, seed: int
) -> None:
    cache = LatentCache(convention=convention)
    for number, (angle, way) in enumerate(make.uniform(3, 2, seed=seed).tolist()):
        frame = wall(make, around(angle - 0.5, 1 + 3 * way), seed=number)
        cache = cache.append(make_block(frame, convention))
    frame = wall(make, around(0.2, 2.0))
    rules = [TODAY] if default_view(cache) else [TODAY, NoveltyRule(), NoveltyRule(max_views=1)]
    for rule in rules:
        found, expected = (f(cache, frame, rule) for f in (novel_cells, old_novel_cells))
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])
    if default_view(cache):
        assert not torch.equal(novel_cells(cache, frame, NoveltyRule())[0], expected[0])


def test_frames_of_one_observation_ask_the_same_memory(make) -> None:
    cache = append_all(LatentCache(), wall(make, around(0.0)))
    one, other = wall(make, around(0.3)), wall(make, around(0.3, 2.5))
    both = Observation(
        *(
            torch.cat([getattr(one, name), getattr(other, name)], dim=int(name == "tokens"))
            for name in ("tokens", "depth", "world_to_camera", "intrinsics", "frames")
        )
    )
    novel, replaced = novel_cells(cache, both, NoveltyRule())
    apart = [novel_cells(cache, frame, NoveltyRule()) for frame in (one, other)]
    assert torch.equal(novel, torch.cat([cells for cells, _ in apart]))
    assert torch.equal(replaced, torch.cat([gone for _, gone in apart]).unique())


def test_cutting_and_threads_do_not_change_a_bit(make, monkeypatch: pytest.MonkeyPatch) -> None:
    def memory() -> str:
        cache = LatentCache()
        for step in range(4):
            cache = write(cache, wall(make, around(0.2 * step - 0.3, 3.0), seed=step))
        return cache.fingerprint()

    expected = memory()
    monkeypatch.setattr(splat, "CHUNK_POINTS", 128)
    monkeypatch.setattr(splat, "GROUP_POINTS", 256)
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert memory() == expected
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "wrong",
    [
        {"view_score": -0.1}, {"view_score": math.nan}, {"view_score": 1e-4},
        {"view_score": math.inf}, {"max_views": -1}, {"nearer": -0.1}, {"carve": 1.5},
        {"upgrade": math.nan}, {"same": 2.0},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueRangeError):
        NoveltyRule(**wrong)
