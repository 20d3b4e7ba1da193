"""The library's video model as the loop takes it: one denoiser per chunk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from ..codecs.base import LatentCodec
from ..codecs.dct import DctCodec
from ..conditioning.condition import Condition
from ..constants import SPATIAL_STRIDE, TEMPORAL_STRIDE
from ..errors import ModelMismatchError
from ..models.denoiser import MirageDenoiser
from ..preview.render import drawn_latents
from .generate import SceneSource

WhiteSource = Callable[[int, int, int], Tensor]
"""Latent (C, n + 1, h, w) of a white video, from 4n + 1 pixel frames, height and width, such as
`mirage_core.models.vae.WanCodec.white_latent`."""


def scene_source(transformer: Any, codec: LatentCodec) -> SceneSource | None:
    """What the model's side branch is shown of a readout; None for the readout's tokens.

    Raises:
        ModelMismatchError: The branch takes drawings, and the codec's tokens cannot be drawn.
    """
    branch = transformer.branch_config
    if branch is None or not branch.needs_drawing:
        return None
    if not isinstance(codec, DctCodec):
        raise ModelMismatchError(
            "This side branch takes tokens that are drawn one by one",
            got=f"the codec {codec.name!r}",
            expected="the embedded codec, with which it was trained",
            fix="Use --embedded-codec, or another side branch",
        )
    return partial(drawn_latents, codec=codec)


@dataclass(frozen=True, eq=False)
class TransformerDenoisers:
    """Makes the video model ready for each chunk of a shot.

    Attributes:
        transformer: A `mirage_core.models.transformer.MirageTransformer3DModel`.
        text: (1, L, text_dim) encoded prompt.
        negative: (1, L, text_dim) encoded negative prompt; needed unless ``guidance`` is 1.
        white: Where the white latent comes from, for branches that take one.
        guidance: Scale of classifier-free guidance; 1 runs the model once for each step.
        side_scale: Factor on the side branch's hints.
    """

    transformer: Any
    text: Tensor
    negative: Tensor | None = None
    white: WhiteSource | None = None
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
        if self.white is None:
            raise ModelMismatchError(
                "This side branch also takes the latent of a white video",
                got="no codec that makes it",
                fix="Give the codec's white_latent",
            )
        height, width = condition.visible.shape[1:]
        frames = (condition.segments.main - 1) * TEMPORAL_STRIDE + 1
        return self.white(frames, height * SPATIAL_STRIDE, width * SPATIAL_STRIDE)
