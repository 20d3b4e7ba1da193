"""Shows what the memory of one picture knows of a camera move; invents and downloads nothing."""

from argparse import ArgumentParser
from pathlib import Path

import torch
from PIL import Image

import mirage_core as mirage
from mirage_core.cache.io import save_cache
from mirage_core.cli.inputs import load_depth_picture, load_picture
from mirage_core.rollout.video import to_bytes, write_clip

parser = ArgumentParser(description=__doc__)
parser.add_argument("--picture", type=Path, nargs=2, help="a picture, and its depth: near is white")
parser.add_argument("--range", type=float, nargs=2, default=(1, 20), help="of the depth picture")
parser.add_argument("--size", type=int, nargs=2, default=(320, 192), help="width and height")
parser.add_argument("--move", default="orbit", help="a preset, from the picture's camera on")
parser.add_argument("--frames", type=int, default=33, help="4n + 1")
parser.add_argument("--out", type=Path, default=Path("preview"), help="a folder")
given = parser.parse_args()

(width, height), codec = given.size, mirage.DctCodec()
if given.picture:
    picture = load_picture(given.picture[0], (width, height))
    geometry = load_depth_picture(given.picture[1], "near-white", *given.range, fov=75)
else:
    room = mirage.ProceduralScene.from_seed(16, texture_size=256)
    picture, geometry = room.picture(width, height)
lens, depth = geometry.intrinsics_for((height, width))[0], geometry.typical_depth()
view = {"intrinsics": lens, "width": width, "height": height, "scene_depth": depth}
move = mirage.preset_trajectory(given.move, given.frames, **view)
memory = mirage.begin_memory(codec.encode_images(picture[None]), geometry, codec.name)
print(f"{len(memory)} points, {mirage.read(memory, move).hole_rate:.1%} of the cells unseen")
frames = mirage.render_preview(memory, move, codec).frames
write_clip(given.out / "preview.mp4", frames, move.fps)
save_cache(given.out / "memory.safetensors", memory)
Image.fromarray(to_bytes(torch.cat([*frames[::16]], 1)).numpy()).save(given.out / "preview.png")
