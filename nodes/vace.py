"""What Wan VACE models are told of a chunk, and known pixels put back over what they made."""

from __future__ import annotations

from typing import Final

from comfy_api.latest import io
from torch import Tensor
from typing_extensions import override

from ..mirage_core.codecs.memory_kind import MemoryKind
from ..mirage_core.conditioning.control_video import control_video
from ..mirage_core.constants import WAN21_CHANNELS, WAN21_FPS
from ..mirage_core.errors import ModelMismatchError, PlanError, ShapeError
from ..mirage_core.log import logger
from ..mirage_core.preview.colour_match import match_colours
from ..mirage_core.preview.paste import MAX_FEATHER, paste_known
from ..mirage_core.rollout.saved_frames import best_reference, expect_picture, frames_to_keep
from ..mirage_core.rollout.state import RolloutState
from ..mirage_core.trajectories.fit import frames_at
from .comfy.ui import progress
from .comfy.vae import VAE_NAMES
from .shot import expect_begun
from .types import StateType

CATEGORY = "Mirage/sampling"
ANY_RATE: Final = "any"
RATES: Final = (f"{WAN21_FPS:g}", ANY_RATE)
"""Frame rates of the trajectory that are taken: the model's, or whatever it is."""

RATE_TOLERANCE: Final = 1e-3
REFERENCES: Final = ("best", "none")


class MirageVaceControl(io.ComfyNode):
    """The inputs of WanVaceToVideo for one chunk of a shot."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageVaceControl",
            display_name="Mirage VACE Control",
            category=CATEGORY,
            description=(
                "Makes what WanVaceToVideo takes for one chunk: the memory's pictures with grey "
                "holes, one mask for every frame, the last frames of the chunk before to begin "
                "with, and an earlier frame of the same place as a reference."
            ),
            search_aliases=["vace", "wan 2.1", "control video", "control masks", "inpaint"],
            inputs=[
                StateType.Input("state", tooltip="From Mirage Loop Open."),
                io.Image.Input(
                    "images", tooltip="From Mirage Render, for the trajectory of Mirage Loop Open."
                ),
                io.Mask.Input(
                    "holes", tooltip="From Mirage Render: one mask for every frame."
                ),
                io.Combo.Input(
                    "reference", options=list(REFERENCES), default=REFERENCES[0],
                    tooltip="best: the earlier frame that shows most of what this chunk sees; "
                    "for the first chunk the picture. none: no reference.",
                ),
                io.Combo.Input(
                    "frame_rate", options=list(RATES), default=RATES[0],
                    tooltip="16: refuse trajectories with another frame rate than the model's. "
                    "any: take them; moves then look faster or slower than the model knows them.",
                ),
                io.Image.Input(
                    "picture", optional=True,
                    tooltip="The given picture: frame 0 of the first chunk.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="control_video"),
                io.Mask.Output(
                    display_name="control_masks",
                    tooltip="White is to be made, black is kept; one mask for every frame.",
                ),
                io.Image.Output(
                    display_name="reference_image",
                    tooltip="Nothing where no earlier frame shows the place.",
                ),
                io.Int.Output(display_name="width"),
                io.Int.Output(display_name="height"),
                io.Int.Output(display_name="length"),
            ],
        )

    @classmethod
    @override
    def execute(
        cls,
        state: RolloutState,
        images: Tensor,
        holes: Tensor,
        reference: str,
        frame_rate: str,
        picture: Tensor | None = None,
    ) -> io.NodeOutput:
        _expect_vace_shot(expect_begun(state))
        if frame_rate != ANY_RATE:
            _expect_frame_rate(state)
        _expect_render(state, images, holes)
        if picture is not None:
            picture = expect_picture(state, picture)
        made = control_video(images, holes, frames_to_keep(state, picture))
        seen = best_reference(state, picture) if reference == REFERENCES[0] else None
        cameras, length = state.trajectory, state.chunk.model_frames
        return io.NodeOutput(
            made.frames, made.masks, seen, cameras.width, cameras.height, length
        )


def _expect_vace_shot(state: RolloutState) -> None:
    """Raise `ModelMismatchError` unless a shot is one that VACE can make."""
    if state.cache.kind is MemoryKind.TOKENS:
        raise ModelMismatchError(
            "VACE takes pictures of the memory",
            got=f"a memory of tokens of {state.cache.codec!r}",
            expected="a memory of colours",
            fix="Set what = colours in Mirage Cache Init",
        )
    if state.channels != WAN21_CHANNELS:
        raise ModelMismatchError(
            "VACE makes latents of the Wan2.1 VAE, and the shot was begun with another",
            got=VAE_NAMES.get(state.channels, f"{state.channels} channels"),
            expected=VAE_NAMES[WAN21_CHANNELS],
            fix="Load wan_2.1_vae.safetensors in Load VAE, for Mirage Cache Init and the loop",
        )


def _expect_frame_rate(state: RolloutState) -> None:
    """Raise `PlanError` unless the trajectory has the model's frame rate."""
    path = state.trajectory
    if abs(path.fps - WAN21_FPS) <= RATE_TOLERANCE:
        return
    raise PlanError(
        "The trajectory has another frame rate than the model",
        got=f"{path.fps:g} frames per second",
        expected=f"{WAN21_FPS:g}",
        fix=f"Set fps = {WAN21_FPS:g} in Mirage Rollout Start, which makes {len(path)} frames "
        f"into {frames_at(path, WAN21_FPS)} of the same move; or set frame_rate = {ANY_RATE}",
    )


