"""The shipped files in ComfyUI's own frontend: loaded, queued and looked at in Chromium."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from dev.comfy_client import ComfyClient
from dev.comfy_server import PACK, ComfyServer
from dev.frontend_page import open_page
from workflows.flatten import flatten, model_files

pytestmark = [pytest.mark.browser, pytest.mark.server]

WORKFLOWS = [
    path
    for path in sorted((PACK / "workflows").glob("*.json"))
    if not model_files(json.loads(path.read_text("utf-8")))
]
"""Those that need no download; `test_sampling_workflows` has the others."""

ALL = sorted((PACK / "workflows").glob("*.json"))
BLUEPRINTS = sorted((PACK / "subgraphs").glob("*.json"))
SCREENS = PACK / "out" / "screens"
SMALL = {"width": 192, "height": 128, "frames": 37}
ABOVE = 50
"""Height of a node's title bar and of the badge with the pack's name on top of it."""

LOAD = "async ([content, name]) => { await app.loadGraphData(content, true, true, name) }"
PROMPT = "async () => (await app.graphToPrompt()).output"
SET_WIDGETS = """values => { for (const node of app.graph.nodes) for (const w of node.widgets ?? [])
    if (w.name in values && node.type !== "MiragePlaceActor") w.value = values[w.name] }"""
"""An actor's height is in scene units."""
CONTROLS = """() => app.graph.nodes.flatMap(n => [n, ...(n.subgraph?.nodes ?? [])])
    .flatMap(n => n.widgets ?? []).filter(w => w.name === "control_after_generate")
    .map(w => w.value)"""
LISTEN = """() => {
    // The page is shared: one listener, however many workflows run on it.
    const heard = Boolean(window.events);
    window.events = [];
    if (heard) return;
    for (const kind of ["execution_success", "execution_error", "execution_interrupted"])
        comfyAPI.api.api.addEventListener(kind, e => window.events.push([kind, e.detail]));
}"""
VIDEO = """([width, height]) => [...document.querySelectorAll("video")].some((video) =>
    video.readyState >= 1 && video.videoWidth === width && video.videoHeight === height)"""
GROWN = "() => app.graph.nodes.find(n => n.type === 'SaveVideo').size[1] > 200"
"""The node grows when its video is there."""

BOXES = """graph => (graph ? app.graph.nodes.find(n => n.subgraph).subgraph : app.graph).nodes
    .map(n => [n.title, ...n.pos, ...(n.flags.collapsed
        ? [n._collapsed_width ?? 160, 0, 0, 0] : [...n.size, ...n.computeSize()])])"""


@pytest.fixture(scope="module")
def object_info(comfy_server: ComfyServer) -> dict[str, Any]:
    return ComfyClient(comfy_server.url).object_info()


@pytest.fixture(scope="module")
def page(chromium: str, comfy_server: ComfyServer, console: list[str]) -> Iterator[Page]:
    # Without this the frontend greets a new user with a dialog.
    ComfyClient(comfy_server.url).post_json("/settings/Comfy.TutorialCompleted", True)
    with open_page(chromium, comfy_server.url, console) as page:
        yield page


def load(page: Page, path: Path) -> dict[str, Any]:
    """Open a workflow file as by dropping it on the canvas."""
    content = json.loads(path.read_text(encoding="utf-8"))
    page.evaluate(LOAD, [content, path.stem])
    return content


def look_until(page: Page, kind: str, condition: str, argument: Any = None) -> None:
    """Keep a node in the middle of the view until something is so.

    What is off the screen may wait for its picture for ever, and the frontend brings a workflow
    that was just opened into its own view a moment later.
    """
    code = f"""([kind, argument]) => {{
        app.canvas.centerOnNode(app.graph.nodes.find((node) => node.type === kind));
        return ({condition})(argument);
    }}"""
    page.wait_for_function(code, arg=[kind, argument], polling=100)


def screenshot(page: Page, name: str) -> None:
    SCREENS.mkdir(parents=True, exist_ok=True)
    page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    # FitView glides; the picture is for people, so wait until the view stands still.
    page.wait_for_function(
        """() => { const { scale, offset } = app.canvas.ds;
            const now = JSON.stringify([scale, ...offset]);
            const still = window.view === now; window.view = now; return still }""",
        polling=200,
    )
    page.screenshot(path=str(SCREENS / f"{name}.png"))


