"""Picture files, upright and with all of their bits."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

import av
import numpy as np
from av.error import FFmpegError
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    PHOTOMETRIC_INTERPRETATION,
    SAMPLEFORMAT,
    ImageFileDirectory_v2,
    TiffImageFile,
)

from ..constants import WHITE_8, WHITE_16
from ..errors import CacheFormatError
from ..log import logger

DAMAGED: Final = (
    Image.DecompressionBombError, FFmpegError, OSError, SyntaxError, ValueError, TypeError,
    ArithmeticError, LookupError, EOFError, RuntimeError, MemoryError, struct.error, zlib.error,
)  # fmt: skip
"""What Pillow and PyAV raise for a damaged picture."""

MAX_PIXELS: Final = 1 << 28
"""Most pixels of a picture; the largest sensors of telephones have three quarters of it."""

SMALL_PIXELS: Final = 1 << 24
PIXELS_PER_BYTE: Final = 32
"""Pixels above `SMALL_PIXELS` (4096 x 4096) that each byte of a file stands for at most."""


DEEP: Final = 8
"""Bits above which colours keep more than Pillow's."""

FORMATS: Final = "a PNG, JPEG, WebP or TIFF file"
CHECK: Final = "Check the path"

_FLOATS: Final = 3
"""Sample format of floating-point numbers."""


def read_picture(path: Path) -> np.ndarray:
    """Colours (H, W, 3): uint8, or float32 in 0..1 where the file has more than 8 bits.

    As ComfyUI's Load Image: turned upright as its EXIF data says, transparency left out, palettes
    and CMYK as colours.

    Raises:
        CacheFormatError: The file is missing, damaged, no picture, or too large for its bytes.
    """
    values = _values(path)
    if values.dtype == np.float32 and not bool(((values >= 0) & (values <= 1)).all()):
        _refuse(path, "numbers beyond 0..1", "a picture; a depth map goes with the depth")
    values = values / np.float32(WHITE_16) if values.dtype == np.uint16 else values
    return np.repeat(values, 3, axis=2) if values.shape[2] == 1 else values


def read_levels(path: Path) -> tuple[np.ndarray, bool]:
    """Levels (H, W, 1 or 3) float32 of a depth picture, in 0..1 for 8 and 16 bits.

    Returns:
        The levels, and whether they are floating-point numbers, which stay as they are.

    Raises:
        CacheFormatError: As for `read_picture`.
    """
    values = _values(path)
    if values.dtype == np.float32 and (pages := page_count(path)) > 1:
        logger.warning("Mirage reads the first of %d pages of %s", pages, path.name)
    white = {np.dtype(np.uint8): WHITE_8, np.dtype(np.uint16): WHITE_16}.get(values.dtype)
    if white is None:
        return values, True
    return values.astype(np.float32) / np.float32(white), False


def _values(path: Path) -> np.ndarray:
    """(H, W, 1 or 3) upright, as uint8, uint16 or float32."""
    try:
        # Of a path Pillow maps plain TIFF rows into memory, by the size that it has turned.
        with open(path, "rb") as file, Image.open(file) as picture:
            _expect_pixels(path, picture)
            tags = picture.tag_v2 if isinstance(picture, TiffImageFile) else {}
            # Pillow cuts colours of 16 bits to 8; only tags and the decoder's arguments tell.
            deep = max(tags.get(BITSPERSAMPLE, (0,))) > DEEP or any(
                _more_than_8_bits(tile[3]) for tile in picture.tile
            )
            if deep and picture.mode == "CMYK":
                raise ValueError("CMYK of 16 bits, which only RGB may have")
            if deep and len(picture.getbands()) > 1:
                return _deep_colours(path, picture)
            picture.load()
            values = _shallow(ImageOps.exif_transpose(picture))
            # Of 8 bits Pillow turns white that is 0 itself.
            white_is_0 = values.dtype == np.uint16 and tags.get(PHOTOMETRIC_INTERPRETATION) == 0
            return np.uint16(WHITE_16) - values if white_is_0 else values
    except UnidentifiedImageError as error:
        _refuse(path, *_unidentified(path), cause=error)
    except DAMAGED as error:
        reason = str(error)[:200] or type(error).__name__
        _refuse(path, reason, FORMATS, cause=error)


