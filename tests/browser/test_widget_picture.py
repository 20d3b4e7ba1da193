"""The shot's camera in the widget: what it shows is what the preview draws."""

from __future__ import annotations

import base64
import dataclasses
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mirage_core.cache.atlas import atlas_bytes, atlas_grid
from mirage_core.cache.build import append_all, observe
from mirage_core.cache.io import load_cache
from mirage_core.cache.types import CacheBlock, LatentCache
from mirage_core.cache.view import block_digest, shown_rows, view_bytes
from mirage_core.codecs.colours import ColourCodec
from mirage_core.codecs.dct import DctCodec
from mirage_core.codecs.memory_kind import memory_drawer
from mirage_core.geometry.camera import PixelConvention
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid
from mirage_core.preview.render import render_preview
from mirage_core.rollout.memory import begin_memory
from mirage_core.rollout.settings import MemorySettings
from mirage_core.scenes.scene import ProceduralScene
from mirage_core.trajectories.files import load_trajectory
from mirage_core.trajectories.presets import preset_trajectory

from .hands import press

pytestmark = [pytest.mark.browser, pytest.mark.server]

FLOOR = 26.0
"""PSNR in dB against the preview, on the pixels that both show."""

DRAW = """async (w, {{ frame, colouring, size }}) => {{
    const {{ CameraPicture }} = {picture};
    const {{ cameraAt }} = {scene};
    const picture = new CameraPicture();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = size;
    const context = canvas.getContext("2d");
    const camera = cameraAt(w.model.path, frame);
    const shot = {{ points: w.points, colouring, camera, scene: w.model.scene }};
    picture.draw(context, [0, 0, ...size], shot);
    const {{ data }} = context.getImageData(0, 0, ...size);
    let text = "";
    for (let at = 0; at < data.length; at += 8192)
        text += String.fromCharCode(...data.subarray(at, at + 8192));
    return [picture.kind, btoa(text)];
}}"""

SCREEN = """(w) => {
    w.viewport.render();
    const { context, controls, picture } = w.viewport;
    const [left, top, width, height] = controls.picture.map(Math.round);
    const { data } = context.getImageData(left, top, width, height);
    let text = "";
    for (let at = 0; at < data.length; at += 8192)
        text += String.fromCharCode(...data.subarray(at, at + 8192));
    return [picture.kind, [width, height], btoa(text)];
}"""

CORNER = """(w) => {
    const { left, bottom } = w.viewport.canvas.getBoundingClientRect();
    return [left + 12, bottom - 12];
}"""

STRIP = """(w) => {
    const { strip } = w.timeline;
    const { data } = strip.getContext("2d").getImageData(0, 0, strip.width, strip.height);
    let found = 0;
    for (let at = 0; at < data.length; at += 4)
        if (data[at] === 232 && data[at + 1] === 176 && data[at + 2] === 64) found++;
    return found / (data.length / 4);
}"""

UNMARKED = (32, 32, 32)
STRIPES = ((96, 30, 84), (168, 60, 140))


def drawn(
    studio: Any,
    frame: int,
    size: tuple[int, int],
    colouring: str = "plain",
    drawn_as: str = "surfels",
) -> np.ndarray:
    """(H, W, 3) bytes of the picture that the shot's camera sees at a frame."""
    modules = {name: studio.import_module(f"viewer/{name}") for name in ("picture", "scene")}
    argument = {"frame": frame, "colouring": colouring, "size": size}
    kind, data = studio.widget(DRAW.format(**modules), argument)
    assert kind == drawn_as
    pixels = np.frombuffer(base64.b64decode(data), np.uint8).reshape(size[1], size[0], 4)
    return pixels[..., :3]


def unknown(
    studio: Any, frame: int, size: tuple[int, int], drawn_as: str = "surfels"
) -> np.ndarray:
    """(H, W) bool, where stripes tell that nothing was ever seen."""
    if drawn_as == "dots":
        # Stripes have soft edges there; nothing else is of one grey.
        return (drawn(studio, frame, size, "plain", drawn_as) == UNMARKED).all(-1)
    marked = drawn(studio, frame, size, "colour", drawn_as)
    return np.any([(marked == stripe).all(-1) for stripe in STRIPES], axis=0)


