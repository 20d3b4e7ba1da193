"""The operators ``mirage::*`` of `torch.library`: on CUDA the kernels, elsewhere torch.

Registering is all that importing this module does, and it happens once in a process: ComfyUI
may load the pack a second time under another name, and both copies then use the first one's
operators. The overload name states the revision of a schema, so that copies of different
versions do not meet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from . import gather as torch_path
from . import kernels
from .backend import backend
from .best_view import Seen, best_view
from .kernels import BlockTensors, Grid
from .splat import BOUNDS_RUN, point_bounds

NAMESPACE: Final = "mirage"
REVISION: Final = "v2"

_SCHEMAS: Final = {
    "bounds": "(Tensor points) -> Tensor",
    "splat": (
        "(Tensor[] points, Tensor[] bounds, Tensor projection, int height, int width, "
        "bool nearest_centre) -> Tensor"
    ),
    "best_view": (
        "(Tensor[] points, Tensor[] bounds, Tensor[] source, Tensor[] slope, Tensor[] observers, "
        "Tensor projection, Tensor viewers, int height, int width, float[] rule, "
        "bool nearest_centre) -> (Tensor, Tensor)"
    ),
    "readout": (
        "(Tensor[] points, Tensor[] bounds, Tensor[] tokens, Tensor[] scales, Tensor projection, "
        "int height, int width, int channels, ScalarType dtype, bool nearest_centre) "
        "-> (Tensor, Tensor, Tensor, Tensor)"
    ),
    "gather": "(Tensor[] rows, Tensor index) -> Tensor",
    "scatter": "(Tensor gradient, Tensor index, SymInt length) -> Tensor",
}


def operator(name: str) -> Callable[..., Any]:
    """The operator ``mirage::name`` of this revision."""
    return getattr(getattr(getattr(torch.ops, NAMESPACE), name), REVISION)


def _bounds_cuda(points: Tensor) -> Tensor:
    launch = backend(points.device.index).launcher
    return point_bounds(points) if launch is None else kernels.bounds(launch, points)


def _splat_cuda(
    points: list[Tensor],
    bounds: list[Tensor],
    projection: Tensor,
    height: int,
    width: int,
    nearest_centre: bool,
) -> Tensor:
    launch = backend(projection.device.index).launcher
    if launch is None:
        return torch_path.splat_keys(points, bounds, projection, height, width, nearest_centre)
    grid = Grid(height, width, nearest_centre)
    return kernels.splat(launch, BlockTensors(points, bounds), projection, grid)


def _best_view_cuda(
    points: list[Tensor],
    bounds: list[Tensor],
    source: list[Tensor],
    slope: list[Tensor],
    observers: list[Tensor],
    projection: Tensor,
    viewers: Tensor,
    height: int,
    width: int,
    rule: list[float],
    nearest_centre: bool,
) -> tuple[Tensor, Tensor]:
    launch = backend(projection.device.index).launcher
    if launch is None:
        return best_view(
            points, bounds, source, slope, observers, projection, viewers, height, width, rule,
            nearest_centre,
        )  # fmt: skip
    memory, seen = BlockTensors(points, bounds), Seen(source, slope, observers)
    grid = Grid(height, width, nearest_centre)
    return kernels.best_view(launch, memory, seen, projection, viewers, grid, rule)


def _readout_cuda(
    points: list[Tensor],
    bounds: list[Tensor],
    tokens: list[Tensor],
    scales: list[Tensor],
    projection: Tensor,
    height: int,
    width: int,
    channels: int,
    dtype: torch.dtype,
    nearest_centre: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    launch = backend(projection.device.index).launcher
    if launch is None:
        return torch_path.readout(
            points, bounds, tokens, scales, projection, height, width, channels, dtype,
            nearest_centre,
        )  # fmt: skip
    memory = BlockTensors(points, bounds, tokens, scales)
    grid = Grid(height, width, nearest_centre)
    return kernels.readout(launch, memory, projection, grid, channels, dtype)


def _gather_cuda(rows: list[Tensor], index: Tensor) -> Tensor:
    launch = backend(index.device.index).launcher
    return torch_path.gather(rows, index) if launch is None else kernels.gather(launch, rows, index)


def _scatter_cuda(gradient: Tensor, index: Tensor, length: int) -> Tensor:
    launch = backend(index.device.index).launcher
    # Several cells may add to one row, in an order that only torch's own way can fix.
    if launch is None or torch.are_deterministic_algorithms_enabled():
        return torch_path.scatter(gradient, index, length)
    return kernels.scatter(launch, gradient, index, length)


def _bounds_shape(points: Tensor) -> Tensor:
    return points.new_empty((points.shape[0] + BOUNDS_RUN - 1) // BOUNDS_RUN, 6)


def _splat_shape(
    points: list[Tensor],
    bounds: list[Tensor],
    projection: Tensor,
    height: int,
    width: int,
    nearest_centre: bool,
) -> Tensor:
    return projection.new_empty(projection.shape[0], height * width, dtype=torch.int64)


def _best_view_shape(
    points: list[Tensor],
    bounds: list[Tensor],
    source: list[Tensor],
    slope: list[Tensor],
    observers: list[Tensor],
    projection: Tensor,
    viewers: Tensor,
    height: int,
    width: int,
    rule: list[float],
    nearest_centre: bool,
) -> tuple[Tensor, Tensor]:
    shape = (projection.shape[0], height * width)
    return (
        projection.new_empty(shape, dtype=torch.int64),
        projection.new_empty(shape, dtype=torch.float32),
    )


def _readout_shape(
    points: list[Tensor],
    bounds: list[Tensor],
    tokens: list[Tensor],
    scales: list[Tensor],
    projection: Tensor,
    height: int,
    width: int,
    channels: int,
    dtype: torch.dtype,
    nearest_centre: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = (projection.shape[0], height, width)
    return (
        projection.new_empty(channels, *shape, dtype=dtype),
        projection.new_empty(shape, dtype=torch.bool),
        projection.new_empty(shape, dtype=torch.float32),
        projection.new_empty(shape, dtype=torch.int64),
    )


def _gather_shape(rows: list[Tensor], index: Tensor) -> Tensor:
    return rows[0].new_empty(*index.shape, *rows[0].shape[1:])


def _scatter_shape(gradient: Tensor, index: Tensor, length: int) -> Tensor:
    return gradient.new_empty(length, gradient.shape[1], dtype=torch.float32)


def _readout_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, visible, depth, winner = output
    ctx.mark_non_differentiable(visible, depth, winner)
    ctx.save_for_backward(winner)
    ctx.rows = [(rows.shape, rows.dtype) for rows in inputs[2]]
    # A list of tensors has a list of gradients.
    ctx.none = [[None] * len(inputs[number]) for number in (0, 1, 3)]


def _readout_backward(ctx: Any, gradient: Tensor, *_: Tensor | None) -> tuple[Any, ...]:
    (winner,) = ctx.saved_tensors
    parts = _split(gradient.flatten(1).T, winner.flatten(), ctx.rows)
    points, bounds, scales = ctx.none
    return points, bounds, parts, scales, None, None, None, None, None, None


def _gather_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.rows = [(rows.shape, rows.dtype) for rows in inputs[0]]


def _gather_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    (index,) = ctx.saved_tensors
    flat = index.flatten()
    return _split(gradient.reshape(flat.shape[0], -1), flat, ctx.rows), None


def _split(
    gradient: Tensor, index: Tensor, rows: list[tuple[torch.Size, torch.dtype]]
) -> list[Tensor | None]:
    """The gradient of each block's rows."""
    lengths = [shape[0] for shape, _ in rows]
    sums = operator("scatter")(gradient, index, sum(lengths))
    return [
        part.view(shape).to(dtype) if dtype.is_floating_point else None
        for part, (shape, dtype) in zip(sums.split(lengths), rows, strict=True)
    ]


