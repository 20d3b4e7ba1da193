"""Any picture becomes a legal frame: size, crop, and the lens of what is left."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mirage_core.constants import SIZE_MULTIPLE
from mirage_core.errors import ValueRangeError
from mirage_core.geometry.crop import CentredCrop, nearest_frame_size
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import fov_of, intrinsics_from_fov

SIDES = st.integers(40, 6000)


def test_a_picture_of_16_to_9_becomes_the_size_of_the_method() -> None:
    assert nearest_frame_size(1920, 1080, 0.9e6) == (1280, 704)
    assert nearest_frame_size(1080, 1920, 0.9e6) == (704, 1280)
    assert nearest_frame_size(96, 64, 96 * 64) == (96, 64)


@given(SIDES, SIDES, st.floats(0.05, 8))
def test_a_size_is_legal_and_near_the_wish(width: int, height: int, megapixels: float) -> None:
    wide, high = nearest_frame_size(width, height, megapixels * 1e6)
    assert wide % SIZE_MULTIPLE == high % SIZE_MULTIPLE == 0
    scale = math.sqrt(megapixels * 1e6 / (width * height))
    for got, wish in ((wide, width * scale), (high, height * scale)):
        assert abs(got - max(SIZE_MULTIPLE, wish)) <= SIZE_MULTIPLE / 2 + 1e-6


@given(SIDES, SIDES, st.integers(1, 60), st.integers(1, 60))
def test_a_crop_is_the_largest_of_its_shape_in_the_middle(
    width: int, height: int, across: int, down: int
) -> None:
    crop = CentredCrop.to_shape((height, width), (down, across))
    (top, bottom), (left, right) = crop.rows, crop.columns
    assert 0 <= top < bottom <= height and 0 <= left < right <= width
    assert bottom - top == height or right - left == width
    assert abs(top - (height - bottom)) <= 1 and abs(left - (width - right)) <= 1
    wish = across / down
    assert (right - left) / (bottom - top + 0.5) <= wish + 1 or right - left == 1
    whole = min(width, height * wish), min(height, width / wish)
    assert right - left == pytest.approx(whole[0], abs=1)
    assert bottom - top == pytest.approx(whole[1], abs=1)


def test_the_lens_goes_with_the_crop() -> None:
    """A ray through a pixel is the same before and after."""
    lens = intrinsics_from_fov(200, 100, 80)[None]
    depth = 1 + torch.rand(1, 100, 200)
    sky = torch.rand(1, 100, 200) > 0.9
    whole = FrameGeometry(depth, lens, exclude=sky)
    crop = CentredCrop.to_shape((100, 200), (64, 96))
    part = crop.of_geometry(whole)
    assert part.size == (100, 150)
    assert torch.equal(part.depth, depth[:, :, 25:175])
    assert part.exclude is not None and torch.equal(part.exclude, sky[:, :, 25:175])
    pixel = torch.tensor([110.5, 30.5, 1.0], dtype=torch.float64)
    moved = pixel - torch.tensor([25.0, 0.0, 0.0], dtype=torch.float64)
    ray = torch.linalg.solve(whole.intrinsics[0], pixel)
    assert torch.allclose(torch.linalg.solve(part.intrinsics[0], moved), ray)
    assert crop.field_of_view(80, 200) == pytest.approx(fov_of(part.intrinsics[0], 150))


@pytest.mark.parametrize("fov", [0.5, 175, float("nan")])
def test_impossible_lenses_are_refused(fov: float) -> None:
    with pytest.raises(ValueRangeError):
        CentredCrop((0, 10), (0, 10)).field_of_view(fov, 10)
