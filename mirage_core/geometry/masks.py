"""Masks of what must not be remembered, brought to the latent grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..constants import TEMPORAL_STRIDE
from ..errors import ShapeError
from ..validate import expect_finite, expect_range, expect_shape
from .frame_geometry import ASPECT_TOLERANCE, FrameGeometry

MASKED = 0.5
"""Above this value a pixel is masked."""

EMPTY_MASK = (64, 64)
"""Size of the mask that ComfyUI's Load Image gives for a picture without transparency. Nothing is
marked in it, so it fits every picture."""


@dataclass(frozen=True)
class MaskGrowth:
    """How far masks reach beyond what was marked.

    Attributes:
        pixels: Pixels by which a mask grows on every side before it meets the grid.
        cells: Latent cells by which it grows afterwards.

    Raises:
        ValueRangeError: A number is negative or too large.
    """

    pixels: int = 0
    cells: int = 0

    def __post_init__(self) -> None:
        expect_range("The growth of the masks in pixels", self.pixels, 0, 1024)
        expect_range("The growth of the masks in cells", self.cells, 0, 64)


def mask_to_grid(
    mask: Tensor,
    grid: tuple[int, int],
    latent_frames: int,
    sizes: Sequence[tuple[int, int]],
    growth: MaskGrowth | None = None,
    name: str = "The mask",
) -> Tensor:
    """Bring a mask to latent frames and cells: any masked pixel masks its cell.

    Args:
        mask: (M, H, W) bool or numbers, masked above one half. M is 1 (one mask for all
            frames), T (one for each latent frame), or 4T - 3 (all pixel frames: latent frame
            t > 0 covers pixel frames 4t - 3 to 4t).
        grid: (h, w) of the latent grid.
        latent_frames: T.
        sizes: Accepted (H, W): that of the picture, and of the depth if it has another. A mask
            of the same aspect ratio as one of them is scaled to it.
        growth: How far to grow.
        name: How errors call the mask.

    Returns:
        (T, h, w) bool.

    Raises:
        ShapeError: The mask shows another crop, or has another number of frames.
        GeometryError: The mask holds values that are not numbers.
    """
    found = expect_shape(name, mask, "M H W")
    _expect_count(name, found["M"], latent_frames)
    growth = growth or MaskGrowth()
    marked = grow(_marked(name, mask, sizes), growth.pixels)
    cells = F.adaptive_max_pool2d(marked[:, None], grid)[:, 0]
    return grow(over_time(cells, latent_frames), growth.cells) > 0


def exclusion(
    masks: dict[str, Tensor | None],
    grid: tuple[int, int],
    latent_frames: int,
    sizes: Sequence[tuple[int, int]],
    growth: MaskGrowth | None = None,
) -> Tensor:
    """Union of several masks on the latent grid.

    Args:
        masks: Masks by the name that errors give them; missing ones are None.
        grid: (h, w) of the latent grid.
        latent_frames: T.
        sizes: Accepted (H, W).
        growth: How far each mask grows.

    Returns:
        (T, h, w) bool.

    Raises:
        ShapeError: A mask shows another crop, or has another number of frames.
        GeometryError: A mask holds values that are not numbers.
    """
    union = torch.zeros(latent_frames, *grid, dtype=torch.bool)
    for name, mask in masks.items():
        if mask is not None:
            union = union | mask_to_grid(mask, grid, latent_frames, sizes, growth, name).cpu()
    return union


def with_mask(
    geometry: FrameGeometry,
    mask: Tensor | None,
    picture: tuple[int, int] | None = None,
    name: str = "The exclusion mask",
) -> FrameGeometry:
    """Geometry with a mask joined to what it leaves out: any masked pixel masks depth's pixel.

    Args:
        geometry: Depth of F frames.
        mask: (M, H, W) bool or numbers, masked above one half; M is 1 or F. None changes nothing.
        picture: (H, W) of the pictures, where they are known; the mask shows the crop of these,
            or of the depth, in any resolution.
        name: How errors call the mask.

    Raises:
        ShapeError: The mask shows another crop, or has another number of frames.
        GeometryError: The mask holds values that are not numbers.
    """
    if mask is None:
        return geometry
    found = expect_shape(name, mask, "M H W")
    if found["M"] not in (1, len(geometry)):
        raise ShapeError(
            f"{name} and the depth have different numbers of frames",
            got=f"{found['M']} masks, {len(geometry)} depth maps",
            expected=f"1 (for all of them) or {len(geometry)}",
            fix="Make one mask for each picture, or a single one",
        )
    sizes = [geometry.size] if picture is None else [picture, geometry.size]
    marked = _marked(name, mask, sizes)
    hidden = F.adaptive_max_pool2d(marked[:, None], geometry.size)[:, 0] > 0
    hidden = hidden.expand(len(geometry), -1, -1).to(geometry.depth.device)
    own = geometry.exclude
    return dataclasses.replace(geometry, exclude=hidden if own is None else hidden | (own > MASKED))


def note_if_all(name: str, cells: Tensor) -> tuple[str, ...]:
    """A sentence for people when a mask (T, h, w) covers everything; none else.

    A close-up of what moves is such a mask, and no reason to stop a shot.
    """
    if not cells.numel() or not bool(cells.all()):
        return ()
    return (
        f"{name} covers all of every frame: nothing of them is remembered. If that is not meant, "
        "check that the mask is not inverted (white is left out), or lower its growth",
    )


def _marked(name: str, mask: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """(M, H, W) of 0 and 1 in one of the sizes: a scaled pixel is masked if any part of it was.

    Raises:
        ShapeError: The mask shows another crop than any of them.
        GeometryError: The mask holds values that are not numbers.
    """
    if mask.is_floating_point():
        expect_finite(name, mask)
    marked = (mask if mask.dtype == torch.bool else mask > MASKED).float()
    size = (int(mask.shape[1]), int(mask.shape[2]))
    if size in sizes:
        return marked
    fitting = [wanted for wanted in sizes if _same_aspect(size, wanted)]
    if not fitting and not (size == EMPTY_MASK and not bool(marked.any())):
        wanted = " or ".join(f"{cols} x {rows}" for rows, cols in dict.fromkeys(sizes))
        raise ShapeError(
            f"{name} and the pictures have different sizes",
            got=f"{size[1]} x {size[0]}",
            expected=f"{wanted}, or another size of the same crop",
            fix="Make the mask from the cropped frames themselves, or crop it in the same way",
        )
    return F.adaptive_max_pool2d(marked[:, None], [*fitting, *sizes][0])[:, 0]


def _same_aspect(size: tuple[int, int], other: tuple[int, int]) -> bool:
    return abs(size[1] * other[0] / (size[0] * other[1]) - 1) <= ASPECT_TOLERANCE


def _expect_count(name: str, count: int, latent_frames: int) -> None:
    pixel_frames = TEMPORAL_STRIDE * (latent_frames - 1) + 1
    if count in (1, latent_frames, pixel_frames):
        return
    raise ShapeError(
        f"{name} and the chunk have different numbers of frames",
        got=f"{count} masks",
        expected=f"1 (for all frames), {latent_frames} (every fourth) or {pixel_frames} (all)",
        fix="Run detection or tracking on exactly the chunk's decoded frames",
    )


def over_time(cells: Tensor, latent_frames: int) -> Tensor:
    """(T, h, w) maximum over the pixel frames that each latent frame covers.

    Args:
        cells: (M, h, w) numbers; M is T (as they are), 1 (for all), or all 4T - 3 pixel frames.
        latent_frames: T.
    """
    if len(cells) == latent_frames:
        return cells
    if len(cells) == 1:
        return cells.expand(latent_frames, -1, -1)
    groups = cells[1:].unflatten(0, (latent_frames - 1, TEMPORAL_STRIDE)).amax(dim=1)
    return torch.cat([cells[:1], groups])


def grow(maps: Tensor, by: int) -> Tensor:
    """Maps (F, h, w) of 0 and 1 whose ones reach ``by`` places farther on every side."""
    if by == 0:
        return maps
    wide = F.max_pool2d(maps[:, None], (1, 2 * by + 1), stride=1, padding=(0, by))
    return F.max_pool2d(wide, (2 * by + 1, 1), stride=1, padding=(by, 0))[:, 0]
