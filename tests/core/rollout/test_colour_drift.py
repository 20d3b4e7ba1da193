"""Every chunk of a shot of colours tells how far its colours have gone from what is remembered."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mirage_core.codecs.colours import ColourCodec
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.preview.colour_match import ColourShift
from mirage_core.rollout.memory import begin_memory, write_chunk
from mirage_core.rollout.plan import ChunkLengths
from mirage_core.rollout.settings import MemorySettings
from mirage_core.rollout.state import RolloutState

WIDTH, HEIGHT, FRAMES, DEPTH = 64, 32, 9, 2.0


def picture() -> Tensor:
    """(H, W, 3), smooth, so that colours are the same at half the size."""
    x = torch.linspace(0.3, 0.6, WIDTH).expand(HEIGHT, WIDTH)
    return torch.stack([x, x.flip(1), 0.8 - x], dim=-1)


def cameras(turn_away: bool = False) -> Trajectory:
    poses = torch.eye(4, dtype=torch.float64).repeat(FRAMES, 1, 1)
    if turn_away:
        poses[1:, 0, 0] = poses[1:, 2, 2] = -1
    lens = intrinsics_from_fov(WIDTH, HEIGHT, 60).expand(FRAMES, 3, 3)
    return Trajectory(poses, lens, WIDTH, HEIGHT, fps=16)


def drift(moved: Tensor, *, path: Trajectory | None = None) -> tuple[ColourShift | None, str]:
    """What a chunk reports whose frames are the remembered picture, moved by (3,)."""
    path = path or cameras()
    codec = ColourCodec(2)
    first = FrameGeometry(torch.full((1, HEIGHT, WIDTH), DEPTH), path.intrinsics[:1])
    cache = begin_memory(codec.encode_images(picture()[None]), first, codec.name)
    state = RolloutState(
        path, cache, torch.zeros(16, 1, HEIGHT // 8, WIDTH // 8), 0, "drift",
        lengths=ChunkLengths(9, 9, 1),
    )  # fmt: skip
    frames = (picture() + moved).expand(FRAMES, HEIGHT, WIDTH, 3)
    depth = torch.full((3, HEIGHT, WIDTH), DEPTH)
    report = write_chunk(
        state, torch.zeros(16, 3, HEIGHT // 8, WIDTH // 8), frames,
        FrameGeometry(depth, state.latent_cameras.intrinsics), MemorySettings(),
        encode=lambda _: pytest.fail("colours need no codec"),
    ).report  # fmt: skip
    return report.drift, report.describe()


def test_colours_that_moved_are_told() -> None:
    found, text = drift(torch.tensor([0.06, 0.0, -0.04]))
    assert found is not None and found.known == pytest.approx(1, abs=0.05)
    assert found.offset == pytest.approx((-0.06, 0, 0.04), abs=0.006)
    assert "differ from what is remembered at mid grey by +6.0, +0.0, -4.0 hundredths" in text


def test_colours_that_stayed_are_told_too() -> None:
    found, text = drift(torch.zeros(3))
    assert found is not None and found.gain == pytest.approx((1, 1, 1), abs=0.01)
    assert "by +0.0, +0.0, +0.0 hundredths" in text


def test_where_nothing_is_known_nothing_is_claimed() -> None:
    found, text = drift(torch.tensor([0.2, 0.2, 0.2]), path=cameras(turn_away=True))
    assert found == ColourShift()
    assert "too little is known to compare with" in text
