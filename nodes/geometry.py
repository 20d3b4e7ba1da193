"""Geometry from ComfyUI's own estimators, and from files."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor
from typing_extensions import override

from ..mirage_core.geometry.frame_geometry import FrameGeometry, depth_from_picture
from ..mirage_core.geometry.geometry_io import SUFFIXES, load_geometry, save_geometry
from ..mirage_core.geometry.masks import with_mask
from ..mirage_core.geometry.sources import (
    SKY_THRESHOLD,
    describe_geometry,
    geometry_from_da3,
    geometry_from_moge,
)
from ..mirage_core.geometry.trajectory import intrinsics_from_fov
from .comfy.files import file_stamp, list_files, next_file, resolve_file
from .types import DA3GeometryType, GeometryType, MoGeGeometryType

CATEGORY = "Mirage/geometry"


def _outputs() -> list[io.Output]:
    return [GeometryType.Output(display_name="geometry"), io.String.Output(display_name="report")]


def _result(geometry: FrameGeometry) -> io.NodeOutput:
    report = describe_geometry(geometry)
    return io.NodeOutput(geometry, report, ui={"text": (report,)})


class MirageGeometryMoGe(io.ComfyNode):
    """Geometry of Run MoGe Inference."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageGeometryMoGe",
            display_name="Mirage Geometry (MoGe)",
            category=CATEGORY,
            description="Takes depth and field of view from Run MoGe Inference; sky is excluded.",
            search_aliases=["moge", "depth", "metric depth", "field of view"],
            inputs=[
                MoGeGeometryType.Input(
                    "moge_geometry", tooltip="From Run MoGe Inference, for the same picture."
                ),
            ],
            outputs=_outputs(),
        )

    @classmethod
    @override
    def execute(cls, moge_geometry: dict[str, Any]) -> io.NodeOutput:
        # Only MoGe 2, whose depth is in metres, also estimates normals.
        metric = "normal" in moge_geometry
        return _result(geometry_from_moge(moge_geometry, metric=metric))


class MirageGeometryDA3(io.ComfyNode):
    """Geometry of Run Depth Anything 3."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageGeometryDA3",
            display_name="Mirage Geometry (Depth Anything 3)",
            category=CATEGORY,
            description=(
                "Takes depth from Run Depth Anything 3, and with mode multiview also cameras and "
                "field of view; sky is excluded."
            ),
            search_aliases=["depth anything", "da3", "multiview", "camera poses", "photographs"],
            inputs=[
                DA3GeometryType.Input(
                    "da3_geometry", tooltip="From Run Depth Anything 3, for the same picture."
                ),
                io.Float.Input(
                    "fov", default=60.0, min=1.0, max=170.0, step=0.5,
                    tooltip="Horizontal field of view in degrees; used with mode mono, which "
                    "does not estimate it.",
                ),
                io.Boolean.Input(
                    "metric", default=False,
                    tooltip="On for the Metric model, whose depth is in metres.",
                ),
                io.Float.Input(
                    "sky_threshold", default=SKY_THRESHOLD, min=0.01, max=1.0, step=0.01,
                    tooltip="Probability above which a pixel is sky and excluded.", advanced=True,
                ),
                io.Float.Input(
                    "least_confidence", default=0.0, min=0.0, max=0.99, step=0.01,
                    tooltip="Share of pixels to exclude, those with the lowest confidence.",
                    advanced=True,
                ),
            ],
            outputs=_outputs(),
        )

    @classmethod
    @override
    def execute(
        cls,
        da3_geometry: dict[str, Any],
        fov: float,
        metric: bool,
        sky_threshold: float,
        least_confidence: float,
    ) -> io.NodeOutput:
        return _result(
            geometry_from_da3(
                da3_geometry,
                fov=fov,
                metric=metric,
                sky_threshold=sky_threshold,
                least_confidence=least_confidence,
            )
        )


class MirageGeometryLoad(io.ComfyNode):
    """Geometry from .safetensors, .npz or .exr."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        files = [name for suffix in SUFFIXES for name in list_files(suffix[1:])]
        return io.Schema(
            node_id="MirageGeometryLoad",
            display_name="Mirage Geometry Load",
            category=CATEGORY,
            description=(
                "Loads depth from a file in input or below output/mirage: .safetensors of Mirage "
                "Geometry Save, .npz arrays of other tools, or an .exr render."
            ),
            search_aliases=["exr", "npz", "import depth", "render pass", "z-depth"],
            inputs=[
                io.Combo.Input("file", options=files, tooltip="The geometry file."),
                io.Float.Input(
                    "fov", default=60.0, min=1.0, max=170.0, step=0.5,
                    tooltip="Horizontal field of view in degrees; used when the file has no "
                    "intrinsics.",
                ),
            ],
            outputs=_outputs(),
        )

    @classmethod
    @override
    def fingerprint_inputs(cls, file: str, fov: float) -> tuple[tuple[str, int], float]:
        return file_stamp(file), fov

    @classmethod
    @override
    def execute(cls, file: str, fov: float) -> io.NodeOutput:
        return _result(load_geometry(resolve_file(file), fov))


class MirageGeometrySave(io.ComfyNode):
    """Saves geometry for other workflows and for the command line."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageGeometrySave",
            display_name="Mirage Geometry Save",
            category=CATEGORY,
            description="Saves depth with its cameras below output/mirage.",
            search_aliases=["export depth", "save depth"],
            inputs=[
                GeometryType.Input("geometry", tooltip="Depth with its cameras."),
                io.String.Input(
                    "filename_prefix", default="geometry", tooltip="Name below output/mirage."
                ),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    @override
    def execute(cls, geometry: FrameGeometry, filename_prefix: str) -> io.NodeOutput:
        path = save_geometry(geometry, next_file(filename_prefix, "safetensors"))
        return io.NodeOutput(ui={"text": (str(path),)})


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
                "Converts depth maps to geometry: defines how grey values become distances, "
                "and the field of view of the camera."
            ),
            search_aliases=["depth", "depth map to geometry", "field of view", "camera intrinsics"],
            inputs=[
                io.Image.Input(
                    "depth",
                    tooltip="Depth maps with the same crop as the picture, any resolution.",
                ),
                io.Combo.Input(
                    "encoding", options=list(ENCODINGS), default=NEAR_INVERSE,
                    tooltip=(
                        "near is white: values follow 1 / distance, as rendered by MoGe and most "
                        "relative estimators. near is white, linear: values decrease linearly "
                        "with distance, as rendered by Depth Anything 3. far is white: values "
                        "are distances."
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
                    tooltip="White is excluded from the memory: sky, people, anything that moves.",
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
        intrinsics = intrinsics_from_fov(width, height, fov).expand(frames, 3, 3)
        geometry = with_mask(FrameGeometry(distance, intrinsics), exclude)
        report = describe_geometry(geometry)
        return io.NodeOutput(geometry, report, ui={"text": (report,)})