def plain(prompt: dict[str, Any]) -> dict[str, Any]:
    """A prompt without the titles that the browser adds."""
    keys = ("class_type", "inputs")
    return {number: {key: node[key] for key in keys} for number, node in prompt.items()}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_browser_makes_the_same_prompt(page: Page, object_info: dict[str, Any], path: Path) -> None:
    content = load(page, path)
    screenshot(page, f"{path.stem}_loaded")
    assert plain(page.evaluate(PROMPT)) == flatten(content, object_info)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_no_seed_changes_by_itself(page: Page, path: Path) -> None:
    """The page gives every seed a control, whether the node asks for it or not."""
    load(page, path)
    controls = page.evaluate(CONTROLS)
    assert len(controls) >= 1 and set(controls) == {"fixed"}


OPENED = """() => {
    const { scale, offset } = app.canvas.ds;
    const { changeTracker } = app.extensionManager.workflow.activeWorkflow;
    const now = JSON.stringify([scale, ...offset]);
    const still = !changeTracker.constructor.isLoadingGraph && window.seenFrom === now;
    window.seenFrom = now;
    return still;
}"""
BEHIND = """() => {
    const move = app.graph.nodes.find((n) => n.type === "MirageTrajectory");
    const [left, top] = move.pos;
    const [right, bottom] = [left + move.size[0], top + move.size[1]];
    const found = [];
    for (const link of app.graph.links.values()) {
        const [from, to] = [link.origin_id, link.target_id].map((id) => app.graph.getNodeById(id));
        if (from === move || to === move) continue;
        const a = from.getConnectionPos(false, link.origin_slot);
        const b = to.getConnectionPos(true, link.target_slot);
        // As the frontend draws it: a curve that leaves to the right and arrives from the left.
        const away = 0.25 * Math.hypot(a[0] - b[0], a[1] - b[1]);
        const [p, q] = [[a[0] + away, a[1]], [b[0] - away, b[1]]];
        for (let t = 0; t <= 1; t += 0.01) {
            const [u, v] = [1 - t, t];
            const [x, y] = [0, 1].map((i) => u ** 3 * a[i] + 3 * u * u * v * p[i]
                + 3 * u * v * v * q[i] + v ** 3 * b[i]);
            if (x > left && x < right && y > top && y < bottom) {
                found.push(`${from.title} to ${to.title}`);
                break;
            }
        }
    }
    return found;
}"""


def open_template(page: Page, path: Path, width: int, height: int) -> float:
    """Open a workflow as a template on a page of a size; how large it is drawn then."""
    page.set_viewport_size({"width": width, "height": height})
    page.evaluate("() => { window.seenFrom = null; }")
    content = json.loads(path.read_text(encoding="utf-8"))
    page.evaluate(
        """async ([content, name]) => await app.loadGraphData(
            content, true, true, name, { openSource: "template" })""",
        [content, path.stem],
    )
    # It is brought into view a moment after it is there.
    page.wait_for_function(OPENED, polling=400)
    return float(page.evaluate("() => app.canvas.ds.scale"))


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_a_template_opens_so_large_that_titles_can_be_read(page: Page, path: Path) -> None:
    scale = open_template(page, path, 1440, 900)
    screenshot(page, f"{path.stem}_opened")
    assert scale >= 0.6
    assert len(page.evaluate(BEHIND)) < 2, "wires run behind Mirage Trajectory"
    page.set_viewport_size({"width": 1920, "height": 1080})


