"""From the template browser to a bent path and a finished preview, without typing a number."""

from __future__ import annotations

import base64
import json
from typing import Any

import av
import pytest

from dev.comfy_client import ComfyClient
from dev.comfy_server import PACK

from .hands import at, button, drag, stored

pytestmark = [pytest.mark.browser, pytest.mark.server]

TEMPLATE = "mirage_first_shot"
SIZE = {"width": 320, "height": 192, "frames": 33}

FASTER = """values => { for (const node of app.graph.nodes) for (const w of node.widgets ?? [])
    if (w.name in values) { w.value = values[w.name]; w.callback?.(w.value); } }"""
LOADED = """() => !app.extensionManager.workflow.activeWorkflow.changeTracker
    .constructor.isLoadingGraph"""
SHOW = """(kind) => {
    const node = app.graph.nodes.find((n) => n.type === kind);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [400 - node.pos[0], 120 - node.pos[1]];
    app.canvas.setDirty(true, true);
}"""


DROP = """([content, name]) => {
    const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], name, { type: "video/mp4" }));
    const place = { dataTransfer, clientX: 800, clientY: 500, bubbles: true, cancelable: true };
    for (const kind of ["dragenter", "dragover", "drop"])
        app.canvas.canvas.dispatchEvent(new DragEvent(kind, place));
}"""
NODES = "() => app.graph.nodes.map((n) => [n.id, n.type, [...n.pos]]).sort()"


@pytest.fixture(scope="module")
def opened(studio: Any) -> Any:
    """The template, chosen in the template browser and made small."""
    page = studio.page
    page.get_by_role("button", name="Templates").first.click()
    dialog = page.get_by_role("dialog").filter(has=page.get_by_text("All Templates"))
    dialog.get_by_placeholder("Search").fill("mirage")
    dialog.get_by_test_id(f"template-workflow-{TEMPLATE}").click()
    content = json.loads((PACK / "workflows" / f"{TEMPLATE}.json").read_text(encoding="utf-8"))
    page.wait_for_function("n => app.graph.nodes.length === n", arg=len(content["nodes"]))
    studio.wait("(w) => w?.model")
    # Only so that the test is quick: a person leaves these as they are.
    page.evaluate(FASTER, SIZE)
    # A template is brought into view a moment after it is there; only then is the view ours.
    page.wait_for_function(LOADED)
    page.evaluate(SHOW, "MirageTrajectory")
    studio.settle()
    return studio


def bend(studio: Any) -> None:
    """Add a keyframe where the timeline was clicked, and drag it with the mouse."""
    slider = studio.page.get_by_role("slider", name="Timeline")
    box = slider.bounding_box()
    studio.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] - 3)
    button(studio, "Add a keyframe here").click()
    before = stored(studio)
    index = studio.widget("(w) => w.model.selected")
    position = studio.widget("(w) => Array.from(w.model.keyframes[w.model.selected].position)")
    drag(studio, at(studio, position), (18, -22))
    after = stored(studio)
    assert after[index]["position"] != before[index]["position"]


def press_run(studio: Any) -> str:
    """Press the button that queues; the id of the prompt that ran."""
    count = studio.page.evaluate("() => window.runs.length")
    studio.page.get_by_test_id("queue-button").click()
    studio.page.wait_for_function("n => window.runs.length > n", arg=count)
    kind, detail = studio.page.evaluate("() => window.runs.at(-1)")
    assert kind == "execution_success", detail
    return str(detail["prompt_id"])


def test_a_bent_path_becomes_a_video(opened: Any) -> None:
    assert opened.value("keyframes") == ""
    bend(opened)
    bent = opened.value("keyframes")
    prompt_id = press_run(opened)

    (entry,) = ComfyClient(opened.server.url).get_json(f"/history/{prompt_id}").values()
    nodes = entry["prompt"][2].values()
    (move,) = [node["inputs"] for node in nodes if node["class_type"] == "MirageTrajectory"]
    assert move["keyframes"] == bent

    # What lies outside of the view is not on the page.
    opened.page.evaluate(SHOW, "SaveVideo")
    opened.page.wait_for_function(
        """size => [...document.querySelectorAll("video")].some((video) =>
            video.readyState >= 1 && video.videoWidth === size.width
            && video.videoHeight === size.height)""",
        arg=SIZE,
    )
    with av.open(str(opened.newest("first_shot_*.mp4"))) as video:
        assert sum(1 for _ in video.decode(video=0)) == SIZE["frames"]


def test_the_widget_then_shows_the_memory(opened: Any) -> None:
    """Not only the picture's depth: the template links the memory to the widget."""
    opened.wait("(w) => w.points.count > 0")
    assert opened.widget("(w) => w.view.codec") == "embedded-dct-1"


def test_the_joined_video_dropped_on_the_page_opens_its_workflow(opened: Any) -> None:
    """The shot's own file, as it lies in the folder of the shot."""
    videos = (opened.server.output / "mirage").rglob("video.mp4")
    # Other tests of the server may have made shots before.
    video = max(videos, key=lambda path: path.stat().st_mtime_ns)
    before = opened.page.evaluate(NODES), opened.value("keyframes")
    opened.page.evaluate("() => app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    opened.page.wait_for_function("() => app.graph.nodes.length === 0")
    content = base64.b64encode(video.read_bytes()).decode()
    opened.page.evaluate(DROP, [content, video.name])
    opened.page.wait_for_function("n => app.graph.nodes.length === n", arg=len(before[0]))
    opened.wait("(w) => w?.model?.source === 'keyframes'")
    assert (opened.page.evaluate(NODES), opened.value("keyframes")) == before


def test_console_has_no_complaint_about_the_pack(opened: Any) -> None:
    """Last in the file: judges what all tests above made the page say."""
    assert [line for line in opened.console if "mirage" in line.lower()] == []
    assert [line for line in opened.console if line.startswith("pageerror")] == []
