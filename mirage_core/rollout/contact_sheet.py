"""Contact sheets: frames of a shot above what the memory knew of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageDraw
from torch import Tensor

from ..constants import TEMPORAL_STRIDE, WHITE_8
from .run_folder import load_record
from .state import RolloutState

COLUMNS = 5
ROWS = 5
THUMBNAIL_WIDTH = 256
KNOWN = (236, 236, 232)
UNKNOWN = (190, 64, 44)
MARGIN = 4
LABEL_HEIGHT = 14


def sheet_frames(state: RolloutState) -> set[int]:
    """Numbers of the frames that `contact_sheet` shows."""
    return {latent * TEMPORAL_STRIDE for latent in _chosen(_latent_frames(state))}


def contact_sheet(state: RolloutState, frames: Mapping[int, Tensor]) -> Tensor:
    """Evenly spaced frames of a finished shot, the visibility of each below it.

    Light cells were known to the memory before their chunk was made, red ones were not.

    Args:
        state: A complete rollout with a folder.
        frames: (H, W, 3) uint8 frames by number, `sheet_frames` among them.

    Returns:
        (H, W, 3) float32 in 0..1.

    Raises:
        CacheFormatError: A chunk's file is damaged.
    """
    visible = torch.cat([load_record(state, index).visible for index in range(state.done)])
    tiles = [
        _tile(frames[latent * TEMPORAL_STRIDE], visible[latent], latent * TEMPORAL_STRIDE)
        for latent in _chosen(len(visible))
    ]
    return _grid(tiles)


def _latent_frames(state: RolloutState) -> int:
    return (len(state.trajectory) - 1) // TEMPORAL_STRIDE + 1


def _chosen(count: int) -> list[int]:
    """Evenly spaced latent frames out of ``count``."""
    chosen: list[int] = (
        torch.linspace(0, count - 1, min(COLUMNS * ROWS, count)).round().long().tolist()
    )
    return chosen


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
    return torch.from_numpy(sheet.copy()).float() / WHITE_8
