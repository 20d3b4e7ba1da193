"""Choosing reference frames: the fast way against looking at every point from every camera.

Prints one JSON report: the machine, medians and spread of both in milliseconds, and their ratio
in the same run. The scene is a furnished room, walked through for as many frames as asked.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from readout_cpu import processor

from mirage_core.geometry.camera import projection_matrices
from mirage_core.geometry.lift import lift
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid, look_at
from mirage_core.readout.overlap import Views, best_overlaps
from mirage_core.scenes.scene import ProceduralScene

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from plain_overlap import select_references, voxel_keys, voxel_overlap  # noqa: E402

GRID = (44, 80)
TARGET = 9


def walk(frames: int) -> Trajectory:
    """Two turns through a room."""
    angle = torch.linspace(0, 4 * math.pi, frames, dtype=torch.float64)
    sway = 0.1 * torch.sin(3 * angle) - 1.4
    position = torch.stack(
        [1.2 * torch.sin(0.7 * angle), sway, 1.2 * torch.cos(angle / 2)], dim=1
    )
    ahead = torch.stack([torch.sin(angle), 0.1 * torch.sin(2 * angle), torch.cos(angle)], dim=1)
    lens = intrinsics_from_fov(GRID[1], GRID[0], 60).repeat(frames, 1, 1)
    poses = invert_rigid(look_at(position, position + ahead))
    return Trajectory(poses, lens, GRID[1], GRID[0])


def timed(work: Callable[[], object], repeats: int) -> dict[str, float]:
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(1e3 * (time.perf_counter() - start))
    return {
        "median_ms": statistics.median(seconds), "least_ms": min(seconds), "most_ms": max(seconds)
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--history", type=int, default=200, help="earlier latent frames")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    cameras = walk(chosen.history + TARGET - 1)
    _, depth = ProceduralScene.from_seed(3, texture_size=64).render(cameras)
    # Every second frame: half of what a walk sees is new to a memory that keeps what it knows.
    seen = lift(depth, cameras.intrinsics, cameras.world_to_camera)[: chosen.history : 2]
    points = seen.reshape(-1, 3).to(chosen.device)
    born = torch.arange(0, chosen.history, 2, device=chosen.device)
    born = born.repeat_interleave(GRID[0] * GRID[1])
    matrices = projection_matrices(cameras.world_to_camera, cameras.intrinsics)
    behind, ahead = Views(matrices[: chosen.history], *GRID), Views(matrices[-TARGET:], *GRID)
    times = [8 * (frame // 8) + 7 for frame in range(chosen.history)]

    def fast() -> list[int]:
        return best_overlaps(points, born, ahead, behind, times)

    def plain() -> list[int]:
        inside = torch.stack([ahead.inside(view, points) for view in range(TARGET)]).any(dim=0)
        wanted = voxel_keys(points[inside])
        keys = (
            voxel_keys(points[behind.inside(frame, points) & (born <= until)])
            for frame, until in enumerate(times)
        )
        return select_references([voxel_overlap(wanted, one) for one in keys])

    report = {
        "program": "benchmarks/references.py",
        "date": date.today().isoformat(),
        "machine": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": chosen.device,
        "torch": torch.__version__,
        "points": len(points),
        "history": chosen.history,
        "chosen": fast(),
        "same": fast() == plain(),
        "fast": timed(fast, chosen.repeats),
        "plain": timed(plain, 3),
    }
    report["speedup"] = report["plain"]["median_ms"] / report["fast"]["median_ms"]
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
