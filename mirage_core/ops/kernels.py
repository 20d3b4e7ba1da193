"""Host side of the kernels in ``csrc/readout.cu``: what to launch, on which grid, with what.

Nothing here knows how a kernel starts: that is a `Launcher`. The library's own launches on
torch's current stream; the tests have one that runs the same kernels on the CPU.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import torch
from torch import Tensor

from .best_view import Seen, best_winners
from .splat import BOUNDS_RUN

SPLAT_THREADS: Final = BOUNDS_RUN
SPLAT_RUNS: Final = 4
SPLAT_POINTS: Final = SPLAT_RUNS * BOUNDS_RUN
TABLE_BLOCKS: Final = 72
FUSED_BLOCKS: Final = 16
FUSED_THREADS: Final = 512
FUSED_CELLS: Final = 512
VIEW_GROUP: Final = 32
"""Constants of the kernel source, under the same names."""

FUSED_STRIP: Final = 320
"""Cells of the strips that the fused kernel aims at; more strips fill more of a GPU."""

FUSED_POINTS: Final = 16384
"""Most points for which every strip of the fused kernel looks at all of them."""

_PIECE: Final = 16
_MAX_POINTS: Final = 2**32 - 1
_BLOCK: Final = struct.Struct("<5Q4I")
_COPY: Final = {2: 0, 4: 1}
_INT8: Final = {torch.float32: 2, torch.bfloat16: 3, torch.float16: 4}
_GRADIENTS: Final = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


class Table(ctypes.Structure):
    """Argument with entries of the block table, to be written to memory."""

    _fields_ = (("data", ctypes.c_uint8 * (TABLE_BLOCKS * _BLOCK.size)),)


class SmallTable(ctypes.Structure):
    """Argument with the whole block table of a small memory."""

    _fields_ = (("data", ctypes.c_uint8 * (FUSED_BLOCKS * _BLOCK.size)),)


class Grid(ctypes.Structure):
    """Rows and columns of the views, and the rounding rule."""

    _fields_ = (("height", ctypes.c_int), ("width", ctypes.c_int), ("nearest", ctypes.c_int))


class Rule(ctypes.Structure):
    """Settings of `mirage_core.ops.best_view.BestView`, as its ``numbers``."""

    _fields_ = tuple(
        (name, ctypes.c_float)
        for name in ("band", "lean", "limit", "bins", "coarser", "finer")
    )  # fmt: skip


class Result(ctypes.Structure):
    """Where the results of a readout go, and what the tokens are."""

    _fields_ = (
        ("tokens", ctypes.c_uint64),
        ("visible", ctypes.c_uint64),
        ("depth", ctypes.c_uint64),
        ("winner", ctypes.c_uint64),
        ("plane", ctypes.c_int64),
        ("channels", ctypes.c_int),
        ("kind", ctypes.c_int),
        ("whole", ctypes.c_int),
        ("half_scales", ctypes.c_int),
    )


class Launcher(Protocol):
    """Starts kernels of ``readout.cu``."""

    def __call__(
        self,
        kernel: str,
        grid: tuple[int, int],
        threads: int,
        arguments: Sequence[ctypes._SimpleCData | ctypes.Structure],
    ) -> None:
        """Start ``kernel`` on (x, y) thread blocks; arguments in the kernel's own order."""


class BlockTensors(NamedTuple):
    """Blocks of a memory as operators get them: one tensor per block in each list.

    Attributes:
        points: (N_b, 3) float32; fastest where each axis is contiguous.
        bounds: (ceil(N_b / BOUNDS_RUN), 6) float32.
        tokens: (N_b, C), of one type: float32, bfloat16, float16, or int8 with scales.
        scales: (N_b,) float32 or float16 factors of int8 tokens; none for other types.
    """

    points: Sequence[Tensor]
    bounds: Sequence[Tensor]
    tokens: Sequence[Tensor] = ()
    scales: Sequence[Tensor] = ()


def bounds(launch: Launcher, points: Tensor) -> Tensor:
    """As `mirage_core.ops.splat.point_bounds`."""
    points = _by_axis(points)
    runs = _ceil(len(points), BOUNDS_RUN)
    result = torch.empty(runs, 6, dtype=torch.float32, device=points.device)
    if runs:
        arguments = _u64(points), _u32(len(points)), _u32(points.stride(1)), _u64(result)
        launch("mirage_bounds", (runs, 1), SPLAT_THREADS, arguments)
    return result


def splat(launch: Launcher, memory: BlockTensors, projection: Tensor, grid: Grid) -> Tensor:
    """Keys of the z-buffer, (T, h * w) int64, as `mirage_core.ops.splat.splat` leaves them."""
    keys, _ = _splat(launch, memory, projection, grid)
    return keys


