"""Estimators with packages of their own, by the layout that their packages document."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from mirage_core.errors import GeometryError, ModelMismatchError
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.models.geometry_estimators import (
    DepthAnything3Estimator,
    MapAnythingEstimator,
    UniDepthEstimator,
    load_estimator,
    uncropped,
)

FRAMES = torch.rand(2, 32, 64, 3)


def cameras(count: int = 2) -> Trajectory:
    poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    poses[:, 0, 3] = torch.arange(count)
    return Trajectory(poses, intrinsics_from_fov(64, 32, 70).expand(count, 3, 3), 64, 32)


class UniDepth:
    """Gives each picture's mean as depth, and remembers what it was told."""

    def __init__(self) -> None:
        self.told = []

    def infer(self, rgb, camera=None):
        assert rgb.dtype == torch.uint8
        self.told.append(camera)
        depth = torch.full((1, 1, *rgb.shape[1:]), float(rgb.float().mean()))
        lens = torch.tensor([[50.0, 0, rgb.shape[2] / 2], [0, 50, rgb.shape[1] / 2], [0, 0, 1]])
        return {"depth": depth, "intrinsics": lens[None]}


class MapAnything:
    """Answers at its own grid, which cuts off a strip at the top and the bottom."""

    def __init__(self, rows: int = 14, columns: int = 42) -> None:
        self.size = rows, columns
        self.views = []

    def infer(self, views, **settings):
        assert settings["apply_mask"]
        self.views = views
        rows, columns = self.size
        k = torch.tensor([[30.0, 0, columns / 2], [0, 30.0, rows / 2], [0, 0, 1]])
        answers = []
        for number, _ in enumerate(views):
            pose = torch.eye(4)
            pose[0, 3] = number
            mask = torch.ones(1, rows, columns, 1, dtype=torch.bool)
            mask[:, :, :3] = False
            answers.append(
                {
                    "depth_z": torch.full((1, rows, columns, 1), 2.0 + number),
                    "intrinsics": k[None],
                    "camera_poses": pose[None],
                    "mask": mask,
                }
            )
        return answers


def test_unidepth_estimates_its_own_lens_or_takes_the_known_one() -> None:
    network = UniDepth()
    geometry = UniDepthEstimator(network)(FRAMES)
    assert geometry.metric
    assert float(geometry.depth[1, 0, 0]) == pytest.approx(float(FRAMES[1].mean()) * 255, abs=1)
    assert float(geometry.intrinsics[0, 0, 0]) == 50
    known = UniDepthEstimator(network)(FRAMES, cameras())
    assert torch.equal(known.intrinsics, cameras().intrinsics)
    assert torch.equal(network.told[-1], cameras().intrinsics[1].float())


def test_map_anything_gives_poses_and_a_mask() -> None:
    network = MapAnything()
    geometry = MapAnythingEstimator(network, lambda views: views)(FRAMES)
    assert geometry.size == (21, 42)
    assert float(geometry.world_to_camera[1, 0, 3]) == -1.0
    # The strip of 3 columns is masked; what was cut off at the top has no depth.
    assert bool(geometry.exclude[:, 5, :3].all())
    assert not bool(geometry.exclude[:, 5, 3:].any())
    assert float(geometry.depth[:, :3].sum()) == 0
    assert "camera_poses" not in network.views[0]


def test_map_anything_is_told_known_cameras() -> None:
    network = MapAnything()
    geometry = MapAnythingEstimator(network, lambda views: views)(FRAMES, cameras())
    assert torch.equal(geometry.world_to_camera, cameras().world_to_camera)
    expected = cameras().camera_to_world[1].float()
    assert torch.equal(network.views[1]["camera_poses"], expected)


def test_map_anything_depth_has_the_units_of_known_cameras() -> None:
    """Its own cameras are one metre apart; those of a reconstruction five units."""
    estimator = MapAnythingEstimator(MapAnything(), lambda views: views)
    poses = cameras().world_to_camera.clone()
    poses[:, 0, 3] *= 5
    apart = dataclasses.replace(cameras(), world_to_camera=poses)
    geometry = estimator(FRAMES, apart)
    assert float(geometry.depth[1].max()) == pytest.approx(5 * 3.0)
    assert not geometry.metric
    poses[:, 0, 3] = 2
    standing = estimator(FRAMES, dataclasses.replace(cameras(), world_to_camera=poses))
    assert float(standing.depth[1].max()) == pytest.approx(3.0)
    assert standing.metric


