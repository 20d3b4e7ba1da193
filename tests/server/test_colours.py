"""Shots with a memory of colours on a real server: whole, resumed, and drawn afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from dev.comfy_client import ComfyClient, ComfyRunError
from dev.comfy_server import ComfyServer
from mirage_core.rollout.video import read_frames

from .prompts import BODY, Prompt, body_runs, contents, folders, loop, memory, move, node, scene

pytestmark = pytest.mark.server

FRAMES, CHUNKS = 65, 2


def colours(name: str, **changes: object) -> Prompt:
    """A shot whose memory holds colours."""
    kind = {"what": "colours", "colour_step": 2}
    return scene() | move(FRAMES) | memory(**kind | changes) | loop(name=name)


def only_folder(server: ComfyServer, name: str) -> Path:
    (folder,) = folders(server.output, name)
    return folder


def test_a_shot_of_colours_is_made_and_goes_on(
    comfy_server: ComfyServer, comfy_client: ComfyClient
) -> None:
    prompt = colours("colours")
    first = comfy_client.run(prompt, timeout=120)
    assert body_runs(first) == dict.fromkeys(BODY, CHUNKS)
    folder = only_folder(comfy_server, "colours")
    assert len(list(read_frames(folder / "video.mp4"))) == FRAMES
    whole = contents(folder)
    for path in folder.glob("chunk_0001*"):
        path.unlink()
    again = comfy_client.run(prompt | {"look": node("PreviewImage", images=["decode", 0])})
    assert again.status == "success"
    assert contents(folder) == whole


def test_the_memory_of_a_shot_is_drawn_with_holes(comfy_client: ComfyClient) -> None:
    prompt = colours("drawn") | {
        "render": node(
            "MirageRender", holes="grey", cache=["result", 2], trajectory=["move", 0]
        ),
        "look": node("PreviewImage", images=["render", 0]),
        "mask": node("MaskToImage", mask=["render", 1]),
        "masks": node("PreviewImage", images=["mask", 0]),
    }
    result = comfy_client.run(prompt, timeout=120)
    assert result.status == "success"
    assert len(result.files()) == 2 * FRAMES


def test_a_latent_of_colours_stops_with_what_to_do(comfy_client: ComfyClient) -> None:
    prompt = scene() | move(5) | memory(what="colours") | {
        "read": node("MirageReadout", cache=["init", 0], trajectory=["move", 0]),
        "decode": node("VAEDecode", samples=["read", 1], vae=["codec", 0]),
        "look": node("PreviewImage", images=["decode", 0]),
    }
    with pytest.raises(ComfyRunError, match="Mirage Render"):
        comfy_client.run(prompt, timeout=60)
