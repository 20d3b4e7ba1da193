"""What the masks of Algorithm 1 are worth: shots through rooms in which things move, on and off.

Exact masks lie in files and go into the loop as ``mirage rollout --masks folder`` takes them: for
the picture, for the chunks, or for both. The memory is then drawn at cameras of the shot and held
against the same room with nothing in it that moves. Prints one JSON object.

Run from the folder that holds ``mirage_core``: ``python benchmarks/masks.py --help``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from geometry import CODEC, Shot, Size, cpu_name, make_shot, on_movers, there_and_back
from PIL import Image
from torch import Tensor

from mirage_core.codecs.dct import CODEC_NAME
from mirage_core.constants import TEMPORAL_STRIDE
from mirage_core.geometry.align import AlignConfig
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.masks.folder import find_masks
from mirage_core.preview.render import render_preview
from mirage_core.rollout.chunk_geometry import masks_of
from mirage_core.rollout.mask_source import ProvidedMasks
from mirage_core.rollout.memory import begin_memory, write_chunk
from mirage_core.rollout.settings import MemorySettings
from mirage_core.rollout.state import ChunkRecord, ChunkStatistics, RolloutState
from mirage_core.scenes.movers import add_movers
from mirage_core.scenes.scene import ProceduralScene
from mirage_core.writing.consistency import ConsistencyConfig

WAYS = {
    "off": (False, False),
    "picture": (True, False),
    "chunks": (False, True),
    "picture and chunks": (True, True),
}
"""Where masks go: lines 3 and 15 of Algorithm 1."""

HELD = {"": None, ", hold_back": ConsistencyConfig()}
DRAWN = 17
"""Frames that are drawn; depth, which says what is known, is drawn of every fourth."""
MOVERS = 3


def save_masks(folder: Path, moving: Tensor) -> Path:
    """One picture for every frame, white where something moves."""
    folder.mkdir(parents=True)
    for number, mask in enumerate(moving):
        Image.fromarray(mask.numpy().astype("uint8") * 255).save(folder / f"{number:04d}.png")
    return folder


def roll(
    shot: Shot, masks: ProvidedMasks, way: tuple[bool, bool], held: ConsistencyConfig | None
) -> RolloutState:
    """Put a whole shot into a memory, chunk by chunk."""
    picture, chunks = way
    settings = MemorySettings(align=AlignConfig(), consistency=held)
    geometry = FrameGeometry(
        shot.truth[:1], shot.cameras.intrinsics[:1], shot.cameras.world_to_camera[:1]
    )
    if picture:
        geometry = masks.of_picture(shot.frames[0], geometry)
    tokens = CODEC.encode_images(shot.frames[:1])
    cache = begin_memory(tokens, geometry, CODEC_NAME, settings)
    state = RolloutState(shot.cameras, cache, tokens, 0, "benchmark")
    while not state.complete:
        chunk = state.chunk
        numbers = range(chunk.first_frame, chunk.output_end)
        frames = shot.frames[chunk.first_frame : chunk.output_end]
        every = slice(chunk.first_frame, chunk.output_end, 4)
        latents = CODEC.encode_images(shot.frames[every])
        seen = FrameGeometry(shot.estimated(chunk.index, every), shot.cameras.intrinsics[every])
        written = write_chunk(
            state, latents, frames, seen, settings, encode=CODEC.encode_images,
            masks=masks_of(masks(frames, state.frame_cameras, numbers)) if chunks else None,
        )  # fmt: skip
        blank = latents[:, 1:]
        record = ChunkRecord(blank, blank, torch.ones(blank.shape[1:], dtype=torch.bool))
        size = len(written.cache)
        told = ChunkStatistics(chunk.index, 0.0, size, written.cache.nbytes, 0.0, 1.0)
        state = state.advanced(record, written.cache, told)
    return state


def judge(state: RolloutState, shot: Shot, room: ProceduralScene) -> dict[str, float]:
    """The finished memory against the room with nothing in it that moves."""
    spread = torch.linspace(0, len(shot.cameras) - 1, DRAWN).round().long().tolist()
    cameras = shot.cameras.select(spread)
    drawn = render_preview(state.cache, cameras, CODEC)
    empty, _ = room.render(cameras.select(slice(0, None, TEMPORAL_STRIDE)))
    known = drawn.depth > 0
    error = ((drawn.frames[::TEMPORAL_STRIDE] - empty) ** 2).mean(dim=-1)
    ghosts = torch.cat([on_movers(block, shot, state.grid) for block in state.cache.blocks])
    return {
        "psnr": float(-10 * torch.log10(error[known].mean())),
        "on_movers": float(ghosts.float().mean()),
        "holes": 1 - float(known.float().mean()),
    }


def study(seed: int, size: Size) -> dict[str, dict[str, float]]:
    """One room, all ways."""
    room = ProceduralScene.from_seed(seed, texture_size=size.texture)
    cameras = there_and_back(room, size, 25.0, 0.6)
    shot = make_shot(add_movers(room, seed, MOVERS, cameras), cameras, seed)
    with tempfile.TemporaryDirectory() as place:
        files = find_masks(save_masks(Path(place) / "masks", shot.moving))
        files.expect_shot(len(cameras), cameras.width, cameras.height)
        masks = ProvidedMasks(files)
        return {
            f"{way}{held}": judge(roll(shot, masks, WAYS[way], HELD[held]), shot, room)
            for held in HELD
            for way in WAYS
        }


def summary(rooms: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Means over the rooms, and in how many of them a way is better than none."""
    rows = {}
    for name in rooms[0]:
        off = name.replace(name.partition(",")[0], "off", 1)
        rows[name] = {
            key: round(statistics.mean(room[name][key] for room in rooms), 4)
            for key in rooms[0][name]
        } | {"better_rooms": sum(room[name]["psnr"] > room[off]["psnr"] for room in rooms)}
    return rows


def main() -> None:
    """Parse the command line, measure, write JSON to standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rooms", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    started, size = time.perf_counter(), Size(256, 160, 3)
    rooms = [study(seed, size) for seed in range(arguments.rooms)]
    report = {
        "machine": cpu_name(),
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": arguments.threads,
        "seconds": round(time.perf_counter() - started, 1),
        "size": [size.width, size.height],
        "frames": 32 * size.chunks + 1,
        "movers": MOVERS,
        "summary": summary(rooms),
        "rooms": [
            {way: {k: round(v, 4) for k, v in found.items()} for way, found in room.items()}
            for room in rooms
        ],
    }
    json.dump(report, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
