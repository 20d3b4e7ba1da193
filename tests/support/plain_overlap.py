"""The plain way to choose reference frames: every point from every camera, all voxels in a set.

`mirage_core.readout.overlap` gives the same frames; tests and benchmarks compare the two.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from mirage_core.cache.types import LatentCache
from mirage_core.geometry.camera import project, projection_matrices
from mirage_core.ops.splat import visible_runs
from mirage_core.readout.overlap import DEFAULT_REFERENCES, MIN_OVERLAP, VOXEL_SIZE

_VOXEL_BITS: Final = 21


def points_in_view(
    cache: LatentCache, world_to_camera: Tensor, intrinsics: Tensor, size: tuple[int, int]
) -> Tensor:
    """Remembered points inside the frustum of any of T views; occlusion does not count.

    Args:
        cache: The memory.
        world_to_camera: (T, 4, 4).
        intrinsics: (T, 3, 3) of the latent grid.
        size: (h, w) of the latent grid.

    Returns:
        (M, 3) float32 points.
    """
    height, width = size
    projection = projection_matrices(world_to_camera, intrinsics).to(cache.device)
    parts = []
    for block in cache.blocks:
        if not bool(visible_runs(block.bounds, projection, height, width).any()):
            continue
        inside = torch.zeros(len(block), dtype=torch.bool, device=cache.device)
        for matrix in projection:
            x, y, z = project(block.points, matrix)
            u, v = x / z, y / z
            inside |= (z > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        parts.append(block.points[inside])
    return torch.cat(parts) if parts else torch.zeros(0, 3, device=cache.device)


def voxel_keys(points: Tensor, voxel: float = VOXEL_SIZE) -> Tensor:
    """Sorted unique int64 keys of the voxels that hold at least one point.

    Args:
        points: (M, 3) float32 within 2^20 voxels of the origin; points farther out do not
            count.
        voxel: Edge of a voxel in scene units.
    """
    cells = torch.floor(points / voxel)
    reach = 1 << (_VOXEL_BITS - 1)
    cells = cells[(cells.abs() < reach).all(dim=1)].long() + reach
    packed = (cells[:, 0] << (2 * _VOXEL_BITS)) | (cells[:, 1] << _VOXEL_BITS) | cells[:, 2]
    return torch.unique(packed)


def voxel_overlap(one: Tensor, other: Tensor) -> float:
    """Intersection over union of two sets of keys from `voxel_keys`; 0 for two empty sets."""
    total = len(one) + len(other)
    if total == 0:
        return 0.0
    both = total - len(torch.unique(torch.cat([one, other])))
    return both / (total - both)


def select_references(
    scores: list[float],
    *,
    limit: int = DEFAULT_REFERENCES,
    threshold: float = MIN_OVERLAP,
    exclude: frozenset[int] = frozenset(),
) -> list[int]:
    """Indices of the best frames, best first; earlier frames win ties.

    Args:
        scores: Overlap of every earlier latent frame with what comes next.
        limit: Most frames to return.
        threshold: Least overlap.
        exclude: Frames that the model sees anyway, such as the preceding ones.
    """
    candidates = [
        index
        for index, score in enumerate(scores)
        if score >= threshold and index not in exclude
    ]
    return sorted(candidates, key=lambda index: -scores[index])[:limit]
