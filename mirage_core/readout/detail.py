"""What a readout knows beyond tokens: where in its cell a point falls, and how far it moved."""

from __future__ import annotations

import torch
from torch import Tensor

from ..geometry.camera import projection_matrices
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
    index = readout.winner[view, row, column]
    blocks = readout.cache.blocks
    points = readout.cache.gather(index, [block.points for block in blocks]).double()
    cameras, grid = readout.latent_cameras, (int(shape[1]), int(shape[2]))
    here = projection_matrices(cameras.world_to_camera, grid_intrinsics(cameras, grid))
    x, y, z = _project(here.double().to(points.device)[view], points)
    convention = readout.cache.convention
    for plane, place, cell in ((0, x / z, column), (1, y / z, row)):
        inside = place - cell - convention.centre
        offset[plane, view, row, column] = inside.clamp(-0.5, 0.5).float()
    ratio[view, row, column] = (z / _depth_when_seen(readout, index, points)).log().float()
    return offset, ratio


def _project(matrices: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, y, z = (torch.einsum("nij,nj->ni", matrices[..., :3], points) + matrices[..., 3]).unbind(1)
    return x, y, z


def _depth_when_seen(readout: Readout, index: Tensor, points: Tensor) -> Tensor:
    """(M,) z-depth of points in the cameras that observed them."""
    blocks = readout.cache.blocks
    first = torch.tensor([0] + [len(block.frames) for block in blocks[:-1]]).cumsum(0)
    # The block of each point, since a block counts its cameras from 0.
    ends = torch.tensor(readout.cache.offsets[1:], device=index.device)
    block = torch.bucketize(index, ends, right=True)
    source = readout.cache.gather(index, [part.source[:, None] for part in blocks])[:, 0]
    camera = source.long() + first.to(index.device)[block]
    axis = torch.cat([part.world_to_camera[:, 2] for part in blocks]).to(points.device)[camera]
    return (axis[:, :3] * points).sum(1) + axis[:, 3]
