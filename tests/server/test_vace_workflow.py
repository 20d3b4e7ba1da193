"""The shipped VACE workflow on a real server: every node as shipped, on tiny files."""

from __future__ import annotations

from typing import Any

import av
import numpy as np
import pytest
import torch

from dev.comfy_client import ComfyRunError
from dev.comfy_server import ComfyServer
from mirage_core.cache.io import load_cache
from mirage_core.rollout.video import read_frames
from mirage_core.tensor_files import read_tensors
from tiny_install import photograph
from tiny_models import lora
from tiny_weights import write
from workflows.files import VACE_LARGE
from workflows.vace import FILES

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

FRAMES, CHUNKS = 25, 3
LENGTHS = {
    "frames": FRAMES, "first_chunk_frames": 9, "chunk_frames": 13, "overlap_frames": 5,
}  # fmt: skip
BODY = (
    "MirageRender", "MirageVaceControl", "WanVaceToVideo", "KSampler", "TrimVideoLatent",
    "MirageChunkDecode", "MiragePasteKnown", "MirageCacheUpdate",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(server: ComfyServer, object_info: dict[str, Any]) -> Made:
    return make(server, small("vace", object_info, LENGTHS), "vace")


@pytest.fixture
def prompt(object_info: dict[str, Any]) -> Prompt:
    return small("vace", object_info, LENGTHS)


def named(prompt: Prompt, name: str, **changes: Any) -> Prompt:
    """The prompt of a shot with a folder of its own; changes go to the loop."""
    prompt[only(prompt, "MirageRolloutStart")]["inputs"]["name"] = name
    for part in prompt.values():
        if part["class_type"] in BODY:
            part["inputs"] |= {k: v for k, v in changes.items() if k in part["inputs"]}
    return prompt


def test_a_shot_stopped_and_resumed_is_the_one_made_whole(made: Made) -> None:
    expect_same_after_stop(made, BODY, CHUNKS)


def test_video_memory_and_latents(made: Made, server: ComfyServer) -> None:
    prompt, result = made.prompt, made.whole
    (entry,) = result.files(only(prompt, "SaveVideo"))
    with av.open(str(server.output / entry["subfolder"] / entry["filename"])) as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height) == (WIDTH, HEIGHT)
        assert float(stream.average_rate) == 16
        assert sum(1 for _ in video.decode(stream)) == FRAMES
    (file,) = result.outputs[only(prompt, "MirageCacheSave")]["text"]
    assert load_cache(file).codec == "rgb"
    text = result.outputs[only(prompt, "MirageRolloutResult")]["text"][0]
    assert f"{FRAMES} frames of {WIDTH} x {HEIGHT} in {CHUNKS} chunks" in text
    chunk = read_tensors(made.folder / "chunk_0001.safetensors")
    assert chunk["latents"].shape == (16, 2, HEIGHT // 8, WIDTH // 8)
    assert chunk["overlap"].shape == (16, 2, HEIGHT // 8, WIDTH // 8)
    assert chunk["visible"].shape == (2, HEIGHT // 16, WIDTH // 16)


def test_known_pixels_may_be_pasted_back(made: Made, server: ComfyServer, prompt: Prompt) -> None:
    """The first chunk's latents are the same, and its frames are not."""
    named(prompt, "pasted")
    prompt[only(prompt, "MiragePasteKnown")]["inputs"]["strength"] = 1.0
    assert run(server, prompt).status == "success"
    folder = only_folder(server, "pasted")
    first = [read_tensors(path / "chunk_0000.safetensors") for path in (made.folder, folder)]
    assert torch.equal(first[0]["latents"], first[1]["latents"])
    pasted, plain = (
        next(iter(read_frames(path / "chunk_0000.mp4"))).float() for path in (folder, made.folder)
    )
    picture = torch.from_numpy(np.array(photograph(WIDTH, HEIGHT))).float()
    assert float((pasted - picture).abs().mean()) < 4
    assert float((plain - picture).abs().mean()) > 20


def test_colours_come_back_to_those_of_the_memory(
    made: Made, server: ComfyServer, prompt: Prompt
) -> None:
    """The shipped loop moves the colours of every chunk; without, those of a model of noise stay.

    Of the first chunk all is known at first: the picture.
    """
    named(prompt, "unmatched")
    prompt[only(prompt, "MirageMatchColours")]["inputs"]["strength"] = 0.0
    assert run(server, prompt).status == "success"
    wanted = torch.from_numpy(np.array(photograph(WIDTH, HEIGHT))).float().mean((0, 1))
    away = [
        float((next(iter(read_frames(path / "chunk_0000.mp4"))).float().mean((0, 1)) - wanted)
              .abs().max())
        for path in (made.folder, only_folder(server, "unmatched"))
    ]  # fmt: skip
    assert away[0] < 0.5 * away[1]


def test_the_reference_is_felt_and_trimmed(
    made: Made, server: ComfyServer, prompt: Prompt
) -> None:
    """Without one, none of ComfyUI's latents is cut off, and the shot is another."""
    assert run(server, named(prompt, "alone", reference="none")).status == "success"
    folder = only_folder(server, "alone")
    first = [read_tensors(path / "chunk_0000.safetensors") for path in (made.folder, folder)]
    assert first[0]["latents"].shape == first[1]["latents"].shape
    assert not torch.allclose(first[0]["latents"], first[1]["latents"], atol=0.1)


def test_the_model_is_recognised_as_vace(server: ComfyServer) -> None:
    assert "WAN21_Vace" in server.log()


def test_another_frame_rate_stops_before_sampling(server: ComfyServer, prompt: Prompt) -> None:
    """And is resampled on request."""
    prompt[only(prompt, "MirageTrajectory")]["inputs"]["fps"] = 24.0
    with pytest.raises(ComfyRunError, match="another frame rate"):
        run(server, named(prompt, "rate"))
    assert not list(only_folder(server, "rate").glob("chunk_*"))
    prompt[only(prompt, "MirageRolloutStart")]["inputs"]["fps"] = 16.0
    result = run(server, prompt)
    text = result.outputs[only(prompt, "MirageRolloutResult")]["text"][0]
    assert text.startswith("17 frames")


def test_few_steps_bring_their_lora_and_settings(
    prompt: Prompt, server: ComfyServer, made: Made
) -> None:
    """The name of the LoRA tells steps, guidance and shift; off nothing of it is looked for."""
    name = "Wan21_CausVid_bidirect2_T2V_1_3B_lora_rank32.safetensors"
    prompt[only(prompt, "MirageFewSteps")]["inputs"]["few_steps"] = "auto"
    prompt = named(prompt, "few_steps")
    with pytest.raises(ComfyRunError, match="no LoRA for few steps that fits"):
        run(server, prompt)
    write(server.output.parent / "models" / "loras" / name, lora())
    counted: list[tuple[str, float]] = []
    result = run(server, prompt, on_progress=lambda p: counted.append((p.display_node, p.maximum)))
    (told,) = result.outputs[only(prompt, "MirageFewSteps")]["text"]
    assert told == f"{name} at 0.7: 4 steps, cfg 1, shift 8; untested with this conditioning"
    sampler = only(prompt, "KSampler")
    assert {most for node, most in counted if node == sampler and most > 1} == {4}
    chunk = "chunk_0000.safetensors"
    few, many = (read_tensors(folder / chunk)["latents"]
                 for folder in (only_folder(server, "few_steps"), made.folder))  # fmt: skip
    assert not few.allclose(many, atol=0.01)


def test_every_loader_names_its_file(object_info: dict[str, Any]) -> None:
    saved = shipped("vace")["nodes"]
    found = [node for node in saved if "models" in node["properties"]]
    known_files = {file.name: file for file in FILES}
    assert len(found) == len(known_files)
    for node in found:
        (entry,) = node["properties"]["models"]
        known = known_files[entry["name"]]
        assert known.name in node["widgets_values"]
        assert (entry["url"], entry["directory"]) == (known.url, known.directory)
        assert known.url.startswith("https://huggingface.co/Comfy-Org/")
        assert known.url.endswith(f"/{known.directory}/{known.name}")
        choices = object_info[node["type"]]["input"]["required"]
        assert any(known.name in str(spec[:2]) for spec in choices.values())
    (note,) = [node for node in saved if node["type"] == "MarkdownNote"]
    text = note["widgets_values"][0]
    assert all(file.url in text for file in FILES)
    assert VACE_LARGE.url in text
    assert "untested with this conditioning" in text
