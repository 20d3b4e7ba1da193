"""A run as a folder for a hub of models."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers", reason="needs diffusers for the library's transformer")

import tiny_training
from mirage_core.checkpoints.branch_file import load_branch
from mirage_core.cli.main import main
from mirage_core.training.settings import TrainingSettings

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("export")
    tiny_training.write_clips(place / "clips", range(8))
    tiny_training.write_model(place)
    settings = tiny_training.SETTINGS | {
        "stage": "single", "steps": 4, "checkpoint_every": 2, "validate_every": 4,
        "validation_clips": 2, "validation_scenes": 1, "validation_frames": 5,
        "validation_size": "64x64", "validation_steps": 1,
    }  # fmt: skip
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    places = ["--data", str(place / "clips"), "--held-out", str(place / "clips")]
    model = ["--transformer", str(place / "model.safetensors"), "--embedded-codec"]
    command = ["train", "--device=cpu", "--out", str(place / "run"), *places, *model, *flags]
    assert main(command) == 0
    return place / "run"


def test_the_folder_has_files_settings_and_a_card(run: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "hub"
    assert main(["export", str(run), "--out", str(out), "--license", "apache-2.0"]) == 0
    names = {
        "README.md", "settings.json", "validation.mp4", "mirage_branch.safetensors",
        "mirage_lora.safetensors", "mirage_lora_comfyui.safetensors",
    }  # fmt: skip
    assert {path.name for path in out.iterdir()} == names
    assert {Path(line).name for line in capsys.readouterr().out.splitlines()} == names
    same = (run / "vace" / "step_0000004_vace.safetensors").read_bytes()
    assert (out / "mirage_branch.safetensors").read_bytes() == same
    assert load_branch(out / "mirage_branch.safetensors", 4).config.layers
    lora = load_file(out / "mirage_lora_comfyui.safetensors")
    assert all(name.startswith("diffusion_model.") for name in lora)
    assert TrainingSettings.load(out / "settings.json") == TrainingSettings.load(
        run / "settings.json"
    )
    card = (out / "README.md").read_text("utf-8")
    head = re.match(r"---\n(.*?)---\n", card, re.DOTALL)[1]
    assert "license: apache-2.0\n" in head
    assert "base_model" not in head
    assert "Weights for a small model of 24 channels, `model.safetensors`:" in card
    assert "| clips | 8 |" in card and "| learning_rate | 0.01 |" in card
    (value,) = re.findall(r"\| held_out/loss \| ([\d.]+) \| 4 \|", card)
    assert 0.5 < float(value) < 10
    assert "closed_loop/closed" in card and "mean of the last 4 steps" in card
    # Nothing says where anything lies on this machine.
    assert str(run.parent) not in card + (out / "settings.json").read_text()


def test_another_step(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "hub"
    assert main(["export", str(run), "--out", str(out), "--license", "mit", "--step", "2"]) == 0
    card = (out / "README.md").read_text("utf-8")
    assert "after 2 steps" in card and "mean of the last 2 steps" in card
    assert re.search(r"\| held_out/loss \| [\d.]+ \| 0 \|", card)
    same = (run / "vace" / "step_0000002_vace.safetensors").read_bytes()
    assert (out / "mirage_branch.safetensors").read_bytes() == same


def test_what_cannot_be_exported(run: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "hub"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "bare").mkdir()
    gone = tmp_path / "gone"
    gone.mkdir()
    for name in ("vace", "logs"):
        (gone / name).symlink_to(run / name)
    (gone / "settings.json").write_text((run / "settings.json").read_text())
    (gone / "run.toml").write_text(f"data = {json.dumps(str(tmp_path / 'nowhere'))}")
    for arguments, message in (
        ([str(run), "--out", str(tmp_path / "full")], "not empty"),
        ([str(tmp_path / "bare"), "--out", str(out)], "no finished weights"),
        ([str(run), "--out", str(out), "--step", "3"], "no finished weights of step 3"),
        ([str(gone), "--out", str(out)], "Say with --data"),
    ):
        assert main(["export", *arguments, "--license", "mit"]) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()
    with pytest.raises(SystemExit):
        main(["export", str(run), "--out", str(out)])
    clips = ["--data", str(run.parent / "clips")]
    assert main(["export", str(gone), "--out", str(out), "--license", "mit", *clips]) == 0


@pytest.mark.parametrize("text", ["steps = 4", "data = 3", None])
def test_a_run_whose_file_does_not_name_the_clips(
    run: Path, tmp_path: Path, capsys, text: str | None
) -> None:
    """It was edited by hand, or the run was made before runs had one."""
    again, out = tmp_path / "run", tmp_path / "hub"
    shutil.copytree(run, again)
    (again / "run.toml").unlink()
    # What stands beside the weights does not count.
    (again / "vace" / "step_best_vace.safetensors").write_bytes(b"mine")
    if text is not None:
        (again / "run.toml").write_text(text)
    command = ["export", str(again), "--out", str(out), "--license", "mit"]
    assert main(command) == 2
    assert "Say with --data" in capsys.readouterr().err
    assert main([*command, "--data", str(run.parent / "clips")]) == 0
    card = (out / "README.md").read_text("utf-8")
    assert "Weights for a small model of 24 channels:" in card and "Wan-AI" not in card


def test_a_small_model_that_was_trained_on_is_not_the_large_one(tmp_path: Path) -> None:
    """Its second run begins from a file, as one from the large model's weights does."""
    tiny_training.write_clips(tmp_path / "clips", range(4))
    tiny_training.write_model(tmp_path)
    settings = tiny_training.SETTINGS | {"stage": "full", "steps": 1}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    places = ["--data", str(tmp_path / "clips"), "--transformer"]
    places += [str(tmp_path / "model.safetensors"), "--out", str(tmp_path / "run")]
    assert main(["train", "--device=cpu", *places, *flags]) == 0
    words = ["export", str(tmp_path / "run"), "--license", "mit", "--out", str(tmp_path / "hub")]
    assert main(words) == 0
    assert "base_model" not in (tmp_path / "hub" / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("kind", "name", "shape"),
    [
        ("vace", "vace_blocks.0.after_proj.weight", (3072, 1)),
        ("lora", "pipe.dit.blocks.0.self_attn.q.lora_A.weight", (1, 3072)),
        ("model", "patch_embedding.weight", (3072, 1, 1, 1, 1)),
    ],
)
def test_weights_as_wide_as_the_large_model_are_for_it(
    run: Path, tmp_path: Path, kind: str, name: str, shape: tuple[int, ...]
) -> None:
    """What each kind of file tells alone."""
    wide, out = tmp_path / "run", tmp_path / "hub"
    (wide / kind).mkdir(parents=True)
    for part in ("settings.json", "run.toml"):
        shutil.copy(run / part, wide / part)
    (wide / "logs").symlink_to(run / "logs")
    save_file({name: torch.zeros(shape)}, wide / kind / f"step_0000004_{kind}.safetensors")
    assert main(["export", str(wide), "--out", str(out), "--license", "mit"]) == 0
    card = (out / "README.md").read_text("utf-8")
    assert "base_model: Wan-AI/Wan2.2-TI2V-5B\n" in card
    assert "Weights for Wan-AI/Wan2.2-TI2V-5B:" in card
