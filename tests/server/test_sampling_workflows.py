"""The shipped workflows that sample: every node as shipped, on tiny files of the real formats."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import av
import pytest

from dev.comfy_client import ComfyClient, RunResult
from dev.comfy_server import PACK, ComfyServer
from mirage_core.cache.io import load_cache
from tiny_moge import FOV
from workflows.sampling import BRANCH, FILES

from .prompts import Prompt, folders
from .stopped_shots import HEIGHT, WIDTH, shipped, small

pytestmark = pytest.mark.server

WORKFLOWS = [PACK / "workflows" / f"mirage_{name}.json" for name in ("rollout", "training_free")]
FRAMES = 37
GUIDES = {"mirage_rollout": "MirageApply", "mirage_training_free": "MirageTrainingFree"}


def name_of(path: Path) -> str:
    return path.stem.removeprefix("mirage_")


def of_kind(prompt: Prompt, kind: str) -> list[str]:
    return [number for number, part in prompt.items() if part["class_type"] == kind]


@pytest.fixture(scope="module", params=WORKFLOWS, ids=lambda path: path.stem)
def made(
    request: pytest.FixtureRequest, server: ComfyServer, object_info: dict[str, Any]
) -> tuple[Path, Prompt, RunResult]:
    prompt = small(name_of(request.param), object_info, {"frames": FRAMES})
    return request.param, prompt, ComfyClient(server.url).run(prompt, timeout=300)


def test_every_node_ran_and_the_loop_ran_twice(made: tuple[Path, Prompt, RunResult]) -> None:
    path, prompt, result = made
    assert result.status == "success"
    assert set(result.displayed) | set(result.cached) == set(prompt)
    for kind in (GUIDES[path.stem], "KSampler", "MirageChunkDecode", "MirageCacheUpdate"):
        (number,) = of_kind(prompt, kind)
        assert result.displayed.count(number) == 2, kind


def test_video_and_memory(made: tuple[Path, Prompt, RunResult], server: ComfyServer) -> None:
    path, prompt, result = made
    (save,) = of_kind(prompt, "SaveVideo")
    (entry,) = result.files(save)
    with av.open(str(server.output / entry["subfolder"] / entry["filename"])) as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height) == (WIDTH, HEIGHT)
        assert sum(1 for _ in video.decode(stream)) == FRAMES
    (save,) = of_kind(prompt, "MirageCacheSave")
    (file,) = result.outputs[save]["text"]
    assert load_cache(file).codec == "wan2.2"
    (end,) = of_kind(prompt, "MirageRolloutResult")
    assert f"{FRAMES} frames of {WIDTH} x {HEIGHT} in 2 chunks" in result.outputs[end]["text"][0]
    assert len(folders(server.output, path.stem.removeprefix("mirage_"))) == 1


def test_depth_of_new_frames_has_the_shot_s_lens(made: tuple[Path, Prompt, RunResult]) -> None:
    """MoGe guesses the picture's field of view, and is told it for every chunk."""
    _, prompt, result = made
    inside = max(of_kind(prompt, "MirageLook"), key=len)
    told = [
        text
        for number, output in result.outputs.items()
        if inside in number
        for text in output["text"]
    ]
    wide = WIDTH / math.hypot(WIDTH, HEIGHT) * math.sqrt(2)
    fov = math.degrees(2 * math.atan(wide * math.tan(math.radians(FOV) / 2)))
    found = [float(re.search(r"field of view ([\d.]+) degrees", text)[1]) for text in told]
    assert found == pytest.approx([fov, fov], abs=0.1)
    assert [text.split(" of ")[0] for text in told] == ["9 frames", "2 frames"]


def test_queued_again_it_samples_nothing(
    made: tuple[Path, Prompt, RunResult], server: ComfyServer
) -> None:
    _, prompt, _ = made
    again = ComfyClient(server.url).run(prompt, timeout=120)
    (number,) = of_kind(prompt, "KSampler")
    assert again.displayed.count(number) == 0


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
class TestFiles:
    """What the browser offers to download."""

    def test_every_loader_names_its_file(self, path: Path, object_info: dict[str, Any]) -> None:
        loaders = {"UNETLoader", "CLIPLoader", "VAELoader", "MirageSceneModels"}
        found = [node for node in shipped(name_of(path))["nodes"] if node["type"] in loaders]
        assert {node["type"] for node in found} == loaders
        named = {file.name: file for file in FILES}
        for node in found:
            (entry,) = node["properties"]["models"]
            known = named[entry["name"]]
            # What is no widget's value the browser does not offer.
            assert known.name in node["widgets_values"]
            assert (entry["url"], entry["directory"]) == (known.url, known.directory)
            assert known.url.startswith("https://huggingface.co/Comfy-Org/")
            assert known.url.endswith(f"/{known.name}")
            choices = object_info[node["type"]]["input"]["required"]
            assert any(known.name in str(spec[:2]) for spec in choices.values()), (
                f"{node['type']} does not look into models/{known.directory}"
            )

    def test_note_says_what_there_is(self, path: Path) -> None:
        nodes = shipped(name_of(path))["nodes"]
        (note,) = [node for node in nodes if node["type"] == "MarkdownNote"]
        text = note["widgets_values"][0]
        needs = "needs a trained side branch, and none is public"
        assert (needs in text) == (BRANCH in json.dumps(nodes))
        assert ("needs no trained side branch" in text) == (needs not in text)
        assert all(file.url in text for file in FILES)


SWAPPED = {
    "UNETLoader": None, "CLIPLoader": None, "ModelSamplingSD3": 0, "VAELoader": 1,
    "CLIPTextEncode": 2, "MirageLoadBranch": 3,
}  # fmt: skip
"""Loaders of the full workflow, and which output of Mirage Embedded Model takes their place."""


def test_the_full_workflow_runs_with_the_model_that_ships(
    server: ComfyServer, object_info: dict[str, Any]
) -> None:
    """No node but the loaders is changed."""
    prompt = small("rollout", object_info, {"frames": FRAMES})
    gone = {number: part["class_type"] for number, part in prompt.items()
            if part["class_type"] in SWAPPED}  # fmt: skip
    assert set(gone.values()) == set(SWAPPED)
    kept = {number: part for number, part in prompt.items() if number not in gone}
    for part in kept.values():
        for name, value in part["inputs"].items():
            if isinstance(value, list) and value[0] in gone:
                part["inputs"][name] = ["embedded", SWAPPED[gone[value[0]]]]
    kept["embedded"] = {"class_type": "MirageEmbeddedModel", "inputs": {}}
    result = ComfyClient(server.url).run(kept, timeout=300)
    assert result.status == "success"
    (sampler,) = of_kind(kept, "KSampler")
    assert result.displayed.count(sampler) == 2
