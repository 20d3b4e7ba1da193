"""A cloud of points made even: one point for each cube of space that holds any."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from ..errors import ValueRangeError
from ..validate import expect_finite, expect_shape

_MOST: Final = 1 << 21
"""Voxels along each axis at most, so that three numbers fit into 63 bits."""


def downsample(points: Tensor, colours: Tensor, edge: float) -> tuple[Tensor, Tensor]:
    """Mean position and mean colour of each occupied voxel.

    A point's voxel is ``floor((p - (minimum - edge / 2)) / edge)``, the minimum being that of all
    points: the grid of Open3D. Sums are made in float64.

    Args:
        points: (N, 3); there may be none.
        colours: (N, C) what is known of each point.
        edge: Edge of a voxel in scene units.

    Returns:
        (M, 3) points and (M, C) colours in the types of the inputs, in the order of their voxels
        by x, then y, then z.

    Raises:
        ShapeError: There are not as many colours as points.
        GeometryError: A number is not finite.
        ValueRangeError: The edge is not positive, or far too small for such a cloud.
    """
    count = expect_shape("The points", points, "N 3")["N"]
    expect_shape("The points' colours", colours, "N C", N=count)
    expect_finite("The points", points)
    expect_finite("The points' colours", colours)
    if not 0 < edge < float("inf"):
        raise ValueRangeError("The edge of a voxel is out of range", got=edge, expected="above 0")
    if not count:
        return points, colours
    exact = points.double()
    cells = torch.floor((exact - (exact.amin(0) - edge / 2)) / edge)
    _expect_fitting(cells, edge)
    x, y, z = cells.long().unbind(1)
    _, voxel, size = torch.unique(
        (x * _MOST + y) * _MOST + z, return_inverse=True, return_counts=True
    )
    # Sums over sorted rows, since adding to an index in any order would change bits on CUDA.
    both = torch.cat([exact, colours.double()], dim=1)[torch.argsort(voxel, stable=True)]
    means: Tensor = torch.segment_reduce(both, "mean", lengths=size)
    return means[:, :3].to(points.dtype), means[:, 3:].to(colours.dtype)


def _expect_fitting(cells: Tensor, edge: float) -> None:
    most = float(cells.max()) + 1
    if most > _MOST:
        raise ValueRangeError(
            "The voxels are too small for the cloud",
            got=f"{most:.3g} voxels of {edge:g} along one side",
            expected=f"at most {_MOST}",
            fix="Use a larger voxel, or leave out points that lie far away",
        )