def best_view(
    launch: Launcher,
    memory: BlockTensors,
    seen: Seen,
    projection: Tensor,
    viewers: Tensor,
    grid: Grid,
    rule: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """Winners and depth, as `mirage_core.ops.best_view.best_view`."""
    front, _ = _splat(launch, memory, projection, grid)
    keys = torch.empty_like(front)
    described = _prepared(memory)._replace(
        tokens=[numbers.int().contiguous() for numbers in seen.source],
        scales=[slopes.half().contiguous() for slopes in seen.slope],
    )
    observers = [cameras.float().contiguous() for cameras in seen.observers]
    table = _table(launch, described, keys, observers)
    projection, viewers = projection.contiguous(), viewers.float().contiguous()
    portions = sum(_ceil(len(points), SPLAT_POINTS) for points in memory.points)
    if portions and keys.numel():
        views = len(projection)
        arguments = (
            _u64(table), _int(len(memory.points)), _u64(projection), _u64(viewers), _int(views),
            grid, Rule(*rule), _u64(front), _u64(keys),
        )  # fmt: skip
        launch("mirage_view", (portions, _ceil(views, VIEW_GROUP)), SPLAT_THREADS, arguments)
    return best_winners(front, keys)


def readout(
    launch: Launcher,
    memory: BlockTensors,
    projection: Tensor,
    grid: Grid,
    channels: int,
    dtype: torch.dtype,
    *,
    fused: bool | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens, visibility, depth and winners, as `mirage_core.ops.gather.readout`.

    Args:
        launch: Starts kernels.
        memory: What is read.
        projection: (T, 3, 4) float32.
        grid: Rows, columns and rounding rule.
        channels: Channels of a token.
        dtype: Type of the result; that of the tokens unless they are int8.
        fused: Whether to use one launch in place of three; by size when None.
    """
    shape = (len(projection), grid.height, grid.width)
    made = (
        torch.empty(channels, *shape, dtype=dtype, device=projection.device),
        torch.empty(shape, dtype=torch.bool, device=projection.device),
        torch.empty(shape, dtype=torch.float32, device=projection.device),
        torch.empty(shape, dtype=torch.int64, device=projection.device),
    )
    memory = memory._replace(
        tokens=[rows.contiguous() for rows in memory.tokens],
        scales=[factors.contiguous() for factors in memory.scales],
    )
    result = _result(made, memory, channels, dtype)
    if result.plane == 0:
        return made
    if fused if fused is not None else fits_fused(memory, grid):
        _fused(launch, memory, projection, grid, result)
    else:
        keys, table = _splat(launch, memory, projection, grid)
        arguments = _u64(table), _int(len(memory.points)), _u64(keys), result
        launch("mirage_resolve", (_ceil(result.plane, 64), 1), 256, arguments)
    return made


def fits_fused(memory: BlockTensors, grid: Grid) -> bool:
    """Whether a memory is so small that one launch reads it faster than three."""
    points = sum(len(block) for block in memory.points)
    return (
        len(memory.points) <= FUSED_BLOCKS and points <= FUSED_POINTS and grid.width <= FUSED_CELLS
    )


def gather(launch: Launcher, rows: Sequence[Tensor], index: Tensor) -> Tensor:
    """As `mirage_core.ops.gather.gather`."""
    shape = rows[0].shape[1:]
    result = torch.empty(*index.shape, *shape, dtype=rows[0].dtype, device=index.device)
    if result.numel() == 0:
        return result
    index, width = index.contiguous(), shape.numel()
    flat = [block.to(result.dtype).reshape(len(block), width) for block in rows]
    steps = {block.stride(0) for block in flat if len(block) > 1}
    if len(steps) > 1:
        flat, steps = [block.contiguous() for block in flat], {width}
    table = _table(launch, BlockTensors(flat, (), flat), None)
    launch(
        "mirage_gather",
        (_ceil(result.numel(), 256), 1),
        256,
        (
            _u64(table), _int(len(flat)), _u64(index), _i64(index.numel()), _int(width),
            _i64(max(steps, default=width)), _int(result.element_size()), _u64(result),
        ),
    )  # fmt: skip
    return result


def scatter(launch: Launcher, gradient: Tensor, index: Tensor, length: int) -> Tensor:
    """As `mirage_core.ops.gather.scatter`, but for the order of the sums."""
    if gradient.dtype not in _GRADIENTS:
        gradient = gradient.float()
    width = gradient.shape[1]
    sums = torch.zeros(length, width, dtype=torch.float32, device=gradient.device)
    index = index.contiguous()
    if gradient.numel() and length:
        launch(
            "mirage_scatter",
            (_ceil(gradient.numel(), 256), 1),
            256,
            (
                _u64(gradient), _int(_GRADIENTS[gradient.dtype]), _i64(gradient.stride(0)),
                _i64(gradient.stride(1)), _u64(index), _i64(index.numel()), _int(width),
                _u64(sums),
            ),
        )  # fmt: skip
    return sums


def _splat(
    launch: Launcher, memory: BlockTensors, projection: Tensor, grid: Grid
) -> tuple[Tensor, Tensor]:
    views = len(projection)
    keys = torch.empty(views, grid.height * grid.width, dtype=torch.int64, device=projection.device)
    memory, projection = _prepared(memory), projection.contiguous()
    table = _table(launch, memory, keys)
    portions = sum(_ceil(len(points), SPLAT_POINTS) for points in memory.points)
    if portions and keys.numel():
        arguments = (
            _u64(table), _int(len(memory.points)), _u64(projection), _int(views), grid, _u64(keys),
        )  # fmt: skip
        launch("mirage_splat", (portions, _ceil(views, VIEW_GROUP)), SPLAT_THREADS, arguments)
    return keys, table


def _fused(
    launch: Launcher, memory: BlockTensors, projection: Tensor, grid: Grid, result: Result
) -> None:
    memory, projection = _prepared(memory), projection.contiguous()
    rows = max(1, FUSED_STRIP // grid.width)
    strips = _ceil(grid.height, rows)
    table = SmallTable.from_buffer_copy(_entries(memory).ljust(ctypes.sizeof(SmallTable), b"\0"))
    arguments = table, _int(len(memory.points)), _u64(projection), _int(rows), grid, result
    launch("mirage_fused", (strips * len(projection), 1), FUSED_THREADS, arguments)


def _table(
    launch: Launcher,
    memory: BlockTensors,
    keys: Tensor | None,
    observers: Sequence[Tensor] = (),
) -> Tensor:
    """The block table in memory; empties ``keys`` on the way."""
    example = memory.points[0] if memory.points else keys
    device = None if example is None else example.device
    entries = _entries(memory, observers)
    table = torch.empty(len(entries), dtype=torch.uint8, device=device)
    portion = TABLE_BLOCKS * _BLOCK.size
    cells = 0 if keys is None else keys.numel()
    for start in range(0, max(1, len(entries)), portion):
        part = entries[start : start + portion]
        arguments = (
            Table.from_buffer_copy(part.ljust(portion, b"\0")),
            _u64(table), _int(start // _BLOCK.size), _int(len(part) // _BLOCK.size),
            _u64(keys), ctypes.c_int64(cells if start == 0 else 0),
        )  # fmt: skip
        threads = max(TABLE_BLOCKS, cells if start == 0 else 0)
        launch("mirage_prepare", (_ceil(threads, 256), 1), 256, arguments)
    return table


def _entries(memory: BlockTensors, observers: Sequence[Tensor] = ()) -> bytes:
    """The block table as bytes: struct ``Block`` of the kernel source for each block."""
    entries, first, portion = bytearray(), 0, 0
    for number, points in enumerate(memory.points):
        entries += _BLOCK.pack(
            points.data_ptr(),
            memory.bounds[number].data_ptr() if memory.bounds else 0,
            memory.tokens[number].data_ptr() if memory.tokens else 0,
            memory.scales[number].data_ptr() if memory.scales else 0,
            observers[number].data_ptr() if observers else 0,
            first,
            len(points),
            portion,
            points.stride(1),
        )
        first += len(points)
        portion += _ceil(len(points), SPLAT_POINTS)
    return bytes(entries)


def _prepared(memory: BlockTensors) -> BlockTensors:
    """Points and boxes as the kernels read them; copies nothing that a `CacheBlock` holds."""
    return memory._replace(
        points=[_by_axis(points) for points in memory.points],
        bounds=[boxes.float().contiguous() for boxes in memory.bounds],
    )


def _by_axis(points: Tensor) -> Tensor:
    points = points.float()
    if len(points) <= 1 or points.stride(0) == 1:
        return points
    return points.T.contiguous().T


def _result(
    made: tuple[Tensor, Tensor, Tensor, Tensor],
    memory: BlockTensors,
    channels: int,
    dtype: torch.dtype,
) -> Result:
    tokens, visible, depth, winner = made
    source = memory.tokens[0].dtype if memory.tokens else dtype
    quantised = source == torch.int8
    aligned = all(rows.data_ptr() % _PIECE == 0 for rows in memory.tokens)
    half = bool(memory.scales) and memory.scales[0].dtype == torch.float16
    return Result(
        tokens=tokens.data_ptr(),
        visible=visible.data_ptr(),
        depth=depth.data_ptr(),
        winner=winner.data_ptr(),
        plane=winner.numel(),
        channels=channels,
        kind=_INT8[dtype] if quantised else _COPY[source.itemsize],
        whole=int(aligned and channels * source.itemsize % _PIECE == 0),
        half_scales=int(half),
    )


def _ceil(count: int, size: int) -> int:
    return -(-count // size)


def _u64(tensor: Tensor | None) -> ctypes.c_uint64:
    return ctypes.c_uint64(0 if tensor is None else tensor.data_ptr())


def _i64(value: int) -> ctypes.c_int64:
    return ctypes.c_int64(value)


def _u32(value: int) -> ctypes.c_uint32:
    return ctypes.c_uint32(value)


def _int(value: int) -> ctypes.c_int:
    return ctypes.c_int(value)
