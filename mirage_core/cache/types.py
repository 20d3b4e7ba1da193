"""`LatentCache`: an immutable sequence of blocks of points with tokens."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from ..constants import LATENT_CHANNELS, WAN_CODEC
from ..errors import ModelMismatchError, ShapeError
from ..geometry.camera import PixelConvention
from ..geometry.trajectory import expect_intrinsics
from ..ops.splat import BOUNDS_RUN, point_bounds
from ..validate import expect_rigid, expect_shape, expect_token_channels

CONTENT: Final = ("points", "tokens", "source", "slope", "world_to_camera", "intrinsics", "frames")
"""Fields of a block that no other field follows from."""


@dataclass(frozen=True, eq=False)
class CacheBlock:
    """What one update wrote: points, their tokens, and the cameras that saw them.

    Attributes:
        points: (N, 3) float32 in world coordinates; each axis is contiguous in memory.
        tokens: (N, C) model-space latent tokens, float32, bfloat16 or float16.
        source: (N,) int32, which of the block's cameras observed the point.
        slope: (N, 2) float16, how the surface leans in the observing camera, see
            `mirage_core.geometry.depth.surface_slope`.
        world_to_camera: (S, 4, 4) float64 poses of these cameras.
        intrinsics: (S, 3, 3) float64 latent intrinsics of these cameras.
        frames: (S,) int64, the pixel frame of the shot that each camera stands for.
        bounds: (ceil(N / 512), 6) float32 boxes of consecutive points; made when missing.
    """

    points: Tensor
    tokens: Tensor
    source: Tensor
    slope: Tensor
    world_to_camera: Tensor
    intrinsics: Tensor
    frames: Tensor
    bounds: Tensor = field(default_factory=lambda: torch.empty(0))

    def __post_init__(self) -> None:
        points = self.points.detach().float()
        count = expect_shape("The memory's points", points, "N 3")["N"]
        object.__setattr__(self, "points", points.T.contiguous().T)
        object.__setattr__(self, "source", self.source.int())
        object.__setattr__(self, "slope", self.slope.half())
        object.__setattr__(self, "world_to_camera", self.world_to_camera.cpu().double())
        object.__setattr__(self, "intrinsics", self.intrinsics.cpu().double())
        object.__setattr__(self, "frames", self.frames.cpu().long())
        expect_shape("The memory's tokens", self.tokens, "N C", N=count)
        expect_shape("The memory's source index", self.source, "N", N=count)
        expect_shape("The memory's slopes", self.slope, "N 2", N=count)
        cameras = expect_shape("The memory's cameras", self.world_to_camera, "S 4 4")["S"]
        expect_shape("The memory's intrinsics", self.intrinsics, "S 3 3", S=cameras)
        expect_shape("The memory's frame numbers", self.frames, "S", S=cameras)
        expect_rigid("The memory's camera", self.world_to_camera)
        expect_intrinsics("The memory's intrinsics", self.intrinsics)
        if count and not 0 <= int(self.source.min()) <= int(self.source.max()) < cameras:
            raise ShapeError(
                "The memory's points refer to cameras that it does not hold",
                got=f"indices {int(self.source.min())} to {int(self.source.max())}",
                expected=f"0 to {cameras - 1}",
            )
        runs = -(-count // BOUNDS_RUN)
        if self.bounds.shape != (runs, 6):
            object.__setattr__(self, "bounds", point_bounds(self.points))

    def __len__(self) -> int:
        return len(self.points)

    @property
    def nbytes(self) -> int:
        """Bytes held by the block's tensors."""
        return sum(
            value.numel() * value.element_size()
            for value in vars(self).values()
            if isinstance(value, Tensor)
        )

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> CacheBlock:
        """The block with points and tokens on ``device``, tokens as ``dtype`` if given."""
        return dataclasses.replace(
            self,
            points=self.points.to(device),
            tokens=self.tokens.to(device, dtype),
            source=self.source.to(device),
            slope=self.slope.to(device),
            bounds=self.bounds.to(device),
        )


