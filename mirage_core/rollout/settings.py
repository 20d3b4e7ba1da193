"""How a shot is generated and remembered: every choice that its frames depend on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from ..cache.build import WriteConfig
from ..geometry.align import AlignConfig
from ..geometry.camera import PixelConvention
from ..geometry.masks import MaskGrowth
from ..ops.best_view import BestView
from ..readout.overlap import DEFAULT_REFERENCES, MIN_OVERLAP
from ..sampling.schedule import DEFAULT_SHIFT, DEFAULT_STEPS, sigma_schedule
from ..sampling.solve import expect_method
from ..validate import expect_range
from ..writing.consistency import ConsistencyConfig
from ..writing.policy import WriteRules

DEFAULT_PRECEDING: Final = 2
"""Preceding latent frames: eight pixel frames (released setting)."""

DEFAULT_DECODE_CONTEXT: Final = 2
"""Latents that are decoded again before each chunk."""

MAX_CONTEXT_FRAMES: Final = 64
"""More reference or preceding frames than any model was trained with."""


@dataclass(frozen=True)
class MemorySettings:
    """How a memory begins, and how each finished chunk enters it.

    Attributes:
        rules: Which cells are written, and what the memory may cost.
        write: How depth becomes points.
        align: How estimated depth is brought to the memory's scale, and when it is refused;
            None compares nothing. Depth in scene units stays as it is.
        growth: How far the masks of moving things and of sky grow.
        consistency: When motion that no mask names stays out, and what has left is removed;
            None never.
        strict: Raise when no frame agrees with the memory, in place of writing nothing.
        reencode: Remember decoded frames, each encoded alone, as the paper does; off remembers
            the generated latents themselves, as the released code does.
        first_twice: Remember the given picture a second time with the first chunk.
        convention: Pixel convention of the memory.
        token_dtype: Type of remembered tokens; int8 keeps a scale with each.
        view: How the memory is looked at while the shot is made: by sampling, by training clips
            and by the test for contradictions. The nearest points, as the models were trained,
            when None.
    """

    rules: WriteRules = field(default_factory=WriteRules)
    write: WriteConfig = field(default_factory=WriteConfig)
    align: AlignConfig | None = field(default_factory=AlignConfig)
    growth: MaskGrowth = field(default_factory=MaskGrowth)
    consistency: ConsistencyConfig | None = None
    strict: bool = False
    reencode: bool = True
    first_twice: bool = False
    convention: PixelConvention = PixelConvention.PAPER
    token_dtype: torch.dtype = torch.float16
    view: BestView | None = None

    @property
    def stored_dtype(self) -> torch.dtype:
        """Floating point type in which tokens come to the memory."""
        return torch.float16 if self.token_dtype == torch.int8 else self.token_dtype

    def as_stored(self, tokens: Tensor) -> Tensor:
        """Tokens in the type in which they come to the memory; uint8 colours as they are."""
        return tokens if tokens.dtype == torch.uint8 else tokens.to(self.stored_dtype)

    @classmethod
    def released(cls) -> MemorySettings:
        """What the released code does."""
        return cls(
            rules=WriteRules("append"),
            write=WriteConfig(drop_flying=False),
            align=AlignConfig("none"),
            reencode=False,
            first_twice=True,
            convention=PixelConvention.RELEASED,
        )


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
        decode_context: Latents of earlier chunks that are decoded along with a chunk, for
            temporal context at its beginning; of use where chunks overlap by one frame.
        memory: How chunks are remembered.

    Raises:
        ValueRangeError: A setting is out of range or unknown.
    """

    steps: int = DEFAULT_STEPS
    shift: float = DEFAULT_SHIFT
    method: str = "unipc"
    integer_timesteps: bool = True
    references: int = DEFAULT_REFERENCES
    preceding: int = DEFAULT_PRECEDING
    threshold: float = MIN_OVERLAP
    exclude_seen: bool = True
    decode_context: int = DEFAULT_DECODE_CONTEXT
    memory: MemorySettings = field(default_factory=MemorySettings)

    def __post_init__(self) -> None:
        sigma_schedule(self.steps, self.shift)
        expect_method(self.method)
        expect_range("The number of reference frames", self.references, 0, MAX_CONTEXT_FRAMES)
        expect_range("The number of preceding frames", self.preceding, 0, MAX_CONTEXT_FRAMES)
        expect_range("The number of carried latents", self.decode_context, 0, MAX_CONTEXT_FRAMES)
        expect_range("The least overlap", self.threshold, 0, 1)

    @classmethod
    def released(cls) -> GenerationSettings:
        """What the released code does, for checkpoints that were trained with it.

        Its own default of 20 steps is kept as well; the paper takes 40.
        """
        return cls(
            steps=20, exclude_seen=False, decode_context=0, memory=MemorySettings.released()
        )

    def remembering(self, **changes: Any) -> GenerationSettings:
        """The same settings with some of `MemorySettings` changed."""
        return dataclasses.replace(self, memory=dataclasses.replace(self.memory, **changes))

    def describe(self) -> str:
        """Text that differs whenever a setting does, for the rollout's id.

        The keys are promises: a shot goes on in its folder as long as they give the same text.
        What came later is named only where it is not the default.
        """
        memory, plain = self.memory, MemorySettings()
        write = dataclasses.asdict(memory.write)
        cutouts = write.pop("cutouts")
        values: dict[str, Any] = {
            "steps": self.steps,
            "shift": self.shift,
            "method": self.method,
            "whole_timesteps": self.integer_timesteps,
            "references": self.references,
            "preceding": self.preceding,
            "threshold": self.threshold,
            "exclude_seen": self.exclude_seen,
            "carried": self.decode_context,
            "policy": memory.rules.policy,
            "reencode": memory.reencode,
            "first_twice": memory.first_twice,
            "write": write,
            "align": None if memory.align is None else dataclasses.asdict(memory.align),
            "hold_back": memory.consistency is not None,
            "convention": memory.convention,
            "token_dtype": memory.token_dtype,
        }
        later = {
            "novelty": (memory.rules.novelty, plain.rules.novelty),
            "limits": (memory.rules.limits, plain.rules.limits),
            "growth": (memory.growth, plain.growth),
            "strict": (memory.strict, plain.strict),
            "view": (memory.view, plain.view),
            "cutouts": (cutouts, plain.write.cutouts),
            "consistency": (memory.consistency or ConsistencyConfig(), ConsistencyConfig()),
        }
        values |= {name: value for name, (value, default) in later.items() if value != default}
        return ";".join(f"{name}={values[name]}" for name in sorted(values))
