"""How fast training data is made and read: prints one JSON object.

Making: procedural clips (frames, depth, latents, projections) on one core, beside the rendering
of their frames alone; then in several processes at once. Reading: clips of a data set at random,
beside the same clips as one safetensors file each.

Run from the folder that holds ``mirage_core``: ``python benchmarks/data.py --help``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from mirage_core.codecs.dct import DctCodec
from mirage_core.conditioning.condition import Condition
from mirage_core.constants import LATENT_CHANNELS
from mirage_core.training.data.build_clip import ClipSettings, build_clips
from mirage_core.training.data.clip import TrainingClip
from mirage_core.training.data.dataset import ClipDataset, ClipWriter
from mirage_core.training.data.procedural import ProceduralSource
from mirage_core.training.data.shards import FIELDS

FILES = 2000
"""Clips of the baseline, each a file of its own."""

BATCH = 1000
"""Reads between two looks at the clock."""


def spread(values: list[float]) -> dict[str, float]:
    """Median with the least and the greatest."""
    return {
        "median": round(statistics.median(values), 3),
        "low": round(min(values), 3),
        "high": round(max(values), 3),
    }


def making(rooms: int, width: int, height: int, device: str) -> dict[str, object]:
    """Clips per second of every room, in wall time and in time of this process's CPU."""
    codec, settings = DctCodec(), ClipSettings()
    source = ProceduralSource(range(rooms), width, height, device=device)
    list(ProceduralSource(range(1), 32, 32, 1).load("room-0"))
    wall, cpu, rendering = [], [], []
    for item in source.items():
        count, loading = 0, 0.0
        start, used = time.perf_counter(), time.process_time()
        shots = iter(source.load(item))
        while True:
            before = time.perf_counter()
            shot = next(shots, None)
            loading += time.perf_counter() - before
            if shot is None:
                break
            count += len(build_clips(shot, codec, settings))
        wall.append(count / (time.perf_counter() - start))
        cpu.append(count / max(1e-9, time.process_time() - used))
        rendering.append(count / loading)
    return {
        "size": f"{width}x{height}",
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        "clips_per_second": spread(wall),
        "clips_per_cpu_second": spread(cpu),
        "rendering_alone_clips_per_second": spread(rendering),
        "share_of_rendering": spread([w / r for w, r in zip(wall, rendering, strict=True)]),
    }


_SIZE: list[int] = []
"""Picture size of a process that makes clips beside others."""


def get_ready(width: int, height: int, gate: Barrier) -> None:
    """Load everything, and wait for the other processes."""
    torch.set_num_threads(1)
    _SIZE[:] = (width, height)
    list(ProceduralSource(range(1), 32, 32, 1).load("room-0"))
    gate.wait()


def make_room(seed: int) -> tuple[int, float]:
    """How many clips one room gives, and seconds of CPU; they are made and dropped."""
    used = time.process_time()
    width, height = _SIZE
    source = ProceduralSource(range(seed, seed + 1), width, height)
    codec, settings = DctCodec(), ClipSettings()
    shots = source.load(source.items()[0])
    count = sum(len(build_clips(shot, codec, settings)) for shot in shots)
    return count, time.process_time() - used


def making_together(rooms: int, width: int, height: int, processes: int) -> dict[str, object]:
    """Clips per minute of several processes on the CPU, their start not counted.

    The second rate goes by CPU time: what a machine with nothing else to do would give.
    """
    context = multiprocessing.get_context("spawn")
    gate = context.Barrier(processes + 1)
    with context.Pool(processes, get_ready, (width, height, gate)) as pool:
        gate.wait()
        start = time.perf_counter()
        made = list(pool.imap_unordered(make_room, range(rooms)))
        seconds = time.perf_counter() - start
    clips, used = (sum(column) for column in zip(*made, strict=True))
    return {
        "processes": processes,
        "clips": clips,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(used, 1),
        "clips_per_minute": round(60 * clips / seconds),
        "clips_per_minute_with_a_core_each": round(60 * clips * processes / used),
    }


