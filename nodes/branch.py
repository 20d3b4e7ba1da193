"""Giving the video model what the memory knows, with a side branch or without one."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io
from torch import Tensor
from typing_extensions import override

from ..mirage_core.checkpoints.branch import BranchConfig
from ..mirage_core.checkpoints.branch_file import split_merged
from ..mirage_core.checkpoints.branch_format import FORMATS
from ..mirage_core.codecs.base import expect_same_codec
from ..mirage_core.codecs.dct import CODEC_NAME, DctCodec
from ..mirage_core.codecs.memory_kind import MemoryKind, expect_tokens
from ..mirage_core.conditioning.condition import Condition
from ..mirage_core.errors import ShapeError
from ..mirage_core.log import logger
from ..mirage_core.preview.drawn import drawn_latents
from ..mirage_core.readout.overlap import DEFAULT_REFERENCES
from ..mirage_core.readout.readout import Readout
from ..mirage_core.rollout.context import chunk_condition
from ..mirage_core.rollout.settings import DEFAULT_PRECEDING
from ..mirage_core.rollout.state import RolloutState
from ..mirage_core.validate import expect_token_channels
from .comfy.chunk_guide import ChunkGuide, Side, chunk_latent, without_mirage
from .comfy.model import (
    BRANCH_FOLDER,
    MODEL_FOLDER,
    Backbone,
    Branch,
    Patcher,
    branch_from_file,
    expect_fitting_loras,
    expect_video_model,
    model_file,
    model_files,
    split_targets,
)
from .comfy.vae import Latent, VaeCodec, clean_tokens
from .drawn import colours_as_tokens, drawn_condition_of, expect_render_branch
from .shot import expect_begun
from .types import BranchType, ReadoutType, StateType

if TYPE_CHECKING:
    import comfy.sd

MAX_PRECEDING = 2
"""Preceding frames that any released model was trained with."""

MAX_REFERENCES = 8
"""Reference frames that any released model was trained with."""

READOUT_TIP = "Readout of the memory for the chunk's cameras."
FIRST_TIP = "Clean first latent of the chunk, from Mirage Loop Open or Mirage Cache Init."


def format_input() -> io.Combo.Input:
    """What a branch with 96 input planes was made for, where its file does not say it."""
    return io.Combo.Input(
        "format", options=list(FORMATS), default="auto", optional=True,
        tooltip="Meaning of a branch's 96 input channels. Used only if the file does not state "
        "it. auto: decided by the file name, an error if that is not possible. mirage: for "
        "checkpoints of the released code. spatia: for step-8500.safetensors of Spatia.",
    )  # fmt: skip


class MirageLoadBranch(io.ComfyNode):
    """The side branch that tells the video model what the memory shows."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageLoadBranch",
            display_name="Mirage Load Branch",
            category="Mirage/sampling",
            description=(
                "Loads a side branch from models/model_patches. Its layers, input channels and "
                "width are read from the file. ComfyUI loads and offloads its weights like those "
                "of any model."
            ),
            search_aliases=["vace", "controlnet", "model patch", "load side branch"],
            inputs=[
                io.Combo.Input(
                    "branch_name", options=model_files(BRANCH_FOLDER),
                    tooltip="A side-branch file (*_vace.safetensors) in models/model_patches.",
                ),
                format_input(),
            ],
            outputs=[BranchType.Output(display_name="branch")],
        )

    @classmethod
    @override
    def execute(cls, branch_name: str, format: str = "auto") -> io.NodeOutput:
        return io.NodeOutput(branch_from_file(model_file(BRANCH_FOLDER, branch_name), format))


