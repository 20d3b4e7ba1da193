"""Clouds made even: against Spatia's own, a plain loop, refusals."""

from __future__ import annotations

import math
from collections import defaultdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mirage_core.errors import GeometryError, ShapeError, ValueRangeError
from mirage_core.geometry.voxels import downsample
from spatia_oracle import SpatiaOracle

ORACLE = SpatiaOracle()


def by_rows(points: torch.Tensor) -> list[int]:
    """Order by x, then y, then z."""
    rows = points.tolist()
    return sorted(range(len(rows)), key=rows.__getitem__)


@pytest.mark.parametrize("edge", ORACLE.settings["voxel"]["sizes"])
def test_means_are_the_originals(edge: float) -> None:
    points, colours = downsample(
        ORACLE.tensor("voxel.points").double(), ORACLE.tensor("voxel.colours").double(), edge
    )
    order = by_rows(points)
    expected = ORACLE.tensor(f"voxel.{edge:g}.points")
    assert torch.allclose(points[order], expected, atol=1e-6, rtol=0)
    assert torch.allclose(
        colours[order], ORACLE.tensor(f"voxel.{edge:g}.colours"), atol=1e-6, rtol=0
    )


@given(count=st.integers(1, 40), seed=st.integers(0, 1000), edge=st.floats(0.1, 3))
def test_a_plain_loop_finds_the_same(make, count: int, seed: int, edge: float) -> None:
    points, colours = make.noise(count, 3, seed=seed).double(), make.uniform(count, 2, seed=seed)
    low = [min(column) - edge / 2 for column in zip(*points.tolist(), strict=True)]
    cells = defaultdict(list)
    for number, point in enumerate(points.tolist()):
        cell = tuple(math.floor((x - least) / edge) for x, least in zip(point, low, strict=True))
        cells[cell].append(number)
    found, shown = downsample(points, colours, edge)
    members = [cells[cell] for cell in sorted(cells)]
    assert torch.allclose(found, torch.stack([points[one].mean(0) for one in members]))
    assert torch.allclose(shown, torch.stack([colours[one].mean(0) for one in members]))
    assert (found.dtype, shown.dtype) == (torch.float64, torch.float32)


def test_nothing_stays_nothing() -> None:
    points, colours = downsample(torch.zeros(0, 3), torch.zeros(0, 3), 0.01)
    assert len(points) == len(colours) == 0


@pytest.mark.parametrize(
    ("points", "colours", "edge", "error"),
    [
        (torch.zeros(2, 3), torch.zeros(1, 3), 0.1, ShapeError),
        (torch.full((2, 3), torch.nan), torch.zeros(2, 3), 0.1, GeometryError),
        (torch.zeros(2, 3), torch.zeros(2, 3), 0.0, ValueRangeError),
        (torch.zeros(2, 3), torch.zeros(2, 3), math.nan, ValueRangeError),
        (torch.tensor([[0.0, 0, 0], [1e9, 0, 0]]), torch.zeros(2, 3), 0.01, ValueRangeError),
    ],
)
def test_bad_input_is_refused(points, colours, edge: float, error) -> None:
    with pytest.raises(error):
        downsample(points, colours, edge)
