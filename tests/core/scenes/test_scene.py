"""Procedural rooms: exact geometry, reproducible pixels, usable cameras."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mirage_core.errors import GeometryError, ShapeError, ValueRangeError
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid, rotation_about
from mirage_core.scenes import scene as scene_module
from mirage_core.scenes.scene import ProceduralScene
from mirage_core.scenes.textures import PAINTERS, level_offsets, paint_pyramid
from mirage_core.scenes.types import Solid

pytestmark = pytest.mark.rooms

Point = list[float]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads, and wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def room() -> ProceduralScene:
    return ProceduralScene.from_seed(3, texture_size=64)


def moving_camera(
    scene: ProceduralScene, frames: int, width: int = 96, height: int = 64
) -> Trajectory:
    """A short truck with a pan, from the scene's own start."""
    start = scene.start_camera_to_world
    steps = torch.linspace(0, 1, frames, dtype=torch.float64)
    poses = start.repeat(frames, 1, 1)
    poses[:, :3, 3] += 0.3 * steps[:, None] * start[:3, 0]
    poses[:, :3, :3] = start[:3, :3] @ rotation_about("y", -0.2 * steps)
    intrinsics = intrinsics_from_fov(width, height, 75).repeat(frames, 1, 1)
    return Trajectory(invert_rigid(poses), intrinsics, width, height)


def slow_hit(solid: Solid, origin: Point, ray: Point) -> float:
    """Smallest ray parameter above 0.001 on the surface of a solid, by trying every part."""
    if solid.shape == "ball":
        return _quadric_hit(solid, origin, ray, (0, 1, 2))
    hits = [math.inf]
    axes = (0, 1, 2) if solid.shape == "box" else (1,)
    for axis in axes:
        for plane in (solid.low[axis], solid.high[axis]):
            t = (plane - origin[axis]) / ray[axis]
            point = [o + t * d for o, d in zip(origin, ray, strict=True)]
            others = [k for k in range(3) if k != axis]
            offset = [abs(point[k] - solid.centre[k]) for k in others]
            if solid.shape == "drum":
                inside = math.hypot(*offset) <= solid.half[0]
            else:
                inside = all(o <= solid.half[k] for o, k in zip(offset, others, strict=True))
            if inside and t > 1e-3:
                hits.append(t)
    if solid.shape == "drum":
        t = _quadric_hit(solid, origin, ray, (0, 2))
        if solid.low[1] <= origin[1] + t * ray[1] <= solid.high[1]:
            hits.append(t)
    return min(hits)


def _quadric_hit(solid: Solid, origin: Point, ray: Point, axes: tuple[int, ...]) -> float:
    offset = [origin[k] - solid.centre[k] for k in axes]
    step = [ray[k] for k in axes]
    a = sum(d * d for d in step)
    b = 2 * sum(o * d for o, d in zip(offset, step, strict=True))
    c = sum(o * o for o in offset) - solid.half[0] ** 2
    if b * b < 4 * a * c:
        return math.inf
    t = (-b - math.sqrt(b * b - 4 * a * c)) / (2 * a)
    return t if t > 1e-3 else math.inf


@pytest.mark.parametrize("seed", [0, 3, 12])
def test_depth_is_exact(seed: int) -> None:
    scene = ProceduralScene.from_seed(seed, texture_size=16)
    trajectory = moving_camera(scene, 2)
    _, depth = scene.render(trajectory)
    generator = torch.Generator().manual_seed(seed)
    pose = trajectory.camera_to_world[1]
    inverse = torch.linalg.inv(trajectory.intrinsics[1])
    wrong = 0
    for index in torch.randperm(64 * 96, generator=generator)[:400].tolist():
        row, column = divmod(index, 96)
        pixel = torch.tensor([column + 0.5, row + 0.5, 1.0], dtype=torch.float64)
        ray = (pose[:3, :3] @ inverse @ pixel).tolist()
        origin = pose[:3, 3].tolist()
        expected = min(slow_hit(solid, origin, ray) for solid in scene.layout.solids)
        wrong += abs(float(depth[1, row, column]) - expected) > 1e-4 * expected
    # A ray through an edge may pass on either side of it.
    assert wrong <= 1


def test_every_shape_is_seen_by_the_exactness_test() -> None:
    shapes = {s.shape for seed in (0, 3, 12) for s in ProceduralScene.from_seed(seed).layout.solids}
    assert shapes == {"box", "ball", "drum"}