def overlapping(boxes: list[list[Any]]) -> list[tuple[str, str]]:
    """Pairs of nodes whose frames, title bars and badges included, lie over each other."""
    frames = [
        (title, x, y - ABOVE, x + max(w, least_w), y + max(h, least_h))
        for title, x, y, w, h, least_w, least_h in boxes
    ]
    return [
        (a[0], b[0])
        for number, a in enumerate(frames)
        for b in frames[number + 1 :]
        if a[1] < b[3] and b[1] < a[3] and a[2] < b[4] and b[2] < a[4]
    ]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_nodes_do_not_overlap(page: Page, path: Path) -> None:
    load(page, path)
    assert overlapping(page.evaluate(BOXES, False)) == []
    assert overlapping(page.evaluate(BOXES, True)) == []
    page.evaluate("() => app.canvas.setGraph(app.graph.nodes.find(n => n.subgraph).subgraph)")
    screenshot(page, f"{path.stem}_inside")
    page.evaluate("() => app.canvas.setGraph(app.graph.rootGraph ?? app.graph)")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_runs_and_shows_its_results(
    page: Page, comfy_server: ComfyServer, path: Path
) -> None:
    load(page, path)
    page.evaluate(SET_WIDGETS, SMALL)
    page.evaluate(LISTEN)
    assert page.evaluate("async () => await app.queuePrompt(0, 1)")
    page.wait_for_function("() => window.events.length > 0")
    ((kind, detail),) = page.evaluate("() => window.events")
    assert kind == "execution_success", detail

    # The video plays on Save Video, the contact sheet stands on Save Image.
    look_until(page, "SaveVideo", VIDEO, [SMALL["width"], SMALL["height"]])
    shown = "app.graph.nodes.find(n => n.type === 'SaveImage').imgs?.[0]?.naturalWidth > 0"
    look_until(page, "SaveImage", f"() => {shown}")
    look_until(page, "SaveVideo", GROWN)
    report = page.evaluate(
        "() => app.graph.nodes.find(n => n.type === 'PreviewAny').widgets[0].value"
    )
    assert "37 frames of 192 x 128 in 2 chunks" in report
    screenshot(page, f"{path.stem}_done")
    assert overlapping(page.evaluate(BOXES, False)) == [], "results cover other nodes"


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_blueprint_is_in_the_node_library(page: Page, path: Path) -> None:
    page.evaluate("() => app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    page.wait_for_function("() => app.graph.nodes.length === 0")
    page.evaluate("() => app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    page.get_by_placeholder("Add a node...").fill(path.stem)
    # Names of other blueprints begin alike.
    whole = re.compile(rf"{re.escape(path.stem)}(?! \()")
    page.get_by_role("option").filter(has_text=whole).first.click()
    page.mouse.click(900, 500)
    page.wait_for_function("() => app.graph.nodes.length === 1")
    name, inputs, inner = page.evaluate(
        """() => { const [n] = app.graph.nodes; return [n.title, n.inputs.map(i => i.type),
            n.subgraph.nodes.map(i => i.type).sort()] }"""
    )
    shipped = json.loads(path.read_text(encoding="utf-8"))["definitions"]["subgraphs"][0]
    assert name == path.stem
    assert inputs == [slot["type"] for slot in shipped["inputs"]]
    assert inner == sorted(node["type"] for node in shipped["nodes"])
    screenshot(page, "blueprint_added")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_template_opens_from_the_browser(page: Page, path: Path) -> None:
    page.evaluate("() => app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    page.wait_for_function("() => app.graph.nodes.length === 0")
    page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    dialog = page.get_by_role("dialog").filter(has=page.get_by_text("All Templates"))
    dialog.get_by_placeholder("Search").fill("mirage")
    card = dialog.get_by_test_id(f"template-workflow-{path.stem}")
    card.wait_for()
    # Not by a handle: the list is made anew when the search takes hold.
    page.wait_for_function(
        "id => document.querySelector(`[data-testid='${id}'] img`)?.naturalWidth > 0",
        arg=f"template-workflow-{path.stem}",
    )
    SCREENS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SCREENS / "templates.png"))
    card.click()
    expected = len(json.loads(path.read_text(encoding="utf-8"))["nodes"])
    page.wait_for_function("count => app.graph.nodes.length === count", arg=expected)


def test_console_has_no_complaint_about_the_pack(page: Page, console: list[str]) -> None:
    """Last in the file: judges what all tests above made the page say."""
    assert page.evaluate("() => app.graph.nodes.length") > 0
    assert [line for line in console if "mirage" in line.lower()] == []
