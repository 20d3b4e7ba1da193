"""How soon a shot stops after Cancel, at times spread over the whole of it.

Prints one JSON object. A real server makes the shipped first shot once from end to end, then again
and again under other seeds; each of these is interrupted at another time. For each: seconds from
the request to the server's word that it stopped, and the node that ran. ``--shot embedded_model``
has a sampler in the loop. Shots that were over before the request do not count.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from readout_cpu import processor  # noqa: E402

from dev.comfy_client import ComfyClient  # noqa: E402
from dev.comfy_server import PACK, ComfyServer  # noqa: E402
from workflows.flatten import flatten  # noqa: E402

Prompt = dict[str, dict[str, Any]]
TIMEOUT = 3600


def sized(prompt: Prompt, given: argparse.Namespace, seed: int) -> Prompt:
    """The prompt at another size, as a shot of its own."""
    wanted = {"width": given.width, "height": given.height, "frames": given.frames}
    for content in prompt.values():
        kept = content["inputs"]
        kept |= {key: value for key, value in wanted.items() if isinstance(kept.get(key), int)}
        if content["class_type"] == "MirageRolloutStart":
            kept["seed"] = seed
    return prompt


def interrupted(client: ComfyClient, prompt: Prompt, delay: float) -> dict[str, Any] | None:
    """Run a prompt and interrupt it after a while; None where it was over by then."""
    asked: list[float] = []

    def interrupt() -> None:
        asked.append(time.monotonic())
        client.interrupt()

    timer = threading.Timer(delay, interrupt)
    timer.start()
    try:
        result = client.run(prompt, timeout=TIMEOUT)
        ended = time.monotonic()
    finally:
        timer.cancel()
        timer.join()
    if result.status != "interrupted":
        return None
    node = prompt[result.displayed[-1]]["class_type"] if result.displayed else "none yet"
    return {"seconds": round(ended - asked[0], 3), "node": node, "after": round(delay, 1)}


def measure(server: ComfyServer, given: argparse.Namespace) -> dict[str, Any]:
    client = ComfyClient(server.url)
    workflow = json.loads((PACK / "workflows" / f"mirage_{given.shot}.json").read_text("utf-8"))

    def prompt(seed: int) -> Prompt:
        return sized(flatten(workflow, client.object_info()), given, seed)

    whole = client.run(prompt(0), timeout=TIMEOUT).seconds
    delays = [whole * (number + 0.5) / given.runs for number in range(given.runs)]
    tries = [interrupted(client, prompt(seed), delay) for seed, delay in enumerate(delays, 1)]
    found = [one for one in tries if one is not None]
    seconds = [one["seconds"] for one in found]
    return {
        "whole_shot_seconds": round(whole, 1),
        "interrupted": len(found),
        "median_seconds": round(statistics.median(seconds), 3),
        "worst_seconds": max(seconds),
        "slowest": sorted(found, key=lambda one: -one["seconds"])[:8],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shot", default="first_shot", help="a shipped workflow without downloads")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=704)
    parser.add_argument("--frames", type=int, default=65)
    parser.add_argument("--runs", type=int, default=24, help="interruptions")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as base, ComfyServer(base) as server:
        before = os.getloadavg()[0]
        report = measure(server, given)
        report["load_average"] = [round(before, 1), round(os.getloadavg()[0], 1)]
    about = {
        "date": datetime.date.today().isoformat(),
        "machine": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "settings": vars(given),
    }
    print(json.dumps(about | report, indent=1))


if __name__ == "__main__":
    main()
