"""A walk through procedural rooms as a hand-held depth camera records it, beside the truth.

Each write policy fills one memory from exact frames and one from the captured ones, and each is
drawn, by the nearest points and by the best views, at frames between those that were written.
Everything is judged by the exact picture there, so the gap between exact and captured is what the
sensor costs.

Prints one JSON object and saves a sheet of pictures. ``python benchmarks/captures.py --help``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from _sensor import HEIGHT, WIDTH, Capture, Sensor, exact, recorded, sensor_lens
from _walk import STEP, path
from PIL import Image
from readout_cpu import processor
from torch import Tensor

from mirage_core.cache.build import Observation, observe
from mirage_core.cache.types import LatentCache
from mirage_core.codecs.dct import DctCodec
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory
from mirage_core.geometry.transform import invert_rigid
from mirage_core.metrics import psnr
from mirage_core.ops.best_view import BestView
from mirage_core.preview.render import render_preview
from mirage_core.readout.readout import grid_intrinsics, read_winners
from mirage_core.scenes.scene import ProceduralScene
from mirage_core.writing.novelty import NoveltyRule
from mirage_core.writing.policy import WriteRules, write

ROOT = Path(__file__).resolve().parents[1]
CODEC = DctCodec()
CHUNK = 8
"""Frames that enter the memory with one write."""

PER_STEP = 2
"""Written frames for each step of the walk: 6 cm and at most 3.4 degrees from one to the next."""

VIEWS: dict[str, BestView | None] = {"nearest": None, "best view": BestView()}
DEFAULT = "novelty"
POLICIES = {
    "append": WriteRules("append"),
    "novelty, first views only": WriteRules(novelty=NoveltyRule(view_score=0)),
    DEFAULT: WriteRules(),
}
SHEET = 6
"""Held-back frames of the first room on the sheet."""


@dataclass(frozen=True, eq=False)
class Room:
    """A walk: what was written, exactly and as captured, and the truth at frames between.

    Attributes:
        seen: Observations by the name of the camera that made them.
        held: Exact pictures and cameras that no memory holds.
        holes: Share of the captured pixels without depth.
    """

    seen: dict[str, Observation]
    held: Capture
    holes: float


def make_room(seed: int, frames: int, held_back: int, sensor: Sensor) -> Room:
    """Walk through room ``seed``; frames are held back half way between two that are written."""
    scene = ProceduralScene.from_seed(seed)
    count = 2 * frames - 1
    poses = path(scene, count, random.Random(seed), per_latent=2 * PER_STEP)
    lens = sensor_lens().expand(count, 3, 3)
    walk = Trajectory(invert_rigid(poses), lens, WIDTH, HEIGHT)
    truth, capture = recorded(scene, walk.select(slice(None, None, 2)), sensor, seed)
    step = (frames - 1) / held_back
    between = [1 + 2 * int((number + 0.5) * step) for number in range(held_back)]
    holes = float((capture.depth == 0).float().mean())
    seen = {"captured": observed(capture), "exact": observed(truth)}
    return Room(seen, exact(scene, walk.select(between)), holes)


def observed(capture: Capture) -> Observation:
    """All frames of a capture, ready to be written."""
    tokens = [CODEC.encode_images(picture[None].float() / 255) for picture in capture.pictures]
    return observe(
        torch.cat(tokens, dim=1).half(),
        FrameGeometry(capture.depth, capture.cameras.intrinsics),
        world_to_camera=capture.cameras.world_to_camera,
        frames=4 * torch.arange(len(capture)),
    )


def remembered(seen: Observation, rules: WriteRules) -> LatentCache:
    """The memory after all frames, a chunk at a time."""
    cache = LatentCache(codec=CODEC.name)
    for first in range(0, len(seen.depth), CHUNK):
        part = slice(first, first + CHUNK)
        cache = write(
            cache,
            Observation(
                seen.tokens[:, part],
                seen.depth[part],
                seen.world_to_camera[part],
                seen.intrinsics[part],
                seen.frames[part],
            ),
            rules,
        )
    return cache


def judged(
    cache: LatentCache, held: Capture, view: BestView | None
) -> tuple[dict[str, float], list[Tensor]]:
    """Means over the held-back frames, and what was drawn there."""
    found, pictures = [], []
    for number in range(len(held)):
        camera, truth = held.cameras.select([number]), held.pictures[number].float() / 255
        drawn = render_preview(cache, camera, CODEC, view=view)
        wanted = CODEC.encode_images(truth[None])[:, 0]
        size = (int(wanted.shape[1]), int(wanted.shape[2]))
        lens = grid_intrinsics(camera, size)
        winner, _ = read_winners(cache, camera.world_to_camera, lens, size, view=view)
        tokens = cache.gather(winner, [block.tokens for block in cache.blocks])[0].float()
        error = (tokens.movedim(-1, 0) - wanted).square().mean(dim=0)[winner[0] >= 0]
        found.append(
            {
                "psnr": psnr(drawn.frames[0], truth, drawn.depth[0] > 0),
                "token_error": float(error.mean()),
                "holes": float((winner < 0).float().mean()),
            }
        )
        pictures.append(drawn.frames[0])
    return mean(found), pictures


def mean(rows: list[dict[str, float]]) -> dict[str, float]:
    """Means of rows that have the same keys."""
    return {key: round(sum(row[key] for row in rows) / len(rows), 4) for key in rows[0]}


def study(
    arguments: argparse.Namespace, sensor: Sensor, note: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, list[Tensor]]]:
    """Figures of every room, policy, camera and view; pictures of the first room."""
    rooms: dict[int, dict[str, Any]] = {}
    sheet: dict[str, list[Tensor]] = {}
    for seed in arguments.seeds:
        room = make_room(seed, arguments.frames, arguments.held_back, sensor)
        rooms[seed] = {"captured_without_depth": round(room.holes, 4)}
        shown = {"truth": list(room.held.pictures.float() / 255)}
        for camera, seen in room.seen.items():
            for policy, rules in POLICIES.items():
                since = time.thread_time()
                cache = remembered(seen, rules)
                row: dict[str, Any] = {
                    "points": len(cache),
                    "write_ms_per_frame": round(
                        1e3 * (time.thread_time() - since) / len(seen.depth), 1
                    ),
                }
                for name, view in VIEWS.items():
                    row[name], shown[f"{camera}, {policy}, {name}"] = judged(cache, room.held, view)
                rooms[seed][f"{camera}, {policy}"] = row
                note(f"room {seed}, {camera}, {policy}: {row}")
        sheet = sheet or shown
    return rooms, sheet


def summary(rooms: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Means over the rooms, the gap that the sensor makes, and the targets on the worst room."""
    ways = [name for name in next(iter(rooms.values())) if ", " in name]
    means = {
        way: {
            "points": round(sum(room[way]["points"] for room in rooms.values()) / len(rooms)),
            **{view: mean([room[way][view] for room in rooms.values()]) for view in VIEWS},
        }
        for way in ways
    }
    gaps = {
        f"{policy}, {view}": round(
            means[f"exact, {policy}"][view]["psnr"] - means[f"captured, {policy}"][view]["psnr"], 2
        )
        for policy in POLICIES
        for view in VIEWS
    }
    pairs = [(room[f"captured, {DEFAULT}"], room["captured, append"]) for room in rooms.values()]
    behind = max(base["best view"]["psnr"] - mine["best view"]["psnr"] for mine, base in pairs)
    share = max(mine["points"] / base["points"] for mine, base in pairs)
    targets = {
        "behind append, best view, at most 0.3 dB": (behind, behind <= 0.3),
        "points of append, at most 1/2": (share, share <= 0.5),
    }
    return {
        "means": means,
        "psnr_lost_to_the_sensor": gaps,
        "targets": {
            name: {"worst_room": round(value, 3), "met": met}
            for name, (value, met) in targets.items()
        },
    }


