"""The blueprint around Wan2.2-Fun-5B-InP in ComfyUI's own frontend."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from dev.comfy_client import ComfyClient
from dev.comfy_server import PACK, ComfyServer
from dev.frontend_page import READY, TIMEOUT
from tiny_install import install, sampling_server
from workflows.flatten import flatten
from workflows.inpaint import INPAINT_LOOP, LOOP_FILES

from .test_frontend import BOXES, PROMPT, load, overlapping, plain, screenshot

pytestmark = [pytest.mark.browser, pytest.mark.server]

BLUEPRINT = PACK / "subgraphs" / f"{INPAINT_LOOP.name}.json"
HOST = """() => Object.fromEntries(app.graph.nodes.find(n => n.subgraph)
    .widgets.map(w => [w.name, w.value]))"""
CHANGE = """values => { for (const w of app.graph.nodes.find(n => n.subgraph).widgets)
    if (w.name in values) w.value = values[w.name] }"""


@pytest.fixture(scope="module")
def server(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server that holds every file which the blueprint names."""
    base = tmp_path_factory.mktemp("inpaint_browser")
    install(base)
    with sampling_server(base, comfyui_path) as running:
        ComfyClient(running.url).post_json("/settings/Comfy.TutorialCompleted", True)
        yield running


def test_the_browser_makes_the_same_prompt(page: Page, server: ComfyServer) -> None:
    content = load(page, BLUEPRINT)
    object_info = ComfyClient(server.url).object_info()
    assert plain(page.evaluate(PROMPT)) == flatten(content, object_info)
    assert page.evaluate(HOST) == INPAINT_LOOP.widgets


def test_widgets_of_the_loop_reach_the_nodes_inside(page: Page) -> None:
    load(page, BLUEPRINT)
    page.evaluate(CHANGE, {"prompt": "a hall", "negative_prompt": "fog", "steps": 3, "cfg": 1})
    prompt = page.evaluate(PROMPT)
    (sampler,) = [part["inputs"] for part in prompt.values() if part["class_type"] == "KSampler"]
    switch = prompt[sampler["steps"][0]]["inputs"]
    assert (switch["steps"], switch["cfg"]) == (3, 1)
    told = prompt[sampler["positive"][0]]["inputs"]
    assert prompt[told["positive"][0]]["inputs"]["text"] == "a hall"
    assert prompt[told["negative"][0]]["inputs"]["text"] == "fog"


def test_nodes_inside_do_not_overlap(page: Page) -> None:
    load(page, BLUEPRINT)
    page.evaluate("() => app.canvas.setGraph(app.graph.nodes.find(n => n.subgraph).subgraph)")
    screenshot(page, "inpaint_inside")
    page.evaluate("() => app.canvas.setGraph(app.graph.rootGraph ?? app.graph)")
    assert overlapping(page.evaluate(BOXES, True)) == []


def test_missing_files_are_offered(page: Page, comfy_server: ComfyServer) -> None:
    """Last in the file: on a server without the files, the browser says where to get them."""
    ComfyClient(comfy_server.url).post_json("/settings/Comfy.TutorialCompleted", True)
    page.goto(comfy_server.url, wait_until="domcontentloaded")
    page.wait_for_function(READY)
    content = json.loads(BLUEPRINT.read_text(encoding="utf-8"))
    page.evaluate("async (c) => { await app.loadGraphData(c, true, true, 'inpaint') }", content)
    page.get_by_text("View details").first.click()
    for file in LOOP_FILES:
        page.get_by_text(file.name, exact=True).first.wait_for()
    expect(page.get_by_text("Download", exact=True)).to_have_count(len(LOOP_FILES), timeout=TIMEOUT)
