"""How a shot is generated: every choice that its frames depend on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Final

import torch

from ..cache.build import WriteConfig
from ..geometry.align import AlignConfig
from ..geometry.camera import PixelConvention
from ..readout.overlap import DEFAULT_REFERENCES, MIN_OVERLAP
from ..sampling.schedule import DEFAULT_SHIFT, DEFAULT_STEPS, sigma_schedule
from ..validate import expect_range
from .context import MAX_CONTEXT_FRAMES, PRECEDING

CARRIED: Final = 2
"""Latents that are decoded again before each chunk."""


@dataclass(frozen=True)
class GenerationSettings:
    """Settings of the whole loop; the defaults are the project's, see also `released`.

    Attributes:
        steps: Sampling steps of a chunk.
        shift: How far the noise levels lean towards high noise.
        method: ``unipc`` or ``euler``.
        integer_timesteps: Cut timesteps to whole numbers, as the released sampler does.
        references: Most reference frames.
        preceding: Most preceding frames.
        threshold: Least voxel overlap of a reference frame.
        exclude_seen: Never take an overlapping or preceding frame as a reference.
        carried: Latents of earlier chunks that are decoded along with a chunk, for temporal
            context at its beginning.
        policy: Write policy of the memory.
        reencode: Remember decoded frames, each encoded alone, as the paper does; off remembers
            the generated latents themselves, as the released code does.
        first_twice: Remember the given picture a second time with the first chunk.
        write: How depth becomes points.
        align: How estimated depth is brought to the memory's scale, and when it is refused.
            Depth in scene units stays as it is.
        hold_back: Keep out of the memory what other views contradict, and forget what is gone.
        convention: Pixel convention of the memory.
        token_dtype: Type of remembered tokens.

    Raises:
        ValueRangeError: A number is out of range.
    """

    steps: int = DEFAULT_STEPS
    shift: float = DEFAULT_SHIFT
    method: str = "unipc"
    integer_timesteps: bool = True
    references: int = DEFAULT_REFERENCES
    preceding: int = PRECEDING
    threshold: float = MIN_OVERLAP
    exclude_seen: bool = True
    carried: int = CARRIED
    policy: str = "novelty"
    reencode: bool = True
    first_twice: bool = False
    write: WriteConfig = field(default_factory=WriteConfig)
    align: AlignConfig = field(default_factory=AlignConfig)
    hold_back: bool = False
    convention: PixelConvention = PixelConvention.PAPER
    token_dtype: torch.dtype = torch.float16

    def __post_init__(self) -> None:
        sigma_schedule(self.steps, self.shift)
        expect_range("The number of reference frames", self.references, 0, MAX_CONTEXT_FRAMES)
        expect_range("The number of preceding frames", self.preceding, 0, MAX_CONTEXT_FRAMES)
        expect_range("The number of carried latents", self.carried, 0, MAX_CONTEXT_FRAMES)
        expect_range("The least overlap", self.threshold, 0, 1)

    @classmethod
    def released(cls) -> GenerationSettings:
        """What the released code does, for checkpoints that were trained with it.

        Its own default of 20 steps is kept as well; the paper takes 40.
        """
        return cls(
            steps=20,
            exclude_seen=False,
            carried=0,
            policy="append",
            reencode=False,
            first_twice=True,
            write=WriteConfig(drop_flying=False),
            align=AlignConfig("none"),
            convention=PixelConvention.RELEASED,
        )

    def describe(self) -> str:
        """Text that differs whenever a setting does, for the rollout's id."""
        values = dataclasses.asdict(self)
        return ";".join(f"{name}={values[name]}" for name in sorted(values))
