"""Mirage Apply on weights of fewer bits and on cards that are too small for all of it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from tiny_models import lora, video_model

from .sampling_kit import FRAMES, Kit, packed_operations

FP8 = torch.float8_e4m3fn
FIRST = (slice(None), slice(None), slice(0, 1))


pytestmark = [pytest.mark.samplers, pytest.mark.usefixtures("inference")]


def far(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


# --- weights of fewer bits ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16])
def test_narrow_weights(kit: Kit, dtype: torch.dtype) -> None:
    model = kit.fresh_model(dtype=dtype)
    bare = kit.ksampler(model, kit.apply(model=model, strength=0.0)[1])
    guided, latent = kit.guided(kit.condition(2, 1), kit.branch(), model=model)
    samples = kit.ksampler(guided, latent)
    assert model.model_dtype() == dtype
    assert torch.equal(samples[FIRST], latent["samples"][FIRST])
    full = kit.ksampler(*kit.guided(kit.condition(2, 1), kit.branch()))
    assert far(samples, full) < 0.5 * far(full, bare), "rounding is larger than the memory's part"


def test_weights_that_are_unpacked_in_use(kit: Kit) -> None:
    """Loaders of quantised files give layers of their own, which unpack when they run."""
    operations = packed_operations()
    model = kit.fresh_model(custom_operations=operations)
    assert model.model.diffusion_model.blocks[0].ffn[0].weight.dtype == torch.int8
    guided, latent = kit.guided(kit.condition(2, 1), kit.branch(), model=model)
    samples = kit.ksampler(guided, latent)
    full = kit.ksampler(*kit.guided(kit.condition(2, 1), kit.branch()))
    assert 0 < far(samples, full) < 0.5
    assert torch.equal(samples[FIRST], latent["samples"][FIRST])


@pytest.mark.parametrize("newer", [False, True])
def test_scaled_8_bit_files(kit: Kit, newer: bool) -> None:
    """Files whose matrices are float8 with a scale each, as they are shared for small cards."""
    own = Kit(kit.pack)
    own._model = own.fresh_model(scaled_to_8_bits(video_model(), newer))
    weight = own.model.model.diffusion_model.blocks[0].ffn[0].weight
    assert type(weight.data).__name__ == "QuantizedTensor", "it was not read as quantised"
    patched, latent = own.guided(own.condition(2, 1), own.branch())
    samples = own.ksampler(patched, latent)
    full = kit.ksampler(*kit.guided(kit.condition(2, 1), kit.branch()))
    assert torch.equal(samples[FIRST], latent["samples"][FIRST])
    assert 0 < far(samples, full) < 0.5 * far(full, own.ksampler(own.model, latent))
    (loaded, _) = own.comfy.sd.load_lora_for_models(own.apply()[0], None, lora(), 1.0, 0.0)
    found = own.ksampler(loaded, latent)
    assert far(found, own.ksampler(*own.apply())) > 1e-3
    own.close()


def scaled_to_8_bits(tensors: dict[str, Tensor], newer: bool) -> dict[str, Tensor]:
    """Attention and feed-forward matrices as float8, under the newer or the older names."""
    found: dict[str, Tensor] = {} if newer else {"scaled_fp8": torch.empty(2).to(FP8)}
    for name, tensor in tensors.items():
        found[name] = tensor
        if not re.search(r"blocks\.\d+\.(\w+_attn\.[qkvo]|ffn\.\d)\.weight", name):
            continue
        scale = tensor.abs().max() / torch.finfo(FP8).max
        found[name] = (tensor / scale).to(FP8)
        layer = name.removesuffix(".weight")
        found[f"{layer}.weight_scale" if newer else f"{layer}.scale_weight"] = scale
        if newer:
            kind = json.dumps({"format": "float8_e4m3fn"}).encode()
            found[f"{layer}.comfy_quant"] = torch.tensor(list(kind), dtype=torch.uint8)
    return found


# --- memory ---------------------------------------------------------------------------------------


def test_the_branch_is_loaded_and_unloaded_by_comfyui(kit: Kit) -> None:
    management = kit.comfy.model_management
    management.unload_all_models()
    model, latent = kit.apply()
    kit.ksampler(model, latent)
    loaded = {type(patcher.model).__name__ for patcher in management.loaded_models()}
    assert loaded == {"WAN22", "MirageSideBranch"}
    management.unload_all_models()
    assert management.loaded_models() == []
    kit.ksampler(kit.model, latent)
    loaded = {type(patcher.model).__name__ for patcher in management.loaded_models()}
    assert loaded == {"WAN22"}


def test_memory_is_asked_for_all_frames(kit: Kit) -> None:
    def asked(model: Any, latent: dict) -> int:
        shapes: list[int] = []

        def spy(executor: Any, patcher: Any, shape: Any, *args: Any, **options: Any) -> Any:
            shapes.append(shape[2])
            return executor(patcher, shape, *args, **options)

        spied = model.clone()
        spied.add_wrapper_with_key("prepare_sampling", "spy", spy)
        kit.ksampler(spied, latent, steps=1)
        return shapes[0]

    assert asked(*kit.guided(kit.condition(0, 0))) == FRAMES
    assert asked(*kit.guided(kit.condition(4, 2))) == FRAMES + 6
    assert asked(*kit.guided(kit.condition(4, 2), kit.branch())) > FRAMES + 6


def test_prompts_run_apart_when_all_frames_have_no_room(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ComfyUI decides by the memory that is free whether two prompts share a forward pass."""
    patchers = (type(kit.model), kit.comfy.model_patcher.ModelPatcher)

    def batches(model: Any, latent: dict, free: float) -> list[int]:
        sizes: list[int] = []

        def spy(executor: Any, x: Tensor, *args: Any, **options: Any) -> Tensor:
            sizes.append(len(x))
            return executor(x, *args, **options)

        spied = model.clone()
        spied.add_wrapper_with_key("diffusion_model", "spy", spy)
        with monkeypatch.context() as patch:
            for patcher in patchers:
                patch.setattr(patcher, "get_free_memory", lambda *_: free)
            kit.ksampler(spied, latent, steps=1, cfg=3.0)
        return sizes

    bare, latent = kit.apply(strength=0.0)
    two = 1.5 * kit.model.model.memory_required([2, *latent["samples"].shape[1:]])
    assert batches(bare, latent, 1.2 * two) == [2]
    beside, _ = kit.guided(kit.condition(4, 2))
    assert batches(beside, latent, 1.2 * two) == [1, 1]
    assert batches(beside, latent, 3.1 * two) == [2]
    branched, _ = kit.guided(kit.condition(4, 2), kit.branch())
    assert batches(branched, latent, 3.1 * two) == [1, 1]
    assert batches(branched, latent, 100 * two) == [2]
    assert "memory_required" not in vars(kit.model.model), "it stayed on the model"


