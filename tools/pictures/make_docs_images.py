"""Make the documents' pictures from what ``make demo`` left in ``out/demo``.

Run it with ``python tools pictures.make_docs_images`` after a change of what the demo
shows. The picture of the workflow is taken in the real frontend, where there is a Chromium.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dev.bootstrap import find_chromium
from dev.comfy_server import PACK, ComfyServer
from mirage_core.cache.io import load_cache
from mirage_core.cache.types import LatentCache
from mirage_core.codecs.dct import DctCodec
from mirage_core.constants import TEMPORAL_STRIDE
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid
from mirage_core.metrics import psnr
from mirage_core.preview.fill import fill_readout
from mirage_core.preview.render import render_preview
from mirage_core.readout.readout import read
from mirage_core.rollout.contact_sheet import COLUMNS, MARGIN, ROWS
from mirage_core.rollout.video import read_frames
from mirage_core.scenes.scene import ProceduralScene
from mirage_core.trajectories.presets import preset_trajectory
from workflows.build import FIRST_SHOT

STRIP_COLUMNS = 5
PANEL_WIDTH = 460
THUMBNAIL = 512
GAP = 6
LABEL_HEIGHT = 44
BACKGROUND, INK = (24, 24, 24), (235, 235, 230)
QUALITY = 86
SCENE_FOV = 70.0
GRAPH_VIEW = (1560, 1040)
GRAPH_SCALE = 0.75
GRAPH_CLIP = {"x": 76, "y": 100, "width": 1430, "height": 890}
READY = "window.LiteGraph && Object.keys(LiteGraph.registered_node_types).length > 100"
SHOW_GRAPH = """
async ([workflow, scale, left, top]) => {
    await app.extensionManager.setting.set("Comfy.Minimap.Visible", false)
    await app.loadGraphData(workflow)
    app.canvas.low_quality_zoom_threshold = 0
    app.canvas.show_info = false
    app.canvas.ds.scale = scale
    app.canvas.ds.offset = [left, top]
    app.canvas.setDirty(true, true)
}
"""


def strip(sheet: Image.Image) -> Image.Image:
    """Every sixth tile of the demo's contact sheet, side by side."""
    width, height = sheet.width // COLUMNS, sheet.height // ROWS
    step = (COLUMNS * ROWS - 1) // (STRIP_COLUMNS - 1)
    result = Image.new("RGB", (width * STRIP_COLUMNS - MARGIN, height - MARGIN), BACKGROUND)
    for place in range(STRIP_COLUMNS):
        row, column = divmod(place * step, COLUMNS)
        corner = (column * width, row * height)
        box = (*corner, corner[0] + width - MARGIN, corner[1] + height - MARGIN)
        result.paste(sheet.crop(box), (place * width, 0))
    return result


