"""``ablation``: one system with one thing changed at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from .novel_views import LOOP_PROTOCOL, SHOT_PROTOCOL, NovelViews, judge
from .quality import PROTOCOL
from .shots import first_shot
from .task import Choice, Column, Outcome, Value
from .variations import DEFAULT_VARIATIONS, Variation


@dataclass(frozen=True)
class Ablation:
    """Variations of a system on the same shots, with the same seeds.

    Attributes:
        base: The shots, the system and the metrics.
        variations: What is changed; the first one is what others are compared with.
    """

    base: NovelViews
    variations: tuple[Variation, ...] = DEFAULT_VARIATIONS

    name: ClassVar[str] = "ablation"
    title: ClassVar[str] = "One thing changed at a time"
    about: ClassVar[str] = (
        "The same shots and closed loops (C), with the same seeds, by one system with something "
        "changed. Table 3 of the paper."
    )

    @property
    def columns(self) -> tuple[Column, ...]:
        """What is measured."""
        return self.base.columns

    @property
    def protocol(self) -> tuple[Choice, ...]:
        """How it is measured."""
        ours = "our choice"
        return (
            Choice("latent", "the method: tokens of the shot's own codec", "the paper"),
            Choice(
                "colours", "a colour for every pixel, drawn at the latent cameras and encoded "
                "again; the preview: one for 2 x 2 pixels, drawn for every frame", ours,
            ),
            Choice(
                "upsampled features", "tokens brought to every pixel, bilinear; read by their mean "
                "over each cell", "the paper has such a row; how it interpolates is our reading",
            ),
            Choice(
                "forgetting", "the memory begins anew with the last frame before every chunk", ours
            ),
            Choice(
                "no filter", "what the geometry excludes is remembered: moving things, the sky",
                "the paper has such a row; where the masks come from is the data's affair",
            ),
            Choice("append, novelty", "every cell is written; only what is new", "the paper; ours"),
            *SHOT_PROTOCOL, LOOP_PROTOCOL, *PROTOCOL,
        )  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """What results depend on."""
        rows = [variation.describe() for variation in self.variations]
        return {**self.base.settings(), "variations": rows}

    def items(self) -> Sequence[str]:
        """The footage."""
        return self.base.items()

    def prepare(self) -> None:
        """Load the model, and the networks of the metrics."""
        self.base.prepare()

    def run(self, item: str) -> Outcome:
        """Make the shots of one item in all variations.

        Raises:
            MirageError: The item cannot be read, or a shot cannot be made.
        """
        shot = first_shot(self.base.shots, item)
        ways: dict[str, dict[str, Value]] = {}
        pictures: dict[str, Tensor] = {}
        for variation in self.variations:
            ways[variation.name], strips = judge(
                self.base.system, shot, self.base.quality, variation, self.base.estimate
            )
            pictures |= {name: strips[name] for name in strips if not name.endswith(" C")}
        return Outcome(ways, pictures)
