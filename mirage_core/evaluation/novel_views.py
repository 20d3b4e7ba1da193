"""``re10k``: shots made again from their first frame and their cameras, and closed loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from ..rollout.depth_source import DepthSource
from ..training.data.build_clip import Shot
from .estimators import described
from .quality import PROTOCOL, Quality
from .shots import Shots, along, first_shot, still_pixels, there_and_back
from .systems import System
from .task import Choice, Column, Outcome, Value
from .variations import Variation

DepthFactory = Callable[[], DepthSource]
"""Loads what estimates depth; is sent to the workers."""

LOOP: Final = "there_and_back"

SHOWN: Final = 5
"""Frames on the pictures."""

SHOT_PROTOCOL: Final = (
    Choice(
        "size", "footage scaled to cover the size, the middle cut out",
        "our choice; the released code cuts 1280 x 704 out of the middle without scaling",
    ),
    Choice(
        "frames", "the first shot of each item; its first frame is given and does not count",
        "first frame and poses are given: the paper, Table 2; which frames count is our choice",
    ),
    Choice(
        "depth",
        "of the given frame, and of the later true frames as they are remembered, as the footage "
        "has it; with --depth-model estimated from the frames that were made",
        "the paper estimates the depth of made frames; depth of true frames is better than that",
    ),
    Choice(
        "pixels", "all, but for those that geometry of every frame excludes as moving (PSNR)",
        "our choice",
    ),
)  # fmt: skip

LOOP_PROTOCOL: Final = Choice(
    "closed loop (C)",
    "to the middle of the shot and back on the same cameras; the last frame against the given "
    "picture, which a video model's first frame is a copy of",
    "go and return, last against first: the paper, Table 2; where to turn is our choice",
)


@dataclass(frozen=True)
class NovelViews:
    """Novel views and closed loops.

    Attributes:
        shots: The footage.
        system: What makes the shots.
        quality: How pictures are compared.
        depth: Makes what estimates the depth of made frames; the footage's own when None.
    """

    shots: Shots
    system: System
    quality: Quality = field(default_factory=Quality)
    depth: DepthFactory | None = None

    name: ClassVar[str] = "re10k"
    title: ClassVar[str] = "Novel views from one picture, and closed loops"
    about: ClassVar[str] = (
        "A shot is made again from its first frame and its cameras, and compared with the true "
        "one. Then the camera goes there and comes back, and the last frame is compared with the "
        "given picture (C). Table 2 of the paper, which has RealEstate10K."
    )

    @property
    def columns(self) -> tuple[Column, ...]:
        """What is measured."""
        more = (Column("known", "shown by the memory", 3, ""), Column("points", "points", 0, ""))
        return (*self.quality.columns(), *self.quality.columns("_c", " C"), *more)

    @property
    def protocol(self) -> tuple[Choice, ...]:
        """How it is measured."""
        return (*SHOT_PROTOCOL, LOOP_PROTOCOL, *PROTOCOL)

    def settings(self) -> dict[str, Any]:
        """What results depend on."""
        return shared_settings(self.shots, self.system, self.quality, self.depth)

    def items(self) -> Sequence[str]:
        """The footage."""
        return self.shots.items()

    def prepare(self) -> None:
        """Load the model, and the networks of the metrics."""
        self.quality.prepare()
        self.system.prepare()
        _ = self.estimate

    @cached_property
    def estimate(self) -> DepthSource | None:
        """What estimates the depth of made frames; None for the footage's own."""
        return None if self.depth is None else self.depth()

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "estimate"}

    def run(self, item: str) -> Outcome:
        """Make both shots of one item.

        Raises:
            MirageError: The item cannot be read, or the shot cannot be made.
        """
        shot = first_shot(self.shots, item)
        values, pictures = judge(self.system, shot, self.quality, depth=self.estimate)
        return Outcome({self.system.name: values}, pictures)


def shared_settings(
    shots: Shots, system: System, quality: Quality, depth: DepthFactory | None
) -> dict[str, Any]:
    """What results of made shots depend on."""
    source = "of the footage" if depth is None else described(depth, "estimated")
    estimated = {"depth": source}
    return {**shots.settings(), **system.settings(), **estimated, **quality.settings()}


def judge(
    system: System,
    shot: Shot,
    quality: Quality,
    variation: Variation | None = None,
    depth: DepthSource | None = None,
) -> tuple[dict[str, Value], dict[str, Tensor]]:
    """Make a shot again, and its closed loop.

    Returns:
        Measurements by column, and strips of frames by what they show.
    """
    path = list(range((len(shot.frames) - 1) // 4 * 4 + 1))
    turned = there_and_back(len(path))
    there, loop_request = along(shot, path, depth), along(shot, turned, depth, LOOP)
    system.announce((there, loop_request))
    made = system.shoot(there, variation)
    still = still_pixels(shot, path)
    values = quality(
        made.frames[1:], shot.frames[path[1:]], None if still is None else still[1:]
    )
    loop = system.shoot(loop_request, variation)
    values |= quality(loop.frames[-1:], shot.frames[:1], suffix="_c")
    values |= made.remembered()
    truth, name = strip(shot.frames[path]), system.name if variation is None else variation.name
    return values, {"truth": truth, name: strip(made.frames), f"{name} C": strip(loop.frames)}


def strip(frames: Tensor) -> Tensor:
    """Some frames (F, H, W, 3) side by side, from the first to the last, every second pixel."""
    chosen = torch.linspace(0, len(frames) - 1, SHOWN).round().long()
    return torch.cat(list(frames[chosen, ::2, ::2].float().cpu()), dim=1)