def psnr(found: np.ndarray, wanted: np.ndarray, where: np.ndarray) -> float:
    error = (found[where].astype(float) - wanted[where].astype(float)) ** 2
    return float(10 * np.log10(255**2 / error.mean()))


def close_to_preview(
    studio: Any,
    cache: LatentCache,
    path: Trajectory,
    frames: list[int],
    drawn_as: str = "surfels",
) -> None:
    """Compare frames of the shot with those of the preview, on the pixels that both show."""
    wanted = render_preview(cache, path.select(frames), memory_drawer(cache.codec))
    size = (path.width, path.height)
    for place, frame in enumerate(frames):
        hidden, holes = unknown(studio, frame, size, drawn_as), wanted.holes[place].numpy()
        both = ~hidden & ~holes
        assert both.mean() > 0.4
        assert (hidden != holes).mean() < 0.03, "what is unknown there is unknown here"
        truth = (wanted.frames[place].clamp(0, 1) * 255).round().numpy()
        found = drawn(studio, frame, size, "plain", drawn_as)
        assert psnr(found, truth, both) >= FLOOR


@pytest.mark.parametrize("preset", ["arc", "dolly"])
def test_the_picture_is_that_of_the_preview(studio: Any, preset: str) -> None:
    studio.build(width=640, height=384, frames=33, preset=preset, amount=1.2)
    studio.see()
    cache = load_cache(studio.newest("widget_*.safetensors"))
    path = load_trajectory(studio.newest("widget_*.json"))
    close_to_preview(studio, cache, path, [0, 12, 24, 32])


def test_what_is_on_the_screen(studio: Any, modern: bool) -> None:
    """The large view itself, at the size that it has on the node."""
    studio.widget("(w) => { w.model.scrub(20); w.viewport.setView('camera'); }")
    studio.settle()
    cache = load_cache(studio.newest("widget_*.safetensors"))
    path = load_trajectory(studio.newest("widget_*.json"))
    wanted = render_preview(cache, path.select([20]), memory_drawer(cache.codec))
    kind, size, data = studio.widget(SCREEN)
    assert kind == "surfels"
    found = np.frombuffer(base64.b64decode(data), np.uint8).reshape(size[1], size[0], 4)[..., :3]
    truth = Image.fromarray((wanted.frames[0].clamp(0, 1) * 255).byte().numpy()).resize(size)
    seen = Image.fromarray((~wanted.holes[0]).byte().numpy() * 255).resize(size)
    striped = np.any([(found == stripe).all(-1) for stripe in STRIPES], axis=0)
    both = (np.asarray(seen) == 255) & ~striped
    # The edge of the picture has a line around it.
    both[:2] = both[-2:] = both[:, :2] = both[:, -2:] = False
    assert both.mean() > 0.4
    assert psnr(found, np.asarray(truth), both) >= FLOOR


@dataclass(frozen=True)
class Shown:
    """A memory of several blocks, a shot, and what tells the widget about them."""

    cache: LatentCache
    path: Trajectory
    view: dict[str, Any]


