"""Cameras of other programs: one camera written by hand in every format shows one picture."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mirage_core.errors import CacheFormatError, GeometryError, MirageError, TrajectoryError
from mirage_core.geometry.sources import geometry_from_da3
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid, rigid, rotation_about
from mirage_core.trajectories.exchange.formats import (
    FORMATS,
    RECAMMASTER,
    export_trajectory,
    import_trajectory,
)
from mirage_core.trajectories.exchange.load3d import (
    camera_of_frame,
    camera_pose,
    cameras_of_move,
    keyframes_of_cameras,
    vertical_fov,
)
from mirage_core.trajectories.fit import begin_at, resampled, retimed, scaled
from mirage_core.trajectories.keyframes import keyframe_trajectory

WIDTH, HEIGHT = 96, 64
GOLDEN = Path(__file__).parents[3] / "data" / "cameras" / "golden.png"

# The camera of all examples stands 1 to the right and 0.5 above the origin, is turned 30 degrees
# to the left, and sees 90 degrees from left to right.
HALF = math.sin(math.radians(30)), math.cos(math.radians(30))
QUARTER = math.sin(math.radians(15)), math.cos(math.radians(15))
YFOV = 2 * math.atan(HEIGHT / WIDTH)


def picture(trajectory: Trajectory, frame: int = 0) -> np.ndarray:
    """Coloured discs around the origin's view: red left, green right, blue above, white floor."""
    marks = [
        ((-2, 0, 4), (220, 40, 40)),
        ((1.5, 0.3, 5), (40, 200, 60)),
        ((0, -1.5, 4), (60, 90, 240)),
    ]
    marks += [((x / 2, 1.0, z), (200, 200, 200)) for x in range(-9, 5) for z in (2, 3, 4, 6)]
    canvas = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    world = torch.tensor([[*place, 1.0] for place, _ in marks], dtype=torch.float64)
    seen = (world @ trajectory.world_to_camera[frame].T)[:, :3]
    for index in seen[:, 2].argsort(descending=True).tolist():
        x, y, z = seen[index].tolist()
        if z <= 0.1:
            continue
        ray = torch.tensor([x / z, y / z, 1.0], dtype=torch.float64)
        u, v, _ = (trajectory.intrinsics[frame] @ ray).tolist()
        radius = (1.2 if index > 2 else 6) * 4 / z
        canvas[(columns - u) ** 2 + (rows - v) ** 2 < radius**2] = marks[index][1]
    return canvas


def expected() -> Trajectory:
    turn = rotation_about("y", torch.tensor([-math.radians(30)]).double())
    place = torch.tensor([[1.0, -0.5, 0.0]]).double()
    intrinsics = intrinsics_from_fov(WIDTH, HEIGHT, 90)[None]
    return Trajectory(invert_rigid(rigid(turn, place)), intrinsics, WIDTH, HEIGHT)


def colmap(folder: Path) -> Path:
    """World to camera, OpenCV axes: the inverse of a turn by -30 degrees about y (down)."""
    (folder / "cameras.txt").write_text("# list\n1 SIMPLE_PINHOLE 192 128 96 96 64\n")
    sine, cosine = HALF
    centre = (1.0, -0.5, 0.0)
    # R = [[c, 0, s], [0, 1, 0], [-s, 0, c]] and t = -R centre
    t = (-cosine * centre[0], -centre[1], sine * centre[0])
    qw, qy = QUARTER[1], QUARTER[0]
    line = f"1 {qw} 0 {qy} 0 {t[0]} {t[1]} {t[2]} 1 a b.png\n12.0 7.5 -1\n"
    (folder / "images.txt").write_text("#   IMAGE_ID, QW, QX, QY, QZ, TX ...\n" + line)
    return folder / "images.txt"


def realestate(folder: Path) -> Path:
    sine, cosine = HALF
    rows = [cosine, 0, sine, -cosine, 0, 1, 0, 0.5, -sine, 0, cosine, sine]
    lens = [0.5, 0.5 * WIDTH / HEIGHT, 0.5, 0.5, 0, 0]
    path = folder / "clip.txt"
    path.write_text(
        "https://example.org/watch\n" + " ".join(map(str, [33366667, *lens, *rows])) + "\n"
    )
    return path


def transforms(folder: Path) -> Path:
    """Blender: z is up, the world's forward is y, the camera looks along its own -z."""
    sine, cosine = HALF
    matrix = [[cosine, 0, sine, 1], [sine, 0, -cosine, 0], [0, 1, 0, 0.5], [0, 0, 0, 1]]
    path = folder / "transforms.json"
    frames = [{"file_path": "./train/r_0", "rotation": 0.01, "transform_matrix": matrix}]
    path.write_text(json.dumps({"camera_angle_x": math.pi / 2, "frames": frames}))
    return path


