"""Noise, noise levels and solvers of the library's sampler."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UniPCMultistepScheduler
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from mirage_core.errors import ModelMismatchError, ShapeError, ValueRangeError
from mirage_core.rollout.state import chunk_seed
from mirage_core.sampling.noise import chunk_noise
from mirage_core.sampling.schedule import sigma_schedule, timesteps_of
from mirage_core.sampling.solve import METHODS, sample

SHAPE = (48, 5, 4, 6)


@pytest.fixture(scope="module")
def tensors(data_folder: Path) -> dict[str, Tensor]:
    return load_file(data_folder / "sampling_oracle.safetensors")


@pytest.mark.parametrize("steps", [3, 20, 40])
def test_released_grid(tensors, steps: int) -> None:
    sigmas = sigma_schedule(steps)
    assert sigmas.dtype == torch.float32
    assert torch.allclose(sigmas, tensors[f"scheduler.{steps}.sigmas"], atol=1e-7, rtol=0)
    assert timesteps_of(sigmas) == tensors[f"scheduler.{steps}.timesteps"].tolist()


@given(steps=st.integers(1, 200), shift=st.floats(0.1, 20))
def test_every_grid_falls_to_zero(steps: int, shift: float) -> None:
    sigmas = sigma_schedule(steps, shift)
    assert len(sigmas) == steps + 1
    assert bool((sigmas.diff() < 0).all())
    assert float(sigmas[0]) < 1
    assert float(sigmas[-1]) == 0
    exact = timesteps_of(sigmas, integer=False)
    assert exact == pytest.approx([1000 * s for s in sigmas[:-1].tolist()])
    assert [math.floor(step) for step in exact] == timesteps_of(sigmas)


@given(seed=st.integers(0, 2**63 - 1), frames=st.integers(1, 9))
def test_noise_is_that_of_the_graph(seed: int, frames: int) -> None:
    """ComfyUI seeds the global generator and draws a float32 latent of batch 1 on the CPU."""
    state = torch.get_rng_state()
    expected = torch.randn((1, 48, frames, 4, 6), generator=torch.manual_seed(seed), device="cpu")
    torch.set_rng_state(state)
    found = chunk_noise((48, frames, 4, 6), seed)
    assert torch.equal(found, expected[0])
    assert torch.equal(torch.get_rng_state(), state)


def test_chunks_draw_noise_of_their_own() -> None:
    drawn = [chunk_noise(SHAPE, chunk_seed(seed, k)) for seed in (0, 1) for k in range(4)]
    for number, one in enumerate(drawn):
        for other in drawn[:number]:
            correlation = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]
            assert abs(float(correlation)) < 0.06


def straight(target: Tensor, noise: Tensor):
    """The exact velocity of the one straight path from noise to target."""
    return lambda latents, timestep: noise - target


@pytest.mark.parametrize("method", METHODS)
def test_a_straight_path_ends_at_its_target(make, method: str) -> None:
    target, noise = make.noise(*SHAPE), make.noise(*SHAPE, seed=1)
    found = sample(straight(target, noise), noise, None, sigma_schedule(12), method=method)
    # The grid begins at sigma 0.9998 and not at 1, as the released one does.
    assert torch.allclose(found, target, atol=2e-3)


@pytest.mark.parametrize(("method", "order"), [("unipc", 2), ("euler", 1)])
def test_order_of_convergence(method: str, order: int) -> None:
    """x' = v(x, sigma) with a known solution: halving the step divides the error by 2^order."""
    end = 3.0

    def denoise(latents: Tensor, timestep: float) -> Tensor:
        return end * timestep / 1000 * latents

    noise = torch.ones(1, 1, 1, 1)
    errors = []
    for steps in (40, 80):
        sigmas = torch.linspace(0.9, 0, steps + 1)
        found = sample(denoise, noise, None, sigmas, method=method, integer_timesteps=False)
        exact = math.exp(-end * float(sigmas[0]) ** 2 / 2)
        errors.append(abs(float(found) - exact))
    assert errors[1] < errors[0]
    assert math.log2(errors[0] / errors[1]) > order - 0.4