@pytest.fixture
def shown(studio: Any) -> Shown:
    """A room that was looked at from three places, each a block; the shot goes past them."""
    width, height = 320, 192
    scene = ProceduralScene.from_seed(16, texture_size=128)
    lens = intrinsics_from_fov(width, height, 60.0)
    path = preset_trajectory(
        "arc", 33, scene_depth=3.0, intrinsics=lens, width=width, height=height, amount=1.0
    )
    begin = invert_rigid(scene.start_camera_to_world.double())
    codec, cache = DctCodec(), LatentCache((), codec=DctCodec.name)
    for number in (0, 16, 32):
        pose = path.world_to_camera[[number]]
        cameras = dataclasses.replace(path.select([number]), world_to_camera=pose @ begin)
        images, depth = scene.render(cameras, device=torch.device("cpu"))
        observation = observe(
            codec.encode_images(images), FrameGeometry(depth, lens[None]),
            world_to_camera=pose, frames=torch.tensor([number]),
        )  # fmt: skip
        cache = append_all(cache, observation)
    folder = studio.server.base / "temp" / "mirage"
    folder.mkdir(parents=True, exist_ok=True)
    blocks = [described(block, folder) for block in cache.blocks]
    view = {
        "blocks": blocks, "points": len(cache), "bytes": cache.nbytes, "codec": cache.codec,
        "convention": "paper", "width": width, "height": height, "depth": 3.0,
        "intrinsics": [float(lens[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2))],
        "start": np.eye(4).tolist(), "trajectory": path.fingerprint(),
    }  # fmt: skip
    studio.build(width=width, height=height, frames=33, preset="arc", amount=1.0)
    studio.widget("async (w, view) => await w.show(view)", view)
    assert studio.widget("(w) => w.points.surfels.atlases.length") == 3
    return Shown(cache, path, view)


def described(block: CacheBlock, folder: Path) -> dict[str, Any]:
    """Write a block for the widget, as the server does."""
    codec, name = DctCodec(), block_digest(block)
    patches = codec.decode_patches(block.values)
    colours = patches.mean((1, 2)).clamp(0, 1)
    points = folder / f"points_paper_{name}.bin"
    points.write_bytes(view_bytes(block, colours, 1 - colours, PixelConvention.PAPER, 16))
    rows = shown_rows(block)
    grid = atlas_grid(len(rows), 20, 16)
    atlas = folder / f"patches_paper_{name}.webp"
    atlas.write_bytes(atlas_bytes([patches[rows]], grid))
    about = {"filename": atlas.name, "side": grid.side, "columns": grid.columns}
    return {"filename": points.name, "points": len(block), "patches": about}


def test_views_of_several_blocks_are_mixed_as_in_the_preview(studio: Any, shown: Shown) -> None:
    close_to_preview(studio, shown.cache, shown.path, [4, 16, 24, 32])


def test_a_block_without_a_picture_is_flat(studio: Any, shown: Shown) -> None:
    size, frame = (shown.path.width, shown.path.height), 8
    textured = drawn(studio, frame, size)
    bare = [{k: v for k, v in block.items() if k != "patches"} for block in shown.view["blocks"]]
    code = "async (w, view) => await w.show(view)"
    studio.widget(code, shown.view | {"blocks": [*shown.view["blocks"][:1], *bare[1:]]})
    assert studio.widget("(w) => w.points.surfels.atlases.length") == 1
    mixed = drawn(studio, frame, size)
    studio.widget(code, shown.view | {"blocks": bare})
    assert studio.widget("(w) => w.points.surfels.atlases.length") == 0
    flat = drawn(studio, frame, size)
    everywhere = np.ones(size[::-1], bool)
    assert psnr(mixed, textured, everywhere) < 45
    assert 15 < psnr(flat, textured, everywhere) < psnr(mixed, textured, everywhere)
    # What a chunk of a rollout reports says nothing of pictures that were cut from the first one.
    news = {"trajectory": shown.view["trajectory"], "blocks": bare[:1]}
    kept = studio.page.evaluate(
        f"""async ([news, before]) => {{
            const {{ keepPatches }} = {studio.import_module("viewer/points")};
            return keepPatches(news, before);
        }}""",
        [news, shown.view],
    )
    assert kept["blocks"] == shown.view["blocks"][:1]


