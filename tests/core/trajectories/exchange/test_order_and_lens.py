"""The order of a file's frames, the cameras of a rig, and lenses that are no pinholes."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from mirage_core.errors import CacheFormatError
from mirage_core.trajectories.exchange.camera_file import CameraFile, Wanted
from mirage_core.trajectories.exchange.formats import import_trajectory, read_cameras
from mirage_core.trajectories.exchange.frame_order import play_order

WANTED = Wanted(96, 64, 24.0)


def colmap(
    folder: Path, names: Sequence[str], lens: str = "PINHOLE 192 128 96 96 96 64", gap: str = "\n"
) -> Path:
    """A model whose picture n stands at x = n / 10."""
    (folder / "cameras.txt").write_text(f"# list\n1 {lens}\n")
    lines = [f"{n + 1} 1 0 0 0 {-n / 10} 0 0 1 {name}\n{gap}" for n, name in enumerate(names)]
    (folder / "images.txt").write_text("# IMAGE_ID, QW, QX, QY, QZ\n" + "".join(lines))
    return folder / "images.txt"


def transforms(folder: Path, names: Sequence[str | None], **lens: object) -> Path:
    """Frame n of the file stands at x = n / 10."""
    frames = []
    for n, name in enumerate(names):
        matrix = [[1, 0, 0, n / 10], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
        frames.append({"transform_matrix": matrix} | ({"file_path": name} if name else {}))
    document = {"w": 192, "h": 128, "fl_x": 96.0} | lens | {"frames": frames}
    (folder / "transforms.json").write_text(json.dumps(document))
    return folder / "transforms.json"


def splatting(folder: Path, names: Sequence[str]) -> Path:
    entries = [
        {
            "img_name": name, "width": 192, "height": 128, "fx": 96, "fy": 96,
            "position": [n / 10, 0, 0], "rotation": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        }
        for n, name in enumerate(names)
    ]  # fmt: skip
    (folder / "cameras.json").write_text(json.dumps(entries))
    return folder / "cameras.json"


def played(found: CameraFile) -> list[int]:
    """Numbers of the file's frames in the order of the path."""
    return [round(float(x) * 10) for x in found.trajectory.positions[:, 0]]


@pytest.mark.parametrize("write", [colmap, transforms, splatting])
class TestOneRuleForAllReaders:
    def test_numbers_count_by_value(self, tmp_path: Path, write) -> None:
        names = [f"images/frame{n}.jpg" for n in (1, 10, 11, 12, 2, 3, 9)]
        found = read_cameras(write(tmp_path, names), WANTED)
        assert played(found) == [0, 4, 5, 6, 1, 2, 3]
        assert found.notes == () and found.cameras == ()

    @pytest.mark.parametrize(
        "names",
        [
            ["right/1.png", "left/1.png", "right/2.png", "left/2.png"],
            ["right_0001.png", "left_0001.png", "right_0002.png", "left_0002.png"],
            ["cam2_0001.png", "cam1_0001.png", "cam2_0002.png", "cam1_0002.png"],
            ["0001_right.png", "0001_left.png", "0002_right.png", "0002_left.png"],
            ["r/right/7.png", "r/left/7.png", "r/right/8.png", "r/left/8.png"],
        ],
    )
    def test_cameras_of_a_rig_are_played_one_at_a_time(
        self, tmp_path: Path, write, names: list[str]
    ) -> None:
        path = write(tmp_path, names)
        found = read_cameras(path, WANTED)
        assert played(found) == [1, 3]
        first, second = found.cameras
        assert first in found.notes[0] and second in found.notes[0]
        other = import_trajectory(path, width=96, height=64, fps=24, camera=second)
        assert [round(float(x) * 10) for x in other.positions[:, 0]] == [0, 2]
        with pytest.raises(CacheFormatError, match="no camera of this name"):
            import_trajectory(path, width=96, height=64, fps=24, camera="middle")


@pytest.mark.parametrize(
    ("names", "frames"),
    [
        (["1.0.png", "1.05.png", "1.1.png", "1.15.png"], (0, 1, 2, 3)),
        (["1305031102.1.png", "1305031102.05.png", "1305031101.9.png"], (2, 1, 0)),
        (["0.75.png", "0.5.png", "0.25.png", "0.0.png"], (3, 2, 1, 0)),
        # Take 1, and frames that are counted.
        ([f"1.{number}.png" for number in (10, 9, 11, 8)], (3, 1, 0, 2)),
        ([f"1.{number}.png" for number in (1, 10, 2, 9, 3, 8, 4, 7, 5, 6)],
         (0, 2, 4, 6, 8, 9, 7, 5, 3, 1)),
    ],
)  # fmt: skip
def test_times_as_names_count_as_decimals(names: list[str], frames: tuple[int, ...]) -> None:
    assert play_order(names, "", "it").frames == frames


