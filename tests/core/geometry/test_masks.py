"""Masks on the latent grid: no masked pixel is ever remembered."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mirage_core.errors import GeometryError, ShapeError, ValueRangeError
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.masks import (
    MaskGrowth,
    exclusion,
    mask_to_grid,
    note_if_all,
    with_mask,
)
from mirage_core.geometry.trajectory import intrinsics_from_fov

GRID = (4, 6)
PICTURE = (64, 96)
SIZES = [PICTURE]


@given(seed=st.integers(0, 1000), count=st.sampled_from([1, 3, 9]), share=st.floats(0, 0.02))
def test_a_cell_is_masked_exactly_when_one_of_its_pixels_is(make, seed, count, share) -> None:
    mask = make.uniform(count, *PICTURE, seed=seed) < share
    cells = mask_to_grid(mask, GRID, 3, SIZES)
    pooled = mask.reshape(count, 4, 16, 6, 16).any(4).any(2)
    if count == 9:
        wanted = torch.stack([pooled[0], pooled[1:5].any(0), pooled[5:9].any(0)])
    else:
        wanted = pooled.expand(3, -1, -1)
    assert torch.equal(cells, wanted)


@given(seed=st.integers(0, 1000), pixels=st.integers(0, 20), cells=st.integers(0, 3))
def test_growth_reaches_exactly_as_far_as_it_says(make, seed, pixels, cells) -> None:
    """Against the distance of every pixel to the marked one, in the larger of both axes."""
    rng = torch.Generator().manual_seed(seed)
    row, column = (int(torch.randint(0, size, (), generator=rng)) for size in PICTURE)
    mask = torch.zeros(1, *PICTURE)
    mask[0, row, column] = 1
    far_r, far_c = (torch.arange(n) for n in PICTURE)
    near = torch.maximum((far_r - row).abs()[:, None], (far_c - column).abs()) <= pixels
    marked = near.reshape(4, 16, 6, 16).any(3).any(1)
    own = marked.nonzero()
    apart = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij"), -1)
    distance = (apart[:, :, None] - own).abs().amax(-1).amin(-1)
    grown = mask_to_grid(mask, GRID, 1, SIZES, MaskGrowth(pixels, cells))
    assert torch.equal(grown[0], distance <= cells)


def test_the_union_keeps_out_what_any_mask_marks() -> None:
    person, sky = torch.zeros(2, *PICTURE), torch.zeros(1, *PICTURE)
    person[1, 40, 50] = 1
    sky[0, :16] = 1
    both = exclusion({"person": person, "sky": sky, "none": None}, GRID, 2, SIZES)
    assert both[:, 0].all()
    assert both[1, 2, 3] and not both[0, 2, 3]
    assert int(both.sum()) == 13


def test_numbers_count_above_one_half() -> None:
    mask = torch.full((1, *PICTURE), 0.5)
    assert not mask_to_grid(mask, GRID, 1, SIZES).any()
    assert mask_to_grid(mask + 0.01, GRID, 1, SIZES).all()


def test_masks_may_have_the_size_of_the_depth() -> None:
    mask = torch.zeros(1, 10, 15, dtype=torch.bool)
    mask[0, 9, 14] = True
    cells = mask_to_grid(mask, GRID, 2, [PICTURE, (10, 15)])
    assert cells[:, 3, 5].all() and int(cells.sum()) == 2


@pytest.mark.parametrize("count", [2, 4, 8, 10])
def test_other_frame_counts_are_refused(count) -> None:
    with pytest.raises(ShapeError, match=f"{count} masks.*3 .*9 "):
        mask_to_grid(torch.zeros(count, *PICTURE), GRID, 3, SIZES)


def test_another_size_is_refused() -> None:
    with pytest.raises(ShapeError, match="The sky mask.*90 x 64.*96 x 64"):
        mask_to_grid(torch.zeros(1, 64, 90), GRID, 1, SIZES, name="The sky mask")


def test_a_mask_of_the_same_crop_is_scaled() -> None:
    mask = torch.zeros(1, 4 * PICTURE[0], 4 * PICTURE[1])
    mask[0, 130, 70] = 1
    cells = mask_to_grid(mask, GRID, 1, SIZES)
    assert cells[0].nonzero().tolist() == [[130 // 64, 70 // 64]]
    # Growth counts in pixels of the picture.
    grown = mask_to_grid(mask, GRID, 1, SIZES, MaskGrowth(pixels=2))
    assert grown[0].nonzero().tolist() == [[1, 0], [1, 1], [2, 0], [2, 1]]
    low = torch.zeros(1, 16, 24)
    low[0, 9, 7] = 1
    assert mask_to_grid(low, GRID, 1, SIZES)[0].nonzero().tolist() == [[2, 1]]
    assert not mask_to_grid(torch.zeros(1, 64, 64), GRID, 1, SIZES).any()
    with pytest.raises(ShapeError, match="64 x 64"):
        mask_to_grid(torch.ones(1, 64, 64), GRID, 1, SIZES)


def test_masks_that_are_not_numbers_are_refused() -> None:
    mask = torch.zeros(1, *PICTURE)
    mask[0, 0, 0] = torch.nan
    with pytest.raises(GeometryError, match="not finite"):
        mask_to_grid(mask, GRID, 1, SIZES)


def test_all_sky_is_told() -> None:
    (note,) = note_if_all("The sky mask", torch.ones(3, *GRID, dtype=torch.bool))
    assert note.startswith("The sky mask covers all") and "inverted" in note
    cells = torch.ones(3, *GRID, dtype=torch.bool)
    cells[2, 3, 5] = False
    assert note_if_all("The sky mask", cells) == ()


@pytest.mark.parametrize("growth", [{"pixels": -1}, {"cells": -1}, {"cells": 1000}])
def test_impossible_growth(growth) -> None:
    with pytest.raises(ValueRangeError):
        MaskGrowth(**growth)


class TestGeometry:
    """Masks of pictures on depth of another resolution."""

    @staticmethod
    def geometry(count: int = 2, **parts) -> FrameGeometry:
        lens = intrinsics_from_fov(24, 16, 60).expand(count, 3, 3)
        return FrameGeometry(torch.full((count, 16, 24), 2.0), lens, **parts)

    def test_one_masked_pixel_of_the_picture_masks_its_depth(self) -> None:
        mask = torch.zeros(2, *PICTURE)
        mask[1, 41, 50] = 1
        hidden = with_mask(self.geometry(), mask, PICTURE).exclude
        assert hidden.nonzero().tolist() == [[1, 41 // 4, 50 // 4]]

    def test_one_mask_counts_for_all_and_what_was_left_out_stays_out(self) -> None:
        own = torch.zeros(2, 16, 24, dtype=torch.bool)
        own[0, 0, 0] = True
        mask = torch.zeros(1, 16, 24)
        mask[0, 15, 23] = 1
        hidden = with_mask(self.geometry(exclude=own), mask, PICTURE).exclude
        assert hidden.nonzero().tolist() == [[0, 0, 0], [0, 15, 23], [1, 15, 23]]
        assert with_mask(self.geometry(), None).exclude is None

    def test_without_pictures_the_aspect_ratio_decides(self) -> None:
        assert with_mask(self.geometry(), torch.zeros(1, 32, 48)).exclude is not None
        with pytest.raises(ShapeError, match="different sizes.*64 x 64.*24 x 16.*same crop"):
            with_mask(self.geometry(), torch.ones(1, 64, 64))

    def test_a_mask_of_the_unscaled_picture_is_scaled(self) -> None:
        mask = torch.zeros(1, 192, 288)
        mask[0, 120, 150] = 1
        hidden = with_mask(self.geometry(), mask, PICTURE).exclude
        assert hidden[0].nonzero().tolist() == [[10, 12]]
        small = torch.zeros(1, 8, 12)
        small[0, 5, 6] = 1
        hidden = with_mask(self.geometry(), small, PICTURE).exclude
        assert hidden[0].nonzero().tolist() == [[10, 12], [10, 13], [11, 12], [11, 13]]

    def test_the_empty_mask_of_load_image_masks_nothing(self) -> None:
        hidden = with_mask(self.geometry(), torch.zeros(1, 64, 64), PICTURE).exclude
        assert not hidden.any()

    def test_what_does_not_belong_is_refused(self) -> None:
        with pytest.raises(ShapeError, match="96 x 64 or 24 x 16"):
            with_mask(self.geometry(), torch.zeros(1, 32, 47), PICTURE)
        with pytest.raises(ShapeError, match="3 masks, 2 depth maps"):
            with_mask(self.geometry(), torch.zeros(3, *PICTURE), PICTURE)
        with pytest.raises(GeometryError, match="not finite"):
            with_mask(self.geometry(), torch.full((1, *PICTURE), torch.nan), PICTURE)
