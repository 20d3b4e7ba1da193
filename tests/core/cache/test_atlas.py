"""Atlases: every point's square lies where viewers look for it."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from mirage_core.cache.atlas import ATLAS_SIDE, AtlasGrid, atlas_bytes, atlas_grid
from mirage_core.errors import ShapeError


@pytest.mark.parametrize(
    ("count", "across", "wanted"),
    [
        (3520, 80, AtlasGrid(16, 80, 44)),
        (3521, 80, AtlasGrid(16, 80, 45)),
        (1, 1, AtlasGrid(16, 1, 1)),
        (60_000, 80, AtlasGrid(16, 256, 235)),
        (65_537, 80, AtlasGrid(8, 512, 129)),
        (40_000, 100, AtlasGrid(16, 256, 157)),
    ],
)
def test_grids_fit_in_an_atlas(count: int, across: int, wanted: AtlasGrid) -> None:
    found = atlas_grid(count, across, 16)
    assert found == wanted
    assert max(found.columns, found.rows) * found.side <= ATLAS_SIDE
    assert found.columns * found.rows >= count


def test_what_does_not_fit_has_no_atlas() -> None:
    assert atlas_grid((ATLAS_SIDE // 2) ** 2, 80, 16) == AtlasGrid(2, 2048, 2048)
    assert atlas_grid((ATLAS_SIDE // 2) ** 2 + 1, 80, 16) is None


def test_squares_lie_in_the_order_of_the_points() -> None:
    rng = torch.Generator().manual_seed(3)
    colours = torch.rand(7, 1, 1, 3, generator=rng)
    squares = colours.expand(7, 16, 16, 3)
    data = atlas_bytes([squares[:4], squares[4:, :8, :8]], AtlasGrid(8, 3, 3))
    picture = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) / 255
    assert picture.shape == (24, 24, 3)
    for number in range(7):
        row, column = divmod(number, 3)
        middle = picture[8 * row + 3 : 8 * row + 5, 8 * column + 3 : 8 * column + 5].mean((0, 1))
        np.testing.assert_allclose(middle, colours[number, 0, 0].numpy(), atol=0.06)


def test_patches_are_square_lists() -> None:
    with pytest.raises(ShapeError):
        atlas_bytes([torch.zeros(3, 16, 8, 3)], AtlasGrid(8, 3, 1))
