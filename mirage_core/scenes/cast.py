"""Ray casting of a room: exact z-depth and the solid that every pixel sees.

All operations on pixels are elementwise sums, products, comparisons and square roots, which
round the same way wherever a pixel stands in a tensor: the result of a frame does not depend
on the frames that are rendered with it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ..geometry.trajectory import Trajectory
from .solids import entry_exit
from .types import Layout, Solid

NEAR: Final = 1e-3
"""Smallest depth in metres that counts as seen."""

EDGES: Final = tuple((a, b) for a, b in itertools.combinations(range(8), 2) if (a ^ b) in (1, 2, 4))
"""Pairs of box corners that an edge joins; corner k takes the high side where bit is set."""


@dataclass(frozen=True)
class Rays:
    """Rays of a block of pixels with camera z = 1, so that a ray parameter is a z-depth.

    Attributes:
        origins: (F, 3) float64 camera centres on the CPU.
        directions: Three (F, R, W) float32 world components, none exactly 0.
        inverse: 1 / ``directions``.
    """

    origins: Tensor
    directions: tuple[Tensor, Tensor, Tensor]
    inverse: tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Cameras:
    """Cameras of F frames and the part of each picture where a solid can appear.

    Attributes:
        origins: (F, 3) float64 camera centres on the CPU.
        pixel_to_world: (F, 3, 3) float64: from (x, y, 1) in pixels to a ray with z = 1.
        pixel_size: (F,) float64 width of a pixel at depth 1.
        bounds: (F, N, 4) int64: begin and end column, begin and end row of every solid; empty
            where the solid is out of view.
        width: Picture width in pixels.
        height: Picture height in pixels.
    """

    origins: Tensor
    pixel_to_world: Tensor
    pixel_size: Tensor
    bounds: Tensor
    width: int
    height: int

    @classmethod
    def of(cls, layout: Layout, trajectory: Trajectory) -> Cameras:
        """Prepare the cameras of a trajectory for one room."""
        pose, intrinsics = trajectory.camera_to_world, trajectory.intrinsics
        return cls(
            origins=pose[:, :3, 3],
            pixel_to_world=pose[:, :3, :3] @ torch.linalg.inv(intrinsics),
            pixel_size=(intrinsics[:, 0, 0] * intrinsics[:, 1, 1]).rsqrt(),
            bounds=_screen_bounds(layout, trajectory),
            width=trajectory.width,
            height=trajectory.height,
        )

    def select(self, frames: range) -> Cameras:
        """The cameras of consecutive frames."""
        part = slice(frames.start, frames.stop)
        return Cameras(
            self.origins[part],
            self.pixel_to_world[part],
            self.pixel_size[part],
            self.bounds[part],
            self.width,
            self.height,
        )


def make_rays(cameras: Cameras, rows: range, device: torch.device) -> Rays:
    """Rays through the centres (at +1/2) of the pixels in ``rows``."""
    matrix = cameras.pixel_to_world
    x = torch.arange(cameras.width, dtype=torch.float64) + 0.5
    y = torch.arange(rows.start, rows.stop, dtype=torch.float64) + 0.5
    across = (matrix[:, :, 0, None] * x).to(device, torch.float32)
    down = (matrix[:, :, 1, None] * y + matrix[:, :, 2, None]).to(device, torch.float32)
    directions = []
    for axis in range(3):
        direction = across[:, axis, None, :] + down[:, axis, :, None]
        directions.append(torch.copysign(direction.abs().clamp_min(1e-9), direction))
    dx, dy, dz = directions
    return Rays(cameras.origins, (dx, dy, dz), (1 / dx, 1 / dy, 1 / dz))


def _screen_bounds(layout: Layout, trajectory: Trajectory) -> Tensor:
    """`Cameras.bounds`: pixel rectangles outside of which a solid cannot be seen."""
    world_to_camera, intrinsics = trajectory.world_to_camera, trajectory.intrinsics
    corners = torch.tensor(
        [
            [[s.high[a] if k >> a & 1 else s.low[a] for a in range(3)] for k in range(8)]
            for s in layout.solids
        ],
        dtype=torch.float64,
    )
    rotation, shift = world_to_camera[:, None, None, :3, :3], world_to_camera[:, None, None, :3, 3]
    local = (rotation @ corners[..., None])[..., 0] + shift
    first, second = (local[:, :, list(ends)] for ends in zip(*EDGES, strict=True))
    # An edge that passes through the near plane is cut there; its far part stays in view.
    rise = second[..., 2:] - first[..., 2:]
    share = (NEAR - first[..., 2:]) / torch.where(rise == 0, torch.ones_like(rise), rise)
    cut = first + (second - first) * share.clamp(0, 1)
    points = torch.cat([local, cut], 2)
    seen = points[..., 2] >= NEAR * (1 - 1e-6)
    pixels = (intrinsics[:, None, None] @ points[..., None])[..., 0]
    pixels = pixels[..., :2] / pixels[..., 2:].clamp_min(NEAR)
    low = torch.where(seen[..., None], pixels, torch.full_like(pixels, 1e9)).amin(2)
    high = torch.where(seen[..., None], pixels, torch.full_like(pixels, -1e9)).amax(2)
    size = torch.tensor([trajectory.width, trajectory.height], dtype=torch.float64)
    zero = torch.zeros_like(size)
    begin = (low.floor() - 1).clamp(min=zero, max=size)
    end = (high.ceil() + 1).clamp(min=zero, max=size)
    return torch.stack([begin[..., 0], end[..., 0], begin[..., 1], end[..., 1]], -1).long()


def cast(
    solids: Sequence[Solid], rays: Rays, bounds: Tensor, first_row: int
) -> tuple[Tensor, Tensor]:
    """Find the nearest surface of every ray.

    Args:
        solids: The room followed by what stands in it.
        rays: Rays of F frames.
        bounds: (F, N, 4) rectangles of `Cameras` for these frames.
        first_row: Picture row of the block's first row.

    Returns:
        z-depth (F, R, W) float32, and the number of the solid (F, R, W) int32.
    """
    device = rays.inverse[0].device
    centres = torch.tensor([solid.centre for solid in solids], dtype=torch.float64)
    offsets = (centres[:, None] - rays.origins).to(device, torch.float32)[..., None, None]
    _, depth = entry_exit(
        "box", offsets[0].unbind(1), solids[0].half, rays.directions, rays.inverse
    )
    seen = torch.zeros_like(depth, dtype=torch.int32)
    rows = depth.shape[1]
    begin, end = bounds[..., ::2].amin(0).tolist(), bounds[..., 1::2].amax(0).tolist()
    for number, solid in enumerate(solids[1:], start=1):
        (left, top), (right, bottom) = begin[number], end[number]
        top, bottom = max(0, top - first_row), min(rows, bottom - first_row)
        if left >= right or top >= bottom:
            continue
        block = (slice(None), slice(top, bottom), slice(left, right))
        directions = [d[block] for d in rays.directions]
        inverse = [d[block] for d in rays.inverse]
        away = offsets[number].unbind(1)
        entry, leave = entry_exit(solid.shape, away, solid.half, directions, inverse)
        target = depth[block]
        hit = (entry <= leave) & (entry > NEAR) & (entry < target)
        depth[block] = torch.where(hit, entry, target)
        seen[block].masked_fill_(hit, number)
    return depth, seen
