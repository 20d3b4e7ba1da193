"""Arrays under the names and in the shapes that depth estimators write."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mirage_core.errors import CacheFormatError, MirageError, ShapeError
from mirage_core.geometry import npz
from mirage_core.geometry.geometry_io import load_geometry
from mirage_core.geometry.sources import describe_geometry

F, H, W = 3, 6, 8
DEPTH = np.linspace(2, 3, F * H * W, dtype=np.float32).reshape(F, H, W)
LENS = np.array([[10, 0, 4], [0, 10, 3], [0, 0, 1]], np.float32)
TO_WORLD = np.stack([np.eye(4, dtype=np.float32)] * F)
TO_WORLD[:, 0, 3] = (0, 0.1, 0.2)
TO_CAMERA = np.linalg.inv(TO_WORLD)
SHARES = np.array([[1.25, 0, 0.5], [0, 10 / 6, 0.5], [0, 0, 1]], np.float32)
IMAGES = np.zeros((F, H, W, 3), np.uint8)


def load(folder: Path, fov: float | None = None, **arrays: np.ndarray):
    np.savez(folder / "depth.npz", **arrays)
    return load_geometry(folder / "depth.npz", fov)


ESTIMATORS = {
    "depth anything 3": {
        "depth": DEPTH, "conf": DEPTH * 0 + 1, "extrinsics": TO_CAMERA[:, :3],
        "intrinsics": np.stack([LENS] * F),
    },
    "vggt": {
        "depth": DEPTH[..., None], "depth_conf": DEPTH * 0 + 1, "extrinsic": TO_CAMERA[:, :3],
        "intrinsic": np.stack([LENS] * F), "images": IMAGES.transpose(0, 3, 1, 2),
        "world_points": IMAGES.astype(np.float32), "pose_enc": np.zeros((F, 9), np.float32),
    },
    "vggt as a batch": {
        "depth": DEPTH[None, ..., None], "extrinsic": TO_CAMERA[None, :, :3],
        "intrinsic": np.stack([LENS] * F)[None],
    },
    "megasam": {"images": IMAGES, "depths": DEPTH, "intrinsic": LENS, "cam_c2w": TO_WORLD},
    "mapanything": {
        "depth_z": DEPTH[..., None], "camera_poses": TO_WORLD, "intrinsics": np.stack([LENS] * F),
        "non_ambiguous_mask": DEPTH > 0,
    },
    "four numbers of a lens": {
        "depths": DEPTH, "intrinsics": np.array([[10, 10, 4, 3]] * F, np.float32), "c2w": TO_WORLD,
    },
    "padded lens": {
        "depth": DEPTH, "K": np.block([[LENS, np.zeros((3, 1))], [np.eye(4)[3:]]]),
        "w2c": TO_CAMERA,
    },
    "a lens of three rows and four columns": {
        "depth": DEPTH, "intrinsics": np.hstack([LENS, [[-3], [0], [0]]]), "w2c": TO_CAMERA,
    },
    "one of these for each frame": {
        "depth": DEPTH, "intrinsics": np.stack([np.hstack([LENS, np.zeros((3, 1))])] * F),
        "w2c": TO_CAMERA,
    },
    "moge's shares": {"depth": DEPTH, "intrinsics": np.stack([SHARES] * F), "w2c": TO_CAMERA},
}  # fmt: skip


@pytest.mark.parametrize("name", ESTIMATORS)
def test_cameras_and_lens_of_a_shot_are_taken(tmp_path: Path, name: str) -> None:
    found = load(tmp_path, fov=90, **ESTIMATORS[name])
    assert np.array_equal(found.depth.numpy(), DEPTH)
    torch.testing.assert_close(found.intrinsics, torch.from_numpy(np.stack([LENS] * F)).double())
    torch.testing.assert_close(found.world_to_camera, torch.from_numpy(TO_CAMERA).double())


ONE = {
    "unidepth": {"depth": DEPTH[None, :1], "intrinsics": LENS[None], "points": IMAGES[None, 0]},
    "depth pro": {"depth": DEPTH[0], "focallength_px": np.float32(10)},
    "moge": {"depth": DEPTH[0], "intrinsics": SHARES, "mask": DEPTH[0] > 0, "normal": IMAGES[0]},
    "a trailing one": {"depth": DEPTH[0, ..., None], "intrinsics": LENS},
    "a channel": {"depth": DEPTH[:1, None], "intrinsics": LENS[None]},
}


@pytest.mark.parametrize("name", ONE)
def test_lens_of_one_picture_is_taken(tmp_path: Path, name: str) -> None:
    found = load(tmp_path, fov=90, **ONE[name])
    assert np.array_equal(found.depth.numpy(), DEPTH[:1])
    torch.testing.assert_close(found.intrinsics, torch.from_numpy(LENS[None]).double())
    assert found.world_to_camera is None
    assert found.metric == (name == "depth pro")


@pytest.mark.parametrize("rows", [3, 4])
@pytest.mark.parametrize("many", [False, True])
def test_one_pose_may_stand_alone(tmp_path: Path, rows: int, many: bool) -> None:
    pose = TO_CAMERA[1, :rows]
    arrays = {"depth": DEPTH if many else DEPTH[0], "intrinsics": LENS, "world_to_camera": pose}
    found = load(tmp_path, **arrays)
    assert found.world_to_camera.shape == (F if many else 1, 4, 4)
    assert found.world_to_camera[-1, 0, 3].item() == pytest.approx(-0.1)


def test_poses_of_low_precision_are_made_whole(tmp_path: Path) -> None:
    turned = TO_CAMERA.copy()
    turned[:, :2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    found = load(tmp_path, depth=DEPTH, extrinsics=turned.astype(np.float16), intrinsics=LENS)
    torch.testing.assert_close(
        found.world_to_camera, torch.from_numpy(turned).double(), atol=1e-3, rtol=0
    )


def test_what_is_not_used_is_listed(tmp_path: Path) -> None:
    report = describe_geometry(load(tmp_path, **ESTIMATORS["vggt"]))
    assert "taken: depth, depth_conf, extrinsic, intrinsic" in report
    assert "not used: images, pose_enc, world_points" in report


def test_sky_and_masks_are_left_out(tmp_path: Path) -> None:
    valid, sky = np.ones((H, W), bool), np.zeros((F, H, W), np.float32)
    valid[0], sky[:, 1] = False, 0.9
    found = load(tmp_path, fov=60, depth=DEPTH, mask=valid, sky=sky)
    assert found.exclude[:, :2].all()
    assert not found.exclude[:, 2:].any()


def test_an_array_without_a_name_or_with_an_own_one_is_depth(tmp_path: Path) -> None:
    np.savez(tmp_path / "depth.npz", DEPTH)
    assert np.array_equal(load_geometry(tmp_path / "depth.npz", 60).depth.numpy(), DEPTH)
    np.savez(tmp_path / "depth.npz", mine=DEPTH, depth=DEPTH + 1)
    found = load_geometry(tmp_path / "depth.npz", 60, "mine")
    assert np.array_equal(found.depth.numpy(), DEPTH)
    assert "not used: depth" in describe_geometry(found)
    np.savez(tmp_path / "depth.npz", mine=DEPTH)
    with pytest.raises(CacheFormatError, match="no depth.*mine"):
        load_geometry(tmp_path / "depth.npz", 60)


@pytest.mark.parametrize(
    "arrays",
    [
        {"depth": DEPTH[None].repeat(2, 0)},
        {"depth": np.ones(5)},
        {"depth": np.ones((0, H, W))},
        {"depth": DEPTH, "intrinsics": np.ones((2, 2, 3, 3))},
        {"depth": DEPTH, "w2c": np.ones((F, 3, 3))},
        {"depth": DEPTH, "w2c": np.ones((F, 1))},
        {"depth": DEPTH, "w2c": np.ones(())},
        {"depth": DEPTH, "f_px": np.ones(2)},
        {"depth": DEPTH, "mask": np.ones((F, 2, 2))},
        {"depth": DEPTH, "K": np.ones((2, 5))},
    ],
)
def test_shapes_that_mean_nothing_are_refused(tmp_path: Path, arrays) -> None:
    with pytest.raises(ShapeError):
        load(tmp_path, fov=60, **arrays)


def test_the_page_of_conventions_lists_every_name() -> None:
    page = (Path(__file__).parents[3] / "docs" / "conventions.md").read_text(encoding="utf-8")
    groups = (
        npz.DEPTH, npz.INTRINSICS, npz.FOCAL, npz.TO_CAMERA, npz.TO_WORLD, npz.VALID,
        npz.CONFIDENCE, npz.SKY,
    )  # fmt: skip
    for group in groups:
        assert ", ".join(f"`{name}`" for name in group) in page


def member(path: Path, name: str, content: bytes, kind: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr(name, content)


def npy(shape: str, body: bytes, descr: str = "<f4") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": descr, "fortran_order": False, "shape": (11, 22)}
    )
    # The header keeps its length: spaces in front of the line's end make up for it.
    head = file.getvalue().replace(b"(11, 22)", shape.encode().ljust(8)[:64])
    return head + body


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy("(1 << 9)", b""), "."),
        (npy("(True, )", bytes(4)), r"holds \(True,\)"),
        (npy("(-1, -4)", bytes(16)), "holds"),
        (npy("(11, 22)", bytes(16)), "not as long"),
        (npy("(11, 22)", bytes(11 * 22 * 4 + 1)), "not as long"),
        (npy("(1, 1)", bytes(8), "<M8"), "holds|descr"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    member(tmp_path / "a.npz", "depth.npy", content)
    with pytest.raises(CacheFormatError, match=words):
        load_geometry(tmp_path / "a.npz", 60)


def test_more_numbers_than_the_file_can_hold_are_refused(tmp_path: Path) -> None:
    """Before they are read: 256 MiB of zeros are 256 KiB in the file."""
    side = 1 << 13
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("depth.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "<f4", "fortran_order": False, "shape": (side, side)}
            )
            for _ in range(side // 64):
                file.write(bytes(64 * side * 4))
    assert (tmp_path / "a.npz").stat().st_size < 1 << 20
    with pytest.raises(CacheFormatError, match="512 MiB of numbers in a file of"):
        load_geometry(tmp_path / "a.npz", 60)


def test_compressions_that_numpy_does_not_write_are_refused(tmp_path: Path) -> None:
    content = npy("(11, 22)", bytes(11 * 22 * 4))
    member(tmp_path / "a.npz", "depth.npy", content, zipfile.ZIP_LZMA)
    with pytest.raises(CacheFormatError, match="compressed in a way"):
        load_geometry(tmp_path / "a.npz", 60)


def test_changed_files_give_typed_errors(tmp_path: Path) -> None:
    chance = random.Random(3)
    np.savez_compressed(tmp_path / "a.npz", **ESTIMATORS["vggt"])
    np.savez(tmp_path / "b.npz", **ESTIMATORS["megasam"])
    seeds = [(tmp_path / name).read_bytes() for name in ("a.npz", "b.npz")]
    whole = 0
    for _ in range(600):
        content = bytearray(chance.choice(seeds))
        for _ in range(chance.choice((1, 2, 8))):
            place = chance.randrange(len(content))
            content[place] = chance.choice((0, 1, 255, chance.randrange(256)))
        if chance.random() < 0.1:
            del content[chance.randrange(len(content)) :]
        (tmp_path / "changed.npz").write_bytes(content)
        try:
            whole += len(load_geometry(tmp_path / "changed.npz", 60))
        except MirageError:
            pass
    assert whole > 0
