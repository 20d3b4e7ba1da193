"""Depth models of transformers, with a tiny random Depth Anything folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mirage_core.errors import ModelMismatchError, ShapeError
from mirage_core.models.depth_model import is_metric, load_depth_model
from tiny_depth import FARTHEST, write_depth_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_depth_folder(tmp_path_factory.mktemp("models") / "depth")


@pytest.fixture(scope="module")
def frames() -> Tensor:
    return torch.rand(3, 64, 96, 3, generator=torch.Generator().manual_seed(1))


def test_metric_depth(folder: Path, frames: Tensor) -> None:
    model = load_depth_model(folder)
    depth = model(frames)
    assert model.metric
    assert depth.shape == (3, 64, 96)
    assert depth.dtype == torch.float32
    assert 0 <= float(depth.min()) < float(depth.max()) <= FARTHEST
    assert float(depth.std()) > 0.01


def test_frames_do_not_influence_each_other(folder: Path, frames: Tensor) -> None:
    model = load_depth_model(folder)
    depth = model(frames)
    assert not torch.equal(depth[0], depth[1])
    for number in range(3):
        assert torch.equal(model(frames[number : number + 1])[0], depth[number])


def test_relative_depth_is_the_inverse(folder: Path, frames: Tensor) -> None:
    """What the network calls infinitely far, or nearly so, is not known."""
    raw = load_depth_model(folder, metric=True)(frames[:1])
    found = load_depth_model(folder, metric=False)(frames[:1])
    known = raw > raw.max() / 100
    assert torch.allclose(found[known], 1 / raw[known])
    assert not found[~known].any()


def test_the_folder_says_what_it_gives(folder: Path, tmp_path: Path) -> None:
    assert is_metric(folder) is True
    relative = write_depth_folder(tmp_path / "relative", "relative")
    assert load_depth_model(relative).metric is False
    config = json.loads((relative / "config.json").read_text())
    del config["depth_estimation_type"]
    (relative / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelMismatchError, match="does not say"):
        load_depth_model(relative)
    assert load_depth_model(relative, metric=True).metric


@pytest.mark.parametrize(
    "damage", ["no folder", "no config", "no weights", "cut short", "no processor", "no json"]
)
def test_damaged_folders(folder: Path, tmp_path: Path, damage: str) -> None:
    copy = tmp_path / "copy"
    if damage != "no folder":
        shutil.copytree(folder, copy)
    if damage in ("no config", "no weights", "no processor"):
        name = {"no config": "config", "no weights": "model", "no processor": "processor"}[damage]
        for path in copy.glob(f"*{name}*"):
            if damage != "no config" or path.name == "config.json":
                path.unlink()
    if damage == "cut short":
        weights = copy / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:3000])
    if damage == "no json":
        (copy / "config.json").write_text("[1, 2")
    with pytest.raises(ModelMismatchError, match="contains no depth model"):
        load_depth_model(copy)


def test_pickled_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "model.safetensors").rename(tmp_path / "copy" / "pytorch_model.bin")
    with pytest.raises(ModelMismatchError, match="safetensors"):
        load_depth_model(tmp_path / "copy")


def test_frames_of_another_shape(folder: Path) -> None:
    with pytest.raises(ShapeError, match="frames"):
        load_depth_model(folder)(torch.zeros(3, 64, 96))
