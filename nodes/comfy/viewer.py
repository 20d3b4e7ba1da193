"""What viewers in the browser get: files of points, cameras, and news of a running rollout."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import folder_paths
import torch
from torch import Tensor

from ...mirage_core.actors.ground import Ground, ground_of
from ...mirage_core.cache.actor import Actor, placed_blocks
from ...mirage_core.cache.track import heading_of
from ...mirage_core.cache.types import CacheBlock, LatentCache
from ...mirage_core.cache.view import (
    MOVING,
    STILL,
    FeatureBasis,
    block_digest,
    feature_basis,
    view_bytes,
)
from ...mirage_core.constants import SPATIAL_STRIDE
from ...mirage_core.files import atomic_write
from ...mirage_core.geometry.frame_geometry import FrameGeometry
from ...mirage_core.geometry.trajectory import Trajectory
from ...mirage_core.geometry.transform import invert_rigid
from ...mirage_core.rollout.memory import begin_memory
from ...mirage_core.rollout.settings import MemorySettings
from ...mirage_core.rollout.state import RolloutState
from .patches import SeenPicture, write_patches
from .vae import token_colours

CAST_PLACES = 400
"""Frames of a shot at most at which the place of an actor is told."""

SUBFOLDER = "mirage"
"""Folder below ComfyUI's temporary folder; its files are served by ComfyUI's own /view."""

CHUNK_EVENT = "mirage.chunk"
"""Sent after every finished chunk: what the memory holds now, and how much the chunk knew."""

PICTURE = "picture"
"""Stands for a codec where tokens are just the colours of a picture."""

View = dict[str, Any]


def memory_view(
    cache: LatentCache, picture: SeenPicture | None = None, frame: int | None = None
) -> View:
    """Write the points of a memory for viewers, and describe them.

    Each block is a file of its own that is named by its content, so that only blocks which no
    viewer has seen before are written, and fetched. Principal components are those of the first
    block as it was when a file was written.

    Args:
        cache: The memory.
        picture: Shows what tokens look like that cannot be drawn one by one.
        frame: The frame of the shot at which actors are shown; where each was seen last if None.

    Raises:
        StorageError: The temporary folder cannot be written.
    """
    folder = Path(folder_paths.get_temp_directory()) / SUBFOLDER
    basis = feature_basis(cache)
    blocks = []
    if basis is not None:
        blocks = [_block_view(block, cache, basis, picture, folder) for block in cache.blocks]
    moving = [_actor_view(actor, cache, frame, folder) for actor in cache.actors]
    return {
        **({"actors": [part for parts in moving for part in parts]} if moving else {}),
        "blocks": blocks,
        "subfolder": SUBFOLDER,
        "points": len(cache),
        "bytes": cache.nbytes,
        "codec": cache.codec,
        "convention": cache.convention.value,
    }


def _shown_frame(actor: Actor, frame: int | None) -> int:
    """The given frame, or else that at which it was seen last."""
    return int(actor.track.frames[-1]) if frame is None else frame


def _actor_view(
    actor: Actor, cache: LatentCache, frame: int | None, folder: Path
) -> list[dict[str, Any]]:
    """Blocks of an actor where it is, each with its name; none where it is nowhere."""
    pose = actor.pose(_shown_frame(actor, frame))
    basis = feature_basis(actor.cache)
    if pose is None or basis is None:
        return []
    return [
        _block_view(block, cache, basis, None, folder, MOVING) | {"actor": actor.name}
        for block in placed_blocks(actor, pose)
    ]


def _block_view(
    block: CacheBlock,
    cache: LatentCache,
    basis: FeatureBasis,
    picture: SeenPicture | None,
    folder: Path,
    layer: int = STILL,
) -> dict[str, Any]:
    """Write the points of one block unless its files are there, and describe it."""
    digest = block_digest(block)
    name = f"points_{cache.convention.value}_{digest}.bin"
    if not (folder / name).exists():
        tokens = block.values
        plain = tokens[:, :3] if cache.codec == PICTURE else None
        colours = token_colours(tokens, cache.codec) if plain is None else plain
        features = basis.colours(tokens) if plain is None else plain
        data = view_bytes(block, colours, features, cache.convention, cache.stride, layer)
        with atomic_write(folder / name, "wb") as file:
            file.write(data)
    patches = write_patches(block, digest, cache, picture, folder)
    described = {"filename": name, "points": len(block), "bytes": block.nbytes}
    return described if patches is None else described | {"patches": patches}


def picture_memory(image: Tensor, geometry: FrameGeometry) -> LatentCache:
    """Points of a picture before there is a memory: one per latent cell, with its mean colour.

    Tokens are the colours themselves, so that both ways of colouring show the picture.
    """
    pixels = image[:1, :, :, :3].movedim(-1, 1).float().cpu()
    mean = torch.nn.functional.avg_pool2d(pixels, SPATIAL_STRIDE)
    settings = MemorySettings(token_dtype=torch.float32)
    return begin_memory(
        mean.movedim(0, 1), geometry.select([0]), PICTURE, settings, allow_empty=True
    )


def trajectory_view(
    path: Trajectory,
    image: Tensor,
    geometry: FrameGeometry,
    start: Tensor | None,
    cache: LatentCache | None,
) -> View:
    """What the trajectory widget draws: the shot's lens, its start, and the remembered points.

    Args:
        path: The finished move.
        image: The picture.
        geometry: Its depth and lens.
        start: (4, 4) ``camera_to_world`` of the first camera; None is the identity.
        cache: The memory; None takes the picture's own depth.
    """
    intrinsics = geometry.intrinsics_for((path.height, path.width))[0]
    pose = torch.eye(4) if start is None else invert_rigid(start.double())
    grid = (path.height // SPATIAL_STRIDE, path.width // SPATIAL_STRIDE)
    seen = SeenPicture(image[0], pose.double(), geometry.intrinsics_for(grid)[0])
    view = memory_view(picture_memory(image, geometry) if cache is None else cache, seen)
    return view | cast_view(cache, len(path)) | {
        "width": int(path.width),
        "height": int(path.height),
        "fps": path.fps,
        "intrinsics": [float(intrinsics[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2))],
        "depth": geometry.typical_depth(),
        "start": (torch.eye(4) if start is None else start).double().tolist(),
        "trajectory": path.fingerprint(),
    }


def cast_view(cache: LatentCache | None, frames: int, frame: int | None = None) -> View:
    """The floor, and where the actors of a memory are in a shot of so many frames.

    Args:
        cache: The memory; nothing is told of one without actors.
        frames: Of the shot. Places of a few hundred of them are told, with headings in radians.
        frame: At which `memory_view` showed the actors.
    """
    if cache is None or not cache.actors:
        return {}
    ground = ground_of(cache)
    shown = list(range(0, frames, max(1, math.ceil(frames / CAST_PLACES))))
    return {
        "ground": {"up": ground.up.tolist(), "height": ground.height},
        "cast": [_actor_cast(actor, ground, shown, frame) for actor in cache.actors],
    }


def _actor_cast(actor: Actor, ground: Ground, shown: list[int], frame: int | None) -> View:
    def places(frames: list[int]) -> list[list[float] | None]:
        there, poses = actor.poses(torch.tensor(frames))
        headings = heading_of(poses[:, :3, 2], ground.up)
        found = torch.cat([poses[:, :3, 3], headings[:, None]], dim=1).tolist()
        return [place if here else None for place, here in zip(found, there, strict=True)]

    return {
        "name": actor.name,
        "size": list(actor.size),
        "level": float(actor.track.positions[-1] @ ground.up),
        "facing": float(actor.track.headings[-1]) if actor.one_sided else None,
        "frames": shown,
        "places": places(shown),
        "stands": places([_shown_frame(actor, frame)])[0],
    }


def announce_chunk(state: RolloutState) -> RolloutState:
    """Tell the browser that queued the prompt about a finished chunk; returns the state.

    Does nothing without a server, or without a browser.
    """
    from server import PromptServer  # noqa: PLC0415

    server = getattr(PromptServer, "instance", None)
    if server is None or server.client_id is None or state.last is None:
        return state
    shown = state.plan[state.done - 1].output_end - 1
    cast = cast_view(state.cache, len(state.trajectory), shown)
    news = memory_view(state.cache, frame=shown) | cast | {
        "trajectory": state.trajectory.fingerprint(),
        "run": state.run_id,
        "done": state.done,
        "chunks": len(state.plan),
        "frames": len(state.trajectory),
        "coverage": state.last.visible.float().mean(dim=(1, 2)).tolist(),
        "statistics": [dataclasses.asdict(item) for item in state.statistics],
    }
    server.send_sync(CHUNK_EVENT, news, server.client_id)
    return state