def test_looking_along_the_axes(room: ProceduralScene) -> None:
    """Rays parallel to box faces have no finite crossing; the room still bounds them."""
    start = room.start_camera_to_world.clone()
    for down in (0.0, math.pi / 2, -math.pi / 2):
        start[:3, :3] = rotation_about("x", torch.tensor(down, dtype=torch.float64))
        intrinsics = torch.tensor([[20.0, 0, 16.5], [0, 20.0, 16.5], [0, 0, 1]])[None]
        frames, depth = room.render(Trajectory(invert_rigid(start)[None], intrinsics, 33, 33))
        assert bool(torch.isfinite(frames).all())
        assert 0 < float(depth.min()) <= float(depth.max()) < 10


def test_the_first_picture_is_what_the_start_camera_sees(room: ProceduralScene) -> None:
    done: list[tuple[int, int]] = []
    picture, geometry = room.picture(96, 64, on_frame=lambda *at: done.append(at))
    frames, depth = room.render(moving_camera(room, 1))
    assert torch.equal(picture, frames[0])
    assert torch.equal(geometry.depth, depth)
    assert torch.equal(geometry.intrinsics, intrinsics_from_fov(96, 64, 75)[None])
    assert geometry.world_to_camera is None and geometry.metric
    assert done[-1] == (1, 1)
    wide, _ = room.picture(96, 64, fov=100)
    assert not torch.equal(wide, picture)
    with pytest.raises(ValueRangeError, match="field of view"):
        room.picture(96, 64, fov=180)


def test_equal_seeds_give_equal_pixels(room: ProceduralScene) -> None:
    trajectory = moving_camera(room, 2)
    again = ProceduralScene.from_seed(3, texture_size=64)
    assert torch.equal(room.start_camera_to_world, again.start_camera_to_world)
    for first, second in zip(room.render(trajectory), again.render(trajectory), strict=True):
        assert torch.equal(first, second)
    other = ProceduralScene.from_seed(4, texture_size=64)
    assert other.layout != room.layout


