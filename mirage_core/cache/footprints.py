"""Which camera saw a point, and how much of the surface its token stands for."""

from __future__ import annotations

import torch
from torch import Tensor

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
    device = cache.device
    axis = torch.cat([block.world_to_camera[:, 2] for block in cache.blocks]).float().to(device)
    intrinsics = torch.cat([focal_length(block.intrinsics) for block in cache.blocks])
    source = source_cameras(cache, index)
    points = cache.gather(index, [block.points for block in cache.blocks])
    seen_from = axis[source]
    depth = (points * seen_from[..., :3]).sum(-1) + seen_from[..., 3]
    return depth / intrinsics.float().to(device)[source]


def focal_length(intrinsics: Tensor) -> Tensor:
    """Geometric mean of both focal lengths of (..., 3, 3) intrinsics, in cells."""
    return (intrinsics[..., 0, 0] * intrinsics[..., 1, 1]).sqrt()