def gltf(folder: Path) -> Path:
    """glTF: y is up, forward is -z; the camera hangs in a parent that carries its place."""
    path = folder / "scene.gltf"
    document = {
        "asset": {"version": "2.0"},
        "nodes": [
            {"name": "Lamp"},
            {"name": "Rig", "translation": [1, 0.5, 0], "scale": [2, 2, 2], "children": [2]},
            {"name": "Camera", "rotation": [0, QUARTER[0], 0, QUARTER[1]], "camera": 0},
        ],
        "cameras": [
            {"type": "perspective", "perspective": {"yfov": YFOV, "znear": 0.1}},
        ],
    }
    path.write_text(json.dumps(document))
    return path


def mirage(folder: Path) -> Path:
    sine, cosine = HALF
    matrix = [[cosine, 0, -sine, 1], [0, 1, 0, -0.5], [sine, 0, cosine, 0], [0, 0, 0, 1]]
    document = {
        "format": "mirage-trajectory", "version": 1,
        "convention": {
            "axes": "opencv", "matrix": "camera_to_world", "intrinsics": "pixels"
        },
        "width": WIDTH, "height": HEIGHT, "fps": 24,
        "frames": [{"matrix": matrix, "intrinsics": [48, 48, 48, 32]}],
    }  # fmt: skip
    path = folder / "path.json"
    path.write_text(json.dumps(document))
    return path


def load3d() -> dict:
    sine, cosine = HALF
    position = {"x": 1, "y": 0.5, "z": 0}
    target = {"x": 1 - 3 * sine, "y": 0.5, "z": -3 * cosine}
    fov = math.degrees(YFOV)
    return {"position": position, "target": target, "fov": fov, "cameraType": "perspective"}


def test_the_golden_picture() -> None:
    assert np.array_equal(picture(expected()), np.asarray(Image.open(GOLDEN)))


@pytest.mark.parametrize("write", [colmap, realestate, transforms, gltf, mirage])
def test_every_format_shows_the_same_picture(tmp_path: Path, write) -> None:
    path = import_trajectory(write(tmp_path), width=WIDTH, height=HEIGHT, fps=24)
    torch.testing.assert_close(path.world_to_camera, expected().world_to_camera, atol=1e-6, rtol=0)
    assert np.array_equal(picture(path), np.asarray(Image.open(GOLDEN)))


AXES = {"opencv": 1, "opengl": -1}


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("matrix", ["camera_to_world", "world_to_camera"])
def test_matrices_of_every_convention_show_the_same_picture(
    tmp_path: Path, axes: str, matrix: str
) -> None:
    sine, cosine = HALF
    down = AXES[axes]
    if matrix == "camera_to_world":
        rows = [
            [cosine, 0, -sine * down, 1], [0, down, 0, -0.5], [sine, 0, cosine * down, 0],
        ]  # fmt: skip
    else:
        rows = [
            [cosine, 0, sine, -cosine], [0, down, 0, 0.5 * down],
            [-sine * down, 0, cosine * down, sine * down],
        ]  # fmt: skip
    path = mirage(tmp_path)
    document = json.loads(path.read_text())
    document["convention"] |= {"axes": axes, "matrix": matrix}
    document["frames"][0]["matrix"] = [*rows, [0, 0, 0, 1]]
    path.write_text(json.dumps(document))
    found = import_trajectory(path, width=WIDTH, height=HEIGHT, fps=24)
    assert np.array_equal(picture(found), np.asarray(Image.open(GOLDEN)))


def test_cameras_of_depth_anything_show_the_same_picture() -> None:
    """World to camera with OpenCV axes; the lens is told for the network's smaller input."""
    sine, cosine = HALF
    pose = [[cosine, 0, sine, -cosine], [0, 1, 0, 0.5], [-sine, 0, cosine, sine]]
    lens = [[21, 0, 21], [0, 21, 14], [0, 0, 1]]
    da3 = {
        "depth": torch.ones(2, HEIGHT, WIDTH),
        "extrinsics": torch.tensor([[torch.eye(4)[:3].tolist(), pose]]),
        "intrinsics": torch.tensor([[lens, lens]]).float(),
    }
    geometry = geometry_from_da3(da3, fov=50)
    found = Trajectory(
        geometry.world_to_camera, geometry.intrinsics_for((HEIGHT, WIDTH)), WIDTH, HEIGHT
    )
    assert np.array_equal(picture(found, 1), np.asarray(Image.open(GOLDEN)))


