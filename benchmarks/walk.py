"""Walking: the same graph is queued again and again with a path that is a chunk longer.

On a real server, for the graph of the bundled model and for its preview: chunks of 9 frames at
320 x 192, a walk out and back by keys. Prints one JSON object. Measured for each chunk:

- ``first_frame_s``: from the POST of the prompt to the new points in the hands of the client, which
  are the chunk's new frames in the memory. They are announced once a chunk is saved, and fetched.
- ``chunk_s``: from the POST to the end of the prompt, when the next one may be queued.
- ``cpu_s``: seconds of CPU that the server took until then. Unlike those of the clock they do not
  count what else the machine does.

Only the shot's result is asked for, as the widget does while one walks. ``--all`` asks for every
output of the graph. ``python benchmarks/walk.py --help``
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
import time
from pathlib import Path
from typing import Any

import psutil
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from readout_cpu import processor  # noqa: E402

from dev.comfy_client import ComfyClient  # noqa: E402
from dev.comfy_server import PACK, ComfyServer  # noqa: E402
from workflows.flatten import flatten  # noqa: E402

GRAPHS = {"bundled model": "mirage_embedded_model", "preview": "mirage_first_shot"}
WIDTH, HEIGHT = 320, 192
CHUNK_FRAMES = 9
STEPS = CHUNK_FRAMES - 1
"""Steps of a walk that fill a chunk: it shares its first frame with the one before."""

OUT = ("w", "l", "l", "s", "d", "j", "a", "wl", "sl")
"""Keys of the chunks on the way out, over and over: they stay in the room, and turn in it."""

BACK = str.maketrans("wsadjl", "swdalj")


class Walker:
    """A client that walks: every queue is for one more chunk.

    Args:
        client: Of a running server.
        server: The server's process.
        prompt: The graph.
        everything: Ask for all outputs, not for the shot's result alone.
    """

    def __init__(
        self,
        client: ComfyClient,
        server: psutil.Process,
        prompt: dict[str, Any],
        everything: bool,
    ) -> None:
        self.client, self.server, self.prompt = client, server, prompt
        self.move = _of_kind(prompt, "MirageTrajectory")
        self.targets = None if everything else [_of_kind(prompt, "MirageRolloutResult")]
        self.fetched: set[str] = set()

    def queue(self, keys: list[str]) -> dict[str, Any]:
        """Queue the walk, which is longer by its last chunk."""
        text = " ".join(f"{key}*{STEPS}" for key in keys)
        self.prompt[self.move]["inputs"]["keys"] = text
        found: dict[str, Any] = {"chunks": 0}

        def listen(kind: str, data: dict[str, Any]) -> None:
            if kind == "mirage.chunk":
                self._fetch(data)
                found.setdefault("first_frame_s", time.perf_counter() - begun)
                found["chunks"] += 1
                found["known"] = statistics.mean(data["coverage"])
                found["points"] = data["points"]

        begun, busy = time.perf_counter(), self._busy()
        result = self.client.run(
            self.prompt, timeout=300, targets=self.targets, on_message=listen
        )
        found |= {"chunk_s": result.seconds, "cpu_s": self._busy() - busy}
        return found | {"report": self._report(result.outputs)}

    def _busy(self) -> float:
        times = self.server.cpu_times()
        return float(times.user + times.system)

    def _fetch(self, news: dict[str, Any]) -> None:
        """Blocks of points that are new, as the page fetches them."""
        for block in news["blocks"]:
            if block["filename"] not in self.fetched:
                self.client.view(block["filename"], news["subfolder"], "temp")
                self.fetched.add(block["filename"])

    def _report(self, outputs: dict[str, Any]) -> str:
        return str(outputs[_of_kind(self.prompt, "MirageRolloutResult")]["text"][0])


def _of_kind(prompt: dict[str, Any], kind: str) -> str:
    (node_id,) = (key for key, node in prompt.items() if node["class_type"] == kind)
    return node_id


def graph(client: ComfyClient, name: str) -> dict[str, Any]:
    """A shipped graph at the benchmark's size, with its chunks."""
    workflow = json.loads((PACK / "workflows" / f"{name}.json").read_text())
    prompt = flatten(workflow, client.object_info())
    sizes = {"width": WIDTH, "height": HEIGHT}
    lengths = {"first_chunk_frames": CHUNK_FRAMES, "chunk_frames": CHUNK_FRAMES}
    for node in prompt.values():
        inputs = node["inputs"]
        inputs |= {key: sizes[key] for key in sizes if isinstance(inputs.get(key), int)}
        if node["class_type"] == "MirageRolloutStart":
            inputs |= lengths
    return prompt


