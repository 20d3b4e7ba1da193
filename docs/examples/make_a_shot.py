"""Makes a shot through a procedural room with the small model that comes with the pack.

Depth of new frames is the room's own. With pictures of other things a depth model estimates it.
"""

from argparse import ArgumentParser
from pathlib import Path

from PIL import Image

import mirage_core as mirage
from mirage_core.cache.io import save_cache
from mirage_core.models.bundled import SHIFT, STEPS, empty_text, load_embedded_transformer
from mirage_core.rollout.denoisers import TransformerDenoisers, projection_source
from mirage_core.rollout.depth_source import KnownDepth
from mirage_core.rollout.models import GenerationModels
from mirage_core.rollout.report import review
from mirage_core.rollout.video import to_bytes

parser = ArgumentParser(description=__doc__)
parser.add_argument("--size", type=int, nargs=2, default=(320, 192), help="width and height")
parser.add_argument("--frames", type=int, default=97, help="4n + 1")
parser.add_argument("--out", type=Path, default=Path("shot"), help="a folder")
given = parser.parse_args()
room, (width, height) = mirage.ProceduralScene.from_seed(16, texture_size=256), given.size
picture, first = room.picture(width, height)
view = {"intrinsics": first.intrinsics[0], "width": width, "height": height, "scene_depth": 2.5}
path = {"there_and_back": True, "start": room.start_camera_to_world}
move = mirage.preset_trajectory("orbit", given.frames, **view, **path)
geometry = mirage.FrameGeometry(room.render(move)[1], move.intrinsics, move.world_to_camera)
codec, model = mirage.DctCodec(), load_embedded_transformer()
painter, shown = TransformerDenoisers(model, empty_text()), projection_source(model, codec)
models = GenerationModels(codec, painter, KnownDepth(geometry), projection=shown)
settings = mirage.GenerationSettings(steps=STEPS, shift=SHIFT, method="euler", references=0)
state = mirage.begin(picture, geometry, move, codec, settings=settings, folder=given.out)
state = mirage.generate(state, models, settings, lambda at: print(at.chunk, at.stage, at.step))
save_cache(given.out / "memory.safetensors", state.cache)
found = review(state, given.out / "video.mp4")
print(found.report)
Image.fromarray(to_bytes(found.contact_sheet).numpy()).save(given.out / "sheet.png")
