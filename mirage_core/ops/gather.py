"""The readout in torch, on any device: the reference for the kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .splat import EMPTY_KEY, splat_blocks, winners


def splat_keys(
    points: Sequence[Tensor],
    bounds: Sequence[Tensor],
    projection: Tensor,
    height: int,
    width: int,
    nearest_centre: bool,
) -> Tensor:
    """A z-buffer after all blocks of a memory: (T, height * width) int64 keys."""
    shape = (len(projection), height * width)
    keys = torch.full(shape, EMPTY_KEY, dtype=torch.int64, device=projection.device)
    splat_blocks(
        keys, points, bounds, projection, height=height, width=width, nearest_centre=nearest_centre
    )
    return keys


def readout(
    points: Sequence[Tensor],
    bounds: Sequence[Tensor],
    tokens: Sequence[Tensor],
    scales: Sequence[Tensor],
    projection: Tensor,
    height: int,
    width: int,
    channels: int,
    dtype: torch.dtype,
    nearest_centre: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The z-buffer and the tokens of its winners.

    Args:
        points: One (N_b, 3) float32 tensor per block.
        bounds: Boxes of each block's points.
        tokens: One (N_b, C) tensor per block.
        scales: One (N_b,) factor per int8 token; empty for other types.
        projection: (T, 3, 4) float32.
        height: Rows of the grid.
        width: Columns of the grid.
        channels: C; the blocks do not tell where there are none.
        dtype: Type of the tokens that are returned; that of ``tokens`` unless they are int8.
        nearest_centre: Round to the nearest integer centre instead of flooring.

    Returns:
        (C, T, h, w) tokens, 0 where empty; (T, h, w) visibility; depth, 0 where empty; index of
        the winner, int64, -1 where empty.
    """
    keys = splat_keys(points, bounds, projection, height, width, nearest_centre)
    index, depth = winners(keys.view(-1, height, width))
    if tokens:
        values = gather(tokens, index)
        if values.dtype == torch.int8:
            values = dequantise(values, gather(scales, index), dtype)
        values = values.permute(3, 0, 1, 2).contiguous()
    else:
        values = torch.zeros(channels, *index.shape, dtype=dtype, device=index.device)
    return values, index >= 0, depth, index


def dequantise(tokens: Tensor, scale: Tensor, dtype: torch.dtype = torch.float16) -> Tensor:
    """The tokens that int8 tokens (..., C) with scales (...) stand for.

    The product of 8 and 11 significant bits is exact in float32 and is rounded once.
    """
    return (tokens.float() * scale.float()[..., None]).to(dtype)


def gather(rows: Sequence[Tensor], index: Tensor) -> Tensor:
    """Rows of a memory's blocks by point index.

    Args:
        rows: One (N_b, ...) tensor per block; at least one.
        index: (...) int64; negative ones give zeros.

    Returns:
        (..., *row) in the type of the first block's rows.
    """
    flat = index.flatten()
    shape = rows[0].shape[1:]
    result = torch.zeros(len(flat), *shape, dtype=rows[0].dtype, device=flat.device)
    first = 0
    for block, mine in zip(rows, _by_block(flat, rows), strict=True):
        if len(mine):
            result[mine] = block.index_select(0, flat[mine] - first).to(result.dtype)
        first += len(block)
    return result.view(*index.shape, *shape)


def _by_block(flat: Tensor, rows: Sequence[Tensor]) -> Sequence[Tensor]:
    """For each block, the places in ``flat`` that refer to it."""
    if len(rows) == 1:
        return [(flat >= 0).nonzero()[:, 0]]
    ends = torch.tensor([len(block) for block in rows]).cumsum(0).to(flat.device)
    owner = torch.where(flat < 0, len(rows), torch.bucketize(flat, ends, right=True))
    counts = owner.bincount(minlength=len(rows) + 1).tolist()
    return owner.argsort().split(counts)[: len(rows)]


def scatter(gradient: Tensor, index: Tensor, length: int) -> Tensor:
    """Backward of a gather: what each row contributed, summed.

    A point that several views show gets the sum of their gradients.

    Args:
        gradient: (M, C), any strides.
        index: (M,) int64 row that each one was gathered from, negative for none.
        length: Number of rows N.

    Returns:
        (N, C) float32.
    """
    sums = torch.zeros(length, gradient.shape[1], dtype=torch.float32, device=gradient.device)
    seen = (index >= 0).nonzero()[:, 0]
    return sums.index_add_(0, index[seen], gradient[seen].float())
