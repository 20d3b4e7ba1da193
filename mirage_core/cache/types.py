"""`LatentCache`: an immutable sequence of blocks of points with tokens."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from ..codecs.memory_kind import MemoryKind, memory_stride
from ..constants import LATENT_CHANNELS, WAN_CODEC
from ..errors import ModelMismatchError, ShapeError, ValueRangeError
from ..geometry.camera import PixelConvention
from ..geometry.cutouts import WHOLE
from ..geometry.trajectory import expect_intrinsics
from ..ops.gather import dequantise
from ..ops.operators import gather_rows, run_bounds
from ..ops.splat import BOUNDS_RUN
from ..validate import expect_rigid, expect_shape, expect_token_channels
from .actor import Actor, expect_cast
from .quantise import quantise

CONTENT: Final = ("points", "tokens", "source", "slope", "world_to_camera", "intrinsics", "frames")
"""Fields of every block that no other field follows from; see also `OPTIONAL`."""

OPTIONAL: Final = ("scale", "mask")
"""Fields that only some blocks have: with int8 tokens, and with cut-outs."""


@dataclass(frozen=True, eq=False)
class CacheBlock:
    """Points, their tokens, and the cameras that saw them.

    Row i of ``points``, ``tokens``, ``scale``, ``mask``, ``source`` and ``slope`` belongs to point
    i, and later rows are newer: the index decides among equal depths.

    Attributes:
        points: (N, 3) float32 in world coordinates; each axis is contiguous in memory.
        tokens: (N, C) model-space latent tokens, float32, bfloat16 or float16; or int8, which
            stand for ``tokens * scale[:, None]``, one rounding to float16; or uint8 colours.
        source: (N,) int32, which of the block's cameras observed the point.
        slope: (N, 2) float16, how the surface leans in the observing camera, see
            `mirage_core.geometry.depth.surface_slope`.
        world_to_camera: (S, 4, 4) float64 poses of these cameras.
        intrinsics: (S, 3, 3) float64 latent intrinsics of these cameras.
        frames: (S,) int64, the pixel frame of the shot that each camera stands for.
        bounds: (ceil(N / BOUNDS_RUN), 6) float32 boxes of consecutive points; made when missing.
        scale: (N,) float16, there if and only if the tokens are int8.
        mask: (N,) int16, the part of its cell that each point stands for, see
            `mirage_core.geometry.cutouts`; None when all stand for whole cells, also where a
            mask is given that says so.
    """

    points: Tensor
    tokens: Tensor
    source: Tensor
    slope: Tensor
    world_to_camera: Tensor
    intrinsics: Tensor
    frames: Tensor
    bounds: Tensor = field(default_factory=lambda: torch.empty(0))
    scale: Tensor | None = None
    mask: Tensor | None = None

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
        self._expect_scale(count)
        self._expect_mask(count)
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
            object.__setattr__(self, "bounds", run_bounds(self.points))

    def _expect_scale(self, count: int) -> None:
        if (self.tokens.dtype == torch.int8) != (self.scale is not None):
            raise ShapeError(
                "The memory's tokens and their scale do not fit together",
                got=f"{self.tokens.dtype} tokens {'without' if self.scale is None else 'with'} it",
                expected="a scale if and only if the tokens are int8",
            )
        if self.scale is not None:
            expect_shape("The memory's token scale", self.scale, "N", N=count)
            object.__setattr__(self, "scale", self.scale.half())

    def _expect_mask(self, count: int) -> None:
        if self.mask is None:
            return
        expect_shape("The memory's masks", self.mask, "N", N=count)
        mask = self.mask.to(torch.int16)
        if bool((mask == 0).any()):
            raise ValueRangeError(
                "The memory holds points that stand for no part of their cell",
                got="masks of 0",
                expected="at least one of 16 bits",
            )
        object.__setattr__(self, "mask", None if bool((mask == WHOLE).all()) else mask)

    def __len__(self) -> int:
        return len(self.points)

    @property
    def content(self) -> dict[str, Tensor]:
        """Every tensor that no other follows from, by the name of its field."""
        return {name: self.parts[name] for name in (*CONTENT, *OPTIONAL) if name in self.parts}

    @property
    def masks(self) -> Tensor:
        """(N,) int16 masks, also where all cells are whole."""
        if self.mask is not None:
            return self.mask
        return torch.full((len(self),), WHOLE, dtype=torch.int16, device=self.points.device)

    @property
    def parts(self) -> dict[str, Tensor]:
        """Every tensor that the block holds, by the name of its field."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    @property
    def nbytes(self) -> int:
        """Bytes held by the block's tensors."""
        return sum(value.numel() * value.element_size() for value in self.parts.values())

    @property
    def values(self) -> Tensor:
        """(N, C) floating point tokens, whatever their storage."""
        return self.tokens if self.scale is None else dequantise(self.tokens, self.scale)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> CacheBlock:
        """The block with points and tokens on ``device``, tokens as ``dtype`` if given.

        ``torch.int8`` gives every token a scale of its own.
        """
        tokens, scale = self.tokens, self.scale
        if dtype is not None and dtype != tokens.dtype:
            tokens, scale = quantise(self.values) if dtype == torch.int8 else (self.values, None)
        return dataclasses.replace(
            self,
            points=self.points.to(device),
            tokens=tokens.to(device, dtype),
            source=self.source.to(device),
            slope=self.slope.to(device),
            bounds=self.bounds.to(device),
            scale=None if scale is None else scale.to(device),
            mask=None if self.mask is None else self.mask.to(device),
        )

    def take(self, rows: Tensor) -> CacheBlock:
        """The block with some of its points, in the order of ``rows`` (int64 or bool)."""
        return dataclasses.replace(
            self,
            points=self.points[rows],
            tokens=self.tokens[rows],
            source=self.source[rows],
            slope=self.slope[rows],
            bounds=torch.empty(0),
            scale=None if self.scale is None else self.scale[rows],
            mask=None if self.mask is None else self.mask[rows],
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
        actors: What moves, a layer of its own: its points are none of the blocks', and neither
            `len` nor an index of a point counts them.
    """

    blocks: tuple[CacheBlock, ...] = ()
    convention: PixelConvention = PixelConvention.PAPER
    codec: str = WAN_CODEC
    channels: int = LATENT_CHANNELS
    actors: tuple[Actor, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))
        object.__setattr__(self, "convention", PixelConvention(self.convention))
        for block in self.blocks:
            self._expect_fitting(block)
        if self.actors:
            object.__setattr__(self, "actors", tuple(self.actors))
            expect_cast(self, self.actors)

    @property
    def kind(self) -> MemoryKind:
        """Whether the points carry tokens or colours."""
        return MemoryKind.of(self.codec)

    @property
    def stride(self) -> int:
        """Pixels along each side of what a point stands for."""
        return memory_stride(self.codec)

    def _expect_fitting(self, block: CacheBlock) -> None:
        if (block.tokens.dtype == torch.uint8) != (self.kind is MemoryKind.COLOURS):
            raise ModelMismatchError(
                "Tokens and colours do not mix in a memory",
                got=f"values of type {block.tokens.dtype}",
                expected=f"{self.kind.value}, as the codec {self.codec!r} says",
            )
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
        """Bytes held by all blocks and actors."""
        still = sum(block.nbytes for block in self.blocks)
        return still + sum(actor.nbytes for actor in self.actors)

    @property
    def device(self) -> torch.device:
        """Device of the points; the CPU for an empty memory."""
        return self.blocks[0].points.device if self.blocks else torch.device("cpu")

    @property
    def storage(self) -> torch.dtype:
        """Data type in which tokens are held, int8 included; float32 for an empty memory."""
        return self.blocks[0].tokens.dtype if self.blocks else torch.float32

    @property
    def dtype(self) -> torch.dtype:
        """Type in which tokens are read, floating point; or uint8 for colours."""
        return torch.float16 if self.storage == torch.int8 else self.storage

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
        block = block.to(self.device, self.storage) if self.blocks else block
        return dataclasses.replace(self, blocks=(*self.blocks, block))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> LatentCache:
        """The memory on another device, or with tokens of another type; colours keep theirs."""
        dtype = None if self.kind is MemoryKind.COLOURS else dtype
        blocks = tuple(block.to(device, dtype) for block in self.blocks)
        actors = tuple(actor.to(device, dtype) for actor in self.actors)
        return dataclasses.replace(self, blocks=blocks, actors=actors)

    def with_actors(self, actors: Sequence[Actor]) -> LatentCache:
        """The memory with these actors, and no others, stored as its own points are.

        Raises:
            ModelMismatchError: An actor holds what the memory does not.
        """
        expect_cast(self, tuple(actors))
        if self.blocks:
            storage = None if self.kind is MemoryKind.COLOURS else self.storage
            actors = [actor.to(self.device, storage) for actor in actors]
        return dataclasses.replace(self, actors=tuple(actors))

    def gather(self, index: Tensor, values: Sequence[Tensor]) -> Tensor:
        """Rows of per-block tensors by global point index.

        Only tokens are ever int8: such rows come back multiplied by the scale of their point.

        Args:
            index: (...) int64 point indices; negative ones give zeros.
            values: One (N_b, ...) tensor per block, such as ``[b.tokens for b in blocks]``.

        Returns:
            (..., *row) in the type of ``values``; float16 for int8 tokens.
        """
        if not values:
            return torch.zeros(*index.shape, self.channels, device=index.device)
        rows = gather_rows(values, index)
        scales = [block.scale for block in self.blocks if block.scale is not None]
        return dequantise(rows, gather_rows(scales, index)) if rows.dtype == torch.int8 else rows

    def fingerprint(self) -> str:
        """Hex digest of the content; equal memories have equal fingerprints."""
        digest = hashlib.sha256(f"{self.convention.value}|{self.codec}|{self.channels}".encode())
        parts = [part for block in self.blocks for part in block.content.values()]
        for actor in self.actors:
            parts += [*actor.track.tensors.values()]
            parts += [] if actor.path is None else [*actor.path.tensors.values()]
        for part in parts:
            raw = part.detach().cpu().contiguous()
            digest.update(f"{tuple(raw.shape)}{raw.dtype}".encode())
            digest.update(raw.view(torch.uint8).numpy().tobytes() if raw.numel() else b"")
        for actor in self.actors:
            own = (actor.name, actor.behaviour.value, actor.ids, actor.path is None, actor.gone)
            digest.update(f"{own}|{actor.cache.fingerprint()}".encode())
        return digest.hexdigest()
