"""A picture's size and depth in one node, and a view of depth to judge it by."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui
from comfy_execution.graph_utils import GraphBuilder
from torch import Tensor
from typing_extensions import override

from ..mirage_core.constants import SIZE_MULTIPLE
from ..mirage_core.errors import ShapeError
from ..mirage_core.geometry.crop import CentredCrop, nearest_frame_size
from ..mirage_core.geometry.depth_picture import DepthReading, geometry_from_picture
from ..mirage_core.geometry.depth_view import depth_view
from ..mirage_core.geometry.frame_geometry import FrameGeometry
from ..mirage_core.geometry.sources import describe_geometry
from ..mirage_core.validate import expect_frame_size, expect_shape
from .comfy.depth_models import (
    AUTO,
    DEFAULT_FOV,
    depth_files,
    estimation,
    find_depth_model,
    scaled_frames,
)
from .types import GeometryType

MILLION = 1e6
PIXELS = 0.9
"""Million pixels of a frame by default: 1280 x 704."""


class MiragePictureGeometry(io.ComfyNode):
    """A picture of any size, made fit for a shot, with its depth."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MiragePictureGeometry",
            display_name="Mirage Picture Geometry",
            category="Mirage/geometry",
            description=(
                "Scales a picture to a size that video models take, with as little cropped as can "
                "be, and finds its depth and field of view: from a depth picture, or by the depth "
                "model that is there, MoGe or Depth Anything 3."
            ),
            search_aliases=["depth", "my picture", "photo to scene", "resize", "estimate depth"],
            inputs=[
                io.Image.Input(
                    "image", tooltip="A picture of any size; or photographs of one place."
                ),
                io.Combo.Input(
                    "depth_model", options=[AUTO, *depth_files()], default=AUTO,
                    tooltip="File in models/geometry_estimation. auto: MoGe where there is one, "
                    "else Depth Anything 3. Not used when depth is connected.",
                ),
                io.Float.Input(
                    "megapixels", default=PIXELS, min=0.01, max=16.0, step=0.05,
                    tooltip="Million pixels of a frame: 0.9 is 1280 x 704 for a picture of 16:9.",
                ),
                io.Float.Input(
                    "fov", default=0.0, min=0.0, max=170.0, step=0.5,
                    tooltip="Horizontal field of view of the whole picture in degrees. 0: what "
                    f"the depth model finds, or {DEFAULT_FOV:g} where it finds none.",
                ),
                io.Image.Input(
                    "depth", optional=True,
                    tooltip="Depth picture of the whole picture, any resolution; near is white, "
                    "or 16 bits in millimetres. Used in the place of a depth model.",
                ),
                *_sides(),
            ],
            outputs=[
                io.Image.Output(display_name="image"),
                GeometryType.Output(display_name="geometry"),
                io.String.Output(display_name="report"),
            ],
            enable_expand=True,
        )

    @classmethod
    @override
    def fingerprint_inputs(cls, **_: Any) -> tuple[str, ...]:
        # With auto, a file that came since would be taken.
        return tuple(depth_files())

    @classmethod
    @override
    def validate_inputs(
        cls,
        depth_model: str | None = None,
        fov: float = 0.0,
        width: int | None = 0,
        height: int | None = 0,
    ) -> bool | str:
        # A file that is not there is told when it is needed: with a depth picture none is.
        if 0 < fov < 1:
            return f"The field of view is 0 or 1 to 170, not {fov:g}"
        # A side that a link sets is not known yet.
        if width is not None and height is not None and (width or height):
            try:
                expect_frame_size(width, height)
            except ShapeError as error:
                return str(error)
        return True

    @classmethod
    @override
    def execute(
        cls,
        image: Tensor,
        depth_model: str,
        megapixels: float,
        fov: float,
        depth: Tensor | None = None,
        width: int = 0,
        height: int = 0,
    ) -> io.NodeOutput:
        image = _colours(image)
        size = (int(image.shape[1]), int(image.shape[2]))
        if width or height:
            expect_frame_size(width, height)
        else:
            width, height = nearest_frame_size(size[1], size[0], megapixels * MILLION)
        crop = CentredCrop.to_shape(size, (height, width))
        if depth is not None:
            geometry = geometry_from_picture(depth, DepthReading(), fov or DEFAULT_FOV)
            geometry.expect_aspect(size[1], size[0])
            part = CentredCrop.to_shape(geometry.size, (height, width))
            geometry = part.of_geometry(geometry)
            report = describe_geometry(geometry)
            frame = scaled_frames(crop.of(image), width, height)
            return io.NodeOutput(frame, geometry, report, ui={"text": (report,)})
        model = find_depth_model(depth_model)
        frame = scaled_frames(crop.of(image), width, height)
        graph = GraphBuilder()
        seen = crop.field_of_view(fov, size[1]) if fov else 0.0
        found, report = estimation(graph, model, frame, seen)
        taken = f"{model.kind.value}: {model.name}"
        return io.NodeOutput(frame, found, report, expand=graph.finalize(), ui={"text": (taken,)})


def _sides() -> list[io.Input]:
    """Inputs that set both sides of a frame."""
    return [
        io.Int.Input(
            side, default=0, min=0, max=8192, step=SIZE_MULTIPLE, optional=True,
            tooltip=f"{side.capitalize()} of a frame in pixels, a multiple of {SIZE_MULTIPLE}; the "
            "picture is cropped around its middle to that shape. 0 for both sides: as megapixels "
            "and the picture's shape say.",
        )
        for side in ("width", "height")
    ]  # fmt: skip


def _colours(image: Tensor) -> Tensor:
    """(F, H, W, 3) of pictures with or without alpha, grey ones as colours."""
    sizes = expect_shape("The picture", image, "F H W C")
    if not image.numel():
        raise ShapeError(
            "There is no picture",
            got=f"{sizes['F']} pictures of {sizes['W']} x {sizes['H']}",
            expected="at least one, with pixels",
            fix="Check what is connected to image",
        )
    # Two channels are grey and alpha, four are colours and alpha.
    grey = sizes["C"] <= 2  # noqa: PLR2004
    return image[..., :1].expand(-1, -1, -1, 3) if grey else image[..., :3]


class MirageGeometryView(io.ComfyNode):
    """Depth as a picture."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageGeometryView",
            display_name="Mirage Geometry View",
            category="Mirage/geometry",
            description=(
                "Shows depth in colours, red near and blue far, with its range and field of view; "
                "what is left out is striped. Look at it before a shot is made."
            ),
            search_aliases=["preview depth", "show depth", "depth map", "near far"],
            inputs=[
                GeometryType.Input("geometry", tooltip="Depth with its cameras."),
                io.Int.Input(
                    "frame", default=0, min=0, max=100_000,
                    tooltip="Which of several frames; the last where there are fewer.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image")],
            is_output_node=True,
        )

    @classmethod
    @override
    def execute(cls, geometry: FrameGeometry, frame: int) -> io.NodeOutput:
        picture = depth_view(geometry, min(frame, len(geometry) - 1))[None]
        return io.NodeOutput(picture, ui=ui.PreviewImage(picture, cls=cls))