@dataclass(frozen=True, eq=False)
class LatentCache:
    """The memory: blocks in the order in which they were written. Nothing changes in place.

    Attributes:
        blocks: The blocks; the newest is last, and wins among equal depths.
        convention: Pixel convention of everything that was lifted into the memory.
        codec: Name of the codec whose tokens are held; memories of different codecs do not
            mix.
        channels: Channels of a token.
    """

    blocks: tuple[CacheBlock, ...] = ()
    convention: PixelConvention = PixelConvention.PAPER
    codec: str = WAN_CODEC
    channels: int = LATENT_CHANNELS

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))
        object.__setattr__(self, "convention", PixelConvention(self.convention))
        for block in self.blocks:
            self._expect_fitting(block)

    def _expect_fitting(self, block: CacheBlock) -> None:
        if block.tokens.shape[1] == self.channels:
            return
        if self.channels == LATENT_CHANNELS:
            expect_token_channels("The latent", block.tokens.shape[1])
        raise ModelMismatchError(
            "The tokens do not fit the memory",
            got=f"{block.tokens.shape[1]} channels",
            expected=f"{self.channels} channels",
        )

    def __len__(self) -> int:
        return sum(len(block) for block in self.blocks)

    @property
    def nbytes(self) -> int:
        """Bytes held by all blocks."""
        return sum(block.nbytes for block in self.blocks)

    @property
    def device(self) -> torch.device:
        """Device of the points; the CPU for an empty memory."""
        return self.blocks[0].points.device if self.blocks else torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the tokens; float32 for an empty memory."""
        return self.blocks[0].tokens.dtype if self.blocks else torch.float32

    @property
    def offsets(self) -> list[int]:
        """Index of the first point of every block, and the number of points at the end."""
        starts = [0]
        for block in self.blocks:
            starts.append(starts[-1] + len(block))
        return starts

    def append(self, block: CacheBlock) -> LatentCache:
        """A new memory that shares this one's blocks and holds one more.

        Raises:
            ModelMismatchError: The block's tokens have another number of channels.
        """
        self._expect_fitting(block)
        block = block.to(self.device, self.dtype) if self.blocks else block
        return dataclasses.replace(self, blocks=(*self.blocks, block))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> LatentCache:
        """The memory on another device, or with tokens of another type."""
        blocks = tuple(block.to(device, dtype) for block in self.blocks)
        return dataclasses.replace(self, blocks=blocks)

    def gather(self, index: Tensor, values: Sequence[Tensor]) -> Tensor:
        """Rows of per-block tensors by global point index.

        Args:
            index: (...) int64 point indices; negative ones give zeros.
            values: One (N_b, ...) tensor per block, such as ``[b.tokens for b in blocks]``.

        Returns:
            (..., *row) in the type of ``values``.
        """
        flat = index.flatten()
        if not values:
            return torch.zeros(*index.shape, self.channels, device=index.device)
        row = values[0].shape[1:]
        result = torch.zeros(len(flat), *row, dtype=values[0].dtype, device=flat.device)
        offsets = self.offsets
        for number, rows in enumerate(values):
            mine = ((flat >= offsets[number]) & (flat < offsets[number + 1])).nonzero()[:, 0]
            if len(mine):
                result[mine] = rows.index_select(0, flat[mine] - offsets[number])
        return result.view(*index.shape, *row)

    def fingerprint(self) -> str:
        """Hex digest of the content; equal memories have equal fingerprints."""
        digest = hashlib.sha256(f"{self.convention.value}|{self.codec}|{self.channels}".encode())
        for block in self.blocks:
            for name in CONTENT:
                raw = getattr(block, name).detach().cpu().contiguous()
                digest.update(f"{tuple(raw.shape)}{raw.dtype}".encode())
                digest.update(raw.view(torch.uint8).numpy().tobytes() if raw.numel() else b"")
        return digest.hexdigest()
