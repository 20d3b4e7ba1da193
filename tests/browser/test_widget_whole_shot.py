"""The shot as a whole: presets in it, cuts that are drawn, takes side by side, subject, size."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from mirage_core.validate import expect_frame_size

from .hands import button, drag, focus, press, stored

pytestmark = [pytest.mark.browser, pytest.mark.server]

CAMERA_VIEW = "(w) => w.viewport.setView('camera')"
SHAKE = "(w) => w.editor.director.setShake({ degrees: 1.5, seed: 7 })"
POSITIONS = "(w) => Array.from(w.model.path.position)"

VIEW = """(w) => {
    w.viewport.render();
    const { canvas, context } = w.viewport;
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    let text = "";
    for (let at = 0; at < data.length; at += 8192)
        text += String.fromCharCode(...data.subarray(at, at + 8192));
    return [canvas.width, canvas.height, btoa(text), w.viewport.controls.pictures];
}"""

ALONE = """async (w, {{ frame, take, size }}) => {{
    const {{ CameraPicture }} = {picture};
    const {{ cameraAt }} = {scene};
    const {{ shotPath, withTake }} = {shot};
    const {{ shot, scene, space, frames, fps }} = w.model;
    const chosen = take === shot.take ? shot : withTake(shot, take, scene, space);
    const camera = cameraAt(shotPath(chosen, frames, scene, fps), frame);
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = size;
    const context = canvas.getContext("2d");
    const {{ points, colouring }} = w;
    const looked = {{ points, colouring, camera, scene }};
    new CameraPicture().draw(context, [0, 0, ...size], looked, w.viewport.ratio);
    const {{ data }} = context.getImageData(0, 0, ...size);
    let text = "";
    for (let at = 0; at < data.length; at += 8192)
        text += String.fromCharCode(...data.subarray(at, at + 8192));
    return btoa(text);
}}"""


def document(studio: Any) -> dict[str, Any]:
    return json.loads(studio.value("keyframes"))


def pixels(text: str, width: int, height: int) -> np.ndarray:
    """(H, W, 3) numbers of a canvas."""
    data = np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)
    return data[..., :3].astype(float)


def undo(studio: Any) -> None:
    studio.page.evaluate(
        "async () => await app.extensionManager.workflow.activeWorkflow.changeTracker.undo()"
    )
    studio.wait("(w) => w?.model && w.points.count > 0")


@pytest.fixture
def panel(studio: Any, modern: bool) -> Any:
    """The widget with the row of the shot open."""
    toggle = button(studio, "The shot: speed, lens, shake, cameras, takes")
    if toggle.get_attribute("aria-pressed") != "true":
        toggle.click()
    studio.settle()
    return studio


@pytest.fixture
def takes(panel: Any) -> Any:
    """Two takes: A trucks to the right by the end, B, which is edited, to the left."""
    panel.widget("(w) => { w.model.usePreset('truck'); w.model.addKeyframe(32); }")
    focus(panel)
    panel.page.keyboard.press("v")
    panel.widget(
        """(w) => w.model.edit((keys) => {
            const { start, depth } = w.model.scene;
            const right = [0, 3, 6].map((i) => start.rotation[i]);
            keys.at(-1).position = start.position.map((v, i) => v - 0.2 * depth * right[i]);
        })"""
    )
    assert document(panel)["take"] == "B"
    return panel


def test_a_preset_leaves_what_the_shot_has_beside_the_path(panel: Any) -> None:
    """Shake, other cameras, cuts and takes; and one step of undo takes it back."""
    panel.widget(SHAKE)
    focus(panel)
    panel.page.keyboard.press("v")
    panel.widget("(w) => w.model.scrub(20)")
    button(panel, "Add a camera here").click()
    button(panel, "Cut").click()
    before = document(panel)
    panel.widget("(w) => w.editor.director.choose(0)")
    text = panel.value("keyframes")
    button(panel, "Preset").select_option("crane")
    after = document(panel)
    kept = ("shake", "cameras", "cuts", "take", "takes")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert after["shake"]["seed"] == 7 and len(after["takes"]) == len(after["cameras"]) == 1
    assert after["keyframes"] != before["keyframes"]
    rise = after["keyframes"][-1]["position"]
    assert rise[1] == pytest.approx(-0.25 * 0.5, abs=1e-3), "as a crane of half the amount"
    undo(panel)
    assert panel.value("keyframes") == text


def test_a_preset_of_another_camera_begins_where_that_is(panel: Any) -> None:
    panel.widget(SHAKE)
    panel.widget("(w) => w.model.scrub(32)")
    button(panel, "Add a camera here").click()
    panel.widget("(w) => { w.model.scrub(0); w.editor.director.setFov(35); }")
    before = document(panel)
    button(panel, "Preset").select_option("dolly")
    after = document(panel)
    assert after["keyframes"] == before["keyframes"], "the first camera stays"
    first, last = after["cameras"][0]["keyframes"][0], after["cameras"][0]["keyframes"][-1]
    began = before["cameras"][0]["keyframes"][0]
    np.testing.assert_allclose(first["position"], began["position"], atol=1e-6)
    np.testing.assert_allclose(first["quaternion"], began["quaternion"], atol=1e-6)
    assert first["fov_x"] == pytest.approx(35, abs=1e-4) == last["fov_x"]
    assert np.linalg.norm(np.subtract(last["position"], first["position"])) > 0.1


def test_cameras_and_takes_are_deleted(takes: Any) -> None:
    takes.widget("(w) => w.model.scrub(20)")
    button(takes, "Add a camera here").click()
    button(takes, "Cut").click()
    button(takes, "Delete this camera and the cuts to it").click()
    assert {"cameras", "cuts"} & document(takes).keys() == set()
    assert takes.widget("(w) => w.model.camera") == 0
    assert button(takes, "Delete this camera and the cuts to it").is_disabled()
    button(takes, "Delete this take").click()
    assert {"take", "takes"} & document(takes).keys() == set()
    assert document(takes)["keyframes"][-1]["position"][0] > 0, "take A is left"
    assert button(takes, "Delete this take").is_disabled()


def test_the_line_of_the_path_has_a_gap_at_a_cut(panel: Any) -> None:
    panel.widget("(w) => { w.model.usePreset('truck'); w.model.scrub(20); }")
    button(panel, "Add a camera here").click()
    panel.widget(
        """(w) => w.model.edit((keys) => {
            keys[0].position = keys[0].position.map((v) => v + w.model.scene.depth);
        })"""
    )
    panel.widget("(w) => w.model.scrub(20)")
    button(panel, "Cut").click()
    gaps, points, drawn = panel.widget(
        f"""async (w) => {{
            const {{ wayOf, paintPath }} = {panel.import_module("viewer/paint")};
            const way = wayOf(w.model.path);
            const lines = [];
            const moveTo = (x, y) => lines.push([[x, y]]);
            const lineTo = (x, y) => lines.at(-1).push([x, y]);
            const context = {{ beginPath() {{}}, stroke() {{}}, moveTo, lineTo }};
            w.viewport.render();
            paintPath(context, w.viewport.controls, w.model.path, 0, {{}}, 1);
            const gaps = way.flatMap((point, i) => (point ? [] : [i]));
            return [gaps, way.length, lines.map((line) => line.length)];
        }}"""
    )
    assert (gaps, points) == ([20], 34), "frames 19 and 20 are not joined"
    # The rim and the line in two parts each, then what lies behind the first frame.
    assert drawn == [20, 13, 20, 13, 1]


@pytest.mark.parametrize("frame", [0, 32])
def test_takes_are_seen_side_by_side_at_one_frame(takes: Any, frame: int) -> None:
    takes.widget("(w, frame) => w.model.scrub(frame)", frame)
    focus(takes)
    takes.page.keyboard.press("c")
    assert takes.widget("(w) => w.viewport.controls.view") == "camera"
    assert button(takes, "Take side by side in the Camera view (C)").input_value() == "A"
    inset = takes.page.locator(".mirage-widget:has(.mirage-timeline) .mirage-lens")
    assert not inset.is_visible(), "it lies over one of the pictures"
    width, height, text, places = takes.widget(VIEW)
    view = pixels(text, width, height)
    (left, right) = places
    assert left[0] + left[2] <= width / 2 <= right[0] and left[2] == right[2]
    modules = {
        name: takes.import_module(f"{folder}/{name}")
        for folder, name in (("viewer", "picture"), ("viewer", "scene"), ("trajectory", "shot"))
    }
    for take, (x, y, w, h) in (("A", left), ("B", right)):
        size = [round(w), round(h)]
        argument = {"frame": frame, "take": take, "size": size}
        alone = pixels(takes.widget(ALONE.format(**modules), argument), *size)
        # The middle half: names and lines lie over the rest.
        rows, columns = slice(size[1] // 4, 3 * size[1] // 4), slice(size[0] // 4, 3 * size[0] // 4)
        shown = view[round(y) :, round(x) :][: size[1], : size[0]]
        difference = np.abs(shown[rows, columns] - alone[rows, columns]).mean()
        assert difference < 4, f"take {take} is elsewhere, or at another frame"
    focus(takes)
    takes.page.keyboard.press("c")
    assert len(takes.widget(VIEW)[3]) == 1 and inset.is_visible()
    takes.widget("(w) => w.viewport.setView('orbit')")


def test_the_take_beside_stays_when_the_other_is_edited(takes: Any) -> None:
    button(takes, "Take side by side in the Camera view (C)").select_option("A")
    state = """(w) => [w.model.shot.take, w.comparison.name, w.comparison.side,
        (w.viewport.render(), w.viewport.controls.side)]"""
    assert takes.widget(state) == ["B", "A", 1, 1]
    focus(takes)
    takes.page.keyboard.press("v")
    assert takes.widget(state) == ["A", "B", 0, 0]
    # A drag aims the edited take, by as much as its smaller picture turns.
    takes.widget("(w) => w.model.scrub(32)")
    takes.widget("(w) => w.viewport.render()")
    other = takes.widget("(w) => Array.from(w.comparison.path.rotation)")
    before = stored(takes)[-1]["quaternion"]

    def middle() -> list[float]:
        return takes.widget(
            """(w) => {
                const box = w.viewport.canvas.getBoundingClientRect();
                const [x, y, width, height] = w.viewport.controls.picture;
                const scale = box.width / w.viewport.canvas.width;
                return [box.left + scale * (x + width / 2), box.top + scale * (y + height / 2)];
            }"""
        )

    focal = takes.widget("(w) => w.viewport.controls.lens.fx / w.viewport.ratio")
    drag(takes, middle, (30, 0))
    turned = stored(takes)[-1]["quaternion"]
    angle = 2 * np.arccos(min(1, abs(float(np.dot(before, turned)))))
    assert angle == pytest.approx(30 / focal, rel=0.05)
    assert takes.widget("(w) => Array.from(w.comparison.path.rotation)") == other
    button(takes, "Take side by side in the Camera view (C)").select_option("")
    takes.widget("(w) => w.viewport.setView('orbit')")


@pytest.mark.parametrize("view", ["orbit", "camera"])
def test_a_subject_is_picked_on_what_is_remembered(panel: Any, view: str) -> None:
    panel.widget("(w) => w.model.usePreset('dolly')")
    panel.widget("(w, view) => w.viewport.setView(view)", view)
    panel.widget("(w) => { w.model.scrub(0); w.viewport.render(); }")
    focus(panel)
    panel.page.keyboard.press("t")
    assert "keep its size" in panel.widget("(w) => w.note.textContent")
    panel.page.keyboard.press("Escape")
    assert panel.widget("(w) => [w.editor.director.picking, w.note.textContent]") == [False, ""]
    button(panel, "Pick").click()
    # A point of the wall, off the middle of the picture.
    index, wanted = panel.widget(
        """(w) => {
            const { points, model } = w;
            const { start, depth } = model.scene;
            let best = { far: Infinity };
            for (let i = 0; i < points.count; i++) {
                const point = Array.from(points.position.subarray(3 * i, 3 * i + 3));
                const away = point.map((value, j) => value - start.position[j]);
                const at = [0, 1, 2].map((k) => [0, 1, 2].reduce(
                    (sum, j) => sum + start.rotation[3 * j + k] * away[j], 0));
                const far = Math.hypot(at[0] / at[2] - 0.2, at[1] / at[2] + 0.05);
                if (at[2] > 0 && far < best.far) best = { far, i, point };
            }
            return [best.i, best.point];
        }"""
    )
    assert index >= 0

    def place() -> list[float]:
        panel.widget("(w) => w.viewport.render()")
        return panel.widget(
            """(w, point) => {
                const [x, y] = w.viewport.controls.project(point);
                const { canvas } = w.viewport;
                const box = canvas.getBoundingClientRect();
                return [box.left + (x / canvas.width) * box.width,
                    box.top + (y / canvas.height) * box.height];
            }""",
            wanted,
        )

    before = panel.value("keyframes")
    plain = panel.widget("(w) => (w.viewport.render(), w.viewport.canvas.toDataURL())")
    press(panel, place)
    panel.page.mouse.up()
    subject = panel.widget("(w) => w.model.shot.subject")
    depth = panel.widget("(w) => w.model.scene.depth")
    assert np.linalg.norm(np.subtract(subject, wanted)) < 0.05 * depth
    assert len(document(panel)["subject"]) == 3
    focal = panel.widget("(w) => Array.from(w.model.path.focal)")
    assert focal[-1] < 0.95, "the lens follows"
    assert not panel.widget("(w) => w.editor.director.picking")
    assert panel.widget("(w) => (w.viewport.render(), w.viewport.canvas.toDataURL())") != plain
    undo(panel)
    assert panel.value("keyframes") == before
    panel.widget("(w) => w.viewport.setView('orbit')")


@pytest.mark.parametrize(
    ("aspect", "shape"), [("16:9", 16 / 9), ("2.39", 2.39), ("9:16", 9 / 16), ("1:1", 1)]
)
def test_an_aspect_ratio_is_offered_as_the_pictures_size(
    panel: Any, aspect: str, shape: float
) -> None:
    def size() -> list[int]:
        return [panel.value(side, "MirageEmbeddedScene") for side in ("width", "height")]

    before = size()
    place = panel.page.locator(".mirage-widget", has=panel.page.locator(".mirage-timeline"))
    offer = place.get_by_role("button", name="Set the picture's size")
    assert before == [640, 352] and offer.is_disabled(), "no aspect ratio is chosen"
    button(panel, "Mask of an aspect ratio in the Camera view (A)").select_option(aspect)
    offer = place.get_by_role("button", name="Give the picture this shape")
    if aspect == "16:9":
        assert offer.inner_text() == "640 x 352" and offer.is_disabled(), "it has that already"
        button(panel, "Mask of an aspect ratio in the Camera view (A)").select_option("")
        return
    width, height = (int(part) for part in offer.inner_text().split(" x "))
    expect_frame_size(width, height)
    assert abs(np.log(width / height / shape)) < 0.1
    assert abs(np.log(width * height / (640 * 352))) < 0.15
    assert size() == before, "a mask alone changes nothing"
    offer.click()
    assert size() == [width, height]
    assert offer.is_disabled()
    undo(panel)
    panel.page.wait_for_function(
        """before => {
            const node = app.graph.nodes.find((n) => n.type === "MirageEmbeddedScene");
            return ["width", "height"].every((name, i) =>
                node.widgets.find((w) => w.name === name).value === before[i]);
        }""",
        arg=before,
    )
    panel.widget("(w) => w.editor.director.mask('1:1')")
    focus(panel)
    panel.page.keyboard.press("a")
    assert panel.widget("(w) => w.editor.director.aids.aspect") == ""


def test_keys_mask_and_set_the_size(panel: Any) -> None:
    panel.widget(CAMERA_VIEW)
    focus(panel)
    panel.page.keyboard.press("a")
    assert panel.widget("(w) => w.editor.director.aids.aspect") == "16:9"
    panel.widget("(w) => w.editor.director.mask('1:1')")
    panel.page.keyboard.press("o")
    size = [panel.value(side, "MirageEmbeddedScene") for side in ("width", "height")]
    assert size == [480, 480]
    undo(panel)
    panel.widget("(w) => { w.editor.director.mask(''); w.viewport.setView('orbit'); }")
