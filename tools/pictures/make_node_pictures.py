"""Make the pictures of the help pages: each node as ComfyUI's own frontend draws it.

Run it with ``python tools pictures.make_node_pictures`` after a change of nodes; with
names of nodes it draws those alone. Mirage Trajectory has a picture of its own, of its widget with
a bent path.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page

from dev.comfy_client import ComfyClient
from dev.comfy_server import PACK, ComfyServer
from dev.frontend_page import open_frontend, run, settle
from tiny_install import SERVER_ARGS, install
from workflows.sampling import MOGE

FOLDER = PACK / "js" / "docs" / "images"
OWN_PICTURE = "MirageTrajectory"
VIEW = (1400, 1200)
SCALE = 1.25
WIDTH = 300
"""Least width of a node: room for its whole title."""

CORNER = (300, 200)
MARGIN, TITLE = 10, 30
QUALITY, MAX_BYTES = 82, 25 * 1024

FILES = {"MirageCacheLoad": "memory", "MirageGeometryLoad": "depth"}
"""Part of the name of the file to show, where nodes list files of the same ending."""

SHOW = """async ([kind, part, width, corner, scale]) => {
    await app.loadGraphData({ last_node_id: 0, last_link_id: 0, nodes: [], links: [],
        version: 0.4 }, true, true, "picture");
    const node = LiteGraph.createNode(kind);
    node.pos = [0, 0];
    app.graph.add(node);
    const [file] = node.widgets ?? [];
    const fitting = file?.options.values?.find?.((name) => name.includes(part));
    if (fitting) file.value = fitting;
    node.setSize([Math.max(width, node.size[0]), node.size[1]]);
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset = [corner[0] / scale, corner[1] / scale];
    app.canvas.deselectAll?.();
    app.canvas.setDirty(true, true);
    return node.size;
}"""

FEED = """() => {
    const [node] = app.graph.nodes;
    const make = (kind) => {
        const made = LiteGraph.createNode(kind);
        made.pos = [-3000, 0];
        app.graph.add(made);
        return made;
    };
    const scene = make("MirageEmbeddedScene");
    const memory = make("MirageCacheInit");
    scene.connect(0, memory, 0);
    scene.connect(1, memory, 1);
    make("MirageEmbeddedCodec").connect(0, memory, 2);
    memory.connect(0, node, 0);
}"""

POINTS = """() => app.graph.nodes.find((n) => n.type === "MirageCacheInfo")
    .widgets.find((w) => w.name === "mirage_view").element.mirage?.points.count > 0"""


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """A node of a prompt."""
    return {"class_type": kind, "inputs": inputs}


def save_examples(client: ComfyClient) -> None:
    """Save one of each kind, so that the nodes that load have a file to name."""
    picture = {"image": ["scene", 0], "geometry": ["scene", 1]}
    move = {"preset": "orbit", "frames": 33, "amount": 1.0, "there_and_back": False}
    move |= {"easing": "smooth", "fps": 24.0, "keys": "", "keyframes": ""}
    first = {"depth_mode": "bilinear", "drop_flying": True, "pixel_convention": "paper"}
    client.run(
        {
            "scene": node("MirageEmbeddedScene", seed=16, width=320, height=192, fov=70.0),
            "codec": node("MirageEmbeddedCodec"),
            "memory": node("MirageCacheInit", vae=["codec", 0], **picture, **first),
            "move": node("MirageTrajectory", **picture, **move),
            "a": node("MirageCacheSave", cache=["memory", 0], filename_prefix="memory"),
            "b": node("MirageTrajectorySave", trajectory=["move", 0], filename_prefix="move"),
            "c": node("MirageGeometrySave", geometry=["scene", 1], filename_prefix="depth"),
        },
        timeout=120,
    )


def name_estimator(base: Path) -> None:
    """A folder under a name that Mirage Load Estimator lists: it is drawn, never loaded."""
    folder = base / "models" / MOGE.directory / "depth-anything-v2"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")


def draw(page: Page, kind: str) -> Image.Image:
    """A node alone, with its inputs' defaults; the memory viewer with a memory in it."""
    width, height = page.evaluate(SHOW, [kind, FILES.get(kind, "\0"), WIDTH, CORNER, SCALE])
    if kind == "MirageCacheInfo":
        page.evaluate(FEED)
        run(page)
        page.wait_for_function(POINTS)
        width, height = page.evaluate("() => [...app.graph.nodes[0].size]")
    page.mouse.move(2, VIEW[1] - 2)
    settle(page, 20)
    clip = {
        "x": CORNER[0] - MARGIN,
        "y": CORNER[1] - TITLE * SCALE - MARGIN,
        "width": width * SCALE + 2 * MARGIN,
        "height": (height + TITLE) * SCALE + 2 * MARGIN,
    }
    return Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")


def save(picture: Image.Image, path: Path) -> None:
    """Save a picture, in less quality if it is large."""
    for quality in range(QUALITY, 20, -8):
        picture.save(path, quality=quality, optimize=True)
        if path.stat().st_size < MAX_BYTES:
            break
    print(f"wrote {path} ({picture.width} x {picture.height}, {path.stat().st_size} bytes)")


def draw_all(names: Sequence[str]) -> None:
    """Draw the nodes of these names, or all of them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mirage-docs-") as base:
        install(Path(base))
        name_estimator(Path(base))
        with ComfyServer(base, extra_args=SERVER_ARGS) as server:
            client = ComfyClient(server.url)
            save_examples(client)
            ours = [name for name in client.object_info() if name.startswith("Mirage")]
            with open_frontend(server, *VIEW) as page:
                for name in names or [name for name in ours if name != OWN_PICTURE]:
                    save(draw(page, name), FOLDER / f"{name}.jpg")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="node ids; default all")
    draw_all(parser.parse_args().names)


if __name__ == "__main__":
    main()
