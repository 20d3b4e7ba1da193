"""The template for an artist's own picture on a real server: with a depth model, with a depth
picture, and with neither."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from dev.comfy_client import ComfyClient, ComfyRunError, ComfyValidationError
from dev.comfy_server import ComfyServer
from mirage_core.cache.io import load_cache
from mirage_core.geometry.trajectory import fov_of
from tiny_moge import FOV, write_moge
from workflows.files import MOGE
from workflows.flatten import flatten

from .prompts import Prompt, node
from .stopped_shots import only, run, shipped

pytestmark = pytest.mark.server

SIZE = (150, 100)
"""Of the picture: no multiple of 32."""

FRAME = (128, 96)
MEGAPIXELS = 0.01
KEPT = 133 / 150
"""Share of the picture's width that is left in a frame."""


@pytest.fixture
def prompt(object_info: dict[str, Any], server: ComfyServer) -> Iterator[Prompt]:
    """The shipped graph at a small size."""
    made = flatten(shipped("your_picture"), object_info)
    made[only(made, "MirageTrajectory")]["inputs"]["frames"] = 37
    made[only(made, "MiragePictureGeometry")]["inputs"]["megapixels"] = MEGAPIXELS
    picture = np.random.default_rng().integers(0, 255, (*SIZE[::-1], 3), np.uint8)
    Image.fromarray(picture).save(server.base / "input" / "odd.png")
    made[only(made, "LoadImage")]["inputs"]["image"] = "odd.png"
    yield made
    shutil.rmtree(server.output / "mirage", ignore_errors=True)


def memory_of(result: Any, prompt: Prompt) -> Any:
    (file,) = result.outputs[only(prompt, "MirageCacheSave")]["text"]
    return load_cache(file)


def test_a_picture_of_any_size_becomes_a_shot(server: ComfyServer, prompt: Prompt) -> None:
    result = run(server, prompt)
    assert result.status == "success"
    (entry,) = result.files(only(prompt, "SaveVideo"))
    with av.open(str(server.output / entry["subfolder"] / entry["filename"])) as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height) == FRAME
        assert sum(1 for _ in video.decode(stream)) == 37
    lens = memory_of(result, prompt).blocks[0].intrinsics[0]
    wide = FRAME[0] / math.hypot(*FRAME) * math.sqrt(2)
    found = math.degrees(2 * math.atan(wide * math.tan(math.radians(FOV) / 2)))
    assert fov_of(lens, FRAME[0] // 16) == pytest.approx(found, abs=0.1)
    (text,) = result.outputs[only(prompt, "MiragePictureGeometry")]["text"]
    assert text == f"MoGe: {MOGE.name}"


def test_the_depth_is_shown(server: ComfyServer, prompt: Prompt) -> None:
    result = run(server, prompt)
    (entry,) = result.files(only(prompt, "PreviewImage"))
    with Image.open(server.base / "temp" / entry["filename"]) as picture:
        assert picture.size == FRAME
        assert len(picture.convert("RGB").getcolors(100_000)) > 20


def test_queued_again_with_another_move_the_picture_is_not_looked_at_anew(
    server: ComfyServer, prompt: Prompt
) -> None:
    first = run(server, prompt)
    assert only(prompt, "MiragePictureGeometry") in first.displayed
    prompt[only(prompt, "MirageTrajectory")]["inputs"]["preset"] = "truck"
    prompt[only(prompt, "MirageRolloutStart")]["inputs"]["name"] = "another"
    again = run(server, prompt)
    assert again.status == "success"
    assert only(prompt, "MiragePictureGeometry") not in again.displayed


def with_depth(prompt: Prompt, server: ComfyServer, size: tuple[int, int]) -> Prompt:
    """The graph with a depth picture: a ramp, near at the left."""
    ramp = np.tile(np.linspace(255, 40, size[0]).astype(np.uint8), (size[1], 1))
    Image.fromarray(ramp).save(server.base / "input" / "depth.png")
    prompt["depth"] = node("LoadImage", image="depth.png")
    prompt[only(prompt, "MiragePictureGeometry")]["inputs"]["depth"] = ["depth", 0]
    return prompt


def test_a_depth_picture_needs_no_model(server: ComfyServer, prompt: Prompt) -> None:
    """Its lens is the one that is given, of the whole picture; a file that is not there is none."""
    inputs = prompt[only(prompt, "MiragePictureGeometry")]["inputs"]
    inputs |= {"fov": 70.0, "depth_model": "moge_that_nobody_has.safetensors"}
    with_depth(prompt, server, (300, 200))
    result = run(server, prompt)
    assert result.status == "success"
    ran = result.displayed.count(only(prompt, "MiragePictureGeometry"))
    assert ran == 1, "nodes of a depth model ran inside of it"
    memory = memory_of(result, prompt)
    whole = SIZE[0] / 2 / math.tan(math.radians(70) / 2)
    cropped = math.degrees(2 * math.atan(KEPT * SIZE[0] / 2 / whole))
    assert fov_of(memory.blocks[0].intrinsics[0], FRAME[0] // 16) == pytest.approx(cropped, abs=0.5)
    (text,) = result.outputs[only(prompt, "MiragePictureGeometry")]["text"]
    assert "near is white" in text


def test_a_depth_picture_of_another_picture_is_refused(
    server: ComfyServer, prompt: Prompt
) -> None:
    with pytest.raises(ComfyRunError, match="different aspect ratios"):
        run(server, with_depth(prompt, server, (100, 300)))


@pytest.mark.parametrize("chosen", ["auto", MOGE.name])
def test_without_any_model_it_says_what_to_do(
    server: ComfyServer, prompt: Prompt, chosen: str
) -> None:
    prompt[only(prompt, "MiragePictureGeometry")]["inputs"]["depth_model"] = chosen
    path = server.base / "models" / MOGE.directory / MOGE.name
    path.rename(path.with_suffix(".away"))
    try:
        with pytest.raises(ComfyRunError) as caught:
            run(server, prompt)
    finally:
        path.with_suffix(".away").rename(path)
    message = caught.value.exception_message
    assert "models/geometry_estimation" in message and "connect a depth picture" in message
    assert caught.value.node_type == "MiragePictureGeometry"
    assert only(prompt, "MirageCacheInit") not in caught.value.result.displayed


def test_auto_takes_what_is_there(server: ComfyServer, prompt: Prompt, tmp_path: Path) -> None:
    """A file that is no depth model does not get in the way."""
    folder = server.base / "models" / MOGE.directory
    (folder / "a_broken_one.safetensors").write_bytes(b"no tensors")
    write_moge(folder / "b_other.safetensors")
    prompt[only(prompt, "MiragePictureGeometry")]["inputs"]["depth_model"] = "auto"
    try:
        result = run(server, prompt)
    finally:
        for name in ("a_broken_one", "b_other"):
            (folder / f"{name}.safetensors").unlink()
    assert result.status == "success"
    (text,) = result.outputs[only(prompt, "MiragePictureGeometry")]["text"]
    assert text == "MoGe: b_other.safetensors"


def test_an_impossible_lens_is_told_before_the_run(server: ComfyServer, prompt: Prompt) -> None:
    prompt[only(prompt, "MiragePictureGeometry")]["inputs"]["fov"] = 0.5
    with pytest.raises(ComfyValidationError, match="0 or 1 to 170"):
        ComfyClient(server.url).run(prompt, timeout=30)