class MirageApply(io.ComfyNode):
    """A video model that sees the memory."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageApply",
            display_name="Mirage Apply",
            category="Mirage/sampling",
            description=(
                "Conditions Wan2.2-TI2V-5B on the memory for one chunk: on the readout through a "
                "side branch, and on earlier frames as clean frames next to the generated ones. "
                "Spatia's branch is shown a drawing of a memory of colours. The model works with "
                "any sampler and guider; sample the latent output."
            ),
            search_aliases=["condition", "apply controlnet", "vace", "memory to model", "camera"],
            inputs=[
                io.Model.Input("model", tooltip="Wan2.2-TI2V-5B, with LoRAs if any."),
                ReadoutType.Input("readout", tooltip=READOUT_TIP),
                io.Latent.Input("first_latent", tooltip=FIRST_TIP),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=2.0, step=0.01,
                    tooltip="Strength of the side branch; 0 is the plain model, which "
                    "does not see earlier frames either.",
                ),
                io.Int.Input(
                    "references", default=DEFAULT_REFERENCES, min=0, max=MAX_REFERENCES,
                    tooltip="Maximum number of earlier frames of the same place that the model "
                    "sees. Each one slows down every step.",
                ),
                io.Int.Input(
                    "preceding", default=DEFAULT_PRECEDING, min=0, max=MAX_PRECEDING,
                    tooltip="Maximum number of frames right before the chunk that the model sees.",
                ),
                io.Float.Input(
                    "start_percent", default=0.0, min=0.0, max=1.0, step=0.001, advanced=True,
                    tooltip="Position in the noise schedule at which the side branch starts.",
                ),
                io.Float.Input(
                    "end_percent", default=1.0, min=0.0, max=1.0, step=0.001, advanced=True,
                    tooltip="Position in the noise schedule at which the side branch ends.",
                ),
                BranchType.Input(
                    "branch", optional=True,
                    tooltip="From Mirage Load Branch. Without it the model sees earlier frames "
                    "but not the readout.",
                ),
                StateType.Input(
                    "state", optional=True,
                    tooltip="From Mirage Loop Open: the source of earlier frames.",
                ),
                io.Vae.Input(
                    "vae", optional=True,
                    tooltip="The VAE of the shot; required by branches with 96 channels.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model"),
                io.Latent.Output(display_name="latent"),
            ],
        )

    @classmethod
    @override
    def execute(
        cls,
        model: Patcher,
        readout: Readout,
        first_latent: Latent,
        strength: float,
        references: int,
        preceding: int,
        start_percent: float,
        end_percent: float,
        branch: Branch | None = None,
        state: RolloutState | None = None,
        vae: comfy.sd.VAE | None = None,
    ) -> io.NodeOutput:
        colours = readout.cache.kind is MemoryKind.COLOURS
        backbone, first = expect_parts(model, readout, first_latent, colours=colours)
        config = None if branch is None else branch.fitted(backbone)
        if colours:
            expect_render_branch(config)
        latent = chunk_latent(first, len(readout.visible))
        if state is not None:
            _expect_clean(expect_begun(state), first)
        if not strength:
            return io.NodeOutput(without_mirage(model), latent)
        if colours and config is not None and config.needs_render:
            condition = drawn_condition_of(readout, state, vae, first.shape[1], references)
        else:
            shown = shown_to(config, readout, vae)
            condition = _read_condition(readout, state, references, preceding, shown)
        side = None
        if branch is not None and config is not None:
            planes = condition.side_input(
                config.features, white_planes(branch, condition, vae, readout)
            )
            side = Side(branch.patcher, config, planes, strength, start_percent, end_percent)
        if side is None and condition.segments.total == condition.segments.target:
            return io.NodeOutput(without_mirage(model), latent)
        return io.NodeOutput(ChunkGuide(condition, first, side).patch(model), latent)


def _read_condition(
    readout: Readout,
    state: RolloutState | None,
    references: int,
    preceding: int,
    shown: Tensor | None,
) -> Condition:
    """What a memory tells of a chunk, with earlier frames if there is a state."""
    if state is None:
        return Condition.of_readout(readout, shown)
    return chunk_condition(
        state, readout, references=references, preceding=preceding, shown=shown
    )


def _expect_clean(state: RolloutState, first: Tensor) -> None:
    """Raise `ShapeError` unless the first latent is as long as the chunk's known beginning."""
    wanted = state.chunk.clean_latents
    if first.shape[1] != wanted:
        raise ShapeError(
            "The first latent does not cover what the chunk shares with the one before",
            got=f"{first.shape[1]} clean latent frames",
            expected=wanted,
            fix="Connect first_latent of the same Mirage Loop Open",
        )


