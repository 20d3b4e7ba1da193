"""What a readout knows beyond tokens: where in its cell a point falls, and how far it moved."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cache.footprints import in_source_camera
from ..geometry.camera import project_each, projection_matrices
from .readout import Readout, grid_intrinsics


def point_planes(readout: Readout) -> tuple[Tensor, Tensor]:
    """Sub-cell offset and depth ratio of the winning points.

    Args:
        readout: What the memory shows to T latent cameras.

    Returns:
        (2, T, h, w) float32 offset of the point from the middle of its cell, x then y, in cells
        from -0.5 to 0.5, and (T, h, w) float32 ``ln(z / z_seen)``: z is the depth in this
        camera and z_seen the depth in the camera that observed the point. Both are 0 where
        nothing is seen.
    """
    shape = readout.winner.shape
    offset = torch.zeros(2, *shape, device=readout.winner.device)
    ratio = torch.zeros(shape, device=readout.winner.device)
    view, row, column = readout.visible.nonzero(as_tuple=True)
    if not len(view):
        return offset, ratio
    cache, index = readout.cache, readout.winner[view, row, column]
    points = cache.gather(index, [block.points for block in cache.blocks]).double()
    cameras, grid = readout.latent_cameras, (int(shape[1]), int(shape[2]))
    here = projection_matrices(cameras.world_to_camera, grid_intrinsics(cameras, grid))
    x, y, z = project_each(points, here.double().to(points.device)[view])
    for plane, position, cell in ((0, x / z, column), (1, y / z, row)):
        inside = position - cell - cache.convention.centre
        offset[plane, view, row, column] = inside.clamp(-0.5, 0.5).float()
    observed = in_source_camera(cache, index, (2,))[:, 0]
    ratio[view, row, column] = (z / observed).log().float()
    return offset, ratio
