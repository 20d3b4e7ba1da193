"""Masks of the given picture and of every chunk, from one who finds them (Algorithm 1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry.frame_geometry import FrameGeometry
from ..geometry.masks import grow, with_mask
from ..geometry.trajectory import Trajectory
from ..log import logger
from ..masks.types import FrameMasks, MaskProvider


def tell_masks(found: FrameMasks) -> None:
    """Say in the log what moves, and how much of the pixels that is."""
    named = {} if found.tracks is None else found.tracks.names
    names = ", ".join(dict.fromkeys(named.values()))
    share = float(found.moving.float().mean())
    logger.info("moving: %s, %.1f %% of the pixels", names or "not named", 100 * share)


@dataclass(frozen=True)
class ProvidedMasks:
    """What a provider of masks finds, as the loop takes it.

    Attributes:
        provider: Finds it.
        grow: Pixels by which the picture's mask grows; those of chunks grow by the settings.
    """

    provider: MaskProvider
    grow: int = 0

    def __call__(self, frames: Tensor, cameras: Trajectory, numbers: Sequence[int]) -> FrameMasks:
        """Masks of a chunk's frames (line 15)."""
        found = self.provider(frames, numbers)
        tell_masks(found)
        return found

    def of_picture(self, picture: Tensor, geometry: FrameGeometry) -> FrameGeometry:
        """The picture's geometry without what moves in it, and without sky (line 3).

        Args:
            picture: (H, W, 3) in 0..1.
            geometry: Its depth; further frames of a whole shot stay as they are.
        """
        found = self.provider(picture[None], (0,))
        tell_masks(found)
        size = (int(picture.shape[0]), int(picture.shape[1]))
        # As in the loop: masks grow in pixels of the pictures, whatever their own size is.
        marked = found.left_out.float()[:, None]
        marked = grow(F.adaptive_max_pool2d(marked, size)[:, 0], self.grow) > 0
        first = with_mask(geometry.select([0]), marked, size).exclude
        if first is None:
            return geometry
        own = geometry.exclude
        hidden = torch.zeros_like(geometry.depth, dtype=torch.bool) if own is None else own.clone()
        hidden[0] = first[0]
        return dataclasses.replace(geometry, exclude=hidden)
