"""A chunk's depth in agreement with the memory, as a node of the loop."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor
from typing_extensions import override

from ..mirage_core.geometry.align import ALIGN_MODES, AlignConfig
from ..mirage_core.geometry.frame_geometry import FrameGeometry
from ..mirage_core.geometry.masks import MaskGrowth
from ..mirage_core.rollout.align_chunk import align_to_memory
from ..mirage_core.rollout.chunk_geometry import DYNAMIC, SKY, chunk_geometry
from ..mirage_core.rollout.state import RolloutState
from .comfy.ui import show_text
from .shot import expect_begun
from .types import GeometryType, StateType


class MirageAlignGeometry(io.ComfyNode):
    """Depth of a chunk on the memory's scale, without what moves."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageAlignGeometry",
            display_name="Mirage Align Geometry",
            category="Mirage/geometry",
            description=(
                "Aligns a chunk's estimated depth to the scale of the memory, masks moving objects "
                "and sky, and rejects frames whose depth contradicts the memory."
            ),
            search_aliases=["scale depth", "depth alignment", "dynamic mask", "sky mask", "drift"],
            inputs=[
                StateType.Input("state", tooltip="From Mirage Loop Open."),
                GeometryType.Input(
                    "geometry",
                    tooltip="Estimated depth of the chunk's frames: every fourth, or all of them.",
                ),
                io.Combo.Input(
                    "mode", options=list(ALIGN_MODES), default=ALIGN_MODES[0],
                    tooltip="scale: depth is correct up to a factor (MoGe, Depth Anything 3). "
                    "affine: up to scale and shift of 1 / depth (relative depth maps). "
                    "none: depth is exact; only the masks are applied.",
                ),
                io.Float.Input(
                    "refuse_above", default=0.10, min=0.01, max=1.0, step=0.01,
                    tooltip="Relative depth error above which a frame is not written to the "
                    "memory, measured after scale and shift.",
                ),
                io.Int.Input(
                    "grow_pixels", default=0, min=0, max=1024,
                    tooltip="Pixels by which masks are dilated, before they are brought to the "
                    "latent grid.",
                ),
                io.Int.Input(
                    "grow_cells", default=0, min=0, max=64, advanced=True,
                    tooltip="Latent cells by which masks are dilated afterwards.",
                ),
                io.Boolean.Input(
                    "strict", default=False, advanced=True,
                    tooltip="On: stop with an error when no frame agrees with the memory. Off: "
                    "keep such a chunk in the video but do not write it to the memory.",
                ),
                io.Mask.Input(
                    "dynamic", optional=True,
                    tooltip="White is excluded: moving objects, from Mirage Dynamic Mask or SAM3, "
                    "for all of the chunk's frames or every fourth one.",
                ),
                io.Mask.Input(
                    "sky", optional=True,
                    tooltip="White is excluded: sky, if the geometry does not mark it already.",
                ),
            ],
            outputs=[
                GeometryType.Output(display_name="geometry"),
                io.String.Output(display_name="report"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @override
    def execute(
        cls,
        state: RolloutState,
        geometry: FrameGeometry,
        mode: str,
        refuse_above: float,
        grow_pixels: int,
        grow_cells: int,
        strict: bool,
        dynamic: Tensor | None = None,
        sky: Tensor | None = None,
    ) -> io.NodeOutput:
        align = AlignConfig(mode, refuse_above=refuse_above)
        growth = MaskGrowth(grow_pixels, grow_cells)
        masks = {DYNAMIC: dynamic, SKY: sky}
        own = chunk_geometry(expect_begun(state), geometry, masks, growth=growth)
        aligned = align_to_memory(state, own, align, strict=strict)
        report = f"chunk {state.done + 1} of {len(state.plan)}\n{aligned.describe()}"
        show_text(report, cls.hidden.unique_id)
        return io.NodeOutput(aligned.geometry.frames, report, ui={"text": (report,)})
