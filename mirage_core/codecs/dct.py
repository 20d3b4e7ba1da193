"""A fixed linear codec with the latent geometry of the Wan2.2 autoencoder and no weights.

A cell of 16 x 16 pixels becomes 48 numbers: coefficients of a discrete cosine transform along
three orthonormal colour axes. 28 luma and 6 + 6 chroma channels mean the same in an image and
in a group of four frames, so a token remembered from a still picture can stand in a video.
The last eight channels hold finer luma detail in an image and motion in a group.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ..constants import LATENT_CHANNELS, SPATIAL_STRIDE, TEMPORAL_STRIDE
from ..errors import ShapeError
from ..validate import expect_frame_count, expect_frame_size, expect_shape, expect_token_channels

COLOUR_AXES: Final = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))
"""Luma and two chroma directions in RGB, before normalisation; they are orthogonal."""

SHARED_LUMA: Final = 28
SHARED_CHROMA: Final = 6
SHARED_CHANNELS: Final = SHARED_LUMA + 2 * SHARED_CHROMA
"""Channels that an image and a group of frames have in common; they come first."""

TEMPORAL_MODES: Final = (
    *((1, row, column) for row, column in ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0))),
    *((2, row, column) for row, column in ((0, 1), (1, 0))),
)
"""(time, row, column) frequencies of the luma channels that only a group of frames has."""

MEAN_COLOUR: Final = (0.62, 0.58, 0.53)
"""RGB whose tokens are zero: a warm grey, about the mean of indoor pictures."""

STD_PRIOR: Final = (3.4, 1.3, 0.5)
"""Typical deviation of the mean of a cell along each colour axis, in coefficient units."""

STD_FALLOFF: Final = 1.4
"""Exponent with which the deviation falls with spatial frequency; measured on scenes."""

TEMPORAL_PRIOR: Final = 0.3
"""Deviation of the temporal channels relative to a static channel of the same frequency."""


CODEC_NAME: Final = "embedded-dct-1"
"""Name under which a memory remembers that this codec made its tokens; a change of the basis
takes another name."""


@dataclass(frozen=True)
class _Basis:
    """Analysis (pixels, 48) and synthesis (48, pixels) matrices of one cell on one device."""

    image_analysis: Tensor
    image_synthesis: Tensor
    group_analysis: Tensor
    group_synthesis: Tensor


class DctCodec:
    """Encodes videos to (48, T, h, w) tokens in model space and back; linear and exact.

    Tokens are roughly zero mean and of comparable scale over the channels. Arithmetic is
    float32 on the device of the input; every frame and every group is coded on its own, so
    the result does not depend on what else is in the batch.

    It has the interface of `mirage_core.codecs.base.PatchCodec`.
    """

    name: Final = CODEC_NAME
    channels: Final = LATENT_CHANNELS
    spatial_stride: Final = SPATIAL_STRIDE
    temporal_stride: Final = TEMPORAL_STRIDE
    drawable: Final = True

    def __init__(self) -> None:
        self._bases: dict[torch.device, _Basis] = {}

    def encode(
        self, frames: Tensor, on_latent: Callable[[int, int], None] | None = None
    ) -> Tensor:
        """Encode a video: the first frame alone, then groups of four.

        Args:
            frames: (F, H, W, 3) in 0..1 with F = 4n + 1; any floating point type.
            on_latent: Called with (done, total) after each latent frame; may raise to cancel.

        Returns:
            (48, n + 1, H / 16, W / 16) float32 tokens.

        Raises:
            PlanError: F is not 4n + 1.
            ShapeError: The tensor is not a video, or its size does not fit the grid.
        """
        _expect_frames(frames)
        expect_frame_count(len(frames))
        basis = self._basis(frames.device)
        total = (len(frames) - 1) // TEMPORAL_STRIDE + 1
        latents = []
        for number in range(total):
            last = number * TEMPORAL_STRIDE + 1
            group = frames[max(0, last - TEMPORAL_STRIDE) : last]
            analysis = basis.group_analysis if number else basis.image_analysis
            latents.append(_to_cells(group) @ analysis)
            if on_latent is not None:
                on_latent(number + 1, total)
        return torch.stack(latents).permute(3, 0, 1, 2).contiguous()

    def encode_images(self, frames: Tensor) -> Tensor:
        """Encode each frame (F, H, W, 3) alone as an image: (48, F, h, w) float32 tokens.

        Raises:
            ShapeError: The tensor is not a video, or its size does not fit the grid.
        """
        _expect_frames(frames)
        analysis = self._basis(frames.device).image_analysis
        latents = [_to_cells(frames[k : k + 1]) @ analysis for k in range(len(frames))]
        return torch.stack(latents).permute(3, 0, 1, 2).contiguous()

    def decode(
        self, tokens: Tensor, on_latent: Callable[[int, int], None] | None = None
    ) -> Tensor:
        """Decode (48, T, h, w) tokens of a video to (4T - 3, H, W, 3) frames in 0..1.

        Args:
            tokens: The tokens of a video.
            on_latent: Called with (done, total) after each latent frame; may raise to cancel.

        Raises:
            ModelMismatchError: The tokens do not have 48 channels.
            ShapeError: The tensor does not have four axes, or no latent frame.
        """
        _expect_tokens(tokens)
        basis = self._basis(tokens.device)
        cells = tokens.float().permute(1, 2, 3, 0)
        count, rows, columns = cells.shape[:3]
        size = (rows * SPATIAL_STRIDE, columns * SPATIAL_STRIDE)
        frames = cells.new_empty((count - 1) * TEMPORAL_STRIDE + 1, *size, 3)
        for number, group in enumerate(cells):
            synthesis = basis.group_synthesis if number else basis.image_synthesis
            last = number * TEMPORAL_STRIDE + 1
            shown = _to_frames(group @ synthesis).clamp_(0, 1)
            frames[max(0, last - TEMPORAL_STRIDE) : last] = shown
            if on_latent is not None:
                on_latent(number + 1, count)
        return frames

    def decode_images(self, tokens: Tensor) -> Tensor:
        """Decode (48, F, h, w) tokens of single images to (F, H, W, 3) frames in 0..1.

        Raises:
            ModelMismatchError: The tokens do not have 48 channels.
            ShapeError: The tensor does not have four axes, or no image.
        """
        _expect_tokens(tokens)
        synthesis = self._basis(tokens.device).image_synthesis
        cells = tokens.float().permute(1, 2, 3, 0)
        return torch.cat([_to_frames(image @ synthesis) for image in cells]).clamp_(0, 1)

    def decode_patches(self, tokens: Tensor) -> Tensor:
        """Decode (N, 48) image tokens to (N, 16, 16, 3) pixel patches, not clamped.

        Raises:
            ModelMismatchError: The tokens do not have 48 channels.
            ShapeError: The tensor does not have two axes.
        """
        expect_shape("The token list", tokens, "N C")
        expect_token_channels("The token list", tokens.shape[1])
        synthesis = self._basis(tokens.device).image_synthesis
        patches = (tokens.float() @ synthesis).view(-1, SPATIAL_STRIDE, SPATIAL_STRIDE, 3)
        return patches + _mean_colour(patches)

    def static_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens (48, ...) of four equal frames that show what the image tokens show.

        The shared channels stay, the image's finest detail makes room for motion, which is
        zero. The same call removes motion from the tokens of a group.

        Raises:
            ModelMismatchError: The tokens do not have 48 channels.
        """
        expect_token_channels("The latent", tokens.shape[0] if tokens.ndim else 0)
        static = tokens.clone()
        static[SHARED_CHANNELS:] = 0
        return static

    def white_latent(self, frames: int, height: int, width: int) -> Tensor:
        """Tokens (48, n + 1, height / 16, width / 16) of a white video of 4n + 1 frames.

        Raises:
            PlanError: ``frames`` is not 4n + 1.
            ShapeError: The size does not fit the grid.
        """
        return self.encode(torch.ones(1, 1, 1, 1).expand(frames, height, width, 3))

    def _basis(self, device: torch.device) -> _Basis:
        basis = self._bases.get(device)
        if basis is None:
            basis = self._bases[device] = _build_basis(device)
        return basis


