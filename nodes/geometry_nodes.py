"""Depth and cameras from what ComfyUI has on its wires."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor
from typing_extensions import override

from ..mirage_core.geometry.frame_geometry import FrameGeometry, depth_from_picture
from ..mirage_core.geometry.masks import with_mask
from ..mirage_core.geometry.sources import describe_geometry
from ..mirage_core.geometry.trajectory import intrinsics_from_fov
from .types import GeometryType

NEAR_INVERSE = "near is white"
NEAR_LINEAR = "near is white, linear"
FAR_LINEAR = "far is white"
ENCODINGS = (NEAR_INVERSE, NEAR_LINEAR, FAR_LINEAR)


class MirageGeometry(io.ComfyNode):
    """Depth maps with a field of view, from depth pictures."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageGeometry",
            display_name="Mirage Geometry",
            category="Mirage/geometry",
            description=(
                "Turns depth pictures into geometry: states how grey values become distances, "
                "and how wide the camera sees."
            ),
            search_aliases=["depth", "depth map to geometry", "field of view", "camera intrinsics"],
            inputs=[
                io.Image.Input(
                    "depth",
                    tooltip="Depth pictures of the same crop as the picture, any resolution.",
                ),
                io.Combo.Input(
                    "encoding", options=list(ENCODINGS), default=NEAR_INVERSE,
                    tooltip=(
                        "near is white: values follow 1 / distance, as MoGe and most relative "
                        "estimators draw them. near is white, linear: values fall evenly with "
                        "distance, as Depth Anything 3 is drawn. far is white: values are "
                        "distances."
                    ),
                ),
                io.Float.Input(
                    "near", default=1.0, min=0.001, max=10000.0, step=0.1,
                    tooltip="Distance of the nearest surface, in scene units.",
                ),
                io.Float.Input(
                    "far", default=20.0, min=0.002, max=100000.0, step=0.1,
                    tooltip="Distance of the farthest surface, in scene units.",
                ),
                io.Float.Input(
                    "fov", default=60.0, min=1.0, max=170.0, step=0.5,
                    tooltip="Horizontal field of view of the picture in degrees.",
                ),
                io.Mask.Input(
                    "exclude", optional=True,
                    tooltip="White is left out of the memory: sky, people, anything that moves.",
                ),
            ],
            outputs=[
                GeometryType.Output(display_name="geometry"),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    @override
    def execute(
        cls,
        depth: Tensor,
        encoding: str,
        near: float,
        far: float,
        fov: float,
        exclude: Tensor | None = None,
    ) -> io.NodeOutput:
        values = depth[..., :3].mean(dim=-1)
        values = 1 - values if encoding == NEAR_LINEAR else values
        distance = depth_from_picture(values, near, far, inverse=encoding == NEAR_INVERSE)
        frames, height, width = distance.shape
        lens = intrinsics_from_fov(width, height, fov).expand(frames, 3, 3)
        geometry = with_mask(FrameGeometry(distance, lens), exclude)
        report = describe_geometry(geometry)
        return io.NodeOutput(geometry, report, ui={"text": (report,)})
