"""Cutting a shot into chunks that the video model can generate at once."""

from __future__ import annotations

from dataclasses import dataclass

from ..constants import MAX_CHUNK_FRAMES, TEMPORAL_STRIDE
from ..errors import TrajectoryError
from ..validate import expect_frame_count

MIN_ROLLOUT_FRAMES = TEMPORAL_STRIDE + 1
"""The shortest chunk: the given frame and one latent frame to generate."""


@dataclass(frozen=True)
class Chunk:
    """One step of the loop.

    Attributes:
        index: Number of the chunk, from 0.
        output_start: First pixel frame that the chunk adds to the video.
        output_end: One past its last pixel frame.
    """

    index: int
    output_start: int
    output_end: int

    @property
    def first_frame(self) -> int:
        """First pixel frame that the model sees: the last frame of the chunk before."""
        return max(0, self.output_start - 1)

    @property
    def model_frames(self) -> int:
        """Pixel frames that the model sees, the overlapping one included: 4n + 1."""
        return self.output_end - self.first_frame

    @property
    def pose_frames(self) -> list[int]:
        """The pixel frame whose camera each latent frame takes."""
        return list(range(self.first_frame, self.output_end, TEMPORAL_STRIDE))

    @property
    def latent_frames(self) -> int:
        """Latent frames that the model sees."""
        return (self.model_frames - 1) // TEMPORAL_STRIDE + 1


def plan_chunks(frames: int) -> tuple[Chunk, ...]:
    """Chunks of at most 33 model frames; each begins at the last frame of the one before.

    Args:
        frames: Pixel frames of the whole shot, 4n + 1.

    Raises:
        PlanError: The frame count is not 4n + 1.
    """
    expect_frame_count(frames)
    chunks = [Chunk(0, 0, min(MAX_CHUNK_FRAMES, frames))]
    while chunks[-1].output_end < frames:
        start = chunks[-1].output_end
        end = min(start + MAX_CHUNK_FRAMES - 1, frames)
        chunks.append(Chunk(len(chunks), start, end))
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