def _unidentified(path: Path) -> tuple[str, str, str]:
    """What a file is that Pillow knows no form of, what is read, and what to do."""
    try:
        with path.open("rb") as file:
            tags = ImageFileDirectory_v2(file.read(8))
            file.seek(tags.next)
            tags.load(file)
            bits = tags[BITSPERSAMPLE]
            kind = "floats" if _FLOATS in tags.get(SAMPLEFORMAT, ()) else "whole numbers"
    except DAMAGED:
        return "cannot identify image file", FORMATS, CHECK
    return (
        f"a TIFF with {bits[0]}-bit {kind} in {len(bits)} channels",
        "one channel of 32-bit floats or 16-bit whole numbers, or colours of 8 or 16 bits",
        "Save depth as one channel of 32-bit floats",
    )


def page_count(path: Path) -> int:
    """Pictures in one file; 1 where those behind the first cannot be read."""
    try:
        with Image.open(path) as picture:
            return int(getattr(picture, "n_frames", 1))
    except DAMAGED:
        return 1


def _more_than_8_bits(arguments: object) -> bool:
    """By a raw mode such as ``RGB;16B``, or the largest number of a PPM file."""
    listed = arguments if isinstance(arguments, tuple) else (arguments,)
    return any(";16" in item if isinstance(item, str) else item == WHITE_16 for item in listed)


def _shallow(picture: Image.Image) -> np.ndarray:
    """What Pillow decodes with all bits: 8 bits, or grey."""
    if picture.mode == "F":
        return np.asarray(picture, dtype=np.float32)[..., None].copy()
    if not picture.mode.startswith("I"):
        return np.asarray(picture.convert("RGB")).copy()
    values = np.asarray(picture)
    if values.min() < 0 or values.max() > WHITE_16:
        raise ValueError(f"whole numbers from {values.min()} to {values.max()}")
    return values.astype(np.uint16)[..., None]


def _deep_colours(path: Path, picture: Image.Image) -> np.ndarray:
    """(H, W, 3) uint16 of colours, or of grey with transparency, of 16 bits."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0), None)
    if frame is None or {frame.width, frame.height} != set(picture.size):
        raise ValueError("two sizes in one file")
    # Pillow's size of a TIFF is that of the picture when it stands upright.
    values = frame.to_ndarray(format="rgb48le")
    turn = _UPRIGHT.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    return np.ascontiguousarray(values if turn is None else turn(values))


_UPRIGHT: Final[dict[int, Callable[[np.ndarray], np.ndarray]]] = {
    2: lambda rows: rows[:, ::-1],
    3: lambda rows: rows[::-1, ::-1],
    4: lambda rows: rows[::-1],
    5: lambda rows: rows.swapaxes(0, 1),
    6: lambda rows: rows.swapaxes(0, 1)[:, ::-1],
    7: lambda rows: rows.swapaxes(0, 1)[::-1, ::-1],
    8: lambda rows: rows.swapaxes(0, 1)[::-1],
}
"""How pixels come to stand upright, by the number in EXIF data."""


def _expect_pixels(path: Path, picture: ImageFile.ImageFile) -> None:
    """Raise `ValueError` before decoding what a file of its size cannot hold."""
    pixels = picture.width * picture.height
    most = min(MAX_PIXELS, max(SMALL_PIXELS, path.stat().st_size * PIXELS_PER_BYTE))
    if not 0 < pixels <= most:
        raise ValueError(
            f"{picture.width} x {picture.height} pixels in {path.stat().st_size} bytes"
        )
    # Pillow leaves black what the strips of a damaged TIFF do not cover.
    boxes = [tile[1] for tile in picture.tile if tile[1] is not None]
    covered = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)
    if picture.format == "TIFF" and covered < pixels:
        raise ValueError(f"strips of {covered} pixels for {picture.width} x {picture.height}")


def _refuse(
    path: Path, got: str, expected: str, fix: str = CHECK, cause: BaseException | None = None
) -> NoReturn:
    raise CacheFormatError(
        f"The picture {path.name} cannot be read", got=got, expected=expected, fix=fix
    ) from cause
