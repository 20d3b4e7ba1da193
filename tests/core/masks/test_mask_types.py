"""Masks of frames with tracks: arrays of one size."""

from __future__ import annotations

import pytest
import torch

from mirage_core.errors import ShapeError
from mirage_core.masks.tracks import Tracks
from mirage_core.masks.types import FrameMasks


def test_masks_of_frames() -> None:
    ids = torch.zeros(2, 4, 6, dtype=torch.int64)
    ids[0, 0] = 3
    masks = FrameMasks(ids > 0, tracks=Tracks(ids, {3: "dog"}))
    assert len(masks) == 2 and masks.tracks.map.dtype == torch.int32


@pytest.mark.parametrize(
    "part", [{"sky": torch.zeros(2, 4, 5)}, {"tracks": Tracks(torch.zeros(2, 4, 5))}]
)
def test_all_arrays_have_one_size(part: dict) -> None:
    with pytest.raises(ShapeError):
        FrameMasks(torch.zeros(2, 4, 6), **part)
