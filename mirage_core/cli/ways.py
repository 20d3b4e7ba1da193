"""What the video model is shown of the memory, and the defaults that each way brings."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Any, Final

from ..codecs.colours import COARSEST_FOR_SHOTS, ColourCodec
from ..errors import TrajectoryError, ValueRangeError
from ..geometry.trajectory import Trajectory
from ..readout.shared_points import SHARED_REFERENCES
from ..rollout.plan import ChunkLengths
from ..rollout.settings import GenerationSettings
from ..rollout.spatia import FRAMES_PER_SECOND
from ..validate import expect_range

RATE_TOLERANCE: Final = 0.05
"""Frames per second by which a rate may differ from a model's own: 23.976 is as good as 24."""


@dataclass(frozen=True)
class Way:
    """How a shot is made when no option says otherwise.

    Attributes:
        lengths: How long the chunks are.
        settings: How chunks are generated.
        guidance: Scale of classifier-free guidance.
        colours: Remember colours in place of tokens.
        rate: The only frame rate of the camera path, in frames per second; None takes any.
        refused: Options that mean nothing in this way, and why.
    """

    lengths: ChunkLengths = field(default_factory=ChunkLengths)
    settings: GenerationSettings = field(default_factory=GenerationSettings)
    guidance: float = 1.0
    colours: bool = False
    rate: float | None = None
    refused: tuple[tuple[str, str], ...] = ()

    def expect_fitting(self, arguments: argparse.Namespace) -> None:
        """Raise `ValueRangeError` for an option that means nothing in this way."""
        for name, reason in self.refused:
            if getattr(arguments, name) not in (None, False):
                raise ValueRangeError(
                    f"--{name.replace('_', '-')} cannot be used with --way {arguments.way}",
                    got=getattr(arguments, name),
                    expected=reason,
                    fix="Leave the option out",
                )

    def expect_rate(self, trajectory: Trajectory) -> None:
        """Raise `TrajectoryError` for a camera path at another frame rate than the model's."""
        if self.rate is not None and abs(trajectory.fps - self.rate) > RATE_TOLERANCE:
            raise TrajectoryError(
                "The camera path has another frame rate than the video model",
                got=f"{trajectory.fps:g} frames per second",
                expected=f"{self.rate:g}",
                fix=f"Set --fps {self.rate:g} for a --move or for a file that states no rate, or "
                f"export the path again with one camera for every 1/{self.rate:g} of a second",
            )


WAYS: Final = ("mirage", "spatia")
"""``mirage`` shows tokens to a branch of the method's, ``spatia`` draws colours for Spatia's."""


def find_way(name: str) -> Way:
    """One of `WAYS`."""
    if name == "mirage":
        return Way(refused=(("colour_step", "a way that remembers colours: --way spatia"),))
    return Way(
        lengths=ChunkLengths(121, 81, 9),
        settings=GenerationSettings(references=SHARED_REFERENCES, preceding=0),
        guidance=3.5,
        colours=True,
        rate=FRAMES_PER_SECOND,
        refused=(
            ("released", "settings of another model's code"),
            ("preceding", "no frames beside the chunk: it begins with the past itself"),
            ("min_overlap", "references that are assigned one to one, without a least overlap"),
        ),
    )


def add_way(group: Any) -> None:
    """Add the choice of the way to a group of arguments."""
    group.add_argument(
        "--way", choices=WAYS, default="mirage",
        help="what the model is shown: the memory's tokens (mirage, the default), or drawings of "
        "a memory of colours, for Spatia's weights; sets defaults, which other options override",
    )  # fmt: skip
    group.add_argument(
        "--colour-step", type=int,
        help="with --way spatia: pixels along each side of a remembered colour, 1 or 2 "
        "(default: 1)",
    )  # fmt: skip


def add_lengths(group: Any) -> None:
    """Add the lengths of chunks to a group of arguments."""
    group.add_argument(
        "--first-chunk-frames", type=int,
        help="frames of the first chunk, 4n + 1 (default: 33; spatia: 121)",
    )  # fmt: skip
    group.add_argument(
        "--chunk-frames", type=int,
        help="frames of every later chunk, 4n + 1, those of the overlap included (default: 33; "
        "spatia: 81)",
    )  # fmt: skip
    group.add_argument(
        "--overlap-frames", type=int,
        help="frames at the end of a chunk that the next one begins with, 4n + 1 (default: 1; "
        "spatia: 9)",
    )  # fmt: skip


def way_of(arguments: argparse.Namespace) -> Way:
    """The way that the arguments ask for.

    Raises:
        ValueRangeError: An option means nothing in it.
    """
    way = find_way(arguments.way)
    way.expect_fitting(arguments)
    return way


def lengths_of(arguments: argparse.Namespace) -> ChunkLengths:
    """How long the chunks are, from the arguments.

    Raises:
        PlanError: A number is not 4n + 1, or a chunk is not longer than the overlap.
    """
    given = (arguments.first_chunk_frames, arguments.chunk_frames, arguments.overlap_frames)
    usual = find_way(arguments.way).lengths
    first, later, overlap = (
        own if number is None else number
        for number, own in zip(given, (usual.first, usual.later, usual.overlap), strict=True)
    )
    return ChunkLengths(first, later, overlap)


def colours_of(arguments: argparse.Namespace) -> ColourCodec | None:
    """What makes the memory's colours; None for a memory of tokens.

    Raises:
        ValueRangeError: The step is neither 1 nor 2.
    """
    if not find_way(arguments.way).colours:
        return None
    step = 1 if arguments.colour_step is None else arguments.colour_step
    expect_range("The pixels along each side of a point", step, 1, COARSEST_FOR_SHOTS)
    return ColourCodec(step)
