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
from PIL import ExifTags, Image, ImageFile, ImageOps

from ..errors import CacheFormatError

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

WHITE_8, WHITE_16 = 255, 65535


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
    white = {np.dtype(np.uint8): WHITE_8, np.dtype(np.uint16): WHITE_16}.get(values.dtype)
    if white is None:
        return values, True
    return values.astype(np.float32) / np.float32(white), False


def _values(path: Path) -> np.ndarray:
    """(H, W, 1 or 3) upright, as uint8, uint16 or float32."""
    try:
        with Image.open(path) as picture:
            _expect_pixels(path, picture)
            # Pillow cuts colours of 16 bits to 8; only the decoder's arguments tell.
            deep = any(_more_than_8_bits(tile[3]) for tile in picture.tile)
            if deep and len(picture.getbands()) > 1:
                return _deep_colours(path, picture)
            picture.load()
            return _shallow(ImageOps.exif_transpose(picture))
    except DAMAGED as error:
        reason = str(error)[:200] or type(error).__name__
        _refuse(path, reason, "a PNG, JPEG, WebP or TIFF file", error)


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
    if frame is None or (frame.width, frame.height) != picture.size:
        raise ValueError("two sizes in one file")
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


def _refuse(path: Path, got: str, expected: str, cause: BaseException | None = None) -> NoReturn:
    raise CacheFormatError(
        f"The picture {path.name} cannot be read", got=got, expected=expected, fix="Check the path"
    ) from cause
