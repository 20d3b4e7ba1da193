"""Reading a memory, by the fastest means that its device has.

These functions check what they are given and call the operators ``mirage::*``, so they work
under `torch.compile` and autograd.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ShapeError
from .best_view import BestView, Seen
from .kernels import BlockTensors
from .registration import operator
from .splat import BOUNDS_RUN


def run_bounds(points: Tensor) -> Tensor:
    """`mirage_core.ops.splat.point_bounds`, by the fastest means that the device has."""
    return operator("bounds")(points)


def splat_keys(
    memory: BlockTensors, projection: Tensor, size: tuple[int, int], *, nearest_centre: bool
) -> Tensor:
    """Z-buffer of a memory for T views.

    Args:
        memory: Points and boxes, on one device.
        projection: (T, 3, 4) float32 on that device.
        size: (h, w) of the grid.
        nearest_centre: Round to the nearest integer centre instead of flooring.

    Returns:
        (T, h * w) int64 keys for `mirage_core.ops.splat.winners`.

    Raises:
        ShapeError: The tensors do not fit together.
    """
    _expect_fitting(memory, projection)
    return operator("splat")(
        list(memory.points), list(memory.bounds), projection, *size, nearest_centre
    )


def best_winners(
    memory: BlockTensors,
    seen: Seen,
    projection: Tensor,
    viewers: Tensor,
    size: tuple[int, int],
    *,
    rule: BestView,
    nearest_centre: bool,
) -> tuple[Tensor, Tensor]:
    """The best view of the front surface for T cameras, see `mirage_core.ops.best_view`.

    Args:
        memory: Points and boxes, on one device.
        seen: Who saw the points, on that device.
        projection: (T, 3, 4) float32 on that device.
        viewers: (T, 4) float32 on that device: position and focal length of each camera.
        size: (h, w) of the grid.
        rule: What counts as the front surface, and which view of it is best.
        nearest_centre: Round to the nearest integer centre instead of flooring.

    Returns:
        (T, h * w) int64 index of the winner, -1 where empty, and float32 depth, 0 where empty.

    Raises:
        ShapeError: The tensors do not fit together.
    """
    _expect_fitting(memory._replace(tokens=seen.source, scales=seen.observers), projection)
    counts = [len(points) for points in memory.points]
    for name, rows in (("observers", seen.source), ("slopes", seen.slope)):
        if [len(part) for part in rows] != counts:
            raise ShapeError(
                f"The {name} of a memory do not match its points",
                got=f"{[len(part) for part in rows]}",
                expected=f"{counts}, one for each point",
            )
    return operator("best_view")(
        list(memory.points), list(memory.bounds), list(seen.source), list(seen.slope),
        list(seen.observers), projection, viewers, *size, rule.numbers, nearest_centre,
    )  # fmt: skip


def read_tokens(
    memory: BlockTensors,
    projection: Tensor,
    size: tuple[int, int],
    *,
    channels: int,
    dtype: torch.dtype,
    nearest_centre: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a memory shows to T views; gradients reach floating point tokens.

    Args:
        memory: Blocks on one device.
        projection: (T, 3, 4) float32 on that device.
        size: (h, w) of the grid.
        channels: Channels of a token.
        dtype: Type of the tokens that are returned; that of the memory's unless they are int8.
        nearest_centre: Round to the nearest integer centre instead of flooring.

    Returns:
        (C, T, h, w) tokens, 0 where empty; (T, h, w) visibility; depth, 0 where empty; index of
        the winner, int64, -1 where empty.

    Raises:
        ShapeError: The tensors do not fit together.
    """
    _expect_fitting(memory, projection)
    _expect_tokens(memory, channels, dtype)
    return operator("readout")(
        list(memory.points), list(memory.bounds), list(memory.tokens), list(memory.scales),
        projection, *size, channels, dtype, nearest_centre,
    )  # fmt: skip


def gather_rows(rows: Sequence[Tensor], index: Tensor) -> Tensor:
    """Rows of a memory's blocks by point index; gradients reach floating point rows.

    Args:
        rows: One (N_b, ...) tensor per block; at least one.
        index: (...) int64 below the number of all rows; negative ones give zeros.

    Returns:
        (..., *row) in the type of the first block's rows.
    """
    return operator("gather")(list(rows), index)


def _expect_fitting(memory: BlockTensors, projection: Tensor) -> None:
    for points, boxes in zip(memory.points, memory.bounds, strict=True):
        runs = -(-len(points) // BOUNDS_RUN)
        if points.shape[1:] != (3,) or boxes.shape != (runs, 6):
            raise ShapeError(
                "The points of a memory and their bounding boxes do not match",
                got=f"{tuple(points.shape)} and {tuple(boxes.shape)}",
                expected=f"(N, 3) and (ceil(N / {BOUNDS_RUN}), 6)",
            )
    held = (*memory.points, *memory.bounds, *memory.tokens, *memory.scales)
    if any(tensor.device != projection.device for tensor in held):
        raise ShapeError(
            "The memory and the cameras are on different devices",
            got=", ".join(sorted({str(t.device) for t in (*held, projection)})),
            expected="one device",
        )


def _expect_tokens(memory: BlockTensors, channels: int, dtype: torch.dtype) -> None:
    counts = [(len(points), channels) for points in memory.points]
    stored = {rows.dtype for rows in memory.tokens}
    factors = [count for count, _ in counts] if stored == {torch.int8} else []
    if (
        [tuple(rows.shape) for rows in memory.tokens] != counts
        or [len(scale) for scale in memory.scales] != factors
        or not (stored <= {dtype} or stored == {torch.int8})
    ):
        raise ShapeError(
            "The tokens of a memory do not match its points",
            got=f"tokens {[tuple(rows.shape) for rows in memory.tokens]} of types "
            f"{sorted(map(str, stored))}, {len(memory.scales)} scales",
            expected=f"tokens {counts} of {dtype}, or of int8 with a scale for each",
        )
