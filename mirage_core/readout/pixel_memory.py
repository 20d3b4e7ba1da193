"""Memories at pixel resolution, with the interface of the latent one, to compare it with.

Both hold their points in a `LatentCache` whose grid is the picture itself, so that write
policies, the z-buffer, files and the accounting of bytes are the same code.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

from ..cache.build import Observation, WriteConfig, observe
from ..cache.types import LatentCache
from ..codecs.base import LatentCodec
from ..codecs.colours import ColourCodec
from ..constants import TEMPORAL_STRIDE, WHITE_8
from ..geometry.camera import PixelConvention, latent_size
from ..geometry.frame_geometry import FrameGeometry
from ..geometry.trajectory import Trajectory
from ..validate import expect_frame_count, expect_shape
from .readout import Readout, read_winners

SEEN_SHARE: Final = 0.5
"""A latent cell counts as visible when at least this share of its pixels was seen."""

_COLOURS: Final = ColourCodec()
_CELLS: Final = "t (h a) (w b) -> t h w"

Encoder = Callable[[Tensor], Tensor]
"""Encodes each picture (F, H, W, 3) alone to model-space tokens (C, F, h, w)."""

_Kind = TypeVar("_Kind", bound="PixelCache")


@dataclass(frozen=True, eq=False)
class PixelCache(ABC):
    """A memory with one point per pixel.

    Attributes:
        cache: The points, with their value per pixel as token.
        stride: Pixels along each side of a latent cell.
    """

    cache: LatentCache
    stride: int

    @property
    def _sides(self) -> dict[str, int]:
        return {"a": self.stride, "b": self.stride}

    def __len__(self) -> int:
        return len(self.cache)

    @property
    def nbytes(self) -> int:
        """Bytes held by the memory."""
        return self.cache.nbytes

    def holding(self: _Kind, cache: LatentCache) -> _Kind:
        """The same kind of memory with other points."""
        return dataclasses.replace(self, cache=cache)

    @abstractmethod
    def values(self, frames: Tensor, tokens: Tensor | None) -> Tensor:
        """(C, F, H, W): what is remembered of every pixel."""

    @abstractmethod
    def tokens(self, values: Tensor, seen: Tensor) -> Tensor:
        """(C, T, h, w) model-space tokens of values (T, H, W, C) where ``seen`` (T, H, W)."""

    def observe(
        self,
        frames: Tensor,
        geometry: FrameGeometry,
        *,
        world_to_camera: Tensor,
        numbers: Tensor,
        config: WriteConfig | None = None,
        tokens: Tensor | None = None,
    ) -> Observation:
        """Pictures with their depth, ready to be written by any policy.

        Args:
            frames: (F, H, W, 3) pictures in 0..1.
            geometry: Depth of the same frames, at any resolution.
            world_to_camera: (F, 4, 4) poses.
            numbers: (F,) pixel frame numbers.
            config: How depth is sampled and filtered.
            tokens: (C, F, h, w) latents of the frames, for memories of features.

        Raises:
            ShapeError: The frames are not pictures.
        """
        expect_shape("The video", frames, "F H W 3", F=len(geometry))
        return observe(
            self.values(frames, tokens),
            geometry,
            world_to_camera=world_to_camera,
            frames=numbers,
            convention=self.cache.convention,
            config=config,
            allow_empty=True,
        )

    def read(self, trajectory: Trajectory) -> Readout:
        """Read the memory for all latent frames of a shot, as `read` does the latent memory.

        Args:
            trajectory: Cameras of 4T - 3 pixel frames at picture size.

        Returns:
            The readout on the latent grid. The winner of a cell is the nearest point that any
            of its pixels shows.

        Raises:
            ShapeError: The picture size is not a multiple of 32.
            PlanError: The number of frames is not 4n + 1.
        """
        expect_frame_count(len(trajectory))
        latent_size(trajectory.width, trajectory.height)
        cameras = trajectory.select(slice(None, None, TEMPORAL_STRIDE))
        size = (trajectory.height, trajectory.width)
        winner, depth = read_winners(
            self.cache, cameras.world_to_camera, cameras.intrinsics, size
        )
        seen = winner >= 0
        values = self.cache.gather(winner, [block.tokens for block in self.cache.blocks])
        visible = reduce(seen.float(), _CELLS, "mean", **self._sides) >= SEEN_SHARE
        nearest, cell_winner = self._nearest(depth, winner)
        return Readout(
            tokens=torch.where(visible, self.tokens(values, seen), 0.0),
            visible=visible,
            depth=torch.where(visible, nearest, 0.0),
            winner=torch.where(visible, cell_winner, -1),
            cache=self.cache,
            trajectory=trajectory,
        )

    def _nearest(self, depth: Tensor, winner: Tensor) -> tuple[Tensor, Tensor]:
        """Least depth (t, h, w) among the seen pixels of every cell, and its point."""
        pattern = "t (h a) (w b) -> t h w (a b)"
        seen = torch.where(winner >= 0, depth, torch.inf)
        nearest, pixel = rearrange(seen, pattern, **self._sides).min(dim=-1)
        points = rearrange(winner, pattern, **self._sides)
        return nearest, points.gather(-1, pixel[..., None])[..., 0]


@dataclass(frozen=True, eq=False)
class RgbCache(PixelCache):
    """Colours as points: read as pictures with holes, which are then encoded again.

    Attributes:
        cache: The points, with 8-bit colours.
        stride: Pixels along each side of a latent cell.
        encode: Encodes pictures to tokens; this is what makes reading expensive.
    """

    encode: Encoder

    @classmethod
    def empty(
        cls, codec: LatentCodec, convention: PixelConvention = PixelConvention.PAPER
    ) -> RgbCache:
        """A memory without points, that is read as tokens of ``codec``."""
        cache = LatentCache((), convention, _COLOURS.name, _COLOURS.channels)
        return cls(cache, codec.spatial_stride, codec.encode_images)

    def values(self, frames: Tensor, tokens: Tensor | None) -> Tensor:
        """(3, F, H, W) uint8 colours."""
        return _COLOURS.encode_images(frames)

    def tokens(self, values: Tensor, seen: Tensor) -> Tensor:
        """The encoded pictures; unseen pixels take the mean colour of what the picture shows."""
        pictures = values.float() / WHITE_8
        weight = seen[..., None].float()
        total = weight.sum(dim=(1, 2), keepdim=True).clamp_min(1)
        mean = (pictures * weight).sum(dim=(1, 2), keepdim=True) / total
        return self.encode(torch.where(seen[..., None], pictures, mean))


@dataclass(frozen=True, eq=False)
class FeatureCache(PixelCache):
    """Latents brought to pixel resolution as points; read by the mean over each cell.

    The paper's other variant: tokens are interpolated to one per pixel, lifted with the
    pixel's depth, z-buffered among pixels, and averaged over the visible pixels of a cell.
    """

    @classmethod
    def empty(
        cls, codec: LatentCodec, convention: PixelConvention = PixelConvention.PAPER
    ) -> FeatureCache:
        """A memory without points, for tokens of ``codec``."""
        cache = LatentCache((), convention, codec.name, codec.channels)
        return cls(cache, codec.spatial_stride)

    def values(self, frames: Tensor, tokens: Tensor | None) -> Tensor:
        """(C, F, H, W) tokens, interpolated between the centres of their cells."""
        height, width = int(frames.shape[1]), int(frames.shape[2])
        sizes = {"h": height // self.stride, "w": width // self.stride}
        latents = torch.zeros(0) if tokens is None else tokens
        expect_shape("The frames' latents", latents, "C F h w", F=len(frames), **sizes)
        upsampled = F.interpolate(
            rearrange(latents, "c f h w -> f c h w").float(),
            size=(height, width),
            mode="bilinear",
            align_corners=False,
        )
        return rearrange(upsampled, "f c h w -> c f h w").to(latents.dtype)

    def tokens(self, values: Tensor, seen: Tensor) -> Tensor:
        """Means over the seen pixels of each cell."""
        weight = seen[..., None].float()
        total = reduce(
            values.float() * weight, "t (h a) (w b) c -> c t h w", "sum", **self._sides
        )
        count = reduce(seen.float(), _CELLS, "sum", **self._sides)
        return total / count.clamp_min(1)
