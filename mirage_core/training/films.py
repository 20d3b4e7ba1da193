"""What a validation shows: what the memory knew, what the model made of it, and the truth."""

from __future__ import annotations

import io
from typing import Final

import torch
from PIL import Image
from torch import Tensor

from ..codecs.base import LatentCodec
from ..rollout.run_folder import load_record
from ..rollout.state import RolloutState
from ..rollout.video import to_bytes

UNSEEN: Final = 0.5
"""Grey of cells that the memory did not know."""

GIF_FRAMES: Final = 24
GIF_WIDTH: Final = 480
"""Limits of the moving pictures inside TensorBoard's files, which are never thinned out."""


def memory_frames(state: RolloutState, codec: LatentCodec) -> Tensor:
    """What the memory showed before each chunk was made.

    Args:
        state: A shot that is done, with its folder.
        codec: Of its tokens.

    Returns:
        (F, H, W, 3) in 0..1; cells that the memory did not know are grey.
    """
    records = [load_record(state, index) for index in range(state.done)]
    tokens = torch.cat([record.projections for record in records], dim=1)
    visible = torch.cat([record.visible for record in records])
    frames = codec.decode(tokens).float().cpu().clamp(0, 1)
    rows, columns = frames.shape[1] // visible.shape[1], frames.shape[2] // visible.shape[2]
    known = visible.repeat_interleave(rows, 1).repeat_interleave(columns, 2)
    group = codec.temporal_stride
    latent = [(frame + group - 1) // group for frame in range(len(frames))]
    return torch.where(known[latent][..., None], frames, torch.full_like(frames, UNSEEN))


def side_by_side(memory: Tensor, made: Tensor, truth: Tensor) -> Tensor:
    """Three videos (F, H, W, 3) as one (F, H, 3W, 3), in this order from the left."""
    return torch.cat([memory, made, truth], dim=2)


def animated(frames: Tensor, fps: float) -> tuple[bytes, int, int]:
    """A GIF of a video, thinned out and made smaller, at its own speed.

    Args:
        frames: (F, H, W, 3) in 0..1.
        fps: Frames per second.

    Returns:
        The file's bytes, its width and its height in pixels.
    """
    count, height, width = frames.shape[:3]
    shown = min(count, GIF_FRAMES)
    chosen = [number * (count - 1) // max(1, shown - 1) for number in range(shown)]
    scale = min(1.0, GIF_WIDTH / width)
    size = (round(width * scale), round(height * scale))
    pixels = to_bytes(frames[chosen]).numpy()
    pictures = [Image.fromarray(picture).resize(size) for picture in pixels]
    file = io.BytesIO()
    pause = round(1000 * count / fps / shown)
    pictures[0].save(
        file, "GIF", save_all=True, append_images=pictures[1:], duration=pause, loop=0
    )
    return file.getvalue(), *size
