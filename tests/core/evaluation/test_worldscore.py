"""Worlds of WorldScore: read as its helpers prepare them, written as its evaluator takes them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mirage_core.cli.main import main
from mirage_core.errors import CacheFormatError
from mirage_core.evaluation.rooms import Rooms
from mirage_core.evaluation.systems import PreviewSystem
from mirage_core.evaluation.worldscore import (
    PreparedFolder,
    RoomInstances,
    WorldScore,
    from_blender,
    to_blender,
)
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.rollout.video import read_frames

COUNT = 6
PLACE = "static/photorealistic/indoor/rooms/000"
STILL = "dynamic/stylized/fluid/001"


def flat(frames: Tensor, cameras: Trajectory | None = None) -> FrameGeometry:
    """An estimator to which everything is two metres away."""
    count, height, width = frames.shape[:3]
    lens = intrinsics_from_fov(width, height, 60).repeat(count, 1, 1)
    poses = None
    if cameras is not None:
        lens, poses = cameras.resized(width, height).intrinsics, cameras.world_to_camera
    return FrameGeometry(torch.full((count, height, width), 2.0), lens, poses)


@pytest.fixture
def prepared(tmp_path) -> Path:
    """A static world whose camera goes right and turns left, and a dynamic one."""
    root = tmp_path / "prepared"
    down, across = np.mgrid[0:64, 0:128]
    cameras = []
    for step in range(COUNT):
        angle = 0.02 * step
        # Blender: the camera looks along -z, y is up, and turns left about y.
        cameras.append(
            [[math.cos(angle), 0, math.sin(angle), 0.1 * step], [0, 1, 0, 0],
             [-math.sin(angle), 0, math.cos(angle), 0], [0, 0, 0, 1]]
        )  # fmt: skip
    static = {"visual_movement": "static", "prompt_list": ["a", "b"], "num_scenes": 2}
    data = {PLACE: static, STILL: {"prompt": "c", "total_frames": 5, "objects": ["x"]}}
    for place, image_data in data.items():
        folder = root / place
        folder.mkdir(parents=True)
        picture = np.stack([down * 3, across, 255 - down - across], axis=-1)
        Image.fromarray(picture.astype(np.uint8)).save(folder / "input_image.png")
        (folder / "image_data.json").write_text(json.dumps(image_data))
    camera_data = {"focal_length": 100, "scale": 1, "cameras": cameras[:1]}
    text = json.dumps({**camera_data, "cameras_interp": cameras})
    (root / PLACE / "camera_data.json").write_text(text)
    return root


def load_flat():
    return flat


def test_a_prepared_world_is_read(prepared) -> None:
    source = PreparedFolder(prepared, 64, 64, load_flat)
    assert source.items() == (STILL, PLACE)
    world = source.load(PLACE)
    assert world.prompt == "a b"
    assert len(world.cameras) == COUNT
    # Right stays right; what was up, and behind, is down and ahead in the project's axes.
    assert torch.allclose(world.cameras.positions[3], torch.tensor([0.3, 0, 0]).double())
    ahead = world.cameras.camera_to_world[3, :3, 2]
    expected = torch.tensor([-math.sin(0.06), 0, -math.cos(0.06)]).double()
    assert torch.allclose(ahead, expected)
    lens = world.cameras.intrinsics[0]
    assert (lens[0, 0], lens[0, 2], lens[1, 2]) == (100, 32, 32)
    picture = np.array(Image.open(prepared / PLACE / "input_image.png"))
    assert torch.equal((world.picture * 255).round().byte(), torch.from_numpy(picture[:, 32:96]))
    still = source.load(STILL)
    assert len(still.cameras) == 5 and still.prompt == "c" and still.camera_data is None
    assert torch.equal(still.cameras.world_to_camera, torch.eye(4).double().repeat(5, 1, 1))


def test_cameras_go_to_blender_and_back() -> None:
    cameras = Rooms(1, 5, 64, 64).views("room-910000").cameras
    back = from_blender(torch.tensor(to_blender(cameras.world_to_camera)))
    assert torch.allclose(back, cameras.world_to_camera)


def test_a_world_is_written_as_the_evaluator_takes_it(prepared, tmp_path) -> None:
    videos = tmp_path / "out" / "worldscore_output"
    task = WorldScore(PreparedFolder(prepared, 64, 64, load_flat), PreviewSystem(), videos)
    found = task.run(PLACE).ways["preview"]
    assert found["frames"] == COUNT
    folder = videos / PLACE
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))
    frames = [f"frames/{number:03}.png" for number in range(COUNT)]
    assert names == sorted(
        ["camera_data.json", "image_data.json", "input_image.png", "videos/output.mp4", *frames]
    )
    for name in ("camera_data.json", "image_data.json"):
        own, theirs = (json.loads((r / PLACE / name).read_text()) for r in (videos, prepared))
        assert own == theirs
    first = np.asarray(Image.open(folder / "frames/000.png")).astype(float)
    given = np.asarray(Image.open(folder / "input_image.png")).astype(float)
    assert np.abs(first - given).mean() < 8
    assert len(list(read_frames(folder / "videos/output.mp4"))) == COUNT
    task.run(STILL)
    assert not (videos / STILL / "camera_data.json").exists()
    assert len(list((videos / STILL / "frames").iterdir())) == 5


def test_numbers_of_a_room(tmp_path) -> None:
    """What the memory shows, counted by a read of the first frame alone."""
    from mirage_core.codecs.dct import DctCodec
    from mirage_core.readout.readout import read
    from mirage_core.rollout.memory import begin_memory

    task = WorldScore(RoomInstances(Rooms(1, 33, 96, 64)), PreviewSystem(), tmp_path)
    item = task.items()[0]
    found, world = task.run(item).ways["preview"], task.instances.load(item)
    codec = DctCodec()
    cache = begin_memory(
        codec.encode_images(world.picture[None]), world.geometry, codec.name,
        world_to_camera=world.cameras.world_to_camera[:1],
    )  # fmt: skip
    shown = read(cache, world.cameras).visible[1:]
    assert found["known"] == pytest.approx(float(shown.float().mean()), abs=1e-6)
    assert found["seconds"] > 0 and found["points"] >= len(cache)


def test_missing_and_broken_worlds_are_named(prepared, tmp_path, capsys) -> None:
    with pytest.raises(CacheFormatError, match="haoyi-duan/WorldScore"):
        PreparedFolder(tmp_path / "nothing", 64, 64, load_flat).items()
    source = PreparedFolder(prepared, 64, 64, load_flat)
    (prepared / PLACE / "camera_data.json").write_text('{"cameras_interp": [[1, 2]]}')
    with pytest.raises(CacheFormatError, match="cameras of shape"):
        source.load(PLACE)
    (prepared / PLACE / "camera_data.json").write_text(
        json.dumps({"cameras_interp": [np.eye(4).tolist()], "focal_length": 10**400})
    )
    with pytest.raises(CacheFormatError, match="OverflowError"):
        source.load(PLACE)
    for count in (0, 10**12):
        (prepared / STILL / "image_data.json").write_text(json.dumps({"total_frames": count}))
        with pytest.raises(CacheFormatError, match=f"total_frames {count}"):
            source.load(STILL)
    (prepared / STILL / "image_data.json").write_text("[]")
    with pytest.raises(CacheFormatError, match=r"image_data\.json"):
        source.load(STILL)
    words = ["evaluate", "worldscore", "--data", str(prepared), "--model", "preview"]
    assert main([*words, "--out", str(tmp_path / "o")]) == 2
    assert "--depth-model" in capsys.readouterr().err
