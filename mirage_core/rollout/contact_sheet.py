"""Contact sheets: frames of a shot above what the memory knew of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageDraw
from torch import Tensor

from ..constants import TEMPORAL_STRIDE
from .run_folder import load_record
from .state import RolloutState
from .video import read_frames

COLUMNS = 5
ROWS = 5
THUMBNAIL_WIDTH = 256
KNOWN = (236, 236, 232)
UNKNOWN = (190, 64, 44)
MARGIN = 4
LABEL_HEIGHT = 14


def contact_sheet(
    state: RolloutState, video: Path, on_frame: Callable[[int, int], None] | None = None
) -> Tensor:
    """Evenly spaced frames of a finished shot, the visibility of each below it.

    Light cells were known to the memory before their chunk was made, red ones were not.

    Args:
        state: A complete rollout with a folder.
        video: Its video.
        on_frame: Called with (done, total) for each frame read; may raise to cancel.

    Returns:
        (H, W, 3) float32 in 0..1.

    Raises:
        CacheFormatError: The video or a chunk's file is damaged.
    """
    visible = torch.cat([load_record(state, index).visible for index in range(state.done)])
    count = min(COLUMNS * ROWS, len(visible))
    chosen = torch.linspace(0, len(visible) - 1, count).round().long().tolist()
    wanted = {latent * TEMPORAL_STRIDE for latent in chosen}
    frames = read_frames(video, on_frame, len(state.trajectory))
    pictures = {number: frame for number, frame in enumerate(frames) if number in wanted}
    tiles = [
        _tile(pictures[latent * TEMPORAL_STRIDE], visible[latent], latent * TEMPORAL_STRIDE)
        for latent in chosen
    ]
    return _grid(tiles)


def _tile(frame: Tensor, visible: Tensor, number: int) -> Image.Image:
    height = round(THUMBNAIL_WIDTH * frame.shape[0] / frame.shape[1])
    size = (THUMBNAIL_WIDTH, height)
    picture = Image.fromarray(frame.numpy()).resize(size, Image.Resampling.LANCZOS)
    colours = torch.where(visible[..., None], torch.tensor(KNOWN), torch.tensor(UNKNOWN))
    cells = Image.fromarray(colours.to(torch.uint8).numpy())
    known = cells.resize((size[0], size[1] // 2), Image.Resampling.NEAREST)
    tile = Image.new("RGB", (size[0], LABEL_HEIGHT + size[1] + size[1] // 2), (24, 24, 24))
    tile.paste(picture, (0, LABEL_HEIGHT))
    tile.paste(known, (0, LABEL_HEIGHT + size[1]))
    label = f"frame {number}   known {float(visible.float().mean()):.0%}"
    ImageDraw.Draw(tile).text((3, 1), label, fill=(230, 230, 230))
    return tile


def _grid(tiles: list[Image.Image]) -> Tensor:
    blank = Image.new("RGB", tiles[0].size, (24, 24, 24))
    rows = -(-len(tiles) // COLUMNS)
    columns = min(COLUMNS, len(tiles))
    padded = tiles + [blank] * (rows * columns - len(tiles))
    arrays = np.stack([np.pad(np.asarray(t), ((0, MARGIN), (0, MARGIN), (0, 0))) for t in padded])
    sheet = rearrange(arrays, "(r c) h w k -> (r h) (c w) k", r=rows, c=columns)
    return torch.from_numpy(sheet.copy()).float() / 255
