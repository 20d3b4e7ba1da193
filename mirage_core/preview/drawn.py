"""A memory's drawings as tokens, for side branches that take these."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..cache.types import LatentCache
from ..codecs.base import PatchCodec
from ..codecs.memory_kind import Drawer
from ..constants import TEMPORAL_STRIDE
from ..errors import ModelMismatchError
from ..geometry.trajectory import Trajectory
from ..ops.best_view import BestView
from ..readout.readout import Readout
from .render import render_preview


@dataclass(frozen=True, eq=False)
class Drawings:
    """What side branches that take drawings are shown of a readout.

    Attributes:
        codec: The codec of the memory's tokens.
        view: How the memory is looked at, see `drawn_latents`.
    """

    codec: PatchCodec
    view: BestView | None = None

    def __call__(self, readout: Readout) -> Tensor:
        """The drawing of a readout as tokens, see `drawn_latents`."""
        return drawn_latents(readout, self.codec, self.view)


def drawn_latents(
    readout: Readout, codec: PatchCodec, view: BestView | None = None
) -> Tensor:
    """What a readout shows, with every token at its place inside its cell instead of filling it.

    One picture near the middle of the frames of each latent is drawn from the readout's memory,
    holes filled with smooth colour, and encoded again, as if nothing moved meanwhile.

    Args:
        readout: What the memory shows to T latent cameras.
        codec: The codec of the memory's tokens.
        view: Of each surface the best views, or the nearest points when None: as the branch was
            trained, see `mirage_core.checkpoints.branch.BranchConfig.drawn_view`.

    Returns:
        (C, T, h, w) float32 model-space latents.

    Raises:
        ModelMismatchError: The memory was made with another codec, whose tokens cannot be drawn.
    """
    if readout.cache.codec != codec.name:
        raise ModelMismatchError(
            "Tokens of this memory cannot be drawn one by one",
            got=f"a memory of {readout.cache.codec!r}",
            expected=f"one of {codec.name!r}",
            fix="Use the embedded codec for picture and memory, or another side branch",
        )
    return drawn_tokens(readout.cache, readout.trajectory, codec, codec, view)


def drawn_tokens(
    cache: LatentCache,
    trajectory: Trajectory,
    drawer: Drawer,
    codec: PatchCodec,
    view: BestView | None = None,
) -> Tensor:
    """Tokens of a memory's drawings, for branches that take these: see `drawn_latents`.

    Args:
        cache: The memory, of tokens or of colours.
        trajectory: Cameras of 4T - 3 pixel frames.
        drawer: Draws the memory's points.
        codec: Encodes the drawings.
        view: As for `drawn_latents`.

    Returns:
        (C, T, h, w) float32 model-space latents.

    Raises:
        ModelMismatchError: The memory's points are not for this drawer.
    """
    cameras = trajectory.select(middle_frames(len(trajectory)))
    pictures = render_preview(cache, cameras, drawer, view=view).frames
    return as_still(codec.encode_images(pictures), codec)


def as_still(tokens: Tensor, codec: PatchCodec) -> Tensor:
    """Tokens (C, T, h, w) of single pictures as those of a video in which each of them stays."""
    return torch.cat([tokens[:, :1], codec.static_tokens(tokens[:, 1:])], dim=1)


def middle_frames(count: int) -> list[int]:
    """Of 4T - 3 pixel frames, the one near the middle of what each of T latents stands for."""
    return [max(0, number - 1) for number in range(0, count, TEMPORAL_STRIDE)]
