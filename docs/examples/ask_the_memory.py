"""Asks a saved memory what is in view along a camera move, without drawing or decoding anything."""

from argparse import ArgumentParser
from pathlib import Path

import torch

import mirage_core as mirage
from mirage_core.cache.footprints import source_cameras
from mirage_core.cache.io import load_cache
from mirage_core.geometry.trajectory import intrinsics_from_fov

parser = ArgumentParser(description=__doc__)
parser.add_argument("memory", type=Path, help="of the other examples, or of Mirage Cache Save")
parser.add_argument("--move", default="orbit", help="of the camera that saw the first picture")
parser.add_argument("--amount", type=float, default=1.0)
parser.add_argument("--frames", type=int, default=33, help="4n + 1")
parser.add_argument("--size", type=int, nargs=2, default=(320, 192), help="width and height")
given = parser.parse_args()

memory, (width, height) = load_cache(given.memory), given.size
start = memory.blocks[0].world_to_camera[0].inverse()
lens = intrinsics_from_fov(width, height, 75)
view = {"intrinsics": lens, "width": width, "height": height, "scene_depth": 2.5, "start": start}
move = mirage.preset_trajectory(given.move, given.frames, amount=given.amount, **view)
shown = mirage.read(memory, move)

frames = torch.cat([block.frames for block in memory.blocks])
for number, visible in enumerate(shown.visible):
    known = f"{visible.float().mean():.0%} known"
    if visible.any():
        nearest = shown.depth[number][visible].min()
        seen = frames[source_cameras(memory, shown.winner[number][visible])].unique().tolist()
        known += f", nearest surface {nearest:.2f} away, seen in frames {seen}"
    print(f"frame {4 * number}: {known}")
