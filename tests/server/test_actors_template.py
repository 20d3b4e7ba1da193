"""The template for actors on a real server: the box is where its path says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dev.comfy_client import ComfyClient
from dev.comfy_server import ComfyServer
from mirage_core.geometry.trajectory import intrinsics_from_fov
from mirage_core.rollout.video import read_frames
from workflows.actors import PATH
from workflows.flatten import flatten

from .prompts import folders
from .stopped_shots import only, run, shipped

pytestmark = [pytest.mark.server, pytest.mark.rooms]

WIDTH, HEIGHT = 192, 128
FOV = 70.0


def column_of_red(frame: Any) -> float:
    """Column of the middle of what is red."""
    picture = np.asarray(frame, dtype=np.float32)
    red = picture[..., 0] - picture[..., 1:].max(axis=-1)
    return float(np.nonzero(red > 60)[1].mean())


def on_path(frame: int) -> float:
    """Column at which a camera that stands at the beginning sees the path's place."""
    keys = [key["frame"] for key in PATH]
    x, z = (np.interp(frame, keys, [key["place"][axis] for key in PATH]) for axis in (0, 1))
    lens = intrinsics_from_fov(WIDTH, HEIGHT, FOV)
    return float(lens[0, 0] * x / z + lens[0, 2])


def test_the_box_goes_where_its_path_says(comfy_server: ComfyServer) -> None:
    prompt = flatten(shipped("actors"), ComfyClient(comfy_server.url).object_info())
    prompt[only(prompt, "MirageEmbeddedMovers")]["inputs"] |= {"width": WIDTH, "height": HEIGHT}
    prompt[only(prompt, "MirageTrajectory")]["inputs"]["amount"] = 0.0
    prompt[only(prompt, "MirageRolloutStart")]["inputs"]["name"] = "actors_template"
    assert json.loads(prompt[only(prompt, "MiragePlaceActor")]["inputs"]["path"]) == list(PATH)
    assert run(comfy_server, prompt).status == "success"
    folder: Path
    (folder,) = folders(comfy_server.output, "actors_template")
    frames = list(read_frames(folder / "video.mp4"))
    assert len(frames) == 97
    for number in (4, 40, 64, 72, 92):
        assert column_of_red(frames[number]) == pytest.approx(on_path(number), abs=4)
