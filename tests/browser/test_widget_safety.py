"""Hostile values in a shared workflow: nothing hangs, nothing becomes part of the page."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mirage_core.trajectories.keyframes import Keyframe, keyframes_to_json

pytestmark = [pytest.mark.browser, pytest.mark.server]

MARKUP = "<img src=x onerror='window.owned = true'><script>window.owned = true</script>"
HEAD = {
    "format": "mirage-keyframes",
    "version": 1,
    "convention": {"axes": "opencv", "matrix": "camera_to_world"},
}
KEY = {"frame": 0, "position": [0, 0, 0], "quaternion": [0, 0, 0, 1]}


def document(*keys: Any, **changes: Any) -> str:
    return json.dumps(HEAD | {"keyframes": list(keys)} | changes)


BAD_KEYFRAMES = {
    "markup": MARKUP,
    "nan": document(KEY | {"position": [float("nan"), 0, 0]}),
    "infinity": document(KEY | {"position": [1e999, 0, 0]}),
    "text_for_number": document(KEY | {"frame": "0"}),
    "markup_easing": document(KEY | {"easing": MARKUP}),
    "prototype": document(KEY | {"easing": "__proto__"}),
    "zero_quaternion": document(KEY | {"quaternion": [0, 0, 0, 0]}),
    "huge_frame": document(KEY | {"frame": 10**30}),
    "twice": document(KEY, KEY),
    "none": document(),
    "list": "[" * 100_000,
    "null": "null",
    "keyframes_object": document(**{"keyframes": {"length": 10**9}}),
    "too_many": document(*[KEY | {"frame": i} for i in range(10_001)]),
    "too_long": " " * 9_000_000 + "{}",
}


@pytest.fixture
def built(studio: Any) -> Any:
    if studio.shows != "graph":
        studio.build()
        studio.shows = "graph"
    return studio


@pytest.mark.parametrize("text", BAD_KEYFRAMES.values(), ids=BAD_KEYFRAMES)
def test_bad_keyframes_are_named_and_kept(built: Any, text: str) -> None:
    text = text if text.strip() == text else "[" + "1," * 3_000_000 + "1]"
    built.set_value("keyframes", text)
    problem, note, length = built.widget(
        "(w) => [w.model.problem, w.note.textContent, w.model.path.length]"
    )
    assert problem and note and note != f"problem_{problem}"
    assert length == 33
    assert built.value("keyframes") == text, "what a person has is not thrown away unasked"
    built.set_value("keyframes", "")
    assert built.widget("(w) => w.model.problem") is None


def test_many_keyframes_are_drawn_and_left_alone(built: Any) -> None:
    keys = [Keyframe(i, (i * 0.001, 0, 0), (0, 0, 0, 1)) for i in range(8000)]
    text = keyframes_to_json(keys)
    built.set_value("frames", 8001)
    built.set_value("keyframes", text)
    found = built.widget("(w) => [w.model.problem, w.model.editable, w.addButton.disabled]")
    assert found == [None, False, True]
    assert built.page.locator(".mirage-key").count() <= 120
    built.set_value("keyframes", "")
    built.set_value("frames", 33)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frames", "many"), ("frames", 1e12), ("frames", None), ("frames", -5),
        ("amount", "NaN"), ("amount", 1e308), ("fps", 0), ("fps", MARKUP),
        ("preset", MARKUP), ("preset", "constructor"), ("easing", "toString"),
        ("there_and_back", "yes"), ("keys", "w*99999999 " * 50), ("keys", MARKUP),
        ("keys", "w" * 2_000_000), ("keyframes", 7), ("keyframes", {"a": [1] * 1000}),
    ],
)  # fmt: skip
def test_values_of_the_wrong_kind(built: Any, name: str, value: Any) -> None:
    before = built.value(name)
    built.set_value(name, value)
    found = built.widget(
        """(w) => {
            w.viewport.render();
            return [w.model.path.length, w.model.path.position.every(Number.isFinite), w.model.fps];
        }"""
    )
    assert 5 <= found[0] <= 100_001 and found[1] and 1 <= found[2] <= 120
    built.set_value(name, before)


@pytest.mark.parametrize(
    "view",
    [
        {"blocks": [{"filename": MARKUP}, {"filename": "../../secret"}, None, 7]},
        {"blocks": "x" * 1000, "points": MARKUP, "codec": MARKUP, "bytes": None},
        {"blocks": [{"points": float("1e400")}] * 5, "statistics": "x", "coverage": [MARKUP]},
        {"width": 1e9, "height": -1, "depth": 0, "intrinsics": [0], "start": MARKUP},
        MARKUP, 7, None, [],
    ],
)  # fmt: skip
def test_reports_of_the_wrong_kind(built: Any, view: Any) -> None:
    for kind in ("MirageTrajectory", "MirageCacheInfo"):
        built.widget("async (w, view) => await w.show(view)", json.loads(json.dumps(view)), kind)
    assert built.widget("(w) => w.points.count") == 0
    assert built.widget("(w) => w.model.scene.known") is False


def test_a_damaged_file_of_points_is_refused(built: Any) -> None:
    code = f"""async () => {{
        const {{ decodePoints }} = {built.import_module("viewer/points")};
        const bytes = new Uint8Array(200);
        bytes.set([..."MIRPTS02"].map((c) => c.charCodeAt(0)));
        new DataView(bytes.buffer).setUint32(8, 0xffffffff, true);
        const refused = [];
        for (const buffer of [new ArrayBuffer(0), new ArrayBuffer(500), bytes.buffer]) {{
            try {{ decodePoints(buffer); }} catch (error) {{ refused.push(error.message); }}
        }}
        return refused;
    }}"""
    assert len(built.page.evaluate(code)) == 3


def test_an_error_is_told_in_the_interface_as_text(built: Any) -> None:
    """What is wrong and what to do, even where the message repeats a hostile value."""
    built.set_value("keys", f"w*16 {MARKUP.replace(' ', '')}")
    kind, detail = built.run()
    assert kind == "execution_error" and detail["node_type"] == "MirageTrajectory"
    said = detail["exception_message"].strip()
    assert "<img" in said and "Expected: " in said
    built.page.get_by_test_id("error-overlay-see-errors").click()
    built.page.get_by_text(said[:60]).first.wait_for()
    built.set_value("keys", "")


def test_nothing_was_injected(built: Any) -> None:
    """Last in the file."""
    assert built.page.evaluate("() => window.owned") is None
    assert built.page.locator(".mirage-widget img, .mirage-widget script").count() == 0
    # ComfyUI's panel of errors looks up each node's pack on the registry, which is not reached.
    said = [line for line in built.console if "api.comfy.org" not in line]
    assert [line for line in said if "mirage" in line.lower()] == []
    assert [line for line in built.console if line.startswith("pageerror")] == []
