"""The blueprint around Wan2.2-Fun-5B-InP, as shipped, on tiny files of the real formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest

from dev.comfy_client import ComfyClient, Progress, RunResult
from dev.comfy_server import PACK, ComfyServer
from workflows.flatten import flatten, model_files
from workflows.inpaint import FILES, INPAINT_LOOP, INPAINT_MODEL, LOOP_FILES

from .prompts import Prompt, contents, folders
from .stopped_shots import HEIGHT, WIDTH

pytestmark = pytest.mark.server

BLUEPRINT = PACK / "subgraphs" / f"{INPAINT_LOOP.name}.json"
AROUND = PACK / "workflows" / "mirage_training_free.json"
FRAMES, CHUNKS = 69, 3
SMALL = {"width": WIDTH, "height": HEIGHT, "frames": FRAMES, "steps": 4, "resolution_level": 0}
OPENED, TOLD, SAMPLER, DECODED, LOOKED, UPDATED, CLOSED = (
    f"1:{number}" for number in (108, 110, 111, 112, 113, 116, 117)
)
BODY = (OPENED, TOLD, SAMPLER, DECODED, UPDATED)


@pytest.fixture(scope="module")
def client(server: ComfyServer) -> ComfyClient:
    return ComfyClient(server.url)


def content(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def shot(object_info: dict[str, Any], name: str) -> Prompt:
    """Picture, move, plan and result of a shipped shot, around the blueprint."""
    around = flatten(content(AROUND), object_info)
    inside = flatten(content(BLUEPRINT), object_info)
    (start,) = [key for key, part in around.items() if part["class_type"] == "MirageRolloutStart"]
    around[start]["inputs"]["name"] = name
    inside[OPENED]["inputs"]["state"] = [start, 0]
    (models,) = [key for key, part in around.items() if part["class_type"] == "MirageSceneModels"]
    inside[LOOKED]["inputs"]["scene_models"] = [models, 0]
    gone = {"UNETLoader", "ModelSamplingSD3", "CLIPLoader", "CLIPTextEncode"}
    kept = {
        key: part
        for key, part in around.items()
        if ":" not in key and part["class_type"] not in gone
    }
    for part in kept.values():
        for field, value in part["inputs"].items():
            if isinstance(value, list) and ":" in str(value[0]):
                part["inputs"][field] = [CLOSED, 0]
    prompt = kept | inside
    for part in prompt.values():
        inputs = part["inputs"]
        inputs |= {key: value for key, value in SMALL.items() if isinstance(inputs.get(key), int)}
    return prompt


@pytest.fixture(scope="module")
def whole(client: ComfyClient, object_info: dict[str, Any]) -> tuple[Prompt, RunResult]:
    prompt = shot(object_info, "whole")
    return prompt, client.run(prompt, timeout=400)


def runs(result: RunResult) -> dict[str, int]:
    return {number: result.displayed.count(number) for number in BODY}


def test_three_chunks_run_and_make_a_video(
    whole: tuple[Prompt, RunResult], server: ComfyServer
) -> None:
    prompt, result = whole
    assert result.status == "success"
    # Its loaders are those of the graph around it, which ComfyUI runs once.
    shared = {key for key in prompt if prompt[key] == prompt["4"]}
    assert len(shared) == 2
    assert (set(result.displayed) | set(result.cached)) - shared == set(prompt) - shared
    assert runs(result) == dict.fromkeys(BODY, CHUNKS)
    (save,) = [key for key, part in prompt.items() if part["class_type"] == "SaveVideo"]
    (entry,) = result.files(save)
    with av.open(str(server.output / entry["subfolder"] / entry["filename"])) as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height) == (WIDTH, HEIGHT)
        assert float(stream.average_rate) == 24.0
        assert sum(1 for _ in video.decode(stream)) == FRAMES


def interrupt_in(client: ComfyClient, chunk: int) -> Callable[[Progress], None]:
    """A progress callback that interrupts once a chunk is being sampled."""
    pending = [client.interrupt]

    def watch(progress: Progress) -> None:
        sampling = progress.display_node == SAMPLER and f"chunk{chunk}_" in progress.node
        if sampling and pending:
            pending.pop()()

    return watch


def test_interrupted_after_a_chunk_it_ends_with_the_same_bits(
    whole: tuple[Prompt, RunResult],
    server: ComfyServer,
    client: ComfyClient,
    object_info: dict[str, Any],
) -> None:
    prompt = shot(object_info, "stopped")
    stopped = client.run(prompt, on_progress=interrupt_in(client, chunk=2), timeout=400)
    assert stopped.status == "interrupted"
    (folder,) = folders(server.output, "stopped")
    kept = contents(folder)
    saved = [name for name in kept if name.endswith(".safetensors")]
    assert saved == ["chunk_0000.safetensors"]
    resumed = client.run(prompt, timeout=400)
    assert resumed.status == "success"
    assert runs(resumed) == dict.fromkeys(BODY, CHUNKS - 1)
    (other,) = folders(server.output, "whole")
    found, expected = contents(folder), contents(other)
    assert found.keys() == expected.keys() and "video.mp4" in found
    assert [name for name in found if found[name] != expected[name]] == []
    assert all(found[name] == kept[name] for name in kept if name.startswith("chunk_"))


def test_the_model_sees_the_memory(
    server: ComfyServer, client: ComfyClient, object_info: dict[str, Any],
    whole: tuple[Prompt, RunResult],
) -> None:  # fmt: skip
    """With no readout the same seed makes another video."""
    prompt = shot(object_info, "blind")
    told = prompt[TOLD]["inputs"]
    for side in ("positive", "negative"):
        prompt[SAMPLER]["inputs"][side] = told[side]
    assert client.run(prompt, timeout=400).status == "success"
    blind, seen = (
        contents(folders(server.output, name)[0])["video.mp4"] for name in ("blind", "whole")
    )
    assert blind != seen


class TestFile:
    """What the blueprint says and names."""

    def test_every_loader_names_its_file(self, object_info: dict[str, Any]) -> None:
        (inside,) = content(BLUEPRINT)["definitions"]["subgraphs"]
        loaders = {
            part["type"]: part for part in inside["nodes"] if "models" in part["properties"]
        }
        assert set(loaders) == {"UNETLoader", "VAELoader", "CLIPLoader"}
        for kind, part in loaders.items():
            (entry,) = part["properties"]["models"]
            assert part["widgets_values"][0] == entry["name"]
            choices = object_info[kind]["input"]["required"]
            assert any(entry["name"] in str(spec[:2]) for spec in choices.values()), kind
        found = {file["name"]: (file["url"], file["directory"])
                 for file in model_files(content(BLUEPRINT))}  # fmt: skip
        assert found == {file.name: (file.url, file.directory) for file in LOOP_FILES}
        for name, (url, _) in found.items():
            assert url.startswith("https://huggingface.co/Comfy-Org/")
            assert url.endswith(f"/{name}")

    def test_settings_of_comfyui_s_template(self, object_info: dict[str, Any]) -> None:
        prompt = flatten(content(BLUEPRINT), object_info)
        settings = prompt[SAMPLER]["inputs"]
        wanted = {"sampler_name": "uni_pc", "scheduler": "simple"}
        assert {name: settings[name] for name in wanted} == wanted
        (few,) = {settings[name][0] for name in ("model", "steps", "cfg")}
        switch = prompt[few]["inputs"]
        off = {"steps": 20, "cfg": 6.0, "few_steps": "off", "needs": "Fun InP"}
        assert {name: switch[name] for name in off} == off
        model = prompt[switch["model"][0]]
        assert (model["class_type"], model["inputs"]["shift"]) == ("ModelSamplingSD3", 8.0)
        loader = prompt[model["inputs"]["model"][0]]
        assert loader["inputs"]["unet_name"] == INPAINT_MODEL.name

    def test_the_note_claims_nothing_that_was_not_seen(self) -> None:
        (inside,) = content(BLUEPRINT)["definitions"]["subgraphs"]
        (note,) = [part for part in inside["nodes"] if part["type"] == "MarkdownNote"]
        text = note["widgets_values"][0]
        assert "inside of a frame is not known" in text
        assert "untested with this conditioning" in text
        assert all(file.url in text for file in FILES)
