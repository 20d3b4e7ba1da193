"""Bytes of a memory at the size of the real model, and what memories of pixels cost beside it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import torch
from _walk import FOV, PER_CHUNK, STEP, Walk, estimated, grid_lens, path

from mirage_core.cache.accounting import Footprint, footprint
from mirage_core.cache.build import WriteConfig, observe
from mirage_core.cache.types import LatentCache
from mirage_core.codecs.dct import CODEC_NAME, DctCodec
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid
from mirage_core.readout.pixel_memory import FeatureCache, PixelCache, RgbCache
from mirage_core.readout.readout import Readout, read
from mirage_core.scenes.scene import ProceduralScene
from mirage_core.writing.policy import write

PAPER_MIB_PER_CHUNK = 0.45
"""Growth that the method's publication reports."""

WIDTH, HEIGHT = 1280, 704
PIXEL_CHUNKS = 3
CODEC = DctCodec()


def pixel_memories(walk: Walk) -> dict[str, Any]:
    """Three chunks, appended to each kind of memory, and the next chunk read from it."""
    part = slice(0, 1 + PER_CHUNK * PIXEL_CHUNKS)
    seen = walk.chunk(PIXEL_CHUNKS)
    truth = walk.views.tokens[:, seen]
    # A read takes every fourth camera.
    numbers = [frame for frame in range(seen.start, seen.stop) for _ in range(4)][:-3]
    cameras = walk.views.cameras.select(numbers)
    frames, _ = walk.scene.render(walk.views.cameras.select(part))
    latent = write(LatentCache(codec=CODEC_NAME), walk.observation(part, False), "append")
    finer = write(LatentCache(codec=CODEC_NAME), walk.observation(part, True), "novelty")
    rgb = _filled(RgbCache.empty(CODEC), walk, part, frames)
    features = _filled(FeatureCache.empty(CODEC), walk, part, frames)
    return {
        "chunks": PIXEL_CHUNKS,
        "width": walk.views.cameras.width,
        "height": walk.views.cameras.height,
        "latent, append": _judged(lambda: read(latent, cameras), footprint(latent), truth),
        "latent, novelty": _judged(lambda: read(finer, cameras), footprint(finer), truth),
        "colours": _judged(lambda: rgb.read(cameras), footprint(rgb.cache), truth),
        "upsampled features": _judged(
            lambda: features.read(cameras), footprint(features.cache), truth
        ),
    }


def _filled(memory: PixelCache, walk: Walk, part: slice, frames: torch.Tensor) -> PixelCache:
    cameras = walk.views.cameras.select(part)
    depth = walk.measured[part]
    size = (int(depth.shape[1]), int(depth.shape[2]))
    observation = memory.observe(
        frames,
        FrameGeometry(depth, grid_lens(cameras, size)),
        world_to_camera=cameras.world_to_camera,
        numbers=4 * walk.frames[part],
        config=WriteConfig(drop_flying=False),
        tokens=CODEC.encode_images(frames).half(),
    )
    return memory.holding(write(memory.cache, observation, "append"))


def _judged(
    reading: Callable[[], Readout], cost: Footprint, truth: torch.Tensor
) -> dict[str, float]:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        readout = reading()
        times.append(1e3 * (time.perf_counter() - start))
    error = (readout.tokens.float() - truth).square().mean(dim=0)
    return {
        "points": cost.points,
        "mebibytes": round(cost.mebibytes, 3),
        "bytes_per_point": round(cost.bytes_per_point, 2),
        "read_ms": round(sorted(times)[1], 1),
        "holes": round(readout.hole_rate, 4),
        "mean_square_error_of_visible_tokens": round(float(error[readout.visible].mean()), 4),
    }


def real_size(seed: int, chunks: int) -> dict[str, Any]:
    """Growth on the grid of 44 x 80 cells; tokens are zero, since only their bytes count here."""
    scene = ProceduralScene.from_seed(seed, texture_size=256)
    count = 1 + PER_CHUNK * chunks
    poses = path(scene, count, random.Random(seed))
    lens = intrinsics_from_fov(WIDTH, HEIGHT, FOV).expand(count, 3, 3)
    cameras = Trajectory(invert_rigid(poses), lens, WIDTH, HEIGHT)
    grid = torch.Size((HEIGHT // 16, WIDTH // 16))
    depth = estimated(scene, cameras, grid)
    report: dict[str, Any] = {
        "walk_m": round(STEP * (count - 1)),
        "paper_mebibytes_per_chunk": PAPER_MIB_PER_CHUNK,
    }
    for policy in ("append", "novelty"):
        kept = _grown(cameras, depth, grid, policy)
        report[policy] = _growth(kept)
        small = {number: cache.to("cpu", torch.int8) for number, cache in kept.items()}
        report[f"{policy}, int8"] = _growth(small)
    report["colours, one chunk"] = _one_chunk_of_colours(scene, cameras)
    return report


def _grown(
    cameras: Trajectory, depth: torch.Tensor, grid: torch.Size, policy: str
) -> dict[int, LatentCache]:
    """The memory after 0, 5, all but ten and all chunks."""
    cache = LatentCache(codec=CODEC_NAME)
    starts = [0, *range(1, len(cameras), PER_CHUNK)]
    kept: dict[int, LatentCache] = {}
    for number, start in enumerate(starts):
        part = slice(start, start + PER_CHUNK if start else 1)
        some = cameras.select(part)
        observation = observe(
            torch.zeros(48, len(some), *grid, dtype=torch.float16),
            FrameGeometry(depth[part], grid_lens(some, tuple(depth.shape[1:]))),
            world_to_camera=some.world_to_camera,
            frames=4 * torch.arange(part.start, part.start + len(some)),
            config=WriteConfig(drop_flying=policy == "novelty"),
            intrinsics=grid_lens(some, tuple(grid)),
            allow_empty=True,
        )
        cache = write(cache, observation, policy)
        if number in (0, 5, len(starts) - 11, len(starts) - 1):
            kept[number] = cache
    return kept


def _growth(kept: dict[int, LatentCache]) -> dict[str, Any]:
    sizes = {number: footprint(cache).mebibytes for number, cache in kept.items()}
    last = max(kept)
    cost = footprint(kept[last])
    return {
        "points": cost.points,
        "mebibytes": round(cost.mebibytes, 2),
        "parts_mebibytes": {name: round(size / 2**20, 3) for name, size in cost.parts.items()},
        "bytes_per_point": round(cost.bytes_per_point, 2),
        "mebibytes_per_chunk": round((sizes[last] - sizes[0]) / last, 3),
        "mebibytes_per_chunk_first_5": round((sizes[5] - sizes[0]) / 5, 3),
        "mebibytes_per_chunk_last_10": round((sizes[last] - sizes[last - 10]) / 10, 3),
    }


def _one_chunk_of_colours(scene: ProceduralScene, cameras: Trajectory) -> dict[str, Any]:
    part = cameras.select(slice(1, 1 + PER_CHUNK))
    frames, depth = scene.render(part)
    memory = RgbCache.empty(CODEC)
    observation = memory.observe(
        frames,
        FrameGeometry(depth, part.intrinsics),
        world_to_camera=part.world_to_camera,
        numbers=4 * torch.arange(1, 1 + PER_CHUNK),
    )
    cost = footprint(write(memory.cache, observation, "append"))
    return {
        "points": cost.points,
        "mebibytes": round(cost.mebibytes, 1),
        "parts_mebibytes": {name: round(size / 2**20, 2) for name, size in cost.parts.items()},
        "bytes_per_point": round(cost.bytes_per_point, 2),
    }
