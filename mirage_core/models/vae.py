"""The Wan2.2 autoencoder: pixels to model-space latents and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from ..checkpoints.vae_format import infer_config, not_wan22, to_diffusers
from ..checkpoints.weight_files import load_into, open_weights, read_config, weight_paths
from ..constants import LATENT_CHANNELS, SPATIAL_STRIDE, TEMPORAL_STRIDE, WAN_CODEC
from ..errors import ShapeError, ValueRangeError
from ..validate import expect_frame_count, expect_frame_size, expect_shape, expect_token_channels

OnPart = Callable[[int], None]
"""Gets the number of parts done; may raise to cancel."""


@dataclass(frozen=True)
class Tiling:
    """Pictures are coded in overlapping tiles, which takes less memory.

    Attributes:
        size: Pixels along each side of a tile.
        stride: Pixels from one tile to the next.

    Raises:
        ValueRangeError: Tiles do not lie on the latent grid, or leave gaps.
    """

    size: int = 512
    stride: int = 384

    def __post_init__(self) -> None:
        grid = 2 * SPATIAL_STRIDE
        if self.size % grid or self.stride % grid or not 0 < self.stride <= self.size:
            raise ValueRangeError(
                "The tiles do not cover the picture",
                got=f"tiles of {self.size} pixels every {self.stride} pixels",
                expected=f"multiples of {grid}, the stride at most the size",
            )


class WanCodec:
    """Codes videos with the Wan2.2 autoencoder.

    Latents are in model space, (mu - mean) / std over the 48 channels, where mu is the mean of
    the posterior: coding twice gives the same. A latent frame t > 0 stands for pixel frames
    4t-3..4t, frame 0 stands alone. The autoencoder is causal in time: later frames do not change
    earlier latents.

    Results are float32 on the device of the input.

    It has the interface of `mirage_core.codecs.base.LatentCodec`.

    Attributes:
        vae: The network.
        device: Where it computes.
        tiling: Tiles in use, or None for whole pictures; results differ slightly near the edges
            of tiles.
    """

    name: Final = WAN_CODEC
    channels: Final = LATENT_CHANNELS
    spatial_stride: Final = SPATIAL_STRIDE
    temporal_stride: Final = TEMPORAL_STRIDE
    drawable: Final = False

    def __init__(self, vae: AutoencoderKLWan, device: torch.device | str | None = None) -> None:
        network: Any = vae
        self.vae = network.eval().requires_grad_(False)
        self.device = torch.device(device) if device is not None else network.device
        self._white: dict[tuple[int, int, Tiling | None], Tensor] = {}
        self.tiling: Tiling | None = None

    def encode(self, frames: Tensor, on_part: OnPart | None = None) -> Tensor:
        """Encode a video.

        Args:
            frames: (F, H, W, 3) in 0..1 with F = 4n + 1, H and W multiples of 32.
            on_part: Called after each latent frame (of each tile).

        Returns:
            (48, n + 1, H / 16, W / 16) float32 in model space.

        Raises:
            PlanError: F is not 4n + 1.
            ShapeError: The tensor is not a video, or its size does not fit the grid.
        """
        _expect_video(frames)
        expect_frame_count(len(frames))
        with self._parts(self.vae.encoder, on_part):
            return self._encode(frames).to(frames.device)

    def encode_images(self, frames: Tensor, on_part: OnPart | None = None) -> Tensor:
        """Encode each frame (F, H, W, 3) alone as a picture: (48, F, H / 16, W / 16).

        Raises:
            ShapeError: The tensor is not a video, or its size does not fit the grid.
        """
        _expect_video(frames)
        with self._parts(self.vae.encoder, on_part):
            latents = [self._encode(frame[None]).to(frames.device) for frame in frames]
        return torch.cat(latents, dim=1)

    def decode(self, latents: Tensor, on_part: OnPart | None = None) -> Tensor:
        """Decode a latent of a video.

        Args:
            latents: (48, T, h, w) in model space.
            on_part: Called after each latent frame (of each tile).

        Returns:
            (4T - 3, 16 h, 16 w, 3) float32 frames in 0..1.

        Raises:
            ModelMismatchError: The latent does not have 48 channels.
            ShapeError: The tensor does not have four axes, or no latent frame.
        """
        sizes = expect_shape("The latent", latents, "C T h w")
        expect_token_channels("The latent", sizes["C"])
        if not sizes["T"]:
            raise ShapeError("The latent is empty", expected="at least one latent frame")
        mean, std = self._statistics()
        inner = latents.to(self.device, torch.float32)[None] * std + mean
        self._set_tiles(unit=1)
        with self._parts(self.vae.decoder, on_part), torch.no_grad():
            pixels = self.vae.decode(inner.to(self.vae.dtype), return_dict=False)[0][0]
        frames = pixels.float().add(1).div(2).clamp_(0, 1)
        return frames.permute(1, 2, 3, 0).contiguous().to(latents.device)

    def white_latent(
        self, frames: int, height: int, width: int, on_part: OnPart | None = None
    ) -> Tensor:
        """Latent of an all-white video, which some side branches take as an input.

        It is made once for each picture size and kept. Since the autoencoder is causal, a
        shorter video is the beginning of a longer one.

        Args:
            frames: Pixel frames, 4n + 1.
            height: Pixels.
            width: Pixels.
            on_part: As in `encode`.

        Returns:
            (48, n + 1, height / 16, width / 16) float32 on the CPU; not to be changed.

        Raises:
            PlanError: ``frames`` is not 4n + 1.
            ShapeError: The size does not fit the grid.
        """
        expect_frame_count(frames)
        expect_frame_size(width, height)
        key, count = (height, width, self.tiling), 1 + (frames - 1) // TEMPORAL_STRIDE
        known = self._white.get(key)
        if known is None or known.shape[1] < count:
            white = torch.ones(1, 1, 1, 1).expand(frames, height, width, 3)
            known = self._white[key] = self.encode(white, on_part)
        return known[:, :count]

    def _encode(self, frames: Tensor) -> Tensor:
        pixels = frames.to(self.device, self.vae.dtype).permute(3, 0, 1, 2)[None] * 2 - 1
        # The encoder measures its tiles in pairs of pixels.
        self._set_tiles(unit=2)
        with torch.no_grad():
            mu = self.vae.encode(pixels).latent_dist.mode().float()
        mean, std = self._statistics()
        return ((mu - mean) / std)[0]

    def _set_tiles(self, unit: int) -> None:
        if self.tiling is None:
            self.vae.disable_tiling()
            return
        size, stride = self.tiling.size // unit, self.tiling.stride // unit
        self.vae.enable_tiling(size, size, stride, stride)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        config = self.vae.config
        return tuple(  # type: ignore[return-value]
            torch.tensor(values, device=self.device).view(1, LATENT_CHANNELS, 1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )

    @contextmanager
    def _parts(self, network: nn.Module, on_part: OnPart | None) -> Iterator[None]:
        """Report each pass of a network, and forget its memory of past frames at the end."""
        done = 0

        def report(*_: Any) -> None:
            nonlocal done
            done += 1
            if on_part is not None:
                on_part(done)

        handle = network.register_forward_hook(report)
        try:
            yield
        finally:
            handle.remove()
            self.vae.clear_cache()


def load_vae(
    path: Path | str,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> WanCodec:
    """Read the Wan2.2 autoencoder.

    Args:
        path: A single file under released or diffusers' names, a ``vae`` folder, or a folder of
            a whole model that has one.
        dtype: Type of the parameters; float32 is exact, bfloat16 takes half of the memory.
        device: Where it computes.

    Raises:
        ModelMismatchError: The files are damaged or pickled, are those of another autoencoder,
            or lack a tensor.
    """
    path = Path(path)
    folder = path / "vae" if (path / "vae").is_dir() else path
    files = open_weights(weight_paths(folder, "a VAE"), to_diffusers, f"The VAE {path.name}")
    config = infer_config(files.shapes)
    if folder.is_dir():
        config |= _statistics_of(read_config(folder, "a VAE"))
    with init_empty_weights():
        vae: Any = AutoencoderKLWan(**config)
    load_into(vae, files, dtype, device)
    return WanCodec(vae, device)


def _statistics_of(config: dict[str, Any]) -> dict[str, Any]:
    """Statistics of a folder, which a VAE that was trained on may have of its own."""
    names = ("latents_mean", "latents_std")
    found: dict[str, Any] = {key: config[key] for key in names if key in config}
    for key, values in found.items():
        numbers = isinstance(values, list) and all(isinstance(v, int | float) for v in values)
        if not numbers or len(values) != LATENT_CHANNELS:
            raise not_wan22(f"{key} that are not {LATENT_CHANNELS} numbers")
    return found


def _expect_video(frames: Tensor) -> None:
    sizes = expect_shape("The video", frames, "F H W 3")
    expect_frame_size(sizes["W"], sizes["H"])
    if not len(frames):
        raise ShapeError("The video is empty", expected="at least one frame")