def tiny_clip(key: str) -> TrainingClip:
    """A clip of noise, 17 KiB in half precision."""
    rng = torch.Generator().manual_seed(0)

    def noise(frames: int) -> torch.Tensor:
        return torch.randn(LATENT_CHANNELS, frames, 4, 6, generator=rng)

    return TrainingClip(
        target=noise(3),
        condition=Condition(
            projection=noise(3), visible=torch.ones(3, 4, 6, dtype=torch.bool),
            references=noise(1), preceding=noise(0), preceding_projection=noise(0),
            preceding_visible=torch.ones(0, 4, 6, dtype=torch.bool),
        ),
        key=key,
    )  # fmt: skip


def reading(clips: int, folder: Path, workers: int) -> dict[str, object]:
    """Random reads per second: of a data set, and of one file per clip."""
    clip = tiny_clip("0")
    start = time.perf_counter()
    with ClipWriter(folder / "data") as writer:
        for number in range(clips):
            writer.add(dataclasses.replace(clip, key=str(number)))
    written = clips / (time.perf_counter() - start)
    start = time.perf_counter()
    store = ClipDataset(folder / "data")
    opened = time.perf_counter() - start
    parts = {name: getattr(clip, name) for name in FIELDS if getattr(clip, name) is not None}
    halves = {name: p.half() if p.is_floating_point() else p for name, p in parts.items()}
    for number in range(FILES):
        save_file(halves, folder / f"{number}.safetensors")
    rng = random.Random(0)

    def from_store() -> None:
        _ = store[rng.randrange(clips)]

    def from_files() -> None:
        values = load_file(folder / f"{rng.randrange(FILES)}.safetensors")
        TrainingClip(**{name: v.float() if v.dtype == torch.float16 else v
                        for name, v in values.items()}, key="0")  # fmt: skip

    rates: dict[str, list[float]] = {"store": [], "files": []}
    by_cpu: list[float] = []
    for _ in range(5):
        for name, read in (("store", from_store), ("files", from_files)):
            start, used = time.perf_counter(), time.process_time()
            for _ in range(BATCH):
                read()
            rates[name].append(BATCH / (time.perf_counter() - start))
            if name == "store":
                by_cpu.append(BATCH / (time.process_time() - used))
    order = [rng.randrange(clips) for _ in range(20 * BATCH)]
    loader = torch.utils.data.DataLoader(
        store, batch_size=8, sampler=order, num_workers=workers, collate_fn=len
    )
    start = time.perf_counter()
    seen = sum(loader)
    return {
        "clips": len(store),
        "shards": len(store.shards),
        "written_per_second": round(written),
        "opened_in_seconds": round(opened, 3),
        "store_reads_per_second": spread(rates["store"]),
        "store_reads_per_cpu_second": spread(by_cpu),
        "one_file_each_reads_per_second": spread(rates["files"]),
        "ratio": spread([a / b for a, b in zip(rates["store"], rates["files"], strict=True)]),
        "loader_workers": workers,
        "loader_reads_per_second": round(seen / (time.perf_counter() - start)),
    }


def main() -> None:
    """Parse the command line, measure, write JSON to standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rooms", type=int, default=4)
    parser.add_argument("--processes", type=int, default=2, help="that make clips at once")
    parser.add_argument("--size", default="192x128")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clips", type=int, default=100_000, help="clips of the data set")
    parser.add_argument("--loader-workers", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    width, height = map(int, arguments.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        report = {
            "machine": platform.processor() or platform.machine(),
            "threads": 1,
            "load_average": [round(value, 1) for value in os.getloadavg()],
            "python": platform.python_version(),
            "torch": torch.__version__,
            "making": making(arguments.rooms, width, height, arguments.device),
            "making_together": making_together(arguments.rooms, width, height, arguments.processes),
            "reading": reading(arguments.clips, Path(folder), arguments.loader_workers),
        }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
