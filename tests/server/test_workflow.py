"""The shipped workflows: up to date, and run by a real server as an artist would run them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from dev.comfy_client import ComfyClient, RunResult
from dev.comfy_server import PACK, ComfyServer
from mirage_core.cache.io import load_cache
from mirage_core.codecs.memory_kind import MemoryKind
from workflows.build import as_text, build
from workflows.flatten import flatten, model_files

from .prompts import Prompt

pytestmark = pytest.mark.server

ALL = sorted((PACK / "workflows").glob("*.json"))
WORKFLOWS = [path for path in ALL if not model_files(json.loads(path.read_text("utf-8")))]
"""Those that need no download; `test_sampling_workflows` has the others."""

BLUEPRINTS = sorted((PACK / "subgraphs").glob("*.json"))
SMALL = {"width": 192, "height": 128, "frames": 33}


def by_kind(prompt: Prompt) -> dict[str, str]:
    """Ids of the nodes of a prompt by their class."""
    return {content["class_type"]: number for number, content in prompt.items()}


def small(workflow: Path, object_info: dict[str, Any]) -> Prompt:
    """The prompt of a shipped workflow, at a size that takes a second."""
    prompt = flatten(json.loads(workflow.read_text(encoding="utf-8")), object_info)
    for content in prompt.values():
        kept = content["inputs"]
        kept |= {key: value for key, value in SMALL.items() if isinstance(kept.get(key), int)}
    return prompt


@pytest.fixture(scope="module")
def object_info(comfy_server: ComfyServer) -> dict[str, Any]:
    return ComfyClient(comfy_server.url).object_info()


@pytest.fixture(scope="module", params=WORKFLOWS, ids=lambda path: path.stem)
def made(
    request: pytest.FixtureRequest, comfy_server: ComfyServer, object_info: dict[str, Any]
) -> tuple[Prompt, RunResult]:
    prompt = small(request.param, object_info)
    return prompt, ComfyClient(comfy_server.url).run(prompt, timeout=120)


def test_shipped_files_are_up_to_date(object_info: dict[str, Any]) -> None:
    expected = build(object_info)
    shipped = {path.relative_to(PACK).as_posix(): path for path in (*ALL, *BLUEPRINTS)}
    assert set(shipped) == set(expected)
    for name, path in shipped.items():
        assert path.read_text(encoding="utf-8") == as_text(expected[name]), (
            f"{name} is out of date: run python tools workflows.build"
        )


def test_workflows_use_the_shipped_blueprints() -> None:
    shipped = [json.loads(path.read_text(encoding="utf-8")) for path in BLUEPRINTS]
    known = {item["id"]: item for file in shipped for item in file["definitions"]["subgraphs"]}
    for path in ALL:
        used = json.loads(path.read_text(encoding="utf-8"))["definitions"]["subgraphs"]
        assert used and all(known[item["id"]] == item for item in used)


def test_every_node_of_the_workflow_ran(made: tuple[Prompt, RunResult]) -> None:
    prompt, result = made
    assert result.status == "success"
    assert set(result.displayed) | set(result.cached) == set(prompt)


def test_video_has_every_frame(made: tuple[Prompt, RunResult], comfy_server: ComfyServer) -> None:
    prompt, result = made
    (entry,) = result.files(by_kind(prompt)["SaveVideo"])
    with av.open(str(comfy_server.output / entry["subfolder"] / entry["filename"])) as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height) == (SMALL["width"], SMALL["height"])
        assert float(stream.average_rate) == 24.0
        assert stream.codec_context.name == "h264"
        assert sum(1 for _ in video.decode(stream)) == SMALL["frames"]
        assert video.format.name.startswith("mov,mp4")


def test_contact_sheet_is_a_picture(
    made: tuple[Prompt, RunResult], comfy_server: ComfyServer
) -> None:
    prompt, result = made
    (entry,) = result.files(by_kind(prompt)["SaveImage"])
    with Image.open(comfy_server.output / entry["subfolder"] / entry["filename"]) as sheet:
        assert sheet.mode == "RGB"
        assert sheet.width >= SMALL["width"] and sheet.height >= SMALL["height"]
        assert all(low < high for low, high in sheet.getextrema())


def test_memory_file_loads(made: tuple[Prompt, RunResult]) -> None:
    prompt, result = made
    (path,) = result.outputs[by_kind(prompt)["MirageCacheSave"]]["text"]
    memory = load_cache(path)
    colours = memory.kind is MemoryKind.COLOURS
    cells = SMALL["width"] // memory.stride * (SMALL["height"] // memory.stride)
    assert colours or memory.codec == "embedded-dct-1"
    # The picture alone gives most of a frame's cells; a there-and-back move adds what it bares.
    assert 0.5 * cells < len(memory) < SMALL["frames"] * cells


def test_report_tells_length_holes_and_closed_loop(made: tuple[Prompt, RunResult]) -> None:
    prompt, result = made
    (report,) = result.outputs[by_kind(prompt)["MirageRolloutResult"]]["text"]
    assert "33 frames of 192 x 128 in 1 chunks" in report
    holes = re.search(r"hole rate per chunk: ([\d.]+)%", report)
    assert 0 < float(holes[1]) < 50
    closed = re.search(r"closed loop, last frame against first: ([\d.]+) dB", report)
    # An actor is elsewhere at the end: its two places count against the room, which is the same.
    least = 18 if "MiragePlaceActor" in by_kind(prompt) else 20
    assert math.isfinite(float(closed[1])) and float(closed[1]) > least
    assert result.outputs[by_kind(prompt)["PreviewAny"]]["text"] == [report]
