"""Make thumbnails of shots from a picture: above it, below its depth or what a model is shown.

Run it with ``python tools pictures.make_public_pictures`` after a change of how memories are drawn.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dev.comfy_server import PACK
from mirage_core.cache.types import LatentCache
from mirage_core.codecs.base import LatentCodec
from mirage_core.codecs.colours import ColourCodec
from mirage_core.codecs.dct import DctCodec
from mirage_core.codecs.memory_kind import memory_drawer
from mirage_core.conditioning.control_video import control_video
from mirage_core.geometry.depth_view import depth_view
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid
from mirage_core.preview.render import render_preview
from mirage_core.readout.discs import render_discs
from mirage_core.readout.readout import read
from mirage_core.rollout.memory import begin_memory
from mirage_core.rollout.spatia import whole_memory
from mirage_core.scenes.scene import ProceduralScene
from mirage_core.trajectories.presets import preset_trajectory
from pictures.make_docs_images import SCENE_FOV, thumbnail
from workflows import inpaint, spatia, vace
from workflows.build import FIRST_SHOT
from workflows.writer import Node

SIDE, QUALITY = 320, 72
GREY = 0.5


@dataclass(frozen=True)
class Shown:
    """A room, and the camera at the turning point of a shot's move."""

    nodes: dict[int, Node]

    @cached_property
    def size(self) -> tuple[int, int]:
        scaled = self.nodes[9].inputs
        return scaled["width"], scaled["height"]

    @cached_property
    def lens(self) -> Tensor:
        return intrinsics_from_fov(*self.size, SCENE_FOV)

    @cached_property
    def picture_and_depth(self) -> tuple[Tensor, Tensor]:
        scene = ProceduralScene.from_seed(FIRST_SHOT[1].inputs["seed"])
        start = invert_rigid(scene.start_camera_to_world[None])
        return scene.render(Trajectory(start, self.lens[None], *self.size))

    @cached_property
    def turn(self) -> Trajectory:
        width, height = self.size
        move: dict[str, Any] = {
            key: self.nodes[12].inputs[key]
            for key in ("preset", "amount", "there_and_back", "frames")
        }
        path = preset_trajectory(
            **move, intrinsics=self.lens, width=width, height=height,
            scene_depth=float(self.picture_and_depth[1].median()),
        )  # fmt: skip
        return path.select([len(path) // 2])

    def memory(self, codec: LatentCodec) -> LatentCache:
        picture, depth = self.picture_and_depth
        geometry = FrameGeometry(depth, self.lens[None])
        return begin_memory(codec.encode_images(picture), geometry, codec.name)


def of_vace(shown: Shown) -> Tensor:
    """The control frame, grey where nothing is known."""
    memory = shown.memory(ColourCodec())
    drawn = render_preview(memory, shown.turn, memory_drawer(memory.codec))
    return control_video(drawn.frames, drawn.holes).frames[0]


def of_spatia(shown: Shown) -> Tensor:
    """The memory as discs, black where nothing is known."""
    cloud = whole_memory(shown.memory(ColourCodec()))
    return render_discs(cloud.points, cloud.colours, shown.turn).frames[0]


def of_inpaint(shown: Shown) -> Tensor:
    """The memory in whole cells, grey where nothing is known."""
    memory = shown.memory(DctCodec())
    drawn = render_preview(memory, shown.turn, DctCodec()).frames[0]
    known = read(memory, shown.turn).visible[0]
    step = drawn.shape[0] // known.shape[0]
    seen = known.repeat_interleave(step, 0).repeat_interleave(step, 1)
    return torch.where(seen[..., None], drawn, GREY)


def of_picture(shown: Shown) -> Tensor:
    """Depth in colours."""
    return depth_view(FrameGeometry(shown.picture_and_depth[1], shown.lens[None]))


SHOTS = {
    "your_picture": (vace.VACE, of_picture),
    "vace": (vace.VACE, of_vace),
    "spatia": (spatia.SPATIA, of_spatia),
    "fun_inpaint": (inpaint.FUN_INPAINT, of_inpaint),
}


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args()
    for name, (nodes, draw) in SHOTS.items():
        shown = Shown(nodes)
        with torch.inference_mode():
            frames = [shown.picture_and_depth[0][0], draw(shown)]
        whole = thumbnail([(frame.clamp(0, 1) * 255).round().byte() for frame in frames])
        small = whole.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        path = PACK / "workflows" / f"mirage_{name}.jpg"
        small.save(path, quality=QUALITY, optimize=True)
        print(f"wrote {path} ({path.stat().st_size // 1024} KB)")


if __name__ == "__main__":
    main()