@pytest.mark.parametrize("names", [["left/1.png", "right/1.png"], ["cam1/1.png", "cam2/1.png"]])
def test_a_rig_may_have_one_picture_each(names: list[str]) -> None:
    assert play_order(names, "", "it").frames == (0,)
    assert play_order(names, names[1][:-6], "it").frames == (1,)


def test_pictures_without_numbers_keep_the_order_of_the_file(tmp_path: Path) -> None:
    assert played(read_cameras(transforms(tmp_path, ["c.png", "a.png", "b.png"]), WANTED)) == [
        0, 1, 2,
    ]  # fmt: skip
    assert played(read_cameras(transforms(tmp_path, ["3.png", None, "1.png"]), WANTED)) == [0, 1, 2]
    assert played(read_cameras(colmap(tmp_path, ["c.png", "a.png", "b.png"]), WANTED)) == [1, 2, 0]


@pytest.mark.parametrize(
    "names",
    [
        ["IMG_20230101_235959.jpg", "IMG_20230102_000001.jpg"],
        ["0009/rgb.png", "0010/rgb.png", "0011/rgb.png"],
        ["frame_0001_1920x1080.png", "frame_0002_1920x1080.png"],
        ["DSC_0003.jpg", "PANO_0004.jpg"],
        ["shot_v001.0009.exr", "shot_v001.0010.exr"],
        ["C:\\a\\9.png", "C:\\a\\10.png"],
        ["cam_9.png", "cam_10.png"],
        [f"{'9' * 5000}.png", f"1{'0' * 5000}.png"],
    ],
)
def test_pictures_of_one_camera_stay_together(names: list[str]) -> None:
    order = play_order(names[::-1], "", "it")
    assert order.frames == tuple(range(len(names)))[::-1]
    assert order.cameras == ()


@pytest.mark.parametrize("gap", ["\n", "", "12.5 7 -1 3 4 19\n", "1 2 3 " * 9 + "\n", "7 8 9\n"])
def test_second_lines_of_pictures_may_be_missing(tmp_path: Path, gap: str) -> None:
    names = ["1.png", "2.png", "a b 3.png", "4.png"]
    assert played(read_cameras(colmap(tmp_path, names, gap=gap), WANTED)) == [0, 1, 3, 2]


