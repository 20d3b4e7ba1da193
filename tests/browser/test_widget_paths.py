"""What the widget draws against what the server makes: keyframes, presets, walks, readouts."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from mirage_core.cache.io import load_cache
from mirage_core.constants import TEMPORAL_STRIDE
from mirage_core.geometry.cutouts import covers_half
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import rigid, rotation_about
from mirage_core.readout.readout import read
from mirage_core.trajectories.curves import TANGENTS
from mirage_core.trajectories.files import load_trajectory
from mirage_core.trajectories.keyboard import keyboard_trajectory
from mirage_core.trajectories.keyframes import (
    Keyframe,
    keyframe_trajectory,
    keyframes_from_json,
    keyframes_to_json,
)
from mirage_core.trajectories.presets import EASINGS, PRESETS, preset_trajectory
from mirage_core.trajectories.shake import noise
from mirage_core.trajectories.shot import shot_from_json, shot_trajectory

pytestmark = [pytest.mark.browser, pytest.mark.server]

MODULES = ("keyframes", "presets", "shot", "shake", "walk")
WIDTH, HEIGHT, FOV, DEPTH = 832, 480, 64.0, 2.7
LENS = {"intrinsics": intrinsics_from_fov(WIDTH, HEIGHT, FOV), "width": WIDTH, "height": HEIGHT}

PATH = """async ({{ scene, argument }}) => {{
    {imports}
    const path = {path};
    const array = (values) => Array.from(values);
    return path && [path.length, array(path.position), array(path.rotation), array(path.focal)];
}}"""


def start_camera() -> torch.Tensor:
    turn = rotation_about("y", torch.tensor(0.7, dtype=torch.float64))
    turn = turn @ rotation_about("x", torch.tensor(-0.3, dtype=torch.float64))
    return rigid(turn, torch.tensor([0.4, -1.2, 3.0], dtype=torch.float64))


def scene(start: torch.Tensor | None = None) -> dict[str, Any]:
    pose = torch.eye(4, dtype=torch.float64) if start is None else start
    k = LENS["intrinsics"]
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "intrinsics": [float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2])],
        "depth": DEPTH,
        "start": {
            "rotation": pose[:3, :3].flatten().tolist(),
            "position": pose[:3, 3].tolist(),
        },
        "known": True,
    }


def drawn(studio: Any, imports: str, path: str, start: Any, argument: Any) -> Any:
    """A path that the widget's code makes."""
    modules = {name: studio.import_module(f"trajectory/{name}") for name in MODULES}
    code = PATH.format(imports=imports.format(**modules), path=path)
    return studio.page.evaluate(code, {"scene": scene(start), "argument": argument})


def expect_same(found: Any, wanted: Trajectory, tolerance: float = 1e-5) -> None:
    length, position, rotation, focal = found
    assert length == len(wanted)
    made = wanted.camera_to_world
    focals = wanted.intrinsics[:, 0, 0] / LENS["intrinsics"][0, 0]
    for ours, theirs in (
        (position, made[:, :3, 3].flatten()),
        (rotation, made[:, :3, :3].flatten()),
        (focal, focals),
    ):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=tolerance)


def random_keyframes(seed: int) -> list[Keyframe]:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 9))
    frames = sorted(int(f) for f in rng.choice(97, size=count, replace=False))
    still = rng.random() < 0.3
    return [
        Keyframe(
            frame,
            tuple(rng.normal(size=3) * (0 if still else 1)),
            tuple(rng.normal(size=4) * 10.0 ** rng.integers(-3, 4)),
            float(rng.uniform(20, 110)) if rng.random() < 0.5 else None,
            str(rng.choice(EASINGS)),
        )
        for frame in frames
    ]


@pytest.mark.parametrize("seed", range(12))
def test_keyframes_are_interpolated_as_on_the_server(studio: Any, seed: int) -> None:
    keys = random_keyframes(seed)
    imports = "const {{ parseShot, shotPath }} = {shot};"
    path = "shotPath(parseShot(argument, scene).shot, 97, scene, 24)"
    found = drawn(studio, imports, path, None, keyframes_to_json(keys))
    expect_same(found, keyframe_trajectory(keys, 97, **LENS))