_CPU: Final[dict[str, Callable[..., Any]]] = {
    "bounds": point_bounds,
    "splat": torch_path.splat_keys,
    "best_view": best_view,
    "readout": torch_path.readout,
    "gather": torch_path.gather,
    "scatter": torch_path.scatter,
}
_CUDA: Final[dict[str, Callable[..., Any]]] = {
    "bounds": _bounds_cuda,
    "splat": _splat_cuda,
    "best_view": _best_view_cuda,
    "readout": _readout_cuda,
    "gather": _gather_cuda,
    "scatter": _scatter_cuda,
}
_SHAPES: Final[dict[str, Callable[..., Any]]] = {
    "bounds": _bounds_shape,
    "splat": _splat_shape,
    "best_view": _best_view_shape,
    "readout": _readout_shape,
    "gather": _gather_shape,
    "scatter": _scatter_shape,
}
_BACKWARD: Final[dict[str, tuple[Callable[..., Any], Callable[..., Any]]]] = {
    "readout": (_readout_backward, _readout_context),
    "gather": (_gather_backward, _gather_context),
}


def _register() -> torch.library.Library | None:
    """Define the operators; None where another copy of this module has done so."""
    packet = getattr(getattr(torch.ops, NAMESPACE), "readout", None)
    if packet is not None and REVISION in packet.overloads():
        return None
    library = torch.library.Library(NAMESPACE, "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        overload = f"{name}.{REVISION}"
        library.define(overload + schema)
        library.impl(overload, _CPU[name], "CompositeExplicitAutograd")
        library.impl(overload, _CUDA[name], "CUDA")
        torch.library.register_fake(f"{NAMESPACE}::{overload}", _SHAPES[name], lib=library)
        if name in _BACKWARD:
            backward, context = _BACKWARD[name]
            torch.library.register_autograd(
                f"{NAMESPACE}::{overload}", backward, setup_context=context, lib=library
            )
    return library


_LIBRARY: Final = _register()
