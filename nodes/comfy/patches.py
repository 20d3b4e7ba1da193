"""What viewers see of a block's points: squares that the codec decodes, or cut from a picture."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...mirage_core.cache.atlas import atlas_bytes, atlas_grid
from ...mirage_core.cache.types import CacheBlock, LatentCache
from ...mirage_core.cache.view import shown_rows, source_cells
from ...mirage_core.codecs.dct import CODEC_NAME, DctCodec
from ...mirage_core.codecs.memory_kind import MemoryKind
from ...mirage_core.files import atomic_write
from .patch_shelf import SHELF, cell_squares
from .vae import token_colours

PART = 16384
"""Points whose squares are made in one go."""


@dataclass(frozen=True, eq=False)
class SeenPicture:
    """A picture, and the camera that took it: points of that camera are shown by it.

    Attributes:
        image: (H, W, 3) float in 0..1.
        world_to_camera: (4, 4) float64.
        intrinsics: (3, 3) float64 on the latent grid.
    """

    image: Tensor
    world_to_camera: Tensor
    intrinsics: Tensor

    def digest(self) -> str:
        """Hex digest of the picture."""
        raw = self.image.detach().float().cpu().contiguous().numpy().tobytes()
        return hashlib.blake2b(raw, digest_size=16).hexdigest()

    def took(self, block: CacheBlock) -> Tensor:
        """(N,) bool, which points of a block this camera saw in its picture."""
        poses = torch.isclose(block.world_to_camera, self.world_to_camera, atol=1e-6)
        lenses = torch.isclose(block.intrinsics, self.intrinsics, rtol=1e-4)
        same = poses.flatten(1).all(1) & lenses.flatten(1).all(1) & (block.frames == 0)
        return same[block.source.cpu().long()]


def write_patches(
    block: CacheBlock, digest: str, cache: LatentCache, picture: SeenPicture | None, folder: Path
) -> dict[str, Any] | None:
    """Write the squares of a block unless their file is there; what tells viewers about them.

    Args:
        block: A block of the memory.
        digest: Names its content.
        cache: The memory.
        picture: Shows points whose tokens cannot be drawn one by one.
        folder: Where viewers find files.

    Returns:
        Name of the file and pixels along each side of a square; None where points are of one
        colour, or too many.

    Raises:
        StorageError: The folder cannot be written.
    """
    if MemoryKind.of(cache.codec) is MemoryKind.COLOURS or not len(block):
        return None
    rows = shown_rows(block)
    cells = source_cells(block, cache.convention)[rows]
    if not len(rows):
        return None
    grid = atlas_grid(len(rows), int(cells[:, 0].max()) + 1, cache.stride)
    if grid is None:
        return None
    cut = None
    suffix = ""
    if cache.codec != CODEC_NAME:
        cut = _Cut.of(block, cache.codec, picture, source_cells(block, cache.convention))
        if cut is None:
            return None
        suffix = f"_{cut.digest}"
    name = f"patches_{cache.convention.value}_{digest}{suffix}.webp"
    if not (folder / name).exists():
        parts = _decoded(block, rows) if cut is None else cut.parts(rows)
        data = atlas_bytes(parts, grid)
        with atomic_write(folder / name, "wb") as file:
            file.write(data)
    return {"filename": name, "side": grid.side, "columns": grid.columns}


def _decoded(block: CacheBlock, rows: Tensor) -> Iterator[Tensor]:
    """(K, 16, 16, 3) of tokens that mean something one by one."""
    codec = DctCodec()
    for part in rows.split(PART):
        yield codec.decode_patches(block.take(part.to(block.points.device)).values.cpu())


@dataclass(frozen=True, eq=False)
class _Cut:
    """Squares of points that pictures show; the others are of one colour.

    Attributes:
        block: N points.
        codec: The memory's codec.
        known: (N,) bool, which points have a square.
        squares: (M, 16, 16, 3) float32 in 0..1, of those.
        digest: Names the pictures that they come from.
    """

    block: CacheBlock
    codec: str
    known: Tensor
    squares: Tensor
    digest: str

    @classmethod
    def of(
        cls, block: CacheBlock, codec: str, picture: SeenPicture | None, cells: Tensor
    ) -> _Cut | None:
        """Whatever is known of the points; None where that is nothing."""
        # What stands for a picture that is in no memory has its colours for tokens, which tell
        # nothing apart.
        known, squares = SHELF.get(block)
        if block.tokens.shape[1] == len("rgb"):
            known = torch.zeros_like(known)
            squares = squares[:0]
        digest = hashlib.blake2b(known.numpy().tobytes(), digest_size=16)
        if picture is not None:
            shown = cell_squares(picture.image)
            size = torch.tensor([shown.shape[1], shown.shape[0]])
            taken = picture.took(block) & ((cells >= 0) & (cells < size)).all(dim=1) & ~known
            both = torch.zeros(len(block), *shown.shape[2:])
            both[known] = squares
            column, row = cells[taken].unbind(1)
            both[taken] = shown[row, column]
            known = known | taken
            squares = both[known]
            digest.update(picture.digest().encode() if bool(taken.any()) else b"")
        if not bool(known.any()):
            return None
        return cls(block, codec, known, squares, digest.hexdigest())

    def parts(self, rows: Tensor) -> Iterator[Tensor]:
        """(K, 16, 16, 3) of some points, in parts."""
        place = self.known.long().cumsum(0) - 1
        for part in rows.split(PART):
            values = self.block.take(part.to(self.block.points.device)).values
            flat = _flat(values, self.codec)[:, None, None, :]
            squares = self.squares[place[part].clamp_min(0)]
            yield torch.where(self.known[part][:, None, None, None], squares, flat)


def _flat(values: Tensor, codec: str) -> Tensor:
    """(K, 3) one colour for each point; those of a picture are the values themselves."""
    is_picture = values.shape[1] == len("rgb")
    return values.float().cpu() if is_picture else token_colours(values, codec)
