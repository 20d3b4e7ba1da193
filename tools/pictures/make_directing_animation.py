"""Make the pictures of the trajectory widget: an animation, one through the lens, one of its help.

In the animation a keyframe is dragged, then the path is played.

Run it with ``python tools pictures.make_directing_animation`` after a change of the widget's
look. Every frame is a screenshot of the widget in ComfyUI's own frontend; only the pointer is
drawn, since screenshots have none.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from dev.comfy_server import PACK, ComfyServer
from dev.frontend_page import open_frontend, run, settle

TARGET = PACK / "docs" / "images" / "directing.webp"
STILL = PACK / "docs" / "images" / "widget.jpg"
HELP = PACK / "js" / "docs" / "MirageTrajectory.jpg"
WIDTH, QUALITY = 640, 45
STILL_FRAME, STILL_QUALITY, HELP_QUALITY = 40, 58, 82
VIEW = (1100, 1100)
NODE = (780, 960)
FRAMES, ADDED_AT = 65, 40
PACE, SLOW = 100, 700
"""Milliseconds that a frame stays, and that one does which is to be read."""

LOAD = """async ([content, width, height, frames]) => {
    await app.loadGraphData(content, true, true, "directing");
    const kept = ["Scene", "Codec", "CacheInit", "Trajectory"];
    for (const node of [...app.graph.nodes])
        if (!kept.some((name) => node.type.endsWith(name))) app.graph.remove(node);
    const move = app.graph.nodes.find((n) => n.type === "MirageTrajectory");
    const wanted = { frames, there_and_back: false, amount: 1.0 };
    for (const w of move.widgets) if (w.name in wanted) w.value = wanted[w.name];
    const save = LiteGraph.createNode("MirageTrajectorySave");
    app.graph.add(save);
    move.connect(0, save, 0);
    move.setSize([width, height]);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [100 - move.pos[0], 60 - move.pos[1]];
    save.pos = [move.pos[0] + 2 * width, move.pos[1]];
    app.canvas.setDirty(true, true);
}"""

WIDGET = """(app.graph.nodes.find((n) => n.type === "MirageTrajectory")
    .widgets.find((w) => w.name === "mirage_view").element.mirage)"""

ON_SCREEN = f"""() => {{
    const {{ viewport, model }} = {WIDGET};
    viewport.render();
    const [x, y] = viewport.controls.project(model.keyframes[model.selected].position);
    const box = viewport.canvas.getBoundingClientRect();
    const ratio = box.width / viewport.canvas.width;
    return [box.left + x * ratio, box.top + y * ratio];
}}"""

COMPLETE = f"""() => {{
    const w = {WIDGET};
    return w.coverage.values.length > 0 && w.coverage.values.every(Number.isFinite);
}}"""

POINTER = """() => {
    const arrow = document.createElement("div");
    arrow.innerHTML = `<svg width="26" height="32" viewBox="0 0 13 16"><path fill="#fff"
        stroke="#000" d="M1 1v12l3-3 2 5 2-1-2-5h4z"/></svg>`;
    arrow.style = "position:fixed;z-index:99999;pointer-events:none;left:-50px;top:0";
    document.body.append(arrow);
    addEventListener("pointermove", (event) => {
        arrow.style.left = `${event.clientX}px`;
        arrow.style.top = `${event.clientY}px`;
    }, true);
}"""


@dataclass
class Film:
    """Pictures of the widget, and how long each one stays."""

    page: Page
    pictures: list[Image.Image] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)

    def take(self, duration: int = PACE) -> None:
        """A picture of the widget as it is now."""
        settle(self.page)
        self.page.wait_for_function(COMPLETE)
        place = self.page.locator(".mirage-widget:has(.mirage-timeline)")
        picture = Image.open(io.BytesIO(place.screenshot(animations="allow"))).convert("RGB")
        height = round(picture.height * WIDTH / picture.width)
        self.pictures.append(picture.resize((WIDTH, height), Image.Resampling.LANCZOS))
        self.durations.append(duration)

    def glide(self, start: tuple[float, float], end: tuple[float, float], steps: int) -> None:
        """Move the pointer evenly, with a picture of each step."""
        for step in range(1, steps + 1):
            part = step / steps
            eased = part * part * (3 - 2 * part)
            self.page.mouse.move(*(a + eased * (b - a) for a, b in zip(start, end, strict=True)))
            self.take()


def direct(page: Page) -> Film:
    """Add a keyframe, drag it, play the path."""
    film = Film(page)
    page.evaluate(POINTER)
    page.evaluate(f"() => {WIDGET}.model.scrub({ADDED_AT})")
    film.take(SLOW)
    add = page.get_by_label("Add a keyframe here", exact=True).bounding_box()
    if add is None:
        raise SystemExit("the widget has no button that adds a keyframe")
    button = (add["x"] + add["width"] / 2, add["y"] + add["height"] / 2)
    film.glide((button[0] - 60, button[1] - 120), button, 5)
    page.mouse.click(*button)
    film.take(SLOW)
    key = page.evaluate(ON_SCREEN)
    film.glide(button, key, 6)
    page.mouse.down()
    raised = (key[0] + 30, key[1] - 60)
    film.glide(key, raised, 12)
    page.mouse.up()
    film.take(SLOW)
    save_picture(film.pictures[-1], HELP, HELP_QUALITY)
    page.mouse.move(0, 0)
    for frame in range(0, FRAMES, 3):
        page.evaluate(f"() => {WIDGET}.model.scrub({frame})")
        film.take()
    film.durations[-1] = SLOW
    return film


def save_still(page: Page) -> None:
    """The shot's camera in the large view, with the scene from outside beside it."""
    page.evaluate(f"() => {{ {WIDGET}.viewport.setView('camera'); }}")
    page.evaluate(f"() => {WIDGET}.model.scrub({STILL_FRAME})")
    film = Film(page)
    film.take()
    save_picture(film.pictures[0], STILL, STILL_QUALITY)


def save_picture(picture: Image.Image, path: Path, quality: int) -> None:
    """Save one picture of the film."""
    picture.save(path, quality=quality, optimize=True)
    print(f"wrote {path} ({path.stat().st_size // 1024} KiB)")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--still", action="store_true", help="only the picture through the lens")
    options = parser.parse_args()
    content = json.loads((PACK / "workflows" / "mirage_first_shot.json").read_text("utf-8"))
    with (
        tempfile.TemporaryDirectory(prefix="mirage-docs-") as base,
        ComfyServer(base) as server,
        open_frontend(server, *VIEW) as page,
    ):
        page.evaluate(LOAD, [content, *NODE, FRAMES])
        page.wait_for_function(f"() => {WIDGET}?.model")
        run(page)
        page.wait_for_function(f"() => {WIDGET}.points.count > 0")
        save_still(page)
        if options.still:
            return
        page.evaluate(f"() => {{ {WIDGET}.viewport.setView('orbit'); }}")
        film = direct(page)
    first, *rest = film.pictures
    first.save(
        TARGET, save_all=True, append_images=rest, duration=film.durations, loop=0,
        quality=QUALITY, method=6,
    )  # fmt: skip
    size = TARGET.stat().st_size // 1024
    print(f"wrote {TARGET} ({len(film.pictures)} frames, {first.width} px wide, {size} KiB)")


if __name__ == "__main__":
    main()
