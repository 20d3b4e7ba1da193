"""Tracks as actors take them: of a single mask, and of the frames at hand."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ShapeError
from ..masks.tracks import Tracks
from ..validate import expect_shape


def one_track(name: str, mask: Tensor, *, lasting: bool = False) -> Tracks:
    """Tracks of a single thing from its mask (F, H, W), masked above one half."""
    expect_shape("The mask of a thing", mask, "F H W")
    nothing = torch.zeros(mask.shape, dtype=torch.int32, device=mask.device)
    return Tracks(nothing).with_thing(name, mask, lasting=lasting)


def expect_frames(tracks: Tracks, frames: int, every: int) -> Tracks:
    """Tracks of ``frames`` frames: those given, or every so many of 1 + every * (frames - 1).

    Raises:
        ShapeError: The tracks have neither number of frames.
    """
    given, all_frames = len(tracks.map), every * (frames - 1) + 1
    if given == frames:
        return tracks
    if given == all_frames:
        return tracks.select(list(range(0, given, every)))
    raise ShapeError(
        "The tracks do not belong to this chunk",
        got=f"{given} frames",
        expected=f"{frames} (every fourth) or {all_frames} (all)",
        fix="Track things on exactly the chunk's decoded frames",
    )