@pytest.mark.parametrize("block", [96 * 5, 96 * 64, 96 * 64 * 3])
def test_pixels_do_not_depend_on_the_batch(
    room: ProceduralScene, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trajectory = moving_camera(room, 7)
    frames, depth = room.render(trajectory)
    alone, alone_depth = room.render(trajectory.select([4]))
    assert torch.equal(frames[4:5], alone)
    assert torch.equal(depth[4:5], alone_depth)
    monkeypatch.setattr(scene_module, "CPU_BLOCK", block)
    blocked, blocked_depth = room.render(trajectory)
    assert torch.equal(frames, blocked)
    assert torch.equal(depth, blocked_depth)


@pytest.mark.parametrize("seed", [1, 5])
def test_reprojection_agrees(seed: int) -> None:
    scene = ProceduralScene.from_seed(seed, texture_size=128)
    trajectory = moving_camera(scene, 2, 192, 128)
    frames, depth = scene.render(trajectory, supersample=2)
    rows, columns = torch.meshgrid(
        torch.arange(128.0) + 0.5, torch.arange(192.0) + 0.5, indexing="ij"
    )
    pixels = torch.stack([columns, rows, torch.ones_like(rows)], -1).double()
    points = pixels @ torch.linalg.inv(trajectory.intrinsics[0]).T * depth[0, ..., None].double()
    relative = trajectory.world_to_camera[1] @ trajectory.camera_to_world[0]
    points = points @ relative[:3, :3].T + relative[:3, 3]
    image = points @ trajectory.intrinsics[1].T
    x, y = image[..., 0] / image[..., 2], image[..., 1] / image[..., 2]
    valid = (points[..., 2] > 0) & (x > 0) & (x < 192) & (y > 0) & (y < 128)
    assert float(valid.double().mean()) > 0.6
    i, j = x[valid].long(), y[valid].long()
    near = (depth[1][j, i] / points[..., 2][valid] - 1).abs() < 0.03
    assert float(near.double().mean()) > 0.9
    difference = (frames[1][j, i] - frames[0][valid]).abs().mean(-1)[near]
    assert float(difference.median()) < 0.03
    unrelated = (frames[1] - frames[0]).abs().mean(-1)
    assert float(difference.mean()) < 0.6 * float(unrelated.mean())


def test_supersampling_keeps_depth_and_mean(room: ProceduralScene) -> None:
    trajectory = moving_camera(room, 1)
    plain, depth = room.render(trajectory)
    fine, same_depth = room.render(trajectory, supersample=2)
    assert torch.equal(depth, same_depth)
    assert torch.allclose(plain.mean(), fine.mean(), atol=0.01)
    assert not torch.equal(plain, fine)


def test_camera_motion_is_visible_everywhere(room: ProceduralScene) -> None:
    frames, _ = room.render(moving_camera(room, 1, 320, 192))
    cells = frames[0].view(12, 16, 20, 16, 3).permute(0, 2, 1, 3, 4).reshape(240, -1, 3)
    assert float((cells.std(1).mean(-1) > 0.008).double().mean()) > 0.95
    assert float(frames.min()) >= 0
    assert float(frames.max()) <= 1
    assert 0.3 < float(frames.mean()) < 0.8


def test_starts_are_usable() -> None:
    for seed in range(20):
        scene = ProceduralScene.from_seed(seed, texture_size=16)
        start = scene.start_camera_to_world
        assert bool(scene.free(start[:3, 3], 0.45))
        assert abs(float(start[1, 0])) < 1e-9
        trajectory = moving_camera(scene, 1, 48, 32)
        rays, depth, _ = scene._cast(
            scene_module.Cameras.of(scene.layout, trajectory), range(32), torch.device("cpu")
        )
        assert torch.allclose(rays.origins[0], start[:3, 3])
        assert float(depth.min()) > 0.7
        assert float(depth.max() / depth.min()) > 1.5


def test_free_space(room: ProceduralScene) -> None:
    solids = room.layout.solids
    middles = torch.tensor([solid.centre for solid in solids[1:]])
    assert not bool(room.free(middles).any())
    low, high = torch.tensor(solids[0].low), torch.tensor(solids[0].high)
    assert not bool(room.free(torch.stack([low - 1, high + 1, low + 0.1])).any())
    start = room.start_camera_to_world[:3, 3]
    assert room.free(start.expand(2, 5, 3)).shape == (2, 5)
    assert not bool(room.free(start, 20.0))
    with pytest.raises(ShapeError):
        room.free(torch.zeros(4, 2))


def test_progress_and_cancel(room: ProceduralScene) -> None:
    calls: list[tuple[int, int]] = []
    trajectory = moving_camera(room, 30, 96, 64)
    room.render(trajectory, on_frame=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (30, 30)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)

    class Cancelled(Exception):
        pass

    def cancel(done: int, total: int) -> None:
        calls.append((done, total))
        raise Cancelled

    calls.clear()
    with pytest.raises(Cancelled):
        room.render(trajectory, on_frame=cancel)
    assert len(calls) == 1


def test_preparing_a_room_can_be_cancelled() -> None:
    """Textures and light take as long as a large picture; the room can be painted afterwards."""
    calls: list[tuple[int, int]] = []

    def look(done: int, total: int) -> None:
        calls.append((done, total))
        if len(calls) == 20:
            raise KeyboardInterrupt

    fresh = ProceduralScene.from_seed(5, texture_size=16)
    with pytest.raises(KeyboardInterrupt):
        fresh.picture(96, 64, on_frame=look)
    assert calls == [(0, 1)] * 20
    again = ProceduralScene.from_seed(5, texture_size=16)
    assert torch.equal(fresh.picture(96, 64)[0], again.picture(96, 64)[0])


def test_a_large_picture_is_reported_band_by_band(
    room: ProceduralScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = room.picture(96, 64)
    monkeypatch.setattr(scene_module, "CPU_BLOCK", 96 * 16)
    calls: list[tuple[int, int]] = []
    picture, _ = room.picture(96, 64, on_frame=lambda *at: calls.append(at))
    assert calls == [(0, 1), (0, 1), (0, 1), (1, 1)]
    assert torch.equal(picture, whole)


def test_errors(room: ProceduralScene) -> None:
    outside = torch.eye(4, dtype=torch.float64)[None]
    outside[0, :3, 3] = torch.tensor([50.0, -1.0, 0.0])
    with pytest.raises(GeometryError, match="outside"):
        room.render(Trajectory(outside.inverse(), intrinsics_from_fov(32, 32, 60)[None], 32, 32))
    with pytest.raises(ValueRangeError):
        ProceduralScene.from_seed(0, texture_size=100)
    with pytest.raises(ValueRangeError):
        room.render(moving_camera(room, 1), supersample=0)


@pytest.mark.parametrize("family", sorted(PAINTERS))
def test_textures(family: str) -> None:
    colours = torch.tensor([[0.7, 0.6, 0.5], [0.3, 0.4, 0.4], [0.6, 0.2, 0.1], [0.1, 0.1, 0.1]])

    def paint(seed: int) -> Tensor:
        return paint_pyramid(family, colours, 64, seed, torch.device("cpu"))

    rows = paint(5)
    assert len(rows) == level_offsets(64)[-1]
    assert torch.equal(rows, paint(5))
    base = rows[: 64 * 64, :3]
    assert float(base.min()) > 0
    assert float(base.max()) <= 1
    assert torch.allclose(rows[-1, :3], base.mean(0), atol=1e-4)
    assert float(base.std(0).mean()) > 0.015
