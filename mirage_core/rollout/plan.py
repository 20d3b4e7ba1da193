"""Cutting a shot into chunks that the video model can generate at once."""

from __future__ import annotations

from dataclasses import dataclass

from ..constants import MAX_CHUNK_FRAMES, TEMPORAL_STRIDE
from ..errors import PlanError, TrajectoryError
from ..validate import expect_frame_count

MIN_ROLLOUT_FRAMES = TEMPORAL_STRIDE + 1
"""The shortest chunk: the given frame and one latent frame to generate."""


@dataclass(frozen=True)
class ChunkLengths:
    """How long the chunks of a shot are, in pixel frames; each number is 4n + 1.

    Attributes:
        first: Frames of the first chunk.
        later: Most frames that the model sees of every later chunk.
        overlap: How many of those are the last ones of the chunk before, and known.

    Raises:
        PlanError: A number is not 4n + 1, or a chunk is not longer than the overlap.
    """

    first: int = MAX_CHUNK_FRAMES
    later: int = MAX_CHUNK_FRAMES
    overlap: int = 1

    def __post_init__(self) -> None:
        expect_frame_count(self.first, "The length of the first chunk")
        expect_frame_count(self.later, "The length of the later chunks")
        expect_frame_count(self.overlap, "The overlap of the chunks")
        shortest = min(self.first, self.later)
        if shortest <= self.overlap:
            raise PlanError(
                "A chunk is not longer than the overlap",
                got=f"chunks of {self.first} and {self.later} frames that overlap by "
                f"{self.overlap}",
                expected=f"at least {self.overlap + TEMPORAL_STRIDE} frames in a chunk",
                fix="Raise the length of the chunks, or lower the overlap",
            )

    @property
    def overlap_latents(self) -> int:
        """K, latent frames of the overlap."""
        return _latents_of(self.overlap)

    @property
    def are_default(self) -> bool:
        """True for the lengths of a shot for which none were chosen."""
        return self == ChunkLengths()

    def describe(self) -> str:
        """A few words for people."""
        return f"{self.first} frames, then {self.later} of which {self.overlap} overlap"


@dataclass(frozen=True)
class Chunk:
    """One step of the loop.

    Attributes:
        index: Number of the chunk, from 0.
        output_start: First pixel frame that the chunk adds to the video.
        output_end: One past its last pixel frame.
        overlap: Pixel frames that it shares with the chunk before, if there is one: 4n + 1.
    """

    index: int
    output_start: int
    output_end: int
    overlap: int = 1

    @property
    def first_frame(self) -> int:
        """First pixel frame that the model sees: of the last ``overlap`` before, the first."""
        return max(0, self.output_start - self.overlap)

    @property
    def shared_frames(self) -> int:
        """Pixel frames that the model sees and the chunk before made; 0 for the first chunk."""
        return self.output_start - self.first_frame

    @property
    def shared_latents(self) -> int:
        """Latent frames of these; 0 for the first chunk."""
        return _latents_of(self.shared_frames) if self.shared_frames else 0

    @property
    def clean_latents(self) -> int:
        """K, the leading latent frames that are known: the given picture, or what is shared."""
        return max(1, self.shared_latents)

    @property
    def model_frames(self) -> int:
        """Pixel frames that the model sees, the overlapping ones included: 4n + 1."""
        return self.output_end - self.first_frame

    @property
    def pose_frames(self) -> list[int]:
        """The pixel frame whose camera each latent frame takes."""
        return list(range(self.first_frame, self.output_end, TEMPORAL_STRIDE))

    @property
    def latent_frames(self) -> int:
        """Latent frames that the model sees."""
        return _latents_of(self.model_frames)


def plan_chunks(frames: int, lengths: ChunkLengths | None = None) -> tuple[Chunk, ...]:
    """Chunks of at most so many model frames; each begins in the end of the one before.

    The last chunk is as short as the shot leaves it.

    Args:
        frames: Pixel frames of the whole shot, 4n + 1.
        lengths: How long the chunks are; 33 frames that overlap by one when None.

    Raises:
        PlanError: The frame count is not 4n + 1.
    """
    expect_frame_count(frames)
    lengths = lengths or ChunkLengths()
    chunks = [Chunk(0, 0, min(lengths.first, frames), lengths.overlap)]
    while chunks[-1].output_end < frames:
        start = chunks[-1].output_end
        end = min(start + lengths.later - lengths.overlap, frames)
        chunks.append(Chunk(len(chunks), start, end, lengths.overlap))
    return tuple(chunks)


def expect_rollout_length(frames: int) -> None:
    """Raise unless a shot is long enough to generate anything.

    Raises:
        PlanError: The frame count is not 4n + 1.
        TrajectoryError: There is nothing to generate.
    """
    expect_frame_count(frames)
    if frames < MIN_ROLLOUT_FRAMES:
        raise TrajectoryError(
            "The trajectory is shorter than one chunk",
            got=f"{frames} frames",
            expected=f"at least {MIN_ROLLOUT_FRAMES} frames",
            fix="Raise the number of frames of the trajectory",
        )


def _latents_of(frames: int) -> int:
    """Latent frames of a clip of 4n + 1 pixel frames."""
    return (frames - 1) // TEMPORAL_STRIDE + 1
