"""Actors on a real server: a figure from another picture walks through a shot of two chunks."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from dev.comfy_client import ComfyClient
from dev.comfy_server import PACK, ComfyServer
from mirage_core.cache.track import Behaviour
from mirage_core.rollout.video import read_frames
from workflows.actors import PATH
from workflows.flatten import flatten

from .prompts import BODY, Prompt, body_runs, folders, loop, memory, move, node, scene

pytestmark = pytest.mark.server

FRAMES, CHUNKS = 65, 2
WIDTH, LENGTH = 192, 33
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


def test_the_template_directs_an_actor_along_its_path(comfy_client: ComfyClient) -> None:
    """With the camera still, the box is in every frame in the column that its path says."""
    workflow = json.loads((PACK / "workflows" / "mirage_actors.json").read_text(encoding="utf-8"))
    prompt = flatten(workflow, comfy_client.object_info())
    size = {"width": WIDTH, "height": 128, "frames": LENGTH}
    changes = {"MirageEmbeddedMovers": size, "MirageTrajectory": {"frames": LENGTH, "amount": 0.0}}
    for content in prompt.values():
        content["inputs"] |= changes.get(content["class_type"], {})
    result = comfy_client.run(prompt, timeout=180)
    (number,) = (n for n, one in prompt.items() if one["class_type"] == "MirageRolloutResult")
    (report,) = result.outputs[number]["text"]
    frames = list(read_frames(Path(report.split("folder: ")[1].strip()) / "video.mp4"))
    assert len(frames) == LENGTH
    for frame in (0, 1, LENGTH // 2, LENGTH - 1):
        red, green, _ = torch.as_tensor(frames[frame]).float().unbind(-1)
        columns = ((red > 90) & (green < 0.45 * red)).nonzero()[:, 1].double()
        assert len(columns) > 100
        assert float(columns.mean()) == pytest.approx(column_of(frame), abs=4), frame


def column_of(frame: int) -> float:
    """Where the template's path leads the middle of the box, in pixels."""
    before, after = PATH[:2]
    share = frame / after["frame"]
    x, z = (a + share * (b - a) for a, b in zip(before["place"], after["place"], strict=True))
    focal = WIDTH / 2 / math.tan(math.radians(70.0) / 2)
    # The camera looks down a little, so that what stands below it is farther along its view.
    return WIDTH / 2 + focal * x / (z + 0.1)
