"""The parts of the loop that hold weights, or stand for what does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..actors.update import CastConfig
from ..codecs.base import LatentCodec
from ..conditioning.condition import Condition
from ..errors import ModelMismatchError
from ..geometry.trajectory import Trajectory
from ..masks.types import FrameMasks
from ..sampling.solve import Denoise
from .conditions import ConditionSource, ProjectionSource, TokenConditions
from .depth_source import DepthSource
from .state import RolloutState

DenoiserFactory = Callable[[Condition], Denoise]
"""Makes the model ready for one chunk."""

Preparation = Callable[[RolloutState], None]
"""Sets the video model up for the next chunk, from the state before it alone."""

MaskSource = Callable[[Tensor, Trajectory, Sequence[int]], FrameMasks | None]
"""Masks of a chunk's decoded frames (4T - 3, H, W, 3) in 0..1 with their cameras and their numbers
in the shot; None where nothing is looked for."""


@dataclass(frozen=True)
class GenerationModels:
    """What `mirage_core.rollout.generate.generate` needs besides the state.

    Attributes:
        codec: Pixels to latents and back.
        denoiser: The video model.
        depth: Depth of the frames that a chunk adds.
        device: Where latents are sampled; the models move what they get to their own devices.
        masks: Finds what moves, and the sky; None remembers everything. What it tells apart is
            written to actors.
        cast: How actors are made and known again.
        projection: What the side branch is shown; None shows the readout's tokens. Branches
            that take drawings want `mirage_core.preview.drawn.drawn_latents`.
        conditions: Makes what the video model is told about a chunk; from a memory of tokens,
            with ``projection``, when None.
        prepare: Called before every chunk, the first one of a resumed shot too.
    """

    codec: LatentCodec
    denoiser: DenoiserFactory
    depth: DepthSource
    device: torch.device = torch.device("cpu")
    masks: MaskSource | None = None
    cast: CastConfig | None = None
    projection: ProjectionSource | None = None
    conditions: ConditionSource | None = None
    prepare: Preparation | None = None

    def __post_init__(self) -> None:
        if self.conditions is not None and self.projection is not None:
            raise ModelMismatchError(
                "Two parts say what the side branch is shown",
                got="conditions and projection",
                fix="Give one of the two",
            )

    @property
    def condition_source(self) -> ConditionSource:
        """Makes what the video model is told about a chunk."""
        return self.conditions or TokenConditions(self.projection)

    def expect_fitting(self, state: RolloutState) -> None:
        """Raise `ModelMismatchError` unless the memory is one that conditions are made of."""
        self.condition_source.expect_fitting(state, self.codec)
