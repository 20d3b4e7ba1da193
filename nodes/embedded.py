"""Nodes that need no download: a codec without weights, and procedural scenes."""

from __future__ import annotations

import dataclasses

import torch
from comfy_api.latest import io
from typing_extensions import override

from ..mirage_core.actors.tracks import Tracks
from ..mirage_core.constants import DEFAULT_FPS, SIZE_MULTIPLE
from ..mirage_core.geometry.frame_geometry import FrameGeometry
from ..mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from ..mirage_core.geometry.transform import invert_rigid
from ..mirage_core.models.bundled import branch_path, empty_text, model_path
from ..mirage_core.scenes.movers import COLOURS, add_movers
from ..mirage_core.scenes.shots import shot_renderer
from ..mirage_core.validate import expect_frame_size, expect_range
from .comfy.model import branch_from_file, embedded_video_model
from .comfy.ui import progress
from .comfy.vae import DctVAE
from .types import BranchType, GeometryType, TracksType, TrajectoryType


class MirageEmbeddedCodec(io.ComfyNode):
    """A VAE with the latent geometry of Wan2.2 and no weights."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageEmbeddedCodec",
            display_name="Mirage Embedded Codec",
            category="Mirage/embedded",
            description=(
                "A VAE that needs no download: 48 channels and strides 16 and 4, like the Wan2.2 "
                "VAE. It is a linear transform, so fine detail is softened. Replace it by Load "
                "VAE with wan2.2_vae.safetensors to use the real model."
            ),
            search_aliases=["vae", "demo vae", "codec without weights"],
            inputs=[],
            outputs=[io.Vae.Output(display_name="VAE")],
        )

    @classmethod
    @override
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(DctVAE())


class MirageEmbeddedModel(io.ComfyNode):
    """The small video model that ships, with all that goes with it."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageEmbeddedModel",
            display_name="Mirage Embedded Model",
            category="Mirage/embedded",
            description=(
                "A small video model with Wan2.2's architecture, its side branch, codec and empty "
                "prompt: everything that sampling needs, without a download. It was trained on "
                "procedural rooms only, and its pictures are soft. Replace it by Load Diffusion "
                "Model, Mirage Load Branch, Load VAE and CLIP Text Encode to use the real model."
            ),
            search_aliases=["demo model", "small model", "no download", "load model"],
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model"),
                io.Vae.Output(display_name="VAE"),
                io.Conditioning.Output(
                    display_name="conditioning",
                    tooltip="The empty prompt, for positive and negative: the model ignores text.",
                ),
                BranchType.Output(display_name="branch"),
            ],
        )

    @classmethod
    @override
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(
            embedded_video_model(model_path()),
            DctVAE(),
            [[empty_text(), {}]],
            branch_from_file(branch_path()),
        )


