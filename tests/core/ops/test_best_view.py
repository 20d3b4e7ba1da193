"""The best view of the front surface: against a plain search, and what must not change it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mirage_core.errors import ShapeError, ValueRangeError
from mirage_core.ops import best_view as module
from mirage_core.ops import splat
from mirage_core.ops.best_view import BINS, BestView, Seen, best_view, view_bins
from mirage_core.ops.kernels import BlockTensors
from mirage_core.ops.operators import best_winners
from mirage_core.ops.splat import point_bounds, winners
from readout_cases import CLOUDS, cloud, same_bits, seen_by, viewers, views

HEIGHT, WIDTH = 11, 18
DEFAULT = BestView()


def shown(
    parts: list[Tensor], seen: Seen, projection: Tensor, rule: BestView = DEFAULT, *,
    size: tuple[int, int] = (HEIGHT, WIDTH), nearest: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    boxes = [point_bounds(part) for part in parts]
    return best_view(
        parts, boxes, *seen, projection, viewers(projection), *size, rule.numbers, nearest
    )


def searched(
    parts: list[Tensor], seen: Seen, projection: Tensor, rule: BestView
) -> tuple[Tensor, Tensor]:
    """Cell by cell, from all points of all blocks."""
    points, who, slope = torch.cat(parts), [], torch.cat(list(seen.slope))
    for numbers, cameras in zip(seen.source, seen.observers, strict=True):
        who.append(cameras[numbers.long()])
    observers, cameras = torch.cat(who), viewers(projection)
    index = torch.full((len(projection), HEIGHT * WIDTH), -1)
    depth = torch.zeros(len(projection), HEIGHT * WIDTH)
    for view, matrix in enumerate(projection):
        padded = torch.nn.functional.pad(
            points, (0, 0, 0, -len(points) % splat.BOUNDS_RUN), value=torch.nan
        )
        axes = tuple(padded.T.contiguous().view(3, -1, splat.BOUNDS_RUN))
        runs = splat.Runs(axes, torch.arange(0, len(points), splat.BOUNDS_RUN))
        hits = splat.project_runs(runs, matrix.tolist(), HEIGHT, WIDTH, False)
        bins = view_bins(points, observers, cameras[view], rule.numbers)
        for cell in hits.cell.unique().tolist():
            mine = (hits.cell == cell).nonzero()[:, 0]
            inside = {int(hits.number[m]): float(hits.depth[m]) for m in mine}
            front = min(inside.values())

            def near(number: int, front: float = front, inside: dict = inside) -> bool:
                lean = slope[number].float().abs().sum()
                band = (lean * rule.lean + rule.band).clamp_max(rule.limit)
                return inside[number] == front or bool(
                    torch.tensor(inside[number]) <= torch.tensor(front) * (band + 1)
                )

            best = min(
                filter(near, inside), key=lambda n: (int(bins[n]), inside[n], -n)
            )
            index[view, cell], depth[view, cell] = best, inside[best]
    return index, depth


@pytest.mark.parametrize("rule", [DEFAULT, BestView(band=0.3, limit=0.4), BestView(bin=0.01)])
@pytest.mark.parametrize("name", ["random", "ties", "around", "dense", "not numbers"])
def test_it_is_what_a_plain_search_finds(name: str, rule: BestView) -> None:
    parts = [cloud(name, count, seed=count) for count in (260, 0, 1, 140)]
    seen, projection = seen_by(parts), views(2, HEIGHT, WIDTH)
    assert same_bits(shown(parts, seen, projection, rule), searched(parts, seen, projection, rule))


@pytest.mark.parametrize("name", CLOUDS)
def test_every_cell_that_has_a_point_shows_one(name: str) -> None:
    parts = [cloud(name, 900)]
    seen, projection = seen_by(parts), views(3, HEIGHT, WIDTH)
    seen.slope[0][::3] = torch.nan
    boxes = [point_bounds(parts[0])]
    index, depth = shown(parts, seen, projection)
    keys = torch.full((3, HEIGHT * WIDTH), splat.EMPTY_KEY)
    splat.splat_blocks(keys, parts, boxes, projection, height=HEIGHT, width=WIDTH)
    front_index, front = winners(keys)
    assert torch.equal(index >= 0, front_index >= 0)
    assert bool((depth >= front).all()) and bool((depth <= front * 1.1001).all())
    nothing_behind = BestView(band=0.0, lean=0.0, limit=0.0)
    index, depth = shown(parts, seen, projection, nothing_behind)
    assert torch.equal(depth, front)


def test_cutting_and_threads_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [cloud("dense", 2000), cloud("random", 3000), cloud("ties", 700)]
    seen, projection = seen_by(parts), views(3, HEIGHT, WIDTH)
    expected = shown(parts, seen, projection)
    monkeypatch.setattr(splat, "CHUNK_POINTS", 128)
    monkeypatch.setattr(splat, "GROUP_POINTS", 256)
    assert same_bits(shown(parts, seen, projection), expected)
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert same_bits(shown(parts, seen, projection), expected)
    finally:
        torch.set_num_threads(threads)


@given(st.permutations(range(4)))
def test_the_order_of_blocks_decides_equal_points_only(order: list[int]) -> None:
    parts = [cloud("dense", 200, seed=n) for n in range(4)]
    seen, projection = seen_by(parts), views(2, HEIGHT, WIDTH)
    index, depth = shown(parts, seen, projection)
    turned = Seen(*([part[n] for n in order] for part in seen))
    other, same_depth = shown([parts[n] for n in order], turned, projection)
    assert torch.equal(depth, same_depth)
    place = torch.cat([torch.arange(200) + 200 * n for n in order])
    assert torch.equal(torch.where(other >= 0, place[other], -1), index)


@given(
    st.lists(st.floats(-3, 3, width=32), min_size=6, max_size=6),
    st.floats(0.25, 50, width=32),
    st.floats(0.25, 50, width=32),
)
def test_scores_are_the_formula(places: list[float], before: float, now: float) -> None:
    point = torch.tensor([[0.1, -0.2, 4.0]])
    seen = torch.tensor([[*places[:3], before]])
    viewer = torch.tensor([*places[3:], now])
    away, here = ((point[0] - eye).double() for eye in (seen[0, :3], viewer[:3]))
    cosine = float(away @ here / (away.norm() * here.norm()))
    ratio = math.log(float(away.norm() / here.norm()) * now / before)
    rule = BestView(bin=0.01)
    cost = ratio * rule.coarser if ratio > 0 else -ratio * rule.finer
    score = (math.acos(max(-1.0, min(1.0, cosine))) + cost) / rule.bin
    found = int(view_bins(point, seen, viewer, rule.numbers))
    # Near 1 the cosine itself has few digits left.
    assert min(BINS - 1, math.floor(score - 0.15)) <= found <= min(BINS - 1, score + 0.15)


def test_a_camera_where_the_observer_stood_sees_best() -> None:
    points = cloud("random", 500)
    eye = torch.tensor([0.3, -0.2, 0.1, 20.0])
    bins = view_bins(points, eye.expand(500, 4), eye, DEFAULT.numbers)
    assert int(bins.max()) == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_directions_that_do_not_exist_are_the_worst(value: float) -> None:
    points = torch.tensor([[0.0, 0.0, 2.0], [value, 0.0, 2.0]])
    seen = torch.tensor([[0.0, 0.0, 2.0, 20.0], [0.0, 0.0, 0.0, 20.0]])
    bins = view_bins(points, seen, torch.tensor([0.0, 0.0, 0.0, 20.0]), DEFAULT.numbers)
    assert bins.tolist() == [BINS - 1, BINS - 1]


def plane(depth: float, eye: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    """Points of a plane that faces the origin's camera, and who saw them."""
    side = torch.linspace(-0.5, 0.5, 60)
    x, y = torch.meshgrid(side, side, indexing="xy")
    points = torch.stack([x.flatten(), y.flatten(), torch.full((3600,), depth)], dim=1)
    return points.T.contiguous().T, torch.tensor([[*eye, 16.2]])


