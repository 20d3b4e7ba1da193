"""Mirage Scene Models and Mirage Look with ComfyUI's own depth models, tiny ones."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tiny_moge import write_moge

from .test_native_estimators import write_da3

pytestmark = pytest.mark.estimators

HEIGHT, WIDTH = 64, 96
SETTINGS = {
    "depth": "auto", "moving_things": False, "names": "", "moge_file": "auto",
    "depth_anything_file": "auto", "language_model": "auto", "segmenter": "auto", "most": 8,
}  # fmt: skip


def module(pack: ModuleType, name: str) -> ModuleType:
    return importlib.import_module(f"{pack.__name__}.{name}")


@pytest.fixture(scope="module")
def estimators(pack: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of geometry estimators with MoGe and Depth Anything 3 in it."""
    import folder_paths

    folder = tmp_path_factory.mktemp("geometry_estimation")
    write_moge(folder / "a_moge.safetensors")
    write_da3(folder / "b_da3.safetensors", "mono")
    paths, kinds = folder_paths.folder_names_and_paths["geometry_estimation"]
    folder_paths.folder_names_and_paths["geometry_estimation"] = ([str(folder)], kinds)
    yield folder
    folder_paths.folder_names_and_paths["geometry_estimation"] = (paths, kinds)


@pytest.fixture
def picture() -> torch.Tensor:
    return torch.rand(1, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(0))


def geometry_of(pack: ModuleType) -> Any:
    """A wall with some sky above it."""
    lens = torch.tensor([[[80.0, 0, 48], [0, 80, 32], [0, 0, 1]]], dtype=torch.float64)
    exclude = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    exclude[:, :8] = True
    kind = module(pack, "mirage_core.geometry.frame_geometry").FrameGeometry
    return kind(torch.ones(1, HEIGHT, WIDTH), lens, exclude=exclude)


def load(pack: ModuleType, **changes: Any) -> Any:
    nodes = module(pack, "nodes.scene_models")
    return nodes.MirageSceneModels.execute(**SETTINGS | changes).result[0]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "b_da3.safetensors"),
        ({"depth": "MoGe"}, "a_moge.safetensors"),
        ({"depth": "Depth Anything 3"}, "b_da3.safetensors"),
        ({"moge_file": "a_moge.safetensors"}, "b_da3.safetensors"),
        ({"depth": "MoGe", "moge_file": "gone.safetensors"}, "a_moge.safetensors"),
    ],
)
def test_which_depth_model_is_taken(
    pack: ModuleType, estimators: Path, changes: dict[str, str], name: str
) -> None:
    model, _ = load(pack, **changes).depth
    assert model.name == name


def test_moge_is_taken_where_there_is_no_depth_anything(
    pack: ModuleType, estimators: Path, tmp_path: Path
) -> None:
    hidden = (estimators / "b_da3.safetensors").rename(tmp_path / "b_da3.safetensors")
    try:
        assert load(pack).depth[0].name == "a_moge.safetensors"
        error = module(pack, "mirage_core.errors").ModelMismatchError
        with pytest.raises(error, match="no Depth Anything 3 in models"):
            load(pack, depth="Depth Anything 3")
    finally:
        hidden.rename(estimators / "b_da3.safetensors")


def test_a_file_of_the_other_kind_is_refused(pack: ModuleType, estimators: Path) -> None:
    error = module(pack, "mirage_core.errors").ModelMismatchError
    with pytest.raises(error, match="another depth model than it is chosen for"):
        load(pack, depth_anything_file="a_moge.safetensors")


