"""``efficiency``: what reading the memory and making a chunk costs, tokens beside colours."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from ..cache.accounting import footprint
from ..cache.build import observe
from ..cache.types import LatentCache
from ..codecs.base import LatentCodec
from ..codecs.colours import ColourCodec
from ..codecs.dct import DctCodec
from ..constants import TEMPORAL_STRIDE, WHITE_8
from ..geometry.trajectory import Trajectory
from ..readout.readout import read, read_winners
from ..training.data.build_clip import CHUNK_STEP, Shot
from ..validate import expect_range
from ..writing.policy import write
from .cost_plot import AFTER, cost_pictures
from .shots import Shots, along, first_shot
from .systems import System
from .task import Choice, Column, Outcome, Value

STAGES: Final = ("sampling", "drawing", "decoding", "depth", "memory", "saving")
"""Of a chunk, see `mirage_core.rollout.progress`; the first is a video model's, the second also
that of the preview."""

Codec = Callable[[], LatentCodec]
"""Loads the codec that encodes what is drawn; is sent to the workers."""


@dataclass(frozen=True)
class Efficiency:
    """Seconds and bytes, chunk by chunk.

    Attributes:
        shots: The footage.
        system: What makes whole chunks.
        runs: How often each read is timed; the median counts.
        codec: Loads the codec of the memory of tokens, which also encodes what is drawn.
        device: Where the memories are.

    Raises:
        ValueRangeError: There is no run.
    """

    shots: Shots
    system: System
    runs: int = 5
    codec: Codec = DctCodec
    device: str = "cpu"

    name: ClassVar[str] = "efficiency"
    title: ClassVar[str] = "What the memory costs, chunk by chunk"
    about: ClassVar[str] = (
        "The true frames of a shot are written chunk by chunk to a memory of tokens and to one of "
        "colours, both of every latent frame; after each chunk both are read for the next one. "
        "Then the system makes the shot. Figure 5 and appendix B of the paper."
    )

    def __post_init__(self) -> None:
        expect_range("The number of timed runs", self.runs, 1, 10_000)

    @property
    def columns(self) -> tuple[Column, ...]:
        """What is measured."""
        no_device = "" if self.device.startswith("cuda") else "the memories are on the CPU"
        return (
            Column("read_ms", "read, ms", 2, "lower"),
            Column("render_ms", "of it drawing, ms", 2, "lower"),
            Column("encode_ms", "of it encoding, ms", 2, "lower"),
            Column("ratio", "times faster than colours", 1),
            Column("mebibytes", "memory, MiB", 2, "lower"),
            Column("less", "times smaller than colours", 1),
            Column("points", "points", 0, ""),
            Column("device_mib", "peak of the read, MiB", 1, "lower", no_device),
            Column("chunk_s", "whole chunk, s", 2, "lower"),
            Column("step_s", "a step, s", 3, "lower"),
            *(Column(f"{stage}_s", f"{stage}, s", 3, "lower") for stage in STAGES),
        )

    @property
    def protocol(self) -> tuple[Choice, ...]:
        """How it is measured."""
        ours = "our choice"
        return (
            Choice(
                "what is read", "tokens: the latent cameras of the next chunk; colours: every "
                "pixel frame of it, drawn at full size, holes black, and encoded as a video",
                "render and encode against read: the paper, Figure 5",
            ),
            Choice(
                "what is remembered", "every cell, and every pixel, of every fourth frame (append)",
                "the paper's update; every fourth frame for both is our choice",
            ),
            Choice(
                "time", f"wall clock, median of {self.runs} runs after one that does not count; "
                "the device's queue is empty before and after", ours,
            ),
            Choice("memory", "all bytes of the points, cameras included", ours),
            Choice(
                "peak of the read", "what the read allocates at most beyond the memory itself",
                "the paper's peak is of the whole GPU",
            ),
            Choice(
                "whole chunk", "mean over the chunks of the shot, by stage; files included", ours
            ),
        )  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """What results depend on."""
        machine = {"device": self.device, "processor": platform.machine(), "runs": self.runs}
        return {**self.shots.settings(), **self.system.settings(), **machine}

    def items(self) -> Sequence[str]:
        """The footage."""
        return self.shots.items()

    def prepare(self) -> None:
        """Load the model."""
        self.system.prepare()

    def run(self, item: str) -> Outcome:
        """Measure one item.

        Raises:
            MirageError: The item cannot be read, or the shot cannot be made.
        """
        shot = first_shot(self.shots, item)
        codec = self.codec()
        ways: dict[str, dict[str, Value]] = {}
        chunks = (len(shot.frames) - 1) // CHUNK_STEP
        memories = {"tokens": _empty(codec), "colours": _empty(ColourCodec())}
        with torch.inference_mode():
            for number in range(chunks):
                memories = {
                    name: self._written(cache, codec, shot, number)
                    for name, cache in memories.items()
                }
                ways |= self._reads(memories, codec, shot, number)
        ways[self.system.name] = self._made(shot, chunks)
        return Outcome(ways, cost_pictures(ways))

    def _written(
        self, cache: LatentCache, codec: LatentCodec, shot: Shot, chunk: int
    ) -> LatentCache:
        """A memory with one more chunk of true frames; the first has its first frame as well."""
        first = chunk * CHUNK_STEP + (TEMPORAL_STRIDE if chunk else 0)
        numbers = list(range(first, (chunk + 1) * CHUNK_STEP + 1, TEMPORAL_STRIDE))
        step = 1 if len(shot.geometry) == len(shot.frames) else TEMPORAL_STRIDE
        own = ColourCodec() if cache.codec == ColourCodec().name else codec
        tokens = own.encode_images(shot.frames[numbers]).cpu()
        seen = observe(
            tokens if tokens.dtype == torch.uint8 else tokens.half(),
            shot.geometry.select([number // step for number in numbers]),
            world_to_camera=shot.cameras.world_to_camera[numbers],
            frames=torch.tensor(numbers),
        )
        return write(cache, seen, "append")

    def _reads(
        self, memories: dict[str, LatentCache], codec: LatentCodec, shot: Shot, chunk: int
    ) -> dict[str, dict[str, Value]]:
        first = min((chunk + 1) * CHUNK_STEP, len(shot.frames) - 1 - CHUNK_STEP)
        cameras = shot.cameras.select(slice(first, first + CHUNK_STEP + 1))
        place = torch.device(self.device)
        tokens, colours = memories["tokens"].to(place), memories["colours"].to(place)
        reading, peak = self._timed(lambda: read(tokens, cameras))
        rendering, drawn_peak = self._timed(lambda: draw(colours, cameras))
        pictures = draw(colours, cameras)
        encoding, encoded_peak = self._timed(lambda: codec.encode(pictures))
        other = None
        if drawn_peak is not None and encoded_peak is not None:
            other = max(drawn_peak, encoded_peak)
        less = footprint(colours).total / footprint(tokens).total
        after = f"{AFTER}{chunk + 1}"
        return {
            f"tokens{after}": {
                "read_ms": reading, "ratio": (rendering + encoding) / reading, "less": less,
                **_size(tokens), "device_mib": peak,
            },
            f"colours{after}": {
                "read_ms": rendering + encoding, "render_ms": rendering, "encode_ms": encoding,
                **_size(colours), "device_mib": other,
            },
        }  # fmt: skip

    def _timed(self, call: Callable[[], object]) -> tuple[float, float | None]:
        """Median milliseconds of a call, and MiB that it allocates at most on the device."""
        cuda = self.device.startswith("cuda")
        call()
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        held, found = torch.cuda.memory_allocated() if cuda else 0, []
        for _ in range(self.runs):
            since = time.perf_counter()
            call()
            if cuda:
                torch.cuda.synchronize()
            found.append(1e3 * (time.perf_counter() - since))
        peak = (torch.cuda.max_memory_allocated() - held) / 2**20 if cuda else None
        return statistics.median(found), peak

    def _made(self, shot: Shot, chunks: int) -> dict[str, Value]:
        made = self.system.shoot(along(shot, range(chunks * CHUNK_STEP + 1)))
        seconds = {stage: value / chunks for stage, value in made.seconds.items()}
        steps = self.system.settings().get("steps")
        found: dict[str, Value] = {
            f"{stage}_s": seconds[stage] for stage in STAGES if stage in seconds
        }
        if steps and "sampling" in seconds:
            found["step_s"] = seconds["sampling"] / steps
        held = made.memory_bytes
        cost = {"mebibytes": None if held is None else held / 2**20, "points": made.points}
        return {**found, **cost, "chunk_s": sum(seconds.values())}


def _empty(codec: LatentCodec | ColourCodec) -> LatentCache:
    return LatentCache(codec=codec.name, channels=codec.channels)


def _size(cache: LatentCache) -> dict[str, Value]:
    return {"mebibytes": footprint(cache).mebibytes, "points": float(len(cache))}


def draw(cache: LatentCache, cameras: Trajectory) -> Tensor:
    """Nearest colours of a memory of colours as (F, H, W, 3) pictures in 0..1, holes black."""
    size = (cameras.height, cameras.width)
    winner, _ = read_winners(cache, cameras.world_to_camera, cameras.intrinsics, size)
    colours = cache.gather(winner, [block.tokens for block in cache.blocks])
    return torch.where((winner >= 0)[..., None], colours.float() / WHITE_8, 0.0)
