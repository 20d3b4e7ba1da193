"""What the points of a block show, as one picture for viewers: a small square for each.

Squares lie in the order of the points in the block's file, see `mirage_core.cache.view`, from the
left and from the top. Where a point stands for a cell of a picture, its neighbours mostly lie
beside it, so that the file is little larger than that picture.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..constants import WHITE_8
from ..validate import expect_shape

ATLAS_SIDE: Final = 4096
"""Pixels along each side of an atlas at most: every browser that has WebGL2 takes so many."""

QUALITY: Final = 85
"""Of the WebP file."""

EFFORT: Final = 2
"""Of 0 to 6; more make the file a tenth smaller and take three times as long."""


class AtlasGrid(NamedTuple):
    """Where the squares of an atlas lie.

    Attributes:
        side: Pixels along each side of a square.
        columns: Squares beside each other.
        rows: Squares below each other.
    """

    side: int
    columns: int
    rows: int


def atlas_grid(count: int, across: int, side: int) -> AtlasGrid | None:
    """The grid for ``count`` squares; None where they would be less than 2 pixels wide.

    Args:
        count: Squares.
        across: How many lie beside each other in the pictures that they are cut from.
        side: Pixels along each side of a square; halved until all fit.
    """
    while side > 1:
        most = ATLAS_SIDE // side
        columns = max(1, min(across, most))
        if -(-count // columns) > most:
            columns = most
        if count <= columns * most:
            return AtlasGrid(side, columns, max(1, -(-count // columns)))
        side //= 2
    return None


def atlas_bytes(patches: Iterable[Tensor], grid: AtlasGrid) -> bytes:
    """A WebP file of squares.

    Args:
        patches: (K, S, S, 3) float in 0..1, all squares one after the other; S is a multiple of
            the grid's side, and may differ from part to part.
        grid: Where they lie.

    Raises:
        ShapeError: A part is no list of square patches.
    """
    side, columns, rows = grid
    tiles = np.full((rows * columns, side, side, 3), WHITE_8 // 2, dtype=np.uint8)
    first = 0
    for part in patches:
        expect_shape("The patches", part, "K S S 3")
        small = F.adaptive_avg_pool2d(part.detach().float().cpu().movedim(-1, 1), side)
        levels = (small.movedim(1, -1).nan_to_num(0).clamp(0, 1) * WHITE_8).round()
        tiles[first : first + len(part)] = levels.to(torch.uint8).numpy()
        first += len(part)
    picture = tiles.reshape(rows, columns, side, side, 3).swapaxes(1, 2)
    file = io.BytesIO()
    flat = picture.reshape(rows * side, columns * side, 3)
    Image.fromarray(flat).save(file, "WEBP", quality=QUALITY, method=EFFORT)
    return file.getvalue()