def test_monotone_and_turning_values(studio: Any) -> None:
    """Plateaus, reversals and steep ends: where the slopes have their special cases."""
    xs = [0, 0, 1, 5, 5, 4.9, -8, -8.001, 20]
    keys = [
        Keyframe(f, (x, -x, x * x), (0, math.sin(x), 0, math.cos(x)), easing="linear")
        for f, x in zip([0, 1, 9, 10, 40, 41, 60, 95, 96], xs, strict=True)
    ]
    imports = "const {{ parseShot, shotPath }} = {shot};"
    path = "shotPath(parseShot(argument, scene).shot, 97, scene, 24)"
    found = drawn(studio, imports, path, None, keyframes_to_json(keys))
    expect_same(found, keyframe_trajectory(keys, 97, **LENS))


@pytest.mark.parametrize("space", ["world", "start_camera"])
def test_what_the_widget_writes_means_the_same_on_the_server(studio: Any, space: str) -> None:
    keys, start = random_keyframes(3), start_camera()
    imports = "const {{ parseShot, shotPath }} = {shot};"
    imports += "const {{ shot }} = parseShot(argument.text, scene);"
    argument = {"text": keyframes_to_json(keys), "space": space}
    found = drawn(studio, imports, "shotPath(shot, 97, scene, 24)", start, argument)
    text = studio.page.evaluate(
        f"""async ([scene, argument]) => {{
            const {{ parseShot, writeShot }} = {studio.import_module("trajectory/shot")};
            return writeShot(parseShot(argument.text, scene).shot, scene, argument.space);
        }}""",
        [scene(start), argument],
    )
    assert json.loads(text)["convention"]["space"] == space
    read_back = keyframes_from_json(text, scene_depth=DEPTH, start=start)
    expect_same(found, keyframe_trajectory(read_back, 97, **LENS))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_drawn_as_on_the_server(studio: Any, preset: str) -> None:
    for number, (amount, back, easing) in enumerate(
        [(1.0, False, "smooth"), (-2.5, True, "ease_in"), (0.3, True, "linear")]
    ):
        start = start_camera() if number else None
        move = {"preset": preset, "amount": amount, "easing": easing, "thereAndBack": back}
        imports = "const {{ presetPath }} = {presets};"
        found = drawn(studio, imports, "presetPath(argument, 41, scene)", start, move)
        wanted = preset_trajectory(
            preset, 41, scene_depth=DEPTH, amount=amount, there_and_back=back,
            easing=easing, start=start, **LENS,
        )  # fmt: skip
        expect_same(found, wanted)


@pytest.mark.parametrize("keys", ["w*16 l*24", "wd*3, .*5 jk*12 s sj*7", "i*90", "W*2\nA"])
def test_walks_are_drawn_as_on_the_server(studio: Any, keys: str) -> None:
    imports = "const {{ walkPath }} = {walk};"
    found = drawn(studio, imports, "walkPath(argument, scene)", start_camera(), keys)
    wanted = keyboard_trajectory(keys, scene_depth=DEPTH, start=start_camera(), **LENS)
    expect_same(found, wanted)


@pytest.mark.parametrize("keys", ["", "x", "ww", "w*0", "i*91", "w*999999", "w*16l*3", "w" * 50])
def test_keys_that_the_server_refuses_are_no_walk(studio: Any, keys: str) -> None:
    imports = "const {{ walkPath }} = {walk};"
    assert drawn(studio, imports, "walkPath(argument, scene)", None, keys) is None