def test_what_is_set_for_a_while_gives_way_to_what_was_there(kit: Kit) -> None:
    """Also where another node has set it before, or estimates run within estimates."""
    model, replaced = torch.nn.Identity(), kit.sampling.replaced
    with replaced(model, "forward", "first"):
        with replaced(model, "forward", "second"):
            assert model.forward == "second"
        assert model.forward == "first"
    assert "forward" not in vars(model) and callable(model.forward)


def test_weights_that_stay_offloaded(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """With too little memory ComfyUI keeps weights where they are and casts them in use."""
    management = kit.comfy.model_management
    own = Kit(kit.pack)
    own._model = kit.fresh_model(dtype=torch.bfloat16)
    patched, latent = own.guided(own.condition(2, 1), own.branch())
    expected = own.ksampler(patched, latent)
    loaded = (patched, None, lora(), 1.0, 0.0)
    resident = own.ksampler(own.comfy.sd.load_lora_for_models(*loaded)[0], latent)
    management.unload_all_models()
    monkeypatch.setattr(management, "is_device_cpu", lambda device: False)
    monkeypatch.setattr(management, "vram_state", management.VRAMState.NO_VRAM)
    samples = own.ksampler(patched, latent)
    assert {patcher.model.model_lowvram for patcher in management.loaded_models()} == {True}
    assert torch.allclose(samples, expected, atol=1e-5)
    with_lora = own.ksampler(own.comfy.sd.load_lora_for_models(*loaded)[0], latent)
    assert far(with_lora, samples) > 1e-3, "the LoRA is not in force"
    monkeypatch.undo()
    # Added to weights of 16 bits it is rounded, added in use it is not.
    assert far(with_lora, resident) < 0.2 * far(with_lora, samples)
    own.close()
