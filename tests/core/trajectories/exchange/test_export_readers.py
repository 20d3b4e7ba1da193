"""What is exported, read by the rules of the programs that it is for and not by ours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid, rigid, rotation_about
from mirage_core.trajectories.exchange.formats import (
    CHAN,
    COLMAP,
    RECAMMASTER,
    TRANSFORMS,
    WAN_FUN,
    export_trajectory,
    import_trajectory,
)

POINTS = np.array([[0.3, -0.2, 4.0], [-1.0, 0.5, 6.0], [0.8, 0.7, 3.0]])
SIZES = [(160, 96), (96, 160), (320, 96), (1280, 704)]


def move(width: int = 160, height: int = 96, frames: int = 9) -> Trajectory:
    steps = torch.arange(frames, dtype=torch.float64)
    turn = rotation_about("y", steps * 0.05) @ rotation_about("x", steps * -0.03)
    turn = turn @ rotation_about("z", steps * 0.02)
    places = torch.stack([steps * 0.05, -0.02 * steps, 0.1 * steps], dim=1)
    k = intrinsics_from_fov(width, height, 65).repeat(frames, 1, 1)
    k[:, [0, 1], [0, 1]] *= 1 + steps[:, None] / 20
    return Trajectory(invert_rigid(rigid(turn, places)), k, width, height, 24)


def seen(trajectory: Trajectory, frame: int, points: np.ndarray = POINTS) -> np.ndarray:
    """(N, 2) pixels of points in the project's world."""
    pose, k = trajectory.world_to_camera[frame].numpy(), trajectory.intrinsics[frame].numpy()
    rays = (points @ pose[:3, :3].T + pose[:3, 3]) @ k.T
    return rays[:, :2] / rays[:, 2:]


def test_transforms_json_in_nerfstudio(tmp_path: Path) -> None:
    """Its data parser: `fl_x` and others of the file or of each frame, OpenGL cameras, z up."""
    before = move()
    meta = json.loads(export_trajectory(before, tmp_path / "t", TRANSFORMS).read_text())
    assert meta["camera_model"] in ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "OPENCV")
    for frame, entry in enumerate(meta["frames"]):
        value = {key: float(meta.get(key, entry.get(key))) for key in ("fl_x", "fl_y", "cx", "cy")}
        assert (meta["w"], meta["h"]) == (160, 96)
        to_world = np.array(entry["transform_matrix"], dtype=np.float32).astype(float)
        x, y, z = POINTS.T
        world = np.stack([x, z, -y, np.ones(len(x))], axis=1)
        camera = world @ np.linalg.inv(to_world).T
        u = value["cx"] + value["fl_x"] * camera[:, 0] / -camera[:, 2]
        v = value["cy"] - value["fl_y"] * camera[:, 1] / -camera[:, 2]
        np.testing.assert_allclose(np.stack([u, v], 1), seen(before, frame), atol=1e-3)
    names = [entry["file_path"] for entry in meta["frames"]]
    assert names == sorted(names) and len(set(names)) == len(names)


def test_colmap_text_in_pycolmap(tmp_path: Path) -> None:
    """The rules of `read_write_model`: two lines for each picture, and COLMAP's quaternions."""
    before = move()
    images = export_trajectory(before, tmp_path / "model", COLMAP)
    cameras = {}
    for text in (images.parent / "cameras.txt").read_text().splitlines():
        if text.strip() and text[0] != "#":
            number, model, width, height, *values = text.split()
            assert (model, width, height, len(values)) == ("PINHOLE", "160", "96", 4)
            cameras[int(number)] = np.array(values, dtype=float)
    assert (images.parent / "points3D.txt").read_text().startswith("#")
    lines = iter(images.read_text().splitlines())
    found = []
    for text in lines:
        if not text.strip() or text[0] == "#":
            continue
        words = text.split()
        assert len(words) == 10
        assert next(lines).split() == []
        found.append((words[9], int(words[0]), np.array(words[1:8], float), int(words[8])))
    assert [number for _, number, _, _ in found] == list(range(1, 10))
    for frame, (_, _, pose, camera) in enumerate(sorted(found)):
        w, x, y, z = pose[:4]
        rotation = np.array(
            [
                [1 - 2 * y * y - 2 * z * z, 2 * x * y - 2 * w * z, 2 * z * x + 2 * w * y],
                [2 * x * y + 2 * w * z, 1 - 2 * x * x - 2 * z * z, 2 * y * z - 2 * w * x],
                [2 * z * x - 2 * w * y, 2 * y * z + 2 * w * x, 1 - 2 * x * x - 2 * y * y],
            ]
        )
        rays = POINTS @ rotation.T + pose[4:]
        fx, fy, cx, cy = cameras[camera]
        pixels = np.stack([fx * rays[:, 0], fy * rays[:, 1]], 1) / rays[:, 2:] + (cx, cy)
        np.testing.assert_allclose(pixels, seen(before, frame), atol=1e-6)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_wan_fun_text_in_videox_fun(tmp_path: Path, width: int, height: int) -> None:
    """`process_pose_file`: the first line is skipped, the lens is that of 1280 x 720 pictures."""
    before = move(width, height)
    path = export_trajectory(before, tmp_path / "pan", WAN_FUN)
    entries = [
        [float(x) for x in text.strip().split(" ")] for text in path.open() if text[0] != "m"
    ]
    assert path.read_text().startswith("m") and len(entries) == 9
    pose_ratio, sample_ratio = 1280 / 720, width / height
    for frame, entry in enumerate(entries):
        fx, fy, cx, cy = entry[1:5]
        if pose_ratio > sample_ratio:
            fx = height * pose_ratio * fx / width
        else:
            fy = width / pose_ratio * fy / height
        pose = np.array(entry[7:]).reshape(3, 4)
        rays = POINTS @ pose[:, :3].T + pose[:, 3]
        u = fx * width * rays[:, 0] / rays[:, 2] + cx * width
        v = fy * height * rays[:, 1] / rays[:, 2] + cy * height
        np.testing.assert_allclose(np.stack([u, v], 1), seen(before, frame), atol=1e-6)


