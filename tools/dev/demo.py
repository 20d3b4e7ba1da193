"""``make demo``: the shipped workflow of the main job, run by a real ComfyUI server."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dev.comfy_client import ComfyClient, Progress, RunResult
from dev.comfy_server import PACK, ComfyServer
from workflows.flatten import flatten

SHOTS = {"preview": "first_shot", "model": "embedded_model"}
"""Shipped workflows that need no download, by what fills the unknown."""

BAR_WIDTH = 32
DRAWING = "MiragePreviewFill"
CHUNK_FRAMES = 32


class Bar:
    """A progress bar with the time left, over all chunks of a shot."""

    def __init__(self, prompt: dict[str, Any]) -> None:
        self.kinds = {number: node["class_type"] for number, node in prompt.items()}
        frames = next(
            node["inputs"]["frames"]
            for node in prompt.values()
            if node["class_type"] == "MirageTrajectory"
        )
        chunks = -(-(frames - 1) // CHUNK_FRAMES)
        self.total = frames + chunks - 1
        self.drawn: dict[str, float] = {}
        self.started = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        if self.kinds.get(progress.display_node) == DRAWING:
            self.drawn[progress.node] = progress.value
            self.show(sum(self.drawn.values()))

    def show(self, done: float) -> None:
        share = min(1.0, done / self.total)
        spent = time.monotonic() - self.started
        left = f"{spent / share - spent:4.0f} s left" if share > 0 else ""
        filled = "#" * round(BAR_WIDTH * share)
        text = f"[{filled:<{BAR_WIDTH}}] {share:4.0%}  {left}"
        end = "" if sys.stderr.isatty() else "\n"
        print(f"\r{text}" if sys.stderr.isatty() else text, file=sys.stderr, end=end, flush=True)


def workflow_path(shot: str) -> Path:
    """The shipped file of a workflow."""
    return PACK / "workflows" / f"mirage_{shot}.json"


def run_shipped_workflow(server: ComfyServer, shot: str) -> tuple[dict[str, Any], RunResult]:
    """Queue a shipped workflow; returns the prompt and what the server did."""
    client = ComfyClient(server.url)
    workflow = json.loads(workflow_path(shot).read_text(encoding="utf-8"))
    prompt = flatten(workflow, client.object_info())
    extra = {"extra_pnginfo": {"workflow": workflow}}
    return prompt, client.run(prompt, on_progress=Bar(prompt), timeout=1800, extra_data=extra)


def collect(
    server: ComfyServer, prompt: dict[str, Any], result: RunResult, shot: str, target: Path
) -> str:
    """Copy what the workflow saved to ``target``; returns the report."""
    target.mkdir(parents=True, exist_ok=True)
    kept = {"SaveVideo": "shot.mp4", "SaveImage": "contact_sheet.png"}
    for number, node in prompt.items():
        name = kept.get(node["class_type"])
        if name:
            (entry,) = result.files(number)[:1]
            shutil.copy2(server.output / entry["subfolder"] / entry["filename"], target / name)
    memory = max((server.output / "mirage").glob(f"{shot}_memory*.safetensors"))
    shutil.copy2(memory, target / "memory.safetensors")
    texts = [
        text
        for number, node in prompt.items()
        if node["class_type"] == "MirageRolloutResult"
        for text in result.outputs.get(number, {}).get("text", [])
    ]
    lines = "\n".join(texts).splitlines()
    return "\n".join(line for line in lines if not line.startswith("folder:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=PACK / "out" / "demo", help="result folder")
    parser.add_argument(
        "--fill", choices=SHOTS, default="preview",
        help="what shows where nothing is known: smooth colour (default), or the small model",
    )  # fmt: skip
    given = parser.parse_args()
    target, shot = given.out.resolve(), SHOTS[given.fill]
    print("Starting ComfyUI ...", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="mirage-demo-") as base, ComfyServer(base) as server:
        print(f"Running {workflow_path(shot).name} at {server.url}", file=sys.stderr)
        prompt, result = run_shipped_workflow(server, shot)
        report = collect(server, prompt, result, shot, target)
    print(f"\n{report}\nmade in {result.seconds:.0f} s")
    for name in ("shot.mp4", "contact_sheet.png", "memory.safetensors"):
        print(f"  {target / name}")


if __name__ == "__main__":
    main()
