"""Compiled blocks compute what plain ones do."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

import tiny_training
from mirage_core.models.load import load_transformer
from mirage_core.training.settings import TrainingSettings
from mirage_core.training.trainer import Trainer, TrainingData


@pytest.mark.training
@pytest.mark.compiler
def test_a_compiled_run_is_the_plain_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With frozen weights in 8 bits, and blocks that are computed again.

    Traced as for any backend, and run by torch itself: what a backend makes of it is its own
    affair, and takes minutes.
    """
    traced: list[object] = []

    def compile_plainly(function: object) -> object:
        traced.append(function)
        return torch_compile(function, backend="eager")

    torch_compile = partial(torch.compile)
    monkeypatch.setattr(torch, "compile", compile_plainly)
    tiny_training.write_clips(tmp_path / "clips", range(10))
    tiny_training.write_model(tmp_path)
    found: list[list[float]] = []
    for compiled in (False, True):
        settings = TrainingSettings(
            **tiny_training.SETTINGS
            | {
                "steps": 2, "references": 0, "preceding": 0, "frozen_dtype": "float8",
                "compile": compiled,
            }
        )  # fmt: skip
        model = load_transformer(tmp_path / "model.safetensors", dtype=torch.float32)
        data = TrainingData(tmp_path / "clips", torch.zeros(1, 16))
        trainer = Trainer(model, settings, data, tmp_path / f"run-{compiled}")
        losses: list[float] = []
        trainer.run(lambda report, losses=losses: losses.append(report.values["loss"]))
        found.append(losses)
        blocks = len(model.blocks) + len(model.vace_blocks)
        assert len(traced) == (blocks if compiled else 0)
    assert found[1] == pytest.approx(found[0], abs=1e-4)
