"""A walk in the widget that has its next chunks made while one walks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dev.comfy_client import ComfyClient
from dev.comfy_server import PACK

from .hands import button

pytestmark = [pytest.mark.browser, pytest.mark.server]

SHOT = PACK / "workflows" / "mirage_first_shot.json"
WALK = "Walk with W A S D and the arrow keys, and record it"
PAINT = "Queue the next chunks while walking"

SMALL = """(name) => {
    const small = {
        width: 192, height: 128, name, first_chunk_frames: 9, chunk_frames: 9,
    };
    for (const node of app.graph.nodes) for (const w of node.widgets ?? [])
        if (w.name in small) w.value = small[w.name];
    app.canvas.ds.scale = 1;
    const move = app.graph.nodes.find((n) => n.type === "MirageTrajectory");
    app.canvas.ds.offset = [60 - move.pos[0], 60 - move.pos[1]];
    app.canvas.setDirty(true, true);
    // The page stays for several tests.
    if (!window.chunks) {
        const hear = (name, heard) => comfyAPI.api.api.addEventListener(name, heard);
        hear("mirage.chunk", (e) => window.chunks.push(e.detail));
        hear("status", (e) => window.depths.push(e.detail?.exec_info?.queue_remaining ?? 0));
    }
    [window.runs, window.chunks, window.depths] = [[], [], []];
}"""

SLOWLY = """() => {
    const move = app.graph.nodes.find((n) => n.type === "MirageTrajectory");
    move.widgets.find((w) => w.name === "fps").value = 3;
}"""

STEPS = "(w) => w.walk.recorder.steps"

LET_GO = """(w, steps) => {
    const { recorder, held } = w.walk;
    recorder.step = (keys) => {
        Object.getPrototypeOf(recorder).step.call(recorder, keys);
        if (recorder.steps < steps) return;
        delete recorder.step;
        held.clear();
        // A key that is held repeats, and would be held again.
        const until = new AbortController();
        const listen = (name, heard) =>
            addEventListener(name, heard, { capture: true, signal: until.signal });
        listen("keydown", (event) => event.repeat && event.stopImmediatePropagation());
        listen("keyup", () => until.abort());
    };
}"""


@pytest.fixture
def shot(studio: Any, renderer: bool) -> Any:
    """The first shot, small, in chunks of 9 frames, and under a name of its own."""
    content = json.loads(SHOT.read_text())
    studio.page.evaluate("async c => await app.loadGraphData(c, true, true, 'walk')", content)
    studio.page.evaluate(SMALL, f"live_walk_{renderer}")
    studio.wait("(w) => w?.model?.source === 'preset'")
    studio.renderer(renderer)
    studio.settle()
    studio.shows = None
    return studio


def walk_to(studio: Any, steps: int, key: str = "w") -> None:
    """Hold a key until so many steps were made, and not one more: the page itself lets go."""
    studio.widget(LET_GO, steps)
    studio.page.keyboard.down(key)
    studio.wait("(w, steps) => w.walk.recorder.steps >= steps", steps)
    studio.page.keyboard.up(key)


def finished(studio: Any, runs: int) -> None:
    """So many prompts were made, and no other one is under way."""
    studio.page.wait_for_function("runs => window.runs.length >= runs", arg=runs)
    studio.wait("(w) => !w.walk.live.painting && !w.walk.live.waiting")
    assert studio.page.evaluate("() => window.runs.map(([kind]) => kind)") == (
        ["execution_success"] * runs
    )


def test_a_walk_is_painted_ahead(shot: Any) -> None:
    button(shot, WALK).click()
    shot.wait("(w) => w.walk.active")
    button(shot, PAINT).select_option("101")
    walk_to(shot, 8)
    assert shot.widget(STEPS) == 8
    finished(shot, 1)
    assert shot.value("keys") == "w*8"
    shot.wait("(w) => w.points.count > 0")
    first = shot.page.evaluate("() => window.chunks.map(({ done, chunks }) => [done, chunks])")
    assert first == [[1, 1]]
    seen = shot.widget("(w) => w.points.count")

    walk_to(shot, 16, "d")
    finished(shot, 2)
    assert shot.widget("(w) => w.walk.active")
    assert shot.value("keys").startswith("w*")
    news = shot.page.evaluate("() => window.chunks.map(({ done, chunks }) => [done, chunks])")
    assert news == [[1, 1], [2, 2]], "the first chunk was made again"
    shot.wait("(w, seen) => w.points.count >= seen", seen)
    assert max(shot.page.evaluate("() => window.depths")) == 1, "two prompts at once"

    steps = shot.widget(STEPS)
    shot.page.keyboard.press("p")
    walk_to(shot, 24)
    assert "paused" in shot.widget("(w) => w.note.textContent")
    assert shot.page.evaluate("() => window.runs.length") == 2
    shot.page.keyboard.press("Backspace")
    assert shot.widget(STEPS) == steps
    shot.page.keyboard.press("Enter")
    keys = shot.value("keys")
    assert shot.widget("(w) => [w.walk.active, w.model.source]") == [False, "keys"]
    assert not shot.widget("(w) => w.walk.live.painting")

    button(shot, WALK).click()
    assert shot.widget("(w) => w.walk.recorder.text") == keys, "it does not go on"
    shot.page.keyboard.press("Escape")
    assert shot.value("keys") == keys
    history = ComfyClient(shot.server.url).get_json("/history")
    wanted = [entry["prompt"][4] for entry in history.values()][-2:]
    kinds = [
        {entry["prompt"][2][node]["class_type"] for node in nodes}
        for entry, nodes in zip(list(history.values())[-2:], wanted, strict=True)
    ]
    assert kinds == [{"MirageRolloutResult"}] * 2


def test_what_is_known_is_not_painted(shot: Any) -> None:
    """Below the share alone; and dragging turns the walker a degree a frame."""
    # A busy machine sees a key go up late: slow steps keep the walk in what is known.
    shot.page.evaluate(SLOWLY)
    kind, detail = shot.run()
    assert kind == "execution_success", detail
    shot.wait("(w) => w.points.count > 0")
    button(shot, WALK).click()
    button(shot, PAINT).select_option("50")
    walk_to(shot, 9)
    assert shot.page.evaluate("() => window.runs.length") == 1
    box = shot.widget(
        """(w) => {
            const { x, y, width, height } = w.viewport.canvas.getBoundingClientRect();
            return [x, y, width, height];
        }"""
    )
    x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
    before = shot.widget("(w) => w.walk.recorder.walker.turned")
    shot.page.mouse.move(x, y)
    shot.page.mouse.down()
    shot.page.mouse.move(x + box[2] / 4, y, steps=4)
    shot.wait("(w, before) => w.walk.recorder.walker.turned >= before + 5", before)
    shot.page.mouse.up()
    shot.wait("(w) => w.walk.look.every((degrees) => Math.abs(degrees) < 1)")
    assert shot.widget("(w) => w.walk.recorder.walker.turned") > before
    shot.page.keyboard.press("Escape")
    assert shot.value("keys") == ""
