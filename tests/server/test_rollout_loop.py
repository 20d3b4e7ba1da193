"""The chunk loop on a real server: every chunk once, every frame there, nothing stale."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest
import torch

from dev.comfy_client import ComfyClient
from dev.comfy_server import ComfyServer
from mirage_core.rollout.chunk_file import FORMAT, VERSION
from mirage_core.rollout.video import read_frames
from mirage_core.tensor_files import read_safetensors

from .prompts import BODY, body_runs, contents, folders, node, runs_of, shot

pytestmark = pytest.mark.server


def every(count: int) -> dict[str, int]:
    return dict.fromkeys(BODY, count)


def only_folder(server: ComfyServer, name: str) -> Path:
    (folder,) = folders(server.output, name)
    return folder


def chunk_latents(folder: Path) -> list[torch.Tensor]:
    files = sorted(folder.glob("chunk_*.safetensors"))
    return [read_safetensors(file, FORMAT, VERSION)[0]["latents"] for file in files]


# 577 frames are 18 chunks: more than one expansion holds.
@pytest.mark.parametrize(
    ("frames", "chunks"), [(33, 1), (65, 2), (225, 7), (5, 1), (37, 2), (577, 18)]
)
def test_loop_makes_every_frame(
    comfy_server: ComfyServer, comfy_client: ComfyClient, frames: int, chunks: int
) -> None:
    name = f"length_{frames}"
    result = comfy_client.run(shot(frames, name=name), timeout=120)
    assert body_runs(result) == every(chunks)

    folder = only_folder(comfy_server, name)
    assert len(list(folder.glob("chunk_*.mp4"))) == chunks
    pictures = list(read_frames(folder / "video.mp4"))
    assert len(pictures) == frames
    assert {picture.shape for picture in pictures} == {(64, 64, 3)}
    latents = chunk_latents(folder)
    assert len(latents) == chunks
    assert torch.cat(latents, dim=1).shape == (48, 1 + (frames - 1) // 4, 4, 4)
    (report,) = result.outputs["result"]["text"]
    assert f"{frames} frames of 64 x 64 in {chunks} chunks" in report
    assert report.count("%") == chunks


# 45 frames are 17 and three times 8 more, and then 4; or 21 and three times 8 more.
@pytest.mark.parametrize(
    ("lengths", "chunks", "shared"), [((17, 13, 5), 5, 2), ((21, 17, 9), 4, 3)]
)
def test_chunks_of_chosen_lengths(
    comfy_server: ComfyServer, comfy_client: ComfyClient, lengths, chunks: int, shared: int
) -> None:
    named = dict(
        zip(("first_chunk_frames", "chunk_frames", "overlap_frames"), lengths, strict=True)
    )
    name = f"lengths_{shared}"
    result = comfy_client.run(shot(45, name=name, **named), timeout=120)
    assert body_runs(result) == every(chunks)
    folder = only_folder(comfy_server, name)
    assert len(list(read_frames(folder / "video.mp4"))) == 45
    clips = [len(list(read_frames(path))) for path in sorted(folder.glob("chunk_*.mp4"))]
    step = lengths[1] - lengths[2]
    assert clips[:4] == [lengths[0], step, step, step] and sum(clips) == 45
    latents = chunk_latents(folder)
    assert torch.cat(latents, dim=1).shape == (48, 12, 4, 4)
    overlaps = [
        read_safetensors(file, FORMAT, VERSION)[0].get("overlap")
        for file in sorted(folder.glob("chunk_*.safetensors"))
    ]
    assert [o.shape[1] for o in overlaps] == [shared] * chunks
    (report,) = result.outputs["result"]["text"]
    assert f"in {chunks} chunks ({lengths[0]} frames, then {lengths[1]}" in report
    assert report.count("%") == chunks

    whole = contents(folder)
    for index in range(2, chunks):
        (folder / f"chunk_{index:04}.safetensors").unlink()
    (folder / "video.mp4").unlink()
    again = comfy_client.run(shot(45, name=name, **named), timeout=120)
    assert body_runs(again) == every(chunks - 2)
    assert contents(folder) == whole


def test_default_lengths_are_those_of_a_prompt_without_any(
    comfy_server: ComfyServer, comfy_client: ComfyClient
) -> None:
    """A shot of a prompt that lacks them goes on where they are filled in."""
    comfy_client.run(shot(37, name="no_lengths"), timeout=60)
    before = contents(only_folder(comfy_server, "no_lengths"))
    named = {"first_chunk_frames": 33, "chunk_frames": 33, "overlap_frames": 1}
    result = comfy_client.run(shot(37, name="no_lengths", **named), timeout=60)
    assert body_runs(result) == {**every(0), "open": 1}
    assert contents(only_folder(comfy_server, "no_lengths")) == before


def test_chunks_are_made_in_order(comfy_client: ComfyClient) -> None:
    result = comfy_client.run(shot(129, name="order"), timeout=60)
    order = [name for name in result.displayed if name in ("open", "update", "result")]
    assert order == ["open", "update"] * 4 + ["result"]


def test_previews_inside_the_body_show_every_chunk(comfy_client: ComfyClient) -> None:
    prompt = shot(65, name="previews") | {
        "look": node("PreviewImage", images=["decode", 0]),
        "invert": node("ImageInvert", image=["decode", 0]),
        "inverted": node("PreviewImage", images=["invert", 0]),
    }
    first = comfy_client.run(prompt, timeout=60)
    assert body_runs(first) == every(2)
    assert runs_of(first, "look") == runs_of(first, "inverted") == 2
    assert len(first.files()) == 2 * 2 * 33

    again = comfy_client.run(prompt, timeout=60)
    assert again.status == "success"
    assert again.files() == [], "a finished shot has no chunk to preview"
    assert again.outputs["result"] == first.outputs["result"]


def test_finished_shot_is_not_made_again(
    comfy_server: ComfyServer, comfy_client: ComfyClient
) -> None:
    prompt = shot(65, name="again")
    first = comfy_client.run(prompt, timeout=60)
    before = contents(only_folder(comfy_server, "again"))
    second = comfy_client.run(prompt, timeout=60)
    assert body_runs(first) == every(2)
    assert body_runs(second) == {**every(0), "open": 1}
    assert second.outputs["result"] == first.outputs["result"]
    assert contents(only_folder(comfy_server, "again")) == before


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [("update", "policy", "append"), ("start", "seed", 1), ("init", "depth_mode", "nearest")],
)
def test_changed_setting_makes_another_rollout(
    comfy_server: ComfyServer, comfy_client: ComfyClient, where: str, key: str, value: object
) -> None:
    name = f"setting_{key}"
    comfy_client.run(shot(37, name=name), timeout=60)
    first = only_folder(comfy_server, name)
    before = contents(first)
    changed = shot(37, name=name)
    changed[where]["inputs"][key] = value
    result = comfy_client.run(changed, timeout=60)
    assert body_runs(result) == every(2)
    kept, made = folders(comfy_server.output, name)
    assert kept == first and contents(first) == before
    assert len(contents(made)) == len(before)


def test_changed_move_shows_no_stale_memory(
    comfy_server: ComfyServer,
    comfy_client: ComfyClient,
    other_server: ComfyServer,
    other_client: ComfyClient,
) -> None:
    """A move made after another one equals the same move on a server that made no other."""
    moves = {"preset": "orbit", "amount": 0.5}, {"preset": "dolly", "amount": -0.4}
    a, b = (shot(65, name="stale", width=96, **move) for move in moves)
    other_client.run(b, timeout=60)
    for prompt in (a, b):
        assert body_runs(comfy_client.run(prompt, timeout=60)) == every(2)
    first, second = folders(comfy_server.output, "stale")
    fresh = only_folder(other_server, "stale")
    assert second.name == fresh.name != first.name
    assert contents(second) == contents(fresh)
    assert not torch.equal(*(torch.cat(chunk_latents(f), dim=1) for f in (first, second)))

    before = contents(first)
    assert body_runs(comfy_client.run(a, timeout=60)) == {**every(0), "open": 1}
    assert contents(first) == before


def tags_of(folder: Path) -> dict[str, str]:
    with av.open(str(folder / "video.mp4")) as video:
        return dict(video.metadata)


def test_the_video_carries_the_workflow_that_made_it_last(
    comfy_server: ComfyServer, comfy_client: ComfyClient
) -> None:
    """As Save Video writes it, so that the page opens the workflow of a video dropped on it."""
    for note in ("first", "changed \u00e9t\u00e9"):
        prompt = shot(37, name="carries") | {"note": node("PreviewAny", source=note)}
        workflow = {"nodes": [{"id": 1, "title": note}], "version": 0.4}
        extra = {"extra_pnginfo": {"workflow": workflow}}
        comfy_client.run(prompt, timeout=60, extra_data=extra)
        tags = tags_of(only_folder(comfy_server, "carries"))
        assert json.loads(tags["workflow"]) == workflow
        # ComfyUI notes there what nodes said of their inputs, and Save Video writes it as it is.
        written = json.loads(tags["prompt"])
        written["start"].pop("is_changed")
        assert written == prompt


def test_without_metadata_the_video_carries_nothing(comfyui_path: Path, tmp_path: Path) -> None:
    options = ["--disable-metadata"]
    with ComfyServer(tmp_path, comfyui=comfyui_path, extra_args=options) as server:
        extra = {"extra_pnginfo": {"workflow": {"nodes": []}}}
        ComfyClient(server.url).run(shot(37, name="bare"), timeout=60, extra_data=extra)
        assert not {"workflow", "prompt"} & tags_of(only_folder(server, "bare")).keys()