def test_colours_are_dots_of_their_size(studio: Any, shown: Shown) -> None:
    """A memory of colours, of which the widget is told as of any other."""
    scene = ProceduralScene.from_seed(16, texture_size=128)
    begin = invert_rigid(scene.start_camera_to_world.double())
    pose = shown.path.world_to_camera[[16]]
    cameras = dataclasses.replace(shown.path.select([16]), world_to_camera=pose @ begin)
    images, depth = scene.render(cameras, device=torch.device("cpu"))
    codec = ColourCodec(2)
    lens = shown.path.intrinsics[16]
    cache = begin_memory(
        codec.encode_images(images), FrameGeometry(depth, lens[None]), codec.name,
        MemorySettings(token_dtype=torch.uint8), world_to_camera=pose,
    )  # fmt: skip
    (block,) = cache.blocks
    colours = block.values.float() / 255
    name = f"points_paper_{block_digest(block)}.bin"
    data = view_bytes(block, colours, colours, PixelConvention.PAPER, cache.stride)
    (studio.server.base / "temp" / "mirage" / name).write_bytes(data)
    view = shown.view | {"blocks": [{"filename": name, "points": len(block)}]}
    studio.widget("async (w, view) => await w.show(view)", view)
    assert studio.widget("(w) => w.points.surfels") is None
    close_to_preview(studio, cache, shown.path, [12, 16, 20], "dots")


def test_what_is_missing_is_told_in_two_kinds(studio: Any, shown: Shown) -> None:
    """Stripes where nothing was seen; a tint, and a colour of the strip, where it is soft."""
    size = (shown.path.width, shown.path.height)
    studio.widget("(w) => w.model.usePreset('zoom')")
    studio.set_value("amount", 3.0)
    # Until then there are shares of the path before.
    studio.wait(
        """({ coverage: { soft } }) => soft.length === 9 && soft.at(-1) > 0.3
            && soft.every((share, i) => !i || share > soft[i - 1] - 0.05)"""
    )
    soft = studio.widget("(w) => Array.from(w.coverage.soft)")
    seen = studio.widget("(w) => Array.from(w.coverage.seen)")
    assert soft[0] == 0
    assert all(a <= b + 1e-6 for a, b in zip(soft, seen, strict=True))
    away, near = drawn(studio, 0, size), drawn(studio, 32, size)
    hidden = unknown(studio, 0, size)
    assert (away[~hidden] == drawn(studio, 0, size, "colour")[~hidden]).all(), "nothing is soft"
    marked = drawn(studio, 32, size, "colour")
    tinted = (marked != near).any(-1) & ~unknown(studio, 32, size)
    assert tinted.mean() > 0.3
    # The tint is yellow: blue falls most.
    change = (marked.astype(int) - near.astype(int))[tinted].mean(0)
    assert change[2] < change[1] < change[0]
    studio.widget("(w) => w.timeline.paint()")
    label = studio.widget("(w) => w.timeline.strip.title")
    assert f"{round(100 * float(np.mean(soft)))} % is stretched" in label
    assert abs(seen[-1] - (1 - unknown(studio, 32, size).mean())) < 0.05
    assert abs(soft[-1] - tinted.mean()) < 0.1
    yellow = studio.widget(STRIP)
    assert yellow > 0.02
    studio.widget("(w) => w.model.usePreset('dolly')")
    studio.set_value("amount", -2.0)
    studio.wait("(w) => w.coverage.soft.at(-1) < 0.01")
    holes = unknown(studio, 32, size).mean()
    assert 0.2 < holes < 0.9
    assert abs(studio.widget("(w) => w.coverage.seen.at(-1)") - (1 - holes)) < 0.1


def test_what_does_not_change_is_not_drawn_again(studio: Any, modern: bool) -> None:
    counts = "(w) => [w.viewport.picture.drawings, w.viewport.dots.drawings]"
    studio.widget("(w) => { w.model.scrub(3); w.viewport.render(); }")
    before = studio.widget(counts)
    for frame in (4, 5, 6):
        studio.widget("(w, frame) => { w.model.scrub(frame); w.viewport.render(); }", frame)
    assert studio.widget(counts) == before, "points seen from outside do not move with the shot"
    studio.widget("(w) => { w.viewport.setView('camera'); w.viewport.render(); }")
    first = studio.widget(counts)
    studio.widget("(w) => { w.viewport.render(); w.viewport.render(); }")
    assert studio.widget(counts) == first
    studio.widget("(w) => { w.model.scrub(9); w.viewport.render(); }")
    assert studio.widget(counts) == [first[0] + 1, first[1]]


