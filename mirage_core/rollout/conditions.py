"""Where a chunk's condition comes from: the part of the loop that knows what a model is shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..codecs.base import LatentCodec, expect_same_codec
from ..conditioning.condition import Condition
from ..readout.readout import Readout
from .context import chunk_condition
from .settings import GenerationSettings
from .state import RolloutState

ProjectionSource = Callable[[Readout], Tensor]
"""What a side branch is shown of a readout, (C, T, h, w) in model space."""

OnPart = Callable[[int, int], None]
"""Called with (done, total) while a condition is made. May raise to cancel."""


class ConditionSource(Protocol):
    """Makes what the video model is told about a chunk."""

    def expect_fitting(self, state: RolloutState, codec: LatentCodec, /) -> None:
        """Raise `ModelMismatchError` unless conditions can be made of the shot's memory."""

    def __call__(
        self,
        state: RolloutState,
        readout: Readout,
        settings: GenerationSettings,
        on_part: OnPart | None = None,
        /,
    ) -> Condition:
        """The condition of the next chunk.

        Args:
            state: The state before the chunk.
            readout: What the memory shows to the chunk's T latent cameras.
            settings: How the shot is generated.
            on_part: Called while it is made; may raise to cancel.
        """


@dataclass(frozen=True)
class TokenConditions:
    """Conditions from a memory of tokens, see `mirage_core.rollout.context.chunk_condition`.

    Attributes:
        projection: What the side branch is shown; None shows the readout's tokens.
    """

    projection: ProjectionSource | None = None

    def expect_fitting(self, state: RolloutState, codec: LatentCodec) -> None:
        """Raise `ModelMismatchError` unless the memory holds this codec's tokens."""
        expect_same_codec(state.cache.codec, codec)

    def __call__(
        self,
        state: RolloutState,
        readout: Readout,
        settings: GenerationSettings,
        on_part: OnPart | None = None,
    ) -> Condition:
        """The condition of the next chunk; it is made in one go, without ``on_part``."""
        condition = chunk_condition(
            state,
            readout,
            references=settings.references,
            preceding=settings.preceding,
            threshold=settings.threshold,
            exclude_seen=settings.exclude_seen,
        )
        if self.projection is None:
            return condition
        return dataclasses.replace(condition, projection=self.projection(readout))
