"""Cut-outs beside whole cells: what two points in cells at depth edges are worth.

Prints one JSON object with three parts. ``rooms``: one frame of each procedural room is remembered,
and drawn at four cameras of a move there and back, with exact depth and with depth whose edges
bleed; PSNR on all that either way shows. ``loop``: whole shots in the loop of a rollout, on
held-out rooms. ``office``: the frames of ``real.py``, where they are at hand.

``--save FILE`` keeps the report, ``--picture FILE`` the truth beside both ways for two rooms.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from datetime import date
from pathlib import Path
from typing import Any, Final

import torch
from _embedded_variants import CODEC, Variant, by_cells, by_model, by_patches, shoot
from embedded import FIRST_ROOM, make_shot, measure
from PIL import Image
from readout_cpu import processor
from real import FRAMES, Capture, find_capture, load_capture
from torch import Tensor

from mirage_core.cache.build import WriteConfig, append_all, observe
from mirage_core.cache.types import LatentCache
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory
from mirage_core.metrics import psnr
from mirage_core.models.bundled import STEPS, branch_path, model_path
from mirage_core.models.load import load_transformer
from mirage_core.ops.best_view import BestView
from mirage_core.preview.render import render_preview
from mirage_core.readout.readout import grid_intrinsics, read_winners
from mirage_core.scenes.scene import ProceduralScene
from mirage_core.training.validation import there_and_back
from mirage_core.writing.policy import WRITE_POLICIES

ROOMS: Final = (16, *range(FIRST_ROOM, FIRST_ROOM + 5))
CAMERAS: Final = (0, 12, 24, 36, 48)
"""Of 97: the remembered frame and the four that are drawn."""

SIZE: Final = (640, 352)
BLEED: Final = 5
"""Pixels across which inverse depth is averaged."""

WAYS: Final = {"whole": WriteConfig(cutouts=False), "cut": WriteConfig(cutouts=True)}
LOOP_KEYS: Final = ("closed_loop", "truth", "truth_known", "truth_unknown", "points")


def bled(depth: Tensor) -> Tensor:
    """Depth (F, H, W) as estimators give it, soft at edges."""
    pooled = torch.nn.functional.avg_pool2d(
        1 / depth[:, None], BLEED, 1, BLEED // 2, count_include_pad=False
    )
    return 1 / pooled[:, 0]


def token_error(cache: LatentCache, camera: Trajectory, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Cells (h, w) that the memory shows, read whole, and their mean square error."""
    tokens = CODEC.encode_images(truth)[:, 0]
    size = (int(tokens.shape[1]), int(tokens.shape[2]))
    winner, _ = read_winners(
        cache, camera.world_to_camera, grid_intrinsics(camera, size), size,
        view=BestView(), whole_cells=True,
    )  # fmt: skip
    shown = cache.gather(winner, [block.tokens for block in cache.blocks])[0].float()
    return winner[0] >= 0, (shown.movedim(-1, 0) - tokens).square().mean(dim=0)


def compare(
    memories: dict[str, LatentCache], camera: Trajectory, truth: Tensor
) -> tuple[dict[str, dict[str, float]], dict[str, Tensor]]:
    """One camera's view of both memories, on the same pixels and cells; and the pictures."""
    drawn = {name: render_preview(memory, camera, CODEC) for name, memory in memories.items()}
    cells = {name: token_error(memory, camera, truth) for name, memory in memories.items()}
    either = torch.stack([preview.depth > 0 for preview in drawn.values()]).any(dim=0)
    both = torch.stack([seen for seen, _ in cells.values()]).all(dim=0)
    found = {
        name: {
            "psnr": psnr(drawn[name].frames, truth, either),
            "shown": float((drawn[name].depth > 0).float().mean()),
            "token_error": float(cells[name][1][both].mean()),
            "empty_cells": float((~cells[name][0]).float().mean()),
            "points": float(len(memory)),
        }
        for name, memory in memories.items()
    }
    return found, {name: preview.frames[0] for name, preview in drawn.items()}


