"""``holes``: what share of the cells a memory of one frame leaves open, by its downsampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cache.build import WriteConfig
from ..codecs.base import LatentCodec
from ..codecs.dct import DctCodec
from ..constants import MAX_CHUNK_FRAMES, TEMPORAL_STRIDE
from ..geometry.depth import DEPTH_MODES
from ..readout.readout import Readout, read
from ..rollout.memory import begin_memory
from ..rollout.settings import MemorySettings
from ..training.data.build_clip import CHUNK_STEP, Shot
from .novel_views import strip
from .results import means
from .shots import Shots, first_shot
from .task import Choice, Column, Outcome, Value

FILTERS: Final = {
    "": WriteConfig(drop_flying=False, cutouts=False),
    ", cut and filtered": WriteConfig(),
}
"""Ending of the name of a way, and how depth becomes points beside its downsampling: every cell
one point, as in the paper, and as this project writes."""

HOLE: Final = (0.85, 0.1, 0.1)
"""Colour of holes on the pictures."""


@dataclass(frozen=True)
class Holes:
    """Hole rates of the four downsamplings of depth.

    Attributes:
        shots: The footage.
    """

    shots: Shots

    name: ClassVar[str] = "holes"
    title: ClassVar[str] = "Holes that the downsampling of depth leaves"
    about: ClassVar[str] = (
        "The first frame of every chunk is lifted, its depth brought to the latent grid in one of "
        "four ways, and read at the cameras of the chunk. Table 5 of the paper."
    )

    @property
    def columns(self) -> tuple[Column, ...]:
        """What is measured."""
        return (
            Column("hole_rate", "hole rate", 4, "lower"),
            Column("token_error", "token error", 4, "lower"),
            Column("points", "points", 0, ""),
        )

    @property
    def protocol(self) -> tuple[Choice, ...]:
        """How it is measured."""
        own = "our choice; the paper's is not known to us"
        return (
            Choice("size", "footage scaled to cover the size, the middle cut out", own),
            Choice(
                "frames", "of each chunk of 33 frames the first is remembered, and alone; read at "
                "the cameras of its other latent frames, every fourth frame", own,
            ),
            Choice(
                "hole rate", "share of cells without a point, mean over these latent frames, then "
                "over chunks, then over items", "a hole is an empty cell: the paper, Table 5; the "
                "order of the means is our choice",
            ),
            Choice(
                "token error", "mean square error against tokens of the true frame, encoded "
                "alone, where the memory shows one; embedded codec", "our choice",
            ),
            Choice(
                "points", "one for each cell; *cut and filtered*: two at depth edges, none that "
                "hang between surfaces", "the paper, Eq. 7 and 8; ours",
            ),
        )  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """What results depend on."""
        return self.shots.settings()

    def items(self) -> Sequence[str]:
        """The footage."""
        return self.shots.items()

    def prepare(self) -> None:
        """There is nothing to load."""

    def run(self, item: str) -> Outcome:
        """Measure all ways on one item.

        Raises:
            MirageError: The item cannot be read.
        """
        shot = first_shot(self.shots, item)
        later = shot.frames[TEMPORAL_STRIDE:MAX_CHUNK_FRAMES:TEMPORAL_STRIDE]
        ways: dict[str, dict[str, Value]] = {}
        pictures = {"truth": strip(later)}
        for ending, write in FILTERS.items():
            for mode in DEPTH_MODES:
                way = f"{mode}{ending}"
                config = WriteConfig(mode, write.drop_flying, write.cutouts)
                ways[way], shown = _measured(shot, config)
                # The ways of one ending differ by less than can be seen.
                if not ending or mode == DEPTH_MODES[0]:
                    pictures[f"{way} (red: holes)"] = strip(shown)
        return Outcome(ways, pictures)


def _measured(shot: Shot, write: WriteConfig) -> tuple[dict[str, Value], Tensor]:
    """Means over the chunks, and frames (T, H, W, 3) of what the first one shows."""
    codec = DctCodec()
    starts = range(0, len(shot.frames) - CHUNK_STEP, CHUNK_STEP)
    chunks = [_chunk(shot, start, write, codec) for start in starts]
    first = chunks[0][1]
    return means([values for values, _ in chunks]), _pictured(first, codec)


def _pictured(shown: Readout, codec: DctCodec) -> Tensor:
    """(T - 1, H, W, 3) what a readout shows to all but its first camera, holes red."""
    frames = codec.decode_images(shown.tokens[:, 1:].float())
    cells = (~shown.visible[1:, None]).float()
    holes = F.interpolate(cells, frames.shape[1:3], mode="nearest-exact")[:, 0] > 0
    return torch.where(holes[..., None], frames.new_tensor(HOLE), frames)


def _chunk(
    shot: Shot, start: int, write: WriteConfig, codec: LatentCodec
) -> tuple[dict[str, Value], Readout]:
    step = 1 if len(shot.geometry) == len(shot.frames) else TEMPORAL_STRIDE
    cameras = shot.cameras.select(slice(start, start + MAX_CHUNK_FRAMES))
    cache = begin_memory(
        codec.encode_images(shot.frames[[start]]), shot.geometry.select([start // step]),
        codec.name, MemorySettings(write=write), world_to_camera=cameras.world_to_camera[:1],
    )  # fmt: skip
    shown = read(cache, cameras)
    later = shot.frames[start : start + MAX_CHUNK_FRAMES : TEMPORAL_STRIDE][1:]
    values: dict[str, Value] = {
        "hole_rate": float((~shown.visible[1:]).float().mean()),
        "token_error": _error(shown.tokens[:, 1:], shown.visible[1:], codec.encode_images(later)),
        "points": float(len(cache)),
    }
    return values, shown


def _error(tokens: Tensor, visible: Tensor, truth: Tensor) -> float | None:
    """Mean square error of (C, T, h, w) where ``visible`` (T, h, w); None where that is nowhere."""
    if not bool(torch.any(visible)):
        return None
    return float((tokens.float() - truth).square().mean(dim=0)[visible].mean())
