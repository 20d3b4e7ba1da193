"""Moments in 8 bits, by torchao."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mirage_core.cli.main import main
from mirage_core.errors import PackageError
from mirage_core.training.optimiser import Optimiser
from mirage_core.training.settings import TrainingSettings


def test_it_is_refused_where_torchao_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Never another one in its place, and before anything is read."""
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(PackageError, match="needs torchao.*pip install torchao"):
        Optimiser(layers(), TrainingSettings(optimiser="adamw8bit"))
    places = ["--out", str(tmp_path / "run"), "--data", str(tmp_path)]
    places += ["--transformer", str(tmp_path)]
    assert main(["train", *places, "--optimiser", "adamw8bit"]) == 2
    assert "pip install torchao" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.fixture
def plain_torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchao without its compiling, which takes minutes and changes no number by much."""
    pytest.importorskip("torchao", reason="needs torchao")
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


def layers() -> dict[str, nn.Parameter]:
    torch.manual_seed(2)
    return {
        "blocks.0.weight": nn.Parameter(torch.randn(64, 128) / 8),
        "blocks.0.bias": nn.Parameter(torch.randn(64) / 8),
    }


def steps(optimiser: Any, parameters: dict[str, nn.Parameter], numbers: range) -> None:
    for number in numbers:
        rng = torch.Generator().manual_seed(number)
        for parameter in parameters.values():
            parameter.grad = torch.randn(parameter.shape, generator=rng)
        optimiser.step(number)


@pytest.mark.usefixtures("plain_torchao")
def test_it_steps_like_the_one_in_32_bits() -> None:
    found = []
    for name in ("adamw", "adamw8bit"):
        settings = TrainingSettings(optimiser=name, warmup=1, learning_rate=1e-2)
        parameters = layers()
        optimiser = Optimiser(parameters, settings)
        steps(optimiser, parameters, range(6))
        found.append({key: p.detach() - layers()[key].detach() for key, p in parameters.items()})
        moments = dict(optimiser.tensors())
        assert set(moments) == {f"{m}.{k}" for m in ("exp_avg", "exp_avg_sq") for k in parameters}
        assert all(m.dtype == torch.float32 and type(m) is torch.Tensor for m in moments.values())
    exact, coarse = found
    # Small vectors stay in 32 bits.
    torch.testing.assert_close(coarse["blocks.0.bias"], exact["blocks.0.bias"])
    moved, other = exact["blocks.0.weight"], coarse["blocks.0.weight"]
    assert not torch.equal(moved, other)
    assert float((moved - other).norm() / moved.norm()) < 0.1


@pytest.mark.usefixtures("plain_torchao")
def test_moments_take_a_quarter() -> None:
    settings = TrainingSettings(optimiser="adamw8bit", warmup=1)
    parameters = layers()
    optimiser = Optimiser(parameters, settings)
    steps(optimiser, parameters, range(1))
    state = optimiser._adam.state[parameters["blocks.0.weight"]]
    for moment in ("exp_avg", "exp_avg_sq"):
        held = state[moment]
        # One byte each, and a factor of four bytes for 256 of them.
        assert held.codes.numel() + 4 * held.scale.numel() == 64 * 128 * (1 + 4 / 256)


@pytest.mark.usefixtures("plain_torchao")
def test_it_goes_on_where_it_was() -> None:
    """Moments are rounded once more on the way, and nothing else changes."""
    settings = TrainingSettings(optimiser="adamw8bit", warmup=1, learning_rate=1e-2)
    straight = layers()
    whole = Optimiser(straight, settings)
    steps(whole, straight, range(3))
    saved = {name: tensor.clone() for name, tensor in whole.tensors()}
    broken = {name: nn.Parameter(p.detach().clone()) for name, p in straight.items()}
    again = Optimiser(broken, settings)
    again.load(saved, 3)
    for name, parameter in broken.items():
        assert torch.equal(parameter, straight[name])
    for name, tensor in again.tensors():
        assert float((tensor - saved[name]).norm() / saved[name].norm()) < 0.01, name
    steps(whole, straight, range(3, 6))
    steps(again, broken, range(3, 6))
    straight, broken = (
        {name: p.detach() for name, p in found.items()} for found in (straight, broken)
    )
    moved = straight["blocks.0.weight"] - layers()["blocks.0.weight"]
    apart = broken["blocks.0.weight"] - straight["blocks.0.weight"]
    assert float(apart.norm() / moved.norm()) < 0.01
    assert torch.equal(broken["blocks.0.bias"], straight["blocks.0.bias"])


class TensorRates(torch.optim.AdamW):
    """AdamW that keeps its rates as tensors, as torchao's does."""

    def __init__(self, groups: Any, lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, lr=lr, betas=betas)
        for group in self.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]))


@pytest.fixture(params=["stand_in", "torchao"])
def narrow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """torchao, or its place taken by moments in 32 bits; how far apart resuming may end."""
    if request.param == "torchao":
        request.getfixturevalue("plain_torchao")
        return 0.01
    package, optim = types.ModuleType("torchao"), types.ModuleType("torchao.optim")
    package.__spec__ = importlib.machinery.ModuleSpec("torchao", None)
    optim.AdamW8bit = TensorRates
    monkeypatch.setitem(sys.modules, "torchao", package)
    monkeypatch.setitem(sys.modules, "torchao.optim", optim)
    return 0.0


def test_new_planes_keep_their_own_rate_over_a_break(narrow: float) -> None:
    """The planes at the whole rate and the rest nearly still, before and after the break, which
    falls into the steps in which the rest is still."""
    settings = TrainingSettings(
        optimiser="adamw8bit", warmup=1, learning_rate=1e-2, new_planes=True, still_steps=5,
        still_rate=0.01, steps=100,
    )  # fmt: skip
    names = ("vace_patch_embedding.weight", "blocks.0.weight")
    start = {name: layers()["blocks.0.weight"].detach() for name in names}

    def begin() -> dict[str, nn.Parameter]:
        return {name: nn.Parameter(tensor.clone()) for name, tensor in start.items()}

    straight, broken = begin(), begin()
    whole, before = Optimiser(straight, settings), Optimiser(broken, settings)
    steps(whole, straight, range(4))
    steps(before, broken, range(2))
    saved = {name: tensor.clone() for name, tensor in before.tensors()}
    again = Optimiser(broken, settings)
    again.load(saved, 2)
    steps(again, broken, range(2, 4))
    for name, parameter in straight.items():
        moved = parameter.detach() - start[name]
        apart = broken[name].detach() - parameter.detach()
        assert float(apart.norm() / moved.norm()) <= narrow, name
    plane, rest = (float((straight[name].detach() - start[name]).norm()) for name in start)
    # Weight decay of the same rate moves the rest as well, by a thousandth of it.
    assert rest < 0.02 * plane