def _expect_frames(frames: Tensor) -> None:
    sizes = expect_shape("The video", frames, "F H W 3")
    expect_frame_size(sizes["W"], sizes["H"])
    if not len(frames):
        raise ShapeError("The video is empty", expected="at least one frame")


def _expect_tokens(tokens: Tensor) -> None:
    sizes = expect_shape("The latent", tokens, "C T h w")
    expect_token_channels("The latent", sizes["C"])
    if not sizes["T"]:
        raise ShapeError("The latent is empty", expected="at least one latent frame")


def _to_cells(frames: Tensor) -> Tensor:
    """(t, H, W, 3) pixels to centred (h, w, t * 768) float32 cells."""
    count, height, width, _ = frames.shape
    rows, columns = height // SPATIAL_STRIDE, width // SPATIAL_STRIDE
    cells = frames.reshape(count, rows, SPATIAL_STRIDE, columns, SPATIAL_STRIDE, 3)
    cells = cells.permute(1, 3, 0, 2, 4, 5).float() - _mean_colour(cells)
    return cells.reshape(rows, columns, -1)


def _to_frames(cells: Tensor) -> Tensor:
    """Centred (h, w, t * 768) cells to (t, H, W, 3) pixels."""
    rows, columns, _ = cells.shape
    pixels = cells.view(rows, columns, -1, SPATIAL_STRIDE, SPATIAL_STRIDE, 3)
    pixels = pixels.permute(2, 0, 3, 1, 4, 5) + _mean_colour(pixels)
    return pixels.reshape(-1, rows * SPATIAL_STRIDE, columns * SPATIAL_STRIDE, 3)


