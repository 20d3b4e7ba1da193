"""Memory of the server while the shipped workflow makes a long shot.

Prints one JSON object: resident memory of the server every few seconds, seconds in all and the
shot's report. ``python benchmarks/long_shot.py --frames 641`` or, with ComfyUI's own setting for
how much memory to leave free, ``--cache-ram 18``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from comfy_client import ComfyClient  # noqa: E402
from comfy_server import PACK, ComfyServer  # noqa: E402
from workflow_flatten import flatten  # noqa: E402

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=641)
    parser.add_argument("--cache-ram", type=float, help="GB that ComfyUI's cache leaves free")
    arguments = parser.parse_args()
    extra = ["--cache-ram", str(arguments.cache_ram)] if arguments.cache_ram else []
    with tempfile.TemporaryDirectory() as base, ComfyServer(base, extra_args=extra) as server:
        client = ComfyClient(server.url)
        prompt = flatten(json.loads(WORKFLOW.read_text()), client.object_info())
        for node in prompt.values():
            if node["class_type"] == "MirageTrajectory":
                node["inputs"].update(
                    frames=arguments.frames, preset="lemniscate", amount=1.0, there_and_back=False
                )
        watch = Watch(server.pid or 0)
        watch.start()
        result = client.run(prompt, timeout=3600)
        watch.finished.set()
        watch.join()
    result_id = next(k for k, n in prompt.items() if n["class_type"] == "MirageRolloutResult")
    report = {
        "frames": arguments.frames,
        "cache_ram": arguments.cache_ram,
        "seconds": round(result.seconds, 1),
        "resident_gib": watch.samples,
        "report": result.outputs[result_id]["text"],
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
