"""Prompts of small shots, and what a finished one leaves on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av

from dev.comfy_client import ComfyClient, Progress, RunResult
from mirage_core.folder_lock import HOLDER, LOCK
from mirage_core.rollout.run_folder import VIDEO

Prompt = dict[str, dict[str, Any]]

BODY = ("open", "read", "fill", "decode", "update")
"""Nodes that run once per chunk."""


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def scene(width: int = 64, height: int = 64, seed: int = 16) -> Prompt:
    """A picture with its depth, and the VAE."""
    return {
        "scene": node("MirageEmbeddedScene", seed=seed, width=width, height=height, fov=70.0),
        "codec": node("MirageEmbeddedCodec"),
    }


def move(frames: int = 33, preset: str = "truck", **changes: Any) -> Prompt:
    """A camera move over the picture of `scene`."""
    inputs = {
        "image": ["scene", 0],
        "geometry": ["scene", 1],
        "preset": preset,
        "frames": frames,
        "amount": 0.3,
        "there_and_back": False,
        "easing": "linear",
        "fps": 24.0,
        "keys": "",
        "keyframes": "",
    }
    return {"move": node("MirageTrajectory", **inputs | changes)}


def memory(**changes: Any) -> Prompt:
    """The memory of the picture of `scene`."""
    inputs = {
        "image": ["scene", 0],
        "geometry": ["scene", 1],
        "vae": ["codec", 0],
        "depth_mode": "bilinear",
        "drop_flying": True,
        "pixel_convention": "paper",
    }
    return {"init": node("MirageCacheInit", **inputs | changes)}


def loop(
    name: str = "shot", seed: int = 0, resume: bool = True, policy: str = "novelty",
    **lengths: int,
) -> Prompt:  # fmt: skip
    """The chunk loop, from its start to its result; ``lengths`` are those of its chunks."""
    return {
        "start": node(
            "MirageRolloutStart",
            cache=["init", 0],
            trajectory=["move", 0],
            first_latent=["init", 1],
            seed=seed,
            name=name,
            resume=resume,
            **lengths,
        ),
        "open": node("MirageLoopOpen", state=["start", 0]),
        "read": node("MirageReadout", cache=["open", 2], trajectory=["open", 3]),
        "fill": node(
            "MiragePreviewFill", readout=["read", 0], vae=["codec", 0], first_latent=["open", 4]
        ),
        "decode": node("VAEDecode", samples=["fill", 0], vae=["codec", 0]),
        "update": node(
            "MirageCacheUpdate",
            state=["open", 1],
            readout=["read", 0],
            latent=["fill", 0],
            images=["decode", 0],
            geometry=["fill", 1],
            vae=["codec", 0],
            policy=policy,
            tokens="reencode",
            depth_mode="bilinear",
            drop_flying=True,
        ),
        "close": node("MirageLoopClose", flow=["open", 0], state=["update", 0]),
        "result": node("MirageRolloutResult", state=["close", 0]),
    }


def shot(
    frames: int = 33, *, width: int = 64, height: int = 64, preset: str = "truck",
    amount: float = 0.3, **settings: Any,
) -> Prompt:  # fmt: skip
    """A whole shot of a procedural room; ``settings`` are those of `loop`."""
    camera = move(frames, preset, amount=amount)
    return scene(width, height) | camera | memory() | loop(**settings)


def looked_at(**changes: Any) -> Prompt:
    """A memory from a picture and a depth picture of ComfyUI's own."""
    size = {"batch_size": 1, "color": 0x808080}
    prompt = {
        "codec": node("MirageEmbeddedCodec"),
        "picture": node("EmptyImage", width=64, height=64, **size),
        "depth_picture": node("EmptyImage", width=64, height=64, **size),
        "geometry": node(
            "MirageGeometry",
            depth=["depth_picture", 0],
            encoding="near is white",
            near=1.0,
            far=20.0,
            fov=60.0,
        ),
        "init": node(
            "MirageCacheInit",
            image=["picture", 0],
            geometry=["geometry", 0],
            vae=["codec", 0],
            depth_mode="bilinear",
            drop_flying=True,
            pixel_convention="paper",
        ),
        "info": node("MirageCacheInfo", cache=["init", 0]),
    }
    for name, inputs in changes.items():
        prompt[name]["inputs"] |= inputs
    return prompt


def runs_of(result: RunResult, name: str) -> int:
    """How often a node of the submitted graph ran, copies of an expansion included."""
    return result.displayed.count(name)


def body_runs(result: RunResult) -> dict[str, int]:
    """How often each node of the loop's body ran."""
    return {name: runs_of(result, name) for name in BODY}


def folders(output: Path, name: str) -> list[Path]:
    """Folders of the rollouts that were saved under a name, oldest first."""
    found = (output / "mirage" / name).iterdir()
    return sorted(found, key=lambda path: path.stat().st_mtime_ns)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones included, but for those of the lock on it.

    The server lets go of a folder soon after the prompt, and not at its last message.
    """
    paths = [path for path in folder.iterdir() if path.name not in (LOCK, HOLDER)]
    return {path.name: packets(path) if path.name == VIDEO else path.read_bytes() for path in paths}


def packets(video: Path) -> bytes:
    """What a video shows, without the workflow that it carries: packets and their times."""
    with av.open(str(video)) as source:
        found = [(packet.pts, packet.duration, bytes(packet)) for packet in source.demux(video=0)]
    return repr(found).encode()


def interrupt_in(client: ComfyClient, chunk: int, step: int = 1) -> Callable[[Progress], None]:
    """A progress callback that interrupts once a chunk's frames are being drawn."""
    return once_in(chunk, step, client.interrupt)


def once_in(chunk: int, step: int, act: Callable[[], None]) -> Callable[[Progress], None]:
    """A progress callback that acts once, at a step of the node that draws a chunk."""
    pending = [act]

    def watch(progress: Progress) -> None:
        drawing = progress.display_node == "fill" and f"chunk{chunk}_" in progress.node
        if drawing and progress.value >= step and pending:
            pending.pop()()

    return watch
