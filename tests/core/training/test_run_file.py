"""What stands in a run's folder, beside presets, files of settings and older versions."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers", reason="needs diffusers for the library's transformer")

import tiny_training
import tiny_weights
from mirage_core.checkpoints.branch import HEADS_KEY
from mirage_core.cli.main import main
from mirage_core.training.checkpoint import load_state
from mirage_core.training.settings import TrainingSettings
from mirage_core.training.stop import StopFlag
from spatia_oracle import SpatiaOracle

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run file") / "Läufe"
    tiny_training.write_clips(folder / "clips", range(8))
    tiny_training.write_model(folder)
    tiny_training.write_branch(folder)
    return folder


def options(place: Path, **changes: Any) -> dict[str, Any]:
    return tiny_training.SETTINGS | {
        "steps": 2, "device": "cpu", "data": str(place / "clips"),
        "transformer": str(place / "model.safetensors"), **changes,
    }  # fmt: skip


def train(out: Path, *words: str, **values: Any) -> int:
    flags = [f"--{name.replace('_', '-')}={v}" for name, v in values.items() if v is not None]
    return main(["train", "--out", str(out), *words, *flags])


def kept(out: Path) -> TrainingSettings:
    return TrainingSettings.load(out / "settings.json")


def test_a_file_of_settings_counts_where_a_run_goes_on(
    place: Path, tmp_path: Path, capsys: Any
) -> None:
    """The run's own file holds all settings as well; they must not hide those asked for."""
    out, file = tmp_path / "run", tmp_path / "other.json"
    assert train(out, **options(place)) == 0
    own = json.loads((out / "settings.json").read_text())
    file.write_text(json.dumps(own | {"steps": 3}))
    assert train(out, "--settings", str(file)) == 0
    assert load_state(out).step == kept(out).steps == 3
    file.write_text(json.dumps(own | {"steps": 3, "learning_rate": 0.5}))
    capsys.readouterr()
    assert train(out, "--settings", str(file)) == 2
    assert "learning_rate 0.5 instead of 0.01" in capsys.readouterr().err


def test_a_preset_is_more_than_its_name(place: Path, tmp_path: Path, capsys: Any) -> None:
    """A run that died before its first checkpoint is begun again with a preset."""
    out = tmp_path / "run"
    assert train(out, **options(place)) == 0
    assert train(out, "--preset", "paper-stage-one") == 2
    assert "The run was started with other settings" in capsys.readouterr().err
    shutil.rmtree(out / "state")
    words = ["--preset", "paper-stage-one", "--side-blocks", "3", "--text-tokens", "4"]
    assert train(out, *words, steps=1, batch=2, dtype="float32", validate_every=0) == 0
    found = kept(out)
    assert (found.preset, found.learning_rate, found.beta1) == ("paper-stage-one", 1e-5, 0.0)
    assert found.side_shared_embedding and found.side_blocks == 3


def test_a_run_of_an_earlier_version_goes_on(place: Path, tmp_path: Path, capsys: Any) -> None:
    """Its settings named the defaults of a new branch where the branch was a given one."""
    out = tmp_path / "run"
    command = options(place, stage="joint", branch=place / "branch.safetensors", side_blocks=None)
    assert train(out, "--embedded-codec", **command) == 0
    own = json.loads((out / "settings.json").read_text())
    for name in ("preset", "new_planes", "still_steps", "still_rate", "rest_rate", "wandb"):
        del own[name]
    own |= {"version": 1, "side_blocks": TrainingSettings().side_blocks}
    assert kept(out).side_blocks != own["side_blocks"]
    (out / "settings.json").write_text(json.dumps(own))
    (out / "run.toml").unlink()
    assert train(out, "--embedded-codec", **command | {"steps": 3}) == 0
    assert load_state(out).step == 3
    # What is recorded now is the branch's own, and is compared again.
    own = json.loads((out / "settings.json").read_text())
    (out / "settings.json").write_text(json.dumps(own | {"side_features": "scene,holes"}))
    capsys.readouterr()
    assert train(out, "--steps=4") == 2
    assert "instead of 'scene,holes'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("random_subset = false", "random_subset = false"),
        ("nonsense = false", "nonsense = false"),
        ("vae = false", "vae = false"),
        ("clip = 2.0", "clip = 2.0"),
        ("run = 'x'", "--run=x"),
    ],
)
def test_names_in_a_file_are_whole(tmp_path: Path, line: str, message: str, capsys: Any) -> None:
    """A misspelt switch would be left on without a word."""
    pytest.importorskip("tomlkit")
    file = tmp_path / "my.toml"
    file.write_text(line)
    assert train(tmp_path / "none", "--config", str(file)) == 2
    said = capsys.readouterr().err
    assert "says what mirage train does not take" in said and message in said
    assert not (tmp_path / "none").exists()


def test_a_file_from_an_editor_that_marks_utf8(place: Path, tmp_path: Path) -> None:
    tomlkit = pytest.importorskip("tomlkit")
    file = tmp_path / "Läufe.toml"
    file.write_text(tomlkit.dumps(options(place, embedded_codec=False)), encoding="utf-8-sig")
    assert train(tmp_path / "run", "--config", str(file)) == 0


def test_a_finished_run_says_so(place: Path, tmp_path: Path, capsys: Any) -> None:
    assert train(tmp_path / "run", **options(place)) == 0
    capsys.readouterr()
    assert train(tmp_path / "run") == 0
    assert "All 2 steps are done; --steps makes the run longer." in capsys.readouterr().err


def test_a_stop_before_the_first_step(
    place: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal during the validation before it: nothing is saved, and nothing is said to be."""
    asked = StopFlag.check

    def check(self: StopFlag) -> None:
        self.request(signal.SIGTERM)
        asked(self)

    monkeypatch.setattr(StopFlag, "check", check)
    words = ["--held-out", str(place / "clips")]
    assert train(tmp_path / "run", *words, **options(place, validate_every=2)) == 143
    assert "Stopped at the beginning. " in capsys.readouterr().err
    assert load_state(tmp_path / "run") is None
    monkeypatch.undo()
    assert train(tmp_path / "run") == 0
    assert load_state(tmp_path / "run").step == 2


def test_the_file_of_a_run_keeps_new_planes(place: Path, tmp_path: Path) -> None:
    """They are not those of the given branch, so its file does not say them."""
    oracle = SpatiaOracle()
    heads = {HEADS_KEY: str(oracle.settings["denoiser"]["config"]["num_heads"])}
    tiny_weights.write(tmp_path / "wan.safetensors", oracle.group("backbone."), heads)
    tiny_weights.write(tmp_path / "spatia.safetensors", oracle.group("branch."), heads)
    tiny_training.write_clips(tmp_path / "clips", range(0, 8, 2))
    file = tmp_path / "begin.json"
    file.write_text(json.dumps({"new_planes": True, "side_features": "scene"}))
    command = options(tmp_path, branch=tmp_path / "spatia.safetensors", side_blocks=None)
    del command["transformer"]
    command |= {"transformer": tmp_path / "wan.safetensors", "frozen_dtype": "float8"}
    assert train(tmp_path / "one", "--settings", str(file), **command) == 0
    assert train(tmp_path / "two", "--config", str(tmp_path / "one" / "run.toml")) == 0
    assert kept(tmp_path / "two") == kept(tmp_path / "one")
    assert kept(tmp_path / "two").side_features == "scene"
