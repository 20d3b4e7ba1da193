"""The workflows that sample in ComfyUI's own frontend, on tiny files of the real formats."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from dev.comfy_client import ComfyClient
from dev.comfy_server import PACK, ComfyServer
from dev.frontend_page import READY, TIMEOUT
from tiny_install import install, sampling_server
from workflows.flatten import flatten
from workflows.inpaint import FILES as INPAINT_FILES
from workflows.sampling import FILES, NEGATIVE
from workflows.sampling import PROMPT as PROMPT_TEXT
from workflows.spatia import FILES as SPATIA_FILES
from workflows.vace import FILES as VACE_FILES

from .test_frontend import (
    BOXES,
    GROWN,
    LISTEN,
    PROMPT,
    SCREENS,
    VIDEO,
    load,
    look_until,
    overlapping,
    plain,
    screenshot,
)

pytestmark = [pytest.mark.browser, pytest.mark.server]

MODELS = {
    "mirage_rollout": FILES,
    "mirage_training_free": FILES,
    "mirage_vace": VACE_FILES,
    "mirage_spatia": SPATIA_FILES,
    "mirage_fun_inpaint": INPAINT_FILES,
}
WORKFLOWS = [PACK / "workflows" / f"{name}.json" for name in MODELS]
SMALL = {
    "width": 96, "height": 64, "frames": 37, "steps": 2, "resolution_level": 0,
    "first_chunk_frames": 33, "chunk_frames": 33,
}  # fmt: skip
HOSTS = {
    "mirage_rollout": {"steps": 40, "cfg": 1, "strength": 1, "few_steps": "off"},
    "mirage_training_free": {"steps": 20, "cfg": 5, "until": 0.6, "few_steps": "off"},
    "mirage_vace": {
        "steps": 25, "cfg": 6, "strength": 1, "paste_known": 0, "match_colours": 1,
        "few_steps": "off",
    },
    "mirage_spatia": {"steps": 40, "cfg": 3.5, "strength": 1, "few_steps": "off"},
    "mirage_fun_inpaint": {
        "prompt": PROMPT_TEXT, "negative_prompt": NEGATIVE, "steps": 20, "cfg": 6,
        "few_steps": "off",
    },
}

SET_WIDGETS = """values => { for (const top of app.graph.nodes)
    for (const node of [top, ...(top.subgraph?.nodes ?? [])]) for (const w of node.widgets ?? [])
        if (w.name in values) w.value = values[w.name] }"""
HOST = """() => Object.fromEntries(app.graph.nodes.find(n => n.subgraph)
    .widgets.map(w => [w.name, w.value]))"""


@pytest.fixture(scope="module")
def server(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server that holds every file which the workflows name."""
    base = tmp_path_factory.mktemp("sampling_browser")
    install(base)
    with sampling_server(base, comfyui_path) as running:
        # Without this the frontend greets a new user with a dialog.
        ComfyClient(running.url).post_json("/settings/Comfy.TutorialCompleted", True)
        yield running


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_browser_makes_the_same_prompt(page: Page, server: ComfyServer, path: Path) -> None:
    content = load(page, path)
    object_info = ComfyClient(server.url).object_info()
    assert plain(page.evaluate(PROMPT)) == flatten(content, object_info)
    assert page.evaluate(HOST) == HOSTS[path.stem]
    screenshot(page, f"{path.stem}_loaded")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_changed_widgets_of_the_loop_reach_the_nodes_inside(page: Page, path: Path) -> None:
    load(page, path)
    page.evaluate(SET_WIDGETS, {"steps": 7, "cfg": 2.5})
    prompt = page.evaluate(PROMPT)
    (sampler,) = [part["inputs"] for part in prompt.values() if part["class_type"] == "KSampler"]
    switch = prompt[sampler["steps"][0]]["inputs"]
    assert (switch["steps"], switch["cfg"], switch["few_steps"]) == (7, 2.5, "off")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_nodes_do_not_overlap(page: Page, path: Path) -> None:
    load(page, path)
    assert overlapping(page.evaluate(BOXES, False)) == []
    assert overlapping(page.evaluate(BOXES, True)) == []
    page.evaluate("() => app.canvas.setGraph(app.graph.nodes.find(n => n.subgraph).subgraph)")
    screenshot(page, f"{path.stem}_inside")
    page.evaluate("() => app.canvas.setGraph(app.graph.rootGraph ?? app.graph)")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_runs_and_shows_its_video(page: Page, path: Path) -> None:
    load(page, path)
    page.evaluate(SET_WIDGETS, SMALL)
    page.evaluate(LISTEN)
    assert page.evaluate("async () => await app.queuePrompt(0, 1)")
    page.wait_for_function("() => window.events.length > 0", timeout=2 * TIMEOUT)
    kind, detail = page.evaluate("() => window.events.at(-1)")
    assert kind == "execution_success", detail
    look_until(page, "SaveVideo", VIDEO, [SMALL["width"], SMALL["height"]])
    report = page.evaluate(
        "() => app.graph.nodes.find(n => n.type === 'PreviewAny').widgets[0].value"
    )
    assert "37 frames of 96 x 64 in 2 chunks" in report
    look_until(page, "SaveVideo", GROWN)
    screenshot(page, f"{path.stem}_done")
    assert overlapping(page.evaluate(BOXES, False)) == [], "results cover other nodes"


def test_console_has_no_complaint_about_the_pack(page: Page, console: list[str]) -> None:
    """Judges what all tests above made the page say."""
    assert [line for line in console if "mirage" in line.lower()] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_missing_files_are_offered(page: Page, comfy_server: ComfyServer, path: Path) -> None:
    """Last in the file: on a server without the files, the browser says where to get them."""
    ComfyClient(comfy_server.url).post_json("/settings/Comfy.TutorialCompleted", True)
    page.goto(comfy_server.url, wait_until="domcontentloaded")
    page.wait_for_function(READY)
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    page.evaluate(
        "async ([content, name]) => { await app.loadGraphData(content, true, true, name) }",
        [content, path.stem],
    )
    page.get_by_text("View details").first.click()
    files = MODELS[path.stem]
    for file in files:
        page.get_by_text(file.name, exact=True).first.wait_for()
    offered = page.get_by_text("Download", exact=True)
    expect(offered).to_have_count(len(files), timeout=TIMEOUT)
    SCREENS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SCREENS / f"{path.stem}_missing.png"))
