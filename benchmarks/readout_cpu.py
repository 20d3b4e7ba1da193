"""How fast the memory is read, beside the released code's algorithm: prints one JSON object.

A camera walks through sixteen furnished rooms and remembers 3,520 cells at each of its steps;
then nine views that go on with the walk are read from the last 1, 10, 100 and 1,000 steps. Both
algorithms run in turn in the same process, since the speed of a machine drifts.

``python benchmarks/readout_cpu.py --help``
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from torch import Tensor

from mirage_core.cache.types import CacheBlock, LatentCache
from mirage_core.constants import LATENT_CHANNELS, TEMPORAL_STRIDE
from mirage_core.geometry.camera import PixelConvention, cell_centres, scale_intrinsics
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid, rigid, rotation_about
from mirage_core.ops.best_view import BestView
from mirage_core.readout.readout import Readout, read

WIDTH, HEIGHT, GRID = 1280, 704, (44, 80)
VIEWS = 9
STEPS = (1, 10, 100, 1000)
TARGET_RATIOS = {100: 3.0, 1000: 6.0}
"""Least ratio to the released algorithm by number of steps."""

TARGET_MEMORY_MIB = 64.0

ROOM = 6.0
ROOMS = 4
HEIGHT_OF_ROOMS = 3.0
WALL, DOOR = 0.1, 0.9
LOOP = 4 * (ROOMS - 1) * ROOM


def solids() -> Tensor:
    """(B, 2, 3) lower and upper corners: inner walls with doors, and a table in each room."""
    reach = ROOMS * ROOM / 2
    boxes = []
    centres = [-reach + (i + 0.5) * ROOM for i in range(ROOMS)]
    for line in (-reach + i * ROOM for i in range(1, ROOMS)):
        for centre in centres:
            ends = (centre - ROOM / 2, centre - DOOR), (centre + DOOR, centre + ROOM / 2)
            for low, high in ends:
                boxes.append(((line - WALL, 0, low), (line + WALL, HEIGHT_OF_ROOMS, high)))
                boxes.append(((low, 0, line - WALL), (high, HEIGHT_OF_ROOMS, line + WALL)))
    for x in centres:
        boxes += [((x + 1.2, 2.2, z + 1.2), (x + 2.2, HEIGHT_OF_ROOMS, z + 2.0)) for z in centres]
    return torch.tensor(boxes)


def pose(step: int) -> Tensor:
    """``camera_to_world`` (4, 4) on a round through the outer rooms, looking ahead and about."""
    side = (ROOMS - 1) * ROOM
    # The round begins in the middle of a side, so that the views ahead continue straight on.
    along = (LOOP * step / max(STEPS) + side / 2) % LOOP
    leg, part = int(along // side), along % side - side / 2
    corner = side / 2
    x, z, yaw = (
        (part, -corner, math.pi / 2), (corner, part, 0.0),
        (-part, corner, -math.pi / 2), (-corner, -part, math.pi),
    )[leg]  # fmt: skip
    yaw += 0.9 * math.sin(step * 0.05)
    # A little tilt: upright walls seen by a level camera are full of equal depths, whose order
    # the released algorithm leaves to rounding.
    turn = rotation_about("y", torch.tensor(yaw, dtype=torch.float64))
    turn = turn @ rotation_about("x", torch.tensor(-0.1, dtype=torch.float64))
    return rigid(turn, torch.tensor([x, 1.4, z], dtype=torch.float64))


def grid_lens(size: tuple[int, int] = GRID) -> Tensor:
    """(3, 3) intrinsics of the latent grid, or of another one."""
    return scale_intrinsics(intrinsics_from_fov(WIDTH, HEIGHT, 75), (HEIGHT, WIDTH), size)


def cast(camera_to_world: Tensor, boxes: Tensor, size: tuple[int, int] = GRID) -> Tensor:
    """(h * w, 3) points where the rays of one camera's cells end, on the device of ``boxes``."""
    rays = camera_to_world[:3, :3] @ torch.linalg.inv(grid_lens(size))
    centres = cell_centres(*size, PixelConvention.PAPER, boxes.device).view(-1, 3)
    direction = centres @ rays.float().T.to(boxes.device)
    origin = camera_to_world[:3, 3].float().to(boxes.device)
    reach = ROOMS * ROOM / 2
    shell = torch.tensor([[-reach, 0, -reach], [reach, HEIGHT_OF_ROOMS, reach]]).to(boxes.device)
    ends = (shell[:, None] - origin) / direction
    distance = ends.amax(0).amin(1)
    meets = (boxes[:, :, None] - origin) / direction
    enter, leave = meets.amin(1).amax(2), meets.amax(1).amin(2)
    hits = torch.where((enter < leave) & (enter > 0), enter, torch.inf)
    return origin + direction * torch.minimum(distance, hits.amin(0))[:, None]


