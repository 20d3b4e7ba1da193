"""Shots that another program makes, such as a graph of ComfyUI: asked for in files, then read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ..constants import TEMPORAL_STRIDE, WHITE_8
from ..errors import CacheFormatError, ModelMismatchError, ResumeError
from ..files import atomic_write
from ..geometry.frame_geometry import FrameGeometry
from ..geometry.geometry_io import save_geometry
from ..geometry.transform import invert_rigid
from ..rollout.video import read_frames, to_bytes
from ..trajectories.files import save_trajectory
from .results import save_picture
from .shots import ShotDepth
from .systems import Made, Request
from .variations import Variation

REQUEST: Final = "request.json"
PICTURE: Final = "picture.png"
TRAJECTORY: Final = "trajectory.json"
FIRST_DEPTH: Final = "first_depth.safetensors"
DEPTH: Final = "depth.safetensors"
PROMPT: Final = "prompt.txt"
VIDEO: Final = "video"
"""Name of the video that is waited for, with the ending of any container."""

CONTAINERS: Final = (".mp4", ".mkv", ".webm", ".mov")


@dataclass(frozen=True)
class Elsewhere:
    """Videos that are put where they were asked for.

    Attributes:
        folder: Holds a folder for each shot: what to make it from, and then its video.
        name: Of its way in results.
    """

    folder: Path = field(hash=False)
    name: str

    def settings(self) -> dict[str, Any]:
        """What results depend on; the videos themselves come later."""
        return {"model": self.name, "made": "by another program"}

    def prepare(self) -> None:
        """There is nothing to load."""

    def announce(self, requests: Sequence[Request]) -> None:
        """Ask for all shots of an item at once.

        Raises:
            ResumeError: A folder asks for another shot.
            StorageError: The folder cannot be written.
        """
        for request in requests:
            ask(self.folder / folder_name(request.name), request)

    def shoot(self, request: Request, variation: Variation | None = None) -> Made:
        """Read a shot that was made, or ask for it.

        Raises:
            ModelMismatchError: It has not been made yet, or a variation is wanted.
            ResumeError: The folder asks for another shot.
            CacheFormatError: The video is damaged, or has another length or size.
            StorageError: The folder cannot be written.
        """
        if variation is not None:
            raise ModelMismatchError(
                f"A shot of another program cannot be made again as {variation.name}",
                fix="Use --model preview, bundled or the path of a video model",
            )
        self.announce((request,))
        frames = read_shot(self.folder / folder_name(request.name), request)
        return Made(frames, None, None, None, {}, ())


def folder_name(shot: str) -> str:
    """A folder's name for a shot: its own, where any file system takes it."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", shot).strip("._")
    if plain == shot:
        return plain
    return f"{plain}_{hashlib.sha256(shot.encode()).hexdigest()[:8]}"


def ask(folder: Path, request: Request) -> None:
    """Write what a shot is made from; what is there already stays.

    Raises:
        ResumeError: The folder asks for another shot.
        StorageError: The disk is full, or the folder cannot be written.
    """
    told = folder / REQUEST
    wanted = _describe(request)
    if told.exists():
        found = _read(told)
        if found.get("digest") != wanted["digest"]:
            raise ResumeError(
                f"{folder.name} asks for another shot than this one",
                got=f"{found.get('frames')} frames of {found.get('size')}",
                expected=f"{wanted['frames']} frames of {wanted['size']}, of the same data",
                fix="Use the data and the settings that it was asked with, or another --videos",
            )
        return
    save_picture(folder / PICTURE, request.picture)
    # As a memory of the picture alone has it, the first camera is where the world begins.
    start = invert_rigid(request.cameras.world_to_camera[:1])
    poses = request.cameras.world_to_camera @ start
    save_trajectory(
        folder / TRAJECTORY, dataclasses.replace(request.cameras, world_to_camera=poses)
    )
    save_geometry(request.geometry, folder / FIRST_DEPTH)
    known = _known_depth(request, poses)
    if known is not None:
        save_geometry(known, folder / DEPTH)
    with atomic_write(folder / PROMPT, "w") as file:
        file.write(request.prompt)
    with atomic_write(told, "w") as file:
        json.dump(wanted, file, indent=1)


def _describe(request: Request) -> dict[str, Any]:
    digest = hashlib.sha256(request.cameras.fingerprint().encode())
    digest.update(to_bytes(request.picture).contiguous().numpy().tobytes())
    digest.update(request.prompt.encode())
    return {
        "shot": request.name,
        "frames": len(request.cameras),
        "size": [request.cameras.width, request.cameras.height],
        "fps": request.cameras.fps,
        "seed": request.seed,
        "put here": f"{VIDEO}{CONTAINERS[0]}",
        "digest": digest.hexdigest(),
    }


def _known_depth(request: Request, poses: Tensor) -> FrameGeometry | None:
    """Depth of every frame of the shot, or of every fourth, where the data has it."""
    depth = request.depth
    if not isinstance(depth, ShotDepth):
        return None
    for step in (1, TEMPORAL_STRIDE):
        order = list(depth.order[::step])
        if min(order) >= 0:
            chosen = depth.geometry.select(order)
            return dataclasses.replace(chosen, world_to_camera=poses[::step])
    return None


def read_shot(folder: Path, request: Request) -> Tensor:
    """(F, H, W, 3) float32 frames in 0..1 of the video that was put into a folder.

    Raises:
        ModelMismatchError: There is none yet.
        CacheFormatError: There are several, or it is damaged or has another length or size.
    """
    found = sorted(
        path for path in folder.glob(f"{VIDEO}.*") if path.suffix.lower() in CONTAINERS
    )
    if not found:
        raise ModelMismatchError(
            "This shot has not been made yet",
            got=f"no {VIDEO}{CONTAINERS[0]} in {folder}",
            fix=f"Make it from {PICTURE}, {FIRST_DEPTH} and {TRAJECTORY} there, put the video "
            f"beside them, and run the command again with --retry",
        )
    if len(found) > 1:
        raise CacheFormatError(
            f"{folder.name} holds several videos",
            got=", ".join(path.name for path in found),
            expected="one",
        )
    frames = list(read_frames(found[0]))
    height, width = frames[0].shape[:2] if frames else (0, 0)
    cameras = request.cameras
    if (len(frames), width, height) != (len(cameras), cameras.width, cameras.height):
        raise CacheFormatError(
            f"{found[0].name} of {folder.name} is another shot",
            got=f"{len(frames)} frames of {width} x {height}",
            expected=f"{len(cameras)} frames of {cameras.width} x {cameras.height}",
            fix="Make it with all cameras of the trajectory, at their size",
        )
    return torch.stack(frames).float() / WHITE_8


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CacheFormatError(f"{path} cannot be read", got=str(error)[:200]) from error
    if not isinstance(found, dict):
        raise CacheFormatError(f"{path} cannot be read", got=f"a {type(found).__name__}")
    return found
