"""Cells that straddle a depth edge: when they are split, and what masks mean."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mirage_core.errors import ShapeError
from mirage_core.geometry.cutouts import (
    LEAST,
    SIDE,
    WHOLE,
    area,
    covers_half,
    inside_mask,
    mask_centre,
    split_cells,
    unpacked,
)

CELL = 16
EVERY_MASK = torch.arange(-(1 << 15), 1 << 15).to(torch.int16)

slopes = st.floats(-0.45, 0.45)


def plane(right: float, down: float, rows: int = 2 * CELL, cols: int = 4 * CELL) -> Tensor:
    """(1, rows, cols) depth around 4; the arguments are shares of the inverse depth."""
    y, x = (torch.arange(n).double() / n - 0.5 for n in (rows, cols))
    return (4 / (1 + right * x[None, :] + down * y[:, None])).float()[None]


def edge(near: Tensor, far: Tensor, column: float, turn: float = 0.0) -> Tensor:
    """The near depth to the left of a line through the middle row, turned by ``turn``."""
    rows, cols = near.shape[1:]
    y, x = torch.arange(rows) + 0.5 - rows / 2, torch.arange(cols) + 0.5
    return torch.where(x[None, :] < column + turn * y[:, None], near, far)


@given(slopes, slopes, st.sampled_from([(32, 64), (8, 16), (11, 23), (45, 90), (64, 128)]))
def test_a_slanted_plane_is_never_split(right: float, down: float, size: tuple[int, int]) -> None:
    """Neither at another resolution than the cells', where it comes in steps."""
    assert not split_cells(plane(right, down, *size), (2, 4)).split.any()


@settings(max_examples=50)
@given(st.floats(0, 64), st.floats(-1, 1), st.floats(0.3, 0.85), slopes)
def test_parts_of_two_parallel_planes(
    column: float, turn: float, nearer: float, slope: float
) -> None:
    """Each part lies at its plane's depth, and both make up the cell."""
    far = plane(0.3 * slope, 0)
    near = far * nearer
    cut = split_cells(edge(near, far, column, turn), (2, 4))
    split = cut.split
    assert torch.equal(split, cut.front > 0) and torch.equal(split, cut.mask != WHOLE)
    squares = unpacked(cut.mask[split]).sum((1, 2))
    assert bool(((squares >= LEAST) & (squares <= SIDE * SIDE - LEAST)).all())
    for part, truth in ((cut.front, near), (cut.back, far)):
        cells = truth.unflatten(1, (2, CELL)).unflatten(3, (4, CELL)).transpose(2, 3)
        low, high = (fold(cells, dim=(3, 4)) for fold in (torch.amin, torch.amax))
        assert bool(((part >= low) & (part <= high))[split].all())


@pytest.mark.parametrize("inside", [5, 8, 11])
@pytest.mark.parametrize("ratio", [1.2, 3.0])
def test_two_planes_in_a_cell_are_split(inside: int, ratio: float) -> None:
    near, far = torch.full((1, 32, 64), 2.0), torch.full((1, 32, 64), 2.0 * ratio)
    cut = split_cells(edge(near, far, CELL + inside), (2, 4))
    assert torch.equal(cut.split[0], torch.tensor([False, True, False, False]).expand(2, 4))
    assert torch.equal(cut.front[cut.split], torch.full((2,), 2.0))
    assert torch.allclose(cut.back[cut.split], torch.tensor(2.0 * ratio))
    # A square goes with the near part from a quarter of it on.
    columns = torch.arange(SIDE) * 4 + 1 <= inside
    assert torch.equal(unpacked(cut.mask[cut.split][0]), columns.expand(SIDE, SIDE))


def test_a_small_step_is_one_surface() -> None:
    near, far = torch.full((1, 32, 64), 2.0), torch.full((1, 32, 64), 2.2)
    assert not split_cells(edge(near, far, 24), (2, 4)).split.any()


def test_an_edge_that_bleeds_over_five_pixels_is_split() -> None:
    near, far = torch.full((1, 32, 64), 2.0), torch.full((1, 32, 64), 4.0)
    sharp = 1 / edge(near, far, 24)
    soft = 1 / torch.nn.functional.avg_pool2d(sharp, 5, 1, 2, count_include_pad=False)
    cut = split_cells(soft, (2, 4))
    assert cut.split[0].tolist() == [[False, True, False, False]] * 2
    assert torch.equal(cut.front[cut.split], torch.full((2,), 2.0))
    assert torch.equal(cut.back[cut.split], torch.full((2,), 4.0))