class MirageEmbeddedScene(io.ComfyNode):
    """A procedural picture with its exact depth."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageEmbeddedScene",
            display_name="Mirage Embedded Scene",
            category="Mirage/embedded",
            description=(
                "A picture of a procedural room with its exact depth and field of view, to try "
                "camera moves without a picture or a depth model."
            ),
            search_aliases=["sample picture", "test scene", "demo room", "procedural"],
            inputs=[
                io.Int.Input(
                    "seed", default=16, min=0, max=2**31 - 1, control_after_generate=True,
                    tooltip="Seed of the room.",
                ),
                io.Int.Input(
                    "width", default=640, min=64, max=4096, step=SIZE_MULTIPLE,
                    tooltip="Picture width in pixels, a multiple of 32.",
                ),
                io.Int.Input(
                    "height", default=352, min=64, max=4096, step=SIZE_MULTIPLE,
                    tooltip="Picture height in pixels, a multiple of 32.",
                ),
                io.Float.Input(
                    "fov", default=70.0, min=10.0, max=140.0, step=0.5,
                    tooltip="Horizontal field of view in degrees.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image"),
                GeometryType.Output(display_name="geometry"),
            ],
        )

    @classmethod
    @override
    def execute(cls, seed: int, width: int, height: int, fov: float) -> io.NodeOutput:
        expect_frame_size(width, height)
        scene = shot_renderer(seed).scene
        image, geometry = scene.picture(width, height, fov, on_frame=progress(1))
        return io.NodeOutput(image[None], geometry)


class MirageEmbeddedMovers(io.ComfyNode):
    """A procedural room in which something moves, seen by a camera that stands still."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageEmbeddedMovers",
            display_name="Mirage Embedded Movers",
            category="Mirage/embedded",
            description=(
                "A clip of a room of Mirage Embedded Scene in which drums, boxes or balls move, "
                "with exact depth and masks, and the room without them: to try actors without a "
                "clip, a tracker or a depth model."
            ),
            search_aliases=["moving things", "sample clip", "actor", "procedural", "clean plate"],
            inputs=[
                io.Int.Input(
                    "seed", default=16, min=0, max=2**31 - 1,
                    tooltip="Seed of the room, as in Mirage Embedded Scene, and of what moves.",
                ),
                io.Int.Input(
                    "width", default=640, min=64, max=4096, step=SIZE_MULTIPLE,
                    tooltip="Picture width in pixels, a multiple of 32.",
                ),
                io.Int.Input(
                    "height", default=352, min=64, max=4096, step=SIZE_MULTIPLE,
                    tooltip="Picture height in pixels, a multiple of 32.",
                ),
                io.Float.Input(
                    "fov", default=70.0, min=10.0, max=140.0, step=0.5,
                    tooltip="Horizontal field of view in degrees.",
                ),
                io.Int.Input(
                    "frames", default=25, min=1, max=1025, step=4, tooltip="Length of the clip."
                ),
                io.Int.Input(
                    "movers", default=1, min=1, max=len(COLOURS), tooltip="How many things move."
                ),
                io.Int.Input(
                    "mover", default=0, min=0, max=len(COLOURS), advanced=True,
                    tooltip="Which of them the mask shows; 0 shows all.",
                ),
                io.Float.Input(
                    "fps", default=DEFAULT_FPS, min=1.0, max=120.0, step=0.01, advanced=True,
                    tooltip="Frames per second of the clip.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images"),
                GeometryType.Output(
                    display_name="geometry", tooltip="Depth of every frame, for Mirage Actor."
                ),
                io.Mask.Output(display_name="mask", tooltip="White on what moves."),
                TracksType.Output(
                    display_name="tracks", tooltip="Which pixels show which of them."
                ),
                io.Image.Output(
                    display_name="set", tooltip="The room alone, for Mirage Cache Init."
                ),
                GeometryType.Output(
                    display_name="set_geometry", tooltip="Depth of the room alone."
                ),
            ],
        )

    @classmethod
    @override
    def execute(
        cls,
        seed: int,
        width: int,
        height: int,
        fov: float,
        frames: int,
        movers: int,
        mover: int,
        fps: float,
    ) -> io.NodeOutput:
        expect_frame_size(width, height)
        expect_range("The number of the mover", mover, 0, movers)
        room = shot_renderer(seed).scene
        start = invert_rigid(room.start_camera_to_world.double())[None]
        lens = intrinsics_from_fov(width, height, fov)[None]
        camera = Trajectory(start, lens, width, height, fps=fps)
        scene = add_movers(room, seed, movers, camera)
        images, depth, which = scene.watch(camera, frames, progress(frames))
        numbers = which.int() + 1
        mask = numbers == mover if mover else numbers > 0
        names = {number + 1: f"{one.shape} {number + 1}" for number, one in enumerate(scene.movers)}
        still, geometry = room.picture(width, height, fov)
        # The world begins at the camera, as that of Mirage Embedded Scene.
        poses = torch.eye(4, dtype=torch.float64).expand(frames, 4, 4)
        seen = FrameGeometry(depth, lens.expand(frames, 3, 3), poses, metric=True)
        tracks = Tracks(numbers, names, frozenset(names))
        return io.NodeOutput(images, seen, mask.float(), tracks, still[None], geometry)


class MirageEmbeddedShot(io.ComfyNode):
    """A procedural room along a camera move: how it truly looks, with exact depth."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageEmbeddedShot",
            display_name="Mirage Embedded Shot",
            category="Mirage/embedded",
            description=(
                "Renders a room of Mirage Embedded Scene for every camera of a move. Its depth "
                "replaces a depth model in the chunk loop, and its frames are the ground truth "
                "of the shot."
            ),
            search_aliases=["ground truth", "render room", "exact depth", "procedural"],
            inputs=[
                io.Int.Input(
                    "seed", default=16, min=0, max=2**31 - 1,
                    tooltip="Seed of the room, as in Mirage Embedded Scene.",
                ),
                TrajectoryType.Input(
                    "trajectory", tooltip="The camera move; it begins at the room's start camera."
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images"),
                GeometryType.Output(
                    display_name="geometry",
                    tooltip="Depth of every frame, for the geometry input of Mirage Cache Update.",
                ),
            ],
        )

    @classmethod
    @override
    def execute(cls, seed: int, trajectory: Trajectory) -> io.NodeOutput:
        renderer = shot_renderer(seed)
        start = invert_rigid(renderer.scene.start_camera_to_world.double())
        poses = trajectory.world_to_camera @ start
        cameras = dataclasses.replace(trajectory, world_to_camera=poses)
        images, depth = renderer.render(cameras, on_frame=progress(len(cameras)))
        return io.NodeOutput(
            images,
            FrameGeometry(
                depth, trajectory.intrinsics, trajectory.world_to_camera, metric=True
            ),
        )