def shown_to(
    config: BranchConfig | None, readout: Readout, vae: comfy.sd.VAE | None = None
) -> Tensor | None:
    """Drawings of a memory for branches that take these; None for what takes tokens.

    Args:
        config: Of the branch.
        readout: Of the memory, of tokens or of colours.
        vae: Encodes drawings of colours.
    """
    if config is None or not config.needs_drawing:
        return None
    if readout.cache.kind is MemoryKind.COLOURS:
        return colours_as_tokens(readout, vae, config.drawn_view)
    return drawn_latents(readout, DctCodec(), config.drawn_view)


def white_planes(
    branch: Branch, condition: Condition, vae: comfy.sd.VAE | None, readout: Readout
) -> Tensor | None:
    """Latent of a white video (C, T + P, h, w), for branches that take one."""
    if vae is None or not branch.config.needs_white:
        return None
    expect_same_codec(readout.cache.codec, VaeCodec(vae))
    _, height, width = condition.visible.shape
    return branch.white_latent(vae, condition.segments.main, height, width)


def expect_parts(
    model: Patcher, readout: Readout, first_latent: Latent, *, colours: bool = False
) -> tuple[Backbone, Tensor]:
    """The transformer, and the clean leading frames (C, K, h, w) in model space.

    Args:
        model: The video model.
        readout: What the memory shows.
        first_latent: What the chunk begins with.
        colours: Whether a memory of colours will do.

    Raises:
        ModelMismatchError: The model, a LoRA on it or the latent is of another family, or the
            memory holds colours where tokens are needed.
        ShapeError: Readout and first latent have different sizes, or more frames are clean than
            the readout has.
    """
    backbone = expect_video_model(model)
    expect_fitting_loras(model)
    first = clean_tokens(first_latent, "The first latent")
    if not colours:
        expect_tokens(readout.cache.codec)
        expect_token_channels("The readout", readout.tokens.shape[0])
    grid, given = tuple(readout.visible.shape[1:]), tuple(first.shape[2:])
    if grid != given:
        raise ShapeError(
            "The first latent and the readout have different sizes",
            got=f"a latent of {given[0]} x {given[1]} cells",
            expected=f"{grid[0]} x {grid[1]} cells, as in the trajectory",
            fix="Use one size for picture, trajectory and latent",
        )
    if first.shape[1] > len(readout.visible):
        raise ShapeError(
            "The first latent is longer than the chunk",
            got=f"{first.shape[1]} clean latent frames for a readout of {len(readout.visible)}",
            fix="Connect first_latent of Mirage Loop Open, and read the memory for the "
            "trajectory that it gives",
        )
    if readout.cache.codec == CODEC_NAME:
        logger.warning(
            "The memory contains latents of the embedded codec, which the video model was not "
            "trained with: use the Wan2.2 VAE for good pictures"
        )
    return backbone, first


class MirageSplitCheckpoint(io.ComfyNode):
    """Takes a file that holds a video model and its side branch apart."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageSplitCheckpoint",
            display_name="Mirage Split Checkpoint",
            category="Mirage/sampling",
            description=(
                "Splits a file into which a side branch was merged: the video model goes to "
                "output/diffusion_models, the branch to models/model_patches. The file itself "
                "is not changed. Press R afterwards to see the new files in the loaders."
            ),
            search_aliases=["merged model", "extract branch", "vace checkpoint"],
            inputs=[
                io.Combo.Input(
                    "model_name", options=model_files(MODEL_FOLDER),
                    tooltip="A file in models/diffusion_models that contains both.",
                ),
                format_input(),
            ],
            outputs=[
                io.String.Output(display_name="model_path"),
                io.String.Output(display_name="branch_path"),
            ],
            is_output_node=True,
        )

    @classmethod
    @override
    def fingerprint_inputs(cls, **_: Any) -> str:
        # The files may have been moved or deleted since: look every time.
        return uuid.uuid4().hex

    @classmethod
    @override
    def execute(cls, model_name: str, format: str = "auto") -> io.NodeOutput:
        path = model_file(MODEL_FOLDER, model_name)
        model, branch = map(str, split_merged(path, *split_targets(path), form=format))
        return io.NodeOutput(model, branch, ui={"text": (model, branch)})