def _mean_colour(like: Tensor) -> Tensor:
    return torch.tensor(MEAN_COLOUR, dtype=torch.float32, device=like.device)


def _cosines(size: int) -> Tensor:
    """Orthonormal DCT-II (size, size) float64, frequency by row."""
    steps = torch.arange(size, dtype=torch.float64)
    waves = torch.cos(math.pi * (2 * steps + 1) * steps[:, None] / (2 * size))
    waves[0] /= math.sqrt(2)
    return waves * math.sqrt(2 / size)


def _lowest_modes(count: int) -> list[tuple[int, int]]:
    """The (row, column) frequencies nearest to zero, in a fixed order."""
    modes = [(row, column) for row in range(SPATIAL_STRIDE) for column in range(SPATIAL_STRIDE)]
    return sorted(modes, key=lambda mode: (mode[0] ** 2 + mode[1] ** 2, mode))[:count]


def _prior_std(axis: int, row: int, column: int) -> float:
    return STD_PRIOR[axis] / math.pow(1 + row + column, STD_FALLOFF)


def _build_basis(device: torch.device) -> _Basis:
    colours = torch.tensor(COLOUR_AXES, dtype=torch.float64)
    colours = colours / colours.norm(dim=1, keepdim=True)
    space, time = _cosines(SPATIAL_STRIDE), _cosines(TEMPORAL_STRIDE)

    def still(axis: int, row: int, column: int) -> Tensor:
        return torch.einsum("y,x,c->yxc", space[row], space[column], colours[axis]).flatten()

    shared = [(0, *mode) for mode in _lowest_modes(SHARED_LUMA)]
    shared += [(axis, *mode) for axis in (1, 2) for mode in _lowest_modes(SHARED_CHROMA)]
    detail = [(0, *mode) for mode in _lowest_modes(LATENT_CHANNELS - 2 * SHARED_CHROMA)]
    channels = shared + detail[SHARED_LUMA:]
    image = torch.stack([still(*channel) for channel in channels])
    spread = [_prior_std(*channel) for channel in channels]
    # Half-way, in the logarithm, to equal scale of all channels: full whitening would make
    # unpredictable fine detail weigh as much as layout. The gain makes the mean square one.
    gain = math.sqrt(sum(spread) / len(spread))
    scale = [gain * math.sqrt(std) for std in spread]

    constant = torch.ones(TEMPORAL_STRIDE, dtype=torch.float64)
    group = [torch.outer(constant, wave).flatten() for wave in image[:SHARED_CHANNELS]]
    group_scale = scale[:SHARED_CHANNELS]
    for frequency, row, column in TEMPORAL_MODES:
        wave = time[frequency] * math.sqrt(TEMPORAL_STRIDE)
        group.append(torch.outer(wave, still(0, row, column)).flatten())
        motion = TEMPORAL_PRIOR * _prior_std(0, row, max(column, 1 - row))
        group_scale.append(gain * math.sqrt(motion))
    # A wave of a group has the norm of four stacked image waves, so a still picture has
    # equal coefficients in both.
    return _Basis(
        *_matrices(image, scale, 1, device),
        *_matrices(torch.stack(group), group_scale, TEMPORAL_STRIDE, device),
    )


def _matrices(
    waves: Tensor, scale: list[float], frames: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Analysis and synthesis matrices of orthogonal ``waves`` (48, pixels)."""
    unit = torch.tensor(scale, dtype=torch.float64)[:, None]
    analysis = (waves / (unit * frames)).T.contiguous()
    synthesis = waves * unit
    return analysis.to(device, torch.float32), synthesis.to(device, torch.float32)
