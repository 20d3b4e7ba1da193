"""Nodes that need no download: a codec without weights, and procedural scenes."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from typing_extensions import override

from ..mirage_core.constants import SIZE_MULTIPLE
from ..mirage_core.embedded.scene import ProceduralScene
from ..mirage_core.geometry.frame_geometry import FrameGeometry
from ..mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from ..mirage_core.geometry.transform import invert_rigid
from ..mirage_core.validate import expect_frame_size
from . import adapters
from .types import GeometryType


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
                "A VAE that needs no download: 48 channels and strides 16 and 4, as the Wan2.2 "
                "VAE. It is a plain transform, so fine detail is softened. Swap it for Load VAE "
                "with wan2.2_vae.safetensors to use the real model."
            ),
            search_aliases=["vae", "demo vae", "codec without weights"],
            inputs=[],
            outputs=[io.Vae.Output(display_name="VAE")],
        )

    @classmethod
    @override
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(adapters.EmbeddedVAE())


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
                "camera moves without a picture or a depth model at hand."
            ),
            search_aliases=["sample picture", "test scene", "demo room", "procedural"],
            inputs=[
                io.Int.Input(
                    "seed", default=16, min=0, max=2**31 - 1, control_after_generate=True,
                    tooltip="Which room to build.",
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
        scene = ProceduralScene.from_seed(seed)
        intrinsics = intrinsics_from_fov(width, height, fov)[None]
        camera = Trajectory(
            invert_rigid(scene.start_camera_to_world.double())[None], intrinsics, width, height
        )
        image, depth = scene.render(
            camera, device=torch.device("cpu"), on_frame=adapters.progress(1)
        )
        return io.NodeOutput(image, FrameGeometry(depth, intrinsics, metric=True))
