"""Cells to points and back, and what the two pixel conventions mean for accuracy."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mirage_core.errors import ShapeError
from mirage_core.geometry.camera import (
    PixelConvention,
    cell_centres,
    latent_size,
    projection_matrices,
    scale_intrinsics,
)
from mirage_core.geometry.depth import downsample_depth
from mirage_core.geometry.lift import lift
from mirage_core.geometry.transform import invert_rigid
from mirage_core.readout.readout import read_winners

GRID = (11, 20)
FLOOR = 1.5
"""Height of the camera above the ground in the tests of accuracy."""


@pytest.mark.parametrize("seed", range(4))
def test_every_point_returns_to_its_cell(make, convention: PixelConvention, seed: int) -> None:
    depth = 0.5 + 20 * make.uniform(2, *GRID, seed=seed)
    poses, lens = make.poses(2, reach=3, seed=seed), make.lens(*GRID, 2)
    points = lift(depth, lens, poses, convention)
    for frame in range(2):
        cache = make.cloud(points[frame].reshape(-1, 3), convention=convention)
        one = slice(frame, frame + 1)
        index, distance = read_winners(cache, poses[one], lens[one], GRID)
        assert torch.equal(index[0].flatten(), torch.arange(GRID[0] * GRID[1]))
        assert torch.allclose(distance[0], depth[frame], rtol=1e-5, atol=1e-5)


def test_lifting_by_the_formula(make, convention: PixelConvention) -> None:
    """``p = E^-1 (d K^-1 (u, v, 1)^T)`` for one cell at a time, in float64."""
    depth = 1 + make.uniform(2, 3, 4)
    poses, lens = make.poses(2), make.lens(3, 4, 2)
    points = lift(depth, lens, poses, convention)
    for f, i, j in ((0, 0, 0), (0, 2, 1), (1, 1, 3)):
        centre = torch.tensor([j + convention.centre, i + convention.centre, 1]).double()
        seen = float(depth[f, i, j]) * torch.linalg.inv(lens[f]) @ centre
        expected = torch.linalg.inv(poses[f]) @ torch.cat([seen, torch.ones(1).double()])
        assert torch.allclose(points[f, i, j].double(), expected[:3], atol=1e-6)


def test_lifting_refuses_what_does_not_fit(make) -> None:
    depth, poses, lens = torch.ones(2, 3, 4), make.poses(2), make.lens(3, 4, 2)
    for bad in ((depth[0], lens, poses), (depth, lens[:1], poses), (depth, lens, poses[:, :3])):
        with pytest.raises(ShapeError):
            lift(*bad)


@given(
    width=st.integers(1, 60),
    height=st.integers(1, 60),
    stride=st.integers(1, 32),
    focal=st.floats(10, 5000),
    x=st.floats(-3, 3),
    y=st.floats(-3, 3),
)
def test_latent_intrinsics_divide_pixel_positions(width, height, stride, focal, x, y) -> None:
    """Paper Eq. 7: a point's position in cells is its position in pixels over the stride."""
    picture = (height * stride, width * stride)
    lens = torch.tensor(
        [[focal, 0.1, picture[1] / 2], [0, 1.1 * focal, picture[0] / 3], [0, 0, 1]]
    ).double()
    point = torch.tensor([x, y, 2.0]).double()
    pixel = lens @ point / 2
    cell = scale_intrinsics(lens, picture, (height, width)) @ point / 2
    assert torch.allclose(cell[:2] * stride, pixel[:2], rtol=1e-12, atol=1e-9)
    assert cell[2] == 1


def test_latent_intrinsics_with_two_ratios(make) -> None:
    lens = make.lens(30, 50, 2)
    scaled = scale_intrinsics(lens, (30, 50), (10, 25))
    assert torch.allclose(scaled[:, 0], lens[:, 0] / 2)
    assert torch.allclose(scaled[:, 1], lens[:, 1] / 3)
    assert torch.equal(scaled[:, 2], lens[:, 2])


def ground_error(make, convention: PixelConvention) -> torch.Tensor:
    """Signed distance below the ground of points lifted from exact ground depth: (h, w)."""
    rows, cols, stride = 12, 16, 16
    lens = make.lens(rows * stride, cols * stride)
    focal, middle = float(lens[0, 1, 1]), float(lens[0, 1, 2])
    rows_of_pixels = torch.arange(rows * stride) + 0.5
    down = (rows_of_pixels - middle).clamp_min(1e-3)
    depth = (FLOOR * focal / down).where(rows_of_pixels > middle, 0.0)
    depth = depth[:, None].expand(-1, cols * stride)[None].contiguous()
    cells = downsample_depth(depth, (rows, cols), "bilinear", PixelConvention.PAPER)
    scaled = scale_intrinsics(lens, (rows * stride, cols * stride), (rows, cols))
    points = lift(cells, scaled, torch.eye(4).double()[None], convention)
    below = points[0, ..., 1] - FLOOR
    return torch.where(cells[0] > 0, below, torch.nan)[rows // 2 + 1 :]


def test_the_released_convention_lifts_ground_by_half_a_cell(make) -> None:
    """Depth is taken at the cell's centre; a ray through its corner is half a cell too high.

    The height error of the released convention is exactly ``z / (2 f)`` in cells, and that of
    the paper's is only the curvature of depth between two pixel rows.
    """
    rows, cols = 12, 16
    focal = 0.9 * cols
    paper = ground_error(make, PixelConvention.PAPER)
    released = ground_error(make, PixelConvention.RELEASED)
    cells_below = torch.arange(rows // 2 + 1, rows) + 0.5 - rows / 2
    depth = FLOOR * focal / cells_below
    half_cell = -(0.5 / focal) * depth[:, None].expand_as(released)
    assert torch.allclose(released - paper, half_cell, rtol=2e-3)
    assert bool((paper.abs() * 50 < released.abs()).all())


def test_cell_centres(convention: PixelConvention) -> None:
    centres = cell_centres(2, 3, convention, "cpu")
    assert centres.shape == (2, 3, 3)
    assert centres[1, 2].tolist() == [2 + convention.centre, 1 + convention.centre, 1]
    assert torch.equal(
        convention.cells(centres[..., :2]),
        cell_centres(2, 3, PixelConvention.RELEASED, "cpu")[..., :2],
    )


def test_projection_matrices_round_once(make) -> None:
    """The product is formed in float64, so float32 inputs far away do not lose digits."""
    poses, lens = make.poses(5, reach=1e4), make.lens(44, 80, 5)
    exact = (lens @ poses[:, :3]).float()
    assert torch.equal(projection_matrices(poses, lens), exact)
    points = torch.cat([invert_rigid(poses)[:, :3, 3], torch.ones(5, 1).double()], dim=1)
    assert torch.allclose((lens @ poses[:, :3] @ points[..., None])[:, 2], torch.zeros(1).double())


def test_picture_sizes() -> None:
    assert latent_size(1280, 704) == (44, 80)
    for width, height in ((1270, 704), (1280, 700), (0, 32), (-32, 32), (16, 16)):
        with pytest.raises(ShapeError, match="32"):
            latent_size(width, height)
