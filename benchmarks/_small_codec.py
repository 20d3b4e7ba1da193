"""A small convolutional autoencoder in place of the embedded transform, for one study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mirage_core.constants import LATENT_CHANNELS, SPATIAL_STRIDE
from mirage_core.evaluation.rooms import Rooms
from mirage_core.files import atomic_path

WIDTH: Final = 96
"""Channels of its inner layers."""

CROP: Final = 96
"""Pixels along each side of what it is trained on."""

BATCH: Final = 8
RATE: Final = 2e-3
TRAINING_ROOM: Final = 500_000
"""First of the rooms that it is trained on; those of the evaluation begin later."""


class SmallCodec(nn.Module):
    """48 numbers for a cell of 16 x 16 pixels, which also see the cells around it.

    The decoder takes whole grids and single tokens: it was trained on both, so that a point can
    be drawn as a patch, and whole cells can be decoded together.
    """

    name: Final = "small_codec"
    channels: Final = LATENT_CHANNELS
    spatial_stride: Final = SPATIAL_STRIDE

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4), nn.Conv2d(48, WIDTH, 3, padding=1), nn.SiLU(),
            nn.PixelUnshuffle(2), nn.Conv2d(4 * WIDTH, WIDTH, 3, padding=1), nn.SiLU(),
            nn.PixelUnshuffle(2), nn.Conv2d(4 * WIDTH, LATENT_CHANNELS, 1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(LATENT_CHANNELS, 4 * WIDTH, 3, padding=1), nn.SiLU(),
            nn.PixelShuffle(2), nn.Conv2d(WIDTH, 4 * WIDTH, 3, padding=1), nn.SiLU(),
            nn.PixelShuffle(2), nn.Conv2d(WIDTH, 48, 1), nn.PixelShuffle(4),
        )  # fmt: skip

    @torch.inference_mode()
    def encode_images(self, frames: Tensor) -> Tensor:
        """(F, H, W, 3) pictures in 0..1 to (48, F, h, w) tokens."""
        return self.encoder(2 * frames.movedim(-1, 1) - 1).transpose(0, 1).clone()

    @torch.inference_mode()
    def decode_images(self, tokens: Tensor) -> Tensor:
        """(48, F, h, w) tokens to (F, H, W, 3) pictures in 0..1."""
        return self._pixels(tokens.float().transpose(0, 1)).clamp(0, 1)

    @torch.inference_mode()
    def decode_patches(self, tokens: Tensor) -> Tensor:
        """(N, 48) tokens to (N, 16, 16, 3) pixels, each by itself, not clamped."""
        return self._pixels(tokens.float()[:, :, None, None])

    def _pixels(self, tokens: Tensor) -> Tensor:
        return (self.decoder(tokens).movedim(1, -1) + 1) / 2

    def loss(self, pictures: Tensor) -> Tensor:
        """Mean square error of (B, 3, H, W) pictures in -1..1, by whole grids and cell by cell."""
        tokens = self.encoder(pictures)
        alone = self.decoder(rearrange(tokens, "b c h w -> (b h w) c 1 1"))
        cells = rearrange(
            pictures, "b c (h a) (w d) -> (b h w) c a d", a=SPATIAL_STRIDE, d=SPATIAL_STRIDE
        )
        whole = (self.decoder(tokens) - pictures).square().mean()
        return whole + (alone - cells).square().mean()


def pictures_of(rooms: Sequence[int], size: tuple[int, int]) -> Tensor:
    """(N, 3, H, W) pictures in -1..1 of rooms by number, five of each."""
    found = []
    for room in rooms:
        source = Rooms(1, 33, *size, first=room)
        frames = source.views(source.items()[0]).frames[::8]
        found.append(2 * frames.movedim(-1, 1) - 1)
    return torch.cat(found)


def train(
    pictures: Tensor, steps: int, seed: int, on_step: Callable[[int, float], None]
) -> SmallCodec:
    """A codec of pictures (N, 3, H, W) in -1..1.

    Args:
        pictures: What it learns.
        steps: How long.
        seed: Of its weights and of the crops.
        on_step: Called with the step and its loss.
    """
    torch.manual_seed(seed)
    codec = SmallCodec()
    optimiser = torch.optim.AdamW(codec.parameters(), lr=RATE, weight_decay=1e-4)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    height, width = pictures.shape[2:]
    for step in range(steps):
        crops = []
        for number in torch.randint(len(pictures), (BATCH,)).tolist():
            top = int(torch.randint(height - CROP + 1, ()))
            left = int(torch.randint(width - CROP + 1, ()))
            crops.append(pictures[number, :, top : top + CROP, left : left + CROP])
        loss = codec.loss(torch.stack(crops))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        plan.step()
        on_step(step + 1, loss.item())
    return codec.eval()


def save(codec: SmallCodec, path: Path) -> None:
    """Write a codec's weights as safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        save_file(codec.state_dict(), temporary)


def load(path: Path) -> SmallCodec:
    """Read what `save` wrote."""
    codec = SmallCodec()
    codec.load_state_dict(load_file(path))
    return codec.eval()
