"""Masks from pictures in a folder: one for every frame of a shot, or one for all of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import CacheFormatError, ShapeError
from ..geometry.frame_geometry import ASPECT_TOLERANCE
from ..geometry.masks import MASKED
from ..geometry.picture_files import DAMAGED, MAX_PIXELS, read_levels
from ..geometry.sequence import MARK, files_of, is_pattern, numbered_files, patterns_among
from .tracks import Tracks
from .types import FrameMasks

MOVING, SKY, TRACKS = "moving", "sky", "tracks"
_SPELLINGS: Final = {
    "moving": MOVING, "dynamic": MOVING, "mask": MOVING, "masks": MOVING,
    "sky": SKY, "tracks": TRACKS, "track": TRACKS, "ids": TRACKS, "annotations": TRACKS,
}  # fmt: skip
"""What a subfolder, or the name before the number, says that the pictures are."""

NAMES: Final = "names.json"
_PICTURES: Final = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
_LAYOUTS: Final = "0001.png ..., moving.0001.png ... or moving/0001.png ...; also sky and tracks"


@dataclass(frozen=True)
class FolderMasks:
    """Masks that lie in files.

    Attributes:
        folder: Where they are.
        layers: Files by what they show (`MOVING`, `SKY`, `TRACKS`), in the order of the frames; a
            single file is for all frames. White is left out; in tracks the grey value, or the
            number of the palette's colour, is the track, and 0 is none.
        names: Names of tracks by their numbers; others are called ``thing`` and their number.
    """

    folder: Path
    layers: dict[str, tuple[Path, ...]]
    names: dict[int, str]

    def expect_shot(self, frames: int, width: int, height: int) -> None:
        """Raise `ShapeError` unless the files fit a shot of this many frames and this size.

        Only the first file of each layer is read.

        Raises:
            CacheFormatError: It cannot be read.
        """
        for layer, files in self.layers.items():
            if len(files) not in (1, frames):
                raise ShapeError(
                    f"The masks in {self.folder.name} are not one for every frame of the shot",
                    got=f"{len(files)} files of {layer}",
                    expected=f"{frames}, or 1 for all frames",
                    fix="Render a mask for every frame of the camera move, from its first one on",
                )
            rows, columns = _read(layer, files[0]).shape
            if abs((columns / rows) / (width / height) - 1) > ASPECT_TOLERANCE:
                raise ShapeError(
                    f"The mask {files[0].name} shows another crop than the shot",
                    got=f"{columns} x {rows}",
                    expected=f"{width} x {height}, or another size of the same crop",
                    fix="Render the masks with the shot's camera",
                )

    def __call__(self, frames: Tensor, numbers: Sequence[int]) -> FrameMasks:
        """The masks of the frames' numbers; the frames themselves are not looked at.

        Raises:
            CacheFormatError: A file is damaged.
            ShapeError: There are fewer masks than frames, or masks of several sizes.
        """
        found = {layer: self._layer(layer, numbers) for layer in self.layers}
        size = next(iter(found.values())).shape
        for layer, mask in found.items():
            if mask.shape != size:
                raise ShapeError(
                    f"The masks in {self.folder.name} have different sizes",
                    got=f"{layer} of {mask.shape[2]} x {mask.shape[1]}",
                    expected=f"{size[2]} x {size[1]}",
                    fix="Render all of them in one size",
                )
        ids, moving = found.get(TRACKS), found.get(MOVING)
        marked = torch.zeros(size, dtype=torch.bool) if moving is None else moving > MASKED
        if ids is not None:
            marked = marked | (ids > 0)
        sky = found.get(SKY)
        return FrameMasks(marked, None if sky is None else sky > MASKED, self._tracks(ids))

    def _layer(self, layer: str, numbers: Sequence[int]) -> Tensor:
        """(F, H, W) float values of a layer."""
        files = self.layers[layer]
        if len(files) == 1:
            return torch.from_numpy(_read(layer, files[0])).expand(len(numbers), -1, -1)
        last = max(numbers, default=-1)
        if last >= len(files):
            raise ShapeError(
                f"The masks in {self.folder.name} end before the shot does",
                got=f"{len(files)} files of {layer}",
                expected=f"one for frame {last} as well",
            )
        values = [torch.from_numpy(_read(layer, files[number])) for number in numbers]
        size = values[0].shape
        odd = [n for n, value in zip(numbers, values, strict=True) if value.shape != size]
        if odd:
            raise ShapeError(
                f"The masks in {self.folder.name} have different sizes",
                got=f"{files[odd[0]].name} differs from {files[numbers[0]].name}",
                expected="one size",
                fix="Render all of them in one size",
            )
        return torch.stack(values)

    def _tracks(self, ids: Tensor | None) -> Tracks | None:
        """Things by their numbers, which a folder has for the whole shot."""
        if ids is None:
            return None
        shown = sorted(set(ids.int().unique().tolist()) - {0})
        names = {number: self.names.get(number) or f"thing {number}" for number in shown}
        return Tracks(ids, names, frozenset(shown))


def find_masks(folder: Path) -> FolderMasks:
    """The masks of a folder, in any of the layouts that programs write.

    What pictures show stands before their number (``moving.0001.png``, ``sky.0001.png``,
    ``tracks.0001.png``), or is the name of their subfolder. Without such a name they are masks of
    what moves, if there is one set of them. A picture without a number is for all frames.
    ``names.json`` gives tracks names.

    Raises:
        CacheFormatError: The folder is missing, holds no masks, has a gap in its numbers, or
            several sets of pictures for one layer.
    """
    if not folder.is_dir():
        raise CacheFormatError(
            "The folder of masks does not exist", got=folder, expected="a folder", fix="Check it"
        )
    named: list[tuple[str, Path]] = []
    unnamed: list[Path] = []
    for found in _sets(folder):
        layer = _said(found.stem.strip(MARK))
        if layer:
            named.append((layer, found))
        else:
            unnamed.append(found)
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        if _said(place.name):
            named += [(_said(place.name), found) for found in _sets(place)]
    if not named and len(unnamed) == 1:
        named = [(MOVING, unnamed[0])]
    _expect_one_of_each(folder, named, unnamed)
    layers = {layer: _files(found) for layer, found in named}
    return FolderMasks(folder, layers, _names(folder / NAMES))


def _sets(place: Path) -> list[Path]:
    """Patterns of the numbered pictures in a folder, and its pictures without a number."""
    pictures = sorted(path for path in place.iterdir() if path.suffix.lower() in _PICTURES)
    patterns = patterns_among(pictures)
    numbered = {path for pattern in patterns for path in files_of(pattern)}
    return [*patterns, *(path for path in pictures if path not in numbered)]


def _files(found: Path) -> tuple[Path, ...]:
    return tuple(numbered_files(found)) if is_pattern(found) else (found,)


def _said(name: str) -> str:
    """The layer that a name tells; "" for a name that tells none."""
    return _SPELLINGS.get(name.lower().strip("._-"), "")


def _expect_one_of_each(
    folder: Path, named: list[tuple[str, Path]], unnamed: list[Path]
) -> None:
    """Raise `CacheFormatError` unless there is one set of pictures for each layer, and any."""
    layers = [layer for layer, _ in named]
    double = next((layer for layer in layers if layers.count(layer) > 1), None)
    if named and double is None:
        return
    sets = [found for layer, found in named if layer == double] if double else unnamed
    shown = ", ".join(found.relative_to(folder).as_posix() for found in sets[:3])
    what = f"several sets of masks for {double}" if double else "no set of masks that says so"
    raise CacheFormatError(
        f"The folder {folder.name} holds {what}",
        got=shown or "no pictures",
        expected=f"one of {_LAYOUTS}",
        fix="Name the pictures so, and keep others elsewhere",
    )


def _names(path: Path) -> dict[int, str]:
    """Names of tracks: an object of numbers and names."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {int(number): str(name) for number, name in dict(content).items()}
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CacheFormatError(
            f"{path.name} does not name tracks",
            got=str(error)[:200],
            expected='an object such as {"1": "person", "2": "dog"}',
            fix="Correct or remove the file",
        ) from error


def _read(layer: str, path: Path) -> np.ndarray:
    """(H, W) float32: numbers of tracks, or 0..1."""
    if layer == TRACKS:
        return _read_numbers(path)
    levels, _ = read_levels(path)
    return levels.mean(axis=2)


def _read_numbers(path: Path) -> np.ndarray:
    """(H, W) float32 whole numbers: grey values, or colours of a palette by their place."""
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError(f"{picture.width} x {picture.height} pixels")
            if picture.mode not in ("P", "L", "1", "I", "I;16"):
                raise ValueError(f"colours ({picture.mode})")
            return np.asarray(picture).astype(np.float32)
    except DAMAGED as error:
        raise CacheFormatError(
            f"The map of tracks {path.name} cannot be read",
            got=str(error)[:200] or type(error).__name__,
            expected="grey of 8 or 16 bits, or a palette: 0 is nothing, n is track n",
            fix="Save it again as a PNG of numbers",
        ) from error