def room(seed: int) -> tuple[dict[str, Any], Tensor]:
    """Both ways, with exact and with bled depth; and the truth beside both at the last camera."""
    scene = ProceduralScene.from_seed(seed, texture_size=256)
    cameras = there_and_back(scene, 97, *SIZE).select(list(CAMERAS))
    truth, depth = scene.render(cameras)
    tokens, first = CODEC.encode_images(truth[:1]), cameras.select([0])
    found: dict[str, Any] = {}
    for name, given in (("exact", depth[:1]), ("bled", bled(depth[:1]))):
        geometry = FrameGeometry(given, first.intrinsics)
        memories = {}
        for way, config in WAYS.items():
            seen = observe(
                tokens, geometry, world_to_camera=first.world_to_camera,
                frames=torch.tensor([0]), config=config,
            )  # fmt: skip
            memories[way] = append_all(LatentCache(codec=CODEC.name), seen)
        views = [compare(memories, cameras.select([k]), truth[[k]]) for k in range(1, len(CAMERAS))]
        found[name] = [numbers for numbers, _ in views]
    return found, torch.cat([truth[-1], *views[-1][1].values()], dim=1)


def table_of(rooms: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the rooms, for each camera."""
    return {
        depth: {
            way: {
                key: [
                    round(statistics.mean(r[depth][k][way][key] for r in rooms), 4)
                    for k in range(len(CAMERAS) - 1)
                ]
                for key in rooms[0][depth][0][way]
            }
            for way in WAYS
        }
        for depth in rooms[0]
    }


def loop(seeds: range, steps: int) -> dict[str, Any]:
    """Shots there and back, each way with the same cameras, depth, seeds and steps."""
    model = load_transformer(model_path(), branch=branch_path(), dtype=torch.float32).eval()
    makers = {"patches": by_patches, "model": by_model(model, steps), "cells": by_cells}
    rows: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in makers}
    for seed in seeds:
        shot = make_shot(seed, 97, 320, 192, 0)
        for name, make in makers.items():
            results = {
                way: shoot(shot, Variant(make), steps, write=config) for way, config in WAYS.items()
            }
            # Which cells count as known is the same for both.
            known = results["whole"].known
            rows[name].append({way: measure(r, shot, known) for way, r in results.items()})
    return {
        name: {
            key: {
                **{way: round(statistics.mean(r[way][key] for r in found), 4) for way in WAYS},
                "gain": _spread([r["cut"][key] - r["whole"][key] for r in found]),
            }
            for key in LOOP_KEYS
        }
        for name, found in rows.items()
    }


def _spread(values: list[float]) -> dict[str, float]:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {
        "mean": round(statistics.mean(values), 4), "deviation": round(deviation, 4),
        "above_zero": sum(value > 0 for value in values), "rooms": len(values),
    }  # fmt: skip


def office(capture: Capture) -> dict[str, Any]:
    """Each frame shown by a memory of the other four, and of all five."""
    every = list(range(FRAMES))
    report: dict[str, Any] = {}
    for policy in WRITE_POLICIES:
        for test in ("revisit", "leave_one_out"):
            found = []
            for frame in every:
                kept = [n for n in every if test == "revisit" or n != frame]
                memories = {way: capture.memory(kept, policy, c) for way, c in WAYS.items()}
                camera, truth = capture.cameras.select([frame]), capture.pictures[[frame]]
                found.append(compare(memories, camera, truth)[0])
            report[f"{policy}, {test}"] = {
                way: {
                    key: round(statistics.mean(f[way][key] for f in found), 4)
                    for key in found[0][way]
                }
                for way in WAYS
            }
    return report


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loop-rooms", type=int, default=0, help="shots of the loop; 1 min each")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--folder", type=Path, default=find_capture(), help="frames of real.py")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    since = time.perf_counter()
    rooms = [room(seed) for seed in ROOMS]
    report: dict[str, Any] = {
        "program": "benchmarks/cutouts.py",
        "date": date.today().isoformat(),
        "machine": processor(),
        "torch": torch.__version__,
        "threads": 1,
        "rooms": table_of([found for found, _ in rooms]),
    }
    if given.loop_rooms:
        report["loop"] = loop(range(FIRST_ROOM, FIRST_ROOM + given.loop_rooms), given.steps)
    if given.folder is not None:
        report["office"] = office(load_capture(given.folder))
    report["seconds"] = round(time.perf_counter() - since, 1)
    text = json.dumps(report, indent=1)
    if given.save is not None:
        given.save.write_text(f"{text}\n", encoding="utf-8")
    if given.picture is not None:
        sheet = torch.cat([rooms[0][1], rooms[2][1]])
        pixels = (sheet.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        Image.fromarray(pixels).resize((1440, 528)).save(given.picture, quality=85)
    print(text)


if __name__ == "__main__":
    main()
