"""The parts of the loop that hold weights, or stand for what does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..codecs.base import LatentCodec, expect_same_codec
from ..conditioning.condition import Condition
from ..geometry.trajectory import Trajectory
from ..readout.readout import Readout
from ..sampling.solve import Denoise
from .chunk_geometry import Masks
from .depth_source import DepthSource
from .state import RolloutState

DenoiserFactory = Callable[[Condition], Denoise]
"""Makes the model ready for one chunk."""

ProjectionSource = Callable[[Readout], Tensor]
"""What a side branch is shown of a readout, (C, T, h, w) in model space."""

MaskSource = Callable[[Tensor, Trajectory], Masks]
"""Masks of a chunk's decoded frames (4T - 3, H, W, 3) in 0..1 with their cameras, by the name
that errors give them, such as `mirage_core.rollout.chunk_geometry.DYNAMIC`."""


@dataclass(frozen=True)
class GenerationModels:
    """What `mirage_core.rollout.generate.generate` needs besides the state.

    Attributes:
        codec: Pixels to latents and back.
        denoiser: The video model.
        depth: Depth of the frames that a chunk adds.
        device: Where latents are sampled; the models move what they get to their own devices.
        masks: Finds what moves, and the sky; None remembers everything.
        projection: What the side branch is shown; None shows the readout's tokens. Branches
            that take drawings want `mirage_core.preview.render.drawn_latents`.
    """

    codec: LatentCodec
    denoiser: DenoiserFactory
    depth: DepthSource
    device: torch.device = torch.device("cpu")
    masks: MaskSource | None = None
    projection: ProjectionSource | None = None

    def expect_fitting(self, state: RolloutState) -> None:
        """Raise `ModelMismatchError` unless the memory holds this codec's tokens."""
        expect_same_codec(state.cache.codec, self.codec)