def test_the_first_thing_to_be_seen_is_the_picture(studio: Any) -> None:
    """Once there are points the shot's camera is the large view, and stays what one chooses."""
    studio.graph = str(uuid.uuid4())
    studio.build()
    state = "(w) => [w.viewport.controls.view, w.lens.outside ?? null]"
    assert studio.widget(state) == ["orbit", None]
    kind, detail = studio.run()
    assert kind == "execution_success", detail
    studio.wait("(w) => w.viewport.controls.view === 'camera'")
    assert studio.widget(state) == ["camera", True]
    studio.widget("(w) => w.viewport.setView('side')")
    assert studio.widget(state) == ["side", False]
    studio.widget("async (w) => await w.show({ ...w.view })")
    assert studio.widget(state) == ["side", False]


def test_tab_swaps_the_large_view_and_the_small_one(studio: Any, modern: bool) -> None:
    state = "(w) => [w.viewport.controls.view, w.lens.outside]"
    studio.widget("(w) => w.viewport.setView('top')")
    press(studio, lambda: studio.widget(CORNER))
    studio.page.mouse.up()
    assert studio.widget(state) == ["top", False]
    studio.page.keyboard.press("Tab")
    assert studio.widget(state) == ["camera", True]
    studio.page.keyboard.press("Tab")
    assert studio.widget(state) == ["top", False]
    focused = "() => document.activeElement.className"
    assert "mirage-canvas" in studio.page.evaluate(focused)
    studio.page.keyboard.press("Shift+Tab")
    assert "mirage-canvas" not in studio.page.evaluate(focused)
    # Who comes with the keyboard goes on with it.
    studio.page.keyboard.press("Tab")
    assert "mirage-canvas" in studio.page.evaluate(focused)
    studio.page.keyboard.press("Tab")
    assert "mirage-canvas" not in studio.page.evaluate(focused)
    assert studio.widget(state) == ["top", False]


def test_lost_graphics_leave_flat_cells_and_come_back(studio: Any, modern: bool) -> None:
    module = studio.import_module("viewer/renderer")
    studio.page.evaluate(
        f"""async () => {{
            const {{ sharedRenderer }} = {module};
            window.loss = sharedRenderer().gl.getExtension("WEBGL_lose_context");
        }}"""
    )
    studio.widget("(w) => { w.viewport.setView('camera'); w.viewport.render(); }")
    assert studio.widget("(w) => w.viewport.picture.kind") == "surfels"
    studio.page.evaluate("() => window.loss.loseContext()")
    studio.wait("(w) => w.viewport.picture.kind === 'cells'")
    assert "WebGL2" in studio.widget("(w) => w.note.textContent")
    colours = len({tuple(pixel) for pixel in screen(studio)[::4, ::4].reshape(-1, 3)})
    assert colours > 20, "the cells are there"
    studio.page.evaluate("() => window.loss.restoreContext()")
    studio.wait("(w) => w.viewport.picture.kind === 'surfels' && w.note.textContent === ''")
    assert len({tuple(p) for p in screen(studio)[::4, ::4].reshape(-1, 3)}) > colours


def screen(studio: Any) -> np.ndarray:
    """(H, W, 3) bytes of the shot's picture in the large view."""
    _, size, data = studio.widget(SCREEN)
    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(size[1], size[0], 4)[..., :3]


def test_without_webgl2_there_are_flat_cells(
    studio: Any, reload_page: Callable[[Any], None]
) -> None:
    """Last in the file: the page is good for nothing else."""
    studio.page.add_init_script(
        """() => {
            const before = HTMLCanvasElement.prototype.getContext;
            HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
                return kind === "webgl2" ? null : before.call(this, kind, ...rest);
            };
        }""".join(("(", ")()"))
    )
    reload_page(studio)
    studio.build()
    studio.see()
    studio.widget("(w) => { w.viewport.setView('camera'); w.viewport.render(); }")
    assert studio.widget("(w) => w.viewport.picture.kind") == "cells"
    assert "WebGL2" in studio.widget("(w) => w.note.textContent")
    assert len({tuple(pixel) for pixel in screen(studio)[::4, ::4].reshape(-1, 3)}) > 20
    studio.close()
