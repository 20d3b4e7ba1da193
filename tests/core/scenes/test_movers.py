"""Things that move through procedural rooms."""

from __future__ import annotations

import pytest
import torch

from mirage_core.errors import ShapeError
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid
from mirage_core.scenes.movers import MovingScene, add_movers
from mirage_core.scenes.scene import ProceduralScene

pytestmark = pytest.mark.rooms

SIZE, FRAMES = (64, 32), 5


def cameras(room: ProceduralScene, count: int) -> Trajectory:
    """Where the room's first picture is taken, again and again."""
    start = invert_rigid(room.start_camera_to_world.double()).repeat(count, 1, 1)
    return Trajectory(start, intrinsics_from_fov(*SIZE, 70).repeat(count, 1, 1), *SIZE, fps=4)


@pytest.fixture(scope="module")
def scene() -> MovingScene:
    room = ProceduralScene.from_seed(9, texture_size=64)
    return add_movers(room, 9, 2, cameras(room, 1))


def test_a_standing_camera_sees_what_as_many_equal_cameras_see(scene: MovingScene) -> None:
    done: list[tuple[int, int]] = []
    watched = scene.watch(cameras(scene.room, 1), FRAMES, lambda *told: done.append(told))
    rendered = scene.render_each(cameras(scene.room, FRAMES))
    for one, other in zip(watched, rendered, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(watched[2][0], watched[2][-1])
    assert done == [(n + 1, FRAMES) for n in range(FRAMES)]


@pytest.mark.parametrize(("count", "frames"), [(2, 3), (1, 0)])
def test_what_cannot_be_watched_is_refused(scene: MovingScene, count: int, frames: int) -> None:
    with pytest.raises(ShapeError, match="stands still"):
        scene.watch(cameras(scene.room, count), frames)