@pytest.mark.parametrize("gap", [0.04, 0.06, 0.10])
def test_of_two_close_parallel_surfaces_the_near_one_stays(gap: float) -> None:
    """A book on a table: the table was seen from right here, the book from the side."""
    book, beside = plane(1.0, (1.5, 0.0, 0.0))
    table, here = plane(1.0 + gap, (0.0, 0.0, 0.0))
    parts = [book, table]
    flat = [torch.zeros(3600, 2).half()] * 2
    seen = Seen([torch.zeros(3600).int()] * 2, flat, [beside, here])
    lens = torch.tensor([[16.2, 0, 9.0, 0], [0, 16.2, 5.5, 0], [0, 0, 1, 0]])[None]
    index, _ = shown(parts, seen, lens)
    assert bool((index[index >= 0] < 3600).all())
    whole = BestView(band=0.10)
    index, _ = shown(parts, seen, lens, whole)
    assert bool((index[index >= 0] >= 3600).any()), "a band of a tenth takes them for one surface"


def test_noise_of_one_surface_does_not_hide_the_better_view() -> None:
    """Two views of one plane, the worse of which is nearer by noise of 2 %."""
    far_off, beside = plane(0.98, (1.5, 0.0, 0.0))
    good, here = plane(1.0, (0.0, 0.0, 0.0))
    flat = [torch.zeros(3600, 2).half()] * 2
    seen = Seen([torch.zeros(3600).int()] * 2, flat, [beside, here])
    lens = torch.tensor([[16.2, 0, 9.0, 0], [0, 16.2, 5.5, 0], [0, 0, 1, 0]])[None]
    index, depth = shown([far_off, good], seen, lens)
    assert bool((index[index >= 0] >= 3600).float().mean() > 0.95)
    assert float(depth[depth > 0].mean()) == pytest.approx(1.0, abs=0.002)


