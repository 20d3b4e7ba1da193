"""Directing a camera with mouse and keyboard, in both of ComfyUI's renderers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dev.comfy_client import ComfyClient
from dev.comfy_server import PACK
from mirage_core.trajectories.files import load_trajectory
from mirage_core.trajectories.keyframes import keyframe_trajectory, keyframes_from_json
from mirage_core.trajectories.presets import PRESETS

from .hands import KEYFRAMES, at, button, canvas, drag, drag_keyframe, press, stored

pytestmark = [pytest.mark.browser, pytest.mark.server]

SCREENS = PACK / "out" / "screens"
MOVES = 5
"""How often the graph is moved until a point lies in the middle; it takes two."""


OFF_MIDDLE = """(w, point) => {
    const { canvas } = w.viewport;
    w.viewport.render();
    const [x, y] = w.viewport.controls.project(point);
    const box = canvas.getBoundingClientRect();
    return [
        box.left + (x / canvas.width) * box.width - 800,
        box.top + (y / canvas.height) * box.height - 500,
    ];
}"""
SHIFT = """([scale, x, y]) => {
    const { ds } = app.canvas;
    ds.scale = scale;
    ds.offset[0] -= x / scale;
    ds.offset[1] -= y / scale;
}"""
NOTED = """(value) => {
    const { changeTracker } = app.extensionManager.workflow.activeWorkflow;
    const node = app.graph.nodes.find((n) => n.type === "MirageTrajectory");
    const index = node?.widgets.findIndex((w) => w.name === "keyframes");
    const noted = changeTracker.activeState.nodes.find((n) => String(n.id) === String(node?.id));
    return node?.widgets[index].value === value && noted?.widgets_values[index] === value;
}"""
"""ComfyUI has taken note of an edit, or is done with undoing one: before that it loses the next."""

CAPTURE = "() => app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState()"
UNTOUCHED = """() => {
    const { changeTracker } = app.extensionManager.workflow.activeWorkflow;
    const now = JSON.parse(JSON.stringify(app.graph.serialize()));
    return changeTracker.constructor.graphEqual(changeTracker.activeState, now);
}"""


def test_a_keyframe_is_added_and_dragged(studio: Any, modern: bool) -> None:
    assert studio.value("keyframes") == ""
    button(studio, "To the first frame").click()
    studio.widget("(w) => w.model.scrub(16)")
    button(studio, "Add a keyframe here").click()
    before = stored(studio)
    assert 16 in [key["frame"] for key in before]
    index = [key["frame"] for key in before].index(16)
    drag_keyframe(studio, index, (24, -30))

    after = stored(studio)
    moved = np.subtract(after[index]["position"], before[index]["position"])
    assert np.linalg.norm(moved) > 0.01 and moved[1] < 0, "up on the screen is up in the scene"
    others = [key for number, key in enumerate(before) if number != index]
    assert [key for number, key in enumerate(after) if number != index] == others
    now = studio.widget(KEYFRAMES)[index]["position"]
    found = studio.widget("(w) => Array.from(w.model.path.position.subarray(48, 51))")
    np.testing.assert_allclose(found, now, atol=1e-9)


def test_a_keyframe_is_aimed(studio: Any, modern: bool) -> None:
    studio.widget("(w) => w.model.addKeyframe(16)")
    chosen = studio.widget("(w) => w.model.selected")
    before = stored(studio)[chosen]
    aim = studio.widget(
        """(w) => {
            const [x, y, z, q] = w.model.keyframes[w.model.selected].quaternion;
            const { position } = w.model.keyframes[w.model.selected];
            const ahead = [2 * (x * z + y * q), 2 * (y * z - x * q), 1 - 2 * (x * x + y * y)];
            return position.map((value, i) => value + 0.4 * w.model.scene.depth * ahead[i]);
        }"""
    )
    drag(studio, at(studio, aim), (30, 10))
    after = stored(studio)[chosen]
    assert after["position"] == before["position"]
    assert not np.allclose(after["quaternion"], before["quaternion"], atol=1e-3)


def test_time_is_scrubbed_and_played(studio: Any, modern: bool) -> None:
    studio.wait("(w) => w.coverage.values.every(Number.isFinite)")
    slider = studio.page.get_by_role("slider", name="Timeline")

    def near(share: float, pixels: float = 0) -> Callable[[], list[float]]:
        def place() -> list[float]:
            box = slider.bounding_box()
            return [box["x"] + share * box["width"] + pixels, box["y"] + box["height"] - 3]

        return place

    drag(studio, near(0.5), (0, 0))
    assert int(slider.get_attribute("aria-valuenow")) == pytest.approx(16, abs=1)
    assert "% known" in slider.get_attribute("aria-valuetext")
    drag(studio, near(0, 4), (slider.bounding_box()["width"] - 6, 0))
    assert int(slider.get_attribute("aria-valuenow")) >= 31

    button(studio, "Play").click()
    studio.wait("(w) => w.model.frame > 2 && w.model.frame < 30")
    button(studio, "Pause").click()
    frame = studio.widget("(w) => w.model.frame")
    studio.settle()  # Some pictures later.
    assert studio.widget("(w) => w.model.frame") == frame
    assert studio.value("keyframes") == "", "looking changes nothing"


def test_keyframes_are_retimed_eased_and_deleted(studio: Any, modern: bool) -> None:
    studio.widget("(w) => w.model.addKeyframe(16)")
    index = [key["frame"] for key in stored(studio)].index(16)
    handle = studio.page.locator(".mirage-key").nth(index)

    def middle() -> list[float]:
        box = handle.bounding_box()
        return [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]

    studio.settle()
    width = studio.page.get_by_role("slider", name="Timeline").bounding_box()["width"]
    drag(studio, middle, (width * 3 / 32, 0))
    assert stored(studio)[index]["frame"] == pytest.approx(19, abs=1)

    frame = stored(studio)[index]["frame"]
    handle.focus()
    studio.page.keyboard.press("ArrowLeft")
    assert stored(studio)[index]["frame"] == frame - 1
    button(studio, "Speed from this keyframe to the next").select_option("ease_out")
    assert stored(studio)[index]["easing"] == "ease_out"
    count = len(stored(studio))
    handle.focus()
    studio.page.keyboard.press("Delete")
    assert len(stored(studio)) == count - 1
    assert studio.page.evaluate("() => app.graph.nodes.length") == 7, "no node was deleted"


def test_undo_and_redo_are_comfyuis(studio: Any, modern: bool) -> None:
    def noted(value: str) -> None:
        studio.page.wait_for_function(NOTED, arg=value)
        studio.wait("(w) => w?.points.count > 0")
        studio.settle()
        assert studio.page.evaluate(UNTOUCHED), "a new widget that changed the graph ends redo"

    studio.page.evaluate(CAPTURE)
    studio.widget("(w) => w.model.addKeyframe(16)")
    first = studio.value("keyframes")
    noted(first)
    studio.widget("(w) => { w.model.selected = 0; w.model.select(1); }")
    canvas(studio).focus()
    studio.page.keyboard.press("ArrowUp")
    second = studio.value("keyframes")
    assert second != first
    noted(second)

    studio.page.keyboard.press("Control+z")
    noted(first)
    assert studio.widget("(w) => w.model.source") == "keyframes"
    studio.page.keyboard.press("Control+z")
    noted("")
    studio.settle()
    assert studio.widget("(w) => w.model.source") == "preset"
    # Looking around is no change: what was undone can still be redone.
    slider = studio.page.get_by_role("slider", name="Timeline")
    box = slider.bounding_box()
    studio.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] - 3)
    place = studio.page.locator(".mirage-widget", has=studio.page.locator(".mirage-timeline"))
    place.get_by_role("button", name="Top", exact=True).click()
    studio.page.keyboard.press("Control+y")
    noted(first)
    studio.page.keyboard.press("Control+y")
    noted(second)
    assert studio.widget("(w) => w.container.isConnected"), "what is shown is the widget of now"
    assert studio.page.locator(".mirage-timeline").count() == 1


def test_a_preset_is_picked_then_edited(studio: Any, modern: bool) -> None:
    chooser = button(studio, "Preset")
    chooser.select_option("truck")
    assert (studio.value("preset"), studio.value("keyframes")) == ("truck", "")
    studio.widget("(w) => w.model.addKeyframe(12)")
    assert chooser.input_value() == ""
    assert [key["frame"] for key in stored(studio)] == [0, 12, 32]
    chooser.select_option("crane")
    assert (studio.value("preset"), studio.value("keyframes")) == ("crane", "")
    assert studio.widget("(w) => w.model.source") == "preset"


def test_the_nodes_own_inputs_move_the_drawn_path(studio: Any, modern: bool) -> None:
    studio.set_value("preset", "truck")
    end = "(w) => Array.from(w.model.path.position.slice(-3))"
    near = studio.widget(end)
    studio.set_value("amount", 2.0)
    np.testing.assert_allclose(np.array(studio.widget(end))[0], 4 * near[0], rtol=1e-6)
    studio.set_value("frames", 65)
    assert studio.widget("(w) => w.model.path.length") == 65


def test_a_path_is_drawn_by_dragging(studio: Any, modern: bool) -> None:
    button(studio, "Draw a path by dragging").click()
    assert studio.widget("(w) => w.viewport.controls.view") == "top"
    start = studio.widget("(w) => w.model.scene.start.position")
    x, y = press(studio, at(studio, start, beside=(0, -5)))
    for dx, dy in ((10, -7), (22, -20), (30, -33), (24, -45)):
        studio.page.mouse.move(x + dx, y + dy, steps=3)
    studio.page.mouse.up()
    keys = stored(studio)
    assert keys[0]["frame"] == 0 and keys[-1]["frame"] == 32 and len(keys) >= 3
    np.testing.assert_allclose(keys[0]["position"], [0, 0, 0], atol=1e-6)
    heights = [key["position"][1] for key in keys]
    assert np.ptp(heights) < 1e-6 and max(key["position"][0] for key in keys) > 0.02


def test_walking_is_recorded(studio: Any, modern: bool) -> None:
    button(studio, "Walk with W A S D and the arrow keys, and record it").click()
    studio.wait("(w) => w.walk.active")
    studio.page.keyboard.down("w")
    studio.wait("(w) => w.walk.recorder.steps >= 6")
    studio.page.keyboard.down("ArrowRight")
    steps = studio.widget("(w) => w.walk.recorder.steps")
    studio.wait("(w, steps) => w.walk.recorder.steps >= steps + 5", steps)
    studio.page.keyboard.up("ArrowRight")
    studio.page.keyboard.up("w")
    studio.page.keyboard.press("Enter")
    keys = studio.value("keys")
    assert keys.startswith("w*") and "lw*" in keys
    assert studio.widget("(w) => [w.model.source, w.walk.active]") == ["keys", False]
    kind, detail = studio.run()
    assert kind == "execution_success", detail
    path = load_trajectory(studio.newest("widget_*.json"))
    drawn = studio.widget("(w) => Array.from(w.model.path.position)")
    np.testing.assert_allclose(np.reshape(drawn, (-1, 3)), path.positions.numpy(), atol=1e-5)


def test_the_value_that_reaches_the_server(studio: Any, modern: bool) -> None:
    studio.widget("(w) => w.model.addKeyframe(20)")
    studio.widget("(w) => w.model.edit((keys) => (keys[1].position[0] += 0.2))")
    value = studio.value("keyframes")
    kind, detail = studio.run()
    assert kind == "execution_success", detail
    history = ComfyClient(studio.server.url).get_json(f"/history/{detail['prompt_id']}")
    (entry,) = history.values()
    nodes = entry["prompt"][2].values()
    (sent,) = [node["inputs"] for node in nodes if node["class_type"] == "MirageTrajectory"]
    assert sent["keyframes"] == value
    assert "mirage_view" not in sent
    path = load_trajectory(studio.newest("widget_*.json"))
    view = studio.widget("(w) => w.view")
    start = np.array(view["start"])
    keys = keyframes_from_json(
        value, scene_depth=view["depth"], start=path.world_to_camera.new_tensor(start)
    )
    fx, fy, cx, cy = view["intrinsics"]
    lens = path.intrinsics.new_tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    wanted = keyframe_trajectory(keys, 33, intrinsics=lens, width=path.width, height=path.height)
    np.testing.assert_allclose(path.positions.numpy(), wanted.positions.numpy(), atol=1e-9)
    drawn = studio.widget("(w) => Array.from(w.model.path.position)")
    np.testing.assert_allclose(np.reshape(drawn, (-1, 3)), wanted.positions.numpy(), atol=1e-5)


def test_saved_and_opened_again(
    studio: Any, modern: bool, reload_page: Callable[[Any], None]
) -> None:
    studio.widget("(w) => w.model.addKeyframe(8)")
    value = studio.value("keyframes")
    saved = studio.page.evaluate("() => app.graph.serialize()")
    (node,) = [n for n in saved["nodes"] if n["type"] == "MirageTrajectory"]
    assert value in node["widgets_values"]
    assert len(node["widgets_values"]) == 8, "the drawing itself is no value"
    reload_page(studio)
    studio.page.evaluate("async (w) => await app.loadGraphData(w, true, true, 'again')", saved)
    studio.wait("(w) => w?.model?.source === 'keyframes'")
    assert studio.value("keyframes") == value
    # The server still has the points: nothing has to be queued to see them.
    studio.wait("(w) => w.points.count > 0")


def test_everything_can_be_reached_and_is_named(studio: Any, modern: bool) -> None:
    studio.widget("(w) => w.model.addKeyframe(8)")
    unnamed = studio.widget(
        """(w) => [...w.container.querySelectorAll("button, select, canvas, [tabindex]")]
            .filter((e) => !(e.getAttribute("aria-label") || e.textContent.trim()))
            .map((e) => e.outerHTML)"""
    )
    assert unnamed == []
    canvas(studio).focus()
    seen = set()
    for _ in range(12):
        studio.page.keyboard.press("Tab")
        seen.add(studio.page.evaluate("() => document.activeElement.className"))
    assert {"mirage-track", "mirage-key", "mirage-button"} <= seen
    slider = studio.page.get_by_role("slider", name="Timeline")
    slider.focus()
    studio.page.keyboard.press("End")
    assert slider.get_attribute("aria-valuenow") == "32"
    studio.page.keyboard.press("Home")
    studio.page.keyboard.press("Shift+ArrowRight")
    assert slider.get_attribute("aria-valuenow") == "4"
    studio.page.keyboard.press("k")
    assert 4 in [key["frame"] for key in stored(studio)]


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("width", [380, 520, 900])
def test_screenshots(studio: Any, modern: bool, theme: str, width: int) -> None:
    """Pictures for people; what a program can see is that nothing overflows."""
    studio.setting("Comfy.ColorPalette", theme)
    studio.widget("(w) => { w.model.addKeyframe(16); w.viewport.setView('orbit'); }")
    studio.page.evaluate(
        """(width) => {
            const node = app.graph.nodes.find((n) => n.type === "MirageTrajectory");
            node.setSize([width, 760]);
            const info = app.graph.nodes.find((n) => n.type === "MirageCacheInfo");
            info.pos = [380 + width, 0];
            const saves = app.graph.nodes.filter((n) => n.type.endsWith("Save"));
            saves.forEach((n, i) => (n.pos = [380 + width, 500 + 130 * i]));
            app.canvas.ds.offset = [-270, 100];
            app.canvas.setDirty(true, true);
        }""",
        width,
    )
    studio.wait("(w) => w.coverage.values.every(Number.isFinite)")
    studio.settle()
    # The theme and the points are on the screen with the next picture.
    studio.settle()
    SCREENS.mkdir(parents=True, exist_ok=True)
    name = f"widget_{'nodes2' if modern else 'classic'}_{theme}_{width}.png"
    studio.page.screenshot(path=str(SCREENS / name))
    studio.setting("Comfy.ColorPalette", "dark")
    wide = studio.widget("(w) => [w.container.scrollWidth, w.container.clientWidth]")
    assert wide[0] <= wide[1] + 1
    tall = studio.widget("(w) => [w.container.scrollHeight, w.container.clientHeight]")
    assert tall[0] <= tall[1] + 1


@pytest.mark.parametrize("scale", [1.0, 1.5, 2.0])
def test_zoomed_pages_keep_the_pointer_on_the_handles(
    studio: Any, modern: bool, scale: float
) -> None:
    studio.widget("(w) => w.model.addKeyframe(16)")
    index = studio.widget("(w) => w.model.selected")
    before = stored(studio)
    position = studio.widget(KEYFRAMES)[index]["position"]
    away = (0.0, 0.0)
    for _ in range(MOVES):
        studio.page.evaluate(SHIFT, [scale, *away])
        studio.settle()
        away = studio.widget(OFF_MIDDLE, position)
        if np.hypot(*away) < 3:
            break
    assert np.hypot(*away) < 3
    drag_keyframe(studio, index, (12, 0))
    assert stored(studio)[index]["position"] != before[index]["position"]


def test_without_the_script_plain_inputs_do_it(studio: Any) -> None:
    page = studio.page.context.browser.new_page()
    page.route("**/extensions/mirage/mirage.js", lambda route: route.abort())
    page.goto(studio.server.url, wait_until="domcontentloaded")
    page.wait_for_function("() => window.LiteGraph?.registered_node_types?.MirageLoopClose")
    names = page.evaluate(
        """() => {
            const node = LiteGraph.createNode("MirageTrajectory");
            return [node.widgets.map((w) => w.name),
                node.widgets.find((w) => w.name === "preset").options.values];
        }"""
    )
    page.close()
    assert "mirage_view" not in names[0] and {"preset", "amount", "keyframes"} <= set(names[0])
    assert names[1] == list(PRESETS)


def test_console_has_no_complaint_about_the_pack(studio: Any) -> None:
    """Last in the file: judges what all tests above made the page say."""
    complaints = [line for line in studio.console if "mirage" in line.lower()]
    assert complaints == []
    assert [line for line in studio.console if line.startswith("pageerror")] == []
    assert Path(SCREENS).is_dir()