def thumbnail(frames: list[Tensor]) -> Image.Image:
    """First frame above the frame of the turning point, cropped to a square."""
    half = (THUMBNAIL - GAP) // 2
    result = Image.new("RGB", (THUMBNAIL, THUMBNAIL), BACKGROUND)
    for place, frame in enumerate((frames[0], frames[len(frames) // 2])):
        picture = Image.fromarray(frame.numpy())
        picture = picture.resize(
            (THUMBNAIL, round(THUMBNAIL * picture.height / picture.width)),
            Image.Resampling.LANCZOS,
        )
        top = (picture.height - half) // 2
        result.paste(picture.crop((0, top, THUMBNAIL, top + half)), (0, place * (half + GAP)))
    return result


def demo_cameras() -> tuple[ProceduralScene, Trajectory, Trajectory]:
    """The demo's room, its cameras in the room, and its cameras in the memory's axes."""
    picture: dict[str, Any] = FIRST_SHOT[1].inputs
    move: dict[str, Any] = FIRST_SHOT[3].inputs
    width, height = picture["width"], picture["height"]
    scene = ProceduralScene.from_seed(picture["seed"])
    start = scene.start_camera_to_world
    intrinsics = intrinsics_from_fov(width, height, SCENE_FOV)
    first = Trajectory(invert_rigid(start[None]), intrinsics[None], width, height)
    _, depth = scene.render(first)
    options = {key: move[key] for key in ("preset", "frames", "amount", "there_and_back")}
    lens = {"intrinsics": intrinsics, "width": width, "height": height}
    typical = float(depth.median())
    in_room = preset_trajectory(**options, **lens, scene_depth=typical, start=start)
    in_memory = preset_trajectory(**options, **lens, scene_depth=typical)
    return scene, in_room, in_memory


def first_picture(cache: LatentCache) -> LatentCache:
    """The memory as it was before anything was written back."""
    return LatentCache(cache.blocks[:1], cache.convention, cache.codec, cache.channels)


def three_readings(cache: LatentCache) -> list[tuple[str, Tensor]]:
    """The same moved camera: the room itself, whole cells, and placed patches."""
    scene, in_room, in_memory = demo_cameras()
    frame = len(in_memory) // 2 // TEMPORAL_STRIDE * TEMPORAL_STRIDE
    truth = scene.render(in_room.select([frame]))[0][0]
    camera = in_memory.select([frame])
    codec = DctCodec()
    readout = read(cache, camera)
    tokens, _ = fill_readout(readout)
    cells = codec.decode_images(tokens)[0]
    patches = render_preview(cache, camera, codec).frames[0]
    known = readout.visible[0]
    seen = known.repeat_interleave(truth.shape[0] // known.shape[0], 0)
    seen = seen.repeat_interleave(truth.shape[1] // known.shape[1], 1)
    return [
        ("the room itself", truth),
        (f"whole cells: {psnr(cells, truth, seen):.1f} dB", cells),
        (f"placed patches: {psnr(patches, truth, seen):.1f} dB", patches),
    ]


def comparison(panels: list[tuple[str, Tensor]]) -> Image.Image:
    """Each picture above an enlarged part of it, with a label."""
    pairs = [(text, _picture(frame)) for text, frame in panels]
    shape = pairs[0][1].size
    height = round(PANEL_WIDTH * shape[1] / shape[0])
    # The bookshelf: fine texture, seen under a changed angle.
    part = tuple(round(a * b) for a, b in zip((0.62, 0.22, 0.98, 0.82), shape * 2, strict=True))
    detail = round(PANEL_WIDTH * (part[3] - part[1]) / (part[2] - part[0]))
    size = (3 * PANEL_WIDTH + 2 * GAP, LABEL_HEIGHT + height + GAP + detail)
    result = Image.new("RGB", size, BACKGROUND)
    pen = ImageDraw.Draw(result)
    for place, (text, picture) in enumerate(pairs):
        left = place * (PANEL_WIDTH + GAP)
        pen.text((left + 8, 9), text, fill=INK, font=ImageFont.load_default(22))
        whole = picture.resize((PANEL_WIDTH, height), Image.Resampling.LANCZOS)
        result.paste(whole, (left, LABEL_HEIGHT))
        near = picture.crop(part).resize((PANEL_WIDTH, detail), Image.Resampling.LANCZOS)
        result.paste(near, (left, LABEL_HEIGHT + height + GAP))
    return result


def workflow_in_browser(browser: str) -> Image.Image:
    """The shipped workflow as ComfyUI's frontend draws it."""
    from playwright.sync_api import sync_playwright

    workflow = json.loads((PACK / "workflows" / "mirage_first_shot.json").read_text("utf-8"))
    width, height = GRAPH_VIEW
    with (
        tempfile.TemporaryDirectory(prefix="mirage-docs-") as base,
        ComfyServer(base) as server,
        sync_playwright() as playwright,
    ):
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": width, "height": height})
        page.goto(server.url)
        page.wait_for_function(READY, timeout=60_000)
        page.wait_for_timeout(4000)
        left, top = (min(node["pos"][axis] for node in workflow["nodes"]) for axis in (0, 1))
        offset = [
            (GRAPH_CLIP["x"] + 16) / GRAPH_SCALE - left,
            (GRAPH_CLIP["y"] + 50) / GRAPH_SCALE - top,
        ]
        page.evaluate(SHOW_GRAPH, [workflow, GRAPH_SCALE, *offset])
        page.keyboard.press("Escape")
        page.wait_for_timeout(2000)
        png = page.screenshot(clip=GRAPH_CLIP)
        chromium.close()
    return Image.open(io.BytesIO(png))


def _picture(frame: Tensor) -> Image.Image:
    return Image.fromarray((frame.clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.convert("RGB").save(path, quality=QUALITY, optimize=True)
    print(f"wrote {path} ({picture.width} x {picture.height}, {path.stat().st_size // 1024} KB)")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--demo", type=Path, default=PACK / "out" / "demo", help="demo's results")
    demo = parser.parse_args().demo
    if not (demo / "shot.mp4").is_file():
        raise SystemExit(f"{demo} holds no demo: run `make demo` first")
    images = PACK / "docs" / "images"
    with Image.open(demo / "contact_sheet.png") as sheet:
        save(strip(sheet.convert("RGB")), images / "first_shot.jpg")
    frames = list(read_frames(demo / "shot.mp4"))
    save(thumbnail(frames), PACK / "workflows" / "mirage_first_shot.jpg")
    cache = first_picture(load_cache(demo / "memory.safetensors"))
    save(comparison(three_readings(cache)), images / "cells_and_patches.jpg")
    browser = find_chromium()
    if browser is None:
        print("no Chromium: first_shot_graph.jpg stays as it is")
        return
    save(workflow_in_browser(browser), images / "first_shot_graph.jpg")


if __name__ == "__main__":
    main()