def test_noise_splits_nothing(make) -> None:
    assert not split_cells(2 + make.uniform(3, 64, 64), (4, 4)).split.any()


def test_single_wrong_pixels_split_nothing() -> None:
    depth = torch.full((1, 32, 64), 2.0)
    depth[0, 3, 3], depth[0, 20, 40] = 0.2, 50.0
    assert not split_cells(depth, (2, 4)).split.any()


@pytest.mark.parametrize("invalid", [0.0, -1.0, torch.nan, torch.inf])
def test_what_is_not_known_is_far(invalid: float) -> None:
    """A depth camera sees nothing in the shadow that a thing throws on what is behind it."""
    depth = torch.full((1, 16, 16), 2.0)
    depth[:, :, 4:12], depth[:, :, 12:] = invalid, 4.0
    cut = split_cells(depth, (1, 1))
    assert unpacked(cut.mask[0, 0, 0])[0].tolist() == [True, False, False, False]
    assert float(cut.front) == 2.0 and float(cut.back) == 4.0


def test_depth_without_a_valid_pixel() -> None:
    cut = split_cells(torch.zeros(2, 32, 32), (2, 2))
    assert not cut.split.any() and not cut.front.any() and bool((cut.mask == WHOLE).all())


def test_coarse_depth_is_never_split() -> None:
    """Fewer samples than squares cannot tell which square is which."""
    near, far = torch.full((1, 6, 12), 2.0), torch.full((1, 6, 12), 4.0)
    assert not split_cells(edge(near, far, 4), (2, 4)).split.any()


@given(st.floats(1e-3, 1e3))
def test_the_unit_of_depth_does_not_matter(unit: float) -> None:
    near, far = plane(0.1, 0.1) * 0.6, plane(0.1, 0.1)
    depth = edge(near, far, 23.3, 0.4)
    one, other = split_cells(depth, (2, 4)), split_cells(depth * unit, (2, 4))
    assert torch.equal(one.mask, other.mask)
    assert torch.allclose(one.back * unit, other.back, rtol=1e-5)


def test_the_input_stays() -> None:
    depth = edge(plane(0.1, 0) * 0.5, plane(0.1, 0), 20)
    before = depth.clone()
    split_cells(depth, (2, 4))
    assert torch.equal(depth, before)


def test_only_maps_of_depth() -> None:
    with pytest.raises(ShapeError):
        split_cells(torch.ones(32, 32), (2, 2))


def test_the_complement_of_a_mask_is_the_other_part() -> None:
    one, other = unpacked(EVERY_MASK), unpacked(~EVERY_MASK)
    assert bool((one ^ other).all())
    assert torch.equal(area(EVERY_MASK), one.sum((1, 2)).int())
    assert torch.equal(covers_half(EVERY_MASK), area(EVERY_MASK) >= 8)


def test_a_bit_is_a_square_from_the_left_and_the_top() -> None:
    for row in range(SIDE):
        for column in range(SIDE):
            bit = SIDE * row + column
            mask = torch.tensor([(1 << bit) - (1 << 16 if bit == 15 else 0)]).to(torch.int16)
            middle = (torch.tensor([[column, row]]) + 0.5) * 2 / SIDE - 1
            assert torch.allclose(mask_centre(mask), middle)
            assert bool(unpacked(mask)[0, row, column]) and int(area(mask)) == 1
            assert bool(inside_mask(mask, middle).all())
            assert not inside_mask(~mask, middle).any()


def test_the_middle_of_a_whole_cell_is_exact() -> None:
    assert not mask_centre(torch.tensor([WHOLE], dtype=torch.int16)).any()


def test_beyond_the_cell_the_nearest_square_counts() -> None:
    corner = torch.tensor([1], dtype=torch.int16)
    places = torch.tensor([[-1.15, -1.15], [-1.1, -0.6], [-0.4, -1.1], [1.15, 1.15]])
    assert inside_mask(corner.expand(4), places).tolist() == [True, True, False, False]
