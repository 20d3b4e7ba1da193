"""Draw the pictures of the sampling workflows: what ComfyUI's own frontend shows of them.

Run it with ``python tools pictures.make_sampling_images`` after a change of the graphs. Nothing is
sampled: there are no weights here that would make a picture worth showing.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from dev.bootstrap import find_chromium
from dev.comfy_client import ComfyClient
from dev.comfy_server import PACK, ComfyServer
from dev.frontend_page import open_page
from tiny_install import SERVER_ARGS, install

NAMES = ("rollout", "training_free")
PICTURE = (1280, 704)
MARGIN = 40
BAR = 110
"""Height of what the frontend lays over the canvas at the top, and width of it at the left."""

GRAPH_WIDTH, THUMBNAIL_WIDTH, QUALITY = 1280, 900, 81

LOAD = """async ([content, name]) => {
    // Text is drawn at every zoom.
    await app.extensionManager.setting.set("LiteGraph.Canvas.MinFontSizeForLOD", 0);
    await app.loadGraphData(content, true, true, name);
}"""
INSIDE = "() => app.canvas.setGraph(app.graph.nodes.find(n => n.subgraph).subgraph)"
OUTSIDE = "() => app.canvas.setGraph(app.graph.rootGraph ?? app.graph)"
SHOW = """([bar, margin]) => {
    const graph = app.canvas.graph;
    const boxes = [...graph.nodes.map(n => [n.pos[0], n.pos[1] - 50, n.size[0], n.size[1] + 50]),
        ...(graph.groups ?? []).map(g => [...g.pos, ...g.size])];
    for (const io of [graph.inputNode, graph.outputNode])
        if (io) boxes.push([...io.pos, ...io.size]);
    const low = i => Math.min(...boxes.map(b => b[i]));
    const high = i => Math.max(...boxes.map(b => b[i] + b[i + 2]));
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [bar + margin - low(0), bar + margin - low(1)];
    app.canvas.setDirty(true, true);
    return [high(0) - low(0) + 2 * margin, high(1) - low(1) + 2 * margin];
}"""


def picture(page: Page, *, inside: bool) -> Image.Image:
    """The graph that is open, or the inside of its loop, at full size."""
    page.evaluate(INSIDE if inside else OUTSIDE)
    page.wait_for_timeout(500)
    width, height = page.evaluate(SHOW, [BAR, MARGIN])
    page.set_viewport_size({"width": int(width) + 3 * BAR, "height": int(height) + 3 * BAR})
    page.evaluate(SHOW, [BAR, MARGIN])
    page.wait_for_timeout(1500)
    clip = {"x": BAR, "y": BAR, "width": width, "height": height}
    return Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")


def save(image: Image.Image, width: int, path: Path) -> None:
    small = image.resize(
        (width, round(image.height * width / image.width)), Image.Resampling.LANCZOS
    )
    small.save(path, quality=QUALITY, optimize=True)
    print(f"wrote {path} ({small.width} x {small.height}, {path.stat().st_size // 1024} KB)")


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args()
    browser = find_chromium()
    if browser is None:
        raise SystemExit("needs Chromium")
    with tempfile.TemporaryDirectory(prefix="mirage-docs-") as base:
        install(Path(base), PICTURE)
        with ComfyServer(base, extra_args=SERVER_ARGS) as server:
            ComfyClient(server.url).post_json("/settings/Comfy.TutorialCompleted", True)
            ComfyClient(server.url).post_json("/settings/Comfy.Minimap.Visible", False)
            with open_page(browser, server.url) as page:
                for name in NAMES:
                    draw(page, name)


def draw(page: Page, name: str) -> None:
    """Save the pictures of a workflow."""
    path = PACK / "workflows" / f"mirage_{name}.json"
    page.evaluate(LOAD, [json.loads(path.read_text("utf-8")), path.stem])
    page.wait_for_timeout(2000)
    if name == NAMES[0]:
        # The other one looks alike.
        target = PACK / "docs" / "images" / f"{name}_graph.jpg"
        save(picture(page, inside=False), GRAPH_WIDTH, target)
    save(picture(page, inside=True), THUMBNAIL_WIDTH, path.with_suffix(".jpg"))


if __name__ == "__main__":
    main()
