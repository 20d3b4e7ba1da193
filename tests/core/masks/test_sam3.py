"""SAM3 and Qwen3-VL of transformers, the real classes with few channels and random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mirage_core.errors import ModelMismatchError
from mirage_core.masks.sam3 import load_sam3
from tiny_depth import write_depth_folder
from tiny_tracker import ANSWER, write_namer, write_tracker

pytestmark = pytest.mark.estimators

FRAMES, HEIGHT, WIDTH = 5, 64, 96


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tracker(tmp_path_factory.mktemp("sam3"))


@pytest.fixture(scope="module")
def namer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_namer(tmp_path_factory.mktemp("qwen"))


@pytest.fixture
def frames() -> torch.Tensor:
    return torch.rand(FRAMES, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(1))


def test_names_are_tracked(tracker: Path, frames: torch.Tensor) -> None:
    found = load_sam3(tracker, names="a person, the cat")(frames, range(FRAMES))
    assert found.moving.shape == found.sky.shape == (FRAMES, HEIGHT, WIDTH)
    assert found.tracks.names and set(found.tracks.names.values()) <= {"person", "cat"}
    assert torch.equal(found.moving, found.tracks.moving) and found.moving.any()
    assert not found.tracks.lasting
    assert not (found.moving & found.sky).any()


def test_a_language_model_adds_its_names(
    tracker: Path, namer: Path, frames: torch.Tensor
) -> None:
    masks = load_sam3(tracker, names="person", language=namer)
    assert masks.namer(frames) == ANSWER
    found = masks(frames[:1], [0])
    assert set(found.tracks.names.values()) <= {"person", ANSWER}
    assert len(found) == 1


def test_equal_frames_give_equal_masks(tracker: Path, frames: torch.Tensor) -> None:
    masks = load_sam3(tracker, names="person")
    one, two = masks(frames, range(FRAMES)), masks(frames, range(FRAMES))
    assert torch.equal(one.tracks.map, two.tracks.map) and torch.equal(one.sky, two.sky)


def test_something_has_to_be_named(tracker: Path) -> None:
    with pytest.raises(ModelMismatchError, match="neither names nor a language model"):
        load_sam3(tracker, names=" , ")


def test_a_folder_of_another_model(tracker: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelMismatchError, match=r"no config\.json"):
        load_sam3(tmp_path, names="person")
    write_depth_folder(tmp_path / "depth")
    with pytest.raises(ModelMismatchError, match="facebook/sam3"):
        load_sam3(tmp_path / "depth", names="person")
    with pytest.raises(ModelMismatchError, match="Qwen3-VL"):
        load_sam3(tracker, language=tmp_path / "depth")
