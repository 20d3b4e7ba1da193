"""What a person does with the trajectory widget: press, drag, and look at what was stored."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

LOG = logging.getLogger(__name__)

ON_SCREEN = """(w, point) => {
    const [x, y] = w.viewport.controls.project(point);
    const { canvas } = w.viewport;
    const box = canvas.getBoundingClientRect();
    if (!(x >= 0 && y >= 0 && x < canvas.width && y < canvas.height))
        throw new Error(`${point} is at ${x}, ${y}, outside the view`);
    return [box.left + (x / canvas.width) * box.width, box.top + (y / canvas.height) * box.height];
}"""
FOCUS = """(w) => {
    const { canvas } = w.viewport;
    if (document.activeElement !== canvas) canvas.focus();
    return document.activeElement === canvas;
}"""
KEYFRAMES = "(w) => w.model.keyframes.map((key) => structuredClone(key))"
UNCOVERED = "([x, y]) => document.elementFromPoint(x, y)?.closest('.mirage-widget') != null"
"""Nothing of ComfyUI's own lies over this place of the page, such as a message that goes by."""


def widget(studio: Any) -> Any:
    """The trajectory widget: the page may hold other views, in any order."""
    return studio.page.locator(".mirage-widget", has=studio.page.locator(".mirage-timeline"))


def canvas(studio: Any) -> Any:
    """The view of the trajectory widget."""
    return widget(studio).locator(".mirage-canvas").first


def button(studio: Any, name: str) -> Any:
    """A control of the trajectory widget by its accessible name."""
    return widget(studio).get_by_label(name, exact=True).first


def focus(studio: Any) -> None:
    """Give the view the keys; an element that is not displayed at the moment takes no focus."""
    studio.wait(FOCUS)


Place = Callable[[], list[float]]
"""Says where on the page something is once the page has come to rest."""


def at(studio: Any, point: list[float], beside: tuple[float, float] = (0, 0)) -> Place:
    """Where a point of the scene is drawn."""

    def place() -> list[float]:
        studio.widget("(w) => w.viewport.render()")
        x, y = studio.widget(ON_SCREEN, point)
        return [x + beside[0], y + beside[1]]

    return place


def press(studio: Any, place: Place, button: str = "left") -> list[float]:
    """Press the mouse; the pixel of the page where that was."""
    studio.settle()
    x, y = place()
    studio.page.wait_for_function(UNCOVERED, arg=[x, y], timeout=60_000)
    studio.page.mouse.move(x, y)
    studio.page.mouse.down(button=button)
    return [x, y]


READS = """(w) => {
    const { model } = w;
    const found = (w.reads = []);
    model.read = () => {
        found.push(`${model.held ? "held back" : "read"}: ${new Error().stack}`);
        return Object.getPrototypeOf(model).read.call(model);
    };
}"""
"""Notes who makes the model read the node's inputs, until `NO_READS`."""
NO_READS = "(w) => { delete w.model.read; return w.reads; }"


def drag(studio: Any, place: Place, by: tuple[float, float], button: str = "left") -> None:
    """Press, move in some steps, and let go; what read the model meanwhile is logged."""
    studio.widget(READS)
    x, y = press(studio, place, button)
    studio.page.mouse.move(x + by[0], y + by[1], steps=6)
    studio.page.mouse.up(button=button)
    for read in studio.widget(NO_READS):
        LOG.warning("During a drag the model was %s", read)


def drag_keyframe(studio: Any, index: int, by: tuple[float, float]) -> None:
    """Drag a keyframe's dot."""
    drag(studio, at(studio, studio.widget(KEYFRAMES)[index]["position"]), by)


def stored(studio: Any) -> list[dict[str, Any]]:
    """Keyframes of the node's value."""
    return json.loads(studio.value("keyframes"))["keyframes"]
