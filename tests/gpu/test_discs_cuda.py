"""Discs, and the choice of references, drawn on a GPU: what the CPU draws.

`tests/conftest.py` skips these where there is no CUDA device.
"""

from __future__ import annotations

import pytest
import torch

from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.readout.discs import render_discs
from mirage_core.readout.shared_points import choose_by_shared_points

pytestmark = pytest.mark.gpu

WIDTH, HEIGHT, POINTS = 320, 192, 50_000


def shot(frames: int) -> Trajectory:
    poses = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    poses[:, 0, 3] = -0.1 * torch.arange(frames)
    lens = intrinsics_from_fov(WIDTH, HEIGHT, 60).repeat(frames, 1, 1)
    return Trajectory(poses, lens, WIDTH, HEIGHT)


def test_discs_and_references_are_those_of_the_cpu() -> None:
    rng = torch.Generator().manual_seed(0)
    spread, middle = torch.tensor([6.0, 4.0, 4.0]), torch.tensor([-3.0, -2.0, 2.0])
    points = torch.rand(POINTS, 3, generator=rng) * spread + middle
    colours, cameras = torch.rand(POINTS, 3, generator=rng), shot(9)
    expected = render_discs(points, colours, cameras)
    cpu = torch.device("cpu")
    found = render_discs(points.cuda(), colours.cuda(), cameras, frames_on=cpu)
    assert found.frames.device == found.coverage.device == cpu
    assert (found.frames - expected.frames).abs().max() < 1e-4
    assert (found.coverage - expected.coverage).abs().max() < 1e-4
    halves = cameras.select([0, 4, 8]), cameras.select([1, 2, 3, 5, 6, 7])
    chosen = choose_by_shared_points(points.cuda(), *halves)
    assert chosen == choose_by_shared_points(points, *halves)