def test_no_depth_model_is_none_until_somebody_looks(
    pack: ModuleType, estimators: Path, picture: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = load(pack, depth="none")
    assert models.depth is None and models.moving is None
    nodes = module(pack, "nodes.scene_models")
    error = module(pack, "mirage_core.errors").ModelMismatchError
    with pytest.raises(error, match="no depth model to look"):
        nodes.MirageLook.execute(picture, 0.0, models)
    asked = []
    monkeypatch.setattr(nodes, "estimate", lambda *given: asked.append(given) or geometry_of(pack))
    nodes.MirageLook.execute(picture, 0.0, models, "of Load MoGe Model", resolution_level=3)
    ((model, network, _, fov, level),) = asked
    assert (model.kind.value, network, fov, level) == ("MoGe", "of Load MoGe Model", 0.0, 3)


def test_depth_anything_is_told_the_lens_or_takes_one(
    pack: ModuleType, estimators: Path, picture: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    depth_models = module(pack, "nodes.comfy.depth_models")
    # Random weights call all of it sky; a threshold above that keeps it.
    plain = depth_models.geometry_from_da3
    monkeypatch.setattr(
        depth_models, "geometry_from_da3", lambda *a, **k: plain(*a, **k, sky_threshold=2.0)
    )
    look, models = module(pack, "nodes.scene_models").MirageLook, load(pack)
    geometry, moving, sky, report = look.execute(picture, 0.0, models).result[:4]
    assert "field of view 60 degrees" in report and "no lens found" in report
    assert moving.shape == sky.shape == (1, HEIGHT, WIDTH) and not (moving.any() or sky.any())
    assert geometry.size == (HEIGHT, WIDTH)
    told = look.execute(picture, 40.0, models).result[3]
    assert "field of view 40 degrees" in told and "no lens found" not in told


def test_moving_things_and_sky_are_masks_when_somebody_looks_for_them(
    pack: ModuleType, estimators: Path, picture: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = module(pack, "nodes.scene_models")
    asked = []

    own = module(pack, "nodes.comfy.scene_models")

    def find(models: str, frames: torch.Tensor) -> Any:
        asked.append((models, len(frames)))
        mask = torch.zeros(len(frames), HEIGHT, WIDTH)
        mask[:, :, : WIDTH // 4] = 1
        return own.Moving(mask, "dog", own.tracks_of(frames, [mask], ["dog"]))

    monkeypatch.setattr(nodes, "find_moving", find)
    monkeypatch.setattr(nodes, "estimate", lambda *_: geometry_of(pack))
    models = load(pack, depth="MoGe")
    on = type(models)(models.depth, "found by name")
    frames = picture.repeat(5, 1, 1, 1)
    geometry, moving, sky, report, tracks = nodes.MirageLook.execute(
        picture, 0.0, on, frames=frames
    ).result
    assert dict(tracks.names) == {1: "dog"} and torch.equal(tracks.of(1), moving > 0)
    assert asked == [("found by name", 5)] and moving.shape == (5, HEIGHT, WIDTH)
    assert torch.equal(sky > 0, geometry.exclude) and "moving: dog, 25.0% of the pixels" in report
    _, moving, sky, _, tracks = nodes.MirageLook.execute(
        picture, 0.0, models, frames=frames
    ).result
    assert asked == asked[:1] and not (moving.any() or sky.any()) and tracks is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "cannot be tracked"),
        ({"segmenter": "gone.safetensors"}, "no gone.safetensors in models/checkpoints"),
    ],
)
def test_missing_files_are_told_when_queued(
    pack: ModuleType, changes: dict[str, str], words: str
) -> None:
    node = module(pack, "nodes.scene_models").MirageSceneModels
    given = {name: value for name, value in SETTINGS.items() if name != "most"}
    assert node.validate_inputs(**given) is True
    told = node.validate_inputs(**given | {"moving_things": True} | changes)
    assert words in told


def test_a_shot_counts_the_file_that_auto_stands_for(
    pack: ModuleType, estimators: Path, tmp_path: Path
) -> None:
    """Depth Anything put beside MoGe between two chunks is another shot, and not a mix."""
    settings = module(pack, "nodes.comfy.loop_settings")
    node = {"class_type": "MirageSceneModels", "inputs": dict(SETTINGS)}
    assert settings.what_counts(node)["inputs"]["depth file"] == "b_da3.safetensors"
    hidden = (estimators / "b_da3.safetensors").rename(tmp_path / "b_da3.safetensors")
    try:
        assert settings.what_counts(node)["inputs"]["depth file"] == "a_moge.safetensors"
    finally:
        hidden.rename(estimators / "b_da3.safetensors")
    linked = node | {"inputs": node["inputs"] | {"depth": ["1", 0], "moving_things": True}}
    assert settings.what_counts(linked)["inputs"] == linked["inputs"]
