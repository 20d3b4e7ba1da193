"""Reading the memory, and judging a move from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor
from typing_extensions import override

from ..mirage_core.cache.types import LatentCache
from ..mirage_core.codecs.base import expect_same_codec
from ..mirage_core.codecs.colours import ColourCodec
from ..mirage_core.codecs.memory_kind import Drawer, MemoryKind
from ..mirage_core.constants import TEMPORAL_STRIDE
from ..mirage_core.errors import ModelMismatchError
from ..mirage_core.geometry.frame_geometry import FrameGeometry
from ..mirage_core.geometry.trajectory import Trajectory
from ..mirage_core.ops.best_view import BestView
from ..mirage_core.preview.fill import complete_depth, fill_readout, uncertain_pixels
from ..mirage_core.preview.render import render_preview
from ..mirage_core.readout.readout import Readout, default_view, grid_intrinsics, read
from .comfy.cancel import stop_when_cancelled
from .comfy.ui import progress
from .comfy.vae import (
    Latent,
    VaeCodec,
    clean_tokens,
    dct_codec,
    make_latent,
)
from .types import CacheType, GeometryType, ReadoutType, TrajectoryType

if TYPE_CHECKING:
    import comfy.sd


AUTO = "auto"
VIEWS: dict[str, BestView | None] = {"best_view": BestView(), "nearest": None}
"""Ways of reading: the best view of the front surface, or the paper's nearest point."""


