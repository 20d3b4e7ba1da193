"""Actors on a real server: a figure from another picture walks through a shot of two chunks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dev.comfy_client import ComfyClient
from dev.comfy_server import ComfyServer
from mirage_core.cache.track import Behaviour
from mirage_core.rollout.video import read_frames

from .prompts import BODY, Prompt, body_runs, folders, loop, memory, move, node, scene

pytestmark = pytest.mark.server

FRAMES, CHUNKS = 65, 2
WAY = [{"frame": 0, "place": [-0.8, 1.6]}, {"frame": 64, "place": [0.8, 1.6]}]


def figure() -> Prompt:
    """A magenta figure in the middle of another picture, with its depth and its mask."""
    size = {"width": 64, "height": 64}
    return {
        "photo": node("EmptyImage", **size, batch_size=1, color=0xFF00FF),
        "photo_depth": node("EmptyImage", **size, batch_size=1, color=0x808080),
        "photo_geometry": node(
            "MirageGeometry", depth=["photo_depth", 0], encoding="near is white",
            near=1.0, far=20.0, fov=60.0,
        ),
        "nothing": node("SolidMask", value=0.0, **size),
        "part": node("SolidMask", value=1.0, width=20, height=36),
        "mask": node(
            "MaskComposite", destination=["nothing", 0], source=["part", 0], x=22, y=14,
            operation="add",
        ),
        "actor": node(
            "MirageActor", image=["photo", 0], geometry=["photo_geometry", 0],
            mask=["mask", 0], vae=["codec", 0], cache=["init", 0], name="figure",
        ),
        "place": node(
            "MiragePlaceActor", cache=["init", 0], actor=["actor", 0],
            behaviour=Behaviour.PATH.value, height=0.9, path=json.dumps(WAY), fps=24.0,
        ),
    }  # fmt: skip


def cast(name: str) -> Prompt:
    prompt = (
        scene()
        | move(FRAMES, amount=0.0)
        | memory(what="colours")
        | figure()
        | loop(name=name)
    )
    prompt["start"]["inputs"]["cache"] = ["place", 0]
    return prompt


def middles(folder: Path) -> list[float]:
    """Column of the figure's middle in every frame of a shot."""
    found = []
    for frame in read_frames(folder / "video.mp4"):
        picture = torch.as_tensor(frame).float()
        magenta = picture[..., 0] + picture[..., 2] - 2 * picture[..., 1]
        found.append(float((magenta > magenta.max() / 2).nonzero()[:, 1].double().mean()))
    return found


def test_an_actor_walks_through_the_chunks_of_a_shot(
    comfy_server: ComfyServer, comfy_client: ComfyClient
) -> None:
    """It goes on evenly where the second chunk begins: each chunk knows its own time."""
    result = comfy_client.run(
        cast("actors") | {"info": node("MirageCacheInfo", cache=["result", 2])}, timeout=180
    )
    assert body_runs(result) == dict.fromkeys(BODY, CHUNKS)
    (folder,) = folders(comfy_server.output, "actors")
    path = middles(folder)
    assert len(path) == FRAMES
    # The first frame is the given picture, in which nobody is.
    assert path[4] < 20
    assert path[-1] > 44
    steps = torch.tensor(path[4:]).diff()
    assert float(steps.abs().max()) < 4
    assert path[32] == pytest.approx(31.5, abs=3)
