"""How soon a shot stops after Cancel, at times spread over the whole of it.

Prints one JSON object. A real server makes the shipped first shot once from end to end, then again
and again under other seeds; each of these is interrupted at another time. For each: seconds from
the request to the server's word that it stopped, and the node that ran. ``--shot embedded_model``
has a sampler in the loop. Shots that were over before the request do not count.

``--library`` needs no server and does not depend on what else the machine does: the most CPU
seconds of one thread between two looks at Cancel, for each part of the preview loop.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from _preview_loop import CODEC  # noqa: E402
from readout_cpu import processor  # noqa: E402

from dev.comfy_client import ComfyClient  # noqa: E402
from dev.comfy_server import PACK, ComfyServer  # noqa: E402
from mirage_core.geometry.frame_geometry import FrameGeometry  # noqa: E402
from mirage_core.preview.fill import (  # noqa: E402
    complete_depth,
    fill_readout,
    uncertain_pixels,
)
from mirage_core.preview.render import render_preview  # noqa: E402
from mirage_core.readout.readout import grid_intrinsics, read  # noqa: E402
from mirage_core.rollout.memory import begin_memory, write_chunk  # noqa: E402
from mirage_core.rollout.state import RolloutState, rollout_id  # noqa: E402
from mirage_core.rollout.video import join_clips, write_clip  # noqa: E402
from mirage_core.scenes.scene import ProceduralScene  # noqa: E402
from mirage_core.trajectories.presets import preset_trajectory  # noqa: E402
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


class Gaps:
    """A callback that keeps the most CPU seconds between two of its calls."""

    def __init__(self) -> None:
        self.last, self.most = time.process_time(), 0.0

    def __call__(self, *_: object) -> None:
        now = time.process_time()
        self.most, self.last = max(self.most, now - self.last), now


def in_library(given: argparse.Namespace) -> dict[str, float]:
    """CPU seconds between looks for the parts of one chunk with the embedded codec."""
    torch.set_num_threads(1)
    found: dict[str, float] = {}

    def part(name: str, work: Callable[[Gaps], Any]) -> Any:
        gaps = Gaps()
        result = work(gaps)
        gaps()
        found[name] = round(gaps.most, 3)
        return result

    room, lens = ProceduralScene.from_seed(16), 70.0
    picture, geometry = part(
        "picture", lambda look: room.picture(given.width, given.height, lens, on_frame=look)
    )
    tokens = part("picture encoded", lambda _: CODEC.encode_images(picture[None]))
    memory = part("memory begun", lambda _: begin_memory(tokens, geometry, CODEC.name))
    move = preset_trajectory(
        "orbit", 33, intrinsics=geometry.intrinsics[0], width=given.width, height=given.height,
        scene_depth=geometry.typical_depth(), amount=0.3,
    )  # fmt: skip
    state = RolloutState(move, memory, tokens, 0, rollout_id(move, memory, tokens, 0, "cancel"))
    readout = part("memory read", lambda _: read(memory, state.frame_cameras))
    _, depth = part("holes filled", lambda look: fill_readout(readout, look))
    drawn = part("frames drawn", lambda look: render_preview(memory, move, CODEC, look))
    unsure = uncertain_pixels(drawn.depth, CODEC.spatial_stride, readout.visible)
    latents = part("chunk encoded", lambda look: CODEC.encode(drawn.frames, look))
    part("chunk decoded", lambda look: CODEC.decode(latents, look))
    cameras = readout.latent_cameras
    whole = complete_depth(drawn.depth, depth)
    size = (int(whole.shape[1]), int(whole.shape[2]))
    seen = FrameGeometry(
        whole, grid_intrinsics(cameras, size), cameras.world_to_camera, exclude=unsure
    )

    def write(look: Gaps) -> None:
        def encode(frames: torch.Tensor) -> torch.Tensor:
            found = []
            for frame in frames:
                found.append(CODEC.encode_images(frame[None]))
                look()
            return torch.cat(found, dim=1)

        write_chunk(state, latents, drawn.frames, seen, encode=encode, on_frame=look)

    part("memory written", write)
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        part("clip written", lambda look: write_clip(clip, drawn.frames, 24, look))
        part(
            "twelve clips joined",
            lambda look: join_clips(Path(folder) / "all.mp4", [clip] * 12, 24, on_clip=look),
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shot", default="first_shot", help="a shipped workflow without downloads")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=704)
    parser.add_argument("--frames", type=int, default=65)
    parser.add_argument("--runs", type=int, default=24, help="interruptions")
    parser.add_argument("--library", action="store_true", help="CPU seconds between two looks")
    given = parser.parse_args()
    before = os.getloadavg()[0]
    if given.library:
        report: dict[str, Any] = {"cpu_seconds_between_looks": in_library(given)}
    else:
        with tempfile.TemporaryDirectory() as base, ComfyServer(base) as server:
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
