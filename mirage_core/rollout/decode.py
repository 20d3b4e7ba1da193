"""Where chunks meet: decoding behind earlier latents, and encoding what the next one shares."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..codecs.base import LatentCodec
from ..constants import TEMPORAL_STRIDE
from ..validate import expect_range, expect_shape
from .history import History, preceding_frames
from .settings import MAX_CONTEXT_FRAMES
from .state import RolloutState

Decode = Callable[[Tensor], Tensor]
"""Decodes (C, T, h, w) model-space latents of a video to (4T - 3, H, W, 3) frames in 0..1."""


def context_latents(state: RolloutState, count: int) -> Tensor:
    """The decode context: the finished latents right before the overlapping one.

    A chunk that shares more than one frame with the one before needs none: its clean latents
    were encoded as a clip of their own, which begins with a picture, as its decoded frames do.

    Args:
        state: The state before the chunk.
        count: Most latents; fewer while the shot is young, none for its first chunk and where
            chunks overlap by more than one frame.

    Returns:
        (C, K, h, w) float32 on the CPU, in order.

    Raises:
        ResumeError: Earlier chunks are needed, and the rollout has no folder.
        CacheFormatError: The file of an earlier chunk is damaged.
    """
    expect_range("The number of carried latents", count, 0, MAX_CONTEXT_FRAMES)
    carried = count if state.lengths.overlap == 1 else 0
    return History(state).latents(preceding_frames(state, carried))


def encode_overlap(codec: LatentCodec, state: RolloutState, frames: Tensor) -> Tensor | None:
    """The clean latents of the chunk that follows the next one.

    Args:
        codec: The codec of the shot.
        state: The state before the chunk.
        frames: (4T - 3, H, W, 3) decoded frames of the chunk in 0..1.

    Returns:
        (C, K, h, w) latents of the chunk's last frames as a clip; None where its last latent
        serves as it is.
    """
    count = state.frames_to_encode
    return codec.encode(frames[-count:]) if count else None


def decode_with_context(decode: Decode, before: Tensor, latents: Tensor) -> Tensor:
    """Decode a chunk behind the latents that precede it, and keep the chunk's frames.

    The decoder is causal in time: a frame depends on the latents before it. Decoded alone, a
    chunk would begin as if nothing had been before, and its first latent, which stands for
    four frames, would be taken for a single picture.

    Args:
        decode: The codec's decoder.
        before: (C, K, h, w) latents right before the first of the chunk; K may be 0.
        latents: (C, T, h, w) latents of the chunk, the overlapping ones first.

    Returns:
        (4T - 3, H, W, 3) frames: the last of the first latent, and all after it.

    Raises:
        ShapeError: Sizes differ, or the decoder returned another number of frames.
    """
    sizes = expect_shape("The chunk's latents", latents, "C T h w")
    grid = {name: sizes[name] for name in ("C", "h", "w")}
    context = expect_shape("The carried latents", before, "C K h w", **grid)["K"]
    frames = decode(torch.cat([before.to(latents), latents], dim=1) if context else latents)
    count = _frames_of(sizes["T"] + context)
    expect_shape("The decoded frames", frames, "F H W 3", F=count)
    return frames[count - _frames_of(sizes["T"]) :]


def _frames_of(latents: int) -> int:
    return (latents - 1) * TEMPORAL_STRIDE + 1
