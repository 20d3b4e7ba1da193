"""What the widget's view shows, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from .hands import button

pytestmark = [pytest.mark.browser, pytest.mark.server]

LOOK = """(w) => {
    const { yaw, pitch, target, distance } = w.viewport.controls;
    return [yaw, pitch, distance, ...target];
}"""
PICTURE = """(w) => {
    w.viewport.render();
    return w.viewport.canvas.toDataURL();
}"""


def test_points_that_come_late_are_brought_into_view(
    studio: Any, modern: bool, reload_page: Callable[[Any], None]
) -> None:
    """The node is made anew between a report and its points, as when a workflow is opened."""
    saved = studio.page.evaluate("() => app.graph.serialize()")
    held: list[Any] = []
    late = True

    def hold(route: Any) -> None:
        if late:
            held.append(route)
        else:
            route.continue_()

    studio.page.route("**/api/view?*", hold)
    reload_page(studio)
    studio.wait("(w) => w?.view")
    studio.page.evaluate("async (w) => await app.loadGraphData(w, true, true, 'late')", saved)
    studio.wait("(w) => w?.view && !w.points.count")
    late = False
    for route in held:
        route.continue_()
    studio.wait("(w) => w?.points.count > 0")
    studio.page.unroute("**/api/view?*")
    shown = studio.widget(LOOK)
    button(studio, "Show everything").click()
    np.testing.assert_allclose(shown, studio.widget(LOOK))


def test_the_shots_camera_shows_the_frame_that_is_scrubbed_to(studio: Any, modern: bool) -> None:
    studio.widget("(w) => { w.viewport.setView('camera'); w.model.scrub(2); w.viewport.render(); }")
    studio.widget("(w) => w.model.scrub(30)")
    first = studio.widget(PICTURE)
    assert studio.widget(PICTURE) == first
    studio.widget("(w) => w.model.scrub(2)")
    assert studio.widget(PICTURE) != first


def test_two_graphs_opened_from_one_template_share_no_view(studio: Any, modern: bool) -> None:
    """They share the template's id, but neither the way they are looked at nor what one ran."""
    template = studio.page.evaluate("() => app.graph.serialize()")
    del template["extra"]["mirage_opened"]

    def open_as(name: str, graph: Any) -> None:
        before = studio.page.evaluate("() => (window.looked = app.graph.nodes[0]).id")
        studio.page.evaluate(
            "async ([w, name]) => await app.loadGraphData(w, true, true, name)", [graph, name]
        )
        studio.page.wait_for_function(
            "id => app.graph.nodes.length && app.graph.nodes[0] !== window.looked", arg=before
        )
        studio.wait("(w) => w?.model")

    open_as("one", template)
    studio.see()
    studio.widget("(w) => { w.viewport.controls.yaw = 1.25; w.model.scrub(7); }")
    one = studio.page.evaluate("() => app.graph.serialize()")
    open_as("two", template)
    studio.settle()
    assert studio.widget("(w) => [w.model.frame, w.points.count]") == [0, 0]
    assert studio.widget("(w) => w.viewport.controls.yaw") != 1.25
    open_as("one", one)
    studio.wait("(w) => w.points.count > 0")
    assert studio.widget("(w) => [w.model.frame, w.viewport.controls.yaw]") == [7, 1.25]
    studio.shows = None
