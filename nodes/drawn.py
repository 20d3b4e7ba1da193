"""What side branches are shown of a memory of colours: drawn and encoded for one chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..mirage_core.checkpoints.branch import BranchConfig
from ..mirage_core.codecs.memory_kind import memory_drawer
from ..mirage_core.conditioning.condition import Condition
from ..mirage_core.conditioning.features import no_render_branch
from ..mirage_core.errors import ModelMismatchError
from ..mirage_core.log import logger
from ..mirage_core.ops.best_view import BestView
from ..mirage_core.preview.drawn import drawn_tokens
from ..mirage_core.readout.readout import Readout
from ..mirage_core.rollout.context import expect_readout
from ..mirage_core.rollout.spatia import (
    FRAMES_PER_SECOND,
    References,
    drawn_condition,
    whole_memory,
)
from ..mirage_core.rollout.state import RolloutState
from .comfy.device import drawing_device
from .comfy.ui import progress
from .comfy.vae import VaeCodec, dct_codec

if TYPE_CHECKING:
    import comfy.sd


def expect_render_branch(config: BranchConfig | None) -> None:
    """Raise `ModelMismatchError` unless there is a branch that is steered by drawings."""
    if config is None or not (config.needs_render or config.needs_drawing):
        raise no_render_branch(None if config is None else config.features)


def colours_as_tokens(
    readout: Readout, vae: comfy.sd.VAE | None, view: BestView | None
) -> Tensor:
    """Drawings of a memory of colours as the tokens that the embedded model's branch takes.

    Args:
        readout: Gives the memory, and the cameras of the chunk.
        vae: The embedded codec, of which the shot's latents are.
        view: How the branch wants the memory looked at.

    Returns:
        (C, T, h, w) float32 model-space latents.

    Raises:
        ModelMismatchError: There is no VAE, or another one.
    """
    codec = None if vae is None else dct_codec(vae)
    if codec is None:
        raise ModelMismatchError(
            "The embedded model is shown a memory of colours by drawings of its own codec",
            got="no VAE" if vae is None else "a VAE with weights",
            expected="the VAE of Mirage Embedded Model",
            fix="Connect it to vae",
        )
    cache = readout.cache
    return drawn_tokens(cache, readout.trajectory, memory_drawer(cache.codec), codec, view)


def drawn_condition_of(
    readout: Readout,
    state: RolloutState | None,
    vae: comfy.sd.VAE | None,
    clean: int,
    references: int,
) -> Condition:
    """Draw the memory for every pixel frame of a chunk, and encode it.

    The bar of the node shows how far the drawing is; it stops when cancelled.

    Args:
        readout: Gives the memory, and the cameras of the chunk.
        state: The state before the chunk, from which earlier frames come; without it the model
            sees none.
        vae: Encodes drawings and earlier frames.
        clean: Leading latent frames that are known.
        references: Most earlier frames.

    Raises:
        ModelMismatchError: There is no VAE, or one of another family.
        ShapeError: The readout does not belong to the chunk.
        ResumeError: Earlier frames are needed, and the rollout has no folder.
        CacheFormatError: A clip is missing or damaged.
    """
    if vae is None:
        raise ModelMismatchError(
            "This side branch is shown a drawing of the memory, which has to be encoded",
            got="no VAE",
            expected="the VAE that made the first latent",
            fix="Connect the Wan2.2 VAE to vae",
        )
    codec, earlier = VaeCodec(vae), None
    cloud = whole_memory(readout.cache).to(drawing_device())
    if round(readout.trajectory.fps) != FRAMES_PER_SECOND:
        logger.warning(
            "The camera path has %g frames per second; Spatia's branch was trained with %g",
            readout.trajectory.fps, FRAMES_PER_SECOND,
        )  # fmt: skip
    step = progress(len(readout.trajectory))
    if state is not None:
        expect_readout(state, readout)
        rule = References()
        # The bar is that of the drawing: looking through cameras takes no time beside it.
        chosen = rule.choose(state, cloud.points, references, lambda _done, _of: step(0, 1))
        earlier = rule.encode(state, codec, chosen)
    return drawn_condition(
        cloud, readout, codec, clean=clean, references=earlier, on_frame=step
    )
