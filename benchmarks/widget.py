"""How long the browser widget takes for a frame: prints one JSON object.

Chromium draws in software (SwiftShader), so the numbers are those of a machine without a graphics
card; a card draws the same points in a fraction. Parts are timed in turn in the same page, since
the speed of a machine drifts:

- ``empty``: the widget without points: path, keyframes, floor. The baseline of the ratios.
- ``scene``: points and path, with the view turned a little before each frame, and read back once
  so that the drawing is over.
- ``same``: the same without turning the view.
- ``picture``: what a camera of the shot sees, as textured surfels at 640 x 352, another frame each
  time, and read back once.
- ``choice``: the part of it that decides which surfels are drawn, which is plain JavaScript.
- ``known``: the z-buffered readout of one camera on the latent grid, also plain JavaScript.
- ``decode``: from the fetched file to arrays.

``python benchmarks/widget.py --help``
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import statistics
import struct
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from mirage_core.cache.atlas import atlas_grid
from mirage_core.cache.view import MAGIC

TOOLS = Path(__file__).resolve().parents[1] / "tools"
WIDTH, HEIGHT = 1280, 704
COUNTS = (35_000, 350_000)
OPTIONS = (
    "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
# Only with a first workflow open: opening it clears the graph.
READY = """() => window.LiteGraph?.registered_node_types?.MirageTrajectory
    && window.app?.extensionManager?.workflow?.activeWorkflow && app.graph.nodes.length"""

SETUP = """async () => {
    const node = LiteGraph.createNode("MirageTrajectory");
    node.pos = [0, 0];
    app.graph.add(node);
    node.setSize([640, 900]);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [100, 60];
    app.canvas.setDirty(true, true);
    const place = node.widgets.find((w) => w.name === "mirage_view").element;
    while (!place.mirage || !place.mirage.viewport.canvas.clientWidth)
        await new Promise(requestAnimationFrame);
    window.widget = place.mirage;
    await new Promise((done) => setTimeout(done, 1000));
}"""

MEASURE = """async ({ file, runs, size, module, squares }) => {
    const { decodePoints, noPoints } = await import(`${module}/points.mjs`);
    const { cameraAt, gridOf } = await import(`${module}/scene.mjs`);
    const { CameraPicture } = await import(`${module}/picture.mjs`);
    const { Grid, readGrid } = await import(`${module}/zbuffer.mjs`);
    const binary = Uint8Array.from(atob(file), (c) => c.charCodeAt(0)).buffer;
    const { viewport, model } = window.widget;
    const [width, height] = size;
    const start = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]];
    const focal = width / 2 / Math.tan(0.6);
    const intrinsics = [focal, focal, width / 2, height / 2];
    model.describe({ width, height, intrinsics, depth: 3, start });
    const names = ["empty", "scene", "same", "picture", "choice", "known", "decode"];
    const times = Object.fromEntries(names.map((name) => [name, []]));
    const sheet = Object.assign(document.createElement("canvas"), { width: 640, height: 352 });
    const context = sheet.getContext("2d");
    const picture = new CameraPicture();
    const { rows, columns } = gridOf(model.scene);
    const grid = new Grid(rows, columns);
    const timed = (name, work) => {
        const begin = performance.now();
        work();
        times[name].push(performance.now() - begin);
    };
    const draw = (points, turn = 2) => {
        viewport.points = points;
        viewport.colours = points.colour;
        viewport.controls.orbit(turn, 0);
        viewport.render();
        // Reading a pixel waits until everything is drawn.
        viewport.context.getImageData(0, 0, 1, 1);
    };
    const nothing = noPoints();
    // A square of 16 x 16 pixels for every point, or smaller ones: as the server makes them.
    const { side, columns: across } = squares;
    const sheets = new OffscreenCanvas(side * across, side * squares.rows);
    const brush = sheets.getContext("2d");
    for (let i = 0; i < across * squares.rows; i++) {
        brush.fillStyle = `hsl(${(i * 37) % 360} 60% 50%)`;
        brush.fillRect(side * (i % across), side * Math.floor(i / across), side, side / 2);
    }
    const image = sheets.transferToImageBitmap();
    const atlas = { name: "benchmark", image, side, columns: across };
    const points = decodePoints(binary, atlas);
    const see = (camera) => {
        const shot = { points, colouring: "colour", camera, scene: model.scene };
        picture.draw(context, [0, 0, 640, 352], shot);
        context.getImageData(0, 0, 1, 1);
    };
    for (let run = -2; run < runs; run++) {
        timed("decode", () => decodePoints(binary, atlas));
        await new Promise((done) => setTimeout(done, 0));
        timed("empty", () => draw(nothing));
        draw(points);
        timed("scene", () => draw(points));
        timed("same", () => draw(points, 0));
        const camera = cameraAt(model.path, 2 * run + 4);
        timed("picture", () => see(camera));
        timed("choice", () => picture.choice.drawn(points.surfels, camera, model.scene));
        timed("known", () => readGrid(points, camera, model.scene, grid));
        await new Promise((done) => setTimeout(done, 0));
    }
    for (const name in times) times[name] = times[name].slice(2);
    const canvas = [viewport.canvas.width, viewport.canvas.height];
    return { times, canvas, held: points.count, shown: picture.choice.count, kind: picture.kind };
}"""


def points_file(count: int) -> bytes:
    """A file of points, as a memory of pictures of 80 x 44 cells that surround a walker."""
    rng = np.random.default_rng(0)
    cells = 80 * 44
    cameras = -(-count // cells)
    table = np.zeros((cameras, 13))
    for number in range(cameras):
        angle = 2 * np.pi * number / cameras
        turn = np.array(
            [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
        )
        inverse = np.linalg.inv([[58, 0, 40], [0, 58, 22], [0, 0, 1]])
        table[number] = [*(turn @ inverse).flatten(), *(turn[:, 2] * 0.5), 4 * number]
    index = np.arange(count)
    u, v = index % 80 + 0.5, index % cells // 80 + 0.5
    depth = np.log(3 + np.sin(u / 9) + rng.random(count) * 0.1)
    step = (depth.max() - depth.min()) / 65535
    planes = [u * 512, v * 512, (depth - depth.min()) / step, index // cells]
    planes += [rng.integers(0, 65536, count)] * 2
    planes += [np.zeros(count), np.zeros(count), np.full(count, 65535)]
    head = MAGIC + struct.pack("<6I", count, cameras, 0, 0, 16, 0)
    head += struct.pack("<6d", 0, 1 / 512, 0, 1 / 512, depth.min(), step)
    return head + table.tobytes() + b"".join(np.rint(p).astype("<u2").tobytes() for p in planes)


def summary(values: list[float]) -> dict[str, float]:
    return {
        "median_ms": round(statistics.median(values), 2),
        "least_ms": round(min(values), 2),
        "most_ms": round(max(values), 2),
    }


def measure(page: Any, count: int, runs: int) -> dict[str, Any]:
    data = points_file(count)
    options = {
        "file": base64.b64encode(data).decode(),
        "runs": runs,
        "size": [WIDTH, HEIGHT],
        "module": "/extensions/mirage/viewer",
        "squares": atlas_grid(count, 80, 16)._asdict(),
    }
    found = page.evaluate(MEASURE, options)
    parts = {name: summary(values) for name, values in found["times"].items()}
    empty = parts["empty"]["median_ms"]
    return {
        "points": found["held"],
        "surfels_drawn": found["shown"],
        "drawn_as": found["kind"],
        "file_bytes": len(data),
        "canvas": found["canvas"],
        **parts,
        "scene_to_empty": round(parts["scene"]["median_ms"] / empty, 2) if empty else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15, help="frames of each kind (default 15)")
    options = parser.parse_args()
    sys.path.insert(0, str(TOOLS))
    from playwright.sync_api import sync_playwright

    from dev.bootstrap import find_chromium
    from dev.comfy_client import ComfyClient
    from dev.comfy_server import ComfyServer

    chromium = find_chromium()
    if chromium is None:
        print(json.dumps({"skipped": "needs Chromium: install it, or set MIRAGE_CHROMIUM"}))
        return
    with tempfile.TemporaryDirectory() as base, ComfyServer(base) as server:
        ComfyClient(server.url).post_json("/settings/Comfy.TutorialCompleted", True)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=list(OPTIONS))
            page = browser.new_page(viewport={"width": 1600, "height": 1000})
            page.goto(server.url, wait_until="domcontentloaded")
            page.wait_for_function(READY)
            page.evaluate(SETUP)
            found = [measure(page, count, options.runs) for count in COUNTS]
            version = browser.version
            browser.close()
    print(
        json.dumps(
            {
                "benchmark": "widget",
                "date": date.today().isoformat(),
                "machine": platform.processor() or platform.machine(),
                "cores": os.cpu_count(),
                "load": [round(value, 2) for value in os.getloadavg()],
                "chromium": version,
                "renderer": "SwiftShader, no graphics card",
                "picture": [WIDTH, HEIGHT],
                "runs": options.runs,
                "results": found,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
