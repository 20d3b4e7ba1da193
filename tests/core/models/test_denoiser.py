"""One model call of the sampler: frames in their places, guidance, refusals."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from mirage_core.conditioning.condition import Condition
from mirage_core.errors import ModelMismatchError, ShapeError, ValueRangeError
from mirage_core.models.denoiser import MirageDenoiser
from mirage_core.models.transformer import MirageTransformer3DModel

GRID = (8, 12)


@pytest.fixture(scope="module")
def model(released) -> MirageTransformer3DModel:
    return released.model()


@pytest.fixture
def text(make) -> Tensor:
    return make.noise(1, 7, 32, seed=11)


@pytest.fixture
def latents(make) -> Tensor:
    return make.noise(48, 4, *GRID, seed=12)


@pytest.fixture
def condition(make) -> Condition:
    visible = make.uniform(4, *GRID, seed=1) > 0.4
    earlier = make.uniform(2, *GRID, seed=2) > 0.4
    return Condition(
        projection=make.noise(48, 4, *GRID, seed=3) * visible,
        visible=visible,
        references=make.noise(48, 3, *GRID, seed=4),
        preceding=make.noise(48, 2, *GRID, seed=5),
        preceding_projection=make.noise(48, 2, *GRID, seed=6) * earlier,
        preceding_visible=earlier,
    )


@pytest.fixture
def white(make) -> Tensor:
    return make.noise(48, 6, *GRID, seed=7)


class Calls:
    """Counts the passes of a model."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.arguments: list[dict] = []
        self.hook = model.register_forward_pre_hook(
            lambda _model, args, kwargs: self.arguments.append(kwargs), with_kwargs=True
        )

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, *_) -> None:
        self.hook.remove()


@torch.no_grad()
def by_hand(model, condition, text, white, latents, timestep, clean=1, **other) -> Tensor:
    """References first, then the target, then preceding frames; clean ones at time 0."""
    c = condition
    frames = torch.cat([c.references, latents, c.preceding], dim=1)
    times = [0.0] * 3 + [0.0] * clean + [timestep] * (4 - clean) + [0.0] * 2
    scene = torch.cat([c.projection, c.preceding_projection], dim=1)
    (output,) = model(
        frames[None],
        torch.tensor([times]),
        text,
        torch.cat([scene, white])[None],
        num_reference_frames=3,
        num_preceding_frames=2,
        return_dict=False,
        **other,
    )
    return output[0, :, 3:7]


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_frames_and_timesteps_stand_where_they_belong(
    model, condition, text, white, latents, scale: float
) -> None:
    denoise = MirageDenoiser(model, condition, text, white=white, side_scale=scale)
    found = denoise(latents, 731.0)
    assert found.shape == latents.shape
    assert found.dtype == torch.float32
    assert not found.requires_grad
    expected = by_hand(model, condition, text, white, latents, 731.0, side_scale=scale)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("clean", [2, 3])
def test_clean_frames_of_the_target_are_at_time_zero(
    model, condition, text, white, latents, clean: int
) -> None:
    several = dataclasses.replace(condition, clean=clean)
    found = MirageDenoiser(model, several, text, white=white)(latents, 731.0)
    expected = by_hand(model, condition, text, white, latents, 731.0, clean)
    assert torch.equal(found, expected)
    alone = MirageDenoiser(model, condition, text, white=white)(latents, 731.0)
    assert not torch.allclose(found, alone, atol=1e-4)


def test_one_target_frame_set_without_clean_frames(released, model, make) -> None:
    """The released code's own case of a first chunk: no references, nothing before."""
    inputs = released.inputs(3)
    side = inputs["side_hidden_states"][0]
    condition = Condition.of_projection(side[:48], torch.ones(3, 8, 12, dtype=torch.bool))
    text = inputs["encoder_hidden_states"]
    denoise = MirageDenoiser(model, condition, text, white=side[48:])
    times = inputs["timestep"][0]
    with Calls(model) as calls:
        denoise(inputs["hidden_states"][0], float(times[1]))
    (kwargs,) = calls.arguments
    assert torch.equal(kwargs["side_hidden_states"], inputs["side_hidden_states"])
    assert kwargs["num_reference_frames"] == kwargs["num_preceding_frames"] == 0


