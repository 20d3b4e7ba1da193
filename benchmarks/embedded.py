"""What the memory is worth to the small model that ships, on rooms that it was not trained on.

Shots there and back, made in several variants with the same cameras, depth, seeds and steps. Prints
one JSON report: closed loop (last frame against first), and against the rendered truth on the way,
over all pixels, over cells that the memory knew, and over those that it did not know.
``--sheet`` writes a picture of frames, ``--save`` the report.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import piq
import torch
from _embedded_variants import (
    CODEC,
    Result,
    RgbMemory,
    Shot,
    Variant,
    by_cells,
    by_model,
    by_patches,
    drawn_over,
    shoot,
)
from PIL import Image
from torch import Tensor

from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.metrics import psnr
from mirage_core.models.bundled import STEPS, branch_path, model_path
from mirage_core.models.load import load_transformer
from mirage_core.scenes.movers import add_movers
from mirage_core.scenes.scene import ProceduralScene
from mirage_core.training.data.build_clip import DepthNoise
from mirage_core.training.validation import there_and_back

FIRST_ROOM = 910_000
"""Rooms from here on are in no training set and no validation."""

STRIDE, TEMPORAL = 16, 4
SHOWN = (0, 16, 32, 48, 64, 80, 96)
NAMES = {
    "a": "memory begun anew at every chunk",
    "b": "no branch: the video model alone",
    "c": "RGB memory through the same model",
    "d": "latent memory after stage one",
    "e": "latent memory after stage two",
    "e, drawn over": "the same, with the memory's patches drawn over the model's frames",
    "g, cells": "whole cells and smooth filling, no network",
    "g, patches": "drawn patches and smooth filling, no network (the preview)",
    "h": "the codec alone",
    "f, unfiltered": "things move, everything is remembered",
    "f, filtered": "things move, and are kept out of the memory",
}


def make_shot(seed: int, frames: int, width: int, height: int, movers: int) -> Shot:
    """A held-out room, there and back, with depth that is wrong by 2 % smoothly and 1 % white."""
    room = ProceduralScene.from_seed(seed, texture_size=256)
    cameras = there_and_back(room, frames, width, height)
    moving = None
    if movers:
        truth, depth, moving = add_movers(room, seed, movers, cameras).render(cameras)
    else:
        truth, depth = room.render(cameras)
    grid = (height // STRIDE, width // STRIDE)
    depth = DepthNoise(0.02, 0.01).apply(depth, grid, seed)
    geometry = FrameGeometry(depth, cameras.intrinsics, cameras.world_to_camera, metric=True)
    return Shot(seed, cameras, truth, geometry, moving)


def variants(given: argparse.Namespace, shot: Shot) -> dict[str, Variant]:
    """All variants that the arguments have the weights for."""
    whole, steps = _model(given.model, given.branch), given.steps
    if shot.moving is not None:
        made = by_model(whole, steps)
        return {"f, unfiltered": Variant(made), "f, filtered": Variant(made, filtered=True)}
    colour = RgbMemory(whole, shot, steps)
    found = {
        "a": Variant(by_model(whole, steps), forget=True),
        "c": Variant(colour.make, learn=colour.learn),
        "e": Variant(by_model(whole, steps)),
        "e, drawn over": Variant(drawn_over(whole, steps)),
        "g, cells": Variant(by_cells),
        "g, patches": Variant(by_patches),
    }
    if given.backbone is not None:
        found["b"] = Variant(by_model(_model(given.backbone, None), steps, side=False))
        if given.stage_one is not None:
            found["d"] = Variant(by_model(_model(given.backbone, given.stage_one), steps))
    return found


_MODELS: dict[tuple[Path, Path | None], Any] = {}


def _model(path: Path, branch: Path | None) -> Any:
    key = (path, branch)
    if key not in _MODELS:
        _MODELS[key] = load_transformer(path, branch=branch, dtype=torch.float32).eval()
    return _MODELS[key]


def measure(result: Result, shot: Shot, known: Tensor) -> dict[str, float]:
    """Compare one shot with the truth; ``known`` (T, h, w) are the cells to tell apart."""
    made, truth = result.frames, shot.truth
    still = torch.ones(truth.shape[:3], dtype=torch.bool)
    if shot.moving is not None:
        still = ~shot.moving
    seen = known.repeat_interleave(TEMPORAL, 0)[TEMPORAL - 1 :]
    seen = seen.repeat_interleave(STRIDE, 1).repeat_interleave(STRIDE, 2)
    later = slice(1, None)
    squares = (made - truth).square().mean(dim=-1)
    pair = [_chw(frames[4::TEMPORAL]) for frames in (made, truth)]
    return {
        "closed_loop": psnr(made[-1], made[0]) if shot.moving is None else _db(
            (made[-1] - truth[-1]).square().mean(dim=-1)[still[-1]]
        ),
        "closed_loop_ssim": float(piq.ssim(_chw(made[-1:]), _chw(made[:1]))),
        "closed_loop_haarpsi": float(piq.haarpsi(_chw(made[-1:]), _chw(made[:1]))),
        "truth": _db(squares[later][still[later]]),
        "truth_known": _db(squares[later][(still & seen)[later]]),
        "truth_unknown": _db(squares[later][(still & ~seen)[later]]),
        "truth_ssim": float(piq.ssim(*pair)),
        "truth_haarpsi": float(piq.haarpsi(*pair)),
        "sharpness": _edges(made[later]) / _edges(truth[later]),
        "sharpness_unknown": _edges(made[later], ~seen[later]) / _edges(truth[later], ~seen[later]),
        "points": float(result.points),
    }  # fmt: skip


def _chw(frames: Tensor) -> Tensor:
    return frames.permute(0, 3, 1, 2).float().clamp(0, 1)


def _db(squares: Tensor) -> float:
    if not len(squares):
        return float("nan")
    return float(-10 * squares.mean().clamp_min(1e-10).log10())


def _edges(frames: Tensor, where: Tensor | None = None) -> float:
    """Mean absolute difference of neighbouring pixels."""
    change = (frames[:, :, 1:] - frames[:, :, :-1]).abs().mean(dim=-1)
    return float(change.mean() if where is None else change[where[:, :, 1:]].mean())


def study(given: argparse.Namespace, movers: int, seed: int) -> dict[str, Any]:
    """One room in all variants."""
    torch.set_num_threads(1)
    shot = make_shot(seed, given.frames, *given.size, movers)
    results, seconds = {}, {}
    for name, variant in variants(given, shot).items():
        if given.way and name not in given.way:
            continue
        since = time.perf_counter()
        results[name] = shoot(shot, variant, given.steps)
        seconds[name] = time.perf_counter() - since
    if not movers:
        ideal = CODEC.decode(CODEC.encode(shot.truth))
        results["h"] = Result(ideal, results["e"].known, 0)
    # Which cells count as known does not depend on the variant: those of the method itself.
    reference = results["e" if not movers else "f, filtered"].known
    found = {name: measure(result, shot, reference) for name, result in results.items()}
    for name, spent in seconds.items():
        found[name]["seconds_a_chunk"] = spent / ((given.frames - 1) // 32)
    row = {name: _strip(result.frames) for name, result in results.items()}
    strips = {"truth": _strip(shot.truth), **row} if seed < FIRST_ROOM + given.pictures else {}
    return {
        "seed": seed, "movers": movers, "known": float(reference[1:].float().mean()),
        "ways": found, "strips": strips,
    }  # fmt: skip


def _strip(frames: Tensor) -> Tensor:
    shown = [frames[min(number, len(frames) - 1)] for number in SHOWN]
    return (torch.cat(shown, dim=1).clamp(0, 1) * 255).round().to(torch.uint8)


def summary(rooms: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and spread over the rooms, and differences between variants, room by room."""
    names = [name for name in NAMES if any(name in room["ways"] for room in rooms)]
    table = {
        name: {
            key: _spread([room["ways"][name][key] for room in rooms if name in room["ways"]])
            for key in next(room["ways"][name] for room in rooms if name in room["ways"])
        }
        for name in names
    }
    gains = {}
    for one, other in (("e", "a"), ("e", "b"), ("e", "c"), ("e", "d"), ("e", "g, cells"),
                       ("e", "g, patches"), ("e, drawn over", "g, patches"),
                       ("f, filtered", "f, unfiltered")):  # fmt: skip
        pairs = [r["ways"] for r in rooms if one in r["ways"] and other in r["ways"]]
        if pairs:
            gains[f"{one} over {other}"] = {
                key: _spread([variants_[one][key] - variants_[other][key] for variants_ in pairs])
                for key in ("closed_loop", "truth", "truth_known", "truth_unknown",
                            "truth_ssim", "truth_haarpsi")
            }  # fmt: skip
    return {"table": table, "gains": gains}


