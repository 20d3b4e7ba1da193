"""What Spatia's side branch is steered by: latents of a colour render, and of its holes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..readout.discs import DiscFrames
from ..validate import expect_frame_count, expect_shape

VideoEncoder = Callable[[Tensor], Tensor]
"""A whole video (4n + 1, H, W, 3) in 0..1 to model-space latents (C, n + 1, h, w)."""


@dataclass(frozen=True, eq=False)
class RenderLatents:
    """A render as the side branch takes it.

    Attributes:
        render: (C, T, h, w) model-space latent of the colours.
        score: (C, T, h, w) model-space latent of the holes.

    Raises:
        ShapeError: Sizes differ.
    """

    render: Tensor
    score: Tensor

    def __post_init__(self) -> None:
        sizes = expect_shape("The latent of the render", self.render, "C T h w")
        expect_shape("The latent of the score", self.score, "C T h w", **sizes)


def encode_discs(discs: DiscFrames, encode: VideoEncoder) -> RenderLatents:
    """Encode drawn points and their holes, each as one whole video.

    Both are cut to 8 bits first. Colours reach the autoencoder in -1..1, holes in 0..1: mid grey
    where something is known and white where nothing is. Nothing is masked, not even in frames
    that are given.

    Args:
        discs: 4n + 1 frames of `mirage_core.readout.discs.render_discs`.
        encode: `mirage_core.codecs.base.LatentCodec.encode`, which takes pictures in 0..1.

    Returns:
        Both latents, n + 1 frames each.

    Raises:
        PlanError: The number of frames is not 4n + 1.
    """
    expect_frame_count(len(discs.frames))
    levels = discs.in_8_bits()
    holes = (1 - levels.coverage)[..., None].expand_as(levels.frames)
    return RenderLatents(encode(levels.frames), encode(0.5 + 0.5 * holes))
