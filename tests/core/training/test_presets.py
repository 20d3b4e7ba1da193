"""Settings by name are what the paper says, and options win over them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mirage_core.cli.main import make_parser
from mirage_core.cli.train import settings_of
from mirage_core.errors import ResumeError, ValueRangeError
from mirage_core.training.settings import PRESETS, SETTINGS, TrainingSettings

PAPER: dict[str, Any] = {
    "batch": 64, "beta1": 0.0, "beta2": 0.999, "weight_decay": 1e-3, "text_dropout": 0.2,
    "side_blocks": 8, "side_features": "scene,visible", "side_shared_embedding": True,
    "side_init": "copy", "lora_rank": 64, "lora_layers": "attention", "lora_dropout": 0.05,
}  # fmt: skip


def given(*words: str) -> TrainingSettings:
    settings: TrainingSettings = settings_of(make_parser().parse_args(["train", *words]))
    return settings


@pytest.mark.parametrize(
    ("name", "stage", "rate"),
    [("paper-stage-one", "branch", 1e-5), ("paper-stage-two", "joint", 1e-4)],
)
def test_the_papers_settings(name: str, stage: str, rate: float) -> None:
    found = given("--preset", name)
    assert (found.stage, found.learning_rate) == (stage, rate)
    assert {key: getattr(found, key) for key in PAPER} == PAPER
    plain = TrainingSettings()
    others = set(vars(plain)) - set(PAPER) - {"stage", "learning_rate", "preset"}
    assert {key: getattr(found, key) for key in others} == {
        key: getattr(plain, key) for key in others
    }


def test_options_win_and_the_preset_is_recorded(tmp_path: Path) -> None:
    found = given("--preset", "paper-stage-one", "--beta1", "0.9", "--steps", "3")
    assert (found.beta1, found.steps, found.learning_rate) == (0.9, 3, 1e-5)
    found.save(tmp_path)
    assert json.loads((tmp_path / SETTINGS).read_text())["preset"] == "paper-stage-one"
    again = given("--out", str(tmp_path), "--preset", "paper-stage-one")
    assert again == found == given("--out", str(tmp_path))


def test_a_run_does_not_go_on_with_another_preset(tmp_path: Path) -> None:
    given("--preset", "paper-stage-one").save(tmp_path)
    other = given("--out", str(tmp_path), "--preset", "paper-stage-two")
    assert other.learning_rate == 1e-4
    with pytest.raises(ResumeError, match="other settings"):
        other.expect_same(TrainingSettings.load(tmp_path / SETTINGS))


def test_what_presets_are_not(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        given("--preset", "best")
    assert "from-spatia" in capsys.readouterr().err
    with pytest.raises(ValueRangeError, match="paper-stage-one, paper-stage-two, from-spatia"):
        TrainingSettings(preset="best")
    path = TrainingSettings().save(tmp_path)
    with pytest.raises(ValueRangeError, match="a file or with a preset"):
        given("--settings", str(path), "--preset", "from-spatia")


@pytest.mark.parametrize("name", PRESETS[1:])
def test_every_preset_is_on_the_page(name: str) -> None:
    page = (Path(__file__).parents[3] / "docs" / "training.md").read_text(encoding="utf-8")
    assert f"--preset {name}" in page