def _spread(values: list[float]) -> dict[str, float]:
    finite = [value for value in values if value == value]
    if not finite:
        return {"mean": float("nan"), "deviation": 0.0, "rooms": 0}
    deviation = statistics.stdev(finite) if len(finite) > 1 else 0.0
    above = sum(value > 0 for value in finite)
    return {
        "mean": round(statistics.mean(finite), 4), "deviation": round(deviation, 4),
        "rooms": len(finite), "above_zero": above,
    }  # fmt: skip


def write_sheet(rooms: list[dict[str, Any]], path: Path) -> None:
    """Rows of frames: the truth and every variant, for the rooms that kept pictures."""
    rows = [
        room["strips"][name]
        for room in rooms
        for name in ("truth", *NAMES)
        if name in room["strips"]
    ]
    Image.fromarray(torch.cat(rows).numpy()).save(path, quality=88)


def run(given: argparse.Namespace) -> list[dict[str, Any]]:
    """All rooms, one process for each of ``--jobs``."""
    still = [(0, FIRST_ROOM + number) for number in range(given.rooms)]
    moving = [(given.movers, FIRST_ROOM + 500 + number) for number in range(given.moving_rooms)]
    call: Callable[..., dict[str, Any]] = partial(_study_one, given)
    if given.jobs == 1:
        return [call(job) for job in still + moving]
    with multiprocessing.get_context("spawn").Pool(given.jobs) as pool:
        return list(pool.imap(call, still + moving))


