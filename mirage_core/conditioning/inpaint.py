"""What a video model that paints holes is told: the known part of a clip, and where it ends."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..codecs.memory_kind import expect_tokens
from ..constants import GREY, TEMPORAL_STRIDE
from ..errors import ShapeError
from ..geometry.masks import MASKED
from ..readout.readout import Readout
from ..validate import expect_finite, expect_frame_count, expect_frame_size, expect_shape

_SAMPLED = 8
"""Pixels between those that are looked at for doubts."""

_FLAT = 2 / 255
"""Range of levels up to which pixels count as one colour."""


@dataclass(frozen=True, eq=False)
class InpaintPlanes:
    """What is known of a clip, on the latent grid.

    Attributes:
        latent: (C, T, h, w) model-space latent, of no meaning where nothing is known.
        unknown: (4, T, h, w) float32, 0 where a cell is given and 1 where it is to be made; one
            plane for each of the four pixel frames of a latent frame.

    Raises:
        ShapeError: Sizes differ.
    """

    latent: Tensor
    unknown: Tensor

    def __post_init__(self) -> None:
        sizes = expect_shape("The known latent", self.latent, "C T h w")
        del sizes["C"]
        expect_shape("The planes of the unknown", self.unknown, "4 T h w", **sizes)

    @classmethod
    def of_readout(cls, readout: Readout, blank: Tensor | None = None) -> InpaintPlanes:
        """What a memory shows: its tokens, on the CPU, and holes that last all four frames.

        Args:
            readout: Of a memory of tokens.
            blank: (C, T, h, w) latent that stands in the holes; zeros when None.

        Raises:
            ModelMismatchError: The memory holds colours.
            ShapeError: ``blank`` has another size.
        """
        expect_tokens(readout.cache.codec)
        tokens, visible = readout.tokens.float().cpu(), readout.visible.cpu()
        if blank is not None:
            names = dict(zip("CThw", tokens.shape, strict=True))
            expect_shape("The blank latent", blank, "C T h w", **names)
            tokens = torch.where(visible, tokens, blank.to(tokens))
        unknown = (~visible).float() if readout.weights is None else 1 - readout.weights.cpu()
        unknown = unknown.expand(TEMPORAL_STRIDE, *visible.shape)
        return cls(tokens, unknown.contiguous())

    def begun_with(self, first: Tensor) -> InpaintPlanes:
        """The same with a clean first latent frame (C, 1, h, w), all of which is given.

        Raises:
            ShapeError: The frame has another size.
        """
        channels, _, rows, columns = self.latent.shape
        expect_shape("The first latent", first, "C 1 h w", C=channels, h=rows, w=columns)
        unknown = self.unknown.clone()
        unknown[:, 0] = 0
        latent = torch.cat([first.to(self.latent), self.latent[:, 1:]], dim=1)
        return dataclasses.replace(self, latent=latent, unknown=unknown)


def expect_pictures(frames: Tensor, holes: Tensor) -> None:
    """Check frames and their masks before anything is encoded.

    Args:
        frames: (F, H, W, 3 or more) pictures.
        holes: (F, H, W) numbers, unknown above one half.

    Raises:
        ShapeError: There is not one mask of the pictures' size for each of them, or this size is
            not a multiple of 32.
        PlanError: The number of frames is not 4n + 1.
        GeometryError: A mask holds values that are not numbers.
    """
    sizes = expect_shape("The pictures", frames, "F H W C")
    if sizes["C"] < 3:  # noqa: PLR2004
        raise ShapeError(
            "The pictures are not in colour",
            got=f"{sizes['C']} channels",
            expected="3 channels: red, green, blue",
            fix="Connect an IMAGE, and a MASK to holes",
        )
    expect_frame_count(sizes["F"])
    expect_frame_size(sizes["W"], sizes["H"])
    found = expect_shape("The masks of holes", holes, "F H W")
    # Models that repeat or pad short masks end with "make all of it", and do not say so.
    if found["F"] != sizes["F"]:
        raise ShapeError(
            "There is not one mask of holes for every picture",
            got=f"{found['F']} masks for {sizes['F']} pictures",
            expected="one mask for every pixel frame",
            fix="Connect images and holes of one Mirage Render; a single mask goes through "
            "Convert Mask to Image, Repeat Image Batch and Convert Image to Mask",
        )
    if (found["H"], found["W"]) != (sizes["H"], sizes["W"]):
        raise ShapeError(
            "The masks of holes and the pictures have different sizes",
            got=f"masks of {found['W']} x {found['H']}",
            expected=f"{sizes['W']} x {sizes['H']}",
            fix="Connect images and holes of one Mirage Render, or scale both alike",
        )
    expect_finite("The masks of holes", holes)


def without_holes(frames: Tensor, holes: Tensor) -> Tensor:
    """Frames (F, H, W, 3) with mid grey where ``holes`` (F, H, W) marks the unknown."""
    return torch.where((holes > MASKED)[..., None], GREY, frames[..., :3])


def unknown_cells(holes: Tensor, stride: int) -> Tensor:
    """Masks of pixel frames as planes of the latent grid.

    Frame 0 stands in all four planes of latent frame 0; frames 4t - 3 to 4t are the planes of
    latent frame t.

    Args:
        holes: (4T - 3, H, W) numbers, unknown above one half.
        stride: Pixels along each side of a cell.

    Returns:
        (4, T, H / stride, W / stride) float32, 1 where any pixel of a cell is unknown.

    Raises:
        PlanError: The number of frames is not 4n + 1.
    """
    expect_frame_count(len(holes))
    # One code stands for all pixels of a cell. With grey among them it is not the code of what is
    # there, and called given it would be kept, grey included.
    cells = F.max_pool2d((holes > MASKED).float()[:, None], stride)[:, 0]
    cells = torch.cat([cells[:1].expand(TEMPORAL_STRIDE, -1, -1), cells[1:]])
    return cells.unflatten(0, (-1, TEMPORAL_STRIDE)).transpose(0, 1).contiguous()


def mask_doubt(frames: Tensor, holes: Tensor) -> str | None:
    """What is odd about masks that can be right all the same; None: nothing.

    Args:
        frames: (F, H, W, 3) pictures.
        holes: (F, H, W) numbers, unknown above one half.
    """
    unknown = holes[:, ::_SAMPLED, ::_SAMPLED] > MASKED
    if bool(unknown.all()) and bool((holes > MASKED).all()):
        return "all of the masks is white: everything counts as unknown, and nothing is given"
    pixels = frames[:, ::_SAMPLED, ::_SAMPLED, :3]
    if _one_colour(pixels[~unknown]) and not _one_colour(pixels[unknown]):
        return (
            "the masks look inverted: what they call known is of one colour, and what they call "
            "unknown is not. White is unknown"
        )
    return None


def _one_colour(pixels: Tensor) -> bool:
    """Whether pixels (N, 3) are all alike, and there are any."""
    if not len(pixels):
        return False
    low, high = pixels.aminmax(dim=0)
    return bool((high - low <= _FLAT).all())