def there_and_back(chunks: int) -> list[str]:
    """Keys of each chunk of a walk that ends where it began."""
    out = [OUT[number % len(OUT)] for number in range(chunks // 2)]
    return out + [key.translate(BACK) for key in reversed(out)]


def walk(
    client: ComfyClient, server: psutil.Process, name: str, chunks: int, everything: bool
) -> dict[str, Any]:
    """One walk, a queue for each chunk; the first, which loads models, is told apart."""
    walker = Walker(client, server, graph(client, name), everything)
    keys = there_and_back(chunks)
    found = [walker.queue(keys[: number + 1]) for number in range(len(keys))]
    if any(one["chunks"] != 1 for one in found):
        raise SystemExit(f"{name}: a queue made another number of chunks than one")
    first = [one["first_frame_s"] for one in found]
    whole = [one["chunk_s"] for one in found]
    busy = [one["cpu_s"] for one in found]
    loop = [line for line in found[-1]["report"].splitlines() if "closed loop" in line]
    return {
        "chunks": len(found),
        "first_frame_s": _summary(first[1:]),
        "chunk_s": _summary(whole[1:]),
        "cpu_s": _summary(busy[1:]),
        "new_frames_per_second": round(STEPS * (len(whole) - 1) / sum(whole[1:]), 2),
        "first_frame_s_of_the_first": round(first[0], 3),
        "growth": _growth(whole),
        "cpu_growth": _growth(busy),
        "points": found[-1]["points"],
        "known_of_the_last": round(found[-1]["known"], 3),
        "report": loop,
        "first_frames_s": [round(value, 3) for value in first],
        "chunks_s": [round(value, 3) for value in whole],
        "cpus_s": [round(value, 3) for value in busy],
    }


def _summary(values: list[float]) -> dict[str, float]:
    found = {"median": statistics.median(values), "least": min(values), "worst": max(values)}
    return {name: round(value, 3) for name, value in found.items()}


def _growth(values: list[float]) -> float:
    """Seconds of the last fifth over those of the first, without the very first."""
    fifth = max(1, len(values) // 5)
    return round(statistics.median(values[-fifth:]) / statistics.median(values[1 : fifth + 1]), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, default=50, help="of each walk (default 50)")
    parser.add_argument("--all", action="store_true", help="every output of the graph")
    parser.add_argument("--only", choices=sorted(GRAPHS), help="one of the graphs")
    parser.add_argument("--save", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    names = {options.only: GRAPHS[options.only]} if options.only else GRAPHS
    with tempfile.TemporaryDirectory() as base, ComfyServer(base) as server:
        client = ComfyClient(server.url)
        process = psutil.Process(server.pid)
        load = os.getloadavg()
        found = {
            label: walk(client, process, name, options.chunks, options.all)
            for label, name in names.items()
        }
    report = {
        "benchmark": "walk",
        "date": datetime.date.today().isoformat(),
        "machine": processor(),
        "cores": os.cpu_count(),
        "load_before": [round(value, 2) for value in load],
        "load_after": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "size": [WIDTH, HEIGHT],
        "chunk_frames": CHUNK_FRAMES,
        "outputs": "all" if options.all else "the shot's result",
        "results": found,
    }
    text = json.dumps(report, indent=1)
    if options.save:
        options.save.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
