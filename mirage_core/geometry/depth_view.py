"""A picture of depth to judge it by before anything is made from it."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..constants import WHITE_8
from .depth import valid_depth
from .frame_geometry import FrameGeometry
from .trajectory import fov_of

EXTREMES: Final = 0.01
"""Share of the nearest, and of the farthest, pixels that may lie beyond the colours."""

UNUSED: Final = (70, 70, 70), (110, 110, 110)
"""Two shades of the stripes where nothing is remembered."""

BLUE: Final = 170
"""Hue of the farthest, in 255ths of a turn; that of the nearest, 0, is red."""

_STRIPE: Final = 12
_LABEL: Final = 0.045
"""Height of the label's letters as a share of the picture's."""


def depth_range(geometry: FrameGeometry, frame: int = 0) -> tuple[float, float]:
    """Distances, in scene units, that all but the `EXTREMES` of a frame's depth lie between.

    What is left out counts only where all of the frame is.
    """
    depth, used = geometry.depth[frame].cpu(), _used(geometry, frame)
    values = depth[used if bool(used.any()) else valid_depth(depth)].sort().values
    last = len(values) - 1
    return float(values[round(EXTREMES * last)]), float(values[round((1 - EXTREMES) * last)])


def depth_view(geometry: FrameGeometry, frame: int = 0) -> Tensor:
    """Depth in colours, from red near to blue far by its inverse, with its range and lens written.

    Pixels that are left out or have no depth are striped grey.

    Args:
        geometry: Depth maps with cameras.
        frame: Number of the one that is shown.

    Returns:
        (H, W, 3) float32 in 0..1, of the depth map's own size.
    """
    near, far = depth_range(geometry, frame)
    depth, used = geometry.depth[frame].cpu(), _used(geometry, frame)
    inverse = 1 / torch.where(used, depth, far)
    width_of_range = max(1 / near - 1 / far, 1e-12)
    level = ((inverse - 1 / far) / width_of_range).clamp(0, 1)
    hue = ((1 - level) * BLUE).round().to(torch.uint8).numpy()
    bright = np.full_like(hue, WHITE_8)
    spectrum = Image.merge("HSV", [Image.fromarray(part) for part in (hue, bright, bright)])
    colours = np.array(spectrum.convert("RGB"))
    colours[~used.numpy()] = _stripes(*geometry.size)[~used.numpy()]
    fov = fov_of(geometry.intrinsics[frame], geometry.size[1])
    unit = " m" if geometry.metric else ""
    label = f"near {near:.3g}{unit}   far {far:.3g}{unit}   field of view {fov:.3g}°"
    return torch.from_numpy(_labelled(colours, label)).float() / WHITE_8


def _used(geometry: FrameGeometry, frame: int) -> Tensor:
    """(H, W) bool, True where a frame's depth may be remembered."""
    used = valid_depth(geometry.depth[frame].cpu())
    return used if geometry.exclude is None else used & ~geometry.exclude[frame].cpu()


def _stripes(height: int, width: int) -> np.ndarray:
    rows, columns = np.indices((height, width))
    return np.asarray(UNUSED, np.uint8)[(rows + columns) // _STRIPE % 2]


def _labelled(colours: np.ndarray, label: str) -> np.ndarray:
    picture = Image.fromarray(colours)
    height = max(9, round(_LABEL * picture.height))
    font = ImageFont.load_default(size=height)
    while height > 6 and font.getlength(label) > 0.96 * picture.width:  # noqa: PLR2004
        height -= 1
        font = ImageFont.load_default(size=height)
    bar = Image.new("RGB", (picture.width, round(1.7 * height)), (24, 24, 24))
    middle = (round(0.02 * picture.width), bar.height // 2)
    ImageDraw.Draw(bar).text(middle, label, fill=(236, 236, 232), font=font, anchor="lm")
    picture.paste(bar, (0, picture.height - bar.height))
    return np.array(picture)
