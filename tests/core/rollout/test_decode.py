"""Decoding with the latents before a chunk: which frames come back, and what the seam gains."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLWan
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mirage_core.codecs.dct import DctCodec
from mirage_core.errors import ShapeError, ValueRangeError
from mirage_core.models.vae import WanCodec
from mirage_core.rollout.decode import context_latents, decode_with_context
from mirage_core.rollout.run_folder import all_latents, open_folder


def causal(latents: Tensor) -> Tensor:
    """A decoder of one pixel that remembers: frames are a running mean of the latents so far."""
    counts = torch.arange(1, latents.shape[1] + 1)
    means = latents.mean(dim=(0, 2, 3)).cumsum(0) / counts
    repeats = torch.tensor([1] + [4] * (latents.shape[1] - 1))
    return means.repeat_interleave(repeats)[:, None, None, None].expand(-1, 1, 1, 3)


@given(carried=st.integers(0, 4), target=st.integers(1, 5))
def test_the_frames_are_those_of_the_whole_video(carried: int, target: int) -> None:
    video = torch.randn(
        8, carried + target, 2, 2, generator=torch.Generator().manual_seed(10 * carried + target)
    )
    whole = causal(video)
    found = decode_with_context(causal, video[:, :carried], video[:, carried:])
    assert len(found) == 4 * target - 3
    assert torch.equal(found, whole[len(whole) - len(found) :])


def test_nothing_carried_is_plain_decoding(make) -> None:
    codec, latents = DctCodec(), 0.3 * make.noise(48, 3, 2, 2)
    assert torch.equal(
        decode_with_context(codec.decode, latents[:, :0], latents), codec.decode(latents)
    )


def test_the_overlapping_frame_is_that_of_the_chunk_before(make) -> None:
    """Alone, the first latent would be taken for a single picture."""
    codec = DctCodec()
    steps = torch.linspace(0, 1, 17)[:, None, None, None]
    video = (1 - steps) * make.uniform(1, 64, 64, 3) + steps * make.uniform(1, 64, 64, 3, seed=1)
    latents = codec.encode(video)
    earlier = codec.decode(latents[:, :3])
    joined = decode_with_context(codec.decode, latents[:, :2], latents[:, 2:])
    alone = decode_with_context(codec.decode, latents[:, :0], latents[:, 2:])
    assert torch.allclose(joined[0], earlier[-1], atol=1e-6)
    assert float((alone[0] - earlier[-1]).abs().max()) > 1e-3
    assert torch.allclose(joined[1:], alone[1:], atol=1e-6)


def test_carried_latents_are_the_newest_before_the_overlap(shot, tmp_path) -> None:
    state = open_folder(shot.begin(tmp_path / "shot"))
    assert context_latents(state, 2).shape == (48, 0, 4, 4)
    state = shot.advance(state, 2)
    history = all_latents(state)
    assert torch.equal(history[:, -1:], state.overlap_latent)
    for count in range(12):
        assert torch.equal(context_latents(state, count), history[:, -1 - count : -1])
    assert context_latents(state, 60).shape[1] == history.shape[1] - 1


def test_bad_input(make, shot) -> None:
    codec, latents = DctCodec(), make.noise(48, 3, 2, 2)
    with pytest.raises(ShapeError, match="carried"):
        decode_with_context(codec.decode, make.noise(48, 2, 4, 2), latents)
    with pytest.raises(ShapeError, match="decoded frames"):
        decode_with_context(lambda x: codec.decode(x)[1:], latents[:, :1], latents)
    with pytest.raises(ValueRangeError):
        context_latents(shot.begin(), -1)


@pytest.fixture(scope="module")
def wan() -> WanCodec:
    """The Wan2.2 autoencoder with random weights, very narrow."""
    torch.manual_seed(0)
    network = AutoencoderKLWan(
        base_dim=4, decoder_base_dim=4, z_dim=48, dim_mult=[1, 2, 4, 4], num_res_blocks=2,
        attn_scales=[], temperal_downsample=[False, True, True], is_residual=True, in_channels=12,
        out_channels=12, patch_size=2, scale_factor_temporal=4, scale_factor_spatial=16,
        latents_mean=[0.0] * 48, latents_std=[1.0] * 48,
    )  # fmt: skip
    return WanCodec(network)


def test_carried_latents_give_the_wan_decoder_its_past(make, wan: WanCodec) -> None:
    """The more, the nearer to the whole video decoded at once; with all of them it is that."""
    latents = make.noise(48, 9, 2, 2)
    whole = wan.decode(latents)[-8:]
    errors = []
    for carried in (0, 2, 4, 6):
        before = latents[:, 6 - carried : 6]
        found = decode_with_context(wan.decode, before, latents[:, 6:])
        assert len(found) == 9
        errors.append(float((found[1:] - whole).abs().mean()))
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[3] < 1e-5 < 0.01 < errors[0]
