"""`RolloutState`: the one value that the chunk loop carries."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from torch import Tensor

from ..cache.types import LatentCache
from ..codecs.memory_kind import MemoryKind
from ..errors import ResumeError, ShapeError
from ..geometry.camera import latent_size, latent_stride
from ..geometry.trajectory import Trajectory
from ..validate import expect_shape
from .chain import chunk_chains
from .plan import Chunk, ChunkLengths, expect_rollout_length, plan_chunks

SEED_STEP: Final = 0x9E3779B97F4A7C15
"""Odd constant that spreads (seed, chunk) over 64 bits."""


@dataclass(frozen=True)
class ChunkStatistics:
    """What is worth knowing of a finished chunk.

    Attributes:
        index: Number of the chunk.
        hole_rate: Share of cells that the memory did not show before the chunk was made.
        points: Points in the memory after the chunk.
        memory_bytes: Bytes of the memory after the chunk.
        latent_mean: Mean of the chunk's new latents; drifts when colours drift.
        latent_std: Standard deviation of the chunk's new latents.
    """

    index: int
    hole_rate: float
    points: int
    memory_bytes: int
    latent_mean: float
    latent_std: float


@dataclass(frozen=True, eq=False)
class ChunkRecord:
    """What a finished chunk leaves behind for the chunks after it.

    Attributes:
        latents: (C, T_new, h, w) model-space latents that the chunk added.
        projections: (C, T_new, h, w) tokens that the memory showed when they were made; 0 for a
            memory of colours.
        visible: (T_new, y, x) bool, where it showed anything, on the grid of
            `RolloutState.grid`: that of the latents, or each cell k x k of theirs.
        planes: (3, T_new, y, x) sub-cell offset and change of depth of what it showed, see
            `mirage_core.readout.readout.Readout.planes`; None in files of earlier versions.
        overlap: (C, K, h, w) model-space latents of the chunk's last decoded frames, encoded as
            a clip of their own: the clean latents of the next chunk. None where the chunk's last
            latent serves as that, and after the last chunk of an earlier version.
    """

    latents: Tensor
    projections: Tensor
    visible: Tensor
    planes: Tensor | None = None
    overlap: Tensor | None = None

    def __post_init__(self) -> None:
        sizes = expect_shape("The chunk's latents", self.latents, "C T h w")
        expect_shape("The chunk's projections", self.projections, "C T h w", **sizes)
        if self.overlap is not None:
            cell = {name: sizes[name] for name in "Chw"}
            expect_shape("The encoded overlap", self.overlap, "C K h w", **cell)
        seen = expect_shape("The chunk's visibility", self.visible, "T y x", T=sizes["T"])
        if self.planes is not None:
            expect_shape("The chunk's planes", self.planes, "3 T y x", **seen)
        scale = max(1, sizes["h"] // max(1, seen["y"]))
        if (seen["y"] * scale, seen["x"] * scale) != (sizes["h"], sizes["w"]):
            raise ShapeError(
                "The chunk's visibility has the wrong shape",
                got=tuple(self.visible.shape),
                expected=f"the grid of latents {tuple(self.latents.shape)}, or one so much coarser",
            )


@dataclass(frozen=True)
class TakenOver:
    """Finished chunks that another shot made.

    Attributes:
        chunks: How many.
        folders: Names of the folders that they were taken from.
    """

    chunks: int
    folders: tuple[str, ...]

    def describe(self, chunks: int) -> str:
        """A few words for people, of a shot of so many chunks."""
        return f"{self.chunks} of {chunks} chunks taken over from {', '.join(self.folders)}"


@dataclass(frozen=True, eq=False)
class RolloutState:
    """Everything a rollout needs to go on; immutable, and saved after every chunk.

    Attributes:
        trajectory: Cameras of the whole shot.
        cache: The memory.
        first_latent: (C, 1, h, w) model-space latent of the given picture, on `latent_grid`.
        seed: Seed of the shot; the noise of chunk k follows from (seed, k).
        run_id: Digest of everything the result depends on.
        folder: Where chunks are saved; None keeps nothing on disk.
        done: Chunks that are finished.
        last: What the newest chunk left; None before the first.
        statistics: One entry per finished chunk.
        lengths: How long the chunks are, and by how much they overlap.
        digest: Of the newest finished chunk's file, which the next one names as the one that it
            follows; None before the first, for a chunk of an earlier version, and where nothing
            is kept on disk.
        start: From `mirage_core.rollout.chain.shot_start`. By it chunks are told apart, and taken
            over from other shots that begin in the same way; None goes by ``run_id`` alone.
        taken_over: The chunks that were, since the shot was begun or taken up.

    Raises:
        PlanError: The trajectory's length is not 4n + 1.
        TrajectoryError: The trajectory is too short to generate anything.
        ShapeError: The picture size is not a multiple of 32, or the latent has another size.
    """

    trajectory: Trajectory
    cache: LatentCache
    first_latent: Tensor
    seed: int
    run_id: str
    folder: Path | None = None
    done: int = 0
    last: ChunkRecord | None = None
    statistics: tuple[ChunkStatistics, ...] = ()
    lengths: ChunkLengths = field(default_factory=ChunkLengths)
    digest: str | None = None
    start: str | None = None
    taken_over: TakenOver | None = None
    plan: tuple[Chunk, ...] = field(init=False)

    def __post_init__(self) -> None:
        expect_rollout_length(len(self.trajectory))
        expect_shape("The picture's latent", self.first_latent, "C 1 h w")
        tokens = self.cache.kind is MemoryKind.TOKENS
        grid = self.grid
        height, width = grid if tokens else self.latent_grid
        known = {"C": self.cache.channels} if tokens else {}
        expect_shape(
            "The picture's latent", self.first_latent, "C 1 h w", h=height, w=width, **known
        )
        object.__setattr__(self, "plan", plan_chunks(len(self.trajectory), self.lengths))

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the grid of geometry, masks and visibility: cells of 16 pixels."""
        return latent_size(self.trajectory.width, self.trajectory.height)

    @property
    def latent_grid(self) -> tuple[int, int]:
        """(h, w) of the shot's latents: `grid`, or with the Wan2.1 VAE one twice as fine."""
        stride = latent_stride(self.channels)
        return self.trajectory.height // stride, self.trajectory.width // stride

    @property
    def memory_grid(self) -> tuple[int, int]:
        """(h, w) of the grid on which frames are written to the memory."""
        stride = self.cache.stride
        return self.trajectory.height // stride, self.trajectory.width // stride

    @property
    def channels(self) -> int:
        """C of the shot's latents, which is not the memory's own where that holds colours."""
        return int(self.first_latent.shape[0])

    @cached_property
    def chains(self) -> tuple[str, ...]:
        """What each chunk of the plan depends on, see `mirage_core.rollout.chain`."""
        return () if self.start is None else chunk_chains(self.start, self.trajectory, self.plan)

    @property
    def complete(self) -> bool:
        """True when every chunk is finished."""
        return self.done >= len(self.plan)

    @property
    def remaining(self) -> int:
        """Chunks still to make."""
        return len(self.plan) - self.done

    @property
    def chunk(self) -> Chunk:
        """The chunk to make next.

        Raises:
            ResumeError: The rollout is complete.
        """
        if self.complete:
            raise ResumeError("The rollout is complete: there is no chunk left to make")
        return self.plan[self.done]

    @property
    def frame_cameras(self) -> Trajectory:
        """Cameras of all pixel frames of the next chunk, the overlapping ones included."""
        return self.trajectory.select(slice(self.chunk.first_frame, self.chunk.output_end))

    @property
    def latent_cameras(self) -> Trajectory:
        """Cameras of the latent frames of the next chunk: every fourth pixel frame."""
        return self.trajectory.select(self.chunk.pose_frames)

    @property
    def overlap_latent(self) -> Tensor:
        """(C, K, h, w): the clean leading latents of the next chunk."""
        if self.last is None:
            return self.first_latent
        return self.last.latents[:, -1:] if self.last.overlap is None else self.last.overlap

    @property
    def frames_to_encode(self) -> int:
        """How many of the next chunk's last frames are encoded for the chunk after it.

        0 where its last latent serves as it is. The last chunk's are encoded too: a longer shot
        goes on from there.
        """
        return self.lengths.overlap if self.lengths.overlap > 1 else 0

    def advanced(
        self, record: ChunkRecord, cache: LatentCache, statistics: ChunkStatistics
    ) -> RolloutState:
        """The state after the next chunk was made."""
        return dataclasses.replace(
            self,
            cache=cache,
            done=self.done + 1,
            last=record,
            statistics=(*self.statistics, statistics),
            digest=None,
        )

    def taking_over(self, chunks: int, folder: Path) -> RolloutState:
        """The same state, whose newest chunks came from the folder of another shot."""
        before = self.taken_over or TakenOver(0, ())
        taken = TakenOver(before.chunks + chunks, (*before.folders, folder.name))
        return dataclasses.replace(self, taken_over=taken)


def chunk_seed(seed: int, chunk: int) -> int:
    """Seed of a chunk's noise, from the shot's seed and the chunk's number."""
    return (seed + chunk * SEED_STEP) % (1 << 63)


def rollout_id(
    trajectory: Trajectory,
    cache: LatentCache,
    first_latent: Tensor,
    seed: int,
    settings: str,
    lengths: ChunkLengths | None = None,
) -> str:
    """Digest of everything that a rollout's result depends on.

    Args:
        trajectory: Cameras of the whole shot.
        cache: The memory at the start.
        first_latent: Latent of the given picture.
        seed: Seed of the shot.
        settings: Any text that stands for the models and settings in use.
        lengths: How long the chunks are. Only lengths that differ from the default are part of
            the digest: a saved shot of which none are known goes on.
    """
    lengths = lengths or ChunkLengths()
    parts = [trajectory.fingerprint(), cache.fingerprint(), str(seed), settings]
    if not lengths.are_default:
        parts.append(f"chunks={lengths.first},{lengths.later},{lengths.overlap}")
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\0")
    digest.update(first_latent.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
