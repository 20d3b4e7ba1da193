"""The optimiser, where torch lacks one of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mirage_core.cli.main import main
from mirage_core.errors import ValueRangeError
from mirage_core.training.settings import TrainingSettings

TOO_OLD = r"muon needs a newer torch.*Got: torch .*Expected: torch 2\.9 or newer.*adamw"


@pytest.fixture
def torch_without_muon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")


@pytest.mark.usefixtures("torch_without_muon")
def test_muon_is_refused_where_torch_has_none() -> None:
    with pytest.raises(ValueRangeError, match=TOO_OLD):
        TrainingSettings(optimiser="muon")
    assert TrainingSettings().optimiser == "adamw"


@pytest.mark.usefixtures("torch_without_muon")
def test_the_command_line_refuses_it_before_it_reads_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even the paths are looked at: they may stand for many gigabytes."""
    out, missing = tmp_path / "run", str(tmp_path / "missing")
    places = ["--out", str(out), "--data", missing, "--transformer", missing]
    assert main(["train", *places, "--optimiser", "muon"]) == 2
    said = capsys.readouterr().err
    assert "The optimiser muon needs a newer torch" in said
    assert 'pip install --upgrade "torch>=2.9"' in said
    assert not out.exists()


def test_muon_is_taken_where_torch_has_it() -> None:
    assert TrainingSettings(optimiser="muon").optimiser == "muon"
