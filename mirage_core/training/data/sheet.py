"""A sheet of a data set: clips, what the memory shows to them, and where their cameras go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ...codecs.base import LatentCodec
from ...constants import WHITE_8
from .clip import TrainingClip
from .dataset import ClipDataset

CLIPS: Final = 8
"""Clips of a sheet, evenly spaced over the data set."""

FRAMES: Final = 4
"""Latent frames of a clip, evenly spaced from the first to the last."""

REASONS: Final = 12
"""Most reasons of what was skipped that a sheet repeats."""

TILE: Final = 192
GAP: Final = 4
LINE: Final = 14
BACKGROUND: Final = (24, 24, 24)
TEXT: Final = (230, 230, 230)
UNKNOWN: Final = (190, 64, 44)
PATH: Final = (120, 190, 250)
LOOK: Final = 14
"""Pixels of the line that says where a camera looks to."""

WIDEST: Final = 110
"""Characters of a line."""

Decode = Callable[[Tensor], Tensor]


def data_sheet(
    dataset: ClipDataset, codec: LatentCodec | None, skipped: Mapping[str, str]
) -> Image.Image:
    """Draw some clips, a row each.

    A row has frames of the clip, below each what the memory shows of it with red where that is
    nothing, and beside them the cameras from above: the first one is the larger dot.

    Args:
        dataset: What is drawn.
        codec: Of the clips; without it latents are drawn in false colours.
        skipped: Why items and shots were skipped, by name; below the clips.
    """
    count = min(CLIPS, len(dataset))
    numbers = torch.linspace(0, len(dataset) - 1, count).round().long().tolist()
    rows = [_row(dataset[number], codec) for number in numbers]
    notes = [f"skipped: {name}: {reason}" for name, reason in list(skipped.items())[:REASONS]]
    if len(skipped) > REASONS:
        notes.append(f"and {len(skipped) - REASONS} more")
    width = max(row.width for row in rows)
    height = sum(row.height + GAP for row in rows) + LINE * len(notes)
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + GAP
    for note in notes:
        _write(sheet, (GAP, top), note)
        top += LINE
    return sheet


def _row(clip: TrainingClip, codec: LatentCodec | None) -> Image.Image:
    told, decode = clip.condition, _decoder(clip, codec)
    frames = int(clip.target.shape[1])
    shown = torch.linspace(0, frames - 1, min(FRAMES, frames)).round().long().tolist()
    side = clip.target.shape[2] / clip.target.shape[3]
    size = (TILE, max(1, round(TILE * side)))
    width = (size[0] + GAP) * len(shown) + size[1] * 2
    row = Image.new("RGB", (width, 2 * LINE + 2 * size[1] + GAP), BACKGROUND)
    known = float(told.visible.float().mean())
    _write(
        row, (GAP, 0),
        f"{clip.key}   the memory shows {known:.0%}   {told.references.shape[1]} references   "
        f"{told.preceding.shape[1]} preceding frames",
    )  # fmt: skip
    _write(row, (GAP, LINE), clip.caption or "no caption")
    # Frames of a video depend on those before them, tokens of a memory do not.
    video = decode(clip.target)
    for place, number in enumerate(shown):
        left = place * (size[0] + GAP)
        row.paste(_picture(video[number], size), (left, 2 * LINE))
        memory = _picture(decode(told.projection[:, number : number + 1])[0], size)
        memory.paste(UNKNOWN, (0, 0), _mask(~told.visible[number], size))
        row.paste(memory, (left, 2 * LINE + size[1] + GAP))
    row.paste(_map(clip.path, size[1] * 2), ((size[0] + GAP) * len(shown), 2 * LINE))
    return row


def _decoder(clip: TrainingClip, codec: LatentCodec | None) -> Decode:
    """From latents (C, T, h, w) to pictures (T, H, W, 3), the last one of each latent frame."""
    if codec is not None:
        return lambda latents: codec.decode(latents)[:: codec.temporal_stride].float().cpu()
    mean = clip.target.mean(dim=(1, 2, 3))[:, None]
    cells = clip.target.flatten(1) - mean
    # The three directions in which the clip's latents differ most.
    axes = torch.linalg.eigh(cells @ cells.T).eigenvectors[:, -3:]
    spread = (axes.T @ cells).std(dim=1).clamp_min(1e-6)

    def paint(latents: Tensor) -> Tensor:
        values = axes.T @ (latents.flatten(1) - mean) / spread[:, None]
        pictures = (values / 4 + 0.5).view(3, *latents.shape[1:])  # two deviations each way
        return pictures.permute(1, 2, 3, 0)

    return paint


def _picture(values: Tensor, size: tuple[int, int]) -> Image.Image:
    levels = (values.clamp(0, 1) * WHITE_8).round().to(torch.uint8).numpy()
    return Image.fromarray(levels).resize(size, Image.Resampling.LANCZOS)


def _mask(cells: Tensor, size: tuple[int, int]) -> Image.Image:
    levels = (cells.to(torch.uint8) * WHITE_8).numpy().astype(np.uint8)
    return Image.fromarray(levels, "L").resize(size, Image.Resampling.NEAREST)


def _map(path: Tensor | None, side: int) -> Image.Image:
    """Cameras from above: x to the right, and where the first one may look to, z, upwards."""
    area = Image.new("RGB", (side, side), BACKGROUND)
    if path is None:
        _write(area, (GAP, GAP), "cameras not stored")
        return area
    places, looks = path[:, [0, 2]], path[:, [3, 5]]
    middle = (places.amax(dim=0) + places.amin(dim=0)) / 2
    reach = float((places - middle).abs().max())
    scale = (side / 2 - LOOK - GAP) / reach if reach > 0 else 0.0
    pen = ImageDraw.Draw(area)
    spots = [
        (side / 2 + scale * float(x), side / 2 - scale * float(z)) for x, z in places - middle
    ]
    pen.line(spots, fill=PATH)
    for number, ((x, y), (right, ahead)) in enumerate(zip(spots, looks.tolist(), strict=True)):
        pen.line([(x, y), (x + LOOK * right, y - LOOK * ahead)], fill=TEXT)
        radius = 2 if number else 4
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=PATH)
    _write(area, (GAP, 0), f"{2 * reach:.3g} units across")
    return area


def _write(picture: Image.Image, place: tuple[int, int], text: str) -> None:
    """A line of text; letters that the font of Pillow lacks are replaced."""
    plain = text[:WIDEST].encode("latin-1", "replace").decode("latin-1")
    ImageDraw.Draw(picture).text(place, plain, fill=TEXT)
