"""Pictures of what a memory shows, with holes marked: for video models that take pictures."""

from __future__ import annotations

from typing import Final

import torch
from comfy_api.latest import io
from torch import Tensor
from typing_extensions import override

from ..mirage_core.cache.types import LatentCache
from ..mirage_core.codecs.memory_kind import memory_drawer
from ..mirage_core.constants import GREY
from ..mirage_core.errors import PlanError
from ..mirage_core.geometry.trajectory import Trajectory
from ..mirage_core.preview.render import render_preview
from ..mirage_core.readout.readout import Readout, default_view
from .comfy.ui import progress
from .readout import AUTO, chosen_view, depth_picture, strength_input, view_input
from .types import CacheType, ReadoutType, TrajectoryType

LEVELS: Final[dict[str, float | None]] = {
    "smooth": None, "grey": GREY, "black": 0.0, "transparent": None,
}  # fmt: skip
"""What stands in holes, and its level where it is of one colour."""


class MirageRender(io.ComfyNode):
    """Every frame of a move as the memory shows it, with what is unknown as a mask."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageRender",
            display_name="Mirage Render",
            category="Mirage/memory",
            description=(
                "Draws every frame of a move from a memory of colours, or of the embedded "
                "codec's tokens, and marks what the memory does not know. For video models that "
                "take pictures of the scene with a mask."
            ),
            search_aliases=["render point cloud", "warp", "hole mask", "inpaint mask", "vace"],
            inputs=[
                CacheType.Input("cache", optional=True, tooltip="The memory to draw."),
                TrajectoryType.Input(
                    "trajectory", optional=True, tooltip="Cameras of all frames."
                ),
                ReadoutType.Input(
                    "readout", optional=True,
                    tooltip="Gives what is not connected of the two: the memory that was read, and "
                    "the cameras that it was read for.",
                ),
                io.Combo.Input(
                    "holes", options=list(LEVELS), default="smooth",
                    tooltip="What stands where nothing is known: smooth colour from around it, "
                    "grey (VACE), black, or nothing (pictures with alpha).",
                ),
                view_input(
                    "auto: the best views of the front surface, mixed; the nearest points for "
                    "memories of the released convention."
                ),
                strength_input(
                    "How well known actors are for the mask of holes: 1 is kept as the set is, 0 "
                    "is made anew."
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images"),
                io.Mask.Output(
                    display_name="holes", tooltip="White is unknown; one mask for every frame."
                ),
                io.Image.Output(
                    display_name="depth", tooltip="Near is white, unknown is black."
                ),
                io.Mask.Output(
                    display_name="actors", tooltip="White where something that moves is seen."
                ),
            ],
        )

    @classmethod
    @override
    def execute(
        cls,
        holes: str,
        cache: LatentCache | None = None,
        trajectory: Trajectory | None = None,
        readout: Readout | None = None,
        view: str = AUTO,
        actor_strength: float = 1.0,
    ) -> io.NodeOutput:
        memory, cameras = _what_to_draw(cache, trajectory, readout)
        drawn = render_preview(
            memory,
            cameras,
            memory_drawer(memory.codec),
            progress(len(cameras)),
            view=chosen_view(view, default_view(memory)),
        )
        unknown, images, level = drawn.unknown(actor_strength), drawn.frames, LEVELS[holes]
        empty = drawn.distance <= 0
        if level is not None:
            # Over smooth colour first: outlines mix with what is behind them.
            images = torch.where(empty[..., None], level, images)
        if holes == "transparent":
            images = torch.cat([images, (~empty).float()[..., None]], dim=-1)
        moving = torch.zeros_like(empty) if drawn.actor is None else drawn.actor >= 0
        return io.NodeOutput(
            _out(images), _out(unknown), _out(depth_picture(drawn.distance)), _out(moving)
        )


def _what_to_draw(
    cache: LatentCache | None, trajectory: Trajectory | None, readout: Readout | None
) -> tuple[LatentCache, Trajectory]:
    if readout is not None:
        cache = readout.cache if cache is None else cache
        trajectory = readout.trajectory if trajectory is None else trajectory
    if cache is None or trajectory is None:
        raise PlanError(
            "There is nothing to draw",
            got="no memory" if cache is None else "no trajectory",
            expected="cache and trajectory, or a readout",
            fix="Connect both, or the readout of Mirage Readout",
        )
    return cache, trajectory


def _out(maps: Tensor) -> Tensor:
    return maps.float().cpu()