@pytest.mark.parametrize("steps", [3, 20, 40])
def test_unipc_is_that_of_diffusers(make, steps: int) -> None:
    """On its own grid with its own shift, step by step, with the first frame put back."""
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
    )
    scheduler.set_timesteps(sigmas=torch.linspace(0.999, 0, steps + 1).double().numpy()[:-1])
    noise, first = make.noise(*SHAPE), make.noise(48, 1, 4, 6, seed=2)
    target = make.noise(*SHAPE, seed=3)

    def denoise(latents: Tensor, timestep: float) -> Tensor:
        return torch.sin(3 * latents) - target * timestep / 1000

    expected = torch.cat([first, noise[:, 1:]], dim=1)
    for timestep in scheduler.timesteps:
        velocity = denoise(expected, float(timestep))
        expected = scheduler.step(velocity, timestep, expected, return_dict=False)[0]
        expected = torch.cat([first, expected[:, 1:]], dim=1)
    found = sample(denoise, noise, first, sigma_schedule(steps))
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_the_clean_frames_are_clean_at_every_step(make, method: str, count: int) -> None:
    first = make.noise(48, count, 4, 6, seed=7)
    noise = make.noise(*SHAPE)
    given = noise.clone()
    shown: list[Tensor] = []
    reported: list[tuple[int, int]] = []

    def denoise(latents: Tensor, timestep: float) -> Tensor:
        shown.append(latents.clone())
        return 100 * torch.ones_like(latents) * timestep

    def on_step(done: int, total: int, clean: Tensor) -> None:
        assert torch.equal(clean[:, :count], first)
        reported.append((done, total))

    found = sample(denoise, noise, first, sigma_schedule(6), method=method, on_step=on_step)
    for latents in (*shown, found):
        assert torch.equal(latents[:, :count], first)
        assert not torch.equal(latents[:, count], noise[:, count]) or latents is shown[0]
    assert reported == [(k + 1, 6) for k in range(6)]
    assert torch.equal(noise, given)


def test_the_last_estimate_is_the_result(make) -> None:
    last: list[Tensor] = []

    def on_step(done: int, total: int, clean: Tensor) -> None:
        last[:] = [clean]

    target = make.noise(*SHAPE, seed=1)
    found = sample(
        lambda x, t: x - target, make.noise(*SHAPE), None, sigma_schedule(4), on_step=on_step,
        method="euler",
    )  # fmt: skip
    assert torch.allclose(last[0], found, atol=1e-6)


def test_a_cancelled_chunk_leaves_no_trace(make) -> None:
    """The solver remembers earlier steps of a chunk, and nothing of an earlier chunk."""
    noise, first = make.noise(*SHAPE), make.noise(48, 1, 4, 6)
    sigmas = sigma_schedule(5)

    def denoise(latents: Tensor, timestep: float) -> Tensor:
        return torch.tanh(latents) + timestep / 1000

    def cancel(done: int, total: int, clean: Tensor) -> None:
        if done == 3:
            raise KeyboardInterrupt

    expected = sample(denoise, noise, first, sigmas)
    with pytest.raises(KeyboardInterrupt):
        sample(denoise, noise, first, sigmas, on_step=cancel)
    assert torch.equal(sample(denoise, noise, first, sigmas), expected)


def test_arithmetic_is_float32(make) -> None:
    seen: list[torch.dtype] = []

    def denoise(latents: Tensor, timestep: float) -> Tensor:
        seen.append(latents.dtype)
        return (latents * 0.5).bfloat16()

    found = sample(denoise, make.noise(*SHAPE).bfloat16(), None, sigma_schedule(4))
    assert {*seen, found.dtype} == {torch.float32}


def test_what_the_model_is_told(make) -> None:
    steps: list[float] = []

    def denoise(latents: Tensor, timestep: float) -> Tensor:
        steps.append(timestep)
        return torch.zeros_like(latents)

    for whole in (True, False):
        sample(denoise, make.noise(*SHAPE), None, sigma_schedule(20), integer_timesteps=whole)
    assert steps[:5] == [999, 989, 978, 965, 952]
    assert steps[20:] == timesteps_of(sigma_schedule(20), integer=False)


@pytest.mark.parametrize(
    "sigmas", [[0.5], [0.5, 0.6, 0.0], [0.9, 0.5, 0.1], [1.2, 0.0], [math.nan, 0.0], []]
)
def test_levels_that_are_no_schedule(make, sigmas: list[float]) -> None:
    with pytest.raises(ValueRangeError, match="schedule"):
        sample(lambda x, t: x, make.noise(*SHAPE), None, torch.tensor(sigmas))


def test_bad_input(make) -> None:
    noise, sigmas = make.noise(*SHAPE), sigma_schedule(3)
    with pytest.raises(ValueRangeError, match="sampler"):
        sample(lambda x, t: x, noise, None, sigmas, method="heun")
    with pytest.raises(ShapeError, match="first latent"):
        sample(lambda x, t: x, noise, make.noise(48, 1, 4, 5), sigmas)
    with pytest.raises(ShapeError, match="more clean latents than the chunk has"):
        sample(lambda x, t: x, noise, make.noise(48, SHAPE[1] + 1, *SHAPE[2:]), sigmas)
    with pytest.raises(ShapeError, match="velocity"):
        sample(lambda x, t: x[:, 1:], noise, None, sigmas)
    with pytest.raises(ValueRangeError, match="not finite"):
        sample(lambda x, t: x * math.nan, noise, None, sigmas)
    for steps, shift in ((0, 5), (5, 0), (5, math.nan), (10**6, 5)):
        with pytest.raises(ValueRangeError):
            sigma_schedule(steps, shift)


def test_without_diffusers(make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Euler works; the default says what is missing."""
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ModelMismatchError, match="pip install diffusers"):
        sample(lambda x, t: x, make.noise(*SHAPE), None, sigma_schedule(3))
    assert sample(lambda x, t: x, make.noise(*SHAPE), None, sigma_schedule(3), method="euler").any()
