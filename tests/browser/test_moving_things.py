"""The blueprint that finds what moves, in ComfyUI's own frontend and with its own estimators.

Qwen3-VL and SAM3.1 are files of the real names with few channels and made-up weights, read and
run by the native nodes of the blueprint.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from dev.comfy_client import ComfyClient
from dev.comfy_server import PACK, ComfyServer
from dev.frontend_page import READY, TIMEOUT
from workflows.dynamics import FILES, MOVING_THINGS

from .test_frontend import LISTEN, load, screenshot

pytestmark = [pytest.mark.browser, pytest.mark.server]

BLUEPRINT = PACK / "subgraphs" / f"{MOVING_THINGS.name}.json"

AROUND = """() => {
    const host = app.graph.nodes.find((n) => n.subgraph);
    const add = (type, x) => {
        const node = LiteGraph.createNode(type);
        node.pos = [x, 0];
        app.graph.add(node);
        return node;
    };
    const scene = add("MirageEmbeddedScene", -600);
    for (const w of scene.widgets) {
        if (w.name === "width") w.value = 96;
        if (w.name === "height") w.value = 64;
    }
    const slot = (name) => host.inputs.findIndex((input) => input.name === name);
    scene.connect(0, host, slot("frames"));
    scene.connect(0, host, slot("few_frames"));
    host.widgets.find((w) => w.name === "always").value = "sea";
    host.connect(0, add("MaskPreview", 700), 0);
    host.connect(1, add("PreviewAny", 1100), 0);
}"""


@pytest.fixture(scope="module")
def server(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server with small estimators under the names that the blueprint asks for."""
    base = tmp_path_factory.mktemp("moving_things")
    target = base / "custom_nodes" / "tiny_dynamics" / "__init__.py"
    target.parent.mkdir(parents=True)
    shutil.copyfile(PACK / "tests" / "support" / "tiny_dynamics.py", target)
    # ComfyUI's default for attention on a CPU takes many times as long.
    options = ["--use-pytorch-cross-attention"]
    with ComfyServer(base, comfyui=comfyui_path, extra_args=options) as running:
        ComfyClient(running.url).post_json("/settings/Comfy.TutorialCompleted", True)
        yield running


def test_the_blueprint_runs_with_native_estimators(page: Page) -> None:
    load(page, BLUEPRINT)
    page.evaluate(AROUND)
    page.evaluate(LISTEN)
    assert page.evaluate("async () => await app.queuePrompt(0, 1)")
    page.wait_for_function("() => window.events.length > 0", timeout=2 * TIMEOUT)
    ((kind, detail),) = page.evaluate("() => window.events")
    assert kind == "execution_success", detail
    named = page.evaluate(
        "() => app.graph.nodes.find((n) => n.type === 'PreviewAny').widgets[0].value"
    )
    assert named == "sea: 8, dog: 8"
    # What is off the screen may wait for its picture for ever.
    page.evaluate(
        "() => app.canvas.centerOnNode(app.graph.nodes.find((n) => n.type === 'MaskPreview'))"
    )
    shown = "app.graph.nodes.find((n) => n.type === 'MaskPreview').imgs?.[0]"
    page.wait_for_function(f"() => {shown}?.naturalWidth > 0")
    assert page.evaluate(f"() => [{shown}.naturalWidth, {shown}.naturalHeight]") == [96, 64]
    screenshot(page, "moving_things_done")


def test_missing_files_are_offered(page: Page, comfy_server: ComfyServer) -> None:
    """Last in the file: on a server without the files, the browser says where to get them."""
    ComfyClient(comfy_server.url).post_json("/settings/Comfy.TutorialCompleted", True)
    page.goto(comfy_server.url, wait_until="domcontentloaded")
    page.wait_for_function(READY)
    content = json.loads(BLUEPRINT.read_text(encoding="utf-8"))
    page.evaluate("async (c) => { await app.loadGraphData(c, true, true, 'moving') }", content)
    page.get_by_text("View details").first.click()
    for file in FILES:
        page.get_by_text(file.name, exact=True).first.wait_for()
    offered = page.get_by_text("Download", exact=True)
    expect(offered).to_have_count(len(FILES), timeout=TIMEOUT)
