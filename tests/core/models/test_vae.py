"""The Wan2.2 autoencoder on tiny weights: files, coding, statistics, tiles."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

import tiny_weights as tiny
from mirage_core.checkpoints.vae_format import (
    LATENT_MEAN,
    LATENT_STD,
    infer_config,
    to_diffusers,
    wan22_config,
)
from mirage_core.constants import LATENT_CHANNELS, WAN_CODEC
from mirage_core.errors import ModelMismatchError, PlanError, ShapeError, ValueRangeError
from mirage_core.models.vae import Tiling, WanCodec, load_vae


@pytest.fixture(scope="module")
def vae_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("vae") / "wan2.2_vae.safetensors", tiny.vae_tensors())


@pytest.fixture
def codec(vae_file: Path) -> WanCodec:
    return load_vae(vae_file)


def video(frames: int, height: int = 32, width: int = 64, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, frames, height // 8, width // 8, generator=rng)
    smooth = torch.nn.functional.interpolate(coarse, (frames, height, width), mode="trilinear")
    return smooth[0].permute(1, 2, 3, 0)


def test_full_size_config_matches_the_released_shapes() -> None:
    """Widths 160 and 256 come from the shapes; so does every other size of the network."""
    released = tiny.vae_shapes(160, 256)
    shapes = {to_diffusers(name): shape for name, shape in released.items()}
    config = infer_config(shapes)
    assert config == wan22_config()
    with torch.device("meta"):
        own = AutoencoderKLWan(**config).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in own.items()} == shapes
    assert len(shapes) == 196
    assert round(sum(tensor.numel() for tensor in own.values()) / 1e6, 1) == 704.7


def test_statistics_have_a_number_for_each_channel() -> None:
    assert len(LATENT_MEAN) == len(LATENT_STD) == LATENT_CHANNELS
    assert min(LATENT_STD) > 0


@pytest.mark.parametrize("form", ["released", "diffusers", "folder", "model folder"])
def test_every_format_gives_the_same_codec(tmp_path: Path, codec: WanCodec, form: str) -> None:
    tensors = tiny.vae_tensors()
    named = {to_diffusers(name): tensor for name, tensor in tensors.items()}
    if form == "released":
        path = tiny.write(tmp_path / "v.safetensors", tensors, prefix="first_stage_model.")
    elif form == "diffusers":
        path = tiny.write(tmp_path / "v.safetensors", named)
    else:
        config = {"latents_mean": [0.0] * 48, "latents_std": [2.0] * 48}
        tiny.write_folder(tmp_path / "vae", named, config, parts=2)
        path = tmp_path / "vae" if form == "folder" else tmp_path
    loaded = load_vae(path)
    assert loaded.name == WAN_CODEC
    frames = video(5)
    wanted = codec.encode(frames)
    if "folder" in form:
        # A folder's own statistics count.
        mean, std = (torch.tensor(v).view(48, 1, 1, 1) for v in (LATENT_MEAN, LATENT_STD))
        wanted = (wanted * std + mean) / 2
    torch.testing.assert_close(loaded.encode(frames), wanted, atol=1e-5, rtol=1e-5)


def test_shapes_and_types(vae_file: Path) -> None:
    codec = load_vae(vae_file, dtype=torch.bfloat16)
    latents = codec.encode(video(9).double())
    assert latents.shape == (48, 3, 2, 4)
    assert latents.dtype == torch.float32
    frames = codec.decode(latents)
    assert frames.shape == (9, 32, 64, 3)
    assert frames.dtype == torch.float32
    assert 0 <= frames.min() < frames.max() <= 1


def test_latents_are_the_normalised_means(codec: WanCodec) -> None:
    """No sampling: mu, shifted and scaled with one pair of numbers for each channel."""
    frames = video(5)
    pixels = frames.permute(3, 0, 1, 2)[None] * 2 - 1
    mu = codec.vae.encode(pixels).latent_dist.mean[0]
    mean, std = (torch.tensor(v).view(48, 1, 1, 1) for v in (LATENT_MEAN, LATENT_STD))
    torch.testing.assert_close(codec.encode(frames) * std + mean, mu, atol=1e-5, rtol=1e-5)
    decoded = codec.vae.decode(mu[None]).sample[0].permute(1, 2, 3, 0) / 2 + 0.5
    torch.testing.assert_close(codec.decode(codec.encode(frames)), decoded, atol=1e-5, rtol=1e-5)


def test_time_is_causal(codec: WanCodec) -> None:
    """The first latent is that of the picture alone; later frames change no earlier latent."""
    frames = video(9)
    latents = codec.encode(frames)
    each = codec.encode_images(frames[:2])
    torch.testing.assert_close(latents[:, :1], each[:, :1])
    torch.testing.assert_close(codec.encode(frames[:5]), latents[:, :2])
    assert (each[:, 0] - each[:, 1]).abs().max() > 1e-3
    torch.testing.assert_close(codec.decode(latents[:, :2]), codec.decode(latents)[:5])


def test_white_latent_is_made_once(codec: WanCodec) -> None:
    calls: list[int] = []
    long = codec.white_latent(9, 32, 64, calls.append)
    torch.testing.assert_close(long, codec.encode(torch.ones(9, 32, 64, 3)))
    assert calls == [1, 2, 3]
    # A shorter video is the beginning of a longer one.
    short = codec.white_latent(5, 32, 64, calls.append)
    torch.testing.assert_close(short, codec.encode(torch.ones(5, 32, 64, 3)))
    assert torch.equal(codec.white_latent(9, 32, 64, calls.append), long)
    assert calls == [1, 2, 3]
    assert codec.white_latent(9, 32, 32, calls.append).shape == (48, 3, 2, 2)
    assert len(calls) == 6
    # It is not one number: borders and the beginning differ.
    assert long.std(dim=(1, 2, 3)).max() > 1e-3


def test_tiles_cover_the_picture(codec: WanCodec) -> None:
    frames = video(5, 96, 160)
    whole = codec.encode(frames)
    codec.tiling = Tiling(96, 64)
    tiled = codec.encode(frames)
    decoded = codec.decode(whole)
    assert tiled.shape == whole.shape
    assert decoded.shape == frames.shape
    # Tiles have edges of their own: alike, and not the same. Misplaced ones would be as far off
    # as another picture, which is more than one deviation.
    assert 0 < (tiled - whole).abs().mean() < 0.4 * whole.std()
    codec.tiling = None
    exact = codec.decode(whole)
    assert 0 < (decoded - exact).abs().mean() < 0.4 * exact.std()
    assert torch.equal(codec.encode(frames), whole)


@pytest.mark.parametrize(("size", "stride"), [(100, 64), (64, 96), (64, 0), (64, 40)])
def test_tiles_that_leave_gaps(size: int, stride: int) -> None:
    with pytest.raises(ValueRangeError):
        Tiling(size, stride)


class Stopped(Exception):
    """Raised by a callback to cancel."""


def test_progress_and_cancelling(codec: WanCodec) -> None:
    frames = video(9)
    parts: list[int] = []
    latents = codec.encode(frames, parts.append)
    assert parts == [1, 2, 3]
    codec.decode(latents, parts.append)
    assert parts == [1, 2, 3] * 2

    def stop(done: int) -> None:
        if done == 2:
            raise Stopped

    for code in (lambda: codec.encode(frames, stop), lambda: codec.decode(latents, stop)):
        with pytest.raises(Stopped):
            code()
    # What was cancelled leaves nothing behind.
    assert torch.equal(codec.encode(frames), latents)
    assert not codec.vae.encoder._forward_hooks and not codec.vae.decoder._forward_hooks


def test_the_codec_computes_no_gradients(codec: WanCodec) -> None:
    frames = video(1).requires_grad_()
    latents = codec.encode(frames)
    assert not latents.requires_grad
    assert not codec.decode(latents).requires_grad


def test_inputs_that_do_not_fit(codec: WanCodec) -> None:
    with pytest.raises(PlanError):
        codec.encode(video(4))
    with pytest.raises(ShapeError):
        codec.encode(torch.zeros(1, 32, 48, 3))
    with pytest.raises(ShapeError):
        codec.encode_images(torch.zeros(0, 32, 32, 3))
    with pytest.raises(ModelMismatchError, match="Wan2.1"):
        codec.decode(torch.zeros(16, 1, 2, 2))
    with pytest.raises(ShapeError):
        codec.decode(torch.zeros(48, 0, 2, 2))
    with pytest.raises(PlanError):
        codec.white_latent(6, 32, 32)
    with pytest.raises(ShapeError):
        codec.white_latent(5, 30, 32)


def test_other_autoencoders(tmp_path: Path) -> None:
    path = tmp_path / "wan_2.1_vae.safetensors"
    old = {
        "encoder.conv1.weight": torch.zeros(4, 3, 3, 3, 3),
        "decoder.conv1.weight": torch.zeros(16, 16, 3, 3, 3),
        "conv2.weight": torch.zeros(16, 16, 1, 1, 1),
    }
    with pytest.raises(ModelMismatchError, match="16 latent channels.*Wan2.1"):
        load_vae(tiny.write(path, old))
    with pytest.raises(ModelMismatchError, match="not the Wan2.2 VAE"):
        load_vae(tiny.write(path, tiny.backbone_tensors()))


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_a_wrong_tensor_is_named(tmp_path: Path, change: str) -> None:
    tensors, name = tiny.vae_tensors(), "decoder.upsamples.1.upsamples.3.time_conv.weight"
    if change == "missing":
        del tensors[name]
    elif change == "shape":
        tensors[name] = tensors[name][:1]
    else:
        name = "decoder.upsamples.2.upsamples.3.time_conv.weight"
        tensors[name] = torch.zeros(1)
    with pytest.raises(ModelMismatchError) as caught:
        load_vae(tiny.write(tmp_path / "v.safetensors", tensors))
    assert to_diffusers(name) in str(caught.value)


def test_damaged_files(tmp_path: Path) -> None:
    tensors = tiny.vae_tensors()
    with pytest.raises(ModelMismatchError, match="cut short"):
        load_vae(tiny.truncate(tiny.write(tmp_path / "v.safetensors", tensors)))
    torch.save(tensors, tmp_path / "Wan2.2_VAE.pth")
    with pytest.raises(ModelMismatchError, match="Convert it"):
        load_vae(tmp_path / "Wan2.2_VAE.pth")
    named = {to_diffusers(name): tensor for name, tensor in tensors.items()}
    tiny.write_folder(tmp_path / "vae", named, {"latents_mean": [0.0] * 16}, parts=1)
    with pytest.raises(ModelMismatchError, match="latents_mean that are not 48"):
        load_vae(tmp_path)
