"""Recordings in the layouts of five data sets, which must all give the same views."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from mirage_core.cli.main import main
from mirage_core.errors import CacheFormatError, GeometryError, TrajectoryError
from mirage_core.evaluation.rgbd import associated
from mirage_core.evaluation.rgbd_layouts import (
    LAYOUTS,
    RecordingFolder,
    find_recordings,
    layout_of,
    read_recording,
)
from mirage_core.geometry.trajectory import Trajectory
from shared_material import SHARED
from tiny_evaluation import HEIGHT, WIDTH, save_depth, save_picture, wall_views

COUNT = 5


def poses(cameras: Trajectory) -> np.ndarray:
    return cameras.camera_to_world.numpy()


def quaternions(cameras: Trajectory) -> np.ndarray:
    """(F, 7): place and quaternion."""
    found = poses(cameras)
    return np.hstack([found[:, :3, 3], Rotation.from_matrix(found[:, :3, :3]).as_quat()])


def text(path: Path, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [" ".join(f"{x:.9f}" if isinstance(x, float) else str(x) for x in row) for row in rows]
    path.write_text("\n".join(lines) + "\n")


def as_tum(folder: Path, pictures, depths, cameras) -> None:
    rgb, depth, truth = [["#", "comment"]], [], []
    for n, (picture, metres) in enumerate(zip(pictures, depths, strict=True)):
        save_picture(folder / "rgb" / f"{n}.png", picture)
        save_depth(folder / "depth" / f"{n}.png", metres, 5000)
        rgb.append([100 + 0.1 * n, f"rgb/{n}.png"])
        depth.append([100 + 0.1 * n + 0.012, f"depth/{n}.png"])
    for n, row in enumerate(quaternions(cameras).tolist()):
        truth += [[100 + 0.1 * n - 0.05, *([0.0] * 6), 1.0], [100 + 0.1 * n - 0.008, *row]]
    # A frame without depth near in time, and one without a pose.
    rgb += [[100.05, "rgb/0.png"], [200.0, "rgb/0.png"]]
    depth += [[200.0, "depth/0.png"]]
    for name, rows in (("rgb", rgb), ("depth", depth), ("groundtruth", truth)):
        text(folder / f"{name}.txt", rows)


def as_seven_scenes(folder: Path, pictures, depths, cameras) -> None:
    for n, (picture, metres) in enumerate(zip(pictures, depths, strict=True)):
        save_picture(folder / f"frame-{n:06}.color.png", picture)
        metres = metres.copy()
        metres[0, 0] = 65.535
        save_depth(folder / f"frame-{n:06}.depth.png", metres)
        text(folder / f"frame-{n:06}.pose.txt", poses(cameras)[n].tolist())


def as_scannet(folder: Path, pictures, depths, cameras) -> None:
    lens = np.eye(4)
    lens[:3, :3] = cameras.intrinsics[0].numpy()
    text(folder / "intrinsic" / "intrinsic_color.txt", lens.tolist())
    for n, (picture, metres) in enumerate(zip(pictures, depths, strict=True)):
        save_picture(folder / "color" / f"{n + 8}.jpg", picture)
        save_depth(folder / "depth" / f"{n + 8}.png", metres[::2, ::2])
        text(folder / "pose" / f"{n + 8}.txt", poses(cameras)[n].tolist())
    # Frame 20 was lost by the tracking.
    save_picture(folder / "color" / "20.jpg", pictures[0])
    save_depth(folder / "depth" / "20.png", depths[0])
    text(folder / "pose" / "20.txt", [[-math.inf] * 4] * 4)


def as_redwood(folder: Path, pictures, depths, cameras) -> None:
    rows: list[list[object]] = []
    for n, (picture, metres) in enumerate(zip(pictures, depths, strict=True)):
        save_picture(folder / "rgb" / f"{n:06}.jpg", picture)
        save_depth(folder / "depth" / f"{n:06}.png", metres)
        rows += [[n, n, n + 1], *poses(cameras)[n].tolist()]
    text(folder / "trajectory.log", rows)


def as_arkit(folder: Path, pictures, depths, cameras) -> None:
    path = []
    fx, fy, cx, cy = (float(cameras.intrinsics[0][i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2)))
    for n, (picture, metres) in enumerate(zip(pictures, depths, strict=True)):
        name = f"47_{9 + n}.500"
        save_picture(folder / "lowres_wide" / f"{name}.png", picture)
        save_depth(folder / "lowres_depth" / f"{name}.png", metres)
        lens = folder / "lowres_wide_intrinsics" / f"{name}.pincam"
        text(lens, [[WIDTH, HEIGHT, fx, fy, cx, cy]])
        pose = cameras.world_to_camera[n].numpy()
        turn = Rotation.from_matrix(pose[:3, :3]).as_rotvec().tolist()
        path.append([9 + n + 0.501, *turn, *pose[:3, 3].tolist()])
    text(folder / "lowres_wide.traj", path)


def as_numbered(folder: Path, pictures, depths, cameras) -> None:
    for n, (picture, metres) in enumerate(zip(pictures, depths, strict=True)):
        save_picture(folder / f"color_{n + 8}.png", picture)
        save_depth(folder / f"depth_{n + 8}.png", metres)
    save_picture(folder / "color_1.png", pictures[0])
    save_depth(folder / "depth_1.png", depths[0])
    rows = quaternions(cameras).tolist()
    text(folder / "pose.txt", [rows[0], *rows])
    lens = cameras.intrinsics[0]
    text(folder / "lens.txt", [[float(lens[i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2))]])


WRITERS = {
    "TUM": as_tum, "7-Scenes": as_seven_scenes, "ScanNet": as_scannet, "Redwood": as_redwood,
    "ARKitScenes": as_arkit, "numbered": as_numbered,
}  # fmt: skip
OWN_LENS = ("ScanNet", "ARKitScenes", "numbered")
"""Layouts that store the lens; the others are of one camera with 640 x 480 pixels."""


@pytest.mark.parametrize("name", WRITERS)
def test_a_layout(name, tmp_path) -> None:
    pictures, depths, cameras = wall_views(COUNT)
    folder = tmp_path / "data" / "scene"
    WRITERS[name](folder, pictures, depths, cameras)
    assert layout_of(folder).name == name
    source = RecordingFolder(tmp_path / "data", WIDTH, HEIGHT)
    assert source.items() == ("data/scene",)
    recording = source.open("data/scene")
    first = len(recording) - COUNT
    assert first == (1 if name == "numbered" else 0)
    views = recording.select(range(first, first + COUNT))
    expected = torch.from_numpy(pictures).float() / 255
    lossy = name in ("ScanNet", "Redwood")
    assert (views.frames - expected).abs().max() < (0.05 if lossy else 1e-6)
    known = views.geometry.depth > 0
    assert bool(known[:, 1:, 1:].all())
    assert bool(known.all()) == (name != "7-Scenes")
    true = torch.from_numpy(depths).float()
    tolerance = 0.05 if name == "ScanNet" else 0.001
    assert ((views.geometry.depth - true).abs()[known]).max() < tolerance
    assert (views.cameras.world_to_camera - cameras.world_to_camera).abs().max() < 1e-6
    lens = views.cameras.intrinsics
    if name in OWN_LENS:
        assert torch.allclose(lens, cameras.intrinsics, atol=1e-6)
    else:
        recorded = read_recording(folder).intrinsics[0]
        assert float(lens[0, 0, 0]) == pytest.approx(float(recorded[0, 0]) * WIDTH / 640)
        assert float(lens[0, 1, 2]) == pytest.approx(float(recorded[1, 2]) * HEIGHT / 480)
    assert torch.allclose(views.geometry.intrinsics, lens)


def test_the_office_capture_is_read_as_its_page_says() -> None:
    folder = SHARED / "data" / "office_rgbd"
    if not (folder / "pose.txt").is_file():
        pytest.skip("needs the office capture beside the checkout")
    views = RecordingFolder(folder, 640, 480).open(folder.name).select([0, 4])
    assert views.frames.shape == (2, 480, 640, 3)
    assert views.cameras.intrinsics[0, 0].tolist() == [518.0, 0.0, 325.5]
    assert 0.5 < float(views.geometry.depth[views.geometry.depth > 0].median()) < 8
    last = np.loadtxt(folder / "pose.txt")[4]
    assert views.cameras.positions[1].tolist() == pytest.approx(last[:3].tolist())


def test_a_wider_picture_is_scaled_to_cover_and_cut_in_the_middle(tmp_path) -> None:
    pictures, depths, cameras = wall_views(2)
    wide = np.pad(pictures, ((0, 0), (0, 0), (32, 32), (0, 0)))
    far = np.pad(depths, ((0, 0), (0, 0), (32, 32)), constant_values=9)
    moved = cameras.intrinsics.clone()
    moved[:, 0, 2] += 32
    as_numbered(tmp_path, wide, far, Trajectory(cameras.world_to_camera, moved, 128, 64))
    views = RecordingFolder(tmp_path, WIDTH, HEIGHT).open(tmp_path.name).select([1, 2])
    assert torch.equal(views.frames, torch.from_numpy(pictures).float() / 255)
    assert torch.allclose(views.cameras.intrinsics, cameras.intrinsics)
    assert torch.allclose(views.geometry.depth, torch.from_numpy(depths).float(), atol=1e-3)


def test_times_are_matched_to_the_nearest() -> None:
    found = associated(np.array([1.0, 2.0, 3.0, 9.0]), np.array([3.019, 1.9, 1.99, 1.02, 0.99]))
    assert found.tolist() == [4, 2, 0, -1]
    assert associated(np.array([1.0]), np.array([])).tolist() == [-1]


def test_what_is_missing_is_named_with_its_layouts_and_sources(tmp_path, capsys) -> None:
    with pytest.raises(CacheFormatError) as caught:
        find_recordings(tmp_path)
    for layout in LAYOUTS:
        assert layout.source in str(caught.value)
        assert layout.looks in str(caught.value)
    gone = ["evaluate", "captures", "--out", str(tmp_path / "o"), "--data", str(tmp_path / "no")]
    assert main(gone) == 2
    said = capsys.readouterr().err
    assert "groundtruth.txt" in said and "cvg.cit.tum.de" in said


def test_broken_recordings_are_refused(tmp_path) -> None:
    pictures, depths, cameras = wall_views(2)
    as_seven_scenes(tmp_path / "a", pictures, depths, cameras)
    text(tmp_path / "a" / "frame-000001.pose.txt", [[1.0, 0.0, 0.0, 0.0]] * 3)
    with pytest.raises(CacheFormatError, match="3 lines"):
        read_recording(tmp_path / "a")
    as_numbered(tmp_path / "b", pictures, depths, cameras)
    text(tmp_path / "b" / "pose.txt", [[0.0] * 6 + [1.0]])
    with pytest.raises(CacheFormatError, match="1 poses for 3"):
        read_recording(tmp_path / "b")
    as_tum(tmp_path / "c", pictures, depths, cameras)
    text(tmp_path / "c" / "groundtruth.txt", [[5.0, *([0.0] * 6), 1.0]])
    with pytest.raises(GeometryError, match="no usable frame"):
        read_recording(tmp_path / "c")
    as_redwood(tmp_path / "d", pictures, depths, cameras)
    (tmp_path / "d" / "trajectory.log").write_text("0 0 1\n1 0 0 x\n" + "0 0 0 1\n" * 3)
    with pytest.raises(CacheFormatError, match="trajectory.log"):
        read_recording(tmp_path / "d")
    as_arkit(tmp_path / "e", pictures, depths, cameras)
    lens = tmp_path / "e" / "lowres_wide_intrinsics" / "47_9.500.pincam"
    for content, said in (("", "no numbers"), ("0 48 1 1 1 1", "picture of 0 x 48")):
        lens.write_text(content)
        with pytest.raises(CacheFormatError, match=said):
            read_recording(tmp_path / "e")
    as_tum(tmp_path / "f", pictures, depths, cameras)
    text(tmp_path / "f" / "groundtruth.txt", [[100.0, *([0.0] * 7)]])
    with pytest.raises(TrajectoryError, match="looks nowhere"):
        read_recording(tmp_path / "f")
