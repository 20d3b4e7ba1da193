"""Mirage Apply under every sampler and every guider that ComfyUI has."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tiny_models import conditioning, lora, video_model
from tiny_weights import Backbone

from .sampling_kit import Kit

FIRST = (slice(None), slice(None), slice(0, 1))
POSITIVE, MIDDLE, NEGATIVE = conditioning(10), conditioning(12), conditioning(11)


pytestmark = [pytest.mark.samplers, pytest.mark.usefixtures("inference")]


@pytest.fixture
def guided(kit: Kit) -> tuple[Any, dict[str, Tensor]]:
    return kit.guided(kit.condition(2, 1), kit.branch())


def far(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def run(kit: Kit, guider: Any, latent: dict[str, Tensor], sigmas: tuple[float, ...]) -> Tensor:
    samples = latent["samples"]
    return guider.sample(
        kit.comfy.sample.prepare_noise(samples, 7), samples,
        kit.comfy.samplers.sampler_object("euler"), torch.tensor(sigmas),
        denoise_mask=latent["noise_mask"], disable_pbar=True, seed=7,
    )  # fmt: skip


def node(name: str, *inputs: Any) -> Any:
    """The guider that a stock node makes."""
    from comfy_extras import nodes_custom_sampler, nodes_perpneg

    kind = getattr(nodes_custom_sampler, name, None) or getattr(nodes_perpneg, name)
    return kind.execute(*inputs).args[0]


def test_every_sampler(kit: Kit, guided: tuple[Any, dict[str, Tensor]]) -> None:
    names = [name for name in kit.comfy.samplers.KSampler.SAMPLERS if name != "dpm_adaptive"]
    assert len(names) > 30
    for name in names:
        samples = kit.ksampler(*guided, name, steps=2)
        assert bool(samples.isfinite().all()), name
        assert torch.equal(samples[FIRST], guided[1]["samples"][FIRST]), name


def test_two_samplers_one_after_the_other(kit: Kit, guided: tuple[Any, Any]) -> None:
    """As KSampler (Advanced) hands on a latent with noise left in it."""
    model, latent = guided
    sigmas = torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0])
    guider, samples = node("BasicGuider", model, POSITIVE), latent["samples"]
    sample = partial(
        guider.sample, sampler=kit.comfy.samplers.sampler_object("euler"),
        denoise_mask=latent["noise_mask"], disable_pbar=True, seed=7,
    )  # fmt: skip
    noise = kit.comfy.sample.prepare_noise(samples, 7)
    half = sample(noise, samples, sigmas=sigmas[:3])
    found = sample(torch.zeros_like(noise), half, sigmas=sigmas[2:])
    assert torch.allclose(found, sample(noise, samples, sigmas=sigmas), atol=1e-5)


# --- guiders --------------------------------------------------------------------------------------


def test_two_prompts_and_a_negative(kit: Kit, guided: tuple[Any, Any]) -> None:
    """One step from noise to the end returns what the guider makes of three passes."""
    model, latent = guided
    step = partial(run, kit, latent=latent, sigmas=(1.0, 0.0))
    first, second, negative = (
        step(node("BasicGuider", model, prompt)) for prompt in (POSITIVE, MIDDLE, NEGATIVE)
    )
    both = partial(node, "DualCFGGuider", model, POSITIVE, MIDDLE, NEGATIVE, 3.0, 2.0)
    regular = negative + 2 * (second - negative) + 3 * (first - second)
    nested = negative + 2 * (second + 3 * (first - second) - negative)
    assert torch.allclose(step(both("regular")), regular, atol=1e-4)
    assert torch.allclose(step(both("nested")), nested, atol=1e-4)


def test_perpendicular_negative(kit: Kit, guided: tuple[Any, Any]) -> None:
    """With the empty prompt as negative it is plain guidance."""
    model, latent = guided
    sample = partial(run, kit, latent=latent, sigmas=(1.0, 0.6, 0.0))
    empty = node("PerpNegGuider", model, POSITIVE, NEGATIVE, NEGATIVE, 3.0, 1.0)
    plain = node("CFGGuider", model, POSITIVE, NEGATIVE, 3.0)
    assert torch.allclose(sample(empty), sample(plain), atol=1e-4)
    other = node("PerpNegGuider", model, POSITIVE, MIDDLE, NEGATIVE, 3.0, 1.0)
    assert far(sample(other), sample(plain)) > 1e-3


@pytest.mark.parametrize("kind", ["same", "plain", "another"])
def test_another_model_for_the_negative(kit: Kit, guided: tuple[Any, Any], kind: str) -> None:
    """It sees the memory as well, its clean frames at their own positions."""
    model, latent = guided
    other = {"same": model, "plain": kit.model}.get(kind) or kit.fresh_model()
    sample = partial(run, kit, latent=latent, sigmas=(1.0, 0.6, 0.0))
    plain = sample(node("CFGGuider", model, POSITIVE, NEGATIVE, 3.0))
    found = sample(node("DualModelGuider", model, POSITIVE, 3.0, other, NEGATIVE))
    assert torch.allclose(found, plain, atol=1e-4)
    assert "rope_encode" not in vars(other.model.diffusion_model), "positions stayed on it"


def test_the_negative_s_model_is_checked(kit: Kit, guided: tuple[Any, Any]) -> None:
    model, latent = guided
    other = kit.fresh_model(video_model(Backbone(256, 2, 512, 2, 4096, 256, channels=16)))
    guider = node("DualModelGuider", model, POSITIVE, 3.0, other, NEGATIVE)
    with pytest.raises(kit.errors.ModelMismatchError, match="16 latent channels"):
        run(kit, guider, latent, (1.0, 0.0))
    wrong = lora(Backbone(dim=384, layers=5))
    (other, _) = kit.comfy.sd.load_lora_for_models(kit.model, None, wrong, 1.0, 0.0)
    guider = node("DualModelGuider", model, POSITIVE, 3.0, other, NEGATIVE)
    with pytest.raises(kit.errors.ModelMismatchError, match="LoRA was made for another model"):
        run(kit, guider, latent, (1.0, 0.0))


def test_a_negative_that_is_left_unconnected(kit: Kit, guided: tuple[Any, Any]) -> None:
    """Dual Model Guider fills in a conditioning without text, which the model cannot take."""
    model, latent = guided
    with pytest.raises(kit.errors.ModelMismatchError, match="no negative conditioning.*cfg 3"):
        run(kit, node("DualModelGuider", model, POSITIVE, 3.0), latent, (1.0, 0.0))
    found = run(kit, node("DualModelGuider", model, POSITIVE, 1.0), latent, (1.0, 0.0))
    assert torch.equal(found, run(kit, node("BasicGuider", model, POSITIVE), latent, (1.0, 0.0)))
