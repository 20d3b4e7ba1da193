"""Depth from pictures of it: what their values mean, and what black means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ..constants import WHITE_8, WHITE_16
from ..errors import ValueRangeError
from ..log import logger
from ..validate import expect_shape
from .frame_geometry import FrameGeometry, depth_from_picture
from .trajectory import intrinsics_from_fov

AUTO: Final = "auto"
NEAR_INVERSE: Final = "near is white"
NEAR_LINEAR: Final = "near is white, linear"
FAR_LINEAR: Final = "far is white"
MILLIMETRES: Final = "millimetres"
SCENE_UNITS: Final = "scene units"
ENCODINGS: Final = (NEAR_INVERSE, NEAR_LINEAR, FAR_LINEAR, AUTO, MILLIMETRES, SCENE_UNITS)
"""How the values of a depth picture become distances."""

NO_READING: Final = "no reading"
A_DISTANCE: Final = "a distance"
BLACKS: Final = (AUTO, NO_READING, A_DISTANCE)
"""What black is: the end of the range, or a pixel of which nothing is known."""

METRES: Final = WHITE_16 / 1000
"""Distance that white stands for where 16 bits count in millimetres."""

MILLIMETRES_BELOW: Final = 0.5
"""16 bits that use less than this share of their range count in something: pictures that are
stretched to their range go up to white."""

APART: Final = 0.1
"""Share of the range that must be empty above black, for black to stand apart."""

APART_STEPS: Final = 4
"""So many times the usual step between levels must it be, too."""

SPREAD: Final = 8
"""Levels that a picture has at least if its steps tell anything."""

DOUBT: Final = f": these look like {MILLIMETRES}, which {AUTO} would take)"
STRAY: Final = 1e-3
"""Share of white up to which it tells nothing: single pixels of a sensor."""

WHITE_NEAR: Final = f"; the white inside is near; choose {MILLIMETRES} if it is out of range)"
WHITE_FAR: Final = f"; the white is out of range; choose {NEAR_INVERSE} if it is near)"
_ROUNDED: Final = 0.02
"""Difference from a whole step of 8 bits that counts as none; it is five steps of 16 bits."""


@dataclass(frozen=True)
class DepthReading:
    """How a depth picture is read.

    Attributes:
        encoding: One of `ENCODINGS`.
        near: Distance of the nearest surface, where values are shares of a range.
        far: Distance of the farthest one.
        black: One of `BLACKS`.

    Raises:
        ValueRangeError: A name is unknown.
    """

    encoding: str = AUTO
    near: float = 1.0
    far: float = 20.0
    black: str = AUTO

    def __post_init__(self) -> None:
        for what, value, known in (
            ("encoding", self.encoding, ENCODINGS),
            ("meaning of black", self.black, BLACKS),
        ):
            if value not in known:
                raise ValueRangeError(
                    f"The depth picture's {what} is unknown", got=value, expected=", ".join(known)
                )


def geometry_from_picture(
    picture: Tensor, reading: DepthReading, fov: float, *, floats: bool = False
) -> FrameGeometry:
    """Depth maps with a field of view; the notes say what was taken.

    Args:
        picture: (F, H, W, C) levels in 0..1, of which colours are averaged and alpha is left
            out; or distances in scene units: what goes beyond 1 can be nothing else.
        reading: What levels mean. ``auto`` takes scene units for what goes beyond 1 and for
            ``floats``, millimetres for grey of more than 8 bits that uses less than half of its
            range unless it has white that does not reach the border, and else ``near is white``.
        fov: Horizontal field of view in degrees.
        floats: True for a file of floating-point numbers.

    Raises:
        GeometryError: The range is empty, or a frame has no reading.
        ShapeError: It is no batch of pictures.
        ValueRangeError: The field of view is out of range.
    """
    expect_shape("The depth picture", picture, "F H W C")
    # Two channels are grey and alpha, four are colours and alpha.
    colours = picture[..., : 1 if picture.shape[-1] <= 2 else 3].float()  # noqa: PLR2004
    grey = bool((colours == colours[..., :1]).all())
    values = colours[..., 0] if grey else colours.mean(dim=-1)
    encoding, why = _encoding(values, reading.encoding, grey, floats)
    if why.endswith((DOUBT, WHITE_NEAR, WHITE_FAR)):
        logger.warning("Mirage reads a depth picture as %s%s", encoding, why)
    black = values <= 0
    hidden = _is_no_reading(values, encoding, reading.black)
    depth = _distances(values, encoding, reading)
    depth = torch.where(black, 0.0, depth) if hidden else depth
    frames, height, width = depth.shape
    notes = [f"taken: {encoding}{_range(encoding, reading)}{why}"]
    if not grey:
        notes.append("the picture has colours: their mean was taken")
    share = float(black.float().mean())
    if hidden and share > 0:
        notes.append(f"black is no reading ({share:.1%})")
    return FrameGeometry(
        depth,
        intrinsics_from_fov(width, height, fov).expand(frames, 3, 3),
        metric=encoding == MILLIMETRES,
        notes=tuple(notes),
    )


def _encoding(values: Tensor, wanted: str, grey: bool, floats: bool) -> tuple[str, str]:
    """The encoding, and in brackets why it was taken if nobody asked for it."""
    rounding = 1e-3
    if wanted != SCENE_UNITS and bool((values > 1 + rounding).any()):
        return SCENE_UNITS, " (values beyond 1)"
    brightest = float(torch.where(values < 1, values, 0.0).max())
    counted = grey and 0 < brightest < MILLIMETRES_BELOW and _finer_than_8_bits(values)
    told = f"finer than 8 bits, up to {brightest:.1%} of white"
    white = _white(values) if counted else ""
    if wanted != AUTO:
        doubt = counted and wanted == NEAR_INVERSE and white != WHITE_NEAR
        return wanted, f" ({told}{DOUBT}" if doubt else ""
    if floats:
        return SCENE_UNITS, " (floating-point numbers)"
    if counted:
        return NEAR_INVERSE if white == WHITE_NEAR else MILLIMETRES, f" ({told}{white or ')'}"
    return NEAR_INVERSE, " (nothing in the picture tells more)"


def _white(values: Tensor) -> str:
    """What white (F, H, W) is, in words, where the other levels could count in millimetres.

    Sky and walls out of range reach the border; what lies inside alone is a thing nearer than the
    range of an inverse depth.
    """
    white = values >= 1
    if float(white.float().mean()) <= STRAY:
        return ""
    border = (white[:, 0], white[:, -1], white[..., 0], white[..., -1])
    return WHITE_FAR if any(bool(side.any()) for side in border) else WHITE_NEAR


def _finer_than_8_bits(values: Tensor) -> bool:
    steps = values * WHITE_8
    return bool(((steps - steps.round()).abs() > _ROUNDED).any())


def _is_no_reading(values: Tensor, encoding: str, black: str) -> bool:
    if encoding in (MILLIMETRES, SCENE_UNITS) or black == NO_READING:
        return True
    return black == AUTO and _stands_apart(values)


def _stands_apart(values: Tensor) -> bool:
    """Whether black is far from all other levels of a picture with many."""
    some = values[(values > 0) & (values < torch.inf)]
    if some.numel() in (0, values.numel()):
        return False
    levels = torch.bincount((some / some.max() * WHITE_8).round().long()).nonzero()[:, 0]
    if len(levels) < SPREAD:
        return False
    gap = int(levels[0])
    return gap >= APART * WHITE_8 and gap >= APART_STEPS * int(levels.diff().median())


def _distances(values: Tensor, encoding: str, reading: DepthReading) -> Tensor:
    if encoding == SCENE_UNITS:
        return values
    if encoding == MILLIMETRES:
        # White is what sensors write for out of range.
        return torch.where(values < 1, values * METRES, 0.0)
    level = 1 - values if encoding == NEAR_LINEAR else values
    return depth_from_picture(level, reading.near, reading.far, inverse=encoding == NEAR_INVERSE)


def _range(encoding: str, reading: DepthReading) -> str:
    if encoding in (MILLIMETRES, SCENE_UNITS):
        return ""
    return f", {reading.near:g} to {reading.far:g}"
