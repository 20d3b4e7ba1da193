"""A branch of Spatia's becomes one that reads tokens: its blocks stay, its planes are learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny_training
import tiny_weights
from mirage_core.checkpoints.branch import HEADS_KEY
from mirage_core.checkpoints.branch_file import load_branch
from mirage_core.conditioning.features import SCENE_AND_VISIBLE, SCENE_ONLY
from mirage_core.errors import ModelMismatchError
from mirage_core.tensor_files import read_tensors
from mirage_core.training.new_planes import is_plane, with_new_planes
from mirage_core.training.settings import TrainingSettings
from spatia_oracle import SpatiaOracle

pytest.importorskip("diffusers", reason="needs diffusers for the library's transformer")

from mirage_core.cli.main import main

EMBEDDING = "vace_patch_embedding.weight"
NEW = TrainingSettings(new_planes=True, side_features="scene,visible")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Spatia's tiny model and branch, under the published names, and clips to learn from."""
    folder = tmp_path_factory.mktemp("planes")
    oracle = SpatiaOracle()
    heads = {HEADS_KEY: str(oracle.settings["denoiser"]["config"]["num_heads"])}
    tiny_weights.write(folder / "wan.safetensors", oracle.group("backbone."), heads)
    tiny_weights.write(folder / "step-8500.safetensors", oracle.group("branch."), heads)
    # Every second clip has text, of another width than this model's.
    tiny_training.write_clips(folder / "clips", range(0, 16, 2))
    return folder


def train(place: Path, out: Path, *words: str) -> int:
    return main(
        [
            "train", "--preset", "from-spatia", "--out", str(out), "--data", str(place / "clips"),
            "--transformer", str(place / "wan.safetensors"), "--device", "cpu",
            "--branch", str(place / "step-8500.safetensors"), "--dtype", "float32",
            "--export-dtype", "float32", "--text-tokens", "4", "--batch", "4",
            "--validate-every", "0", "--warmup", "0", "--ema-decay", "0", *words,
        ]
    )  # fmt: skip


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> tuple[float, float]:
    """Mean step of the planes that both have, and of everything else."""
    planes, rest = [], []
    for name, own in before.items():
        if not is_plane(name):
            rest.append((after[name] - own).abs().flatten())
        elif name == EMBEDDING:
            planes.append((after[name][:, :48] - own[:, :48]).abs().flatten())
    return float(torch.cat(planes).mean()), float(torch.cat(rest).mean())


@pytest.mark.parametrize("features", ["scene", "scene,visible"])
def test_planes_are_new_and_blocks_are_not(place: Path, features: str) -> None:
    spatia = load_branch(place / "step-8500.safetensors", 8)
    found = with_new_planes(spatia, TrainingSettings(new_planes=True, side_features=features))
    assert found.config.features == (SCENE_ONLY if features == "scene" else SCENE_AND_VISIBLE)
    assert found.config.layers == spatia.config.layers
    for name, tensor in found.tensors.items():
        if not is_plane(name):
            assert tensor is spatia.tensors[name]
    planes, own = found.tensors[EMBEDDING], spatia.tensors[EMBEDDING]
    assert planes.shape[1] == found.config.in_channels
    assert torch.equal(planes[:, :48], own[:, :48]) and not planes[:, 48:].any()


@pytest.mark.training
def test_planes_learn_first_and_then_all(place: Path, tmp_path: Path) -> None:
    """The finished file is a branch that reads tokens; the rest is nearly still at first."""
    before = dict(read_tensors(place / "step-8500.safetensors"))
    steps = ["--still-steps", "4", "--checkpoint-every", "4", "--learning-rate", "1e-3"]
    steps += ["--final-rate", "1", "--rest-rate", "1", "--batch", "2"]
    assert train(place, tmp_path / "run", *steps, "--steps", "8") == 0
    files = sorted((tmp_path / "run" / "vace").iterdir())
    first, last = (dict(load_branch(path).tensors) for path in files)
    assert load_branch(files[0]).config.features == SCENE_AND_VISIBLE
    planes, rest = moved(before, first)
    assert 0 < rest < 0.03 * planes
    assert bool(first[EMBEDDING][:, 48].any()), "visibility is not learnt"
    _, later = moved(first, last)
    assert later > 2 * rest


def test_the_schedule_of_the_rest() -> None:
    settings = TrainingSettings(new_planes=True, still_steps=10, still_rate=0.02, rest_rate=0.1)
    shares = [settings.rest_share(step) for step in (0, 9, 10, 15, 20, 1000)]
    assert shares == pytest.approx([0.02, 0.02, 0.02, 0.06, 0.1, 0.1])
    assert TrainingSettings(still_steps=10).rest_share(0) == 1.0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--side-blocks", "3"], "another --side-blocks"),
        (["--stage", "lora"], "for a side branch that is trained on"),
    ],
)
def test_what_cannot_begin(
    place: Path, tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(place, tmp_path / "run", *words) == 2
    assert said in capsys.readouterr().err


def test_a_branch_is_needed(place: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["--preset", "from-spatia", "--out", str(tmp_path), "--data", str(place / "clips")]
    words += ["--transformer", str(place / "wan.safetensors"), "--device", "cpu"]
    assert main(["train", *words]) == 2
    assert "no --branch" in capsys.readouterr().err


def test_the_papers_second_stage_needs_the_papers_branch(place: Path, tmp_path: Path) -> None:
    """A preset's options are not ignored where the branch is another one."""
    from mirage_core.cli.main import make_parser
    from mirage_core.cli.train import settings_of
    from mirage_core.cli.train_parts import make_trainer

    branch = tiny_weights.branch_config()
    tiny_training.write_model(place)
    tiny_training.write_branch(place)
    words = ["--preset", "paper-stage-two", "--data", str(place / "clips"), "--device", "cpu"]
    words += ["--transformer", str(place / "model.safetensors"), "--out", str(tmp_path)]
    words += ["--branch", str(place / "branch.safetensors"), "--side-features", "scene,white"]
    words += ["--embedded-codec", "--side-blocks", str(len(branch.layers))]
    arguments = make_parser().parse_args(["train", *words])
    with pytest.raises(ModelMismatchError, match="another --side-shared-embedding"):
        make_trainer(arguments, settings_of(arguments))
