"""Estimated depth in the loop on a real server: aligned, refused, and named when missing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dev.comfy_client import ComfyClient, ComfyRunError, ComfyValidationError
from dev.comfy_server import PACK, ComfyServer
from mirage_core.cache.io import load_cache
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.geometry_io import save_geometry
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid
from mirage_core.scenes.scene import ProceduralScene
from mirage_core.trajectories.files import save_trajectory
from mirage_core.trajectories.presets import preset_trajectory
from workflows.dynamics import FILES, MOVING_THINGS
from workflows.flatten import flatten

from .prompts import Prompt, contents, folders, loop, memory, node, scene

pytestmark = pytest.mark.server

WIDTH, HEIGHT, FRAMES, SEED = 192, 128, 129, 16
SCALES = (1.1, 0.9, 1.12, 0.92)
"""By which the estimator is wrong in each of four chunks."""


class Room:
    """A move through the procedural room, with exact depth, and depth as an estimator sees it."""

    def __init__(self, folder: Path) -> None:
        room = ProceduralScene.from_seed(SEED)
        lens = intrinsics_from_fov(WIDTH, HEIGHT, 70.0)
        start = invert_rigid(room.start_camera_to_world.double())
        first = Trajectory(start[None], lens[None], WIDTH, HEIGHT)
        _, depth = room.render(first, device=torch.device("cpu"))
        self.cameras = preset_trajectory(
            "truck", FRAMES, intrinsics=lens, width=WIDTH, height=HEIGHT,
            scene_depth=float(depth.median()), amount=0.5,
        )  # fmt: skip
        placed = dataclasses.replace(
            self.cameras, world_to_camera=self.cameras.world_to_camera @ start
        )
        _, self.depth = room.render(placed, device=torch.device("cpu"))
        chunk = (torch.arange(FRAMES) - 1).clamp_min(0) // 32
        factor = torch.tensor(SCALES)[chunk]
        noise = torch.randn(self.depth.shape, generator=torch.Generator().manual_seed(0))
        estimate = self.depth * factor[:, None, None] * (1 + 0.02 * noise)
        self.geometry = FrameGeometry(estimate, self.cameras.intrinsics)
        folder.mkdir(parents=True, exist_ok=True)
        save_trajectory(folder / "room.json", self.cameras)
        save_geometry(self.geometry, folder / "estimate.safetensors")
        save_geometry(self.geometry.select(list(range(7))), folder / "short.safetensors")

    def error(self, file: str) -> float:
        """Largest error over the frames that were remembered, as a share of depth.

        The median of a frame's points, each in the camera that saw it.
        """
        errors = []
        for block in load_cache(file).blocks:
            for place, frame in enumerate(block.frames.tolist()):
                points = block.points[block.source == place].double()
                pose = block.world_to_camera[place]
                x, y, z = (points @ pose[:3, :3].T + pose[:3, 3]).unbind(1)
                k = self.cameras.intrinsics[frame]
                column = (x / z * k[0, 0] + k[0, 2]).long().clamp(0, WIDTH - 1)
                row = (y / z * k[1, 1] + k[1, 2]).long().clamp(0, HEIGHT - 1)
                ratio = z / self.depth[frame, row, column]
                errors.append(abs(float(ratio.median()) - 1))
        return max(errors)


@pytest.fixture(scope="module")
def room(comfy_server: ComfyServer) -> Room:
    return Room(comfy_server.input)


def shot(name: str, align: dict[str, Any] | None, file: str = "estimate.safetensors") -> Prompt:
    """The preview loop, with depth from a file in place of the exact one."""
    move = {"move": node("MirageTrajectoryLoad", file="room.json")}
    prompt = scene(WIDTH, HEIGHT, SEED) | move | memory() | loop(name, policy="append")
    prompt["depth"] = node("MirageGeometryLoad", file=file, fov=70.0)
    prompt["save"] = node("MirageCacheSave", cache=["result", 2], filename_prefix=name)
    prompt["update"]["inputs"]["geometry"] = ["depth", 0]
    if align is not None:
        given = {
            "state": ["open", 1], "geometry": ["depth", 0], "mode": "scale", "refuse_above": 0.1,
            "grow_pixels": 0, "grow_cells": 0, "strict": False,
        }  # fmt: skip
        prompt["align"] = node("MirageAlignGeometry", **given | align)
        prompt["look"] = node("PreviewAny", source=["align", 1])
        prompt["update"]["inputs"]["geometry"] = ["align", 0]
    return prompt


def test_alignment_keeps_the_memory_on_one_scale(room: Room, comfy_client: ComfyClient) -> None:
    plain = comfy_client.run(shot("as_estimated", None), timeout=300)
    aligned = comfy_client.run(shot("aligned", {}), timeout=300)
    assert room.error(plain.outputs["save"]["text"][0]) > 0.1
    assert room.error(aligned.outputs["save"]["text"][0]) < 0.02
    reports = [
        output["text"][0] for key, output in aligned.outputs.items() if key.endswith("align")
    ]
    assert len(reports) == len(SCALES)
    for text, scale in zip(sorted(reports), SCALES, strict=True):
        # The overlapping frame has the chunk before's scale here, so only those after it count.
        found = [float(line.split("x ")[1].split(",")[0]) for line in text.splitlines()[2:-1]]
        assert found == pytest.approx([1 / scale] * 8, rel=0.02)


def test_bad_geometry_stops_the_shot_before_anything_is_saved(
    room: Room, comfy_server: ComfyServer, comfy_client: ComfyClient
) -> None:
    prompt = shot("too_short", {}, "short.safetensors")
    with pytest.raises(ComfyRunError, match="does not belong to this chunk") as caught:
        comfy_client.run(prompt, timeout=120)
    assert caught.value.exception_type.endswith("ShapeError")
    (folder,) = folders(comfy_server.output, "too_short")
    assert list(contents(folder)) == ["rollout.json"]


@pytest.fixture(scope="module")
def blueprint() -> dict[str, Any]:
    path = PACK / "subgraphs" / f"{MOVING_THINGS.name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_loader_of_the_blueprint_names_file_folder_and_link(
    blueprint: dict[str, Any],
) -> None:
    (inside,) = blueprint["definitions"]["subgraphs"]
    loaders = [item for item in inside["nodes"] if "models" in item["properties"]]
    assert {item["properties"]["models"][0]["name"] for item in loaders} == {f.name for f in FILES}
    pages = "".join(path.read_text("utf-8") for path in (PACK / "js" / "docs").glob("*.md"))
    for item in loaders:
        (entry,) = item["properties"]["models"]
        assert item["widgets_values"][0] == entry["name"]
        assert entry["url"].endswith(f"/{entry['name']}")
        assert entry["name"] in pages and f"models/{entry['directory']}" in pages


def test_without_weights_the_server_names_what_is_missing(
    blueprint: dict[str, Any], comfy_client: ComfyClient
) -> None:
    prompt = flatten(blueprint, comfy_client.object_info())
    (mask,) = [key for key, item in prompt.items() if item["class_type"] == "MirageDynamicMask"]
    (scale,) = [key for key, item in prompt.items() if item["class_type"].startswith("ImageScale")]
    prompt |= {"frames": node("EmptyImage", width=64, height=64, batch_size=5, color=0)}
    for item in prompt.values():
        if item["class_type"] in ("MirageDynamicMask", "SAM3_VideoTrack"):
            item["inputs"]["image" if "Mask" in item["class_type"] else "images"] = ["frames", 0]
    prompt[scale]["inputs"]["image"] = ["frames", 0]
    prompt["show"] = node("MaskPreview", mask=[mask, 0])
    with pytest.raises(ComfyValidationError) as caught:
        comfy_client.submit(prompt)
    for file in FILES:
        assert file.name in str(caught.value)
