"""Shipped shots made small: stopped, gone on with, and made again without a stop."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev.comfy_client import ComfyClient, Progress, RunResult
from dev.comfy_server import PACK, ComfyServer
from workflows.flatten import flatten

from .prompts import Prompt, contents, folders

WIDTH, HEIGHT = 96, 64
QUICK = {"width": WIDTH, "height": HEIGHT, "steps": 2, "resolution_level": 0}


@dataclass(frozen=True)
class Made:
    """One shot, stopped and gone on with, and then made again without a stop."""

    prompt: Prompt
    folder: Path
    stopped: RunResult
    left: list[str]
    resumed: RunResult
    after: dict[str, bytes]
    whole: RunResult
    again: dict[str, bytes]


def shipped(name: str) -> dict[str, Any]:
    """A workflow as it lies in the pack."""
    path = PACK / "workflows" / f"mirage_{name}.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def small(name: str, object_info: dict[str, Any], lengths: dict[str, int]) -> Prompt:
    """A shipped workflow with a small picture, few steps and short chunks."""
    made = flatten(shipped(name), object_info)
    changes = QUICK | lengths
    for part in made.values():
        kept = part["inputs"]
        kept |= {key: value for key, value in changes.items() if isinstance(kept.get(key), int)}
    return made


def only(prompt: Prompt, kind: str) -> str:
    """The id of the only node of a class."""
    (number,) = [n for n, part in prompt.items() if part["class_type"] == kind]
    return number


def run(server: ComfyServer, prompt: Prompt, **options: Any) -> RunResult:
    return ComfyClient(server.url).run(prompt, timeout=400, **options)


def only_folder(server: ComfyServer, name: str) -> Path:
    (folder,) = folders(server.output, name)
    return folder


def interrupt_second(client: ComfyClient, sampler: str) -> Callable[[Progress], None]:
    """Stops the sampler of the second chunk."""
    pending = [client.interrupt]

    def watch(progress: Progress) -> None:
        if progress.display_node == sampler and "chunk2_" in progress.node and pending:
            pending.pop()()

    return watch


def make(server: ComfyServer, prompt: Prompt, name: str) -> Made:
    """Make a shot three times: stopped in its second chunk, gone on with, and anew."""
    client = ComfyClient(server.url)
    stop = interrupt_second(client, only(prompt, "KSampler"))
    stopped = run(server, prompt, on_progress=stop)
    folder = only_folder(server, name)
    left = sorted(path.name for path in folder.glob("chunk_*.safetensors"))
    resumed = run(server, prompt)
    after = contents(folder)
    for path in (*folder.glob("chunk_*"), folder / "video.mp4"):
        path.unlink()
    whole = run(server, prompt)
    return Made(prompt, folder, stopped, left, resumed, after, whole, contents(folder))


def expect_same_after_stop(made: Made, body: tuple[str, ...], chunks: int) -> None:
    """A shot that was stopped and resumed is the one made whole, bit by bit."""
    sampler = only(made.prompt, "KSampler")
    assert made.stopped.status == "interrupted"
    assert made.left == ["chunk_0000.safetensors"]
    assert made.resumed.status == made.whole.status == "success"
    assert made.resumed.displayed.count(sampler) == chunks - 1
    for kind in body:
        assert made.whole.displayed.count(only(made.prompt, kind)) == chunks, kind
    assert made.after == made.again
