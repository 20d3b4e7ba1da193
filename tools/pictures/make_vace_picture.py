"""Make the thumbnail of the workflow mirage_vace: a picture, and what VACE is shown of it later.

Run it with ``python tools pictures.make_vace_picture`` after a change of how colours are drawn.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

from dev.comfy_server import PACK
from mirage_core.codecs.colours import ColourCodec
from mirage_core.codecs.memory_kind import memory_drawer
from mirage_core.conditioning.control_video import control_video
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid
from mirage_core.preview.render import render_preview
from mirage_core.rollout.memory import begin_memory
from mirage_core.scenes.scene import ProceduralScene
from mirage_core.trajectories.presets import preset_trajectory
from pictures.make_docs_images import SCENE_FOV, save, thumbnail
from workflows.build import FIRST_SHOT
from workflows.vace import SIZE, VACE


def shown() -> list[Tensor]:
    """The picture of a room, and the control frame at the turning point: (H, W, 3) uint8 each."""
    width, height = SIZE
    scene = ProceduralScene.from_seed(FIRST_SHOT[1].inputs["seed"])
    lens = intrinsics_from_fov(width, height, SCENE_FOV)
    start = scene.start_camera_to_world
    picture, depth = scene.render(
        Trajectory(invert_rigid(start[None]), lens[None], width, height)
    )
    codec = ColourCodec()
    geometry = FrameGeometry(depth, lens[None])
    memory = begin_memory(codec.encode_images(picture), geometry, codec.name)
    move: dict[str, Any] = {
        key: VACE[12].inputs[key] for key in ("preset", "amount", "there_and_back", "frames")
    }
    path = preset_trajectory(
        **move, intrinsics=lens, width=width, height=height, scene_depth=float(depth.median())
    )
    turn = path.select([len(path) // 2])
    drawn = render_preview(memory, turn, memory_drawer(memory.codec))
    told = control_video(drawn.frames, drawn.holes)
    return [(frame.clamp(0, 1) * 255).round().byte() for frame in (picture[0], told.frames[0])]


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args()
    with torch.inference_mode():
        save(thumbnail(shown()), PACK / "workflows" / "mirage_vace.jpg")


if __name__ == "__main__":
    main()
