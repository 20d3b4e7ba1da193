"""Geometry from ComfyUI's own estimators, and from files."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor
from typing_extensions import override

from ..mirage_core.geometry.depth_picture import (
    AUTO,
    BLACKS,
    ENCODINGS,
    NEAR_INVERSE,
    DepthReading,
    geometry_from_picture,
)
from ..mirage_core.geometry.frame_geometry import FrameGeometry
from ..mirage_core.geometry.geometry_io import SUFFIXES, load_geometry, save_geometry
from ..mirage_core.geometry.masks import with_mask
from ..mirage_core.geometry.sources import (
    SKY_THRESHOLD,
    describe_geometry,
    geometry_from_da3,
    geometry_from_moge,
    geometry_of_estimator,
    is_metric,
)
from .comfy.files import file_stamp, list_files, next_file, resolve_file
from .types import DA3GeometryType, GeometryType, MoGeGeometryType

CATEGORY = "Mirage/geometry"

CODES = (
    "auto: scene units for values beyond 1, millimetres for 16 bits that use only a part of their "
    "range, else near is white; the report says which. near is white: values follow 1 / distance, "
    "as rendered by MoGe and most relative estimators. near is white, linear: values decrease "
    "linearly with distance, as rendered by Depth Anything 3. far is white: values are distances "
    "from near to far. millimetres: 16 bits of a depth camera. scene units: distances as they are."
)


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
        return _result(geometry_from_moge(moge_geometry, metric=is_metric(moge_geometry)))


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
        files = [name for suffix in SUFFIXES for name in list_files(suffix[1:], numbered=True)]
        return io.Schema(
            node_id="MirageGeometryLoad",
            display_name="Mirage Geometry Load",
            category=CATEGORY,
            description=(
                "Loads depth from a file in input or below output/mirage: .safetensors of Mirage "
                "Geometry Save, .npz arrays of other tools, an .exr render, or a .tif of "
                "distances. A name with #### is numbered files, one for each frame."
            ),
            search_aliases=["exr", "npz", "import depth", "render pass", "z-depth"],
            inputs=[
                io.Combo.Input("file", options=files, tooltip="The geometry file."),
                io.Float.Input(
                    "fov", default=60.0, min=1.0, max=170.0, step=0.5,
                    tooltip="Horizontal field of view in degrees; used when the file has no "
                    "intrinsics.",
                ),
                io.String.Input(
                    "channel", default="", optional=True, advanced=True,
                    tooltip="Channel or layer of an .exr, or array of an .npz, that is depth. "
                    "Empty: the one that says so by its name.",
                ),
            ],
            outputs=_outputs(),
        )

    @classmethod
    @override
    def fingerprint_inputs(
        cls, file: str, fov: float, channel: str = ""
    ) -> tuple[tuple[str, int], float, str]:
        return file_stamp(file), fov, channel

    @classmethod
    @override
    def execute(cls, file: str, fov: float, channel: str = "") -> io.NodeOutput:
        return _result(load_geometry(resolve_file(file), fov, channel.strip()))


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


class MirageGeometry(io.ComfyNode):
    """Depth maps with a field of view, from depth pictures or from an estimator."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageGeometry",
            display_name="Mirage Geometry",
            category="Mirage/geometry",
            description=(
                "Converts depth maps to geometry: defines how grey values become distances, "
                "and the field of view of the camera. Geometry of an estimator needs no settings."
            ),
            search_aliases=["depth", "depth map to geometry", "field of view", "camera intrinsics"],
            inputs=[
                io.MultiType.Input(
                    io.Image.Input("depth"), [MoGeGeometryType, DA3GeometryType],
                    tooltip="Depth maps with the same crop as the picture, any resolution; or the "
                    "geometry of Run MoGe Inference or Run Depth Anything 3 itself.",
                ),
                io.Combo.Input(
                    "encoding", options=list(ENCODINGS), default=NEAR_INVERSE, tooltip=CODES
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
                io.Combo.Input(
                    "black", options=list(BLACKS), default=AUTO, optional=True, advanced=True,
                    tooltip="What black is. auto: no reading in millimetres and scene units, and "
                    "where it stands apart from all other values; else the end of the range.",
                ),
            ],
            outputs=_outputs(),
        )

    @classmethod
    @override
    def execute(
        cls,
        depth: Tensor | dict[str, Any],
        encoding: str,
        near: float,
        far: float,
        fov: float,
        exclude: Tensor | None = None,
        black: str = AUTO,
    ) -> io.NodeOutput:
        if isinstance(depth, dict):
            geometry = geometry_of_estimator(depth, fov)
        else:
            reading = DepthReading(encoding, near, far, black)
            geometry = geometry_from_picture(depth, reading, fov)
        return _result(with_mask(geometry, exclude))
