"""``captures``: a memory of some frames of a recording, read at frames between them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from ..cache.build import observe
from ..cache.types import LatentCache
from ..codecs.colours import ColourCodec
from ..codecs.dct import DctCodec
from ..codecs.memory_kind import MemoryKind, memory_drawer
from ..errors import ShapeError
from ..metrics import psnr
from ..ops.best_view import BestView
from ..preview.render import render_preview
from ..readout.readout import grid_intrinsics, read_winners
from ..validate import expect_range
from ..writing.policy import WRITE_POLICIES, write
from .quality import PROTOCOL, Quality
from .results import means
from .rgbd import Recordings, Views
from .task import Choice, Column, Outcome, Value

MEMORIES: Final = {"tokens": 16, "colours": 2}
"""What is remembered, and the pixels along each side of what a point stands for."""

VIEWS: Final[dict[str, BestView | None]] = {"best view": BestView(), "nearest": None}
WAYS: Final = tuple(itertools.product(MEMORIES, WRITE_POLICIES, VIEWS))
TOGETHER: Final = 8
"""Frames that enter the memory with one write."""

SHOWN: Final = 4
"""Held-back frames on the pictures."""


@dataclass(frozen=True)
class Captures:
    """Memories of recordings, drawn where no written frame was.

    Attributes:
        data: The recordings.
        every: Every so many frames one is written; the frames half way between are held back.
        held_back: Most held-back frames, evenly spread.
        quality: How pictures are compared.

    Raises:
        ValueRangeError: A number is out of range.
    """

    data: Recordings
    every: int = 20
    held_back: int = 25
    quality: Quality = field(default_factory=Quality)

    name: ClassVar[str] = "captures"
    title: ClassVar[str] = "Recordings of depth cameras: the memory between its frames"
    about: ClassVar[str] = (
        "Every so many frames of a recording are written to a memory; it is drawn at frames half "
        "way between, with no video model. This is ours: the paper has no such table."
    )

    def __post_init__(self) -> None:
        expect_range("The step between written frames", self.every, 2, 10_000)
        expect_range("The number of held-back frames", self.held_back, 1, 100_000)

    @property
    def columns(self) -> tuple[Column, ...]:
        """What is measured."""
        shown, ssim, lpips = self.quality.columns()
        return (
            Column(shown.name, "PSNR where shown, dB"),
            Column("psnr_measured", "PSNR where shown and measured, dB"),
            Column("psnr_all", "PSNR of all, dB"),
            ssim,
            lpips,
            Column("holes", "holes", 4, "lower"),
            Column("token_error", "token error", 4, "lower"),
            Column("points", "points", 0, "lower"),
            Column("mebibytes", "MiB", 2, "lower"),
        )

    @property
    def protocol(self) -> tuple[Choice, ...]:
        """How it is measured."""
        own = "our choice"
        return (
            Choice("size", "pictures scaled to cover the size, the middle cut out", own),
            Choice(
                "frames",
                f"every {self.every}th is written, {TOGETHER} at a time; read half way between, at "
                f"most {self.held_back} frames, evenly spread",
                own,
            ),
            Choice("depth and poses", "as the recording has them, nothing aligned", own),
            Choice(
                "pixels",
                "shown: those on which a point is drawn; measured: those of them at which the "
                "held-back frame has a depth reading; all: holes filled with smooth colour",
                own,
            ),
            Choice(
                "token error",
                "mean square error of tokens in whole cells, where the memory shows one; "
                "of memories of tokens",
                own,
            ),
            Choice("memories", "tokens of the embedded codec; one colour for 2 x 2 pixels", own),
            *PROTOCOL,
        )

    def settings(self) -> dict[str, Any]:
        """What results depend on."""
        own = {"every": self.every, "held_back": self.held_back}
        return {**self.data.settings(), **own, **self.quality.settings()}

    def items(self) -> Sequence[str]:
        """The recordings."""
        return self.data.items()

    def prepare(self) -> None:
        """Load the networks of the metrics."""
        self.quality.prepare()

    def run(self, item: str) -> Outcome:
        """Judge all ways on one recording.

        Raises:
            ShapeError: It is too short for the step.
            CacheFormatError, GeometryError: It cannot be read.
        """
        recording = self.data.open(item)
        written, read_at = self.split(item, len(recording))
        seen, held = recording.select(written), recording.select(read_at)
        ways: dict[str, dict[str, Value]] = {}
        pictures = {"truth": _strip(held.frames)}
        for memory, policy in itertools.product(MEMORIES, WRITE_POLICIES):
            cache = remembered(seen, written, memory, policy)
            for view, rule in VIEWS.items():
                way = f"{memory}, {policy}, {view}"
                ways[way], drawn = self._judged(cache, held, rule)
                if policy == WRITE_POLICIES[0]:
                    pictures[way] = _strip(drawn)
        return Outcome(ways, pictures)

    def split(self, item: str, count: int) -> tuple[list[int], list[int]]:
        """Frames that are written, and those at which the memory is read.

        Raises:
            ShapeError: There are too few frames.
        """
        written = list(range(0, count, self.every))
        between = [n + self.every // 2 for n in written[:-1]]
        if not between:
            raise ShapeError(
                f"{item} is too short",
                got=f"{count} frames",
                expected=f"more than {self.every}, to write two of them",
                fix="Use a smaller --every",
            )
        spread = torch.linspace(0, len(between) - 1, min(self.held_back, len(between)))
        return written, [between[int(n)] for n in spread.round().tolist()]

    def _judged(
        self, cache: LatentCache, held: Views, view: BestView | None
    ) -> tuple[dict[str, Value], Tensor]:
        """Means over the held-back frames, and what was drawn there."""
        rows: list[dict[str, Value]] = []
        pictures = []
        for number in range(len(held)):
            one = held.select([number])
            drawn = render_preview(cache, one.cameras, memory_drawer(cache.codec), view=view)
            shown, measured = ~drawn.holes, one.geometry.depth > 0
            measured = _at_size(measured, shown)
            found = self.quality(drawn.frames, one.frames, shown)
            tokens = cache.kind is MemoryKind.TOKENS
            rows.append(
                {
                    **found,
                    "psnr_measured": _psnr(drawn.frames, one.frames, shown & measured),
                    "psnr_all": psnr(drawn.frames, one.frames),
                    "holes": float(drawn.holes.float().mean()),
                    "token_error": token_error(cache, one, view) if tokens else None,
                }
            )
            pictures.append(drawn.frames[0])
        cost = {"points": float(len(cache)), "mebibytes": cache.nbytes / 2**20}
        return {**means(rows), **cost}, torch.stack(pictures)


def remembered(seen: Views, numbers: Sequence[int], memory: str, policy: str) -> LatentCache:
    """A memory of views, written a few at a time."""
    codec: DctCodec | ColourCodec = DctCodec()
    if memory != "tokens":
        codec = ColourCodec(MEMORIES[memory])
    cache = LatentCache(codec=codec.name, channels=codec.channels)
    for first in range(0, len(seen), TOGETHER):
        part = range(first, min(first + TOGETHER, len(seen)))
        views = seen.select(part)
        tokens = torch.cat([codec.encode_images(frame[None]) for frame in views.frames], dim=1)
        observation = observe(
            tokens, views.geometry, world_to_camera=views.cameras.world_to_camera,
            frames=torch.tensor([numbers[n] for n in part]), allow_empty=True,
        )  # fmt: skip
        cache = write(cache, observation, policy)
    return cache


def token_error(cache: LatentCache, one: Views, view: BestView | None) -> float | None:
    """Mean square error of the tokens in whole cells that are seen; None where none is."""
    truth = DctCodec().encode_images(one.frames)[:, 0]
    size = (int(truth.shape[1]), int(truth.shape[2]))
    lens = grid_intrinsics(one.cameras, size)
    winner, _ = read_winners(cache, one.cameras.world_to_camera, lens, size, view=view)
    seen = winner[0] >= 0
    if not bool(seen.any()):
        return None
    tokens = cache.gather(winner, [block.tokens for block in cache.blocks])[0].float()
    return float((tokens.movedim(-1, 0) - truth).square().mean(dim=0)[seen].mean())


def _psnr(made: Tensor, truth: Tensor, mask: Tensor) -> float | None:
    return psnr(made, truth, mask) if bool(mask.any()) else None


def _at_size(mask: Tensor, like: Tensor) -> Tensor:
    """A mask (F, h, w) at the size of another one, pixels not mixed."""
    if mask.shape == like.shape:
        return mask
    size = (int(like.shape[1]), int(like.shape[2]))
    found = torch.nn.functional.interpolate(mask.float()[:, None], size, mode="nearest-exact")
    return found[:, 0] > 0


def _strip(frames: Tensor) -> Tensor:
    """Some frames side by side, every second pixel."""
    step = max(1, -(-len(frames) // SHOWN))
    return torch.cat(list(frames[::step, ::2, ::2]), dim=1)
