"""Pictures of any size brought to one that video models take, with their depth."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch

from ..validate import expect_range, nearest_side
from .frame_geometry import FrameGeometry


def nearest_frame_size(width: int, height: int, pixels: float) -> tuple[int, int]:
    """(width, height), multiples of 32, about as large as asked and of about the same shape.

    Each side is rounded by itself: 1920 x 1080 at 0.9 million pixels is 1280 x 704.

    Args:
        width: Of the picture in pixels.
        height: Of the picture in pixels.
        pixels: Wished number of pixels.
    """
    scale = math.sqrt(pixels / (width * height))
    return nearest_side(width * scale), nearest_side(height * scale)


@dataclass(frozen=True)
class CentredCrop:
    """The largest part around the middle of a picture that has another picture's shape.

    Attributes:
        rows: First row and the one after the last.
        columns: First column and the one after the last.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]

    @classmethod
    def to_shape(cls, size: tuple[int, int], shape: tuple[int, int]) -> CentredCrop:
        """The part of a picture of ``size`` (H, W) with the aspect ratio of ``shape`` (H, W)."""
        height, width = size
        kept = min(1.0, shape[1] * height / (shape[0] * width))
        columns = max(1, round(width * kept))
        kept = min(1.0, shape[0] * width / (shape[1] * height))
        rows = max(1, round(height * kept))
        top, left = (height - rows) // 2, (width - columns) // 2
        return cls((top, top + rows), (left, left + columns))

    def of(self, frames: torch.Tensor) -> torch.Tensor:
        """The part of frames (F, H, W, ...)."""
        return frames[:, slice(*self.rows), slice(*self.columns)]

    def of_geometry(self, geometry: FrameGeometry) -> FrameGeometry:
        """The part of depth maps, with the principal points moved along."""
        intrinsics = geometry.intrinsics.clone()
        intrinsics[:, 0, 2] -= self.columns[0]
        intrinsics[:, 1, 2] -= self.rows[0]
        maps: dict[str, Any] = {
            name: self.of(value)
            for name in ("depth", "exclude", "confidence")
            if (value := getattr(geometry, name)) is not None
        }
        return dataclasses.replace(geometry, intrinsics=intrinsics, **maps)

    def field_of_view(self, fov: float, width: int) -> float:
        """Horizontal field of view of the part, of a picture of ``width`` with ``fov``.

        Args:
            fov: In degrees, between 1 and 170.
            width: Of the whole picture.
        """
        expect_range("The field of view", fov, 1, 170)
        share = (self.columns[1] - self.columns[0]) / width
        return math.degrees(2 * math.atan(share * math.tan(math.radians(fov) / 2)))
