"""Memory and speed over a long shot, on the server or in the library alone.

Prints one JSON object. On the server, with the shipped workflow: its resident memory every few
seconds, seconds in all and the shot's report. ``python benchmarks/long_shot.py --frames 641`` or,
with ComfyUI's own setting for how much memory to leave free, ``--cache-ram 18``. ``--more 3`` makes
as many shots under other seeds afterwards, then asks ComfyUI to let go of all that it keeps.

``--library`` makes a hundred chunks in this process: resident memory and seconds after every
chunk, what the memory holds, and whether the joined video plays.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from _preview_loop import (  # noqa: E402
    Made,
    advance,
    begin,
    figure_eight,
    previewed,
    rendered,
)
from _walk import path  # noqa: E402
from readout_cpu import processor  # noqa: E402

from dev.comfy_client import ComfyClient  # noqa: E402
from dev.comfy_server import PACK, ComfyServer  # noqa: E402
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov  # noqa: E402
from mirage_core.geometry.transform import invert_rigid  # noqa: E402
from mirage_core.readout.readout import read  # noqa: E402
from mirage_core.rollout.run_folder import finish, open_folder  # noqa: E402
from mirage_core.rollout.state import RolloutState  # noqa: E402
from mirage_core.rollout.video import read_frames  # noqa: E402
from mirage_core.scenes.scene import ProceduralScene  # noqa: E402
from workflows.flatten import flatten  # noqa: E402

SAMPLE_SECONDS = 5.0
WORKFLOW = PACK / "workflows" / "mirage_first_shot.json"


class Watch(threading.Thread):
    """Samples the resident memory of a process until told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process = psutil.Process(pid)
        self.samples: list[tuple[float, float]] = []
        self.finished = threading.Event()

    def run(self) -> None:
        started = time.monotonic()
        while not self.finished.wait(SAMPLE_SECONDS):
            gib = self.process.memory_info().rss / 2**30
            self.samples.append((round(time.monotonic() - started), round(gib, 2)))


def in_library(chunks: int, size: int) -> dict[str, Any]:
    """The chunk loop with the embedded codec, first with the preview and then with true frames."""
    torch.set_num_threads(1)
    scene = ProceduralScene.from_seed(16, texture_size=256)
    frames = 1 + 32 * chunks
    walk = path(scene, frames, random.Random(16), per_latent=4)
    lens = intrinsics_from_fov(size, size, 70.0).expand(frames, 3, 3)
    return {
        "date": datetime.date.today().isoformat(),
        "machine": processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "chunks": chunks,
        "size": size,
        "preview of a figure eight": loop(
            scene, figure_eight(scene, frames, size, size), previewed
        ),
        "true frames of a walk": loop(
            scene,
            Trajectory(invert_rigid(walk), lens, size, size),
            lambda state: rendered(scene, state),
        ),
    }