class MirageReadout(io.ComfyNode):
    """What the memory shows to the cameras of a move."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageReadout",
            display_name="Mirage Readout",
            category="Mirage/memory",
            description=(
                "Projects the memory onto the latent grid of every fourth frame of a move. Cells "
                "without a point are holes."
            ),
            search_aliases=["read memory", "project", "z-buffer", "visibility"],
            inputs=[
                CacheType.Input("cache", tooltip="The memory to read."),
                TrajectoryType.Input("trajectory", tooltip="Cameras of 4n + 1 frames."),
                view_input(
                    "auto: the nearest point, as video models were trained with. best_view: of "
                    "the front surface, what was seen most as it is looked at now; better for "
                    "real captures."
                ),
                strength_input(
                    "What actors count for the sampler: 1 as much as the set, 0 nothing, so that "
                    "they are only marked."
                ),
            ],
            outputs=[
                ReadoutType.Output(display_name="readout"),
                io.Latent.Output(display_name="latent"),
                io.Mask.Output(display_name="visible"),
                io.Image.Output(display_name="depth"),
                io.Mask.Output(
                    display_name="actors", tooltip="White where something that moves is seen."
                ),
            ],
        )

    @classmethod
    @override
    def execute(
        cls,
        cache: LatentCache,
        trajectory: Trajectory,
        view: str = AUTO,
        actor_strength: float = 1.0,
    ) -> io.NodeOutput:
        auto = default_view(cache) if cache.kind is MemoryKind.COLOURS else None
        readout = read(cache, trajectory, chosen_view(view, auto), actor_strength)
        moving = torch.zeros_like(readout.visible)
        if readout.actor is not None:
            moving = readout.actor >= 0
        return io.NodeOutput(
            readout,
            _latent(readout),
            _at_picture_size(readout.background.float(), readout),
            _at_picture_size(depth_picture(readout.depth), readout),
            _at_picture_size(moving.float(), readout),
        )


def _latent(readout: Readout) -> Latent | ExecutionBlocker:
    """What is shown as a latent; of a memory of colours there is none, and that is said."""
    if readout.cache.kind is MemoryKind.TOKENS:
        return make_latent(readout.tokens)
    return ExecutionBlocker(
        "A memory of colours has no latent. Draw it with Mirage Render and encode the frames, or "
        "make the memory with what = tokens."
    )


def view_input(tooltip: str) -> io.Combo.Input:
    """How points of one surface are chosen."""
    return io.Combo.Input(
        "view", options=[AUTO, *VIEWS], default=AUTO, optional=True, advanced=True,
        tooltip=tooltip,
    )  # fmt: skip


def strength_input(tooltip: str) -> io.Float.Input:
    """What actors count beside the set."""
    return io.Float.Input(
        "actor_strength", default=1.0, min=0.0, max=1.0, step=0.05, optional=True, advanced=True,
        tooltip=tooltip,
    )  # fmt: skip


def chosen_view(view: str, auto: BestView | None) -> BestView | None:
    """The setting of `view_input` as the library takes it."""
    return auto if view == AUTO else VIEWS[view]


def _pixels_per_cell(readout: Readout) -> int:
    return readout.trajectory.height // int(readout.visible.shape[1])


def _at_picture_size(maps: Tensor, readout: Readout) -> Tensor:
    stride = _pixels_per_cell(readout)
    return maps.repeat_interleave(stride, 1).repeat_interleave(stride, 2)


def depth_picture(depth: Tensor) -> Tensor:
    """Depth (F, H, W) as pictures (F, H, W, 3) in 0..1: near is white, unknown is black."""
    known = depth > 0
    inverse = torch.where(known, 1 / depth.clamp_min(1e-6), 0.0)
    levels = inverse[known]
    low, high = (levels.min(), levels.max()) if len(levels) else (0.0, 1.0)
    grey = torch.where(known, 0.1 + 0.9 * (inverse - low) / max(float(high - low), 1e-9), 0.0)
    return grey[..., None].expand(-1, -1, -1, 3)


class MiragePreviewFill(io.ComfyNode):
    """A preview of a move: what the memory knows, with smooth colour in the holes."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MiragePreviewFill",
            display_name="Mirage Preview Fill",
            category="Mirage/memory",
            description=(
                "Fills a readout's holes smoothly, in seconds and without a model, so that a "
                "camera move can be judged before a costly sampling run. It invents nothing: "
                "unseen regions become soft patches of colour, which are not written to the "
                "memory."
            ),
            search_aliases=["preview", "fill holes", "inpaint smooth", "animatic"],
            inputs=[
                ReadoutType.Input("readout", tooltip="Readout of the memory."),
                io.Vae.Input(
                    "vae",
                    tooltip="The VAE that the memory was made with; any for a memory of colours. "
                    "With colours or Mirage Embedded Codec every frame is drawn from the exact "
                    "positions of the points.",
                ),
                io.Latent.Input(
                    "first_latent", optional=True,
                    tooltip="Clean first latent of the chunk, from Mirage Loop Open.",
                ),
                io.Image.Input(
                    "background", optional=True,
                    tooltip="Frames to show in the holes in place of smooth colour, such as those "
                    "of a video model. With colours or Mirage Embedded Codec only.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent"),
                GeometryType.Output(display_name="geometry"),
                io.Image.Output(display_name="images"),
            ],
        )

    @classmethod
    @override
    def execute(
        cls,
        readout: Readout,
        vae: comfy.sd.VAE,
        first_latent: Latent | None = None,
        background: Tensor | None = None,
    ) -> io.NodeOutput:
        held, images = readout.cache, None
        embedded = dct_codec(vae)
        codec: Drawer | None = embedded
        if held.kind is MemoryKind.COLOURS:
            codec = ColourCodec.named(held.codec)
        else:
            expect_same_codec(held.codec, VaeCodec(vae))
        if background is not None and codec is None:
            raise ModelMismatchError(
                "Only colours and tokens of the embedded codec can be drawn over a background",
                got=f"a memory of {held.codec!r}",
                fix="Disconnect background, or use the frames of the video model directly",
            )
        tokens, depth = fill_readout(readout, stop_when_cancelled)
        unknown = ~readout.visible
        if codec is not None:
            update = progress(len(readout.trajectory))
            behind = None if background is None else background[..., :3]
            preview = render_preview(held, readout.trajectory, codec, update, behind)
            images = preview.frames
            if embedded is not None:
                tokens = embedded.encode(images, stop_when_cancelled)
            else:
                tokens = VaeCodec(vae, memory=held.kind).encode(images)
            stride = _pixels_per_cell(readout)
            moving = None if preview.actor is None else preview.actor[::TEMPORAL_STRIDE] >= 0
            unknown = uncertain_pixels(preview.depth, stride, readout.visible, moving)
            depth = complete_depth(preview.depth, depth)
        if first_latent is not None:
            first = clean_tokens(first_latent, "The first latent", held.kind)
            tokens = torch.cat([first.to(tokens), tokens[:, first.shape[1] :]], dim=1)
        latent = make_latent(tokens)
        if images is None:
            images = VaeCodec(vae).decode(tokens)
        return io.NodeOutput(latent, _geometry(readout, depth, unknown), images)


def _geometry(readout: Readout, depth: Tensor, unknown: Tensor) -> FrameGeometry:
    """Depth (T, rows, cols) of a readout's latent frames, without what is unknown."""
    cameras = readout.latent_cameras
    return FrameGeometry(
        depth=depth,
        intrinsics=grid_intrinsics(cameras, (int(depth.shape[1]), int(depth.shape[2]))),
        world_to_camera=cameras.world_to_camera,
        exclude=unknown,
    )


