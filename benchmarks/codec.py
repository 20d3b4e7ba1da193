"""Tokens against colours by two codecs: the embedded transform, and a small one that was learned.

A memory of every eighth frame of a held-out room is drawn half way between, with no video model:
the shipped one reads the transform's tokens alone. What was drawn of colours goes through the
codec, as a video model would see it. Prints one JSON object; ``python benchmarks/codec.py --help``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Final

import _small_codec as small
import torch
from readout_cpu import processor
from torch import Tensor

from mirage_core.cache.build import observe
from mirage_core.cache.types import LatentCache
from mirage_core.codecs.colours import ColourCodec
from mirage_core.codecs.dct import DctCodec
from mirage_core.evaluation.report import this_machine
from mirage_core.evaluation.rgbd import Views
from mirage_core.evaluation.rooms import Rooms
from mirage_core.evaluation.statistics import estimate
from mirage_core.geometry.camera import latent_size
from mirage_core.metrics import psnr
from mirage_core.preview.fill import fill_holes
from mirage_core.preview.render import render_preview
from mirage_core.readout.readout import grid_intrinsics, read_winners
from mirage_core.training.data.build_clip import DepthNoise
from mirage_core.writing.policy import write

SIZE: Final = (320, 192)
FRAMES: Final = 41
EVERY: Final = 8
Codec = DctCodec | small.SmallCodec
COLOURS: Final = {
    "colours, a point for each pixel": 1,
    "colours, 16 points for a cell": 4,
    "colours, one point for a cell": 16,
}
"""Rows, and pixels along each side of a colour."""


def remembered(seen: Views, codec: Codec | ColourCodec) -> LatentCache:
    """A memory of views, written together."""
    tokens = torch.cat([codec.encode_images(frame[None]) for frame in seen.frames], dim=1)
    observation = observe(
        tokens, seen.geometry, world_to_camera=seen.cameras.world_to_camera,
        frames=EVERY * torch.arange(len(seen)), allow_empty=True,
    )  # fmt: skip
    return write(LatentCache(codec=codec.name, channels=codec.channels), observation, "novelty")


def whole_cells(cache: LatentCache, one: Views, codec: Codec) -> Tensor:
    """(1, H, W, 3): the memory's tokens in whole cells, holes filled, decoded together."""
    size = latent_size(one.cameras.width, one.cameras.height)
    lens = grid_intrinsics(one.cameras, size)
    winner, _ = read_winners(cache, one.cameras.world_to_camera, lens, size, view=None)
    tokens = cache.gather(winner, [block.tokens for block in cache.blocks]).float()
    return codec.decode_images(fill_holes(tokens.movedim(-1, 0), winner >= 0))


def judged(room: Views, codecs: dict[str, Codec]) -> dict[str, dict[str, float]]:
    """Mean PSNR in dB of all pixels, by codec and by what is remembered."""
    written = room.select(list(range(0, len(room), EVERY)))
    held = room.select(list(range(EVERY // 2, len(room), EVERY)))
    colours = {name: remembered(written, ColourCodec(step)) for name, step in COLOURS.items()}
    drawn = {
        name: render_preview(cache, held.cameras, ColourCodec.named(cache.codec), view=None).frames
        for name, cache in colours.items()
    }
    found: dict[str, dict[str, float]] = {}
    for name, codec in codecs.items():
        cache = remembered(written, codec)
        cells = [
            whole_cells(cache, held.select([number]), codec) for number in range(len(held))
        ]
        shown = {
            "tokens, whole cells": torch.cat(cells),
            "tokens, drawn": _through(
                codec, render_preview(cache, held.cameras, codec, view=None).frames
            ),
            **{row: _through(codec, frames) for row, frames in drawn.items()},
            "the codec alone": _through(codec, held.frames),
        }
        found[name] = {
            row: sum(map(psnr, frames, held.frames)) / len(held) for row, frames in shown.items()
        }
    return found


def _through(codec: Codec, frames: Tensor) -> Tensor:
    return codec.decode_images(codec.encode_images(frames))


def table(rooms: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Means by codec and row, and differences to drawn tokens, paired by room."""
    found: dict[str, Any] = {}
    for codec in rooms[0]:
        found[codec] = {}
        for row in rooms[0][codec]:
            values = [room[codec][row] for room in rooms]
            own = [room[codec]["tokens, drawn"] for room in rooms]
            gaps = [value - other for value, other in zip(values, own, strict=True)]
            gap = estimate(gaps)
            found[codec][row] = {
                "psnr": estimate(values).mean,
                "to tokens, drawn": [gap.mean, gap.low, gap.high],
                "ahead in": sum(gap > 0 for gap in gaps),
            }
    return found


def main() -> None:
    """Train what is missing, judge, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=Path("out/small_codec.safetensors"))
    parser.add_argument("--steps", type=int, default=1500, help="of the training, where needed")
    parser.add_argument("--training-rooms", type=int, default=40)
    parser.add_argument("--rooms", type=int, default=20, help="that are judged")
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument(
        "--depth-noise", type=float, nargs=2, default=(0.02, 0.01), metavar=("SMOOTH", "WHITE")
    )
    given = parser.parse_args()
    started = time.process_time()
    if not given.weights.is_file():
        first = small.TRAINING_ROOM + 1000 * given.seed
        pictures = small.pictures_of(range(first, first + given.training_rooms), SIZE)

        def told(step: int, loss: float) -> None:
            if step % 100 == 0:
                sys.stderr.write(f"step {step} of {given.steps}, loss {loss:.4f}\n")

        small.save(small.train(pictures, given.steps, given.seed, told), given.weights)
    codecs: dict[str, Codec] = {"transform": DctCodec(), "learned": small.load(given.weights)}
    source = Rooms(given.rooms, FRAMES, *SIZE, noise=DepthNoise(*given.depth_noise))
    rooms = []
    for item in source.items():
        rooms.append(judged(source.views(item), codecs))
        sys.stderr.write(f"{item}: {rooms[-1]}\n")
    about = {"processor": processor(), "cpu seconds": round(time.process_time() - started)}
    settings = {name: str(value) for name, value in vars(given).items() if name != "weights"}
    document = {"settings": settings, "rows": table(rooms), "machine": {**this_machine(), **about}}
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
