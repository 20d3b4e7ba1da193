"""Which camera saw a point, where it stood in it, and how much of the surface its token is for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..geometry.cutouts import mask_centre
from ..geometry.transform import invert_rigid
from ..ops.best_view import Seen
from .types import LatentCache


def source_cameras(cache: LatentCache, index: Tensor) -> Tensor:
    """Number, counted through all blocks, of the camera that saw each point.

    Cameras stand in the order in which they were written, also after compaction.

    Args:
        cache: The memory.
        index: (...) int64 point indices, none negative.

    Returns:
        (...) int64.
    """
    first, sources = 0, []
    for block in cache.blocks:
        sources.append(block.source.long() + first)
        first += len(block.frames)
    return cache.gather(index, sources)


def in_source_camera(
    cache: LatentCache,
    index: Tensor,
    axes: Sequence[int] = (0, 1, 2),
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Points in the axes of the camera that observed each: x right, y down, z forward.

    Args:
        cache: The memory, with at least one block.
        index: (...) int64 point indices, none negative.
        axes: Which of the three coordinates; ``(2,)`` is the z-depth alone.
        dtype: Type that is computed in.

    Returns:
        (..., len(axes)) of ``dtype``, in scene units.
    """
    device = cache.device
    rows = torch.cat([block.world_to_camera[:, list(axes)] for block in cache.blocks])
    rows = rows.to(dtype).to(device)[source_cameras(cache, index)]
    points = cache.gather(index, [block.points for block in cache.blocks]).to(dtype)
    return (points[..., None, :] * rows[..., :3]).sum(-1) + rows[..., 3]


def cell_centres(cache: LatentCache, index: Tensor) -> Tensor:
    """Where the middle of each point's cell lies; the point itself unless the cell is cut out.

    A cut-out stands in the middle of its part, and holds the token of the whole cell.

    Args:
        cache: The memory.
        index: (N,) int64 point indices, none negative.

    Returns:
        (N, 3) float64 in the world, at the depth that the point has in the camera that saw it.
    """
    blocks = cache.blocks
    points = cache.gather(index, [block.points for block in blocks]).double()
    if all(block.mask is None for block in blocks):
        return points
    source, device = source_cameras(cache, index), cache.device
    axes = torch.cat([block.world_to_camera[:, :2, :3] for block in blocks]).to(device)[source]
    lens = torch.cat([block.intrinsics for block in blocks]).to(device)[source]
    cells = mask_centre(cache.gather(index, [block.masks for block in blocks])).double() / 2
    focal = torch.stack([lens[:, 0, 0], lens[:, 1, 1]], dim=1)
    beside = cells / focal * in_source_camera(cache, index, (2,))
    return points - (beside[:, :, None] * axes).sum(dim=1)


def sample_size(cache: LatentCache, index: Tensor) -> Tensor:
    """Edge length, in the scene, of the cell through which points were observed.

    Args:
        cache: The memory.
        index: (...) int64 point indices, none negative.

    Returns:
        (...) float32, ``z / f`` with the point's depth and the focal length, in cells, of the
        camera that saw it; small where the camera was near.
    """
    if not cache.blocks:
        return torch.zeros(index.shape, device=index.device)
    focal = torch.cat([focal_length(block.intrinsics) for block in cache.blocks]).float()
    depth = in_source_camera(cache, index, (2,), torch.float32)[..., 0]
    return depth / focal.to(cache.device)[source_cameras(cache, index)]


def seen(cache: LatentCache) -> Seen:
    """Who saw the points of each block, as `mirage_core.ops.best_view` takes it."""
    blocks = cache.blocks
    return Seen(
        [block.source for block in blocks],
        [block.slope for block in blocks],
        [viewers(block.world_to_camera, block.intrinsics, cache.device) for block in blocks],
    )


def viewers(
    world_to_camera: Tensor, intrinsics: Tensor, device: torch.device, finer: float = 1
) -> Tensor:
    """(S, 4) float32: where cameras stand, and their focal lengths in latent cells.

    Args:
        world_to_camera: (S, 4, 4).
        intrinsics: (S, 3, 3) of a grid.
        device: Where the result goes.
        finer: How many times finer that grid is than the one on which the memory was written.
    """
    place = invert_rigid(world_to_camera.double())[:, :3, 3]
    focal = focal_length(intrinsics.double()) / finer
    return torch.cat([place, focal[:, None].to(place)], dim=1).float().to(device)


def focal_length(intrinsics: Tensor) -> Tensor:
    """Geometric mean of both focal lengths of (..., 3, 3) intrinsics, in cells."""
    return (intrinsics[..., 0, 0] * intrinsics[..., 1, 1]).sqrt()
