"""The embedded codec: geometry, exactness, causality, agreement of images and groups."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mirage_core.codecs.dct import MEAN_COLOUR, SHARED_CHANNELS, DctCodec
from mirage_core.errors import ModelMismatchError, PlanError, ShapeError
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid
from mirage_core.scenes.scene import ProceduralScene


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads, and wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def psnr(first: Tensor, second: Tensor) -> float:
    return float(-10 * torch.log10((first - second).square().mean()))


@pytest.fixture
def codec() -> DctCodec:
    return DctCodec()


@pytest.mark.parametrize("groups", [0, 1, 3])
def test_geometry(codec: DctCodec, groups: int) -> None:
    tokens = codec.encode(noise(4 * groups + 1, 64, 96, 3))
    assert tokens.shape == (48, groups + 1, 4, 6)
    assert codec.decode(tokens).shape == (4 * groups + 1, 64, 96, 3)


def test_tokens_round_trip(codec: DctCodec) -> None:
    """Whatever the basis can show survives: tokens of decoded small tokens are unchanged."""
    tokens = 0.05 * (noise(48, 3, 2, 4) - 0.5)
    assert torch.allclose(codec.encode(codec.decode(tokens)), tokens, atol=2e-5)
    images = codec.encode_images(codec.decode_images(tokens))
    assert torch.allclose(images, tokens, atol=2e-5)


def test_content_inside_the_basis_is_exact(codec: DctCodec) -> None:
    colours = noise(5, 2, 3, 3).repeat_interleave(32, 1).repeat_interleave(32, 2)
    static = colours[:1].expand(5, -1, -1, -1)
    assert torch.allclose(codec.decode(codec.encode(static)), static, atol=1e-5)
    assert torch.allclose(codec.decode_images(codec.encode_images(colours)), colours, atol=1e-5)


def test_zero_tokens_show_the_mean_colour(codec: DctCodec) -> None:
    frames = codec.decode(torch.zeros(48, 2, 2, 2))
    assert torch.allclose(frames, torch.tensor(MEAN_COLOUR).expand_as(frames))


@settings(max_examples=10, deadline=None)
@given(weight=st.floats(0, 1), seed=st.integers(0, 1000))
def test_affine_in_the_pixels(weight: float, seed: int) -> None:
    codec = DctCodec()
    first, second = noise(5, 32, 32, 3, seed=seed), noise(5, 32, 32, 3, seed=seed + 1)
    mixed = codec.encode(weight * first + (1 - weight) * second)
    expected = weight * codec.encode(first) + (1 - weight) * codec.encode(second)
    assert torch.allclose(mixed, expected, atol=1e-4)


def test_causal_in_time(codec: DctCodec) -> None:
    frames = noise(13, 32, 64, 3)
    changed = frames.clone()
    changed[5:] = 1 - changed[5:]
    before, after = codec.encode(frames), codec.encode(changed)
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2:], after[:, 2:])
    assert torch.equal(codec.encode(frames[:5]), before[:, :2])


def test_decoding_is_local_in_time(codec: DctCodec) -> None:
    tokens = noise(48, 3, 2, 2)
    changed = tokens.clone()
    changed[:, 2] += 1
    assert torch.equal(codec.decode(tokens)[:5], codec.decode(changed)[:5])


def test_image_and_static_group_share_channels(codec: DctCodec) -> None:
    image = noise(1, 64, 64, 3)
    tokens = codec.encode(image.repeat(5, 1, 1, 1))
    still, group = tokens[:, 0], tokens[:, 1]
    assert torch.allclose(still[:SHARED_CHANNELS], group[:SHARED_CHANNELS], atol=2e-5)
    assert group[SHARED_CHANNELS:].abs().max() < 2e-5
    assert still[SHARED_CHANNELS:].abs().max() > 0.1
    assert torch.allclose(codec.static_tokens(still), group, atol=2e-5)


def test_static_tokens_do_not_move(codec: DctCodec) -> None:
    tokens = 0.1 * noise(48, 1, 2, 2)
    group = codec.decode(codec.static_tokens(tokens).repeat(1, 2, 1, 1))[1:]
    assert torch.allclose(group, group[:1].expand_as(group), atol=1e-6)
    assert torch.equal(tokens, 0.1 * noise(48, 1, 2, 2))


def test_motion_needs_the_temporal_channels(codec: DctCodec) -> None:
    fade = torch.linspace(0.3, 0.7, 5)[:, None, None, None].expand(5, 32, 32, 3)
    tokens = codec.encode(fade)
    moving = codec.decode(tokens)[1:]
    still = codec.decode(codec.static_tokens(tokens))[1:]
    assert psnr(moving, fade[1:]) > psnr(still, fade[1:]) + 10


def test_patches_are_the_cells_of_an_image(codec: DctCodec) -> None:
    tokens = 0.1 * (noise(48, 1, 2, 4) - 0.5)
    patches = codec.decode_patches(tokens[:, 0].flatten(1).T)
    tiled = patches.view(2, 4, 16, 16, 3).permute(0, 2, 1, 3, 4).reshape(32, 64, 3)
    assert torch.allclose(tiled, codec.decode_images(tokens)[0], atol=1e-6)


def test_patches_are_not_clamped(codec: DctCodec) -> None:
    patches = codec.decode_patches(torch.full((1, 48), 30.0))
    assert patches.max() > 1
    assert patches.min() < 0
    assert codec.decode_images(torch.full((48, 1, 2, 2), 30.0)).max() == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_coded_in_float32(codec: DctCodec, dtype: torch.dtype) -> None:
    frames = noise(5, 32, 32, 3).to(dtype)
    tokens = codec.encode(frames)
    assert tokens.dtype == torch.float32
    assert torch.equal(tokens, codec.encode(frames.float()))
    assert codec.decode(tokens.to(dtype)).dtype == torch.float32


def test_first_frame_equals_image(codec: DctCodec) -> None:
    frames = noise(5, 32, 64, 3)
    assert torch.equal(codec.encode(frames)[:, 0], codec.encode_images(frames)[:, 0])


def test_errors(codec: DctCodec) -> None:
    with pytest.raises(PlanError):
        codec.encode(noise(4, 32, 32, 3))
    with pytest.raises(ShapeError):
        codec.encode(noise(1, 40, 32, 3))
    with pytest.raises(ShapeError):
        codec.encode_images(noise(0, 32, 32, 3))
    with pytest.raises(ShapeError):
        codec.encode(noise(1, 32, 32, 4))
    for call in (codec.decode, codec.decode_images, codec.static_tokens):
        with pytest.raises(ModelMismatchError):
            call(noise(16, 1, 2, 2))
    with pytest.raises(ModelMismatchError):
        codec.decode_patches(noise(5, 16))


@pytest.mark.rooms
def test_slow_camera_move_keeps_its_quality(codec: DctCodec) -> None:
    scene = ProceduralScene.from_seed(7, texture_size=256)
    poses = scene.start_camera_to_world.repeat(9, 1, 1)
    poses[:, :3, 3] += torch.linspace(0, 0.1, 9, dtype=poses.dtype)[:, None] * poses[:, :3, 0]
    intrinsics = intrinsics_from_fov(320, 192, 70).repeat(9, 1, 1)
    frames, _ = scene.render(Trajectory(invert_rigid(poses), intrinsics, 320, 192))
    tokens = codec.encode(frames)
    assert psnr(codec.decode(tokens), frames) > 23
    assert 0.5 < float(tokens.std()) < 2
    assert 0.1 < float(tokens.flatten(1).std(1).min())


def test_latent_frames_are_reported(codec: DctCodec) -> None:
    calls: list[tuple[int, int]] = []
    frames = noise(9, 32, 32, 3)
    tokens = codec.encode(frames, lambda *at: calls.append(at))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert torch.equal(tokens, codec.encode(frames))
    calls.clear()
    assert torch.equal(codec.decode(tokens, lambda *at: calls.append(at)), codec.decode(tokens))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_a_white_video_is_white(codec: DctCodec) -> None:
    """Of any length, and one is the beginning of a longer one, as training takes it."""
    white = codec.white_latent(9, 32, 64)
    assert white.shape == (48, 3, 2, 4)
    assert float(codec.decode(white).min()) > 0.99
    torch.testing.assert_close(codec.white_latent(5, 32, 64), white[:, :2])
