"""Shots of other programs: asked for in files, read where they were put, and measured."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mirage_core.cli.main import main
from mirage_core.errors import CacheFormatError, ModelMismatchError, ResumeError
from mirage_core.evaluation.elsewhere import Elsewhere, ask, folder_name
from mirage_core.evaluation.report import read_report
from mirage_core.evaluation.rooms import Rooms
from mirage_core.evaluation.shots import along, there_and_back
from mirage_core.evaluation.systems import PreviewSystem, Request
from mirage_core.evaluation.variations import Variation
from mirage_core.geometry.geometry_io import load_geometry
from mirage_core.geometry.transform import invert_rigid
from mirage_core.rollout.video import write_clip
from mirage_core.trajectories.files import load_trajectory

ROOMS = Rooms(1, 33, 96, 64)
SIZE = ("--tiny", "--rooms", "1", "--size", "96x64", "--frames", "33")


@pytest.fixture(scope="module")
def request_of_a_room() -> Request:
    return along(next(ROOMS.load(ROOMS.items()[0])), range(33))


@pytest.mark.rooms
def test_what_is_asked_for_is_the_shot(request_of_a_room, tmp_path) -> None:
    wanted = request_of_a_room
    ask(tmp_path, wanted)
    told = json.loads((tmp_path / "request.json").read_text())
    assert told["frames"] == 33 and told["size"] == [96, 64] and told["put here"] == "video.mp4"
    cameras = load_trajectory(tmp_path / "trajectory.json")
    start = invert_rigid(wanted.cameras.world_to_camera[:1])
    assert torch.allclose(cameras.world_to_camera, wanted.cameras.world_to_camera @ start)
    assert torch.equal(cameras.intrinsics, wanted.cameras.intrinsics)
    with Image.open(tmp_path / "picture.png") as picture:
        pixels = torch.from_numpy(np.array(picture))
    assert torch.equal(pixels, (wanted.picture * 255).round().byte())
    first = load_geometry(tmp_path / "first_depth.safetensors")
    assert torch.allclose(first.depth, wanted.geometry.depth)
    whole = load_geometry(tmp_path / "depth.safetensors")
    assert len(whole) == 33
    assert torch.allclose(whole.depth, wanted.depth.geometry.depth)
    assert torch.allclose(whole.world_to_camera, cameras.world_to_camera)
    assert (tmp_path / "prompt.txt").read_text() == "a furnished room"


@pytest.mark.rooms
def test_a_shot_that_was_made_is_read(request_of_a_room, tmp_path) -> None:
    wanted, system = request_of_a_room, Elsewhere(tmp_path, "ours")
    with pytest.raises(ModelMismatchError, match=r"not been made yet.*--retry"):
        system.shoot(wanted)
    (folder,) = tmp_path.iterdir()
    frames = next(ROOMS.load(ROOMS.items()[0])).frames[:33]
    write_clip(folder / "video.mp4", frames, 24)
    made = system.shoot(wanted)
    assert made.frames.shape == frames.shape
    assert (made.frames - frames).abs().mean() < 0.02
    assert made.remembered() == {"known": None, "points": None}
    for count, size in ((29, (64, 96)), (33, (64, 64))):
        write_clip(folder / "video.mp4", torch.rand(count, *size, 3), 24)
        with pytest.raises(CacheFormatError, match=r"another shot.*33 frames of 96 x 64"):
            system.shoot(wanted)
    (folder / "video.mp4").write_bytes(b"no video")
    with pytest.raises(CacheFormatError):
        system.shoot(wanted)
    shutil.copy(folder / "video.mp4", folder / "video.webm")
    with pytest.raises(CacheFormatError, match="several videos"):
        system.shoot(wanted)


@pytest.mark.rooms
def test_a_folder_of_another_shot_is_refused(request_of_a_room, tmp_path) -> None:
    system = Elsewhere(tmp_path, "ours")
    system.announce((request_of_a_room,))
    (folder,) = tmp_path.iterdir()
    before = (folder / "picture.png").read_bytes()
    other = dataclasses.replace(request_of_a_room, picture=1 - request_of_a_room.picture)
    with pytest.raises(ResumeError, match="asks for another shot"):
        system.announce((other,))
    assert (folder / "picture.png").read_bytes() == before
    (folder / "request.json").write_text("[")
    with pytest.raises(CacheFormatError, match=r"request\.json"):
        system.announce((other,))
    with pytest.raises(ModelMismatchError, match="made again as colours"):
        system.shoot(other, Variation("colours", memory="colours"))


@pytest.mark.parametrize("name", ["clip", "day 1/clip:0", "../up", "ü", "CON."])
def test_folders_have_names_that_any_system_takes(name: str) -> None:
    found = folder_name(name)
    assert found and found == Path(found).name and found.isascii() and not found.endswith(".")
    assert found != folder_name(name + "_") and found != folder_name(f"{name} ")


@pytest.mark.rooms
def test_the_command_asks_waits_and_measures(tmp_path, capsys) -> None:
    """Videos that are those of the preview, but for what their coding loses, get its numbers."""
    videos, out = tmp_path / "my graph", tmp_path / "run"
    words = ["evaluate", "re10k", *SIZE, "--model", "videos", "--videos", str(videos)]
    main([*words, "--out", str(out)])
    assert "not been made yet" in (out / "results.md").read_text()
    asked = sorted(path.name for path in videos.iterdir())
    assert asked == ["room-910000", "room-910000_there_and_back"]
    shot = next(ROOMS.load(ROOMS.items()[0]))
    for folder, path in zip(asked, (list(range(33)), there_and_back(33)), strict=True):
        made = PreviewSystem().shoot(along(shot, path))
        write_clip(videos / folder / "video.mp4", made.frames, 24)
    assert main([*words, "--out", str(out), "--retry"]) == 0
    found = read_report(out).items["room-910000"]["my graph"]
    words = ["evaluate", "re10k", *SIZE, "--model", "preview", "--out", str(tmp_path / "p")]
    assert main(words) == 0
    expected = read_report(tmp_path / "p").items["room-910000"]["preview"]
    assert found["psnr"] == pytest.approx(expected["psnr"], abs=0.5)
    assert found["psnr_c"] == pytest.approx(expected["psnr_c"], abs=1.5)
    assert found["points"] is None and expected["points"] > 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("re10k", "--model", "videos"), "needs a folder"),
        (("re10k", "--videos", "x"), "another program"),
        (("ablation", "--model", "videos", "--videos", "x"), "makes its shots itself"),
        (("re10k", "--model", "videos", "--videos", "x", "--steps", "3"), "settings of its own"),
    ],
    ids=["no folder", "no model", "another table", "steps"],
)
def test_options_that_do_not_go_together_are_refused(tmp_path, capsys, words, told) -> None:
    task, *rest = words
    assert main(["evaluate", task, "--tiny", *rest, "--out", str(tmp_path / "run")]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
