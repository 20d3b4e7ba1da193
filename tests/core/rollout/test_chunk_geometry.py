"""Depth of a chunk out of that of a whole shot, and the field of view that estimators are told."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mirage_core.cache.types import LatentCache
from mirage_core.codecs.dct import CODEC_NAME
from mirage_core.geometry.camera import PixelConvention
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory, fov_of, intrinsics_from_fov
from mirage_core.rollout.chunk_geometry import chunk_geometry
from mirage_core.rollout.state import RolloutState

SIDE = 64


def state(frames: int) -> RolloutState:
    """The state before the first chunk of a shot of so many frames."""
    path = Trajectory(
        torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1),
        intrinsics_from_fov(SIDE, SIDE, 60).repeat(frames, 1, 1),
        SIDE,
        SIDE,
    )
    memory = LatentCache((), PixelConvention.PAPER, CODEC_NAME)
    return RolloutState(path, memory, torch.zeros(48, 1, 4, 4), 0, "0" * 64, None)


def numbered(frames: int) -> FrameGeometry:
    """Depth maps that are as far as the frame's number, plus one."""
    depth = torch.arange(1.0, frames + 1)[:, None, None].expand(-1, SIDE, SIDE)
    return FrameGeometry(depth, intrinsics_from_fov(SIDE, SIDE, 60).repeat(frames, 1, 1))


@pytest.mark.parametrize("frames", [5, 33, 37, 97])
def test_geometry_of_the_whole_shot_is_cut_to_the_chunk(frames: int) -> None:
    before = state(frames)
    found = chunk_geometry(before, numbered(frames)).frames.depth[:, 0, 0] - 1
    assert found.tolist() == list(before.chunk.pose_frames)


@pytest.mark.parametrize(("count", "step"), [(9, 1), (33, 4)])
def test_geometry_of_the_chunk_stays(count: int, step: int) -> None:
    own = numbered(count)
    assert torch.equal(chunk_geometry(state(97), own).frames.depth, own.depth[::step])


@given(fov=st.floats(1, 170), width=st.integers(32, 4096))
def test_field_of_view_of_its_own_lens(fov: float, width: int) -> None:
    assert fov_of(intrinsics_from_fov(width, SIDE, fov), width) == pytest.approx(fov, abs=1e-6)
