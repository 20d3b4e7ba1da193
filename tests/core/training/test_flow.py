"""Noise levels and the loss, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from mirage_core.codecs.dct import DctCodec
from mirage_core.sampling.schedule import sigma_schedule
from mirage_core.training.flow import (
    draw_sigmas,
    flow_loss,
    noisy,
    pixel_weights,
    shifted,
    spaced_sigmas,
    timesteps,
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("per_frame", [True, False])
@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_levels_have_the_shifted_distribution(per_frame: bool, shift: float) -> None:
    """The distribution function of a level s is s / (shift - (shift - 1) s)."""
    sigmas = draw_sigmas(4000, 4, rng(), shift=shift, per_frame=per_frame)
    assert sigmas.shape == (4000, 4)
    assert bool((sigmas[:, 0] == 0).all())
    drawn = (sigmas[:, 1:] if per_frame else sigmas[:, 1]).flatten().sort().values
    expected = drawn / (shift - (shift - 1) * drawn)
    found = torch.linspace(0, 1, len(drawn))
    assert float((expected - found).abs().max()) < 1.7 / math.sqrt(len(drawn))


def test_one_level_for_each_frame_or_for_the_clip() -> None:
    clip = draw_sigmas(64, 5, rng(), shift=5, per_frame=False)
    assert bool((clip[:, 1:] == clip[:, 1:2]).all())
    frames = draw_sigmas(64, 5, rng(), shift=5, per_frame=True)
    assert all(len(set(row.tolist())) == 5 for row in frames)


def test_levels_are_spaced_as_in_sampling() -> None:
    even = torch.linspace(0.999, 0, 9, dtype=torch.float64)
    assert torch.allclose(shifted(even, 5.0).float(), sigma_schedule(8, 5.0), atol=1e-7)
    assert spaced_sigmas(2, 3, 0.5, shift=5.0).tolist() == [pytest.approx([0, 5 / 6, 5 / 6])] * 2


def test_the_model_can_undo_the_noise(make) -> None:
    """x - sigma v is the clean latent when v is what the loss asks for."""
    target, noise = make.noise(2, 48, 3, 2, 2), make.noise(2, 48, 3, 2, 2, seed=1)
    sigmas = draw_sigmas(2, 3, rng(), shift=5, per_frame=True)
    mixed = noisy(target, noise, sigmas)
    assert torch.equal(mixed[:, :, 0], target[:, :, 0])
    clean = mixed - sigmas[:, None, :, None, None] * (noise - target)
    assert torch.allclose(clean, target, atol=1e-5)
    assert float(flow_loss(noise - target, target, noise)) == 0
    assert torch.equal(timesteps(sigmas), 1000 * sigmas)


def test_the_clean_frame_does_not_count(make) -> None:
    target, noise, wrong = (make.noise(1, 48, 3, 2, 2, seed=seed) for seed in range(3))
    velocity = noise - target
    velocity[:, :, 0] = wrong[:, :, 0]
    assert float(flow_loss(velocity, target, noise)) == 0
    velocity[:, :, 2] += 2
    assert float(flow_loss(velocity, target, noise)) == pytest.approx(2.0)


def test_weights_count_channels(make) -> None:
    target, noise = make.noise(1, 48, 3, 2, 2), make.noise(1, 48, 3, 2, 2, seed=1)
    velocity, weights = noise - target, torch.zeros(48)
    weights[5] = 48.0
    velocity[:, 6] += 1
    assert float(flow_loss(velocity, target, noise, weights)) == 0
    velocity[:, 5] += 1
    assert float(flow_loss(velocity, target, noise, weights)) == pytest.approx(1.0)


def test_pixel_weights_of_a_linear_codec_give_the_pixel_error(make) -> None:
    """The ratio of the weighted loss to the error of decoded pixels is the same for any error."""
    codec = DctCodec()
    weights = pixel_weights(codec)
    assert float(weights.mean()) == pytest.approx(1.0)
    ratios = []
    for channels in (slice(0, 3), slice(10, 30), slice(40, 48)):
        error = torch.zeros(1, 48, 2, 4, 4)
        error[:, channels, 1] = 0.01 * make.noise(1, 48, 4, 4)[:, channels]
        loss = flow_loss(error, torch.zeros_like(error), torch.zeros_like(error), weights)
        grey = torch.zeros(48, 2, 4, 4)
        pixels = (codec.decode(error[0]) - codec.decode(grey))[1:].square().mean()
        ratios.append(float(loss / pixels))
    assert max(ratios) / min(ratios) == pytest.approx(1.0, abs=1e-3)
    assert float(weights.max() / weights.min()) > 3
