"""Looking around in the widget's view with the mouse, in both of ComfyUI's renderers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .hands import drag, drag_keyframe, stored

pytestmark = [pytest.mark.browser, pytest.mark.server]

CORNER = """(w) => {
    w.viewport.render();
    const box = w.viewport.canvas.getBoundingClientRect();
    return [box.left + 30, box.bottom - 30];
}"""
"""A place of the view where nothing is that could be dragged."""

LOOK = """(w) => {
    const { view, yaw, pitch, target, distance } = w.viewport.controls;
    return { view, yaw, pitch, target: [...target], distance };
}"""
PANEL = "Comfy.RightSidePanel.IsOpen"
SELECT = """() => {
    const node = app.graph.nodes.find((n) => n.type === "MirageTrajectory");
    app.canvas.deselectAll();
    app.canvas.select(node);
    app.canvas.onSelectionChange?.(app.canvas.selected_nodes);
}"""
GRAPH = "() => [app.canvas.ds.scale, ...app.canvas.ds.offset]"
INPUTS = """(w) => w.node.widgets.filter((x) => x.name !== "mirage_view").map((x) => x.value)"""


def swipe(studio: Any, by: tuple[float, float], button: str = "left") -> None:
    """Drag from an empty place of the view."""
    drag(studio, lambda: studio.widget(CORNER), by, button)


@pytest.fixture
def untouched(studio: Any, modern: bool) -> Any:
    """Looking around changes neither the shot, nor where the graph is seen from."""
    before = studio.widget(INPUTS), studio.page.evaluate(GRAPH)
    yield
    assert (studio.widget(INPUTS), studio.page.evaluate(GRAPH)) == before


def test_dragging_orbits(studio: Any, untouched: None) -> None:
    before = studio.widget(LOOK)
    swipe(studio, (40, -20))
    after = studio.widget(LOOK)
    height = studio.widget("(w) => w.viewport.canvas.clientHeight")
    assert after["yaw"] - before["yaw"] == pytest.approx(3 * 40 / height, rel=0.05)
    assert after["pitch"] - before["pitch"] == pytest.approx(3 * 20 / height, rel=0.05)
    assert (after["target"], after["distance"]) == (before["target"], before["distance"])


@pytest.mark.parametrize("how", ["right", "Shift"])
def test_the_right_button_or_shift_pans(studio: Any, untouched: None, how: str) -> None:
    before = studio.widget(LOOK)
    seen = "(w, point) => w.viewport.controls.project(point).slice(0, 2)"
    ratio = studio.widget("(w) => w.viewport.ratio")
    start = studio.widget(seen, before["target"])
    if how == "Shift":
        studio.page.keyboard.down("Shift")
        swipe(studio, (36, -24))
        studio.page.keyboard.up("Shift")
    else:
        swipe(studio, (36, -24), how)
    after = studio.widget(LOOK)
    assert [after[k] for k in ("yaw", "pitch")] == [before[k] for k in ("yaw", "pitch")]
    moved = np.subtract(studio.widget(seen, before["target"]), start) / ratio
    np.testing.assert_allclose(moved, [36, -24], atol=1.5)


def test_the_wheel_zooms(studio: Any, untouched: None) -> None:
    studio.settle()
    x, y = studio.widget(CORNER)
    studio.page.mouse.click(x, y)
    before = studio.widget(LOOK)
    studio.page.mouse.wheel(0, -200)
    studio.wait("(w, from) => w.viewport.controls.distance < 0.9 * from", before["distance"])
    studio.page.mouse.wheel(0, 200)
    studio.wait(
        "(w, from) => Math.abs(w.viewport.controls.distance / from - 1) < 1e-6", before["distance"]
    )
    after = studio.widget(LOOK)
    assert [after[k] for k in ("yaw", "pitch", "target")] == [
        before[k] for k in ("yaw", "pitch", "target")
    ]


def test_from_above_dragging_pans(studio: Any, untouched: None) -> None:
    place = studio.page.locator(".mirage-widget", has=studio.page.locator(".mirage-timeline"))
    place.get_by_role("button", name="Top", exact=True).click()
    before = studio.widget(LOOK)
    assert before["view"] == "top"
    swipe(studio, (30, 18))
    after = studio.widget(LOOK)
    assert after["view"] == "top" and after["yaw"] == before["yaw"]
    assert np.linalg.norm(np.subtract(after["target"], before["target"])) > 0


@pytest.fixture
def panel(studio: Any, modern: bool) -> Any:
    """ComfyUI's panel of parameters, open for the trajectory node."""
    studio.setting(PANEL, True)
    studio.page.evaluate(SELECT)
    place = studio.page.get_by_test_id("properties-panel")
    place.get_by_text("there and back", exact=True).wait_for()
    yield place
    studio.setting(PANEL, False)


def test_the_panel_of_parameters_leaves_the_view_on_its_node(studio: Any, panel: Any) -> None:
    """The panel shows the inputs of what is selected; it must not take the view for itself."""
    assert panel.get_by_text("mirage_view").count() == 0
    before = studio.widget(LOOK)
    swipe(studio, (40, 0))
    assert studio.widget(LOOK)["yaw"] > before["yaw"]
    studio.widget("(w) => w.model.addKeyframe(16)")
    index = studio.widget("(w) => w.model.selected")
    before = stored(studio)[index]["position"]
    drag_keyframe(studio, index, (12, 0))
    assert stored(studio)[index]["position"] != before