def walk(steps: int) -> tuple[LatentCache, Trajectory]:
    """The memory of the last ``steps`` steps, and the cameras that come next.

    Tensors are filled in place, so that building leaves no higher peak than holding.
    """
    cells = GRID[0] * GRID[1]
    boxes, first = solids(), max(STEPS) - steps
    axes = torch.empty(3, steps * cells)
    for step in range(steps):
        axes[:, step * cells : (step + 1) * cells] = cast(pose(first + step), boxes).T
    rng = torch.Generator().manual_seed(0)
    tokens = torch.empty(steps * cells, LATENT_CHANNELS).normal_(generator=rng)
    cameras = invert_rigid(torch.stack([pose(first + step) for step in range(steps)]))
    block = CacheBlock(
        points=axes.T,
        tokens=tokens,
        source=torch.arange(steps, dtype=torch.int32).repeat_interleave(cells),
        slope=torch.zeros(steps * cells, 2, dtype=torch.float16),
        world_to_camera=cameras,
        intrinsics=grid_lens().expand(steps, 3, 3),
        frames=torch.arange(steps),
    )
    frames = (VIEWS - 1) * TEMPORAL_STRIDE + 1
    ahead = torch.stack([pose(max(STEPS) + i // TEMPORAL_STRIDE) for i in range(frames)])
    lens = intrinsics_from_fov(WIDTH, HEIGHT, 75).repeat(frames, 1, 1)
    return LatentCache((block,)), Trajectory(invert_rigid(ahead), lens, WIDTH, HEIGHT)


def read_as_released(
    points: Tensor, tokens: Tensor, camera_to_world: Tensor, lens: Tensor
) -> tuple[Tensor, Tensor]:
    """The released algorithm: per view, sort by depth, write from far to near.

    Returns:
        (C, T, h, w) tokens and (T, h, w) visibility. Cells are rounded to, as released.
    """
    (height, width), channels = GRID, tokens.shape[1]
    pictures, masks = [], []
    for transform in camera_to_world:
        view = torch.linalg.inv(transform)
        seen = points @ view[:3, :3].T + view[:3, 3]
        number = (seen[:, 2] > 0).nonzero()[:, 0]
        seen = seen[number]
        place = seen @ lens.T
        column = torch.round(place[:, 0] / place[:, 2]).long()
        row = torch.round(place[:, 1] / place[:, 2]).long()
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        order = torch.argsort(seen[:, 2][inside], descending=True)
        column, row = column[inside][order], row[inside][order]
        picture = tokens.new_zeros(height, width, channels)
        mask = torch.zeros(height, width, dtype=torch.bool, device=tokens.device)
        picture[row, column] = tokens[number[inside][order]]
        mask[row, column] = True
        pictures.append(picture.permute(2, 0, 1))
        masks.append(mask)
    return torch.stack(pictures, dim=1), torch.stack(masks)


def alternate(tasks: dict[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
    """Wall milliseconds of each task, run in turn after one warm-up each."""
    for task in tasks.values():
        task()
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(runs):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


def spread(values: list[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    numbers = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return {name: round(value, 2) for name, value in numbers.items()}


def measure(steps: int, runs: int) -> dict[str, object]:
    """Times of both algorithms for one size of memory, and how far they agree."""
    cache, shot = walk(steps)
    block = cache.blocks[0]
    poses = shot.camera_to_world[::TEMPORAL_STRIDE].float()
    lens = grid_lens().float()

    def ours() -> Readout:
        return read(cache, shot)

    def released() -> tuple[Tensor, Tensor]:
        return read_as_released(block.points, block.tokens, poses, lens)

    def best() -> Readout:
        return read(cache, shot, BestView())

    times = alternate({"mirage": ours, "best_view": best, "released": released}, runs)
    rounded = LatentCache(cache.blocks, PixelConvention.RELEASED)
    same, (tokens, visible) = read(rounded, shot), released()
    agree = (tokens == same.tokens).all(dim=0) & (visible == same.visible)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "points": len(cache),
        "visible_cells": round(float(ours().visible.float().mean()), 3),
        "mirage_ms": spread(times["mirage"]),
        "best_view_ms": spread(times["best_view"]),
        "released_ms": spread(times["released"]),
        "ratio": round(medians["released"] / medians["mirage"], 2),
        "best_view_over_mirage": round(medians["best_view"] / medians["mirage"], 2),
        "released_over_best_view": round(medians["released"] / medians["best_view"], 2),
        "cells_that_differ_under_the_released_convention": int((~agree).sum()),
    }


def resident(key: str) -> float:
    """``VmRSS`` (held now) or ``VmHWM`` (peak) of this process in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def extra_memory() -> None:
    """Print the peak MiB above the held memory while the largest one is read."""
    torch.set_num_threads(1)
    cache, shot = walk(max(STEPS))
    read(LatentCache((walk(1)[0].blocks[0],)), shot)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    held = resident("VmRSS")
    result = read(cache, shot)
    report = {"points": len(cache), "peak_above_held": round(resident("VmHWM") - held, 1)}
    report["of_which_result"] = round(
        sum(t.numel() * t.element_size() for t in vars(result).values() if isinstance(t, Tensor))
        / 2**20,
        1,
    )
    sys.stdout.write(json.dumps(report) + "\n")


def memory_in_a_process_of_its_own() -> dict[str, object] | None:
    """What `extra_memory` prints; None where the system does not tell its peaks."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    done = subprocess.run(
        [sys.executable, __file__, "--extra-memory"],
        # Every freed tensor goes back to the system at once, so the peak is what was in use.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "0"},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)


def processor() -> str:
    """The CPU's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    """Parse the command line, measure, write JSON to standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9, help="timed runs of each algorithm")
    parser.add_argument("--largest", type=int, default=max(STEPS), help="most steps to measure")
    parser.add_argument("--extra-memory", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.extra_memory:
        extra_memory()
        return
    torch.set_num_threads(1)
    sizes = [steps for steps in STEPS if steps <= arguments.largest]
    with torch.inference_mode():
        results = [measure(steps, arguments.runs) for steps in sizes]
    found = {step: size["ratio"] for step, size in zip(sizes, results, strict=True)}
    memory = memory_in_a_process_of_its_own() if max(STEPS) in sizes else None
    report = {
        "benchmark": "readout of 9 views of 44 x 80 cells, 48 channels float32, one thread",
        "date": date.today().isoformat(),
        "machine": {"cpu": processor(), "system": platform.system()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "runs": arguments.runs,
        "sizes": results,
        "extra_memory_mib": memory,
        "targets": {
            **{
                f"ratio_at_{step * GRID[0] * GRID[1]}_points": {
                    "at_least": ratio,
                    "found": found.get(step),
                }
                for step, ratio in TARGET_RATIOS.items()
            },
            "extra_memory_mib": {
                "at_most": TARGET_MEMORY_MIB,
                "found": memory and memory["peak_above_held"],
            },
        },
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
