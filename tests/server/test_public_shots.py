"""The shots with Spatia's branch and with Fun InP on a real server: as shipped, on tiny files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import av
import pytest

from dev.comfy_server import ComfyServer
from mirage_core.cache.io import load_cache
from mirage_core.tensor_files import read_tensors
from workflows import inpaint, spatia
from workflows.files import LICENCE_NOTE, LICENCES, SPATIA_BRANCH, SPATIA_LORA
from workflows.flatten import flatten, model_files
from workflows.writer import ModelFile

from .prompts import Prompt
from .stopped_shots import (
    HEIGHT,
    WIDTH,
    Made,
    expect_same_after_stop,
    make,
    only,
    only_folder,
    run,
    shipped,
    small,
)

pytestmark = pytest.mark.server

FRAMES, CHUNKS = 37, 3


@dataclass(frozen=True)
class Shot:
    """What is special of a shipped shot."""

    name: str
    lengths: dict[str, int]
    body: tuple[str, ...]
    codec: str
    files: tuple[ModelFile, ...]
    latents: tuple[int, int]


SHOTS = (
    Shot(
        "spatia",
        {"first_chunk_frames": 21, "chunk_frames": 17, "overlap_frames": 9},
        ("MirageLaterLora", "MirageApply", "KSampler", "MirageChunkDecode", "MirageCacheUpdate"),
        "rgb",
        spatia.FILES,
        (6, 2),
    ),
    Shot(
        "fun_inpaint",
        {"first_chunk_frames": 13, "chunk_frames": 13},
        ("MirageInpaintConditioning", "KSampler", "MirageChunkDecode", "MirageCacheUpdate"),
        "wan2.2",
        inpaint.FILES,
        (4, 3),
    ),
)


@pytest.fixture(scope="module", params=SHOTS, ids=lambda shot: shot.name)
def shot(request: pytest.FixtureRequest) -> Shot:
    return request.param


def prompt_of(shot: Shot, object_info: dict[str, Any]) -> Prompt:
    return small(shot.name, object_info, shot.lengths | {"frames": FRAMES})


@pytest.fixture(scope="module")
def made(server: ComfyServer, object_info: dict[str, Any], shot: Shot) -> Made:
    return make(server, prompt_of(shot, object_info), shot.name)


def test_a_shot_stopped_and_resumed_is_the_one_made_whole(made: Made, shot: Shot) -> None:
    expect_same_after_stop(made, shot.body, CHUNKS)


def test_video_memory_and_latents(made: Made, shot: Shot, server: ComfyServer) -> None:
    prompt, result = made.prompt, made.whole
    (entry,) = result.files(only(prompt, "SaveVideo"))
    with av.open(str(server.output / entry["subfolder"] / entry["filename"])) as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height) == (WIDTH, HEIGHT)
        assert float(stream.average_rate) == 24
        assert sum(1 for _ in video.decode(stream)) == FRAMES
    (file,) = result.outputs[only(prompt, "MirageCacheSave")]["text"]
    assert load_cache(file).codec == shot.codec
    text = result.outputs[only(prompt, "MirageRolloutResult")]["text"][0]
    assert f"{FRAMES} frames of {WIDTH} x {HEIGHT} in {CHUNKS} chunks" in text
    found = [
        tuple(read_tensors(made.folder / f"chunk_{number:04d}.safetensors")["latents"].shape)
        for number in range(CHUNKS)
    ]
    first, later = shot.latents
    grid = (HEIGHT // 16, WIDTH // 16)
    assert found == [(48, frames, *grid) for frames in (first, later, later)]


def test_the_lora_is_felt_from_the_second_chunk_on(
    server: ComfyServer, object_info: dict[str, Any]
) -> None:
    """With strength 0 the first chunk is the same, and the second is not."""
    latents = []
    for name, strength in (("with_lora", 1.0), ("without_lora", 0.0)):
        prompt = prompt_of(SHOTS[0], object_info)
        prompt[only(prompt, "MirageLaterLora")]["inputs"]["strength"] = strength
        prompt[only(prompt, "MirageRolloutStart")]["inputs"]["name"] = name
        assert run(server, prompt).status == "success"
        folder = only_folder(server, name)
        latents.append(
            [
                read_tensors(folder / f"chunk_{number:04d}.safetensors")["latents"]
                for number in range(2)
            ]
        )
    (first, second), (plain_first, plain_second) = latents
    assert first.equal(plain_first)
    assert not second.allclose(plain_second, atol=0.01)


def test_every_loader_names_its_file(shot: Shot, object_info: dict[str, Any]) -> None:
    content = shipped(shot.name)
    inside = [node for part in content["definitions"]["subgraphs"] for node in part["nodes"]]
    named = [node for node in [*content["nodes"], *inside] if "models" in node["properties"]]
    for node in named:
        (entry,) = node["properties"]["models"]
        assert entry["name"] in node["widgets_values"]
        choices = object_info[node["type"]]["input"]["required"]
        assert any(entry["name"] in str(spec[:2]) for spec in choices.values()), node["type"]
    found = {file["name"]: (file["url"], file["directory"]) for file in model_files(content)}
    assert found == {file.name: (file.url, file.directory) for file in shot.files}
    for name, (url, _) in found.items():
        assert url.startswith("https://huggingface.co/") and url.endswith(f"/{name}")


def test_the_note_offers_each_file_with_its_licence(shot: Shot) -> None:
    notes = [node for node in shipped(shot.name)["nodes"] if node["type"] == "MarkdownNote"]
    (text,) = [note["widgets_values"][0] for note in notes]
    for file in shot.files:
        (row,) = [line for line in text.splitlines() if file.url in line]
        assert row.endswith(f"| `models/{file.directory}` | {LICENCES[file]} |")
    assert LICENCE_NOTE in text
    assert "has judged a shot of this graph yet" in text.replace("\n", " ")


def test_spatia_s_weights_have_no_licence_that_is_stated() -> None:
    assert {LICENCES[file] for file in (SPATIA_BRANCH, SPATIA_LORA)} == {
        "not stated for the weights"
    }


def test_settings_are_those_of_the_model_s_makers(object_info: dict[str, Any]) -> None:
    wanted = {
        "spatia": (40, 3.5, 5.0, (1248, 704), (121, 81, 9), 193),
        "fun_inpaint": (20, 6.0, 8.0, (1280, 704), (81, 81, 1), 161),
    }
    for name, settings in wanted.items():
        prompt = flatten(shipped(name), object_info)
        switch, scale, plan = (
            prompt[only(prompt, kind)]["inputs"]
            for kind in ("MirageFewSteps", "ImageScale", "MirageRolloutStart")
        )
        found = (
            switch["steps"], switch["cfg"],
            prompt[only(prompt, "ModelSamplingSD3")]["inputs"]["shift"],
            (scale["width"], scale["height"]),
            tuple(plan[f"{part}_frames"] for part in ("first_chunk", "chunk", "overlap")),
            prompt[only(prompt, "MirageTrajectory")]["inputs"]["frames"],
        )  # fmt: skip
        assert found == settings, name
        sampler = prompt[only(prompt, "KSampler")]["inputs"]
        assert (sampler["sampler_name"], sampler["scheduler"]) == ("uni_pc", "simple")
    prompt = json.dumps(flatten(shipped("spatia"), object_info))
    assert "4K, realistic, high quality, HDR." in prompt
