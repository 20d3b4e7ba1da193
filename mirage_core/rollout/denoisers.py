"""The library's video model as the loop takes it: one denoiser per chunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..codecs.base import LatentCodec, expect_drawable
from ..conditioning.condition import Condition
from ..conditioning.features import no_render, no_render_branch
from ..errors import ModelMismatchError
from ..models.denoiser import MirageDenoiser
from ..models.lora import switch_lora
from ..preview.drawn import Drawings
from .conditions import ProjectionSource
from .spatia import SpatiaConditions
from .state import RolloutState


def projection_source(transformer: Any, codec: LatentCodec) -> ProjectionSource | None:
    """What the model's side branch is shown of a readout; None for the readout's tokens.

    Raises:
        ModelMismatchError: The branch takes drawings, and the codec's tokens cannot be drawn; or
            it is steered by renders, which a memory of tokens does not give.
    """
    branch = transformer.branch_config
    if branch is not None and branch.needs_render:
        raise no_render()
    if branch is None or not branch.needs_drawing:
        return None
    drawable = expect_drawable(
        codec,
        "This side branch takes tokens that are drawn one by one",
        "Use --embedded-codec, or another side branch",
    )
    return Drawings(drawable, branch.drawn_view)


def render_source(transformer: Any, codec: LatentCodec) -> SpatiaConditions:
    """Conditions for a model whose side branch is steered by drawings of a memory of colours.

    Raises:
        ModelMismatchError: The model has no side branch, or one that takes something else.
    """
    branch = transformer.branch_config
    if branch is None or not branch.needs_render:
        raise no_render_branch(None if branch is None else branch.features)
    return SpatiaConditions(codec)


@dataclass(frozen=True, eq=False)
class TransformerDenoisers:
    """Makes the video model ready for each chunk of a shot.

    Attributes:
        transformer: A `mirage_core.models.transformer.MirageTransformer3DModel`.
        text: (1, L, text_dim) encoded prompt.
        negative: (1, L, text_dim) encoded negative prompt; needed unless ``guidance`` is 1.
        codec: Makes the white latent, for branches that take one.
        guidance: Scale of classifier-free guidance; 1 runs the model once for each step.
        side_scale: Factor on the side branch's hints.
    """

    transformer: Any
    text: Tensor
    negative: Tensor | None = None
    codec: LatentCodec | None = None
    guidance: float = 1.0
    side_scale: float = 1.0

    def __call__(self, condition: Condition) -> MirageDenoiser:
        """The denoiser of one chunk.

        Raises:
            ModelMismatchError: The model has no side branch, or nothing makes the white latent
                that it takes.
        """
        return MirageDenoiser(
            self.transformer,
            condition,
            self.text,
            negative=self.negative,
            white=self._white_latent(condition),
            guidance=self.guidance,
            side_scale=self.side_scale,
        )

    def _white_latent(self, condition: Condition) -> Tensor | None:
        branch = self.transformer.branch_config
        if branch is None or not branch.needs_white or self.side_scale == 0:
            return None
        if self.codec is None:
            raise ModelMismatchError(
                "This side branch also takes the latent of a white video",
                got="no codec that makes it",
                fix="Give the codec of the memory",
            )
        codec = self.codec
        height, width = (codec.spatial_stride * int(n) for n in condition.visible.shape[1:])
        frames = (condition.segments.main - 1) * codec.temporal_stride + 1
        return codec.white_latent(frames, height, width)


@dataclass(frozen=True, eq=False)
class LaterLora:
    """Switches a LoRA off for the first chunk of a shot, and on for all that follow.

    Which of the two holds follows from the state alone, so a shot that is resumed in its middle
    goes on with the LoRA. The weights are never copied.

    Attributes:
        transformer: The model, to which `mirage_core.models.lora.apply_lora` added the LoRA.
        name: Of its adapter.
    """

    transformer: Any
    name: str

    def __call__(self, state: RolloutState) -> None:
        """Set the model up for the next chunk.

        Raises:
            ModelMismatchError: The model has no such adapter.
        """
        switch_lora(self.transformer, self.name, on=state.done > 0)