def test_a_leaning_surface_has_a_wider_band() -> None:
    slope = torch.tensor([[0.0, 0.0], [0.03, 0.01]]).half()
    points = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.08]]).T.contiguous().T
    side, here = torch.tensor([[1.5, 0.0, 0.0, 16.2], [0.0, 0.0, 0.0, 16.2]])
    lens = torch.tensor([[16.2, 0, 9.0, 0], [0, 16.2, 5.5, 0], [0, 0, 1, 0]])[None]
    numbers = torch.tensor([0, 1]).int()
    winner = {}
    for name, leans in (("leans", slope), ("flat", torch.zeros(2, 2).half())):
        seen = Seen([numbers], [leans], [torch.stack([side, here])])
        index, _ = shown([points], seen, lens)
        (winner[name],) = index[index >= 0].tolist()
    assert winner == {"leans": 1, "flat": 0}


@pytest.mark.parametrize("limit", [0.1, 0.111, 0.134, 0.157, 0.18])
def test_the_end_of_the_band_does_not_move_with_what_else_is_there(limit: float) -> None:
    """A point on the last number of the band wins, however many points are hidden behind it."""
    last = torch.tensor(limit) + 1
    depth = torch.tensor([1.0, float(last), *[5.0] * 20])
    points = torch.stack([0 * depth, 0 * depth, depth], dim=1).T.contiguous().T
    numbers = torch.tensor([0, *[1] * 21]).int()
    observers = torch.tensor([[1.5, 0.0, 0.0, 16.2], [0.0, 0.0, 0.0, 16.2]])
    lens = torch.tensor([[16.2, 0, 9.0, 0], [0, 16.2, 5.5, 0], [0, 0, 1, 0]])[None]
    rule = BestView(band=limit, limit=limit)
    for count in (2, 22):
        flat = torch.zeros(count, 2).half()
        seen = Seen([numbers[:count]], [flat], [observers])
        index, _ = shown([points[:count]], seen, lens, rule)
        assert index[index >= 0].tolist() == [1]


def test_a_memory_without_points() -> None:
    index, depth = shown([], Seen([], [], []), views(2, HEIGHT, WIDTH))
    assert bool((index == -1).all()) and not bool(depth.any())


def test_a_million_points_on_one_cell() -> None:
    points = (0.001 * cloud("random", 1_000_000) + torch.tensor([0.0, 0.0, 2.0])).T.contiguous().T
    seen, projection = seen_by([points]), views(1, HEIGHT, WIDTH)
    index, depth = shown([points], seen, projection)
    cells = index >= 0
    assert 1 <= int(cells.sum()) <= 4
    assert bool((depth[cells] > 1).all())


@pytest.mark.parametrize(
    "settings",
    [{"band": -0.1}, {"bin": 0.0}, {"limit": 0.6}, {"coarser": math.nan}, {"lean": math.inf}],
)
def test_settings_out_of_range(settings: dict[str, float]) -> None:
    with pytest.raises(ValueRangeError):
        BestView(**settings)


def test_widest_band_has_room_in_the_keys() -> None:
    offset = torch.tensor([1.0, 1 + module.MAX_BAND]).view(torch.int32).diff()
    assert int(offset) <= module._OFFSET_MASK


def test_tensors_that_do_not_belong_together() -> None:
    parts = [cloud("random", 40)]
    seen, projection = seen_by(parts), views(1, HEIGHT, WIDTH)
    held = BlockTensors(parts, [point_bounds(parts[0])])
    arguments = projection, viewers(projection), (HEIGHT, WIDTH)
    found = best_winners(held, seen, *arguments, rule=DEFAULT, nearest_centre=False)
    assert same_bits(found, shown(parts, seen, projection))
    for name in ("source", "slope"):
        short = seen._replace(**{name: [getattr(seen, name)[0][:-1]]})
        with pytest.raises(ShapeError):
            best_winners(held, short, *arguments, rule=DEFAULT, nearest_centre=False)
