"""Gestures on the widget that meet something else: Escape, a neighbour, news of a rollout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from .hands import KEYFRAMES, at, button, drag_keyframe, press, stored

pytestmark = [pytest.mark.browser, pytest.mark.server]

KEY_FRAMES = "(w) => w.model.keyframes.map((key) => key.frame)"
LOOK = """(w) => {
    const { yaw, pitch, target, distance } = w.viewport.controls;
    return [yaw, pitch, distance, ...target];
}"""
DEEPER = "(w) => w.model.describe({ ...w.view, depth: 2 * w.view.depth })"
"""As a report that knows the distance better; `RESTORED` takes it back."""
RESTORED = "(w) => w.model.describe(w.view)"


@pytest.fixture
def key(studio: Any, modern: bool) -> int:
    """Index of a keyframe at frame 16, which is selected."""
    studio.widget("(w) => w.model.addKeyframe(16)")
    return int(studio.widget("(w) => w.model.selected"))


def key_button(studio: Any, index: int) -> Callable[[], list[float]]:
    """The middle of a keyframe's button on the timeline."""

    def middle() -> list[float]:
        box = studio.page.locator(".mirage-key").nth(index).bounding_box()
        return [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]

    return middle


def width_of_a_frame(studio: Any) -> float:
    studio.settle()
    return studio.page.get_by_role("slider", name="Timeline").bounding_box()["width"] / 32


def test_escape_puts_a_dragged_keyframe_back(studio: Any, key: int) -> None:
    value, before = studio.value("keyframes"), studio.widget(KEYFRAMES)
    x, y = press(studio, at(studio, before[key]["position"]))
    studio.page.mouse.move(x + 30, y - 20, steps=3)
    assert studio.widget(KEYFRAMES)[key]["position"] != before[key]["position"]
    studio.page.keyboard.press("Escape")
    back = studio.widget(KEYFRAMES)[key]["position"]
    np.testing.assert_allclose(back, before[key]["position"], atol=1e-6)
    studio.page.mouse.move(x + 60, y)
    studio.page.mouse.up()
    assert studio.widget(KEYFRAMES)[key]["position"] == back
    assert studio.value("keyframes") == value
    assert studio.widget("(w) => [w.model.selected, w.model.frame]") == [key, 16]


def test_escape_puts_a_retimed_keyframe_back(studio: Any, key: int) -> None:
    value, frames = studio.value("keyframes"), studio.widget(KEY_FRAMES)
    step = width_of_a_frame(studio)
    x, y = press(studio, key_button(studio, key))
    studio.page.mouse.move(x + 3 * step, y, steps=3)
    assert studio.widget(KEY_FRAMES) != frames
    studio.page.keyboard.press("Escape")
    studio.page.mouse.up()
    assert studio.widget(KEY_FRAMES) == frames
    assert studio.value("keyframes") == value
    assert studio.widget("(w) => [w.model.selected, w.model.frame]") == [key, 16]


def test_escape_puts_the_view_and_the_time_back(studio: Any, modern: bool) -> None:
    before = studio.widget(LOOK)
    corner = """(w) => {
        const box = w.viewport.canvas.getBoundingClientRect();
        return [box.left + 30, box.bottom - 30];
    }"""
    x, y = press(studio, lambda: studio.widget(corner))
    studio.page.mouse.move(x + 40, y - 20, steps=3)
    assert studio.widget(LOOK) != before
    studio.page.keyboard.press("Escape")
    studio.page.mouse.up()
    assert studio.widget(LOOK) == before

    studio.widget("(w) => w.model.scrub(5)")

    def halfway() -> list[float]:
        box = studio.page.get_by_role("slider", name="Timeline").bounding_box()
        return [box["x"] + box["width"] / 2, box["y"] + box["height"] - 3]

    press(studio, halfway)
    assert studio.widget("(w) => w.model.frame") == pytest.approx(16, abs=1)
    studio.page.keyboard.press("Escape")
    studio.page.mouse.up()
    assert studio.widget("(w) => w.model.frame") == 5


def test_a_keyframe_is_dragged_past_its_neighbour(studio: Any, key: int) -> None:
    studio.widget("(w) => w.model.addKeyframe(18)")
    before = stored(studio)
    step = width_of_a_frame(studio)
    x, y = press(studio, key_button(studio, key))
    studio.page.mouse.move(x + 2 * step, y)
    assert len(set(studio.widget(KEY_FRAMES))) == len(before), "two keyframes have no frame alike"
    studio.page.mouse.move(x + 4 * step, y, steps=4)
    studio.page.mouse.up()
    after = stored(studio)
    assert after[key]["frame"] == 18 and after[key]["position"] == before[key + 1]["position"]
    assert after[key + 1]["frame"] == pytest.approx(20, abs=1)
    np.testing.assert_allclose(after[key + 1]["position"], before[key]["position"], atol=1e-6)
    assert studio.widget("(w) => w.model.selected") == key + 1
    assert studio.page.evaluate("() => document.activeElement.ariaPressed") == "true"


def test_keys_take_a_keyframe_past_its_neighbour(studio: Any, key: int) -> None:
    studio.widget("(w) => w.model.addKeyframe(17)")
    others = [frame for frame in studio.widget(KEY_FRAMES) if frame not in (16, 17)]
    studio.page.locator(".mirage-key").nth(key).focus()
    studio.page.keyboard.press("ArrowRight")
    assert [each["frame"] for each in stored(studio)] == sorted([*others, 17, 18])
    studio.page.keyboard.press("ArrowRight")
    assert [each["frame"] for each in stored(studio)] == sorted([*others, 17, 19])
    for _ in range(2):
        studio.page.keyboard.press("ArrowLeft")
    assert [each["frame"] for each in stored(studio)] == sorted([*others, 16, 17])


