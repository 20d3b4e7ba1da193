"""Lists of poses of other programs: one camera written by hand shows one place in each."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mirage_core.errors import CacheFormatError, GeometryError
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid, rigid, rotation_about
from mirage_core.trajectories.exchange.camera_file import CameraFile, Wanted
from mirage_core.trajectories.exchange.formats import import_trajectory, read_cameras

WIDTH, HEIGHT = 96, 64
WANTED = Wanted(WIDTH, HEIGHT, 24.0, fov=90.0)

# The camera of all examples stands 1 to the right and 0.5 above the origin, is turned 30 degrees
# to the left, and sees 90 degrees from left to right.
SIN, COS = math.sin(math.radians(30)), math.cos(math.radians(30))
HALF_SIN, HALF_COS = math.sin(math.radians(15)), math.cos(math.radians(15))
VFOV = math.degrees(2 * math.atan(HEIGHT / WIDTH))
TO_WORLD = [COS, 0, -SIN, 1, 0, 1, 0, -0.5, SIN, 0, COS, 0]
TO_CAMERA = [COS, 0, SIN, -COS, 0, 1, 0, 0.5, -SIN, 0, COS, SIN]
LENS = [0.5, 0.5 * WIDTH / HEIGHT, 0.5, 0.5, 0, 0]


def line(*values: float) -> str:
    return " ".join(map(str, values)) + "\n"


def expected() -> Trajectory:
    turn = rotation_about("y", torch.tensor([-math.radians(30)]).double())
    place = torch.tensor([[1.0, -0.5, 0.0]]).double()
    intrinsics = intrinsics_from_fov(WIDTH, HEIGHT, 90)[None]
    return Trajectory(invert_rigid(rigid(turn, place)), intrinsics, WIDTH, HEIGHT)


def tum(folder: Path) -> Path:
    path = folder / "groundtruth.txt"
    head = "# timestamp tx ty tz qx qy qz qw\n"
    path.write_text(head + line(1305031102.17, 1, -0.5, 0, 0, -HALF_SIN, 0, HALF_COS))
    return path


def kitti(folder: Path) -> Path:
    path = folder / "00.txt"
    path.write_text(line(*TO_WORLD))
    return path


def matrices(folder: Path) -> Path:
    """4 x 4 in a line, as Replica has them, with the number of the frame as KITTI-360 has it."""
    path = folder / "traj.txt"
    path.write_text(line(7, *TO_WORLD, 0, 0, 0, 1))
    return path


def wan_fun(folder: Path) -> Path:
    path = folder / "pan.txt"
    path.write_text("\n" + line(*LENS, *TO_CAMERA))
    return path


def wan_fun_commas(folder: Path) -> Path:
    path = folder / "pan.txt"
    path.write_text("\n0," + ",".join(map(str, [*LENS, *TO_CAMERA])) + "\n")
    return path


def chan(folder: Path) -> Path:
    """y up: a turn to the left is positive."""
    path = folder / "camera.chan"
    path.write_text(f"1\t1\t0.5\t0\t0\t30\t0\t{VFOV}\n")
    return path


def chan_in_text(folder: Path) -> Path:
    return chan(folder).rename(folder / "camera.txt")


def camera_path(folder: Path) -> Path:
    """z up, and the camera looks along its own -z; 16 numbers row by row."""
    flat = [COS, 0, SIN, 1, SIN, 0, -COS, 0, 0, 1, 0, 0.5, 0, 0, 0, 1]
    entry = {"camera_to_world": flat, "fov": VFOV, "aspect": WIDTH / HEIGHT}
    path = folder / "camera_path.json"
    document = {
        "camera_type": "perspective", "render_height": 128, "render_width": 192, "fps": 24,
        "seconds": 4, "keyframes": [], "camera_path": [entry],
    }  # fmt: skip
    path.write_text(json.dumps(document))
    return path


def motionctrl(folder: Path) -> Path:
    path = folder / "pose.json"
    path.write_text(json.dumps([TO_CAMERA]))
    return path


def motionctrl_rows(folder: Path) -> Path:
    path = folder / "pose.json"
    path.write_text(json.dumps([[TO_CAMERA[:4], TO_CAMERA[4:8], TO_CAMERA[8:]]]))
    return path


def cameractrl(folder: Path) -> Path:
    path = folder / "pose.json"
    path.write_text(json.dumps([[*LENS, *TO_CAMERA]]))
    return path


def recammaster(folder: Path) -> Path:
    """x forward, y right, z up, centimetres; vectors are rows, the place is the last one."""
    text = f"[{COS} {-SIN} 0 0] [{SIN} {COS} 0 0] [0 0 1 0] [0 100 50 1] "
    path = folder / "camera_extrinsics.json"
    path.write_text(json.dumps({"frame0": {"cam01": text}}))
    return path


def unreal(folder: Path) -> Path:
    """Yaw is positive to the right."""
    entry = {"position": [0, 100, 50], "rotation": [0, 0, -30]}
    path = folder / "AncientTowns_0.json"
    path.write_text(json.dumps({"CineCameraActor": {"0": entry}}))
    return path


def splatting(folder: Path) -> Path:
    rotation = [TO_WORLD[:3], TO_WORLD[4:7], TO_WORLD[8:11]]
    entry = {
        "id": 0, "img_name": "a1", "width": 192, "height": 128, "position": [1, -0.5, 0],
        "rotation": rotation, "fx": 96, "fy": 96,
    }  # fmt: skip
    path = folder / "cameras.json"
    path.write_text(json.dumps([entry]))
    return path


def binary(folder: Path, model: int = 1, extra: tuple[float, ...] = ()) -> Path:
    lens = (96.0, 96.0, 64.0) if model in (0, 2, 3, 8, 9) else (96.0, 96.0, 96.0, 64.0)
    values = (*lens, *extra)
    (folder / "cameras.bin").write_bytes(
        struct.pack(f"<QIiQQ{len(values)}d", 1, 1, model, 192, 128, *values)
    )
    pose = (HALF_COS, 0, HALF_SIN, 0, TO_CAMERA[3], TO_CAMERA[7], TO_CAMERA[11])
    image = struct.pack("<I7dI", 1, *pose, 1) + b"a b.png\0"
    points = struct.pack("<Q2dq", 1, 12.0, 7.5, -1)
    (folder / "images.bin").write_bytes(struct.pack("<Q", 1) + image + points)
    return folder / "images.bin"


WRITERS = [
    tum, kitti, matrices, wan_fun, wan_fun_commas, chan, chan_in_text, camera_path, motionctrl,
    motionctrl_rows, cameractrl, recammaster, unreal, splatting, binary,
]  # fmt: skip


@pytest.mark.parametrize("write", WRITERS)
def test_every_list_of_poses_places_the_same_camera(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    found = read_cameras(write(tmp_path), WANTED).trajectory
    torch.testing.assert_close(found.world_to_camera, expected().world_to_camera, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.intrinsics, expected().intrinsics, atol=1e-4, rtol=0)


def axes(found: CameraFile) -> list[list[float]]:
    """Right, down and forward of the first camera in the world."""
    return found.trajectory.camera_to_world[0, :3, :3].T.round(decimals=6).tolist()


@pytest.mark.parametrize(
    ("angles", "right", "forward"),
    [
        # Names are Nuke's axes; the project's y and z point the other way.
        ((90, 90, 0), [0, 0, 1], [0, -1, 0]),
        ((90, 0, 90), [0, 0, -1], [0, -1, 0]),
        ((0, 90, 90), [0, -1, 0], [-1, 0, 0]),
    ],
)
def test_nuke_turns_about_z_then_x_then_y(
    tmp_path: Path, angles: tuple[int, ...], right: list[int], forward: list[int]
) -> None:
    path = tmp_path / "a.chan"
    path.write_text(line(1, 0, 0, 0, *angles, 40))
    found = axes(read_cameras(path, WANTED))
    assert found[0] == pytest.approx(right, abs=1e-6)
    assert found[2] == pytest.approx(forward, abs=1e-6)


def test_nuke_frames_between_are_interpolated(tmp_path: Path) -> None:
    path = tmp_path / "a.chan"
    path.write_text(line(9, 0.8, 0, 0, 0, 40, 0, 30) + line(1, 0, 0, 0, 0, 0, 0, 50))
    found = read_cameras(path, WANTED)
    assert found.trajectory.positions[:, 0].tolist() == pytest.approx(np.arange(9) / 10)
    turns = torch.rad2deg(torch.atan2(*found.trajectory.camera_to_world[:, [0, 2], 2].T)).tolist()
    assert turns == pytest.approx(-np.arange(9) * 5.0)
    assert "7 frames between" in " ".join(found.notes)


@pytest.mark.parametrize("columns", [7, 8])
def test_nuke_without_a_lens_tells_what_is_taken(tmp_path: Path, columns: int) -> None:
    path = tmp_path / "a.chan"
    rows = [[n, n / 10, 0, 0, 0, 0, 0, 40][:columns] for n in (1, 2)]
    path.write_text("".join(line(*row) for row in rows))
    found = read_cameras(path, WANTED)
    assert found.states_lens == (columns == 8)
    assert ("90 degrees" in " ".join(found.notes)) == (columns == 7)


@pytest.mark.parametrize(
    ("rotation", "axis", "direction"),
    [
        ((0, 30, 0), 2, [0, -SIN, COS]),  # Pitch up: forward rises.
        ((30, 0, 0), 0, [COS, SIN, 0]),  # Roll clockwise: right sinks.
        ((0, 0, 30), 2, [SIN, 0, COS]),  # Yaw: forward goes right.
    ],
)
def test_unreal_turns(
    tmp_path: Path, rotation: tuple[int, ...], axis: int, direction: list[float]
) -> None:
    path = tmp_path / "a.json"
    entry = {"position": [0, 0, 0], "rotation": rotation}
    path.write_text(json.dumps({"CineCameraActor": {"0": entry}}))
    assert axes(read_cameras(path, WANTED))[axis] == pytest.approx(direction, abs=1e-6)


class TestViewCrafter:
    def read(self, tmp_path: Path, text: str) -> torch.Tensor:
        (tmp_path / "loop.txt").write_text(text)
        found = read_cameras(tmp_path / "loop.txt", WANTED)
        assert len(found.trajectory) == 25
        assert not found.states_lens
        return found.trajectory.positions

    def test_azimuth_goes_right_around_the_middle(self, tmp_path: Path) -> None:
        places = self.read(tmp_path, "0 90\n0 0\n0 0\n")
        assert places.norm(dim=1).tolist() == pytest.approx([1.0] * 25)
        high, far = math.sin(math.radians(5)), math.cos(math.radians(5))
        assert places[0].tolist() == pytest.approx([0, -high, -far])
        assert places[-1].tolist() == pytest.approx([far, -high, 0], abs=1e-9)

    def test_the_camera_looks_at_the_middle(self, tmp_path: Path) -> None:
        self.read(tmp_path, "0 3 10 20 17 10 0\n0 -2 -8 -6 0 2 8 6 0\n0 0\n")
        move = read_cameras(tmp_path / "loop.txt", WANTED).trajectory
        forward = move.camera_to_world[:, :3, 2]
        torch.testing.assert_close(forward, -move.positions, atol=1e-9, rtol=0)

    def test_elevation_and_distance(self, tmp_path: Path) -> None:
        up = self.read(tmp_path, "0 0\n0 -30\n0 0\n")
        assert float(up[-1, 1]) == pytest.approx(-math.sin(math.radians(35)))
        near = self.read(tmp_path, "0 0\n0 0\n0 -0.5\n")
        assert float(near[-1, 2]) == pytest.approx(float(near[0, 2]) / 2)

    def test_three_lines_of_other_formats_are_these(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_text("\n" + line(0, *LENS, *TO_CAMERA) * 3)
        assert read_cameras(path, WANTED).format == "RealEstate10K"
        path.write_text(line(*TO_WORLD) * 3)
        assert read_cameras(path, WANTED).format == "KITTI"


def test_times_decide_the_order(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    rows = {time: line(time, time / 10, 0, 0, 0, 0, 0, 1) for time in (3.5, 1.5, 11.5, 2.5)}
    path.write_text("".join(rows.values()))
    found = read_cameras(path, WANTED)
    assert found.trajectory.positions[:, 0].tolist() == pytest.approx([0.15, 0.25, 0.35, 1.15])
    assert found.notes[0] == "4 poses from time 1.5 on, over 10: one a frame."


def test_a_camera_of_recammaster_is_chosen(tmp_path: Path) -> None:
    def text(x: float) -> str:
        return f"[1 0 0 0] [0 1 0 0] [0 0 1 0] [0 {x} 0 1] "

    frames = {f"frame{n}": {"cam10": text(-n), "cam02": text(10 * n)} for n in (0, 10, 2, 1)}
    path = tmp_path / "camera_extrinsics.json"
    path.write_text(json.dumps(frames))
    first = read_cameras(path, WANTED)
    assert first.cameras == ("cam02", "cam10")
    assert "cam02 is played" in " ".join(first.notes)
    assert first.trajectory.positions[:, 0].tolist() == pytest.approx([0, 0.1, 0.2, 1.0])
    other = import_trajectory(path, width=96, height=64, fps=24, camera="cam10")
    assert other.positions[:, 0].tolist() == pytest.approx([0, -0.01, -0.02, -0.1])
    with pytest.raises(CacheFormatError, match="cam02, cam10"):
        import_trajectory(path, width=96, height=64, fps=24, camera="cam03")


def test_files_of_one_camera_have_no_others(tmp_path: Path) -> None:
    with pytest.raises(CacheFormatError, match="one camera"):
        import_trajectory(kitti(tmp_path), width=96, height=64, fps=24, camera="left")


def test_nerfstudio_tells_its_frame_rate_and_panoramas(tmp_path: Path) -> None:
    path = camera_path(tmp_path)
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"fps": 30}))
    assert read_cameras(path, WANTED).trajectory.fps == 30
    for kind in ("equirectangular", "fisheye", "omnidirectional", "vr180"):
        path.write_text(json.dumps(document | {"camera_type": kind}))
        with pytest.raises(CacheFormatError, match="(panorama|fisheye) camera"):
            read_cameras(path, WANTED)


@pytest.mark.parametrize(
    ("model", "extra"),
    [(0, ()), (2, (0.0,)), (3, (0.0, 0.0)), (4, (0.0,) * 4), (6, (0.0,) * 8)],
)
def test_binary_models_of_every_perspective_lens(
    tmp_path: Path, model: int, extra: tuple[float, ...]
) -> None:
    found = read_cameras(binary(tmp_path, model, extra), WANTED)
    torch.testing.assert_close(
        found.trajectory.world_to_camera, expected().world_to_camera, atol=1e-6, rtol=0
    )
    torch.testing.assert_close(found.trajectory.intrinsics, expected().intrinsics)
    assert found.notes == ()


@pytest.mark.parametrize("model", [5, 7, 8, 9, 10, 11, 17])
def test_binary_models_of_other_lenses_are_refused(tmp_path: Path, model: int) -> None:
    with pytest.raises(CacheFormatError, match="fisheye|camera model number 17"):
        read_cameras(binary(tmp_path, model, (0.0,) * 12), WANTED)


def test_a_colmap_folder_may_be_named(tmp_path: Path) -> None:
    binary(tmp_path)
    for path in (tmp_path, tmp_path / "cameras.bin"):
        assert len(read_cameras(path, WANTED).trajectory) == 1
    with pytest.raises(CacheFormatError, match="without a COLMAP model"):
        (tmp_path / "empty").mkdir()
        read_cameras(tmp_path / "empty", WANTED)


class TestRotations:
    def test_scale_leaves_places_where_they_are(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        scaled = [v if n % 4 == 3 else 0.35 * v for n, v in enumerate(TO_WORLD)]
        path.write_text(line(*scaled))
        found = read_cameras(path, WANTED)
        torch.testing.assert_close(
            found.trajectory.world_to_camera, expected().world_to_camera, atol=1e-7, rtol=0
        )
        assert "scaled by 0.35" in found.notes[0]

    def test_scale_of_world_to_camera_is_in_the_place_as_well(self, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        path.write_text(json.dumps([[2 * v for v in TO_CAMERA]]))
        torch.testing.assert_close(
            read_cameras(path, WANTED).trajectory.world_to_camera,
            expected().world_to_camera,
            atol=1e-7,
            rtol=0,
        )

    def test_rounded_numbers_are_taken_and_told(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_text(line(0.906, 0, -0.423, 1, 0, 1, 0, 0, 0.423, 0, 0.906, 0))
        found = read_cameras(path, WANTED)
        turn = found.trajectory.camera_to_world[0, :3, :3]
        torch.testing.assert_close(turn @ turn.T, torch.eye(3).double())
        assert float(turn[0, 2]) == pytest.approx(-math.sin(math.radians(25)), abs=1e-3)
        assert "rounded" in found.notes[0]

    @pytest.mark.parametrize(
        "rows",
        [
            [1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0],  # Stretched along one axis.
            [1, 0.05, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0],  # Sheared.
            [-1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0],  # Mirrored.
            [0] * 12,
            [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0],  # Flat.
        ],
    )
    def test_what_is_no_rotation_is_refused(self, tmp_path: Path, rows: list[float]) -> None:
        path = tmp_path / "a.txt"
        path.write_text(line(*rows))
        with pytest.raises(GeometryError):
            read_cameras(path, WANTED)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("shot.fbx", ["FBX", "Blender", "Maya", "Houdini", "glTF"]),
        ("shot.usdc", ["USD", "glTF"]),
        ("shot.abc", ["Alembic", "glTF"]),
        ("shot.xyz", ["glTF (.glb, .gltf)", "TUM", ".chan"]),
        ("notes.txt", ["glTF (.glb, .gltf)", "TUM", ".chan"]),
        ("config.json", ["glTF (.glb, .gltf)", "TUM", ".chan"]),
        ("empty.txt", ["an empty file"]),
    ],
)
def test_other_files_are_answered_by_what_is_read(
    tmp_path: Path, name: str, words: list[str]
) -> None:
    texts = {"notes.txt": "Dear diary\nit rains\n", "config.json": '{"a": 1}'}
    (tmp_path / name).write_text(texts.get(name, ""))
    with pytest.raises(CacheFormatError) as caught:
        read_cameras(tmp_path / name, WANTED)
    for word in words:
        assert word in str(caught.value)


def test_three_sideways_poses_of_kitti_are_three_poses(tmp_path: Path) -> None:
    """Not ViewCrafter's three lines, which begin with 0 as well."""
    path = tmp_path / "k.txt"
    path.write_text("".join(line(0, 0, 1, x, 0, 1, 0, 0, -1, 0, 0, 0) + "\n" for x in range(3)))
    found = read_cameras(path, WANTED).trajectory
    assert found.positions[:, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("stem", ["n" * 300, "a\0", "\ud800"])
@pytest.mark.parametrize("suffix", [".json", ".txt", ".glb"])
def test_names_that_no_file_can_have_are_told(stem: str, suffix: str) -> None:
    with pytest.raises(CacheFormatError):
        read_cameras(Path(stem + suffix), WANTED)
