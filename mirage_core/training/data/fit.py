"""Footage of any size to the size of the training pictures, cameras and depth alike."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ...geometry.frame_geometry import FrameGeometry
from ...geometry.trajectory import Trajectory


@dataclass(frozen=True)
class Fit:
    """Scaling to cover a size, and cutting out the middle.

    Attributes:
        own: (width, height) of the footage.
        wanted: (width, height) of the training pictures.
    """

    own: tuple[int, int]
    wanted: tuple[int, int]

    @property
    def scaled(self) -> tuple[int, int]:
        """(width, height) before the middle is cut out."""
        factor = max(self.wanted[0] / self.own[0], self.wanted[1] / self.own[1])
        width, height = (max(1, round(size * factor)) for size in self.own)
        return max(width, self.wanted[0]), max(height, self.wanted[1])

    @property
    def corner(self) -> tuple[int, int]:
        """(left, top) of the middle."""
        width, height = self.scaled
        return (width - self.wanted[0]) // 2, (height - self.wanted[1]) // 2

    def _cut(self, maps: Tensor) -> Tensor:
        (left, top), (width, height) = self.corner, self.wanted
        return maps[..., top : top + height, left : left + width]

    def picture(self, picture: Tensor) -> Tensor:
        """A picture (H, W, 3) uint8 at the wanted size, smoothed when it shrinks."""
        if self.own == self.wanted:
            return picture
        width, height = self.scaled
        planes = picture.movedim(-1, 0)[None]
        planes = functional.interpolate(
            planes, (height, width), mode="bilinear", antialias=True, align_corners=False
        )
        return self._cut(planes)[0].movedim(0, -1).contiguous()

    def cameras(self, cameras: Trajectory) -> Trajectory:
        """Cameras of the footage as cameras of the training pictures."""
        moved = cameras.resized(*self.scaled)
        return dataclasses.replace(
            moved,
            intrinsics=self._shifted(moved.intrinsics),
            width=self.wanted[0],
            height=self.wanted[1],
        )

    def geometry(self, geometry: FrameGeometry) -> FrameGeometry:
        """Depth of the footage as depth of the training pictures; pixels are not mixed.

        Raises:
            ShapeError: It has another aspect ratio than the footage.
            GeometryError: Nothing valid is left of a frame.
        """
        geometry.expect_aspect(*self.own)
        width, height = self.scaled

        def resized(maps: Tensor) -> Tensor:
            near = functional.interpolate(
                maps[:, None].float(), (height, width), mode="nearest-exact"
            )
            return self._cut(near[:, 0]).to(maps.dtype)

        extras: dict[str, Any] = {
            name: resized(maps)
            for name in ("exclude", "confidence")
            if (maps := getattr(geometry, name)) is not None
        }
        return dataclasses.replace(
            geometry,
            depth=resized(geometry.depth),
            intrinsics=self._shifted(geometry.intrinsics_for((height, width))),
            **extras,
        )

    def masks(self, marked: Tensor) -> Tensor:
        """Masks (F, H, W) of the footage's crop, in any size, as masks of the training pictures.

        Any masked pixel masks the pixels that it meets.
        """
        width, height = self.scaled
        scaled = functional.adaptive_max_pool2d(marked.float()[:, None], (height, width))
        return self._cut(scaled[:, 0]) > 0

    def _shifted(self, intrinsics: Tensor) -> Tensor:
        intrinsics = intrinsics.clone()
        intrinsics[:, :2, 2] -= torch.tensor(self.corner, dtype=torch.float64)
        return intrinsics
