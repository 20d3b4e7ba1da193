"""How fast procedural rooms are rendered: prints one JSON object.

Run from the folder that holds ``mirage_core``:
``python benchmarks/scene.py --help``.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time

import torch

from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid
from mirage_core.scenes.scene import ProceduralScene

SIZES = ((128, 192, 33), (192, 320, 33), (352, 640, 9))
"""Height, width and frames of each measurement."""


def truck(scene: ProceduralScene, height: int, width: int, frames: int) -> Trajectory:
    """A move of 30 cm to the right from the scene's start."""
    poses = scene.start_camera_to_world.repeat(frames, 1, 1)
    steps = torch.linspace(0, 0.3, frames, dtype=torch.float64)
    poses[:, :3, 3] += steps[:, None] * poses[:, :3, 0]
    intrinsics = intrinsics_from_fov(width, height, 70).repeat(frames, 1, 1)
    return Trajectory(invert_rigid(poses), intrinsics, width, height)


def seconds(scene: ProceduralScene, trajectory: Trajectory, device: torch.device) -> float:
    """Wall time of one rendering."""
    start = time.perf_counter()
    _, depth = scene.render(trajectory, device)
    depth.sum().item()
    return time.perf_counter() - start


def measure(device: torch.device, seeds: range) -> dict[str, object]:
    """Frames per second for every size, and the time to prepare a scene."""
    prepare: list[float] = []
    rates: dict[str, list[float]] = {f"{w}x{h}": [] for h, w, _ in SIZES}
    for seed in seeds:
        scene = ProceduralScene.from_seed(seed, texture_size=256)
        tiny = truck(scene, 32, 32, 1)
        prepare.append(seconds(scene, tiny, device))
        for height, width, frames in SIZES:
            trajectory = truck(scene, height, width, frames)
            seconds(scene, trajectory, device)
            rates[f"{width}x{height}"].append(frames / seconds(scene, trajectory, device))
    return {
        "prepare_seconds": _spread(prepare),
        "frames_per_second": {size: _spread(values) for size, values in rates.items()},
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "low": round(min(values), 3),
        "high": round(max(values), 3),
    }


def main() -> None:
    """Parse the command line, measure, write JSON to standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scenes", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    report = {
        "machine": platform.processor() or platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": arguments.threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **measure(device, range(arguments.scenes)),
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