class TestLenses:
    @pytest.mark.parametrize(
        "lens",
        [
            "SIMPLE_PINHOLE 192 128 96 96 64",
            "SIMPLE_RADIAL 192 128 96 96 64 0",
            "RADIAL 192 128 96 96 64 0 0",
            "OPENCV 192 128 96 96 96 64 0 0 0 0",
            "FULL_OPENCV 192 128 96 96 96 64 0 0 0 0 0 0 0 0",
        ],
    )
    def test_zeros_are_no_distortion(self, tmp_path: Path, lens: str) -> None:
        found = read_cameras(colmap(tmp_path, ["1.png"], lens), WANTED)
        assert found.notes == () and found.corner_shift == 0
        assert float(found.trajectory.intrinsics[0, 0, 0]) == 48

    def test_little_distortion_is_told(self, tmp_path: Path) -> None:
        lens = "SIMPLE_RADIAL 5184 3888 3688.28 2592 1944 -0.00686798"
        found = read_cameras(colmap(tmp_path, ["1.png"], lens), WANTED)
        # r^2 of a corner is (2592^2 + 1944^2) / 3688.28^2 = 0.7717.
        assert found.corner_shift == pytest.approx(0.0053, abs=1e-5)
        assert found.notes == (
            "The lens distorts a little, a corner moves by 0.5%: taken as a pinhole.",
        )

    @pytest.mark.parametrize(
        ("numbers", "shift"),
        [
            # r^2 of a corner is 1 + 4 / 9.
            ("0.1 0 0 0 0 0 0 0", 0.1 * 13 / 9),
            ("0 0.1 0 0 0 0 0 0", 0.1 * (13 / 9) ** 2),
            ("0 0 0 0 0.1 0 0 0", 0.1 * (13 / 9) ** 3),
            ("0 0 0 0 0 0.1 0 0", 1 - 1 / (1 + 0.1 * 13 / 9)),
            ("0.1 0 0 0 0 0.1 0 0", 0),
        ],
    )
    def test_every_coefficient_moves_a_corner(
        self, tmp_path: Path, numbers: str, shift: float
    ) -> None:
        lens = f"FULL_OPENCV 192 128 96 96 96 64 {numbers}"
        found = read_cameras(colmap(tmp_path, ["1.png"], lens), WANTED)
        assert found.corner_shift == pytest.approx(shift, abs=1e-9)

    def test_tangential_distortion_moves_the_worst_corner(self, tmp_path: Path) -> None:
        lens = "OPENCV 192 128 96 96 96 64 0 0 0.05 0"
        found = read_cameras(colmap(tmp_path, ["1.png"], lens), WANTED)
        x, y, square = 1, 2 / 3, 13 / 9
        moved = ((2 * 0.05 * x * y) ** 2 + (0.05 * (square + 2 * y * y)) ** 2) ** 0.5
        assert found.corner_shift == pytest.approx(moved / square**0.5)

    @pytest.mark.parametrize(("k1", "warned"), [(0.0138, False), (0.0139, True), (-0.28, True)])
    def test_both_readers_have_one_limit(self, tmp_path: Path, k1: float, warned: bool) -> None:
        lens = f"SIMPLE_RADIAL 192 128 96 96 64 {k1}"
        files = (colmap(tmp_path, ["1.png"], lens), transforms(tmp_path, ["1.png"], k1=k1))
        one, other = (read_cameras(path, WANTED) for path in files)
        assert one.notes == other.notes
        assert one.corner_shift == pytest.approx(other.corner_shift)
        assert one.notes[0].startswith("Warning") == warned

    @pytest.mark.parametrize(
        ("model", "kind"),
        [
            ("EQUIRECTANGULAR", "panorama"), ("SPHERICAL", "panorama"),
            ("OMNIDIRECTIONALSTEREO_L", "panorama"), ("OPENCV_FISHEYE", "fisheye"),
            ("SIMPLE_RADIAL_FISHEYE", "fisheye"), ("FOV", "fisheye"), ("FISHEYE624", "fisheye"),
            ("ORTHOPHOTO", "orthographic"), ("SIMPLE_DIVISION", "unknown kind"),
        ],
    )  # fmt: skip
    def test_other_lenses_are_refused_by_name(self, tmp_path: Path, model: str, kind: str) -> None:
        lens = f"{model} 192 128 96 96 96 64 0 0 0 0"
        files = (
            colmap(tmp_path, ["1.png"], lens), transforms(tmp_path, ["1.png"], camera_model=model)
        )  # fmt: skip
        for path in files:
            with pytest.raises(CacheFormatError, match=kind) as caught:
                read_cameras(path, WANTED)
            assert model in str(caught.value)

    @pytest.mark.parametrize("key", ["is_fisheye", "equirectangular", "ftheta_p0"])
    def test_marks_of_instant_ngp_are_seen(self, tmp_path: Path, key: str) -> None:
        with pytest.raises(CacheFormatError, match="fisheye|panorama"):
            read_cameras(transforms(tmp_path, ["1.png"], **{key: 1}), WANTED)
        assert read_cameras(transforms(tmp_path, ["1.png"], is_fisheye=False), WANTED)

    def test_a_lens_without_a_size_or_focal_length_is_refused(self, tmp_path: Path) -> None:
        for lens in ({"fl_x": 0}, {"w": -1}, {"fl_x": None}, {"k1": "much"}):
            with pytest.raises(CacheFormatError):
                read_cameras(transforms(tmp_path, ["1.png"], **lens), WANTED)
        for text in ("PINHOLE 0 128 96 96 96 64", "PINHOLE 192 128 -9 96 96 64", "PINHOLE 192 128"):
            with pytest.raises(CacheFormatError):
                read_cameras(colmap(tmp_path, ["1.png"], text), WANTED)


@pytest.mark.parametrize("missing", [("w", "h"), ("w",), ("h",)])
@pytest.mark.parametrize("lens", [{"fl_x": 96.0}, {"camera_angle_x": 1.0, "cx": 90.0}])
def test_pixels_of_a_picture_of_no_size_are_refused(
    tmp_path: Path, missing: tuple[str, ...], lens: dict[str, float]
) -> None:
    """They would be taken for those of the picture that the move is for."""
    document = json.loads(transforms(tmp_path, ["1.png", "2.png"]).read_text())
    del document["fl_x"]
    for key in missing:
        del document[key]
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps(document | lens))
    with pytest.raises(CacheFormatError, match='"w" and "h"'):
        read_cameras(path, WANTED)


def test_a_fisheye_that_is_not_played_is_in_nobodys_way(tmp_path: Path) -> None:
    path = colmap(tmp_path, ["left/1.png", "right/1.png", "left/2.png", "right/2.png"])
    lines = path.read_text().replace(" 1 right/", " 2 right/")
    path.write_text(lines)
    cameras = tmp_path / "cameras.txt"
    cameras.write_text(cameras.read_text() + "2 OPENCV_FISHEYE 192 128 96 96 96 64 0 0 0 0\n")
    assert played(read_cameras(path, dataclasses.replace(WANTED, camera="left"))) == [0, 2]
    with pytest.raises(CacheFormatError, match="fisheye"):
        read_cameras(path, dataclasses.replace(WANTED, camera="right"))


def test_distortion_without_a_bound_is_told(tmp_path: Path) -> None:
    lens = "FULL_OPENCV 64 64 1e-60 1e-60 32 32 .1 .01 0 0 0 0 0 0"
    assert read_cameras(colmap(tmp_path, ["1.png"], lens), WANTED).corner_shift == math.inf
