"""The memory viewer: what it shows, and that it follows a rollout chunk by chunk."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest

from dev.comfy_server import PACK, ComfyServer
from mirage_core.cache.io import load_cache
from mirage_core.geometry.cutouts import covers_half

from .conftest import WIDGET

pytestmark = [pytest.mark.browser, pytest.mark.server]

INFO = "MirageCacheInfo"
SHOT = PACK / "workflows" / "mirage_first_shot.json"

ADD_VIEWER = """() => {
    const graph = app.graph;
    const result = graph.nodes.find((n) => n.type === "MirageRolloutResult");
    const info = LiteGraph.createNode("MirageCacheInfo");
    info.pos = [1400, -500];
    graph.add(info);
    result.connect(result.outputs.findIndex((o) => o.name === "cache"), info, 0);
    const first = LiteGraph.createNode("MirageCacheInfo");
    first.pos = [1900, -500];
    graph.add(first);
    graph.nodes.find((n) => n.type === "MirageCacheInit").connect(0, first, 0);
    const small = { width: 192, height: 128, frames: 65 };
    for (const node of graph.nodes) for (const w of node.widgets ?? [])
        if (w.name in small) w.value = small[w.name];
    [window.news, window.lines] = [[], []];
    comfyAPI.api.api.addEventListener("progress_text", (e) => window.lines.push(e.detail.text));
    comfyAPI.api.api.addEventListener("mirage.chunk", (e) => window.news.push(e.detail));
}"""


def points_in(server: ComfyServer, filename: str) -> int:
    """How many points a file for viewers holds."""
    (file,) = server.base.rglob(filename)
    return int(struct.unpack_from("<I", file.read_bytes(), 8)[0])


def test_points_are_those_of_the_memory(studio: Any) -> None:
    studio.build()
    studio.see()
    studio.wait("(w) => w.points.count > 0", kind=INFO)
    cache = load_cache(studio.newest("widget_*.safetensors"))
    count, position, frame = studio.widget(
        "(w) => [w.points.count, Array.from(w.points.position), Array.from(w.points.frame)]",
        kind=INFO,
    )
    (block,) = cache.blocks
    # Viewers show whole cells: of a split one its larger part.
    shown = block.take(covers_half(block.masks))
    assert count == len(shown) > 0.9 * len(cache)
    wanted = shown.points.numpy()
    away = np.linalg.norm(np.reshape(position, (-1, 3)) - wanted, axis=1)
    assert (away / np.linalg.norm(wanted, axis=1)).max() < 5e-4
    assert set(frame) == {0}


@pytest.mark.parametrize("colouring", ["colour", "feature", "age"])
def test_colours_can_be_chosen(studio: Any, colouring: str) -> None:
    place = studio.page.locator(".mirage-widget", has=studio.page.locator(".mirage-facts"))
    place.get_by_label("Colours of the points").select_option(colouring)
    used, size = studio.widget(
        "(w, name) => [w.viewport.colours === w.points[name], w.viewport.colours.length]",
        colouring,
        INFO,
    )
    assert used and size == 4 * studio.widget("(w) => w.points.count", kind=INFO)


def test_size_and_growth_are_told(studio: Any) -> None:
    facts = studio.widget("(w) => w.facts.textContent", kind=INFO)
    count = len(load_cache(studio.newest("widget_*.safetensors")))
    assert f"{count:,}" in facts and "MiB" in facts and "embedded-dct-1" in facts
    assert "1 blocks" in studio.widget("(w) => w.chart.canvas.title", kind=INFO)


def test_growth_has_its_colour_in_a_graph_that_is_opened(studio: Any) -> None:
    """The chart is filled before its widget is on the page."""
    studio.page.evaluate(
        """async () => {
            const graph = app.graph.serialize();
            await app.loadGraphData(graph, true, true, "studio");
        }"""
    )
    studio.page.wait_for_function(
        f"""([kind]) => {{
            const canvas = ({WIDGET})(kind)?.chart.canvas;
            const place = [3, (canvas?.height ?? 0) - 3, 1, 1];
            const pixel = canvas?.getContext("2d").getImageData(...place).data;
            return pixel?.join() === "94,200,255,255";
        }}""",
        arg=[INFO],
    )


def test_a_node_that_is_gone_gets_no_widget(studio: Any) -> None:
    """It would listen to the server for as long as the page is open."""
    filled = studio.page.evaluate(
        """async (kind) => {
            const add = () => app.graph.add(LiteGraph.createNode(kind));
            const place = (node) => node.widgets.find((w) => w.name === "mirage_view").element;
            const gone = add();
            app.graph.remove(gone);
            const kept = add();
            while (!place(kept).mirage) await new Promise(requestAnimationFrame);
            app.graph.remove(kept);
            return Boolean(place(gone).mirage);
        }""",
        INFO,
    )
    assert not filled


def test_what_another_workflow_ran_is_seen(studio: Any) -> None:
    """The server has the outputs of all these nodes: nothing runs, nothing is reported."""
    again = studio.another()
    again.build()
    assert studio.widget("(w) => w.points.count") == 0
    again.see()
    assert again.widget("(w) => w.model.scene.known")


@pytest.mark.parametrize("kind", ["MirageTrajectory", INFO])
def test_two_reports_at_once_bring_all_into_view(studio: Any, kind: str) -> None:
    """As when a page has just been opened and a prompt finishes."""
    view = studio.widget("(w) => w.view", kind=kind)
    again = studio.another()
    again.build()
    again.widget(
        "async (w, view) => { await Promise.all([w.show(view), w.show({ ...view })]) }", view, kind
    )
    controls = "(w) => [w.viewport.controls.distance, ...w.viewport.controls.target]"
    seen = again.widget(controls, kind=kind)
    place = again.page.locator(".mirage-widget").filter(
        has=again.page.locator(".mirage-facts" if kind == INFO else ".mirage-timeline")
    )
    place.get_by_label("Show everything", exact=True).click()
    assert again.widget(controls, kind=kind) == seen
    studio.build()
    studio.see()


def test_the_viewer_follows_a_rollout(studio: Any) -> None:
    content = json.loads(SHOT.read_text(encoding="utf-8"))
    studio.page.evaluate("async (c) => await app.loadGraphData(c, true, true, 'shot')", content)
    studio.page.evaluate(ADD_VIEWER)
    studio.wait("(w) => w?.viewport", kind=INFO)
    kind, detail = studio.run()
    assert kind == "execution_success", detail
    news = studio.page.evaluate("() => window.news")
    assert [item["done"] for item in news] == [1, 2]
    assert [item["chunks"] for item in news] == [2, 2]
    lines = studio.page.evaluate("() => window.lines")
    assert [line[:12] for line in lines if line.startswith("Chunk")] == [
        "Chunk 1 of 2",
        "Chunk 2 of 2",
    ]
    assert len(news[0]["coverage"]) == 9 and len(news[1]["coverage"]) == 8
    studio.wait("(w) => w.points.count > 0", kind=INFO)
    # Of a split cell only the larger part is shown.
    shown = sum(points_in(studio.server, block["filename"]) for block in news[-1]["blocks"])
    assert 0.5 * news[-1]["points"] < shown <= news[-1]["points"]
    studio.wait("(w, count) => w.points.count === count", shown, INFO)
    # The trajectory widget shows the memory of its own path as it is now.
    studio.wait("(w, count) => w.points.count === count", shown)
    assert studio.widget("(w) => w.chart.coverage.length", kind=INFO) == 17
    # The viewer of the memory that the shot began with stays with that one.
    begun, run = studio.page.evaluate(
        """() => {
            const nodes = app.graph.nodes.filter((n) => n.type === "MirageCacheInfo");
            const { view } = nodes[1].widgets.find((w) => w.name === "mirage_view").element.mirage;
            return [view.points, view.run ?? null];
        }"""
    )
    assert 0 < begun < news[-1]["points"] and run is None
    assert [line for line in studio.console if "mirage" in line.lower()] == []
