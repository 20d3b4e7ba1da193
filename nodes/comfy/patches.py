"""What viewers see of a block's points: squares that the codec decodes, or cut from a picture."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ...mirage_core.cache.atlas import atlas_bytes, atlas_grid
from ...mirage_core.cache.types import CacheBlock, LatentCache
from ...mirage_core.cache.view import shown_rows, source_cells
from ...mirage_core.codecs.dct import CODEC_NAME, DctCodec
from ...mirage_core.codecs.memory_kind import MemoryKind
from ...mirage_core.constants import SPATIAL_STRIDE
from ...mirage_core.files import atomic_write
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
    decoded = cache.codec == CODEC_NAME
    if MemoryKind.of(cache.codec) is MemoryKind.COLOURS or not len(block):
        return None
    taken = None
    if not decoded:
        taken = picture.took(block) if picture is not None else None
        if picture is None or taken is None or not bool(taken.any()):
            return None
    rows = shown_rows(block)
    cells = source_cells(block, cache.convention)[rows]
    across = int(cells[:, 0].max()) + 1 if len(rows) else 1
    grid = atlas_grid(len(rows), across)
    if grid is None or not len(rows):
        return None
    suffix = f"_{picture.digest()}" if picture is not None and not decoded else ""
    name = f"patches_{cache.convention.value}_{digest}{suffix}.webp"
    if not (folder / name).exists():
        if picture is None or taken is None:
            parts = _decoded(block, rows)
        else:
            parts = _cut(block, rows, cache.codec, picture.image, cells, taken[rows])
        data = atlas_bytes(parts, grid)
        with atomic_write(folder / name, "wb") as file:
            file.write(data)
    return {"filename": name, "side": grid.side, "columns": grid.columns}


def _decoded(block: CacheBlock, rows: Tensor) -> Iterator[Tensor]:
    """(K, 16, 16, 3) of tokens that mean something one by one."""
    codec = DctCodec()
    for part in rows.split(PART):
        yield codec.decode_patches(block.take(part.to(block.points.device)).values.cpu())


def _cut(
    block: CacheBlock, rows: Tensor, codec: str, image: Tensor, cells: Tensor, taken: Tensor
) -> Iterator[Tensor]:
    """(K, 16, 16, 3) of the picture; points that it does not show are of one colour."""
    squares = rearrange(
        image[..., :3].float().cpu(),
        "(h a) (w b) c -> h w a b c",
        a=SPATIAL_STRIDE,
        b=SPATIAL_STRIDE,
    )
    size = torch.tensor([squares.shape[1], squares.shape[0]])
    shown = taken & ((cells >= 0) & (cells < size)).all(dim=1)
    places = zip(rows.split(PART), cells.split(PART), shown.split(PART), strict=True)
    for part, at, there in places:
        column, row = at.clamp_min(0).minimum(size - 1).unbind(1)
        values = block.take(part.to(block.points.device)).values
        flat = _flat(values, codec)[:, None, None, :]
        yield torch.where(there[:, None, None, None], squares[row, column], flat)


def _flat(values: Tensor, codec: str) -> Tensor:
    """(K, 3) one colour for each point; those of a picture are the values themselves."""
    is_picture = values.shape[1] == len("rgb")
    return values.float().cpu() if is_picture else token_colours(values, codec)