def loop(
    scene: ProceduralScene, cameras: Trajectory, make: Callable[[RolloutState], Made]
) -> dict[str, Any]:
    """From the first chunk to the joined video; measured after every chunk."""
    process = psutil.Process()
    resident, seconds, reading, cpu, reading_cpu = [], [], [], [], []
    with tempfile.TemporaryDirectory() as base:
        state = open_folder(begin(scene, cameras, Path(base) / "shot"))
        while not state.complete:
            start, busy = time.perf_counter(), time.process_time()
            read(state.cache, state.frame_cameras)
            reading.append(time.perf_counter() - start)
            reading_cpu.append(time.process_time() - busy)
            start, busy = time.perf_counter(), time.process_time()
            state = advance(state, make(state))
            seconds.append(time.perf_counter() - start)
            cpu.append(time.process_time() - busy)
            resident.append(process.memory_info().rss / 2**20)
        video = finish(state)
        frames = sum(1 for _ in read_frames(video))
        written = sorted(path.stat().st_size for path in video.parent.glob("chunk_*.safetensors"))
    later = resident[min(9, len(resident) - 1) :]
    return {
        "frames_expected": len(cameras),
        "frames_in_the_video": frames,
        "resident_mib": [round(value, 1) for value in resident],
        "resident_most_over_chunk_10": round(max(later) / later[0], 4),
        "seconds_per_chunk": [round(value, 3) for value in seconds],
        "seconds_last_tenth_over_second_tenth": _last_over_second(seconds),
        "read_seconds_last_tenth_over_second_tenth": _last_over_second(reading),
        # Unlike the wall's seconds, those of the CPU do not count what else the machine does.
        "cpu_seconds_per_chunk": [round(value, 3) for value in cpu],
        "cpu_seconds_last_tenth_over_second_tenth": _last_over_second(cpu),
        "read_cpu_seconds_last_tenth_over_second_tenth": _last_over_second(reading_cpu),
        "points": [entry.points for entry in state.statistics],
        "memory_bytes": state.cache.nbytes,
        "blocks": len(state.cache.blocks),
        "chunk_file_kib": {"median": written[len(written) // 2] / 1024, "most": written[-1] / 1024},
    }


def _last_over_second(values: list[float]) -> float:
    """Ratio of medians; the first tenth warms up."""
    tenth = max(1, len(values) // 10)
    late, early = statistics.median(values[-tenth:]), statistics.median(values[tenth : 2 * tenth])
    return round(late / early, 3)


def shots_after(
    client: ComfyClient, prompt: dict[str, Any], process: psutil.Process, more: int
) -> list[int]:
    """MiB of a server after its first shot, after each of some more, and after it let go."""

    def resident() -> int:
        return round(process.memory_info().rss / 2**20)

    found = [resident()]
    (start,) = (node for node in prompt.values() if node["class_type"] == "MirageRolloutStart")
    for seed in range(1, more + 1):
        start["inputs"]["seed"] = seed
        client.run(prompt, timeout=3600)
        found.append(resident())
    client.post_json("/free", {"unload_models": True, "free_memory": True})
    # The server does so in its own time, and tells nobody.
    time.sleep(SAMPLE_SECONDS)
    return [*found, resident()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=641)
    parser.add_argument("--cache-ram", type=float, help="GB that ComfyUI's cache leaves free")
    parser.add_argument("--more", type=int, default=0, help="shots after the first")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=704)
    parser.add_argument("--server", nargs="*", default=[], metavar="OPTION", help="cache-classic")
    parser.add_argument("--library", action="store_true", help="in this process, no server")
    parser.add_argument("--chunks", type=int, default=100, help="with --library")
    parser.add_argument("--size", type=int, default=64, help="with --library: pixels per side")
    arguments = parser.parse_args()
    if arguments.library:
        print(json.dumps(in_library(arguments.chunks, arguments.size), indent=1))
        return
    extra = ["--cache-ram", str(arguments.cache_ram)] if arguments.cache_ram else []
    extra += [f"--{option}" for option in arguments.server]
    with tempfile.TemporaryDirectory() as base, ComfyServer(base, extra_args=extra) as server:
        client = ComfyClient(server.url)
        prompt = flatten(json.loads(WORKFLOW.read_text()), client.object_info())
        for node in prompt.values():
            inputs = node["inputs"]
            if node["class_type"] == "MirageTrajectory":
                inputs.update(
                    frames=arguments.frames, preset="lemniscate", amount=1.0, there_and_back=False
                )
            wanted = {"width": arguments.width, "height": arguments.height}
            inputs |= {key: wanted[key] for key in wanted if isinstance(inputs.get(key), int)}
        watch = Watch(server.pid or 0)
        watch.start()
        result = client.run(prompt, timeout=3600)
        watch.finished.set()
        watch.join()
        after = shots_after(client, prompt, watch.process, arguments.more)
    result_id = next(k for k, n in prompt.items() if n["class_type"] == "MirageRolloutResult")
    report = {
        "frames": arguments.frames,
        "cache_ram": arguments.cache_ram,
        "seconds": round(result.seconds, 1),
        "resident_gib": watch.samples,
        "resident_mib_after_shots": after,
        "report": result.outputs[result_id]["text"],
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
