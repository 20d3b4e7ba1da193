"""Moves through a room that begin as the one before: only what is new is rendered."""

from __future__ import annotations

import pytest
import torch

from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid
from mirage_core.scenes import shots
from mirage_core.scenes.scene import ProceduralScene
from mirage_core.scenes.shots import ShotRenderer

pytestmark = pytest.mark.rooms


@pytest.fixture(scope="module")
def room() -> ProceduralScene:
    return ProceduralScene.from_seed(3, texture_size=64)


def moving_camera(scene: ProceduralScene, frames: int) -> Trajectory:
    """To the right from the room's start."""
    poses = scene.start_camera_to_world.repeat(frames, 1, 1)
    poses[:, :3, 3] += torch.linspace(0, 0.3, frames)[:, None] * poses[:, :3, 0]
    lens = intrinsics_from_fov(96, 64, 75).repeat(frames, 1, 1)
    return Trajectory(invert_rigid(poses), lens, 96, 64)


def rendered(renderer: ShotRenderer, cameras: Trajectory, new: int) -> None:
    """The pixels are those of the room, and so many frames were rendered."""
    counts = []
    frames, depth = renderer.render(cameras, on_frame=lambda _, total: counts.append(total))
    wanted, far = renderer.scene.render(cameras)
    assert torch.equal(frames, wanted) and torch.equal(depth, far)
    assert max(counts, default=0) == new


def test_only_new_frames_are_rendered(room: ProceduralScene) -> None:
    move = moving_camera(room, 9)
    renderer = ShotRenderer(room)
    rendered(renderer, move.select(slice(0, 5)), 5)
    rendered(renderer, move, 4)
    rendered(renderer, move.select(slice(0, 3)), 0)
    rendered(renderer, move.select([0, 1, 8, 2]), 2)
    rendered(renderer, move.resized(48, 32), 9)
    rendered(renderer, move, 9)


def test_a_long_move_is_not_kept(room: ProceduralScene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shots, "KEPT_BYTES", 1000)
    renderer = ShotRenderer(room)
    for _ in range(2):
        rendered(renderer, moving_camera(room, 2), 2)