def save_sheet(sheet: dict[str, list[Tensor]], file: Path) -> list[str]:
    """One column a frame, one row a way; every third pixel. Returns the names of the rows."""
    names = [
        "truth",
        *(
            f"{camera}, {policy}, {view}"
            for camera, policy, view in (
                ("captured", "append", "nearest"),
                ("captured", "append", "best view"),
                ("captured", "novelty, first views only", "best view"),
                ("captured", DEFAULT, "best view"),
                ("exact", DEFAULT, "best view"),
            )
        ),
    ]
    step = max(1, len(sheet["truth"]) // SHEET)
    rows = [torch.cat([p[::3, ::3] for p in sheet[name][::step][:SHEET]], dim=1) for name in names]
    picture = (torch.cat(rows).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(file)
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--frames", type=int, default=201, help="frames that are written")
    parser.add_argument("--held-back", type=int, default=25, help="frames that are drawn")
    parser.add_argument("--sheet", type=Path, default=Path("out/captures.png"))
    parser.add_argument("--save", action="store_true", help="keep JSON and sheet under docs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    since, sensor = time.perf_counter(), Sensor()
    rooms, sheet = study(given, sensor, lambda text: print(text, file=sys.stderr, flush=True))
    if given.save:
        given.sheet = ROOT / "docs" / "images" / "captures.jpg"
    report = {
        "date": datetime.date.today().isoformat(),
        "program": "benchmarks/captures.py",
        "machine": processor(),
        "threads": 1,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "seeds": given.seeds,
        "frames": given.frames,
        "held_back": given.held_back,
        "walk_m": round(STEP / PER_STEP * (given.frames - 1), 1),
        "sensor": asdict(sensor),
        "rows_of_the_sheet": save_sheet(sheet, given.sheet),
        **summary(rooms),
        "rooms": rooms,
        "seconds": round(time.perf_counter() - since),
    }
    text = json.dumps(report, indent=1)
    print(text)
    if given.save:
        (ROOT / "docs" / "benchmarks" / "captures_cpu.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
