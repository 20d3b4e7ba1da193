"""The chunk loop with what needs no download: read, draw the preview, write back, save."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from mirage_core.codecs.dct import CODEC_NAME, DctCodec
from mirage_core.constants import TEMPORAL_STRIDE
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.preview.fill import complete_depth, fill_readout, uncertain_pixels
from mirage_core.preview.render import render_preview
from mirage_core.readout.readout import Readout, grid_intrinsics, read
from mirage_core.rollout.memory import begin_memory, write_chunk
from mirage_core.rollout.run_folder import commit
from mirage_core.rollout.settings import MemorySettings
from mirage_core.rollout.state import RolloutState, rollout_id
from mirage_core.scenes.scene import ProceduralScene
from mirage_core.trajectories.presets import preset_trajectory
from mirage_core.writing.policy import WriteRules

CODEC = DctCodec()


@dataclass(frozen=True, eq=False)
class Made:
    """A chunk's frames (4T - 3, H, W, 3) with depth (T, H, W) and what of it is not sure."""

    readout: Readout
    frames: torch.Tensor
    depth: torch.Tensor
    uncertain: torch.Tensor | None = None


def begin(
    scene: ProceduralScene,
    cameras: Trajectory,
    folder: Path | None = None,
    storage: torch.dtype = torch.float16,
) -> RolloutState:
    """The state before the first chunk: the memory of the first camera's picture."""
    picture, depth = scene.render(cameras.select([0]))
    tokens = CODEC.encode_images(picture)
    geometry = FrameGeometry(depth, cameras.intrinsics[:1], cameras.world_to_camera[:1])
    cache = begin_memory(tokens, geometry, CODEC_NAME, MemorySettings(token_dtype=storage))
    run_id = rollout_id(cameras, cache, tokens, scene.seed, "preview")
    return RolloutState(cameras, cache, tokens, scene.seed, run_id, folder)


def previewed(state: RolloutState) -> Made:
    """The chunk as the preview draws it: what the memory knows, and nothing more."""
    readout = read(state.cache, state.frame_cameras)
    _, depth = fill_readout(readout)
    preview = render_preview(readout.cache, readout.trajectory, CODEC)
    whole = complete_depth(preview.depth, depth)
    uncertain = uncertain_pixels(preview.depth, CODEC.spatial_stride, readout.visible)
    return Made(readout, preview.frames, whole, uncertain)


def rendered(scene: ProceduralScene, state: RolloutState) -> Made:
    """The chunk as it truly looks: stands for a model that completes what is not known yet."""
    readout = read(state.cache, state.frame_cameras)
    frames, depth = scene.render(state.frame_cameras)
    return Made(readout, frames, depth[::TEMPORAL_STRIDE])


def advance(state: RolloutState, made: Made, rules: WriteRules | None = None) -> RolloutState:
    """Write a chunk back and save it; returns the state after it."""
    latents = torch.cat([state.overlap_latent, CODEC.encode(made.frames)[:, 1:]], dim=1)
    cameras = made.readout.latent_cameras
    size = (int(made.depth.shape[1]), int(made.depth.shape[2]))
    geometry = FrameGeometry(
        made.depth,
        grid_intrinsics(cameras, size),
        cameras.world_to_camera,
        exclude=made.uncertain,
    )
    settings = MemorySettings(rules=rules or WriteRules(), align=None)
    written = write_chunk(
        state, latents, made.frames, geometry, settings, encode=CODEC.encode_images
    )
    return commit(
        state, latents=latents, frames=made.frames, readout=made.readout, cache=written.cache
    )


def figure_eight(scene: ProceduralScene, frames: int, width: int, height: int) -> Trajectory:
    """A slow figure eight in front of the room's start view, over and over."""
    lens = intrinsics_from_fov(width, height, 70.0)
    lap = preset_trajectory(
        "lemniscate", 129, intrinsics=lens, width=width, height=height, scene_depth=3.0,
        start=scene.start_camera_to_world,
    )  # fmt: skip
    return lap.select([frame % 128 for frame in range(frames)])