class DepthAnything3:
    """Answers at a size of its own, to which pictures were resized, as the package documents."""

    def __init__(self, poses: bool = True) -> None:
        self.poses, self.told = poses, {}

    def inference(self, image, extrinsics=None, intrinsics=None):
        assert all(picture.dtype == np.uint8 and picture.shape == (32, 64, 3) for picture in image)
        self.told = {"extrinsics": extrinsics, "intrinsics": intrinsics}
        count = len(image)
        poses = np.eye(4, dtype=np.float32)[None, :3].repeat(count, 0)
        poses[:, 0, 3] = np.arange(count)
        lens = np.array([[28.0, 0, 14], [0, 28, 7], [0, 0, 1]], dtype=np.float32)
        sky = np.zeros((count, 14, 28), dtype=np.float32)
        sky[:, 0] = 1
        return SimpleNamespace(
            depth=np.full((count, 14, 28), 3, dtype=np.float32), sky=sky, is_metric=1,
            extrinsics=poses if self.poses else None,
            intrinsics=lens[None].repeat(count, 0) if self.poses else None,
        )  # fmt: skip


def test_depth_anything_3_gives_cameras_in_pixels_of_the_picture() -> None:
    geometry = DepthAnything3Estimator(DepthAnything3())(FRAMES)
    assert geometry.size == (32, 64) and geometry.metric
    expected = [64.0, 64.0, 32.0, 16.0]
    lens = geometry.intrinsics[1]
    found = [lens[0, 0], lens[1, 1], lens[0, 2], lens[1, 2]]
    assert [float(n) for n in found] == pytest.approx(expected)
    assert geometry.world_to_camera[1, 0, 3] == 1
    assert bool(geometry.exclude[:, 0].all()) and not bool(geometry.exclude[:, 4:].any())


def test_depth_anything_3_is_told_known_cameras() -> None:
    network = DepthAnything3(poses=False)
    geometry = DepthAnything3Estimator(network)(FRAMES, cameras())
    assert torch.equal(geometry.world_to_camera, cameras().world_to_camera)
    assert not geometry.metric
    assert network.told["extrinsics"].shape == (2, 4, 4)
    assert np.allclose(network.told["intrinsics"], cameras().intrinsics)
    with pytest.raises(GeometryError, match="estimates no cameras"):
        DepthAnything3Estimator(network)(FRAMES)


def test_rays_survive_the_cut() -> None:
    k = torch.tensor([[30.0, 0, 21], [0, 30.0, 7], [0, 0, 1]]).expand(1, 3, 3)
    middle = FrameGeometry(torch.ones(1, 14, 42), k)
    whole = uncropped(middle, 64, 32)
    top = (whole.size[0] - 14) // 2
    before = (0 - middle.intrinsics[0, 1, 2]) / middle.intrinsics[0, 1, 1]
    after = (top - whole.intrinsics[0, 1, 2]) / whole.intrinsics[0, 1, 1]
    assert float(before) == pytest.approx(float(after))
    assert uncropped(middle, 42, 14) is middle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_a_missing_package_is_named(folder: Path) -> None:
    for name, package in (("UniDepth V2", "unidepth"), ("MapAnything", "mapanything")):
        if package in sys.modules:
            pytest.fail(f"{package} is installed: this test needs it absent")
        with pytest.raises(ModelMismatchError, match=f"package named {package}"):
            load_estimator(name, folder)


class Loaded(UniDepth):
    def to(self, device):
        self.device = device
        return self

    def eval(self):
        return self


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, bytes]]]:
    """Folders that stand-ins for the packages were given, with the files they saw there."""
    seen = []

    def from_pretrained(path: str) -> Loaded:
        seen.append((path, {file.name: file.read_bytes() for file in Path(path).iterdir()}))
        return Loaded()

    network = SimpleNamespace(from_pretrained=from_pretrained)
    modules = {
        name: ModuleType(name)
        for name in (
            "unidepth", "mapanything", "mapanything.utils", "mapanything.utils.image",
            "depth_anything_3",
        )
    }  # fmt: skip
    modules["depth_anything_3.api"] = SimpleNamespace(DepthAnything3=network)
    modules["unidepth.models"] = SimpleNamespace(UniDepthV2=network)
    modules["mapanything.models"] = SimpleNamespace(MapAnything=network)
    modules["mapanything.utils.image"].preprocess_inputs = list
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return seen


@pytest.mark.parametrize("name", ["UniDepth V2", "MapAnything", "Depth Anything 3"])
def test_packages_are_loaded_from_the_folder(folder: Path, loads: list, name: str) -> None:
    assert load_estimator(name, folder, device="meta").network.device == "meta"
    assert loads[0][0] == str(folder)


@pytest.mark.parametrize("name", ["UniDepth V2", "MapAnything", "Depth Anything 3"])
def test_packages_do_not_see_pickled_weights(folder: Path, loads: list, name: str) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"runs code")
    with pytest.raises(ModelMismatchError, match="pickled.*pytorch_model.bin"):
        load_estimator(name, folder)
    assert loads == []
    (folder / "model.safetensors").write_bytes(b"numbers")
    load_estimator(name, folder)
    assert loads[0][1] == {"config.json": b"{}", "model.safetensors": b"numbers"}
    assert (folder / "pytorch_model.bin").exists()


def test_unknown_estimators_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelMismatchError, match="unknown"):
        load_estimator("ZoeDepth", tmp_path)
    with pytest.raises(ModelMismatchError, match=r"config\.json"):
        load_estimator("MapAnything", tmp_path)
