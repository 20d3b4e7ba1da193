"""Compaction, the cap, and the change between two memories."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_core.cache.build import append_all, merge_blocks
from mirage_core.cache.compact import BLOCK_POINTS, compact, culling_order, morton_codes
from mirage_core.cache.delta import CacheDelta, apply_difference, difference
from mirage_core.cache.footprints import sample_size, source_cameras
from mirage_core.cache.thin import SLACK, thin
from mirage_core.cache.types import LatentCache
from mirage_core.errors import CacheFormatError
from mirage_core.ops.splat import BOUNDS_RUN, point_bounds
from mirage_core.readout.readout import read, read_winners
from mirage_core.writing.policy import WriteLimits, WriteRules, write

GRID = (8, 12)


def all_points(cache: LatentCache) -> torch.Tensor:
    return torch.cat([block.points for block in cache.blocks])


def test_morton_codes_by_bits() -> None:
    """Eight corners and the middle of a cube, against interleaving by text."""
    corners = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)) + [[0.5, 0.25, 0.75]])
    codes = morton_codes(corners)
    for point, code in zip(corners.tolist(), codes.tolist(), strict=True):
        steps = [int(value * (2**21 - 2)) for value in point]
        bits = "".join(
            f"{steps[axis] >> bit & 1}" for bit in reversed(range(21)) for axis in (2, 1, 0)
        )
        assert code == int(bits, 2)


def test_morton_codes_of_odd_clouds() -> None:
    assert morton_codes(torch.zeros(0, 3)).shape == (0,)
    assert morton_codes(torch.ones(4, 3)).unique().numel() == 1
    wild = torch.tensor([[0.0, 0, 0], [torch.nan, 0, 0], [1, 1, 1], [torch.inf, 0, 0]])
    assert morton_codes(wild).argsort(stable=True).tolist() == [0, 2, 1, 3]
    assert (morton_codes(torch.tensor([[-3e38, 0, 0], [3e38, 0, 0]])) >= 0).all()


def test_the_culling_order_makes_small_boxes(make) -> None:
    points = make.uniform(20 * BOUNDS_RUN, 3)
    order = culling_order(points)
    assert torch.equal(order.sort().values, torch.arange(len(points)))

    def volume(cloud: torch.Tensor) -> float:
        boxes = point_bounds(cloud)
        return float((boxes[:, 3:] - boxes[:, :3]).prod(dim=1).mean())

    assert volume(points[order]) < 0.2 * volume(points)
    few = points[:BOUNDS_RUN]
    assert torch.equal(culling_order(few), torch.arange(BOUNDS_RUN))


def test_equal_places_keep_their_order(make) -> None:
    """So that among equal depths of one place the newest still wins."""
    points = make.uniform(400, 3).repeat(2, 1)
    place = culling_order(points).argsort()
    assert (place[:400] < place[400:]).all()


@settings(max_examples=25)
@given(
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=8),
    largest=st.integers(1, 150),
    seed=st.integers(0, 1000),
)
def test_compaction_keeps_every_bit_of_a_readout(
    make, counts: list[int], largest: int, seed: int
) -> None:
    """On clouds full of ties: coordinates are multiples of one quarter."""
    cache = LatentCache()
    for number, count in enumerate(counts):
        block = make.block(count, seed=seed + number)
        ties = (4 * block.points).round() / 4
        cache = cache.append(dataclasses.replace(block, points=ties, bounds=torch.empty(0)))
    small = compact(cache, largest)
    assert len(small) == len(cache)
    assert all(len(block) <= max(largest, *counts) for block in small.blocks)
    trajectory = make.trajectory(17, 96, 64)
    one, other = read(cache, trajectory), read(small, trajectory)
    for name in ("winner", "depth", "tokens"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    index = torch.arange(len(cache))
    if len(index):
        assert torch.equal(sample_size(cache, index), sample_size(small, index))
        order = source_cameras(small, index)
        assert torch.equal(
            order.argsort(stable=True), source_cameras(cache, index).argsort(stable=True)
        )
    pairs = itertools.pairwise(small.blocks)
    assert all(len(a) + len(b) > largest for a, b in pairs) or len(small.blocks) == 1


def test_compaction_of_what_is_compact(make) -> None:
    cache = make.cache(40, 50)
    assert compact(cache, 60) is cache
    assert compact(LatentCache()).blocks == ()
    assert len(compact(cache).blocks) == 1
    assert BLOCK_POINTS % BOUNDS_RUN == 0


def test_joined_blocks_drop_cameras_that_see_nothing(make) -> None:
    block = make.block(20, cameras=4)
    seen_by = block.take(block.source != 2)
    joined = compact(LatentCache((seen_by, make.block(10, seed=5)))).blocks[0]
    assert len(joined.frames) == 3 + 2
    assert joined.frames[:3].tolist() == [0, 4, 12]
    frames = block.frames[block.source.long()][block.source != 2]
    assert torch.equal(joined.frames[joined.source.long()][: len(frames)], frames)


def test_writes_end_in_few_blocks(make) -> None:
    cache = LatentCache()
    for number in range(8):
        moved = torch.eye(4, dtype=torch.float64)
        moved[0, 3] = -0.5 * number
        seen = make.observation(2 + make.uniform(2, *GRID, seed=number), pose=moved)
        cache = write(cache, seen, "novelty")
    assert len(cache.blocks) == 1
    assert len(cache.blocks[0].frames) == len(cache.blocks[0].source.unique())


@settings(max_examples=25)
@given(
    counts=st.lists(st.integers(1, 80), min_size=1, max_size=4),
    limit=st.integers(1, 200),
    seed=st.integers(0, 1000),
)
def test_the_cap_holds(make, counts: list[int], limit: int, seed: int) -> None:
    cache = LatentCache(tuple(make.block(n, seed=seed + k) for k, n in enumerate(counts)))
    thinned = thin(cache, limit)
    assert len(thinned) <= limit
    if len(cache) <= limit:
        assert thinned is cache
    else:
        assert len(thinned) == max(1, int(SLACK * limit))
    # What remains is a subsequence: order, and with it the rule for ties, stays.
    rows = [tuple(row) for row in all_points(cache).tolist()]
    rest = iter(rows)
    kept = [tuple(p) for block in thinned.blocks for p in block.points.tolist()]
    assert all(row in rest for row in kept)


def test_thinning_forgets_no_place(make) -> None:
    """A wall seen once, and one spot of it seen forty times: the spot pays."""
    wall = append_all(LatentCache(), make.observation(torch.full((1, *GRID), 2.0)))
    spot = torch.zeros(40, *GRID)
    spot[:, 3:5, 5:7] = 2.0 + 0.001 * make.uniform(40, 2, 2)
    cache = append_all(wall, make.observation(spot))
    assert len(cache) == 96 + 160
    thinned = thin(cache, 130)
    assert len(thinned) == 117
    winner, _ = read_winners(
        thinned, torch.eye(4, dtype=torch.float64)[None], make.lens(*GRID), GRID
    )
    assert (winner >= 0).all()
    # What was there first speaks for its place.
    wall_rows = {tuple(row) for row in wall.blocks[0].points.tolist()}
    assert wall_rows <= {tuple(row) for row in all_points(thinned).tolist()}


def test_detail_seen_from_near_outlives_density(make) -> None:
    """Cells of a near camera are small: as many points, but not too dense for what they show."""
    depth = torch.full((1, *GRID), 1.0)
    near = torch.eye(4, dtype=torch.float64)
    near[2, 3] = -9.0
    fine = make.observation(depth, pose=near)
    coarse = make.observation(torch.full((8, *GRID), 10.0) + 0.01 * make.uniform(8, *GRID))
    cache = append_all(append_all(LatentCache(), coarse), fine)
    thinned = thin(cache, 300)
    size = sample_size(thinned, torch.arange(len(thinned)))
    assert int((size < 0.5).sum()) == 96


def test_writing_under_a_cap(make) -> None:
    cache = LatentCache()
    for number in range(6):
        moved = torch.eye(4, dtype=torch.float64)
        moved[0, 3] = -1.0 * number
        seen = make.observation(2 + make.uniform(2, *GRID, seed=number), pose=moved)
        for policy in ("append", "novelty"):
            limited = write(cache, seen, WriteRules(policy, limits=WriteLimits(150)))
            assert len(limited) <= 150
        cache = limited
    assert len(cache) >= SLACK * 150 - 1


def expect_same(one: LatentCache, other: LatentCache) -> None:
    assert [len(block) for block in one.blocks] == [len(block) for block in other.blocks]
    assert one.fingerprint() == other.fingerprint()


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    storage=st.sampled_from([torch.float16, torch.int8]),
    capped=st.booleans(),
)
def test_changes_of_writes_come_back(
    make, seed: int, storage: torch.dtype, capped: bool
) -> None:
    rules = WriteRules(limits=WriteLimits(150 if capped else 0, compact=seed % 2 == 0))
    cache = append_all(LatentCache(), make.observation(1 + make.uniform(1, *GRID, seed=seed)))
    cache = cache.to("cpu", storage)
    for number, pose in enumerate(make.poses(3, seed=seed)):
        smooth = 1 + 3 * make.uniform(1, 1, 3, 3, seed=seed + number)
        depth = torch.nn.functional.interpolate(smooth, GRID, mode="bilinear")[0]
        after = write(cache, make.observation(depth, pose=pose, seed=number), rules)
        expect_same(apply_difference(cache, difference(cache, after)), after)
        cache = after


def test_a_change_names_what_was_dropped_and_holds_only_what_is_new(make) -> None:
    old = make.cache(40, 30, 20)
    thinner = old.blocks[1].take(torch.arange(30) % 7 != 0)
    new = LatentCache((old.blocks[0], thinner, old.blocks[2], make.block(5, seed=77)))
    delta = difference(old, new)
    assert [rows.tolist() for rows in delta.dropped] == [[], [0, 7, 14, 21, 28], []]
    assert delta.added == (new.blocks[3],)
    expect_same(apply_difference(old, delta), new)


def test_what_cannot_be_told_as_dropped_is_added_whole(make) -> None:
    old = make.cache(40, 30)
    joined = LatentCache((merge_blocks(list(old.blocks)),))
    turned = dataclasses.replace(old.blocks[1], tokens=old.blocks[1].tokens + 1)
    for new in (joined, LatentCache((old.blocks[0], turned)), LatentCache((old.blocks[1],))):
        delta = difference(old, new)
        assert delta.added
        expect_same(apply_difference(old, delta), new)
    twice = LatentCache((merge_blocks([old.blocks[0], old.blocks[0]]),))
    once = LatentCache((twice.blocks[0].take(torch.arange(80) < 40),))
    expect_same(apply_difference(twice, difference(twice, once)), once)


@pytest.mark.parametrize(
    "rows",
    [
        torch.tensor([40], dtype=torch.int32), torch.tensor([-1], dtype=torch.int32),
        torch.tensor([1]), torch.tensor([[1]], dtype=torch.int32), torch.tensor([0.5]),
    ],
)  # fmt: skip
def test_changes_of_another_memory_are_refused(make, rows: torch.Tensor) -> None:
    with pytest.raises(CacheFormatError):
        apply_difference(make.cache(40), CacheDelta((rows,), ()))


def test_a_change_of_more_blocks_than_there_are(make) -> None:
    nothing = torch.zeros(0, dtype=torch.int32)
    with pytest.raises(CacheFormatError, match="at most 1"):
        apply_difference(make.cache(40), CacheDelta((nothing, nothing), ()))