def test_guidance_strengthens_the_text_alone(model, condition, text, white, latents, make) -> None:
    negative = make.noise(1, 5, 32, seed=13)
    denoise = MirageDenoiser(model, condition, text, negative, white, guidance=4.0)
    with Calls(model) as calls:
        found = denoise(latents, 400.0)
    assert len(calls.arguments) == 2
    sides = [kwargs["side_hidden_states"] for kwargs in calls.arguments]
    assert torch.equal(*sides)
    with_text = by_hand(model, condition, text, white, latents, 400.0)
    without = by_hand(model, condition, negative, white, latents, 400.0)
    assert torch.allclose(found, without + 4.0 * (with_text - without), atol=1e-5)
    assert not torch.allclose(found, with_text, atol=1e-2)


def test_without_guidance_the_model_runs_once(model, condition, text, white, latents) -> None:
    alone = MirageDenoiser(model, condition, text, white=white)(latents, 400.0)
    with Calls(model) as calls:
        both = MirageDenoiser(model, condition, text, text * 2, white)(latents, 400.0)
    assert len(calls.arguments) == 1
    assert torch.equal(both, alone)


def test_scale_zero_is_the_model_without_a_branch(
    released, model, condition, text, latents
) -> None:
    """Needs neither the branch nor the white latent that it would take."""
    expected = MirageDenoiser(model, condition, text, side_scale=0.0)(latents, 300.0)
    plain = released.model(branch=False)
    assert torch.equal(
        MirageDenoiser(plain, condition, text, side_scale=0.0)(latents, 300.0), expected
    )


@pytest.mark.parametrize("name", ["projection", "references", "preceding", "preceding_projection"])
def test_everything_the_memory_shows_counts(
    model, condition, text, white, latents, name: str
) -> None:
    before = MirageDenoiser(model, condition, text, white=white)(latents, 600.0)
    other = dataclasses.replace(condition, **{name: getattr(condition, name).flip(-1)})
    after = MirageDenoiser(model, other, text, white=white)(latents, 600.0)
    assert not torch.allclose(before, after, atol=1e-4)


def test_the_model_may_be_coarser_than_the_sampler(
    released, condition, text, white, latents
) -> None:
    exact = MirageDenoiser(released.model(), condition, text, white=white)(latents, 600.0)
    half = released.model().to(torch.bfloat16)
    found = MirageDenoiser(half, condition, text, white=white)(latents, 600.0)
    assert found.dtype == torch.float32
    assert 0 < float((found - exact).abs().max()) < 0.2


# --- refusals, all but the last before any work ---------------------------------------------


def test_guidance_needs_a_negative_prompt(model, condition, text, white) -> None:
    with pytest.raises(ValueRangeError, match="negative prompt"):
        MirageDenoiser(model, condition, text, white=white, guidance=5.0)


def test_the_white_latent_is_asked_for(model, condition, text, white) -> None:
    with pytest.raises(ShapeError, match="white video"):
        MirageDenoiser(model, condition, text)
    with pytest.raises(ShapeError, match="white latent"):
        MirageDenoiser(model, condition, text, white=white[:, :4])


def test_the_memory_cannot_steer_a_plain_model(released, condition, text) -> None:
    with pytest.raises(ModelMismatchError, match="no side branch"):
        MirageDenoiser(released.model(branch=False), condition, text)


@pytest.mark.parametrize("shape", [(1, 7, 31), (2, 7, 32), (7, 32)])
def test_the_text_is_of_the_models_encoder(model, condition, text, white, shape) -> None:
    other = torch.zeros(shape)
    with pytest.raises(ShapeError, match="encoded prompt"):
        MirageDenoiser(model, condition, other, white=white)
    with pytest.raises(ShapeError, match="negative prompt"):
        MirageDenoiser(model, condition, text, other, white)


def test_the_grid_is_of_whole_tokens(model, text) -> None:
    scene, visible = torch.zeros(48, 2, 8, 11), torch.zeros(2, 8, 11, dtype=torch.bool)
    with pytest.raises(ShapeError, match="divisible by 2"):
        MirageDenoiser(model, Condition.of_projection(scene, visible), text, white=scene)


def test_latents_of_another_size(model, condition, text, white, latents) -> None:
    denoise = MirageDenoiser(model, condition, text, white=white)
    with pytest.raises(ShapeError, match="latents"):
        denoise(latents[:, :3], 500.0)
    with pytest.raises(ShapeError, match="latents"):
        denoise(latents[None], 500.0)