def test_recammaster_json_in_recammaster(tmp_path: Path) -> None:
    """Its data set: rows of the string are columns, and poses count from the first camera."""
    before = move()
    data = json.loads(export_trajectory(before, tmp_path / "c", RECAMMASTER).read_text())
    poses = []
    for frame in range(9):
        rows = data[f"frame{frame}"]["cam01"].strip().split("] [")
        matrix = np.array(
            [[float(x) for x in row.replace("[", "").replace("]", "").split()] for row in rows]
        ).T
        matrix = matrix[:, [1, 2, 0, 3]]
        matrix[:3, 1] *= -1
        matrix[:3, 3] /= 100
        poses.append(matrix)
    ours = before.camera_to_world.numpy()
    for frame in range(9):
        relative = np.linalg.inv(poses[0]) @ poses[frame]
        np.testing.assert_allclose(relative, np.linalg.inv(ours[0]) @ ours[frame], atol=1e-9)


def test_chan_in_nuke(tmp_path: Path) -> None:
    """y up, the camera looks along -z, and turns about z, then x, then y."""
    before = move()
    path = export_trajectory(before, tmp_path / "shot", CHAN)
    assert path.suffix == ".chan"
    for frame, text in enumerate(path.read_text().splitlines()):
        number, *values = (float(word) for word in text.split())
        assert number == frame + 1
        place, (a, b, c) = np.array(values[:3]), np.radians(values[3:6])
        x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
        y = [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
        z = [[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]]
        rotation = np.array(y) @ np.array(x) @ np.array(z)
        camera = (POINTS * (1, -1, -1) - place) @ rotation
        focal = 96 / 2 / np.tan(np.radians(values[6]) / 2)
        u = 80 + focal * camera[:, 0] / -camera[:, 2]
        v = 48 - focal * camera[:, 1] / -camera[:, 2]
        np.testing.assert_allclose(np.stack([u, v], 1), seen(before, frame), atol=1e-6)


def test_angles_of_a_chan_do_not_jump(tmp_path: Path) -> None:
    steps = torch.arange(49, dtype=torch.float64)
    turn = rotation_about("y", steps * 0.3)
    k = intrinsics_from_fov(160, 96, 65).repeat(49, 1, 1)
    around = Trajectory(invert_rigid(rigid(turn, torch.zeros(49, 3).double())), k, 160, 96)
    path = export_trajectory(around, tmp_path / "around", CHAN)
    angles = np.array([[float(x) for x in line.split()] for line in path.read_text().splitlines()])
    assert np.abs(np.diff(angles[:, 4:7], axis=0)).max() < 20


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("form", [WAN_FUN, CHAN])
def test_lenses_come_back_in_every_shape(
    tmp_path: Path, width: int, height: int, form: str
) -> None:
    before = move(width, height)
    written = export_trajectory(before, tmp_path / "x", form)
    after = import_trajectory(written, width=width, height=height, fps=24)
    torch.testing.assert_close(after.world_to_camera, before.world_to_camera, atol=1e-9, rtol=0)
    torch.testing.assert_close(after.intrinsics, before.intrinsics, atol=1e-6, rtol=0)
