"""Masks of frames with tracks: what is refused, and what is read of them."""

from __future__ import annotations

import pytest
import torch

from mirage_core.errors import ShapeError
from mirage_core.masks.types import FrameMasks, Track


def test_tracks_of_a_map() -> None:
    ids = torch.zeros(2, 4, 6, dtype=torch.int64)
    ids[0, 0], ids[1, 1] = 3, 5
    masks = FrameMasks(ids > 0, track_map=ids, tracks=(Track(3, "dog"), Track(5)))
    assert len(masks) == 2 and masks.track_map.dtype == torch.int32
    assert torch.equal(masks.of_track(3), ids == 3) and not masks.of_track(4).any()
    assert not FrameMasks(ids > 0).of_track(3).any()


def test_a_map_shows_tracks_that_are_listed() -> None:
    ids = torch.full((1, 2, 2), 7)
    with pytest.raises(ShapeError, match=r"\[7\]"):
        FrameMasks(ids > 0, track_map=ids, tracks=(Track(3),))


@pytest.mark.parametrize("part", ["sky", "track_map"])
def test_all_arrays_have_one_size(part: str) -> None:
    with pytest.raises(ShapeError):
        FrameMasks(torch.zeros(2, 4, 6), **{part: torch.zeros(2, 4, 5)})
