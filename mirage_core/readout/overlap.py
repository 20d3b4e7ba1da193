"""The earlier frames that see most of what comes next, among hundreds, in milliseconds.

The plain way looks at every point from every earlier camera. Here points are sorted into cubes
of 8 x 8 x 8 voxels, and a cube that lies wholly inside or outside of a view is settled at once.
What is left open bounds each frame's overlap from above; frames are settled exactly in the
order of their bounds, until no other can be among the best. The result is the plain way's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from ..geometry.camera import project

VOXEL_SIZE: Final = 0.1
"""Edge of a voxel in scene units (released setting; assumes metres)."""

MIN_OVERLAP: Final = 0.04
"""Least intersection over union of a reference frame (released setting)."""

DEFAULT_REFERENCES: Final = 4
"""Reference frames of one chunk at most (released setting)."""

_FINE_BITS: Final = 2
"""A cube has 2^2 voxels along each side."""

_COARSE_BITS: Final = 19
_REACH: Final = 1 << (_FINE_BITS + _COARSE_BITS - 1)
"""Voxels that count lie this many voxels from the origin at most."""

_MARGIN: Final = 1e-4
"""Share by which a cube clears a plane of the view before it is settled without its points;
far more than the rounding of float32."""

_SLACK: Final = 1e-9


@dataclass(frozen=True, eq=False)
class Views:
    """Cameras on one grid.

    Attributes:
        projection: (V, 3, 4) float32 of `mirage_core.geometry.camera.projection_matrices`.
        height: Rows of the grid.
        width: Columns of the grid.
    """

    projection: Tensor
    height: int
    width: int

    def inside(self, view: int, points: Tensor) -> Tensor:
        """(M,) bool: points (M, 3) inside the frustum of one view."""
        matrix = self.projection[view].to(points.device)
        x, y, z = project(points, matrix)
        u, v = x / z, y / z
        return (z > 0) & (u >= 0) & (u < self.width) & (v >= 0) & (v < self.height)

    def settle(self, middle: Tensor, half: float) -> tuple[Tensor, Tensor]:
        """Which cubes (K, 3) lie wholly inside each view, and which only partly.

        Returns:
            Two (V, K) bool.
        """
        x, y, z = self.projection.double().to(middle.device).unbind(1)
        planes = torch.stack([z, x, y, self.width * z - x, self.height * z - y], dim=1)
        normal, offset = planes[..., :3], planes[..., 3:]
        centre = normal @ middle.T + offset
        spread = normal.abs().sum(-1, keepdim=True) * half
        margin = _MARGIN * (normal.abs() @ middle.abs().T + offset.abs() + spread)
        inside = (centre - spread > margin).all(dim=1)
        outside = (centre + spread < -margin).any(dim=1)
        return inside, ~inside & ~outside


@dataclass(frozen=True, eq=False)
class VoxelMap:
    """Points in the order of their cubes and voxels.

    Attributes:
        points: (N, 3) float32.
        born: (N,) int64, when each point was remembered.
        voxel: (N,) int64 number of the voxel of each point.
        first: (M,) int64, when the first point of each voxel was remembered.
        cube: (M,) int64 number of the cube of each voxel.
        middle: (K, 3) float64 centre of each cube.
        half: Half a cube's edge.
    """

    points: Tensor
    born: Tensor
    voxel: Tensor
    first: Tensor
    cube: Tensor
    middle: Tensor
    half: float

    @classmethod
    def of(cls, points: Tensor, born: Tensor, voxel: float = VOXEL_SIZE) -> VoxelMap:
        """Sort points (N, 3); those farther than 2^20 voxels do not count."""
        cells = torch.floor(points / voxel)
        near = (cells.abs() < _REACH).all(dim=1).nonzero()[:, 0]
        keys, order = torch.sort(_pack(cells[near].long() + _REACH))
        order = near[order]
        born = born[order]
        unique, number = torch.unique_consecutive(keys, return_inverse=True)
        never = torch.iinfo(torch.int64).max
        first = born.new_full((len(unique),), never).scatter_reduce_(0, number, born, "amin")
        coarse, cube = torch.unique_consecutive(
            unique >> (3 * _FINE_BITS), return_inverse=True
        )
        edge = voxel * (1 << _FINE_BITS)
        corner = _unpack(coarse) - (_REACH >> _FINE_BITS)
        return cls(
            points=points[order],
            born=born,
            voxel=number,
            first=first,
            cube=cube,
            middle=(corner.double() + 0.5) * edge,
            half=edge / 2,
        )

    @cached_property
    def spans(self) -> tuple[Tensor, Tensor]:
        """First point of each cube, and how many there are: two (K,) int64."""
        count = torch.bincount(self.cube[self.voxel], minlength=len(self.middle))
        return count.cumsum(0) - count, count

    def seen(self, views: Views) -> Tensor:
        """(M,) bool: voxels with a point inside any of the views."""
        inside, partly = views.settle(self.middle, self.half)
        whole = inside.any(dim=0)
        seen = whole[self.cube]
        for view in partly.any(dim=1).nonzero().flatten().tolist():
            found = self.among(views, view, partly[view] & ~whole)
            seen[self.voxel[found]] = True
        return seen

    def among(self, views: Views, view: int, cubes: Tensor) -> Tensor:
        """Indices of the points inside a view, of the cubes (K,) that are asked for."""
        start, count = (span[cubes] for span in self.spans)
        shift = start - (count.cumsum(0) - count)
        asked = torch.repeat_interleave(shift, count)
        asked += torch.arange(len(asked), device=asked.device)
        return asked[views.inside(view, self.points[asked])]

    def count(self, limits: Tensor, only: Tensor | None = None) -> Tensor:
        """Voxels of each cube that were known at some times.

        Args:
            limits: (L,) int64 times, ascending.
            only: (M,) bool, the voxels that count; all by default.

        Returns:
            (L, K) float64.
        """
        born = torch.bucketize(self.first, limits)
        cubes = len(self.middle)
        place = born * cubes + self.cube
        place = place if only is None else place[only]
        table = torch.bincount(place, minlength=(len(limits) + 1) * cubes)
        return table.view(len(limits) + 1, cubes)[: len(limits)].cumsum(0).double()


def best_overlaps(
    points: Tensor,
    born: Tensor,
    ahead: Views,
    behind: Views,
    times: list[int],
    *,
    limit: int = DEFAULT_REFERENCES,
    threshold: float = MIN_OVERLAP,
    exclude: frozenset[int] = frozenset(),
    voxel: float = VOXEL_SIZE,
) -> list[int]:
    """Earlier frames whose view of the memory overlaps most with the views ahead.

    The overlap of a frame is the intersection over union of two sets of voxels: those with a
    remembered point inside any view ahead, and those with a point inside the frame's own view
    that was remembered by the frame's own time. Occlusion does not count.

    Args:
        points: (N, 3) float32, the memory's points.
        born: (N,) int64, when each was remembered, by any clock.
        ahead: The cameras of what comes next.
        behind: One camera for each of V earlier frames.
        times: V times by the same clock.
        limit: Most frames to return.
        threshold: Least overlap.
        exclude: Frames that are not to be returned.
        voxel: Edge of a voxel in scene units.

    Returns:
        Frames, best first; earlier ones win ties.
    """
    if not len(points) or not times or limit < 1:
        return []
    memory = VoxelMap.of(points, born.to(points.device), voxel)
    target = memory.seen(ahead)
    limits = torch.tensor(sorted(set(times)), device=points.device)
    row = torch.searchsorted(limits, torch.tensor(times, device=points.device))
    inside, partly = behind.settle(memory.middle, memory.half)
    total, shared = (memory.count(limits, only)[row] for only in (None, target))
    sure, sure_shared = (inside * total).sum(1), (inside * shared).sum(1)
    maybe_shared = (partly * shared).sum(1)
    wanted = int(target.sum())
    # Of a / b with a among the target's voxels, b is least when the frame sees nothing else.
    bounds = ((sure_shared + maybe_shared) / (sure - sure_shared + wanted).clamp_min(1)).tolist()
    best: list[tuple[float, int]] = []
    allowed = set(range(len(times))) - exclude
    for frame in sorted(allowed, key=lambda index: (-bounds[index], index)):
        worst = -best[-1][0] if len(best) == limit else threshold
        if bounds[frame] < worst - _SLACK:
            break
        found = memory.among(behind, frame, partly[frame])
        found = torch.unique_consecutive(memory.voxel[found[memory.born[found] <= times[frame]]])
        both = int(sure_shared[frame]) + int(target[found].sum())
        union = int(sure[frame]) + len(found) + wanted - both
        score = both / union if union else 0.0
        if score >= threshold:
            best = sorted([*best, (-score, frame)])[:limit]
    return [frame for _, frame in best]


def _pack(cells: Tensor) -> Tensor:
    """Keys that order cells (N, 3), counted from 0, by cube, then by voxel within it."""
    coarse, fine = cells >> _FINE_BITS, cells & ((1 << _FINE_BITS) - 1)
    return _join(coarse, _COARSE_BITS) << (3 * _FINE_BITS) | _join(fine, _FINE_BITS)


def _join(cells: Tensor, bits: int) -> Tensor:
    x, y, z = cells.unbind(1)
    return (x << (2 * bits)) | (y << bits) | z


def _unpack(keys: Tensor) -> Tensor:
    """The inverse of `_join` for cubes: (K, 3)."""
    mask = (1 << _COARSE_BITS) - 1
    return torch.stack([keys >> (2 * _COARSE_BITS), keys >> _COARSE_BITS & mask, keys & mask], 1)
