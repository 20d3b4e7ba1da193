"""What `mirage train` and its page say of themselves."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers", reason="needs diffusers for the library's transformer")

import tiny_training
from mirage_core.cli.main import main
from mirage_core.codecs.dct import DctCodec
from mirage_core.errors import ShapeError
from mirage_core.models.bundled import empty_text
from mirage_core.training.setting_texts import setting_texts
from mirage_core.training.settings import CHOICES, TrainingSettings
from mirage_core.training.trainer import TrainingData
from mirage_core.training.validation import LoopTest

ROOT = Path(__file__).resolve().parents[3]


def help_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    return capsys.readouterr().out


def test_every_setting_has_choices_and_a_meaning(capsys, monkeypatch) -> None:
    said = help_text(capsys, monkeypatch)
    texts = setting_texts()
    for field in dataclasses.fields(TrainingSettings):
        option = f"--{field.name.replace('_', '-')}"
        (entry,) = re.findall(rf"\n  {option}[ ,][^\n]*(?:\n {{6,}}[^\n]*)*", said)
        assert texts[field.name].rstrip(".") in entry, option
        assert "(default: " in entry, option
        for choice in CHOICES.get(field.name, ()):
            assert choice in entry.partition("}")[0], option
    assert "None" not in said and "`" not in said.partition("settings:")[2]


def test_a_choice_that_is_none_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--stage", "first"])
    assert "invalid choice: 'first'" in capsys.readouterr().err


def test_the_readme_leads_here() -> None:
    page = (ROOT / "README.md").read_text("utf-8")
    for name in ("library", "data", "training"):
        assert f"[docs/{name}.md](docs/{name}.md)" in page.partition("## More")[2]


@pytest.mark.training
def test_the_pages_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """As it stands but for the numbers of steps and clips."""
    page = (ROOT / "docs" / "training.md").read_text("utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    short = "steps=2, warmup=1, text_tokens=4, side_blocks=2, batch=2, dtype='float32'"
    program, count = re.subn(r"steps=1000, batch=8", short, program)
    assert count == 1
    tiny_training.write_clips(tmp_path / "clips", range(6))
    tiny_training.write_model(tmp_path).rename(tmp_path / "wan.safetensors")
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "docs/training.md", "exec"), {})  # noqa: S102
    assert (tmp_path / "run" / "vace" / "step_0000002_vace.safetensors").exists()
    assert capsys.readouterr().out.count("loss") == 2


def test_an_empty_text_has_one_shape_everywhere() -> None:
    """What the shipped model takes is what training takes; other shapes are told."""
    text = empty_text()
    settings = TrainingSettings(**tiny_training.SETTINGS)
    assert TrainingData(Path("clips"), text).empty_text.shape == text.shape[1:]
    assert LoopTest(DctCodec(), text, settings, torch.device("cpu")).text.shape == text.shape[1:]
    assert TrainingData(Path("clips"), text[0]).empty_text.shape == text.shape[1:]
    for wrong in (torch.zeros(4096), torch.zeros(2, 1, 4096)):
        with pytest.raises(ShapeError, match="The empty text"):
            TrainingData(Path("clips"), wrong)
