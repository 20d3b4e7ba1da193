"""Whether a memory stays true: drift of scale, and moving things. Prints one JSON object.

Procedural rooms with exact depth stand in for the video; a stand-in for a depth estimator gives
every chunk another scale and every frame noise. The camera walks away, turns until its first
view is out of sight, and comes back to it.

Run from the folder that holds ``mirage_core``: ``python benchmarks/geometry.py --help``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from mirage_core.cache.build import make_block
from mirage_core.cache.types import CacheBlock, LatentCache
from mirage_core.codecs.dct import CODEC_NAME, DctCodec
from mirage_core.geometry.align import AlignConfig
from mirage_core.geometry.camera import PixelConvention
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.masks import mask_to_grid
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid, rotation_about
from mirage_core.readout.depth_pairs import depth_pairs
from mirage_core.readout.readout import grid_intrinsics, read_winners
from mirage_core.rollout.chunk_geometry import DYNAMIC
from mirage_core.rollout.memory import begin_memory
from mirage_core.rollout.prepare import PreparedObservation, prepare_observation
from mirage_core.rollout.settings import MemorySettings
from mirage_core.rollout.state import ChunkRecord, ChunkStatistics, RolloutState
from mirage_core.scenes.movers import MovingScene, add_movers
from mirage_core.scenes.scene import ProceduralScene
from mirage_core.writing.consistency import ConsistencyConfig
from mirage_core.writing.policy import write

WIDTH, HEIGHT = 320, 192
FIELD_OF_VIEW = 70.0
SCALE_ERROR = 0.10
NOISE = 0.02
BODY = 0.3
CODEC = DctCodec()


@dataclass(frozen=True)
class Size:
    """How large a study is."""

    width: int = WIDTH
    height: int = HEIGHT
    chunks: int = 20
    texture: int = 128


@dataclass(frozen=True, eq=False)
class Shot:
    """Exact frames of a shot with what an estimator says about their depth."""

    cameras: Trajectory
    frames: Tensor
    truth: Tensor
    moving: Tensor
    estimated: Callable[[int, slice], Tensor] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Run:
    """A memory after a whole shot, and what was said at every step."""

    state: RolloutState
    prepared: tuple[PreparedObservation, ...]


def there_and_back(scene: ProceduralScene, size: Size, turn: float, reach: float) -> Trajectory:
    """Walk along the longest free way up to ``reach`` metres while turning; then come back."""
    count = 32 * size.chunks + 1
    share = (1 - torch.cos(torch.linspace(0, 2 * torch.pi, count, dtype=torch.float64))) / 2
    start = scene.start_camera_to_world
    ways = [(0.0, torch.zeros(3, dtype=torch.float64))]
    for angle in torch.linspace(0, 2 * torch.pi, 17, dtype=torch.float64)[:-1]:
        way = torch.stack([angle.cos(), torch.zeros_like(angle), angle.sin()])
        steps = torch.linspace(0, reach, 21, dtype=torch.float64)[1:, None]
        free = scene.free(start[:3, 3] + steps * way, BODY).long().cumprod(0).sum()
        ways.append((float(free) / 20 * reach, way))
    length, way = max(ways, key=lambda pair: pair[0])
    poses = start.repeat(count, 1, 1)
    poses[:, :3, :3] = rotation_about("y", torch.deg2rad(turn * share)) @ start[:3, :3]
    poses[:, :3, 3] += share[:, None] * length * way
    lens = intrinsics_from_fov(size.width, size.height, FIELD_OF_VIEW).repeat(count, 1, 1)
    return Trajectory(invert_rigid(poses), lens, size.width, size.height)


def estimator(truth: Tensor, seed: int) -> Callable[[int, slice], Tensor]:
    """A depth source with another scale for each chunk and noise of each frame.

    Half the noise's variance is white, half is smooth over a sixth of the picture.
    """

    def estimate(chunk: int, frames: slice) -> Tensor:
        rng = torch.Generator().manual_seed(7919 * seed + chunk)
        scale = (SCALE_ERROR * torch.randn((), generator=rng)).exp()
        exact = truth[frames]
        white = torch.randn(exact.shape, generator=rng)
        coarse = torch.randn(len(exact), 1, 5, 7, generator=rng)
        smooth = F.interpolate(coarse, exact.shape[1:], mode="bicubic", align_corners=True)[:, 0]
        smooth = smooth / smooth.std(dim=(1, 2), keepdim=True)
        return exact * scale * (NOISE * (0.5**0.5) * (white + smooth)).exp()

    return estimate


def make_shot(scene: MovingScene, cameras: Trajectory, seed: int) -> Shot:
    """Render a shot; chunks of frames, since that is what fits in memory."""
    parts = [
        scene.render(cameras.select(slice(first, first + 64)), first)
        for first in range(0, len(cameras), 64)
    ]
    frames, truth, moving = (torch.cat(part) for part in zip(*parts, strict=True))
    return Shot(cameras, frames, truth, moving, estimator(truth, seed))


def begin(shot: Shot, exclude: Tensor | None) -> RolloutState:
    """The memory of the first picture, whose depth is exact."""
    tokens = CODEC.encode_images(shot.frames[:1])
    pose, lens = shot.cameras.world_to_camera[:1], shot.cameras.intrinsics[:1]
    geometry = FrameGeometry(shot.truth[:1], lens, pose, exclude=exclude)
    settings = MemorySettings(token_dtype=torch.float32)
    cache = begin_memory(tokens, geometry, CODEC_NAME, settings)
    return RolloutState(shot.cameras, cache, tokens, 0, "benchmark")


def roll(shot: Shot, settings: MemorySettings, policy: str, masks: bool = False) -> Run:
    """Put a whole shot into a memory, chunk by chunk."""
    state = begin(shot, shot.moving[:1] if masks else None)
    prepared = []
    while not state.complete:
        chunk = state.chunk
        seen = slice(chunk.first_frame, chunk.output_end)
        every = slice(chunk.first_frame, chunk.output_end, 4)
        frames = shot.frames[seen]
        latents = CODEC.encode_images(shot.frames[every])
        geometry = FrameGeometry(
            shot.estimated(chunk.index, every), shot.cameras.intrinsics[every]
        )
        ready = prepare_observation(
            state, latents, frames, geometry, settings,
            encode=CODEC.encode_images,
            masks={DYNAMIC: shot.moving[seen] if masks else None},
        )  # fmt: skip
        cache = write(state.cache, ready.observation, policy)
        blank = latents[:, 1:]
        known, _ = read_winners(cache, *_lens(state.latent_cameras, state.grid), state.grid)
        record = ChunkRecord(blank, blank, known[1:] >= 0)
        holes = 1 - float((known >= 0).float().mean())
        statistics_ = ChunkStatistics(chunk.index, holes, len(cache), cache.nbytes, 0.0, 1.0)
        state = state.advanced(record, cache, statistics_)
        prepared.append(ready)
    return Run(state, tuple(prepared))


def _lens(cameras: Trajectory, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    return cameras.world_to_camera, grid_intrinsics(cameras, grid)


def surface_error(cache: LatentCache, shot: Shot, frame: int, grid: tuple[int, int]) -> Tensor:
    """Log of remembered over true depth, of the cells of one view that the memory shows."""
    camera = shot.cameras.select([frame])
    pairs = depth_pairs(cache, shot.truth[[frame]], *_lens(camera, grid), grid)
    return (pairs.known / pairs.new).log()[pairs.counted]


def written_errors(run: Run, shot: Shot) -> list[float]:
    """Scale error of what each chunk brought: median of its depth over the true depth, less 1."""
    errors = []
    for ready in run.prepared:
        one = LatentCache((make_block(ready.observation, PixelConvention.PAPER),))
        parts = [
            surface_error(one, shot, frame, run.state.grid)
            for frame in ready.observation.frames.tolist()
        ]
        joined = torch.cat(parts)
        errors.append(float(joined.median().expm1()) if len(joined) else float("nan"))
    return errors


def drift_of(run: Run, shot: Shot) -> dict[str, float]:
    """How far the revisited first view has moved, as shares of depth."""
    remembered = surface_error(run.state.cache, shot, 0, run.state.grid)
    brought = written_errors(run, shot)
    return {
        "first_view_remembered": float(remembered.median().expm1()),
        "first_view_remembered_spread": float(remembered.abs().median().expm1()),
        "first_view_written_again": brought[-1],
        "worst_chunk": max((abs(e) for e in brought if e == e), default=float("nan")),
    }


def study_drift(
    seed: int,
    size: Size,
    turn: float = 110.0,
    policies: tuple[str, ...] = ("append", "novelty"),
) -> dict[str, tuple[Run, Shot, dict[str, float]]]:
    """One room, with and without alignment, under write policies."""
    room = ProceduralScene.from_seed(seed, texture_size=size.texture)
    cameras = there_and_back(room, size, turn, 1.5)
    shot = make_shot(MovingScene(room, ()), cameras, seed)
    results = {}
    for policy in policies:
        for name, mode in (("without", "none"), ("aligned", "scale")):
            run = roll(shot, MemorySettings(align=AlignConfig(mode)), policy)
            results[f"{policy}, {name}"] = run, shot, drift_of(run, shot)
    # Nothing moves here: whatever the check for consistency rejects, it rejects in error.
    run = roll(shot, MemorySettings(consistency=ConsistencyConfig()), "append")
    found = drift_of(run, shot) | {"held_back": _mean([p.report.rejected for p in run.prepared])}
    results["append, aligned, contradiction"] = run, shot, found
    return results


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def on_movers(block: CacheBlock, shot: Shot, grid: tuple[int, int]) -> Tensor:
    """(N,) bool: points that were lifted from a pixel which shows something that moves.

    Depth is sampled between the four pixels in the middle of a cell; one of them is enough.
    """
    middle = F.max_pool2d(shot.moving.float()[:, None], 2, stride=1)[:, 0] > 0
    step = shot.cameras.height // grid[0]
    middle = middle[:, step // 2 - 1 :: step, step // 2 - 1 :: step]
    points = torch.cat([block.points, torch.ones(len(block), 1)], dim=1).double()
    source = block.source.long()
    local = (block.world_to_camera[source] @ points[..., None])[:, :3]
    pixel = (block.intrinsics[source] @ local)[..., 0]
    column, row = ((pixel[:, axis] / pixel[:, 2]).floor().long() for axis in (0, 1))
    return middle[block.frames[source], row.clamp(0, grid[0] - 1), column.clamp(0, grid[1] - 1)]


def movers_of(run: Run, shot: Shot) -> dict[str, float]:
    """Share of the memory that lies on moving things, and what the filter cost."""
    state = run.state
    grid = state.grid
    hits = torch.cat([on_movers(block, shot, grid) for block in state.cache.blocks])
    cameras = shot.cameras.select(slice(0, None, 4))
    winner, _ = read_winners(state.cache, *_lens(cameras, grid), grid)
    still = ~mask_to_grid(shot.moving[::4], grid, len(cameras), [tuple(shot.moving.shape[1:])])
    held = torch.cat([ready.rejected for ready in run.prepared])
    return {
        "points": len(hits),
        "share_on_movers": float(hits.float().mean()),
        "hole_rate": 1 - float((winner >= 0).float().mean()),
        "hole_rate_still_cells": 1 - float((winner >= 0)[still].float().mean()),
        "held_back_still_cells": float(held[still[1:]].float().mean()),
    }


FILTERS: dict[str, tuple[bool, ConsistencyConfig | None]] = {
    "no filter": (False, None),
    "masks": (True, None),
    "contradiction": (False, ConsistencyConfig()),
    "both": (True, ConsistencyConfig()),
}


def study_movers(
    seed: int,
    size: Size,
    movers: int = 3,
    turn: float = 25.0,
    filters: tuple[str, ...] = tuple(FILTERS),
) -> dict[str, tuple[Run, Shot, dict[str, float]]]:
    """One room with things that move, under filters; policy append."""
    room = ProceduralScene.from_seed(seed, texture_size=size.texture)
    cameras = there_and_back(room, size, turn, 0.6)
    shot = make_shot(add_movers(room, seed, movers, cameras), cameras, seed)
    results = {}
    for name in filters:
        masks, consistency = FILTERS[name]
        run = roll(shot, MemorySettings(consistency=consistency), "append", masks)
        results[name] = run, shot, movers_of(run, shot)
    return results


CHART = (880, 300)
RED, BLUE, GREY, INK = (200, 70, 50), (40, 100, 190), (205, 205, 200), (40, 40, 40)
HELD, MASKED = (240, 130, 30), (60, 170, 90)


def chart(lines: dict[str, list[list[float]]]) -> Image.Image:
    """Scale error of what each chunk brought, without and with alignment, for every room."""
    width, height = CHART
    left, top, right, bottom = 60, 30, width - 20, height - 34
    picture = Image.new("RGB", CHART, (252, 252, 250))
    draw = ImageDraw.Draw(picture)
    most = 0.3

    def place(chunk: int, error: float, count: int) -> tuple[float, float]:
        share = (max(-most, min(most, error)) + most) / (2 * most)
        return left + (right - left) * chunk / (count - 1), bottom - (bottom - top) * share

    for tick in (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3):
        _, y = place(0, tick, 2)
        draw.line([(left, y), (right, y)], fill=GREY)
        draw.text((10, y - 6), f"{tick:+.0%}", fill=INK)
    for colour, name in ((RED, "without"), (BLUE, "aligned")):
        for errors in lines[name]:
            points = [place(k, e, len(errors)) for k, e in enumerate(errors) if e == e]
            draw.line(points, fill=colour, width=2)
    draw.text((left, 8), "depth error of each chunk:", fill=INK)
    draw.text((left + 170, 8), "as estimated", fill=RED)
    draw.text((left + 260, 8), "aligned to the memory", fill=BLUE)
    draw.text((left, height - 24), "chunk 1", fill=INK)
    draw.text((right - 50, height - 24), f"chunk {len(lines['aligned'][0])}", fill=INK)
    return picture


def overlay(picture: Tensor, cells: Tensor, colour: tuple[int, int, int]) -> Image.Image:
    """A frame (H, W, 3) whose cells (h, w) are tinted."""
    step = picture.shape[0] // cells.shape[0]
    tint = cells.repeat_interleave(step, 0).repeat_interleave(step, 1)[..., None]
    mixed = torch.where(tint, 0.4 * picture + 0.6 * torch.tensor(colour) / 255, picture)
    return Image.fromarray((mixed * 255).round().to(torch.uint8).numpy())


def strip(held: Run, masked: Run, shot: Shot) -> Image.Image:
    """One frame: as it is, what the contradiction test holds back, what masks keep out."""
    held_cells = torch.cat([p.held_back for p in held.prepared])
    masked_cells = torch.cat([p.excluded for p in masked.prepared])
    best = int(held_cells.flatten(1).sum(1).argmax())
    frame = shot.frames[4 * (best + 1)]
    tiles = [
        overlay(frame, torch.zeros_like(held_cells[best]), HELD),
        overlay(frame, held_cells[best], HELD),
        overlay(frame, masked_cells[best], MASKED),
    ]
    wide = (CHART[0] - 8) // 3
    size = (wide, round(wide * frame.shape[0] / frame.shape[1]))
    result = Image.new("RGB", (CHART[0], size[1]), (252, 252, 250))
    for number, tile in enumerate(tiles):
        result.paste(tile.resize(size, Image.Resampling.LANCZOS), (number * (wide + 4), 0))
    return result


def cpu_name() -> str:
    """Model of the processor as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def summary(rooms: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Median and worst of every number over the rooms, by the size of the number."""
    result: dict[str, dict[str, dict[str, float]]] = {}
    for name in rooms[0]:
        keys = rooms[0][name]
        result[name] = {
            key: {
                "median": round(statistics.median(abs(room[name][key]) for room in rooms), 5),
                "worst": round(max(abs(room[name][key]) for room in rooms), 5),
            }
            for key in keys
        }
    return result


def _rounded(results: dict[str, tuple[Run, Shot, dict[str, float]]]) -> dict[str, dict]:
    return {
        name: {key: round(value, 5) for key, value in found.items()}
        for name, (_, _, found) in results.items()
    }


def main() -> None:
    """Parse the command line, measure, write JSON to standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rooms", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--picture", type=Path, help="where to save the picture of the results")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    started = time.perf_counter()
    drift_size, movers_size = Size(), Size(480, 288, 10)
    drifts, movers = [], []
    lines: dict[str, list[list[float]]] = {"without": [], "aligned": []}
    shown = None
    for seed in range(arguments.rooms):
        found = study_drift(seed, drift_size)
        drifts.append(_rounded(found))
        for name in lines:
            run, shot, _ = found[f"append, {name}"]
            lines[name].append(written_errors(run, shot))
        found = study_movers(seed, movers_size)
        movers.append(_rounded(found))
        shown = shown or strip(found["contradiction"][0], found["masks"][0], found["masks"][1])
    report = {
        "machine": cpu_name(),
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": arguments.threads,
        "seconds": round(time.perf_counter() - started, 1),
        "scale_error_per_chunk": SCALE_ERROR,
        "noise": NOISE,
        "drift": {
            "size": [drift_size.width, drift_size.height],
            "chunks": drift_size.chunks,
            "summary": summary(drifts),
            "rooms": drifts,
        },
        "movers": {
            "size": [movers_size.width, movers_size.height],
            "chunks": movers_size.chunks,
            "summary": summary(movers),
            "rooms": movers,
        },
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    if arguments.picture is not None and shown is not None:
        upper = chart(lines)
        whole = Image.new("RGB", (CHART[0], upper.height + 8 + shown.height), (252, 252, 250))
        whole.paste(upper, (0, 0))
        whole.paste(shown, (0, upper.height + 8))
        arguments.picture.parent.mkdir(parents=True, exist_ok=True)
        whole.save(arguments.picture, quality=88)


if __name__ == "__main__":
    main()