@pytest.mark.parametrize("frame", [0, 32])
def test_adding_where_the_fitted_path_has_a_keyframe(
    studio: Any, modern: bool, frame: int
) -> None:
    studio.widget("(w, frame) => w.model.scrub(frame)", frame)
    button(studio, "Add a keyframe here").click()
    keys = stored(studio)
    assert studio.page.locator(".mirage-key").count() == len(keys) >= 2
    assert button(studio, "Preset").input_value() == ""
    selected = studio.widget("(w) => w.model.selected")
    assert keys[selected]["frame"] == frame


def test_news_during_a_drag_does_not_end_it(studio: Any, modern: bool) -> None:
    """A report that arrives meanwhile gives the model new keyframes."""
    studio.widget("(w) => w.model.addKeyframe(16)")
    index = studio.widget("(w) => w.model.selected")
    before = stored(studio)
    x, y = press(studio, at(studio, studio.widget(KEYFRAMES)[index]["position"]))
    studio.page.mouse.move(x + 10, y)
    studio.widget("(w) => w.model.read()")
    studio.page.mouse.move(x + 24, y)
    studio.page.mouse.up()
    moved = np.subtract(stored(studio)[index]["position"], before[index]["position"])
    assert np.linalg.norm(moved) > 0.01


def test_a_report_during_a_drag_waits_for_its_end(studio: Any, key: int) -> None:
    """Keyframes stand relative to the scene: a drag ends in the scene in which it began."""
    before = stored(studio)
    x, y = press(studio, at(studio, studio.widget(KEYFRAMES)[key]["position"]))
    studio.page.mouse.move(x + 12, y)
    studio.widget(DEEPER)
    studio.page.mouse.move(x + 24, y)
    studio.page.mouse.up()
    after = stored(studio)
    assert after[key]["position"] != before[key]["position"]
    assert after[:key] + after[key + 1 :] == before[:key] + before[key + 1 :]
    depth = "(w) => w.model.scene.depth / w.view.depth"
    assert studio.widget(depth) == 2, "and is used from then on"
    studio.widget(RESTORED)
    assert stored(studio) == after


def test_a_release_that_is_not_heard_ends_the_drag(studio: Any, key: int) -> None:
    """As when the mouse is released over another window."""
    x, y = press(studio, at(studio, studio.widget(KEYFRAMES)[key]["position"]))
    studio.page.mouse.move(x + 12, y)
    moved = studio.widget(KEYFRAMES)[key]["position"]
    studio.widget(
        """(w, [x, y]) => w.viewport.canvas.dispatchEvent(new PointerEvent("pointermove", {
            pointerId: 1, clientX: x, clientY: y, buttons: 0, bubbles: true }))""",
        [x + 60, y],
    )
    assert studio.widget(KEYFRAMES)[key]["position"] == moved
    assert stored(studio)[key]["position"] != moved
    assert studio.widget("(w) => w.model.held") is None
    studio.page.mouse.up()


def test_who_reads_the_model_during_a_drag_is_told(
    studio: Any, key: int, caplog: pytest.LogCaptureFixture
) -> None:
    studio.widget(
        """(w) => addEventListener("pointermove", function reportComes() {
            w.model.read();
        }, { once: true, capture: true })"""
    )
    drag_keyframe(studio, key, (24, -12))
    assert "reportComes" in caplog.text and "model was " in caplog.text
    assert not studio.widget("(w) => Object.hasOwn(w.model, 'read')")


def test_with_alt_the_neighbours_come_along_softly(studio: Any, modern: bool) -> None:
    for frame in (8, 16, 24):
        studio.widget("(w, frame) => w.model.addKeyframe(frame)", frame)
    before = {each["frame"]: each["position"] for each in stored(studio)}
    index = sorted(before).index(16)
    x, y = press(studio, at(studio, studio.widget(KEYFRAMES)[index]["position"]))
    studio.page.keyboard.down("Alt")
    studio.page.mouse.move(x + 30, y - 24, steps=4)
    studio.page.mouse.up()
    studio.page.keyboard.up("Alt")
    moved = {
        each["frame"]: np.subtract(each["position"], before[each["frame"]])
        for each in stored(studio)
    }
    share = {frame: np.dot(by, moved[16]) / np.dot(moved[16], moved[16])
             for frame, by in moved.items()}  # fmt: skip
    assert 0.1 < share[8] < 0.9 and share[24] == pytest.approx(share[8], abs=1e-5)
    assert 0 <= share[0] < share[8] and 0 <= share[32] < share[24]


def test_a_moved_keyframe_of_a_preset_makes_no_spike(studio: Any, modern: bool) -> None:
    """The path turns evenly through the key: no step of it turns by much."""
    studio.widget("(w) => w.model.addKeyframe(16)")
    index = studio.widget("(w) => w.model.selected")
    drag_keyframe(studio, index, (0, -12))
    steps = np.diff(
        np.reshape(studio.widget("(w) => Array.from(w.model.path.position)"), (-1, 3)), axis=0
    )
    steps = steps[np.linalg.norm(steps, axis=1) > 1e-4]
    along = steps / np.linalg.norm(steps, axis=1, keepdims=True)
    turns = np.degrees(np.arccos(np.clip((along[1:] * along[:-1]).sum(axis=1), -1, 1)))
    assert turns.max() < 45
