"""Point clouds for viewers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..constants import WHITE_8
from ..validate import expect_shape
from .types import LatentCache

_HEADER = """ply
format binary_little_endian 1.0
comment Mirage memory, OpenCV axes turned to y up
element vertex {count}
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
end_header
"""


def point_cloud_ply(cache: LatentCache, colours: Tensor) -> bytes:
    """Binary PLY of a memory's points, y up and z towards the viewer, as viewers expect.

    Args:
        cache: The memory.
        colours: (N, 3) in 0..1, one per point.

    Raises:
        ShapeError: There is not one colour for each point.
    """
    expect_shape("The colours", colours, "N 3", N=len(cache))
    points = torch.cat([block.points for block in cache.blocks] or [torch.zeros(0, 3)])
    vertices = np.zeros(
        len(cache),
        dtype=[(axis, "<f4") for axis in "xyz"] + [(c, "u1") for c in ("red", "green", "blue")],
    )
    for axis, values, sign in zip("xyz", points.cpu().T, (1, -1, -1), strict=True):
        vertices[axis] = sign * values.numpy()
    levels = (colours.float().cpu().clamp(0, 1) * WHITE_8).round().to(torch.uint8)
    for name, values in zip(("red", "green", "blue"), levels.T, strict=True):
        vertices[name] = values.numpy()
    return _HEADER.format(count=len(cache)).encode("ascii") + vertices.tobytes()
