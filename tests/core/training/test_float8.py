"""Frozen weights in 8 bits: what they are, what they cost, and that training works with them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import tiny_training
from mirage_core.errors import ModelMismatchError, ValueRangeError
from mirage_core.models.load import load_transformer
from mirage_core.training.float8 import Float8Linear, narrowed, widened
from mirage_core.training.memory_estimate import plan_memory
from mirage_core.training.settings import TrainingSettings
from mirage_core.training.stages import prepare_model
from mirage_core.training.trainer import Trainer, TrainingData

SETTINGS = TrainingSettings(
    **tiny_training.SETTINGS | {"stage": "single", "frozen_dtype": "float8", "steps": 4}
)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("float8")
    tiny_training.write_clips(folder / "clips", range(10))
    tiny_training.write_model(folder)
    return folder


def model(place: Path) -> Any:
    return load_transformer(place / "model.safetensors", dtype=torch.float32)


def test_rows_are_stored_as_finely_as_eight_bits_can() -> None:
    """Three bits behind the leading one: a relative error of at most a sixteenth, in every row."""
    rng = torch.Generator().manual_seed(0)
    rows = torch.tensor([1e-6, 0.02, 1.0, 447.0, 449.0, 1e4, 0.0])[:, None]
    weight = rows * (0.25 + 0.75 * torch.rand(7, 64, generator=rng))
    stored, scale = narrowed(weight)
    assert stored.dtype == torch.float8_e4m3fn and scale.shape == (7, 1)
    assert torch.equal(scale.log2(), scale.log2().round())
    back = widened(stored, scale, torch.float32)
    assert torch.allclose(back, weight, rtol=1 / 16, atol=0)
    # Widened numbers are exact in bfloat16 too.
    assert torch.equal(widened(stored, scale, torch.bfloat16).float(), back)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_is_the_plain_one_with_rounded_weights(dtype: torch.dtype) -> None:
    """To the bit, forwards and backwards, and without a widened copy in between."""
    torch.manual_seed(1)
    linear = nn.Linear(24, 40).to(dtype).requires_grad_(False)
    plain = nn.Linear(24, 40).to(dtype).requires_grad_(False)
    plain.bias.copy_(linear.bias)
    layer = Float8Linear(linear, dtype)
    plain.weight.copy_(widened(layer.weight, layer.scale, dtype))
    inputs = torch.randn(5, 3, 24, dtype=dtype, requires_grad=True)
    again = inputs.detach().clone().requires_grad_()
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor
    ):
        found = layer(inputs)
    expected = functional.linear(again, plain.weight, plain.bias)
    assert torch.equal(found, expected)
    assert sum(t.numel() * t.element_size() for t in kept) == 24 * 40 + 40 * 4
    gradient = torch.randn_like(found)
    found.backward(gradient)
    expected.backward(gradient)
    assert torch.equal(inputs.grad, again.grad)


def test_only_frozen_matrices_of_blocks_are_stored_so(place: Path) -> None:
    small, plain = model(place), model(place)
    prepare_model(small, replace(SETTINGS, dtype="bfloat16"))
    prepare_model(plain, replace(SETTINGS, frozen_dtype="dtype"))
    matrices = {name for name, p in small.named_parameters() if p.dtype == torch.float8_e4m3fn}
    expected = {
        f"{name}.weight" for name, layer in plain.named_modules()
        if isinstance(layer, nn.Linear) and name.startswith("blocks.") and "lora" not in name
    }  # fmt: skip
    assert matrices == expected and len(expected) > 20
    trained = {name for name, p in small.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in plain.named_parameters() if p.requires_grad}


@pytest.mark.training
@pytest.mark.parametrize("stage", ["branch", "single"])
def test_a_run_learns_goes_on_and_is_planned(place: Path, tmp_path: Path, stage: str) -> None:
    settings = replace(SETTINGS, stage=stage)
    data = TrainingData(place / "clips", torch.zeros(1, 16))
    losses: list[float] = []
    begun = Trainer(model(place), settings, data, tmp_path / "run")
    held = sum(p.numel() * p.element_size() for p in begun.model.parameters())
    begun.run(lambda report: losses.append(report.values["loss"]))
    plain = Trainer(model(place), replace(settings, frozen_dtype="dtype"), data, tmp_path / "plain")
    exact: list[float] = []
    plain.run(lambda report: exact.append(report.values["loss"]))
    assert losses != exact
    assert losses == pytest.approx(exact, rel=0.1)
    plan = plan_memory(model(place), settings, 1, (96, 64))
    other = plan_memory(model(place), replace(settings, frozen_dtype="dtype"), 1, (96, 64))
    assert plan.weights == held
    # Matrices of the blocks are a quarter of float32, and their factors are a row each.
    assert plan.weights < 0.85 * other.weights
    # It goes on to the same bits.
    shutil.rmtree(tmp_path / "run" / "state" / "step_0000004")
    longer = replace(settings, checkpoint_every=2)
    straight = Trainer(model(place), longer, data, tmp_path / "straight")
    straight.run()
    shutil.rmtree(tmp_path / "straight" / "state" / "step_0000004")
    again = Trainer(model(place), longer, data, tmp_path / "straight")
    assert again.step == 2
    again.run()
    for name, parameter in again.parameters.items():
        assert torch.equal(parameter, straight.parameters[name]), name


def test_what_cannot_be_stored_so(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueRangeError, match="Nothing is frozen"):
        replace(SETTINGS, stage="full")
    data = TrainingData(place / "clips", torch.zeros(1, 16))
    Trainer(model(place), SETTINGS, data, tmp_path).run()
    other = model(place)
    with torch.no_grad():
        other.blocks[0].ffn.net[2].weight *= 2
    with pytest.raises(ModelMismatchError, match="begun with another model"):
        Trainer(other, SETTINGS, data, tmp_path)