@pytest.mark.parametrize("turned", [False, True])
def test_comfyui_cameras_show_the_same_picture(turned: bool) -> None:
    camera = load3d()
    if turned:
        # The rotation decides, whatever the target says.
        camera |= {"quaternion": {"x": 0, "y": QUARTER[0], "z": 0, "w": QUARTER[1]}}
        camera["target"] = {"x": 0, "y": 9, "z": 0}
    keys = keyframes_of_cameras([camera], 5, width=WIDTH, height=HEIGHT)
    path = keyframe_trajectory(
        keys, 5, intrinsics=expected().intrinsics[0], width=WIDTH, height=HEIGHT
    )
    assert np.array_equal(picture(path, 4), np.asarray(Image.open(GOLDEN)))


def moves(frames: int, seed: int) -> Trajectory:
    random = torch.Generator().manual_seed(seed)
    turn = torch.eye(3, dtype=torch.float64)
    rotations, places = [], []
    place = torch.zeros(3, dtype=torch.float64)
    for _ in range(frames):
        angles = torch.randn(3, generator=random, dtype=torch.float64) * 0.2
        for axis, angle in zip("xyz", angles, strict=True):
            turn = turn @ rotation_about(axis, angle)
        place = place + torch.randn(3, generator=random, dtype=torch.float64) * 0.1
        rotations.append(turn)
        places.append(place)
    zoom = 1 + torch.rand(frames, 1, 1, generator=random, dtype=torch.float64)
    k = intrinsics_from_fov(160, 96, 65).repeat(frames, 1, 1)
    k[:, :2, :2] *= zoom
    poses = invert_rigid(rigid(torch.stack(rotations), torch.stack(places)))
    return Trajectory(poses, k, 160, 96, 24)


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=15, deadline=None)
@given(frames=st.integers(1, 12), seed=st.integers(0, 10**6))
def test_round_trips_are_exact(tmp_path_factory, form: str, frames: int, seed: int) -> None:
    before = moves(frames, seed)
    written = export_trajectory(before, tmp_path_factory.mktemp("cameras") / "move", form)
    after = import_trajectory(written, width=160, height=96, fps=24)
    torch.testing.assert_close(after.world_to_camera, before.world_to_camera, atol=1e-6, rtol=0)
    # ReCamMaster's file has no lens.
    if form != RECAMMASTER:
        torch.testing.assert_close(after.intrinsics, before.intrinsics, atol=1e-6, rtol=1e-9)


def test_comfyui_cameras_round_trip() -> None:
    before = moves(6, 3)
    for frame in range(6):
        camera = camera_of_frame(before, frame)
        torch.testing.assert_close(
            camera_pose(camera), before.world_to_camera[frame], atol=1e-9, rtol=0
        )
        half = math.tan(math.radians(vertical_fov(camera)) / 2)
        assert 96 / 2 / half == pytest.approx(float(before.intrinsics[frame, 1, 1]))


def test_a_move_goes_through_a_list_of_comfyui_cameras_and_back() -> None:
    before = moves(9, 7)
    cameras = cameras_of_move(before)
    assert len(cameras) == 3
    keys = keyframes_of_cameras(cameras, 9, width=160, height=96)
    after = keyframe_trajectory(keys, 9, intrinsics=before.intrinsics[0], width=160, height=96)
    torch.testing.assert_close(
        after.world_to_camera[::4], before.world_to_camera[::4], atol=1e-6, rtol=0
    )
    torch.testing.assert_close(after.intrinsics[::4], before.intrinsics[::4], atol=1e-6, rtol=1e-9)


def test_a_list_of_cameras_is_a_path_through_all_of_them() -> None:
    before = moves(4, 5)
    cameras = [camera_of_frame(before, frame) for frame in range(4)]
    keys = keyframes_of_cameras(cameras, 13, width=160, height=96)
    assert [key.frame for key in keys] == [0, 4, 8, 12]
    path = keyframe_trajectory(keys, 13, intrinsics=before.intrinsics[0], width=160, height=96)
    torch.testing.assert_close(path.positions[::4], before.positions, atol=1e-6, rtol=0)


def test_a_wider_picture_keeps_the_horizontal_view(tmp_path: Path) -> None:
    path = import_trajectory(transforms(tmp_path), width=192, height=96, fps=24)
    assert float(path.intrinsics[0, 0, 0]) == pytest.approx(96)
    assert float(path.intrinsics[0, 1, 1]) == pytest.approx(96)
    own = import_trajectory(mirage(tmp_path), width=192, height=96, fps=24)
    torch.testing.assert_close(own.intrinsics, path.intrinsics)


