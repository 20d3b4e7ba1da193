"""References one to one: against Spatia's own, plain loops, all assignments."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mirage_core.errors import GeometryError, ShapeError, ValueRangeError
from mirage_core.readout import shared_points
from mirage_core.readout.shared_points import (
    assign_references,
    choose_by_shared_points,
    shared_counts,
    visible_points,
)
from spatia_oracle import SpatiaOracle, cameras

ORACLE = SpatiaOracle()
CHOICE = ORACLE.settings["references"]


def shot(name: str):
    """The oracle's cameras of this name."""
    height, width = CHOICE["size"]
    lens = [x * size for x, size in zip(
        CHOICE["normalised_intrinsics"], (width, height, width, height), strict=True
    )]  # fmt: skip
    return cameras(ORACLE.tensor(f"refs.{name}_w2c"), lens, (height, width))


@pytest.mark.parametrize("name", ["target", "history"])
def test_visible_points_are_the_originals(name: str) -> None:
    found = visible_points(ORACLE.tensor("refs.points"), shot(name))
    assert torch.equal(found, ORACLE.tensor(f"refs.{name}_visible"))


def test_counts_are_the_originals() -> None:
    points = ORACLE.tensor("refs.points")
    seen = [visible_points(points, shot(name)) for name in ("target", "history")]
    assert torch.equal(shared_counts(*seen), ORACLE.tensor("refs.counts").long())


@pytest.mark.parametrize(("coarse", "key"), [(True, "matches_bf16"), (False, "matches_exact")])
def test_choice_is_the_originals(coarse: bool, key: str) -> None:
    points, parts = ORACLE.tensor("refs.points"), (shot("target"), shot("history"))
    for limit in (7, 3, 0):
        found = choose_by_shared_points(points, *parts, limit=limit, coarse_counts=coarse)
        assert found == CHOICE[key][:limit]
    assert CHOICE["matches_bf16"] != CHOICE["matches_exact"]


@given(
    targets=st.integers(1, 4), candidates=st.integers(0, 5), seed=st.integers(0, 1000),
    limit=st.integers(0, 5),
)  # fmt: skip
def test_no_other_assignment_shares_more(make, targets, candidates, seed, limit) -> None:
    counts = (make.uniform(targets, candidates, seed=seed) * 20).long()
    chosen = assign_references(counts, targets)
    assert len(set(chosen)) == len(chosen) == min(targets, candidates)
    pairs = min(targets, candidates)
    best = max(
        sum(int(counts[t, c]) for t, c in zip(rows, columns, strict=True))
        for rows in itertools.combinations(range(targets), pairs)
        for columns in itertools.permutations(range(candidates), pairs)
    )
    if candidates >= targets:
        assert sum(int(counts[t, c]) for t, c in enumerate(chosen)) == best
    assert assign_references(counts, limit) == chosen[:limit]


def test_targets_that_share_least_are_left_without() -> None:
    assert assign_references(torch.tensor([[9, 1], [0, 0], [2, 8]])) == [0, 1]


def test_a_pixel_is_cut_towards_zero_and_hides_what_is_behind() -> None:
    """At one unit of depth and focal length 1, x and y are pixels beside the principal point."""
    points = torch.tensor(
        [
            [-2.9, -2.0, 1.0],  # pixel -0.9, which counts as 0
            [-3.0, -2.0, 1.0],  # pixel -1
            [1.2, 0.2, 1.0],
            [1.3, 0.3, 1.0 + 5e-7],  # as near as the one before
            [1.4, 0.4, 1.1],  # behind both
            [2.0, 0.0, 1.0],  # right of the picture
            [0.0, 0.0, -1.0],
        ],
        dtype=torch.float64,
    )
    points[3:5] *= points[3:5, 2:]
    points[3:5, 2] = torch.tensor([1.0 + 5e-7, 1.1])
    camera = cameras(torch.eye(4)[None], [1, 1, 2, 2], (4, 4))
    found = visible_points(points, camera)[0].tolist()
    assert found == [True, False, True, True, False, False, False]


def test_counts_in_pieces_are_exact(make, monkeypatch) -> None:
    one, other = make.uniform(3, 1000) > 0.5, make.uniform(4, 1000, seed=1) > 0.5
    monkeypatch.setattr(shared_points, "_PIECE", 7)
    expected = [[int((a & b).sum()) for b in other] for a in one]
    assert shared_counts(one, other).tolist() == expected


def test_a_callback_sees_every_camera(make) -> None:
    calls: list[tuple[int, int]] = []
    parts = make.trajectory(2, 32, 32), make.trajectory(3, 32, 32)
    choose_by_shared_points(
        torch.zeros(0, 3), *parts, on_camera=lambda *call: calls.append(call)
    )
    assert calls == [(number, 5) for number in range(1, 6)]


def test_bad_input_is_refused(make) -> None:
    with pytest.raises(ShapeError):
        visible_points(torch.zeros(2, 2), make.trajectory(1))
    with pytest.raises(GeometryError):
        visible_points(torch.full((2, 3), torch.nan), make.trajectory(1))
    with pytest.raises(ShapeError):
        shared_counts(torch.zeros(2, 3) > 0, torch.zeros(2, 4) > 0)
    with pytest.raises(ValueRangeError):
        assign_references(torch.tensor([[1]]), -1)
    with pytest.raises(ValueRangeError):
        assign_references(torch.tensor([[-1]]))
