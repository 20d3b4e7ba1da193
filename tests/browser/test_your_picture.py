"""The template for an artist's own picture in ComfyUI's own frontend."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from dev.comfy_client import ComfyClient
from dev.comfy_server import PACK, ComfyServer
from dev.frontend_page import TIMEOUT
from tiny_install import install, sampling_server
from workflows.files import MOGE
from workflows.flatten import flatten

from .test_frontend import (
    BOXES,
    LISTEN,
    PROMPT,
    VIDEO,
    load,
    look_until,
    overlapping,
    plain,
    screenshot,
)
from .test_sampling_workflows import SET_WIDGETS

pytestmark = [pytest.mark.browser, pytest.mark.server]

PATH = PACK / "workflows" / "mirage_your_picture.json"
HOSTS = """() => app.graph.nodes.filter(n => n.subgraph).map(n =>
    Object.fromEntries(n.widgets.map(w => [w.name, w.value])))"""
SHOWN = """() => [...document.querySelectorAll('.mirage-widget')].some((element) =>
    element.parentElement?.mirage?.points?.count > 0)"""

MASK = """(name) => {
    const node = app.graph.nodes.find((n) => n.type === "MirageTrajectory");
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [200 - node.pos[0], 100 - node.pos[1]];
    app.canvas.setDirty(true, true);
    const widget = node.widgets.find((w) => w.name === "mirage_view")?.element?.mirage;
    widget?.editor.director.mask(name);
    // It is brought into view a moment after it was opened.
    const { changeTracker } = app.extensionManager.workflow.activeWorkflow;
    return widget?.container.isConnected && !changeTracker.constructor.isLoadingGraph;
}"""


@pytest.fixture(scope="module")
def server(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server with the depth model that the template names."""
    base = tmp_path_factory.mktemp("your_picture")
    install(base, (150, 100))
    with sampling_server(base, comfyui_path) as running:
        # Without this the frontend greets a new user with a dialog.
        ComfyClient(running.url).post_json("/settings/Comfy.TutorialCompleted", True)
        yield running


def test_browser_makes_the_same_prompt(page: Page, server: ComfyServer) -> None:
    content = load(page, PATH)
    object_info = ComfyClient(server.url).object_info()
    assert plain(page.evaluate(PROMPT)) == flatten(content, object_info)
    assert page.evaluate(HOSTS)[0] == {
        "depth_model": MOGE.name, "megapixels": 0.9, "fov": 0, "width": 0, "height": 0
    }  # fmt: skip
    screenshot(page, "mirage_your_picture_loaded")


def test_nodes_do_not_overlap(page: Page) -> None:
    load(page, PATH)
    assert overlapping(page.evaluate(BOXES, False)) == []
    assert overlapping(page.evaluate(BOXES, True)) == []


def test_the_shape_of_a_mask_becomes_the_pictures_size(page: Page) -> None:
    """On the blueprint, from where it reaches the node inside."""
    load(page, PATH)
    page.evaluate(SET_WIDGETS, {"megapixels": 0.01})
    place = page.locator(".mirage-widget", has=page.locator(".mirage-timeline"))
    page.wait_for_function(MASK, arg="9:16")
    place.get_by_role("button", name="The shot: speed, lens, shake, cameras, takes").click()
    offer = place.get_by_role("button", name="Give the picture this shape")
    width, height = (int(side) for side in offer.inner_text().split(" x "))
    assert abs(math.log(width / height * 16 / 9)) < 0.1
    offer.click()
    assert offer.is_disabled()
    host = page.evaluate(HOSTS)[0]
    assert (host["width"], host["height"]) == (width, height)
    made = [
        node["inputs"] for node in page.evaluate(PROMPT).values()
        if node["class_type"] == "MiragePictureGeometry"
    ]  # fmt: skip
    assert [(node["width"], node["height"]) for node in made] == [(width, height)]


def test_it_runs_and_shows_depth_scene_and_video(page: Page) -> None:
    load(page, PATH)
    page.evaluate(SET_WIDGETS, {"megapixels": 0.01, "frames": 37})
    page.evaluate(LISTEN)
    assert page.evaluate("async () => await app.queuePrompt(0, 1)")
    page.wait_for_function("() => window.events.length > 0", timeout=2 * TIMEOUT)
    kind, detail = page.evaluate("() => window.events.at(-1)")
    assert kind == "execution_success", detail
    look_until(page, "SaveVideo", VIDEO, [128, 96])
    look_until(
        page, "PreviewImage",
        """() => app.graph.nodes.find(n => n.type === 'PreviewImage').imgs?.[0].naturalWidth === 128
            || [...document.querySelectorAll('img')].some(image => image.naturalWidth === 128)""",
    )  # fmt: skip
    look_until(page, "MirageTrajectory", SHOWN)
    screenshot(page, "mirage_your_picture_done")
    assert overlapping(page.evaluate(BOXES, False)) == [], "results cover other nodes"


def test_console_has_no_complaint_about_the_pack(page: Page, console: list[str]) -> None:
    """Judges what all tests above made the page say."""
    assert [line for line in console if "mirage" in line.lower()] == []
