"""Mirage Apply under ComfyUI's samplers, guiders and loaders; nothing of it stays behind."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from tiny_models import conditioning, lora

from .sampling_kit import GRID, Kit

SAMPLERS = ("uni_pc", "euler", "lcm", "dpmpp_2m", "euler_ancestral", "heun")
FIRST = (slice(None), slice(None), slice(0, 1))


pytestmark = [pytest.mark.samplers, pytest.mark.usefixtures("inference")]


@pytest.fixture
def plain(kit: Kit) -> Tensor:
    """What the unpatched model makes of the same latent."""
    return kit.ksampler(kit.model, kit.apply(strength=0.0)[1])


def far(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


# --- samplers, guiders ----------------------------------------------------------------------------


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers(kit: Kit, sampler: str, cfg: float) -> None:
    bare = kit.ksampler(*kit.apply(strength=0.0), sampler, steps=3, cfg=cfg)
    for model, latent in (kit.apply(), kit.guided(kit.condition(2, 1), kit.branch())):
        samples = kit.ksampler(model, latent, sampler, steps=3, cfg=cfg)
        assert samples.shape == latent["samples"].shape
        assert bool(samples.isfinite().all())
        assert torch.equal(samples[FIRST], latent["samples"][FIRST]), "the clean frame changed"
        assert far(samples[:, :, 1:], bare[:, :, 1:]) > 0.1, "the memory changes nothing"


def test_guiders_agree(kit: Kit) -> None:
    model, latent = kit.guided(kit.condition(1, 1), kit.branch())
    sigmas = torch.tensor([1.0, 0.7, 0.0])
    euler = kit.comfy.samplers.sampler_object("euler")
    basic = kit.custom(model, latent, euler, sigmas)
    assert torch.equal(basic, kit.custom(model, latent, euler, sigmas, cfg=1.0))
    assert far(basic, kit.custom(model, latent, euler, sigmas, cfg=4.0)) > 1e-3


@pytest.mark.parametrize("tokens", [12, 20], ids=["together", "apart"])
def test_guidance_mixes_two_passes(kit: Kit, tokens: int) -> None:
    """Texts of one length share a forward pass, texts of two do not; the mix is the same."""
    model, latent = kit.guided(kit.condition(2, 1), kit.branch())
    sizes: list[int] = []

    def spy(executor: Any, x: Tensor, *args: Any, **options: Any) -> Tensor:
        sizes.append(len(x))
        return executor(x, *args, **options)

    spied = model.clone()
    spied.add_wrapper_with_key("diffusion_model", "spy", spy)
    negative = conditioning(11, tokens)
    found = kit.ksampler(spied, latent, steps=1, cfg=3.0, negative=negative)
    assert sizes == ([2] if tokens == 12 else [1, 1])
    given = kit.ksampler(model, latent, steps=1)
    guider = kit.comfy.samplers.CFGGuider(model)
    guider.set_conds(negative, negative)
    noise = kit.comfy.sample.prepare_noise(latent["samples"], 7)
    sigmas = torch.tensor([1.0, 0.0])
    euler = kit.comfy.samplers.sampler_object("euler")
    without = guider.sample(
        noise, latent["samples"], euler, sigmas, denoise_mask=latent["noise_mask"],
        disable_pbar=True, seed=7,
    )  # fmt: skip
    assert torch.allclose(found, without + 3 * (given - without), atol=1e-4)


def test_batch_of_latents(kit: Kit) -> None:
    model, latent = kit.guided(kit.condition(2, 1), kit.branch())
    double = {name: tensor.repeat(2, 1, 1, 1, 1) for name, tensor in latent.items()}
    samples = kit.ksampler(model, double, cfg=2.0)
    assert torch.allclose(samples[:1], kit.ksampler(model, latent, cfg=2.0), atol=1e-4)
    assert far(samples[1], samples[0]) > 0.1


def test_lower_denoise_begins_from_the_latent(kit: Kit) -> None:
    model, latent = kit.guided(kit.condition(), kit.branch())
    made = kit.ksampler(model, latent, steps=4)
    again = kit.ksampler(model, latent | {"samples": made}, steps=4, denoise=0.25)
    assert torch.equal(again[FIRST], latent["samples"][FIRST])
    assert far(again, made) < 0.5 * far(kit.ksampler(model, latent, seed=8), made)


# --- the first frame, masks -----------------------------------------------------------------------


def test_any_latent_of_the_right_size_will_do(kit: Kit) -> None:
    """The clean frame is put in, whether the latent has it, lacks it or has no mask."""
    model, latent = kit.guided(kit.condition(1, 0), kit.branch())
    expected = kit.ksampler(model, latent)
    without_mask = {"samples": latent["samples"]}
    empty = {"samples": torch.zeros_like(latent["samples"])}
    white = latent | {"noise_mask": torch.ones_like(latent["noise_mask"])}
    for other in (without_mask, empty, white):
        assert torch.equal(kit.ksampler(model, other), expected)


def test_a_mask_keeps_its_cells(kit: Kit) -> None:
    model, latent = kit.guided(kit.condition(1, 2), kit.branch())
    samples = kit.ksampler(model, latent)
    mask = latent["noise_mask"].clone()
    mask[:, :, 1, :2] = 0
    kept = kit.ksampler(model, {"samples": samples, "noise_mask": mask}, seed=9)
    still = (mask == 0).expand_as(samples)
    assert torch.equal(kept[still], samples[still])
    assert far(kept[~still], samples[~still]) > 0.1


# --- strength, schedule ---------------------------------------------------------------------------


def test_strength_0_is_the_plain_model(kit: Kit, plain: Tensor) -> None:
    model, latent = kit.apply(strength=0.0)
    assert not any(model.wrappers.values()) and not model.additional_models
    assert model.object_patches == {}
    for sampler in ("euler", "uni_pc"):
        own = kit.ksampler(kit.model, latent, sampler, cfg=2.0)
        assert torch.equal(kit.ksampler(model, latent, sampler, cfg=2.0), own)
    assert torch.equal(kit.ksampler(model, latent), plain)
    without, _ = kit.apply(branch=None)
    assert torch.equal(kit.ksampler(without, latent), plain)


def test_strength_0_shows_no_earlier_frames(kit: Kit) -> None:
    """In the later chunks of a rollout too, where clean frames would change the result."""
    state = kit.second_chunk()
    readout = kit.module("readout.readout").read(state.cache, state.frame_cameras)
    inputs = {"readout": readout, "state": state}
    inputs["first_latent"] = kit.vae_border.make_latent(state.overlap_latent)
    model, latent = kit.apply(strength=0.0, **inputs)
    plain = kit.ksampler(kit.model, latent)
    assert torch.equal(kit.ksampler(model, latent), plain)
    beside, _ = kit.apply(branch=None, **inputs)
    assert far(kit.ksampler(beside, latent), plain) > 1e-3


def test_strength_0_takes_an_earlier_patch_off(kit: Kit, plain: Tensor) -> None:
    patched, _ = kit.apply()
    model, latent = kit.apply(model=patched, strength=0.0)
    assert torch.equal(kit.ksampler(model, latent), plain)


def test_the_last_patch_counts(kit: Kit) -> None:
    once, latent = kit.guided(kit.condition(2, 1), kit.branch())
    other, _ = kit.guided(kit.condition(1, 1, seed=9), kit.branch(), 0.5)
    twice, _ = kit.guided(kit.condition(2, 1), kit.branch(), model=other)
    assert torch.equal(kit.ksampler(twice, latent), kit.ksampler(once, latent))


def test_effect_grows_with_strength(kit: Kit, plain: Tensor) -> None:
    found = [
        far(kit.ksampler(*kit.apply(strength=strength)), plain) for strength in (0.01, 0.3, 1.0)
    ]
    assert 0 < found[0] < found[1] < found[2]


def test_span_of_the_schedule(kit: Kit, plain: Tensor) -> None:
    whole = kit.ksampler(*kit.apply(), steps=4)
    bare = kit.ksampler(*kit.apply(strength=0.0), steps=4)
    spans = ((0.0, 0.5), (0.5, 1.0))
    parts = [
        kit.ksampler(*kit.apply(start_percent=start, end_percent=end), steps=4)
        for start, end in spans
    ]
    for part in parts:
        assert far(part, whole) > 1e-3 and far(part, bare) > 1e-3
    never, latent = kit.apply(start_percent=1.0, end_percent=1.0)
    assert far(kit.ksampler(never, latent), plain) < 1e-4


def test_span_follows_a_later_shift(kit: Kit) -> None:
    """Percentages belong to the schedule that is in force when the model is sampled."""
    ran: list[int] = []
    block = kit.branch().patcher.model.vace_blocks[0]
    hook = block.register_forward_hook(lambda *_: ran.append(1))
    counts = []
    model, latent = kit.apply(end_percent=0.55)
    for shift in (1.0, 8.0, 30.0):
        ran.clear()
        kit.ksampler(with_shift(kit, model, shift), latent, steps=8)
        counts.append(len(ran))
    hook.remove()
    assert counts == [5, 5, 5], "those at 0, 1/8, .. 4/8"


@pytest.mark.parametrize("shift", [2.89, 8.06])
def test_the_whole_span_is_every_step(kit: Kit, shift: float) -> None:
    """At such shifts the first noise level of float32 is 1.0000001."""
    shifted = with_shift(kit, kit.model, shift)
    assert float(shifted.get_model_object("model_sampling").sigma_max) > 1
    ran: list[int] = []
    block = kit.branch().patcher.model.vace_blocks[0]
    hook = block.register_forward_hook(lambda *_: ran.append(1))
    kit.ksampler(*kit.apply(model=shifted), steps=3)
    hook.remove()
    assert len(ran) == 3


# --- loaders and other nodes ----------------------------------------------------------------------


def with_shift(kit: Kit, model: Any, shift: float) -> Any:
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    return ModelSamplingSD3().patch(model, shift)[0]


def test_model_sampling_before_and_after(kit: Kit) -> None:
    after, latent = kit.apply()
    found = kit.ksampler(with_shift(kit, after, 3.0), latent)
    before, _ = kit.apply(model=with_shift(kit, kit.model, 3.0))
    assert torch.equal(kit.ksampler(before, latent), found)
    assert far(found, kit.ksampler(after, latent)) > 1e-3


def with_lora(kit: Kit, model: Any, strength: float = 1.0) -> Any:
    return kit.comfy.sd.load_lora_for_models(model, None, lora(), strength, 0.0)[0]


def test_lora_before_and_after(kit: Kit) -> None:
    own = Kit(kit.pack)
    own._model = kit.fresh_model()
    patched, latent = own.apply()
    bare = own.ksampler(patched, latent)
    found = own.ksampler(with_lora(own, patched), latent)
    before, _ = own.apply(model=with_lora(own, own.model))
    assert torch.equal(own.ksampler(before, latent), found)
    assert far(found, bare) > 1e-3
    assert torch.equal(own.ksampler(patched, latent), bare), "the LoRA stayed in the weights"
    # The loader that leaves the weights as they are and adds to what layers return.
    beside = kit.comfy.sd.load_bypass_lora_for_models(patched, None, lora(), 1.0, 0.0)[0]
    assert torch.allclose(own.ksampler(beside, latent), found, atol=1e-4)
    assert torch.equal(own.ksampler(patched, latent), bare), "the LoRA stayed on the layers"
    own.close()


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_block_replacements_of_other_nodes_stay(kit: Kit, first: bool) -> None:
    calls: list[int] = []

    def half(layer: int) -> Any:
        def replace(args: dict, extra: dict) -> dict:
            calls.append(layer)
            out = extra["original_block"](args)
            return {"img": args["img"] + 0.5 * (out["img"] - args["img"])}

        return replace

    def others(model: Any) -> Any:
        model = model.clone()
        for layer in (0, 1, 2):
            model.set_model_patch_replace(half(layer), "dit", "double_block", layer)
        return model

    condition = kit.condition(1, 1)
    if first:
        model, latent = kit.guided(condition, kit.branch(), model=others(kit.model))
    else:
        model, latent = kit.guided(condition, kit.branch())
        model = others(model)
    samples = kit.ksampler(model, latent, steps=1)
    assert calls == [0, 1, 2]
    assert far(samples, kit.ksampler(*kit.guided(condition, kit.branch()), steps=1)) > 1e-3
    bare = kit.ksampler(others(kit.model), latent, steps=1)
    assert far(samples, bare) > 1e-3
    kit.kept.setdefault("halved", samples)
    assert torch.equal(samples, kit.kept["halved"]), "the order of the nodes matters"


def test_skipped_blocks_do_not_disturb_the_branch(kit: Kit) -> None:
    """A replacement may hand back what it was given, as Skip Layer Guidance does."""
    model, latent = kit.guided(kit.condition(1, 1), kit.branch())
    skipping = model.clone()
    skipping.set_model_patch_replace(lambda args, _: args, "dit", "double_block", 0)
    same = model.clone()
    same.set_model_patch_replace(
        lambda args, _: {"img": args["img"].clone()}, "dit", "double_block", 0
    )
    assert torch.equal(kit.ksampler(skipping, latent), kit.ksampler(same, latent))


def test_rope_scaling_reaches_all_frames(kit: Kit) -> None:
    model, latent = kit.guided(kit.condition(2, 1), kit.branch())
    found = kit.ksampler(model, latent)
    for scale, shift, changes in ((1.0, 0.0, False), (1.0, 5.0, False), (1.5, 0.0, True)):
        scaled = model.clone()
        scaled.set_model_rope_options(scale, shift, scale, shift, scale, shift)
        difference = far(kit.ksampler(scaled, latent), found)
        # A shift of all positions is none at all: attention knows their differences alone.
        assert (difference > 1e-3) is changes


def test_branch_without_named_layers(kit: Kit) -> None:
    weights = dict(kit.branch().patcher.model.state_dict())
    config = kit.config("scene,visible", False, layers=(0, 1, 2))
    loose = kit.models.make_branch(config, weights, named_layers=False)
    assert loose.fitted(kit.model.model.diffusion_model).layers == (0, 2, 4)
    latent = kit.apply()[1]
    found = kit.ksampler(kit.apply(branch=loose)[0], latent)
    assert torch.equal(found, kit.ksampler(kit.apply()[0], latent))


def test_white_latent_is_encoded_once_per_size(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    vae, codec = kit.vae_border.DctVAE(), kit.module("codecs.dct").CODEC_NAME
    encoded: list[tuple[int, ...]] = []
    encode = type(vae).encode

    def count(self: Any, frames: Tensor) -> Tensor:
        encoded.append(tuple(frames.shape))
        assert bool((frames == 1).all())
        return encode(self, frames)

    monkeypatch.setattr(type(vae), "encode", count)
    branch = kit.branch("scene,white")
    branch.white.clear()
    for _ in range(2):
        kit.apply(readout=kit.readout(codec=codec), branch=branch, vae=vae)
    other = (5, *GRID[1:])
    kit.apply(readout=kit.readout(other, codec=codec), branch=branch, vae=vae)
    assert encoded == [(9, 64, 96, 3), (17, 64, 96, 3)]
    kept = weakref.ref(vae)
    del vae
    gc.collect()
    assert kept() is None and len(branch.white) == 0, "the branch keeps a VAE alive"


# --- previews, interrupts, what is left -----------------------------------------------------------


def test_previews(kit: Kit) -> None:
    model, latent = kit.guided(kit.condition(2, 1), kit.branch())
    seen: list[tuple[int, tuple[int, ...], int]] = []
    kit.ksampler(
        model, latent, "uni_pc", steps=3,
        callback=lambda step, clean, x, total: seen.append((step, tuple(clean.shape), total)),
    )  # fmt: skip
    assert [step for step, _, _ in seen] == sorted({step for step, _, _ in seen})
    assert {shape for _, shape, _ in seen} == {(1, 48, *GRID)}


def counted(model: Any) -> tuple[Any, list[int]]:
    calls: list[int] = []

    def count(executor: Any, *args: Any, **options: Any) -> Tensor:
        calls.append(1)
        return executor(*args, **options)

    counting = model.clone()
    counting.add_wrapper_with_key("diffusion_model", "count", count)
    return counting, calls


def test_interrupt_within_one_step(kit: Kit, plain: Tensor) -> None:
    management = kit.comfy.model_management
    model, latent = kit.guided(kit.condition(2, 1), kit.branch())
    expected = kit.ksampler(model, latent)
    counting, calls = counted(model)

    def interrupt(step: int, *_: Any) -> None:
        management.interrupt_current_processing(True)

    with pytest.raises(management.InterruptProcessingException):
        kit.ksampler(counting, latent, steps=6, callback=interrupt)
    assert len(calls) == 1, "the model went on after the interrupt"
    assert torch.equal(kit.ksampler(model, latent), expected)
    assert torch.equal(kit.ksampler(kit.model, latent), plain)


def guide_of(model: Any) -> Any:
    (wrapper,) = model.get_wrappers("outer_sample", "mirage")
    return wrapper.__self__


def test_errors_leave_nothing_behind(kit: Kit, plain: Tensor) -> None:
    model, latent = kit.guided(kit.condition(2, 1), kit.branch())
    expected = kit.ksampler(model, latent)

    def fail(executor: Any, *args: Any, **options: Any) -> Tensor:
        executor(*args, **options)
        assert guide_of(model)._run.moved
        raise MemoryError

    failing = model.clone()
    failing.add_wrapper_with_key("diffusion_model", "fail", fail)
    with pytest.raises(MemoryError):
        kit.ksampler(failing, latent)
    assert guide_of(model)._run is None
    assert torch.equal(kit.ksampler(model, latent), expected)
    assert torch.equal(kit.ksampler(kit.model, latent), plain)


def test_switching_between_models(kit: Kit, plain: Tensor) -> None:
    patched, latent = kit.guided(kit.condition(4, 2), kit.branch())
    other, _ = kit.guided(kit.condition(0, 1, seed=8), kit.branch(), 0.4)
    first, second = kit.ksampler(patched, latent), kit.ksampler(other, latent)
    for _ in range(2):
        assert torch.equal(kit.ksampler(kit.model, latent), plain)
        assert torch.equal(kit.ksampler(patched.clone(), latent), first)
        assert torch.equal(kit.ksampler(other, latent), second)
    assert torch.equal(kit.ksampler(kit.model.clone(), latent), plain)
    assert not any(kit.model.wrappers.values()) and not kit.model.additional_models
    assert kit.model.object_patches == {}


def test_inputs_are_not_changed(kit: Kit) -> None:
    condition = kit.condition(2, 1)
    names = ("projection", "references", "preceding", "preceding_projection")
    before = {name: getattr(condition, name).clone() for name in names}
    model, latent = kit.guided(condition, kit.branch())
    samples = latent["samples"].clone()
    kit.ksampler(model, latent, cfg=2.0)
    assert torch.equal(latent["samples"], samples)
    assert all(torch.equal(getattr(condition, name), before[name]) for name in names)


def test_models_are_let_go(kit: Kit) -> None:
    model, latent = kit.guided(kit.condition(1, 1), kit.branch())
    kit.ksampler(model, latent)
    guide = weakref.ref(guide_of(model))
    del model
    kit.ksampler(kit.model, latent)
    gc.collect()
    assert guide() is None
