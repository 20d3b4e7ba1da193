"""What a director does with a shot: speed, lens, shake, cameras, takes, several keyframes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect

from mirage_core.geometry.trajectory import intrinsics_from_fov
from mirage_core.trajectories.shot import shot_from_json, shot_trajectory

from .hands import (
    KEYFRAMES,
    at,
    button,
    canvas,
    drag,
    drag_keyframe,
    focus,
    press,
    stored,
    widget,
)

pytestmark = [pytest.mark.browser, pytest.mark.server]

CAMERA_VIEW = "(w) => w.viewport.setView('camera')"
PICTURE = """(w) => {
    w.viewport.render();
    return w.viewport.canvas.toDataURL();
}"""
FILM = 9
"""Frames of a film that a test waits for."""


@pytest.fixture
def panel(studio: Any, modern: bool) -> Any:
    """The widget with its panel open and a keyframe at frame 16, which is selected."""
    studio.widget("(w) => w.model.addKeyframe(16)")
    toggle = button(studio, "The shot: speed, lens, shake, cameras, takes")
    if toggle.get_attribute("aria-pressed") != "true":
        toggle.click()
    studio.settle()
    return studio


def document(studio: Any) -> dict[str, Any]:
    return json.loads(studio.value("keyframes"))


def middle(studio: Any) -> Callable[[], list[float]]:
    """The middle of the view."""

    def place() -> list[float]:
        box = canvas(studio).bounding_box()
        return [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]

    return place


def selected(studio: Any) -> dict[str, Any]:
    return stored(studio)[studio.widget("(w) => w.model.selected")]


def test_the_speed_curve_is_dragged_and_undone_as_one_step(panel: Any) -> None:
    handle = panel.page.get_by_role("slider", name="Handle at the keyframe")
    before = panel.value("keyframes")
    path = panel.widget("(w) => Array.from(w.model.path.position)")

    def place() -> list[float]:
        box = handle.bounding_box()
        return [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]

    drag(panel, place, (24, 12))
    speed = selected(panel)["speed"]
    assert all(0 <= part <= 1 for part in speed)
    assert document(panel)["version"] == 2
    assert panel.widget("(w) => Array.from(w.model.path.position)") != path
    name = "Speed from this keyframe to the next"
    assert button(panel, name).input_value() == "custom"
    handle.press("ArrowUp")
    assert selected(panel)["speed"][1] == pytest.approx(min(1, speed[1] + 0.05))
    button(panel, name).select_option("ease_in")
    assert "speed" not in selected(panel) and selected(panel)["easing"] == "ease_in"
    for _ in range(3):
        panel.page.evaluate(
            "() => app.extensionManager.workflow.activeWorkflow.changeTracker.undo()"
        )
    panel.page.wait_for_function(
        """before => app.graph.nodes.find((n) => n.type === "MirageTrajectory")
            .widgets.find((w) => w.name === "keyframes").value === before""",
        arg=before,
    )


def test_how_the_path_goes_through_a_keyframe_is_chosen(panel: Any) -> None:
    button(panel, "How the path goes through this keyframe").select_option("corner")
    assert selected(panel)["tangent"] == "corner"


def test_f_and_drag_sets_the_focal_length_that_is_told(panel: Any) -> None:
    mm = button(panel, "Focal length in mm on full frame (F and drag)")
    shown = mm.input_value()
    before = float(shown)
    focus(panel)
    panel.page.keyboard.down("f")
    panel.wait("(w) => w.editor.zooming")
    # Something else may take the focus while the key is held.
    panel.page.evaluate("() => document.activeElement.blur()")
    drag(panel, middle(panel), (40, 0))
    panel.page.keyboard.up("f")
    panel.wait("(w) => !w.editor.zooming")
    expect(mm).not_to_have_value(shown)
    assert float(mm.input_value()) == pytest.approx(before * np.exp(0.2), rel=0.02)
    fov = selected(panel)["fov_x"]
    assert 18 / np.tan(np.radians(fov / 2)) == pytest.approx(float(mm.input_value()), abs=0.06)
    mm.fill("50")
    mm.press("Enter")
    assert selected(panel)["fov_x"] == pytest.approx(39.6, abs=0.05)


def test_the_subject_keeps_its_size_and_the_server_agrees(panel: Any) -> None:
    panel.widget("(w) => w.model.usePreset('dolly')")
    focus(panel)
    panel.page.keyboard.press("z")
    assert len(document(panel)["subject"]) == 3
    focal = panel.widget("(w) => Array.from(w.model.path.focal)")
    assert focal[0] == pytest.approx(1) and focal[-1] < 0.9
    kind, detail = panel.run()
    assert kind == "execution_success", detail
    made = json.loads(panel.newest("widget_*.json").read_text())["frames"]
    server = [frame["intrinsics"][0] / made[0]["intrinsics"][0] for frame in made]
    np.testing.assert_allclose(focal, server, atol=1e-6)
    focus(panel)
    panel.page.keyboard.press("z")
    assert "subject" not in document(panel)


def test_shake_is_in_the_value_and_the_same_on_the_server(panel: Any) -> None:
    for label, value in (
        ("Shake: degrees at most", "1.5"),
        ("Shake: % of the scene's distance at most", "2"),
        ("Shake: swings a second (Hz)", "3"),
        ("Shake: seed", "7"),
    ):
        button(panel, label).fill(value)
        button(panel, label).press("Enter")
    found = document(panel)["shake"]
    assert found == {"seed": 7, "degrees": 1.5, "distance": 0.02, "hz": 3}
    shot = shot_from_json(panel.value("keyframes"), scene_depth=1.0)
    lens = intrinsics_from_fov(640, 352, 60)
    wanted = shot_trajectory(shot, 33, intrinsics=lens, width=640, height=352)
    drawn = panel.widget(
        """(w) => {
            const { start, depth } = w.model.scene;
            return Array.from({ length: 33 }, (_, i) => {
                const at = w.model.path.position.subarray(3 * i, 3 * i + 3);
                const away = [0, 1, 2].map((j) => at[j] - start.position[j]);
                return [0, 1, 2].map((k) => [0, 1, 2].reduce(
                    (sum, j) => sum + start.rotation[3 * j + k] * away[j], 0) / depth);
            });
        }"""
    )
    np.testing.assert_allclose(drawn, wanted.positions.numpy(), atol=1e-6)


def test_keys_of_the_camera_view(studio: Any, modern: bool) -> None:
    """K sets a keyframe, [ and ] go between them, G draws guides."""
    studio.widget(CAMERA_VIEW)
    focus(studio)
    studio.widget("(w) => w.model.scrub(13)")
    studio.page.keyboard.press("k")
    assert 13 in [key["frame"] for key in stored(studio)]
    frames = [key["frame"] for key in stored(studio)]
    studio.page.keyboard.press("]")
    assert studio.widget("(w) => w.model.frame") == frames[frames.index(13) + 1]
    studio.page.keyboard.press("[")
    studio.page.keyboard.press("[")
    assert studio.widget("(w) => w.model.frame") == frames[frames.index(13) - 1]
    plain = studio.widget(PICTURE)
    studio.page.keyboard.press("g")
    assert studio.widget(PICTURE) != plain
    studio.page.keyboard.press("g")
    assert studio.widget(PICTURE) == plain


def test_the_camera_is_aimed_and_dollied_in_its_own_view(studio: Any, modern: bool) -> None:
    studio.widget(CAMERA_VIEW)
    focus(studio)
    studio.widget("(w) => w.model.addKeyframe(16)")
    before, view = selected(studio), studio.value("keyframes")
    drag(studio, middle(studio), (60, 0))
    aimed = selected(studio)
    assert aimed["position"] == before["position"]
    assert aimed["quaternion"][1] > before["quaternion"][1] + 0.01, "to the right"
    assert studio.widget("(w) => w.viewport.controls.view") == "camera"
    x, y = press(studio, middle(studio))
    studio.page.mouse.move(x, y - 40)
    studio.page.keyboard.press("Escape")
    studio.page.mouse.up()
    assert selected(studio) == aimed

    studio.widget("(w) => (w.begun = w.model.commit) && (w.commits = 0)")
    studio.widget("(w) => (w.model.commit = () => { w.commits += 1; w.begun.call(w.model); })")
    for _ in range(3):
        studio.page.mouse.wheel(0, -100)
    studio.wait("(w) => w.commits && !w.model.held")
    studio.widget("(w) => delete w.model.commit")
    dollied = selected(studio)
    assert dollied["position"][2] > aimed["position"][2] + 0.05
    assert dollied["quaternion"] == aimed["quaternion"] and studio.value("keyframes") != view


def test_the_ghost_is_the_path_before_the_last_edit(studio: Any, modern: bool) -> None:
    studio.widget("(w) => w.model.addKeyframe(16)")
    index = studio.widget("(w) => w.model.selected")
    path = studio.widget("(w) => Array.from(w.model.path.position)")
    drag_keyframe(studio, index, (20, -20))
    assert studio.widget("(w) => Array.from(w.model.ghost.position)") == path
    focus(studio)
    without = studio.widget(PICTURE)
    studio.page.keyboard.press("b")
    assert studio.widget(PICTURE) != without
    studio.page.keyboard.press("b")


def test_several_keyframes_are_chosen_moved_copied_and_deleted(panel: Any) -> None:
    panel.widget("(w) => w.model.addKeyframe(18)")
    keys = panel.page.locator(".mirage-key")
    frames = [key["frame"] for key in stored(panel)]
    first, second = frames.index(16), frames.index(18)
    keys.nth(first).click()
    keys.nth(second).click(modifiers=["Shift"])
    pressed = [key.get_attribute("aria-pressed") for key in keys.all()]
    assert [i for i, is_on in enumerate(pressed) if is_on == "true"] == [first, second]

    before = {key["frame"]: key["position"] for key in stored(panel)}
    drag(panel, at(panel, panel.widget(KEYFRAMES)[second]["position"]), (14, -10))
    moved = {key["frame"]: np.subtract(key["position"], before[key["frame"]])
             for key in stored(panel)}  # fmt: skip
    np.testing.assert_allclose(moved[16], moved[18], atol=1e-6)
    assert np.linalg.norm(moved[16]) > 0.01 and np.linalg.norm(moved[0]) < 1e-9

    keys.nth(second).focus()
    panel.page.keyboard.press("ArrowRight")
    assert {17, 19} <= {key["frame"] for key in stored(panel)}

    count = len(stored(panel))
    focus(panel)
    panel.page.keyboard.press("Control+c")
    panel.widget("(w) => w.model.scrub(25)")
    panel.page.keyboard.press("Control+v")
    pasted = {key["frame"]: key["position"] for key in stored(panel)}
    assert len(pasted) == count + 2
    np.testing.assert_allclose(pasted[25], pasted[17], atol=1e-6)
    np.testing.assert_allclose(pasted[27], pasted[19], atol=1e-6)
    panel.page.keyboard.press("Delete")
    assert len(stored(panel)) == count


def test_keyframes_snap_to_frames_and_to_a_grid(panel: Any) -> None:
    button(panel, "Snap").click()
    index = panel.widget("(w) => w.model.selected")
    drag_keyframe(panel, index, (17, -11))
    position = np.array(selected(panel)["position"])
    np.testing.assert_allclose(position / 0.05, np.round(position / 0.05), atol=1e-5)
    panel.settle()
    step = panel.page.get_by_role("slider", name="Timeline").bounding_box()["width"] / 32

    def dot() -> list[float]:
        box = panel.page.locator(".mirage-key").nth(index).bounding_box()
        return [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]

    drag(panel, dot, (3 * step, 0))
    assert selected(panel)["frame"] % 4 == 0
    button(panel, "Snap").click()


def test_cameras_are_cut_together(panel: Any) -> None:
    panel.widget("(w) => w.model.scrub(20)")
    button(panel, "Add a camera here").click()
    button(panel, "Cut").click()
    found = document(panel)
    assert [camera["name"] for camera in found["cameras"]] == ["B"]
    assert found["cuts"] == [{"frame": 20, "camera": "B"}]
    drag_keyframe(panel, 0, (20, -24))
    assert document(panel)["keyframes"] == found["keyframes"]
    positions = np.reshape(panel.widget("(w) => Array.from(w.model.path.position)"), (-1, 3))
    assert np.ptp(positions[20:], axis=0).max() < 1e-9
    assert np.linalg.norm(positions[20] - positions[19]) > 0.02
    button(panel, "Camera whose keyframes are edited").select_option("0")
    assert panel.widget("(w) => w.model.keyframes.length") == len(found["keyframes"])
    panel.widget("(w) => w.model.scrub(20)")
    button(panel, "Cut").click()
    assert "cuts" not in document(panel)


def test_takes_are_kept_beside_each_other(panel: Any) -> None:
    first = document(panel)["keyframes"]
    focus(panel)
    panel.page.keyboard.press("v")
    assert document(panel)["take"] == "B" and document(panel)["takes"][0]["name"] == "A"
    index = [key["frame"] for key in stored(panel)].index(16)
    drag_keyframe(panel, index, (20, -20))
    second = document(panel)["keyframes"]
    assert second != first
    focus(panel)
    panel.page.keyboard.press("v")
    assert document(panel)["take"] == "A" and document(panel)["keyframes"] == first
    button(panel, "Take").select_option("B")
    assert document(panel)["keyframes"] == second
    kind, detail = panel.run()
    assert kind == "execution_success", detail


def test_an_aspect_ratio_is_masked(panel: Any) -> None:
    panel.widget(CAMERA_VIEW)
    focus(panel)
    plain = panel.widget(PICTURE)
    masks = set()
    for aspect in ("16:9", "2.39", "9:16", "1:1"):
        button(panel, "Mask of an aspect ratio in the Camera view (A)").select_option(aspect)
        masks.add(panel.widget(PICTURE))
    assert len(masks - {plain}) == 4
    button(panel, "Mask of an aspect ratio in the Camera view (A)").select_option("")
    assert panel.widget(PICTURE) == plain


def test_a_path_through_what_is_remembered_is_warned_of(studio: Any, modern: bool) -> None:
    note = widget(studio).locator(".mirage-note").first
    studio.wait("(w) => w.near === null")
    studio.widget(
        """(w) => {
            w.model.addKeyframe(32);
            const { start, depth } = w.model.scene;
            const ahead = [2, 5, 8].map((i) => start.rotation[i]);
            w.model.edit((keys) => {
                keys.at(-1).position = start.position.map((v, i) => v + 3 * depth * ahead[i]);
            });
        }"""
    )
    studio.wait("(w) => w.near")
    assert "frame" in note.inner_text() and "mirage-warning" in note.get_attribute("class")
    studio.widget("(w) => w.model.usePreset('static')")
    studio.wait("(w) => w.near === null && !w.note.textContent.includes('frame')")


def test_r_records_the_shot_to_a_file(studio: Any, modern: bool, tmp_path: Any) -> None:
    focus(studio)
    studio.set_value("frames", FILM)
    with studio.page.expect_download() as saved:
        studio.page.keyboard.press("r")
    film = tmp_path / saved.value.suggested_filename
    saved.value.save_as(film)
    assert film.suffix == ".webm"
    import av

    with av.open(str(film)) as container:
        frames = [frame.width for frame in container.decode(video=0)]
    assert FILM - 2 <= len(frames) <= FILM and frames[0] == 1280
    assert studio.widget("(w) => w.viewport.controls.view") == "orbit"
    assert studio.value("keyframes") == "", "looking changes nothing"
