"""Actors in the trajectory widget: found, drawn where the server has them, and directed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect

from .hands import at, button, canvas, drag, focus, press, widget

pytestmark = [pytest.mark.browser, pytest.mark.server]

PLACES = "MiragePlaceActor"
FRAMES = 33
PATH = [
    {"frame": 0, "place": [-0.4, 4.2], "heading": 175},
    {"frame": 16, "place": [0.4, 3.7]},
    {"frame": 32, "place": [0.0, 3.2], "heading": -160},
]

BUILD = """async ({ id, path, frames }) => {
    const empty = { id, last_node_id: 0, last_link_id: 0, nodes: [], links: [], version: 0.4 };
    await app.loadGraphData(empty, true, true, "actors");
    const add = (type, x, y, wanted = {}) => {
        const node = LiteGraph.createNode(type);
        node.pos = [x, y];
        app.graph.add(node);
        for (const w of node.widgets ?? []) if (w.name in wanted) w.value = wanted[w.name];
        return node;
    };
    const link = (from, slot, to, name) =>
        from.connect(slot, to, to.inputs.findIndex((input) => input.name === name));
    const clip = add("MirageEmbeddedMovers", -700, 0,
        { seed: 9, width: 320, height: 192, frames: 9, control_after_generate: "fixed" });
    const codec = add("MirageEmbeddedCodec", -700, 400);
    const init = add("MirageCacheInit", -400, 0, { what: "colours" });
    const actor = add("MirageActor", -400, 300, { name: "red box", turns: false });
    const placed = add("MiragePlaceActor", -400, 600, { behaviour: "path", path });
    const move = add("MirageTrajectory", 0, 0, { frames, amount: 0.5, preset: "orbit" });
    const save = add("MirageTrajectorySave", 600, 0, { filename_prefix: "actors" });
    for (const to of [init, move]) {
        link(clip, 4, to, "image");
        link(clip, 5, to, "geometry");
    }
    link(codec, 0, init, "vae");
    link(clip, 0, actor, "image");
    link(clip, 1, actor, "geometry");
    link(clip, 2, actor, "mask");
    link(codec, 0, actor, "vae");
    link(init, 0, actor, "cache");
    link(init, 0, placed, "cache");
    link(actor, 0, placed, "actor");
    link(placed, 0, move, "cache");
    link(move, 0, save, "trajectory");
    await app.loadGraphData(app.graph.serialize(), true, false, "actors");
    app.canvas.setDirty(true, true);
}"""

RESET = """(path) => {
    const set = (type, values) => {
        const node = app.graph.nodes.find((n) => n.type === type);
        for (const w of node.widgets) if (w.name in values) {
            w.value = values[w.name];
            w.callback?.(w.value);
        }
        return node;
    };
    set("MiragePlaceActor", { path, behaviour: "path" });
    const node = set("MirageTrajectory", { keyframes: "", keys: "", preset: "orbit" });
    node.setSize([480, 760]);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [60 - node.pos[0], 60];
    app.canvas.setDirty(true, true);
}"""

SEEN = """(w) => {
    const { actors } = w.directing;
    const at = actors.trackOf(actors.current);
    const { frames, places } = actors.current.report;
    const page = frames.map(at).map(({ point, heading }) => [...point, heading]);
    return { page, server: places };
}"""
STOPS = "(w) => structuredClone(w.directing.actors.keyframes)"
POINT = """(w, index) => {
    const { actors } = w.directing;
    return actors.pointOf(actors.keyframes[index]);
}"""
HERE = """(w) => {
    const { actors } = w.directing;
    return actors.trackOf(actors.current)(actors.frame).point;
}"""
SAME_NAME = """() => {
    const node = app.graph.nodes.findLast((n) => n.type === "MiragePlaceActor");
    node.title = 'red box';
}"""
CONNECT = """(type) => {
    const node = app.graph.nodes.find((n) => n.type === "MirageTrajectory");
    const slot = node.inputs.findIndex((input) => input.name === "cache");
    app.graph.nodes.find((n) => n.type === type).connect(0, node, slot);
}"""
LOCAL = """(w) => {
    const { actors } = w.directing;
    const { from, to } = actors.moves.get("red box");
    const set = w.ensemble.moving.get("red box");
    const shown = w.points.position.slice(-3 * set.count);
    const local = (points, { rotation: r, position }) =>
        Array.from({ length: set.count }, (_, i) => {
            const [x, y, z] = [0, 1, 2].map((k) => points[3 * i + k] - position[k]);
            return [0, 1, 2].map((k) => r[k] * x + r[3 + k] * y + r[6 + k] * z);
        });
    return [local(set.position, from), local(shown, to)];
}"""
RED = """(w) => {
    w.viewport.render();
    const { canvas, context, controls } = w.viewport;
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    let [x, y, count] = [0, 0, 0];
    for (let at = 0; at < data.length; at += 4) {
        const [r, g, b] = data.subarray(at, at + 3);
        if (r < 100 || g > 0.6 * r || b > 0.6 * r) continue;
        x += (at / 4) % canvas.width;
        y += Math.floor(at / 4 / canvas.width);
        count += 1;
    }
    const { actors } = w.directing;
    const { point } = actors.trackOf(actors.current)(actors.frame);
    const { up } = actors.ground;
    const [, height] = actors.sizeOf(actors.current);
    const middle = controls.project(point.map((value, i) => value + (up[i] * height) / 2));
    return [x / count, y / count, count, middle[0], middle[1], canvas.width];
}"""
UNDO = "() => app.extensionManager.workflow.activeWorkflow.changeTracker.undo()"
ACTORS = "Actors: direct what moves"


def path(studio: Any) -> list[dict[str, Any]]:
    """Keyframes that the node which places the actor holds."""
    return json.loads(studio.value("path", kind=PLACES))


def write(studio: Any, text: str) -> None:
    """Type another path into the node that places the actor."""
    studio.page.evaluate(
        """(text) => {
            const node = app.graph.nodes.find((n) => n.type === "MiragePlaceActor");
            const widget = node.widgets.find((w) => w.name === "path");
            widget.value = text;
            widget.callback?.(text);
        }""",
        text,
    )


@pytest.fixture
def directed(studio: Any, renderer: bool) -> Any:
    """The widget with its actors shown from above, and the path as it was at first."""
    text = json.dumps(PATH)
    if studio.shows != ("actors", renderer):
        studio.page.evaluate(BUILD, {"id": studio.graph, "path": text, "frames": FRAMES})
        studio.wait("(w) => w?.model")
        studio.renderer(renderer)
        studio.see()
        studio.shows = "actors", renderer
    studio.page.evaluate(RESET, text)
    studio.wait("(w) => w.directing.actors.current?.report")
    studio.widget(
        """(w) => {
            w.directing.show(false);
            w.viewport.setView("orbit");
            w.model.scrub(0);
            w.directing.actors.select(-1);
        }"""
    )
    studio.settle()
    button(studio, ACTORS).click()
    studio.settle()
    return studio


def test_they_are_where_the_server_has_them(directed: Any) -> None:
    """For headings told and untold, seconds, places with a height, and a half turn."""
    other = [
        {"time": 0.1875, "place": [-0.5, -3.0, 4.0], "heading": 0},
        {"time": 0.9, "place": [0.5, 3.4], "heading": 180},
        {"time": 1.2, "place": [0.5, 3.0], "heading": 0},
    ]
    for keys in (PATH, other):
        write(directed, json.dumps(keys))
        kind, detail = directed.run()
        assert kind == "execution_success", detail
        frames = [key.get("frame", round(key.get("time", 0) * 24)) for key in keys]
        directed.wait(
            "(w, frames) => w.directing.actors.current.report"
            " && JSON.stringify(w.directing.actors.keyframes.map((k) => k.frame)) === frames",
            json.dumps(frames, separators=(",", ":")),
        )
        page, server = directed.widget(SEEN).values()
        np.testing.assert_allclose(np.array(page)[:, :3], np.array(server)[:, :3], atol=1e-6)
        turned = np.array(page)[:, 3] - np.array(server)[:, 3]
        np.testing.assert_allclose(np.cos(turned), 1, atol=1e-9)


def test_their_points_go_with_them(directed: Any) -> None:
    """At every frame the points are where they are at the server, seen from the actor."""
    for frame in (0, 7, 16, 32):
        directed.widget("(w, frame) => w.model.scrub(frame)", frame)
        was, now = map(np.array, directed.widget(LOCAL))
        assert len(now) > 50
        np.testing.assert_allclose(now, was, atol=2e-5)


def test_the_camera_sees_the_actor_where_its_path_says(directed: Any) -> None:
    """The red of the box is where its card would be, at each frame, without a new run."""
    button(directed, ACTORS).click()
    directed.widget("(w) => w.viewport.setView('camera')")
    xs = []
    for frame in (0, 16, 32):
        directed.widget("(w, frame) => w.model.scrub(frame)", frame)
        x, y, count, middle_x, middle_y, width = directed.widget(RED)
        assert count > 100
        assert x == pytest.approx(middle_x, abs=0.04 * width)
        assert y == pytest.approx(middle_y, abs=0.04 * width)
        xs.append(x)
    assert xs[1] > xs[0] + 30


def test_above_a_keyframe_is_dragged_along_the_floor_as_one_step_of_undo(directed: Any) -> None:
    assert directed.widget("(w) => w.viewport.controls.view") == "top"
    before = directed.value("path", kind=PLACES)
    drag(directed, at(directed, directed.widget(POINT, 1)), (30, -20))
    after = path(directed)
    assert [after[0], after[2]] == [PATH[0], PATH[2]]
    assert after[1]["frame"] == 16 and "heading" not in after[1]
    assert after[1]["place"][0] > PATH[1]["place"][0], "to the right"
    assert after[1]["place"][1] > PATH[1]["place"][1], "and away"
    directed.page.evaluate(UNDO)
    directed.page.wait_for_function(
        """before => app.graph.nodes.find((n) => n.type === "MiragePlaceActor")
            .widgets.find((w) => w.name === "path").value === before""",
        arg=before,
    )
    # Undo made the widget anew: the actors are still what is looked at.
    directed.wait("(w) => w?.directing?.on && w.viewport.controls.view === 'top'")


def test_escape_takes_a_drag_back(directed: Any) -> None:
    before = directed.value("path", kind=PLACES)
    x, y = press(directed, at(directed, directed.widget(POINT, 1)))
    directed.page.mouse.move(x + 40, y, steps=3)
    assert directed.widget(STOPS)[1]["place"] != PATH[1]["place"]
    directed.page.keyboard.press("Escape")
    directed.page.mouse.up()
    assert directed.widget(STOPS)[1]["place"] == PATH[1]["place"]
    assert directed.value("path", kind=PLACES) == before


def test_the_heading_is_dragged_typed_and_left_to_the_path(directed: Any) -> None:
    directed.widget("(w) => w.directing.actors.select(1)")
    heading = button(
        directed,
        "Heading at the selected keyframe, in degrees: 0 away from the first camera, "
        "90 to its right",
    )
    ahead = button(directed, "Face ahead")
    assert ahead.get_attribute("aria-pressed") == "true"
    nose = directed.widget(
        """(w) => {
            const { actors } = w.directing;
            const { point, heading } = actors.trackOf(actors.current)(16);
            const [width, , length] = actors.sizeOf(actors.current);
            const reach = 1.2 * Math.max(width, length);
            const ahead = [Math.sin(heading), 0, Math.cos(heading)];
            return point.map((value, i) => value + reach * ahead[i]);
        }"""
    )
    key = directed.widget(POINT, 1)
    x, y = at(directed, key)()
    press(directed, at(directed, nose))
    directed.page.mouse.move(x + 60, y, steps=6)
    directed.page.mouse.up()
    assert path(directed)[1]["heading"] == pytest.approx(90, abs=2)
    assert ahead.get_attribute("aria-pressed") == "false"
    heading.fill("-45")
    heading.press("Enter")
    assert path(directed)[1]["heading"] == -45
    ahead.click()
    assert "heading" not in path(directed)[1]


@pytest.mark.parametrize("behaviour", ["path", "stay"])
def test_in_the_camera_view_the_card_is_dragged_on_the_ground(
    directed: Any, behaviour: str
) -> None:
    """The shown frame becomes a keyframe, and the actor follows its path from then on."""
    button(directed, "What it does when nobody looks").select_option(behaviour)
    directed.widget("(w) => { w.viewport.setView('camera'); w.model.scrub(8); }")
    floor = directed.widget("(w) => w.directing.actors.ground")
    was = directed.widget(HERE)
    # Its middle, above where it stands.
    size = directed.widget("(w) => w.directing.actors.sizeOf(w.directing.actors.current)")
    middle = [part + up * size[1] / 2 for part, up in zip(was, floor["up"], strict=True)]
    x, y = press(directed, at(directed, middle))
    directed.page.mouse.move(x + 36, y, steps=6)
    assert directed.widget(HERE)[0] > was[0] + 0.05, "it follows before it is let go"
    directed.page.mouse.up()
    stop = next(key for key in path(directed) if key["frame"] == 8)
    assert stop["place"][0] > was[0] + 0.05
    assert directed.value("behaviour", kind=PLACES) == "path"
    now = directed.widget(HERE)
    assert np.dot(now, floor["up"]) == pytest.approx(floor["height"], abs=1e-6)
    # The mouse moved as far as its foot did.
    moved = np.subtract(at(directed, now)(), at(directed, was)())
    np.testing.assert_allclose(moved, (36, 0), atol=1.5)
    assert directed.value("keyframes") == "", "the camera stays as it was"


def test_beside_the_card_the_camera_is_not_aimed(directed: Any) -> None:
    directed.widget("(w) => w.viewport.setView('camera')")
    before = directed.value("path", kind=PLACES)

    def corner() -> list[float]:
        box = canvas(directed).bounding_box()
        return [box["x"] + 20, box["y"] + 20]

    drag(directed, corner, (40, 10))
    assert directed.value("keyframes") == ""
    assert directed.value("path", kind=PLACES) == before
    assert directed.widget("(w) => w.viewport.controls.view") == "camera"


def test_the_timeline_has_the_actors_keyframes(directed: Any) -> None:
    keys = widget(directed).locator(".mirage-key")
    expect(keys).to_have_count(3)
    keys.nth(1).focus()
    directed.page.keyboard.press("ArrowRight")
    assert [key["frame"] for key in path(directed)] == [0, 17, 32]
    focus(directed)
    directed.widget("(w) => w.model.scrub(24)")
    directed.page.keyboard.press("k")
    assert [key["frame"] for key in path(directed)] == [0, 17, 24, 32]
    expect(keys).to_have_count(4)
    before = path(directed)[2]["place"]
    directed.page.keyboard.press("ArrowUp")
    assert path(directed)[2]["place"][1] > before[1], "away from the camera"
    directed.page.keyboard.press("Delete")
    assert [key["frame"] for key in path(directed)] == [0, 17, 32]
    directed.page.keyboard.press("[")
    assert directed.widget("(w) => w.directing.actors.selected") == 1
    assert directed.value("keyframes") == ""
    button(directed, ACTORS).click()
    expect(keys).to_have_count(0)


def test_the_cameras_keyframes_are_left_alone_meanwhile(directed: Any) -> None:
    button(directed, ACTORS).click()
    directed.widget("(w) => { w.model.addKeyframe(16); w.viewport.setView('camera'); }")
    before = directed.value("keyframes")
    button(directed, ACTORS).click()
    directed.widget("(w) => w.directing.actors.select(-1)")
    focus(directed)
    for key in ("PageUp", "ArrowLeft", "ArrowUp", "Delete"):
        directed.page.keyboard.press(key)
    x, y = at(directed, directed.widget(HERE))()
    directed.page.mouse.move(x, y)
    directed.page.mouse.wheel(0, -300)
    directed.settle()
    assert directed.value("keyframes") == before
    assert path(directed) == PATH
    assert button(directed, "Speed from this keyframe to the next").is_disabled()


def test_who_is_renamed_stays_the_one_that_is_directed(directed: Any) -> None:
    directed.widget("(w) => w.directing.actors.select(1)")
    rename = """(name) => {
        const node = app.graph.nodes.find((n) => n.type === "MirageActor");
        node.widgets.find((w) => w.name === "name").value = name;
    }"""
    directed.page.evaluate(rename, "blue box")
    try:
        directed.widget("(w) => w.refresh()")
        name, selected = directed.widget(
            "({ directing: { actors } }) => [actors.current.name, actors.selected]"
        )
        assert (name, selected) == ("blue box", 1)
        assert directed.widget("(w) => w.directing.actors.current.report !== null")
        for frame in (0, 16):
            directed.widget("(w, frame) => w.model.scrub(frame)", frame)
            was, now = map(np.array, directed.widget(LOCAL))
            np.testing.assert_allclose(now, was, atol=2e-5, err_msg="its points still follow")
    finally:
        directed.page.evaluate(rename, "red box")
        directed.widget("(w) => w.refresh()")


def test_seconds_stay_seconds(directed: Any) -> None:
    write(directed, json.dumps([{"time": 0.5, "place": [0, 3]}, {"time": 1, "place": [0.5, 3]}]))
    directed.widget("(w) => { w.model.scrub(18); w.directing.actors.addKeyframe(); }")
    assert [key["time"] for key in path(directed)] == [0.5, 0.75, 1]
    assert path(directed)[1]["place"] == pytest.approx([0.25, 3])


def test_without_a_path_the_first_keyframe_is_where_it_is(directed: Any) -> None:
    button(directed, "What it does when nobody looks").select_option("stay")
    write(directed, "")
    kind, detail = directed.run()
    assert kind == "execution_success", detail
    directed.wait("(w) => w.directing.actors.current.report")
    was = directed.widget(HERE)
    button(directed, "Add a keyframe here").click()
    (stop,) = path(directed)
    assert stop["frame"] == 0
    assert directed.widget(HERE) == pytest.approx(was, abs=1e-4)
    button(directed, "Delete the keyframe").click()
    assert directed.value("path", kind=PLACES) == ""


@pytest.mark.parametrize(
    "text", ["[", '{"frame": 0}', '[{"frame": 0, "place": [1]}]', "[null]", '[{"place": [0, 1]}]']
)
def test_a_path_that_cannot_be_read_is_told_and_left_alone(directed: Any, text: str) -> None:
    write(directed, text)
    note = widget(directed).locator(".mirage-note")
    expect(note).to_have_text("The path of red box cannot be read: queue once to see where.")
    expect(button(directed, "Add a keyframe here")).to_be_disabled()
    focus(directed)
    directed.page.keyboard.press("k")
    assert directed.value("path", kind=PLACES) == text


def test_what_is_missing_is_told(directed: Any) -> None:
    note = widget(directed).locator(".mirage-note")
    directed.page.evaluate(CONNECT, "MirageCacheInit")
    directed.widget("(w) => w.directing.actors.describe(null) ?? w.refresh()")
    expect(note).to_have_text(
        "No actor: connect the cache of Mirage Place Actor to this node's cache."
    )
    expect(button(directed, "Add a keyframe here")).to_be_disabled()
    directed.page.evaluate(CONNECT, PLACES)
    directed.widget("(w) => w.directing.actors.describe(w.view) ?? w.refresh()")
    expect(note).to_have_text("")


def test_two_actors_are_told_apart(directed: Any) -> None:
    """Another node places a second one; each has its own keyframes, and a click chooses."""
    directed.page.evaluate(
        """() => {
            const first = app.graph.nodes.find((n) => n.type === "MiragePlaceActor");
            const move = app.graph.nodes.find((n) => n.type === "MirageTrajectory");
            const second = LiteGraph.createNode("MiragePlaceActor");
            second.title = "a friend";
            app.graph.add(second);
            const path = '[{"frame": 0, "place": [1.2, 4]}, {"frame": 20, "place": [1.2, 3]}]';
            const wanted = { behaviour: "path", path };
            for (const w of second.widgets) if (w.name in wanted) w.value = wanted[w.name];
            first.connect(0, second, 0);
            second.connect(0, move, move.inputs.findIndex((input) => input.name === "cache"));
        }"""
    )
    try:
        directed.widget("(w) => w.refresh()")
        choice = button(directed, "Actor that is directed")
        assert choice.locator("option").all_text_contents() == ["red box", "a friend"]
        there = directed.widget(
            "(w) => w.directing.actors.trackOf(w.directing.actors.all[1])(0).point"
        )
        press(directed, at(directed, there))
        directed.page.mouse.up()
        assert choice.input_value() == "a friend"
        assert [stop["frame"] for stop in directed.widget(STOPS)] == [0, 20]
        drag(directed, at(directed, directed.widget(POINT, 1)), (20, 0))
        assert path(directed) == PATH, "that of the other stays"
        assert directed.widget(STOPS)[1]["place"][0] > 1.2
        # One of the same name that is placed later takes the place of the first.
        directed.page.evaluate(SAME_NAME)
        directed.widget("(w) => w.refresh()")
        assert choice.locator("option").all_text_contents() == ["red box"]
        assert [stop["frame"] for stop in directed.widget(STOPS)] == [0, 20]
        directed.page.evaluate(SAME_NAME.replace("node.title = 'red box'", "node.mode = 4"))
        directed.widget("(w) => w.refresh()")
        assert [stop["frame"] for stop in directed.widget(STOPS)] == [0, 16, 32]
    finally:
        directed.shows = None
