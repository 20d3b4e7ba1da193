"""The z-buffer against a loop over points, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mirage_core.geometry.camera import projection_matrices
from mirage_core.ops import splat as ops
from mirage_core.ops.splat import (
    BOUNDS_RUN,
    CHUNK_POINTS,
    EMPTY_KEY,
    GROUP_POINTS,
    point_bounds,
    splat,
    splat_blocks,
    visible_runs,
    winners,
)

HEIGHT, WIDTH = 9, 14


def brute_force(points: Tensor, projection: Tensor, nearest: bool) -> tuple[Tensor, Tensor]:
    """Winner and depth of every cell by a loop, float32 with one rounding per operation."""
    f32 = np.float32
    index = -np.ones((len(projection), HEIGHT, WIDTH), np.int64)
    depth = np.zeros(index.shape, f32)
    cloud, matrices = points.numpy(), projection.numpy()
    with np.errstate(all="ignore"):
        for view, matrix in enumerate(matrices):
            for number, (px, py, pz) in enumerate(cloud):
                x, y, z = (((r[0] * px + r[1] * py) + r[2] * pz) + r[3] for r in matrix)
                assert z.dtype == f32
                if not 0 < z < np.inf:
                    continue
                u, v = x / z, y / z
                u, v = (np.rint(u), np.rint(v)) if nearest else (u, v)
                if not (0 <= u < WIDTH and 0 <= v < HEIGHT):
                    continue
                cell = view, int(v), int(u)
                if index[cell] < 0 or z <= depth[cell]:
                    index[cell], depth[cell] = number, z
    return torch.from_numpy(index), torch.from_numpy(depth)


def run(points: Tensor, projection: Tensor, nearest: bool, bounds: Tensor | None = None):
    keys = torch.full((len(projection), HEIGHT * WIDTH), EMPTY_KEY, dtype=torch.int64)
    bounds = point_bounds(points) if bounds is None else bounds
    size = {"height": HEIGHT, "width": WIDTH}
    splat(keys, points, bounds, projection, **size, nearest_centre=nearest)
    index, depth = winners(keys)
    return index.view(-1, HEIGHT, WIDTH), depth.view(-1, HEIGHT, WIDTH)


def expect_same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> None:
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1].view(torch.int32), other[1].view(torch.int32))


@pytest.fixture
def views(make) -> Tensor:
    return projection_matrices(make.poses(3, seed=5), make.lens(HEIGHT, WIDTH, 3))


def with_values(cloud: Tensor) -> Tensor:
    for column, value in enumerate((torch.nan, torch.inf, -torch.inf)):
        cloud[column::7, column] = value
    return cloud


def denormal(cloud: Tensor) -> Tensor:
    cloud[::3] *= 1e-41
    cloud[::2, 2] = 1e-40
    return cloud


def huge(cloud: Tensor) -> Tensor:
    cloud[::2] *= 1e18
    cloud[::5] *= 1e19
    return cloud


AHEAD = torch.tensor([0.0, 0.0, 2.0])

CLOUDS = {
    "random": lambda cloud: cloud,
    "ties": lambda cloud: cloud[:80].repeat(5, 1)[torch.arange(400) * 37 % 400],
    "around": lambda cloud: 3 * (cloud - AHEAD),
    "behind": lambda cloud: cloud * torch.tensor([1.0, 1.0, -1.0]) - 2 * AHEAD,
    "not numbers": with_values,
    "denormal": denormal,
    "huge": huge,
    "empty": lambda cloud: cloud[:0],
    "one": lambda cloud: AHEAD[None],
    "dense": lambda cloud: (cloud - AHEAD) / 20 + AHEAD,
}


def hostile_cloud(make, name: str) -> Tensor:
    return CLOUDS[name](make.noise(400, 3, seed=3) + AHEAD)


@pytest.mark.parametrize("nearest", [False, True], ids=["floor", "round"])
@pytest.mark.parametrize("name", CLOUDS)
def test_equals_a_loop_over_points(make, views: Tensor, name: str, nearest: bool) -> None:
    cloud = hostile_cloud(make, name)
    found = run(cloud, views, nearest)
    expect_same(found, brute_force(cloud, views, nearest))
    assert bool((found[0] >= 0).any()) == (name not in ("behind", "empty"))


@pytest.mark.parametrize("nearest", [False, True], ids=["floor", "round"])
def test_points_at_the_camera_are_not_seen(nearest: bool) -> None:
    """A camera at the origin that would show anything with z > 0."""
    matrix = torch.tensor([[[1.0, 0, 5, 0], [0, 1.0, 4, 0], [0, 0, 1.0, 0]]])
    cloud = torch.tensor([[0.0, 0, 0], [0, 0, -0.0], [0, 0, -1], [1e-3, 0, 0], [0, 0, 1e-45]])
    found = run(cloud, matrix, nearest)
    expect_same(found, brute_force(cloud, matrix, nearest))
    assert set(found[0].unique().tolist()) <= {-1, 4}


def test_points_whose_depth_overflows_are_not_seen() -> None:
    """A float32 depth of infinity would put them in the first cell."""
    matrix = torch.tensor([[[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 10.0, 0]]])
    cloud = torch.tensor([[1.0, 1.0, 3e38]])
    assert bool((run(cloud, matrix, False)[0] == -1).all())


def test_newest_wins_exact_ties(views: Tensor) -> None:
    cloud = torch.tensor([[0.1, 0.1, 3.0]]).repeat(700, 1)
    index, _ = run(cloud, views, False)
    assert set(index[index >= 0].tolist()) == {699}


def test_half_way_rounds_to_even_centre() -> None:
    matrix = torch.tensor([[[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0]]])
    columns = torch.tensor([-0.5, 0.5, 1.5, 2.5, WIDTH - 0.5])
    cloud = torch.stack([columns, torch.ones(5), torch.ones(5)], dim=1)
    index, _ = run(cloud, matrix, True)
    row = index[0, 1]
    # -0.5 and 0.5 meet in column 0, where the newer wins; 1.5 and 2.5 meet in column 2.
    assert row[0] == 1
    assert row[2] == 3
    assert (row >= 0).sum() == 2


coordinate = st.one_of(
    st.floats(-4, 4, width=32),
    st.floats(allow_nan=True, allow_infinity=True, width=32),
    st.sampled_from([0.0, -0.0, 1e18, -1e18, 1e-40, float("nan"), float("inf")]),
)


@settings(max_examples=150)
@given(
    cloud=st.lists(st.tuples(coordinate, coordinate, coordinate), min_size=1, max_size=12),
    seed=st.integers(0, 1000),
    nearest=st.booleans(),
)
def test_any_coordinates(make, cloud, seed: int, nearest: bool) -> None:
    points = torch.tensor(cloud, dtype=torch.float32)
    views = projection_matrices(make.poses(2, reach=1, seed=seed), make.lens(HEIGHT, WIDTH, 2))
    expect_same(run(points, views, nearest), brute_force(points, views, nearest))


def walk(make, count: int) -> Tensor:
    """A cloud whose runs are compact, so that culling has something to leave out."""
    along = torch.linspace(0, 40, count)
    centre = torch.stack(
        [8 * torch.sin(along), 0.3 * torch.cos(3 * along), 8 * torch.cos(along)], 1
    )
    return centre + 0.2 * make.noise(count, 3, seed=8)


@pytest.mark.parametrize("nearest", [False, True], ids=["floor", "round"])
def test_culling_and_chunks_never_change_the_result(make, monkeypatch, nearest: bool) -> None:
    """More points than one group, ending in a part of a run."""
    cloud = walk(make, GROUP_POINTS + 3 * BOUNDS_RUN + 17)
    views = projection_matrices(make.poses(4, reach=3, seed=2), make.lens(HEIGHT, WIDTH, 4))
    bounds = point_bounds(cloud)
    runs = visible_runs(bounds, views, HEIGHT, WIDTH)
    assert 0.05 < float(runs.float().mean()) < 0.8
    found = run(cloud, views, nearest, bounds)
    everywhere = torch.tensor([-torch.inf] * 3 + [torch.inf] * 3).repeat(len(bounds), 1)
    expect_same(found, run(cloud, views, nearest, everywhere))
    monkeypatch.setattr(ops, "CHUNK_POINTS", 3 * BOUNDS_RUN)
    expect_same(found, run(cloud, views, nearest, bounds))
    monkeypatch.setattr(ops, "GROUP_POINTS", 8 * BOUNDS_RUN)
    expect_same(found, run(cloud, views, nearest, bounds))


def test_chunks_of_many_blocks(make, monkeypatch) -> None:
    """Blocks that end within runs, so that chunks are cut there: as if they were one block."""
    lengths = [700, 1, 0, 1500, 511, 1026, 870]
    cloud = walk(make, sum(lengths))
    views = projection_matrices(make.poses(4, reach=3, seed=2), make.lens(HEIGHT, WIDTH, 4))
    expected = run(cloud, views, False)
    blocks = cloud.split(lengths)
    for chunk in (1, 100, BOUNDS_RUN, CHUNK_POINTS):
        monkeypatch.setattr(ops, "CHUNK_POINTS", chunk)
        keys = torch.full((4, HEIGHT * WIDTH), EMPTY_KEY)
        boxes = [point_bounds(block) for block in blocks]
        splat_blocks(keys, blocks, boxes, views, height=HEIGHT, width=WIDTH)
        index, depth = winners(keys)
        shape = (-1, HEIGHT, WIDTH)
        expect_same((index.view(shape), depth.view(shape)), expected)


@pytest.mark.parametrize("border", [CHUNK_POINTS, GROUP_POINTS], ids=["chunk", "group"])
def test_chunk_borders(make, border: int) -> None:
    """Indices on both sides of the border between chunks, against the loop."""
    cloud = torch.full((border + 40, 3), torch.nan)
    near = slice(border - 40, border + 40)
    cloud[near] = make.noise(80, 3, seed=6) + torch.tensor([0.0, 0.0, 2.0])
    views = projection_matrices(make.poses(2, seed=5), make.lens(HEIGHT, WIDTH, 2))
    everywhere = torch.tensor([-torch.inf] * 3 + [torch.inf] * 3)
    boxes = everywhere.repeat(len(point_bounds(cloud)), 1)
    index, depth = run(cloud, views, False, boxes)
    expected, distance = brute_force(cloud[near], views, False)
    shift = border - 40
    expect_same((index, depth), (torch.where(expected < 0, -1, expected + shift), distance))
    assert bool((index >= border).any())
    assert bool(((index >= 0) & (index < border)).any())


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([1e-6, 0.1, 1.0, 30.0, 1e6]),
    spread=st.sampled_from([0.0, 0.0, 0.3]),
)
def test_culling_keeps_every_run_with_a_visible_point(make, seed: int, scale, spread) -> None:
    """Boxes down to single points, so that nothing is kept for the sake of its neighbours."""
    number = 40
    count = number * BOUNDS_RUN - 100
    runs = torch.arange(count) // BOUNDS_RUN
    corner = 2 * make.noise(number, 3, seed=seed)[runs]
    cloud = scale * (corner + spread * make.noise(count, 3, seed=seed + 1))
    poses = make.poses(3, reach=1, seed=seed)
    poses[:, :3, 3] *= scale
    views = projection_matrices(poses, make.lens(HEIGHT, WIDTH, 3))
    kept = visible_runs(point_bounds(cloud), views, HEIGHT, WIDTH)
    for view in range(3):
        x, y, z = (cloud @ views[view, :, :3].T + views[view, :, 3]).unbind(1)
        u, v = x / z, y / z
        seen = (z > 0) & (u >= -0.5) & (u < WIDTH) & (v >= -0.5) & (v < HEIGHT)
        assert bool(kept[view, runs[seen].unique()].all())


def test_runs_without_finite_points_are_left_out(views: Tensor) -> None:
    cloud = torch.full((2 * BOUNDS_RUN, 3), torch.nan)
    cloud[-1] = torch.tensor([0.0, 0.0, 3.0])
    kept = visible_runs(point_bounds(cloud), views, HEIGHT, WIDTH)
    assert kept.tolist() == [[False, True]] * 3


def test_boxes_hold_their_points_exactly(make) -> None:
    cloud = make.noise(BOUNDS_RUN + 100, 3)
    cloud[5, 1] = torch.inf
    bounds = point_bounds(cloud)
    finite = cloud[:BOUNDS_RUN][torch.arange(BOUNDS_RUN) != 5]
    assert torch.equal(bounds[0], torch.cat([finite.amin(0), finite.amax(0)]))
    assert torch.equal(
        bounds[1], torch.cat([cloud[BOUNDS_RUN:].amin(0), cloud[BOUNDS_RUN:].amax(0)])
    )
    assert point_bounds(cloud[:0]).shape == (0, 6)


@pytest.mark.parametrize("nearest", [False, True], ids=["floor", "round"])
def test_parts_in_any_order_give_the_winners_of_the_whole(make, views, nearest: bool) -> None:
    cloud = torch.cat([hostile_cloud(make, "random"), hostile_cloud(make, "ties")])
    whole = run(cloud, views, nearest)
    parts = [(0, 130), (130, 131), (131, 620), (620, len(cloud))]
    for order in (parts, parts[::-1]):
        keys = torch.full((3, HEIGHT * WIDTH), EMPTY_KEY, dtype=torch.int64)
        for begin, end in order:
            part = cloud[begin:end]
            splat(
                keys, part, point_bounds(part), views, height=HEIGHT, width=WIDTH,
                first_index=begin, nearest_centre=nearest,
            )  # fmt: skip
        index, depth = winners(keys)
        expect_same((index.view_as(whole[0]), depth.view_as(whole[1])), whole)


def test_same_bits_for_any_number_of_threads_and_any_strides(make, views) -> None:
    cloud = walk(make, CHUNK_POINTS + 1000)
    before = torch.get_num_threads()
    first = run(cloud, views, False)
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            expect_same(run(cloud, views, False), first)
            expect_same(run(cloud.T.contiguous().T, views, False), first)
    finally:
        torch.set_num_threads(before)


def test_large_indices_survive_the_key(views: Tensor) -> None:
    cloud = torch.tensor([[0.0, 0.0, 3.0]])
    first = 3_000_000_000
    keys = torch.full((3, HEIGHT * WIDTH), EMPTY_KEY, dtype=torch.int64)
    splat(
        keys, cloud, point_bounds(cloud), views, height=HEIGHT, width=WIDTH, first_index=first
    )  # fmt: skip
    index, depth = winners(keys)
    assert set(index.unique().tolist()) == {-1, first}
    assert depth[index == first].min() > 0
