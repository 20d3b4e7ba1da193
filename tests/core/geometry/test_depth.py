"""Depth on the latent grid: sampling that respects holes, flying pixels, slopes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mirage_core.errors import ShapeError, ValueRangeError
from mirage_core.geometry.camera import PixelConvention
from mirage_core.geometry.depth import (
    DEPTH_MODES,
    STEEPEST,
    downsample_depth,
    downsample_mask,
    flying_pixels,
    surface_slope,
    valid_depth,
)

SIZES = [
    ((44, 80), (11, 20)),
    ((33, 50), (7, 9)),
    ((5, 7), (5, 7)),
    ((6, 6), (9, 4)),
    ((1, 1), (1, 1)),
]
INVALID = (0.0, -1.0, math.nan, math.inf, -math.inf)


def holed(make, shape: tuple[int, int], seed: int = 0) -> Tensor:
    """(2, H, W) depth between 1 and 9 with every kind of invalid pixel, and a blind corner."""
    depth = 1 + 8 * make.uniform(2, *shape, seed=seed)
    which = torch.randint(0, 20, depth.shape, generator=torch.Generator().manual_seed(seed))
    for number, value in enumerate(INVALID):
        depth[which == number] = value
    depth[0, : shape[0] // 2, : shape[1] // 2] = -math.inf
    return depth


def weights_at(position: float, size: int) -> dict[int, float]:
    """Bilinear weights of pixels around a continuous position, edges repeated."""
    position = min(max(position - 0.5, 0), size - 1)
    low = min(int(position), size - 1)
    part = position - low
    result = {low: 1 - part}
    if part > 0:
        result[min(low + 1, size - 1)] = result.get(min(low + 1, size - 1), 0) + part
    return result


def pixel_range(cell: int, cells: int, pixels: int) -> range:
    return range(cell * pixels // cells, -(-(cell + 1) * pixels // cells))


def expected_cell(depth: Tensor, size: tuple[int, int], i: int, j: int, mode: str) -> float:
    """One cell of one frame (H, W), from the definition of the mode."""
    rows, cols = depth.shape
    if mode == "bilinear":
        pull = {
            (y, x): a * b
            for y, a in weights_at((i + 0.5) * rows / size[0], rows).items()
            for x, b in weights_at((j + 0.5) * cols / size[1], cols).items()
        }
    elif mode == "area":
        pull = {
            (y, x): 1.0
            for y in pixel_range(i, size[0], rows)
            for x in pixel_range(j, size[1], cols)
        }
    else:
        pull = {(int((i + 0.5) * rows / size[0]), int((j + 0.5) * cols / size[1])): 1.0}
    valid = {k: w for k, w in pull.items() if w > 0 and bool(valid_depth(depth[k]))}
    total = sum(valid.values())
    return sum(w * float(depth[k]) for k, w in valid.items()) / total if total else 0.0


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "area"])
@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_sampling_by_definition(make, mode: str, shape, size) -> None:
    depth = holed(make, shape)
    cells = downsample_depth(depth, size, mode)
    assert cells.shape == (2, *size)
    for frame in range(2):
        for i in range(size[0]):
            for j in range(size[1]):
                expected = expected_cell(depth[frame], size, i, j, mode)
                assert float(cells[frame, i, j]) == pytest.approx(expected, rel=1e-4), (i, j)


def test_median_by_definition(make) -> None:
    depth = holed(make, (44, 80))
    cells = downsample_depth(depth, (11, 20), "median")
    for frame in range(2):
        for i in range(11):
            for j in range(20):
                inside = depth[frame, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
                values = inside[valid_depth(inside)]
                expected = float(values.median()) if len(values) else 0.0
                assert float(cells[frame, i, j]) == expected


@pytest.mark.parametrize("mode", DEPTH_MODES)
@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_invalid_pixels_never_blend_in(make, mode: str, shape, size) -> None:
    """Whatever stands in invalid pixels, the result is that of the valid ones alone."""
    depth = holed(make, shape)
    valid = valid_depth(depth)
    first = downsample_depth(depth, size, mode)
    assert bool(torch.isfinite(first).all())
    assert bool((first >= 0).all())
    if valid.any():
        known = first[first > 0]
        assert float(known.min()) >= float(depth[valid].min()) - 1e-5
        assert float(known.max()) <= float(depth[valid].max()) + 1e-5
    for value in INVALID:
        assert torch.equal(downsample_depth(depth.where(valid, value), size, mode), first)


@pytest.mark.parametrize("mode", DEPTH_MODES)
@pytest.mark.parametrize("value", INVALID)
def test_a_frame_without_valid_pixels_gives_zeros(mode: str, value: float) -> None:
    assert not downsample_depth(torch.full((1, 20, 30), value), (5, 6), mode).any()


@pytest.mark.parametrize("mode", DEPTH_MODES)
@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_equal_depth_stays_equal(mode: str, shape, size) -> None:
    cells = downsample_depth(torch.full((1, *shape), 2.5), size, mode)
    assert torch.allclose(cells, torch.full((1, *size), 2.5))


def test_the_released_convention_blends_zeros_as_released(make) -> None:
    depth = (1 + make.uniform(2, 44, 80)).where(make.uniform(2, 44, 80, seed=1) > 0.2, 0.0)
    blended = F.interpolate(depth[:, None], size=(11, 20), mode="bilinear", align_corners=False)
    found = downsample_depth(depth, (11, 20), "bilinear", PixelConvention.RELEASED)
    assert torch.equal(found, blended[:, 0])
    assert not torch.allclose(found, downsample_depth(depth, (11, 20)))


def test_unknown_mode_and_shape() -> None:
    with pytest.raises(ValueRangeError, match="bilinear, nearest, area, median"):
        downsample_depth(torch.ones(1, 4, 4), (2, 2), "bicubic")
    with pytest.raises(ShapeError):
        downsample_depth(torch.ones(4, 4), (2, 2))


@pytest.mark.parametrize(("shape", "size"), SIZES[:3])
def test_any_masked_pixel_masks_its_cell(make, shape, size) -> None:
    mask = make.uniform(2, *shape) > 0.97
    found = downsample_mask(mask, size)
    for frame in range(2):
        for i in range(size[0]):
            for j in range(size[1]):
                rows, cols = (
                    pixel_range(c, n, p) for c, n, p in zip((i, j), size, shape, strict=True)
                )
                inside = mask[frame, rows.start : rows.stop, cols.start : cols.stop]
                assert bool(found[frame, i, j]) == bool(inside.any())
    assert torch.equal(downsample_mask(mask.float() * 0.6, size), found)
    assert not downsample_mask(mask.float() * 0.5, size).any()


def test_the_released_convention_masks_by_the_top_left_pixel(make) -> None:
    mask = make.uniform(2, 44, 80) > 0.7
    found = downsample_mask(mask, (11, 20), PixelConvention.RELEASED)
    assert torch.equal(found, mask[:, ::4, ::4])


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("flip", [False, True])
def test_a_blend_between_near_and_far_flies(axis: int, flip: bool) -> None:
    depth = torch.full((1, 12, 12), 2.0)
    depth.narrow(axis, 6, 1).fill_(4.0)
    depth.narrow(axis, 7, 5).fill_(8.0)
    depth = depth.flip(axis) if flip else depth
    assert torch.equal(flying_pixels(depth), depth == 4.0)


def test_a_clean_edge_does_not_fly() -> None:
    depth = torch.full((1, 8, 8), 2.0)
    depth[:, :, 4:] = 9.0
    assert not flying_pixels(depth).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (2, 2), (3, 3)])
def test_small_maps_and_holes(make, shape: tuple[int, int]) -> None:
    depth = (5 * make.uniform(3, *shape)).where(make.uniform(3, *shape, seed=1) > 0.3, 0.0)
    flying = flying_pixels(depth)
    assert not (flying & ~valid_depth(depth)).any()
    assert bool(torch.isfinite(surface_slope(depth)).all())


def plane(a: float, b: float, c: float, rows: int = 16, cols: int = 24) -> Tensor:
    """(1, rows, cols) depth whose inverse is ``a + b x + c y``; 0 above the horizon."""
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(cols) + 0.5, indexing="ij")
    inverse = (a + b * (x - cols / 2) + c * (y - rows / 2)).double()
    return torch.where(inverse > 0, 1 / inverse, 0.0)[None].float()


slant = st.floats(-0.4, 0.4)


@given(a=st.floats(0.0, 2.0), b=slant, c=slant)
def test_slanted_planes_never_fly(a: float, b: float, c: float) -> None:
    assert not flying_pixels(plane(a, b, c)).any()


def test_ground_up_to_the_horizon_never_flies() -> None:
    depth = plane(0.0, 0.0, 0.1)
    assert float(depth[depth > 0].max() / depth[depth > 0].min()) > 10
    assert not flying_pixels(depth).any()


@given(a=st.floats(0.05, 2.0), b=slant, c=slant)
def test_slopes_of_planes_are_exact(a: float, b: float, c: float) -> None:
    depth = plane(a, b, c)
    # Next to the horizon one cell spans all distances, and the slope is limited instead.
    steep = max(abs(b), abs(c)) * depth / STEEPEST
    near = (depth > 0) & (steep < 1)
    assume(bool(near.any()))
    found = surface_slope(depth)
    expected = torch.stack([b * depth, c * depth], dim=-1)
    assert torch.allclose(found[near], expected[near], atol=2e-4, rtol=2e-3)


def test_steps_do_not_tilt_their_neighbours() -> None:
    depth = torch.full((1, 8, 8), 2.0)
    depth[:, :, 4:] = 6.0
    assert not surface_slope(depth).any()


def test_slopes_at_a_ridge_and_beside_holes() -> None:
    inverse = torch.tensor([1.0, 1.1, 1.2, 1.1, 1.0, 0.0, 1.0, 1.2])
    depth = torch.where(inverse > 0, 1 / inverse, 0.0).view(1, 1, 8)
    right, down = surface_slope(depth)[0, 0].unbind(-1)
    expected = [0.1, 0.1 / 1.1, 0, -0.1 / 1.1, -0.1, 0, 0.2, 0.2 / 1.2]
    assert right.tolist() == pytest.approx(expected, abs=1e-6)
    assert not down.any()


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000))
def test_slopes_are_bounded(make, seed: int) -> None:
    depth = holed(make, (9, 9), seed)
    slope = surface_slope(depth)
    assert bool((slope.abs() <= STEEPEST).all())
    assert not slope[~valid_depth(depth)].any()