def _expect_render(state: RolloutState, images: Tensor, holes: Tensor) -> None:
    """Raise `ShapeError` unless there is one drawing and one mask for each frame of the chunk."""
    path, wanted = state.trajectory, state.chunk.model_frames
    fix = "Draw the trajectory of the same Mirage Loop Open with Mirage Render"
    for name, given in (("pictures", images), ("masks", holes)):
        if len(given) != wanted:
            raise ShapeError(
                f"There is not one of the {name} for every frame of the chunk",
                got=f"{len(given)} {name}",
                expected=f"{wanted}, one for each pixel frame",
                fix=f"{fix}. VACE takes frames without a mask as frames to make, without a word",
            )
        if tuple(given.shape[1:3]) != (path.height, path.width):
            raise ShapeError(
                f"The {name} have another size than the trajectory",
                got=" x ".join(str(size) for size in reversed(given.shape[1:3])),
                expected=f"{path.width} x {path.height}",
                fix=fix,
            )


def _made_and_known() -> list[io.Input]:
    """Inputs of nodes that compare what a model made with what the memory knows."""
    return [
        io.Image.Input("frames", tooltip="What the model made."),
        io.Image.Input(
            "images",
            tooltip="The pictures of Mirage Render; or control_video of Mirage VACE Control, "
            "which also has the frames that the chunk begins with.",
        ),
        io.Mask.Input(
            "holes", tooltip="White is unknown: holes of Mirage Render, or control_masks."
        ),
    ]


class MiragePasteKnown(io.ComfyNode):
    """Known pixels over what a video model made of them."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MiragePasteKnown",
            display_name="Mirage Paste Known",
            category=CATEGORY,
            description=(
                "Puts the known pixels of Mirage Render back over the frames that a video model "
                "made, with a soft rim inside the known. Models of the VACE kind change known "
                "pixels a little."
            ),
            search_aliases=["paste back", "composite", "feather", "restore known pixels"],
            inputs=[
                *_made_and_known(),
                io.Int.Input(
                    "feather", default=8, min=0, max=MAX_FEATHER,
                    tooltip="Width in pixels of the rim over which known pixels fade in.",
                ),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=1.0, step=0.01,
                    tooltip="1: known pixels as they were. 0: the frames as they are.",
                ),
            ],
            outputs=[io.Image.Output(display_name="frames")],
        )

    @classmethod
    @override
    def execute(
        cls, frames: Tensor, images: Tensor, holes: Tensor, feather: int, strength: float
    ) -> io.NodeOutput:
        if strength == 0:
            return io.NodeOutput(frames)
        pasted = paste_known(
            frames[..., :3], images, holes, feather, strength, progress(len(frames))
        )
        return io.NodeOutput(pasted)


class MirageMatchColours(io.ComfyNode):
    """A chunk's frames in the colours of the memory, before they are written to it."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageMatchColours",
            display_name="Mirage Match Colours",
            category=CATEGORY,
            description=(
                "Brings the frames that a video model made to the colours of the memory, by mean "
                "and spread of the pixels that the memory knows: one shift for the whole chunk. "
                "Models shift colours a little with every chunk, and shifts add up."
            ),
            search_aliases=["colour drift", "color match", "color correction", "white balance"],
            inputs=[
                *_made_and_known(),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=1.0, step=0.01,
                    tooltip="1: all of the shift. 0: the frames as they are.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="frames"),
                io.String.Output(
                    display_name="report", tooltip="How far the colours were moved."
                ),
            ],
        )

    @classmethod
    @override
    def execute(
        cls, frames: Tensor, images: Tensor, holes: Tensor, strength: float
    ) -> io.NodeOutput:
        matched, shift = match_colours(frames[..., :3], images, holes, strength)
        logger.info(shift.describe())
        return io.NodeOutput(matched if strength else frames, shift.describe())