def test_an_exported_move_plays_at_other_frame_rates(tmp_path: Path) -> None:
    """Other programs' files have no intrinsics of ours: the animation is sampled by time."""
    before = moves(9, 8)
    file = export_trajectory(before, tmp_path / "move", "glTF binary")
    content = file.read_bytes()
    (length,) = struct.unpack_from("<I", content, 12)
    document = json.loads(content[20 : 20 + length])
    del document["cameras"][0]["extras"]
    text = json.dumps(document).encode().ljust(length)
    file.write_bytes(content[:20] + text + content[20 + length :])
    double = import_trajectory(file, width=160, height=96, fps=48)
    assert len(double) == 17
    torch.testing.assert_close(double.positions[::2], before.positions, atol=1e-5, rtol=0)


class TestEdits:
    def test_a_move_can_begin_anywhere(self) -> None:
        before = moves(5, 1)
        start = invert_rigid(moves(1, 2).world_to_camera)[0]
        after = begin_at(before, start)
        assert torch.equal(after.world_to_camera[0], invert_rigid(start))
        for one, other in ((before, after),):
            first = one.world_to_camera @ invert_rigid(one.world_to_camera[:1])
            second = other.world_to_camera @ invert_rigid(other.world_to_camera[:1])
            torch.testing.assert_close(first, second)
        assert torch.equal(begin_at(before).world_to_camera[0], torch.eye(4).double())

    def test_a_move_can_grow(self) -> None:
        before = moves(5, 1)
        after = scaled(before, 3)
        torch.testing.assert_close(
            after.positions - after.positions[0], 3 * (before.positions - before.positions[0])
        )

    def test_a_move_can_take_longer(self) -> None:
        before = moves(5, 1)
        after = retimed(before, 17)
        torch.testing.assert_close(after.world_to_camera[::4], before.world_to_camera)
        with pytest.raises(MirageError):
            retimed(before, 18)
        with pytest.raises(TrajectoryError, match="single camera"):
            retimed(moves(1, 1), 5)


    @pytest.mark.parametrize(("fps", "frames"), [(12, 33), (24, 65), (48, 129), (16, 45), (0.2, 5)])
    def test_a_move_is_as_long_at_another_frame_rate(self, fps: float, frames: int) -> None:
        before = retimed(moves(5, 1), 65)
        after = resampled(before, fps)
        assert (after.fps, len(after)) == (fps, frames)
        for end in (0, -1):
            torch.testing.assert_close(after.world_to_camera[end], before.world_to_camera[end])
        assert before.fps == 24
        with pytest.raises(MirageError, match="frame rate"):
            resampled(before, 0)


BAD = {
    "images.txt": "# QW, QX, QY, QZ\n1 1 0 0 0 0 0 0 7 a.png\n\n",
    "clip.txt": "https://x\n1 2 3\n",
    "nan.txt": "x\n0 nan 1 .5 .5 0 0 1 0 0 0 0 1 0 0 0 0 1 0\n",
    "empty.txt": "",
    "none.json": '{"frames": []}',
    "word.json": '{"frames": [{"transform_matrix": [["a", 0, 0, 0]]}]}',
    "lens.json": '{"frames": [{"transform_matrix": [[1,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,0,1]]}]}',
    "cut.gltf": '{"nodes": [{"camera": 0',
    "far.gltf": '{"nodes": [{"camera": 3}], "cameras": []}',
    "out.gltf": '{"buffers": [{"uri": "scene.bin"}]}',
    "still.gltf": '{"nodes": [{"name": "Cube"}]}',
    "odd.bin": "",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "cameras.txt").write_text("1 PINHOLE 10 10 5 5 5 5\n")
    (tmp_path / name).write_text(BAD[name])
    with pytest.raises((CacheFormatError, TrajectoryError)):
        import_trajectory(tmp_path / name, width=96, height=64, fps=24)


def test_a_cut_binary_is_refused(tmp_path: Path) -> None:
    file = export_trajectory(moves(9, 1), tmp_path / "move", "glTF binary")
    for size in (3, 30, 700, len(file.read_bytes()) - 5):
        (tmp_path / "cut.glb").write_bytes(file.read_bytes()[:size])
        with pytest.raises(CacheFormatError):
            import_trajectory(tmp_path / "cut.glb", width=96, height=64, fps=24)


def test_orthographic_cameras_are_refused() -> None:
    with pytest.raises(GeometryError, match="orthographic"):
        camera_pose(load3d() | {"cameraType": "orthographic"})
    with pytest.raises(CacheFormatError):
        keyframes_of_cameras([{"position": "here"}], 5, width=96, height=64)
    with pytest.raises(GeometryError, match="no viewing direction"):
        camera_pose(load3d() | {"target": load3d()["position"]})