def _study_one(given: argparse.Namespace, job: tuple[int, int]) -> dict[str, Any]:
    return study(given, *job)


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=None, help="default: the one that ships")
    parser.add_argument("--branch", type=Path, default=None)
    parser.add_argument("--backbone", type=Path, help="the video model before it knew a branch")
    parser.add_argument("--stage-one", type=Path, help="the branch that was trained alone")
    parser.add_argument("--way", action="append", help="only these; e is always needed")
    parser.add_argument("--rooms", type=int, default=50)
    parser.add_argument("--moving-rooms", type=int, default=20)
    parser.add_argument("--movers", type=int, default=3)
    parser.add_argument("--frames", type=int, default=97)
    parser.add_argument("--size", type=_size, default=(320, 192))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=2, help="rooms whose frames are kept")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--save", type=Path)
    given = parser.parse_args()
    if given.model is None:
        given.model, given.branch = model_path(), branch_path()
    rooms = run(given)
    if given.sheet is not None:
        write_sheet([room for room in rooms if not room["movers"]], given.sheet)
    report = {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__, "size": list(given.size), "frames": given.frames,
        "steps": given.steps, "names": NAMES, **summary(rooms),
        "rooms": [{k: v for k, v in room.items() if k != "strips"} for room in rooms],
    }  # fmt: skip
    text = json.dumps(report, indent=1)
    if given.save is not None:
        given.save.write_text(f"{text}\n", encoding="utf-8")
    print(json.dumps({"table": report["table"], "gains": report["gains"]}, indent=1))


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(width), int(height)


if __name__ == "__main__":
    main()
