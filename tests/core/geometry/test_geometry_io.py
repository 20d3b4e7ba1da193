"""Geometry files: ours, arrays of other tools, and renders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import OpenEXR
import pytest
import torch

from mirage_core.errors import CacheFormatError, GeometryError, ShapeError
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.geometry_io import load_geometry, save_geometry
from mirage_core.geometry.trajectory import intrinsics_from_fov


def sample(count: int = 2) -> FrameGeometry:
    poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    poses[:, 2, 3] = torch.arange(count)
    return FrameGeometry(
        torch.rand(count, 8, 12) + 1,
        intrinsics_from_fov(12, 8, 70).expand(count, 3, 3),
        world_to_camera=poses,
        exclude=torch.rand(count, 8, 12) < 0.3,
        confidence=torch.rand(count, 8, 12),
        metric=True,
    )


def test_round_trip_keeps_every_bit(tmp_path: Path) -> None:
    before = sample()
    after = load_geometry(save_geometry(before, tmp_path / "room"))
    for name in ("depth", "intrinsics", "world_to_camera", "exclude", "confidence"):
        assert torch.equal(getattr(before, name), getattr(after, name)), name
    assert after.metric


def test_released_arrays(tmp_path: Path) -> None:
    """The released layout holds camera-to-world poses and masks that are True where valid."""
    geometry = sample()
    poses = torch.linalg.inv(geometry.world_to_camera)
    np.savez(
        tmp_path / "geometry.npz",
        depths=geometry.depth.numpy(),
        intrinsics=geometry.intrinsics.float().numpy(),
        poses_c2w=poses.numpy(),
        masks=(~geometry.exclude).numpy(),
        frame_indices=np.arange(2),
    )
    loaded = load_geometry(tmp_path / "geometry.npz")
    assert torch.equal(loaded.depth, geometry.depth)
    assert torch.equal(loaded.exclude, geometry.exclude)
    torch.testing.assert_close(loaded.world_to_camera, geometry.world_to_camera)


def test_arrays_without_a_camera_need_a_field_of_view(tmp_path: Path) -> None:
    np.savez(tmp_path / "depth.npz", depth=np.ones((4, 6), np.float16))
    with pytest.raises(GeometryError, match="field of view"):
        load_geometry(tmp_path / "depth.npz")
    geometry = load_geometry(tmp_path / "depth.npz", fov=90)
    assert geometry.intrinsics[0, 0, 0].item() == pytest.approx(3.0)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harmed",))

    np.savez(tmp_path / "bad.npz", depth=np.array([Harmful()], dtype=object))
    with pytest.raises(CacheFormatError, match="plain numbers"):
        load_geometry(tmp_path / "bad.npz", fov=60)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.npz", "cut.exr"])
def test_damaged_files_are_refused(tmp_path: Path, name: str) -> None:
    whole = tmp_path / f"whole{Path(name).suffix}"
    if whole.suffix == ".safetensors":
        save_geometry(sample(), whole)
    elif whole.suffix == ".npz":
        np.savez(whole, depth=np.ones((4, 6)))
    else:
        with OpenEXR.File({}, {"Z": np.ones((6, 16), np.float32)}) as file:
            file.write(str(whole))
    (tmp_path / name).write_bytes(whole.read_bytes()[:40])
    with pytest.raises(CacheFormatError):
        load_geometry(tmp_path / name, fov=60)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"points": torch.zeros(3)}, tmp_path / "memory.safetensors")
    with pytest.raises(CacheFormatError, match="does not hold geometry"):
        load_geometry(tmp_path / "memory.safetensors")
    with pytest.raises(CacheFormatError, match="not a geometry file"):
        load_geometry(tmp_path / "depth.png")
    with pytest.raises(CacheFormatError, match="does not exist"):
        load_geometry(tmp_path / "none.npz")
    np.savez(tmp_path / "colours.npz", rgb=np.ones((4, 6)))
    with pytest.raises(CacheFormatError, match="no depth"):
        load_geometry(tmp_path / "colours.npz")


def test_arrays_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    cameras = np.eye(3)[None].repeat(3, 0)
    np.savez(tmp_path / "odd.npz", depth=np.ones((2, 4, 6)), intrinsics=cameras)
    with pytest.raises(ShapeError):
        load_geometry(tmp_path / "odd.npz")


@pytest.mark.parametrize("name", ["n" * 300 + ".npz", "n" * 300 + "####.exr", "a\0.npz"])
def test_names_that_no_file_can_have_are_told(name: str) -> None:
    with pytest.raises(CacheFormatError):
        load_geometry(Path(name))