@pytest.mark.parametrize("seed", range(8))
def test_tangents_and_speeds_are_those_of_the_server(studio: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    keys = [
        dataclasses.replace(
            key,
            tangent=str(rng.choice(TANGENTS)),
            speed=tuple(rng.uniform(size=4)) if rng.random() < 0.5 else None,
        )
        for key in random_keyframes(seed)
    ]
    imports = "const {{ parseShot, shotPath, writeShot }} = {shot};"
    imports += "const text = writeShot(parseShot(argument, scene).shot, scene);"
    path = "shotPath(parseShot(text, scene).shot, 97, scene, 24)"
    found = drawn(studio, imports, path, start_camera(), keyframes_to_json(keys))
    expect_same(found, keyframe_trajectory(keys, 97, **LENS))


def shot_document(seed: int, space: str = "start_camera") -> dict[str, Any]:
    """Two cameras with cuts between them, shaken."""
    document = json.loads(keyframes_to_json(random_keyframes(seed)))
    document["convention"]["space"] = space
    other = json.loads(keyframes_to_json(random_keyframes(seed + 100)))["keyframes"]
    cuts = [{"frame": 60, "camera": "A"}, {"frame": 24, "camera": "wide"}]
    shake = {"seed": 4_000_000_000 + seed, "degrees": 3.0, "distance": 0.05, "hz": 2.5}
    more = {"cameras": [{"name": "wide", "keyframes": other}], "cuts": cuts, "shake": shake}
    return document | more | {"version": 2}


@pytest.mark.parametrize("space", ["world", "start_camera"])
@pytest.mark.parametrize("seed", range(3))
def test_cuts_and_shake_are_those_of_the_server(studio: Any, seed: int, space: str) -> None:
    text = json.dumps(shot_document(seed, space))
    imports = """const {{ parseShot, shotPath, writeShot }} = {shot};
        const {{ shot, space }} = parseShot(argument, scene);
        const text = writeShot(shot, scene, space);"""
    path = "shotPath(parseShot(text, scene).shot, 97, scene, 30)"
    found = drawn(studio, imports, path, start_camera(), text)
    shot = shot_from_json(text, scene_depth=DEPTH, start=start_camera())
    expect_same(found, shot_trajectory(shot, 97, fps=30, **LENS))


def test_a_held_subject_keeps_its_size_as_on_the_server(studio: Any) -> None:
    keys = [Keyframe(0, (0, 0, 0), (0, 0, 0, 1)), Keyframe(96, (0.1, 0, 0.7), (0, 0.05, 0, 1), 50)]
    document = json.loads(keyframes_to_json(keys)) | {"subject": [0.1, 0, 1.2], "version": 2}
    document["convention"]["space"] = "start_camera"
    imports = "const {{ parseShot, shotPath }} = {shot};"
    path = "shotPath(parseShot(argument, scene).shot, 97, scene, 24)"
    found = drawn(studio, imports, path, start_camera(), json.dumps(document))
    shot = shot_from_json(json.dumps(document), scene_depth=DEPTH, start=start_camera())
    expect_same(found, shot_trajectory(shot, 97, **LENS))


def test_noise_is_that_of_the_server_to_the_last_digits(studio: Any) -> None:
    rng = np.random.default_rng(0)
    places = [[int(rng.integers(2**32)), int(rng.integers(6)), float(rng.uniform(0, 900))]
              for _ in range(500)]  # fmt: skip
    found = studio.page.evaluate(
        f"""async (places) => {{
            const {{ noise }} = {studio.import_module("trajectory/shake")};
            return places.map((place) => noise(...place));
        }}""",
        places,
    )
    np.testing.assert_allclose(found, [noise(*place) for place in places], rtol=0, atol=1e-12)


MOVES = [(True, 1.0), (False, 1.0), (True, -0.5), (False, 2.0)]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_become_few_keyframes_that_follow_them(studio: Any, preset: str) -> None:
    imports = """const {{ presetPath, fitKeyframes }} = {presets};
        const {{ keyframePath }} = {keyframes};
        const turning = argument.thereAndBack ? [48] : [];
        const hints = {{ easing: argument.easing, turning }};
        const keys = fitKeyframes(presetPath(argument, 97, scene), scene, hints);"""
    most = {"spiral": 29, "lemniscate": 17, "dolly": 6, "dolly_zoom": 6, "orbit": 7, "arc": 6}
    for (back, amount), easing in itertools.product(MOVES, EASINGS):
        move = {"preset": preset, "amount": amount, "easing": easing, "thereAndBack": back}
        path = "{ ...keyframePath(keys, 97, scene), length: keys.length }"
        count, *found = drawn(studio, imports, path, None, move)
        wanted = preset_trajectory(
            preset, 97, scene_depth=DEPTH, amount=amount, there_and_back=back,
            easing=easing, **LENS,
        )  # fmt: skip
        expect_close([97, *found], wanted)
        ways = 2 if back else 1
        assert count <= ways * most.get(preset, 2) * max(1, abs(amount)) + 1, (back, easing)


def expect_close(found: Any, wanted: Trajectory) -> None:
    """The same to 0.5 % of the distance of the scene, of a radian and of the focal length."""
    _, position, rotation, focal = found
    made = wanted.camera_to_world
    away = np.reshape(position, (-1, 3)) - made[:, :3, 3].numpy()
    assert np.linalg.norm(away, axis=1).max() < 0.005 * DEPTH
    turned = np.reshape(rotation, (-1, 3, 3)) - made[:, :3, :3].numpy()
    assert np.linalg.norm(turned, axis=(1, 2)).max() / math.sqrt(2) < 0.005
    lens = wanted.intrinsics[:, 0, 0] / LENS["intrinsics"][0, 0]
    assert np.abs(np.log(np.array(focal) / lens.numpy())).max() < 0.005


@pytest.mark.parametrize("easing", EASINGS)
@pytest.mark.parametrize("preset", ["truck", "orbit", "pan", "spiral"])
def test_a_keyframe_that_is_added_hardly_changes_the_path(
    studio: Any, preset: str, easing: str
) -> None:
    imports = """const {{ presetPath, fitKeyframes, keyframeOn, withKeyframe }} = {presets};
        const {{ keyframePath }} = {keyframes};
        const before = fitKeyframes(presetPath(argument, 97, scene), scene, argument);
        const was = keyframePath(before, 97, scene);
        const keys = withKeyframe(before, keyframeOn(was, 33, scene), was, scene);
        if (keys.length !== before.length + 1) throw new Error("none was added");"""
    move = {"preset": preset, "amount": 1.0, "easing": easing, "thereAndBack": False}
    found = drawn(studio, imports, "keyframePath(keys, 97, scene)", None, move)
    old = drawn(studio, imports, "was", None, move)
    for now, then, most in zip(found[1:], old[1:], (0.015 * DEPTH, 0.015, 0.01), strict=True):
        assert np.abs(np.subtract(now, then)).max() < most


def test_the_lens_shows_what_the_server_reads(studio: Any) -> None:
    """Through the lens, on the grid of the latents: cells, depths, and the strip below."""
    studio.build(width=640, height=384, preset="arc", amount=1.5, frames=33)
    studio.see()
    studio.wait("(w) => w.coverage.values.every(Number.isFinite)")
    cache = load_cache(studio.newest("widget_*.safetensors"))
    wanted = read(cache, load_trajectory(studio.newest("widget_*.json")))
    # Viewers hold of a split cell only the larger part, and count without the others.
    (block,) = cache.blocks
    place = covers_half(block.masks).long().cumsum(0) - 1
    winners = torch.where(wanted.visible, place[wanted.winner.clamp_min(0)], -1)
    same_cells = same_winners = 0.0
    for number in range(len(wanted.visible)):
        winner, depth = studio.widget(
            """(w, frame) => {
                w.model.scrub(frame);
                const { winner, depth } = w.lens.grid;
                return [Array.from(winner), Array.from(depth, (z) => (z < Infinity ? z : 0))];
            }""",
            TEMPORAL_STRIDE * number,
        )
        known = np.array(winner) >= 0
        truth = wanted.visible[number].flatten().numpy()
        depths = wanted.depth[number].flatten().numpy()
        close = np.isclose(depth, depths, rtol=2e-3)
        same_cells += float(np.mean((known == truth) & close))
        same_winners += float(np.mean(np.array(winner) == winners[number].flatten().numpy()))
    frames = len(wanted.visible)
    assert same_cells / frames >= 0.99
    assert same_winners / frames >= 0.99
    strip = studio.widget("(w) => Array.from(w.coverage.values)")
    truth = wanted.visible.float().mean(dim=(1, 2)).tolist()
    np.testing.assert_allclose(strip, truth, atol=0.01)
