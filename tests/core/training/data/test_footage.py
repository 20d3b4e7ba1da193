"""Footage with cameras and depth becomes shots; what does not fit together is refused."""

from __future__ import annotations

import dataclasses
import pickle
import random
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mirage_core.errors import CacheFormatError, GeometryError, MirageError, ShapeError
from mirage_core.geometry.camera import projection_matrices
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.geometry_io import load_geometry, save_geometry
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid
from mirage_core.rollout.video import write_clip
from mirage_core.scenes.scene import ProceduralScene
from mirage_core.training.data.build_clip import Shot
from mirage_core.training.data.fit import Fit
from mirage_core.training.data.footage import FootageSource
from mirage_core.training.data.footage_files import Footage, find_footage
from mirage_core.training.data.pipeline import BadShot, UnusedFrames
from mirage_core.training.data.scale import fit_scale, to_camera_units
from mirage_core.trajectories.exchange.formats import (
    COLMAP,
    REALESTATE,
    RECAMMASTER,
    export_trajectory,
)
from mirage_core.trajectories.presets import preset_trajectory
from tiny_clips import sliding_cameras

pytestmark = pytest.mark.rooms

WIDTH, HEIGHT, FRAMES = 128, 80, 71


@dataclasses.dataclass(frozen=True)
class Room:
    """A rendered shot with everything that footage can come with."""

    frames: Tensor
    depth: Tensor
    cameras: Trajectory

    @property
    def geometry(self) -> FrameGeometry:
        return FrameGeometry(
            self.depth, self.cameras.intrinsics, world_to_camera=self.cameras.world_to_camera
        )


@pytest.fixture(scope="module")
def room() -> Room:
    scene = ProceduralScene.from_seed(2, texture_size=64)
    cameras = preset_trajectory(
        "orbit",
        73,
        intrinsics=intrinsics_from_fov(WIDTH, HEIGHT, 65),
        width=WIDTH,
        height=HEIGHT,
        scene_depth=1.5,
        amount=0.6,
        start=scene.start_camera_to_world,
    ).select(slice(0, FRAMES))
    return Room(*scene.render(cameras), cameras)


@pytest.fixture
def folder(tmp_path: Path, room: Room) -> Path:
    """``home/a.mp4`` with cameras, depth and a caption beside it."""
    root = tmp_path / "home"
    root.mkdir()
    write_clip(root / "a.mp4", room.frames, 24)
    export_trajectory(room.cameras, root / "a", REALESTATE)
    save_geometry(room.geometry, root / "a.safetensors")
    (root / "a.caption.txt").write_text("a small\n room ")
    return root


def source(root: Path, **changes: object) -> FootageSource:
    return dataclasses.replace(FootageSource(root, 96, 64, shot_frames=33), **changes)


def shots(root: Path, **changes: object) -> list[Shot]:
    return [shot for shot in parts(root, **changes) if not isinstance(shot, UnusedFrames)]


def parts(root: Path, **changes: object) -> list[Shot | BadShot | UnusedFrames]:
    made = source(root, **changes)
    return [part for item in made.items() for part in made.load(item)]


def test_a_video_with_its_files_becomes_shots(folder, room) -> None:
    first, second = shots(folder)
    assert [shot.key for shot in (first, second)] == ["home/a.mp4/0", "home/a.mp4/1"]
    assert first.caption == "a small room"
    assert not first.exact
    assert first.frames.shape == (33, 64, 96, 3)
    # Cut from 128 x 80 to 96 x 64 by scaling with 0.8 and leaving out 3 columns on each side.
    fit = Fit((WIDTH, HEIGHT), (96, 64))
    assert (fit.scaled, fit.corner) == ((102, 64), (3, 0))
    expected = fit.cameras(room.cameras).select(slice(33, 66))
    torch.testing.assert_close(
        second.cameras.world_to_camera, expected.world_to_camera, atol=1e-6, rtol=0
    )
    torch.testing.assert_close(second.cameras.intrinsics, expected.intrinsics, atol=0.5, rtol=0)
    difference = (second.frames * 255 - fit_float(fit, room.frames[33:66]) * 255).abs()
    assert float(difference.mean()) < 4
    assert len(second.geometry) == 9


@pytest.mark.parametrize(
    ("changes", "left"), [({}, 71 - 66), ({"stride": 2}, 36 - 33), ({"shot_frames": 65}, 71 - 65)]
)
def test_frames_that_are_too_few_for_a_shot_are_told(folder, changes, left) -> None:
    *_, last = parts(folder, **changes)
    assert last == UnusedFrames(left)


def test_footage_that_is_used_whole_has_nothing_left(folder, room) -> None:
    write_clip(folder / "a.mp4", room.frames[:65], 24)
    export_trajectory(room.cameras.select(slice(0, 65)), folder / "a", REALESTATE)
    save_geometry(room.geometry.select(list(range(65))), folder / "a.safetensors")
    assert [type(part) for part in parts(folder, shot_frames=65)] == [Shot]


def fit_float(fit: Fit, frames: Tensor) -> Tensor:
    return torch.stack([fit.picture((frame * 255).byte()) for frame in frames]).float() / 255


def test_pixel_cameras_and_depth_stay_together_when_footage_is_cut(room) -> None:
    """A pixel of the cut picture lifts to where its own pixel of the footage lies."""
    fit = Fit((WIDTH, HEIGHT), (64, 64))
    cameras, geometry = fit.cameras(room.cameras), fit.geometry(room.geometry)
    index = torch.tensor([5, 40])
    matrix = projection_matrices(
        room.cameras.world_to_camera[index], room.cameras.intrinsics[index]
    ).double()
    for place, frame in enumerate(index.tolist()):
        for v, u in ((8, 8), (30, 50), (60, 3)):
            z = float(geometry.depth[frame, v, u])
            ray = torch.linalg.inv(geometry.intrinsics[frame]) @ torch.tensor(
                [u + 0.5, v + 0.5, 1], dtype=torch.float64
            )
            pose = invert_rigid(cameras.world_to_camera[frame])
            point = torch.cat([pose[:3, :3] @ (ray * z) + pose[:3, 3], torch.ones(1)])
            x, y, w = (matrix[place] @ point).tolist()
            own = float(room.depth[frame, int(y / w), int(x / w)])
            assert own == pytest.approx(z, rel=0.03)
            picture = room.frames[frame, int(y / w), int(x / w)]
            cut = fit_float(fit, room.frames[frame : frame + 1])[0, v, u]
            assert float((picture - cut).abs().max()) < 0.25
    torch.testing.assert_close(cameras.intrinsics, geometry.intrinsics, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("form", "found", "changed"),
    [(COLMAP, "PINHOLE", "OPENCV"), (RECAMMASTER, "", "")],
)
def test_cameras_must_fit_the_pictures_of_their_footage(
    folder, room, form: str, found: str, changed: str
) -> None:
    """A path may come from any lens; what is learnt of pictures needs theirs."""
    (folder / "a.txt").unlink()
    written = export_trajectory(room.cameras, folder / "a", form)
    if form == COLMAP:
        lenses = written.with_name("cameras.txt").read_text().replace(found, changed)
        lens = "".join(f"{line} -0.28 0.09 0 0\n" for line in lenses.splitlines()[1:])
        (folder / "cameras.txt").write_text(lens)
        (folder / "a.txt").write_text("# QW, QX, QY, QZ\n" + written.read_text())
    with pytest.raises(CacheFormatError, match="does not fit its footage"):
        shots(folder)


@pytest.mark.parametrize("numbered", [True, False])
def test_realestate_with_a_folder_of_pictures(tmp_path, room, numbered) -> None:
    root, cameras = tmp_path / "frames", tmp_path / "cameras"
    (root / "0a1b").mkdir(parents=True)
    export_trajectory(room.cameras, cameras / "0a1b", REALESTATE)
    times = [line.split()[0] for line in (cameras / "0a1b.txt").read_text().splitlines()[1:]]
    for number, frame in enumerate(room.frames):
        name = f"{number:05d}" if numbered else times[number]
        Image.fromarray((frame * 255).byte().numpy()).save(root / "0a1b" / f"{name}.png")
    save_geometry(room.geometry, tmp_path / "depth" / "0a1b.safetensors")
    made = shots(root, cameras=cameras, geometry=tmp_path / "depth", exact_depth=True)
    assert [shot.key for shot in made] == ["frames/0a1b/0", "frames/0a1b/1"]
    assert made[0].exact
    expected = fit_float(Fit((WIDTH, HEIGHT), (96, 64)), room.frames[37:38])
    assert torch.equal(made[1].frames[4:5], expected)
    if not numbered:
        (root / "0a1b" / f"{times[3]}.png").rename(root / "0a1b" / f"{int(times[3]) + 9}.png")
        with pytest.raises(GeometryError, match="do not match the cameras"):
            shots(root, cameras=cameras, geometry=tmp_path / "depth")


def test_frames_may_be_thinned(folder, room) -> None:
    (only,) = shots(folder, stride=2)
    expected = room.cameras.world_to_camera[0:65:2]
    torch.testing.assert_close(only.cameras.world_to_camera, expected, atol=1e-6, rtol=0)


def test_cameras_may_come_from_the_geometry_file(folder, room) -> None:
    (folder / "a.txt").unlink()
    first, _ = shots(folder)
    torch.testing.assert_close(
        first.cameras.world_to_camera, room.cameras.world_to_camera[:33], atol=1e-9, rtol=0
    )


def remove_depth(root: Path) -> None:
    (root / "a.safetensors").unlink()


def remove_cameras(root: Path) -> None:
    (root / "a.txt").unlink()
    lens = np.array([[8.0, 0, 4], [0, 8, 4], [0, 0, 1]])
    np.savez(root / "a.npz", depths=np.ones((FRAMES, 8, 8), np.float32), intrinsics=lens)
    remove_depth(root)


def drop_a_camera(root: Path) -> None:
    lines = (root / "a.txt").read_text().splitlines()
    (root / "a.txt").write_text("\n".join(lines[:-1]))


def drop_a_depth_map(root: Path) -> None:
    remove_depth(root)
    np.savez(root / "a.npz", depths=np.ones((FRAMES - 1, 80, 128), np.float32))


def cut_the_video(root: Path) -> None:
    path = root / "a.mp4"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil_the_video(root: Path) -> None:
    """The container is whole, and the pictures in it are not."""
    data = bytearray((root / "a.mp4").read_bytes())
    middle = len(data) // 3
    data[middle : middle + 3000] = bytes(3000)
    (root / "a.mp4").write_bytes(data)


def shorten_the_video(root: Path) -> None:
    write_clip(root / "a.mp4", torch.zeros(9, 64, 64, 3), 24)


def reasons_of(root: Path, **changes: object) -> list[str]:
    """Why the footage below a folder gives no shots."""
    try:
        return [shot.reason for shot in shots(root, **changes) if isinstance(shot, BadShot)]
    except MirageError as error:
        return [str(error)]


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (remove_depth, "has no depth"),
        (remove_cameras, "has no cameras"),
        (drop_a_camera, "does not match the frames"),
        (drop_a_depth_map, "does not match the frames"),
        (cut_the_video, "cannot be read"),
        (spoil_the_video, "damaged"),
        (shorten_the_video, "shorter than one chunk"),
    ],
)
def test_bad_footage_is_refused_with_a_reason(folder, harm, text) -> None:
    harm(folder)
    reasons = reasons_of(folder)
    assert reasons
    assert all(text in reason for reason in reasons)


def test_pictures_of_a_camera_on_its_side_stand_upright(tmp_path: Path) -> None:
    """Orientation 6: the picture is shown turned by a quarter to the right."""
    (tmp_path / "shot").mkdir()
    colours = torch.zeros(8, 16, 3, dtype=torch.uint8)
    colours[:, :8, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(colours.numpy()).save(tmp_path / "shot" / "1.png", exif=exif)
    footage = Footage(tmp_path / "shot")
    assert footage.measure() == (1, 8, 16)
    (frame,) = footage.frames()
    assert torch.equal(frame, colours.transpose(0, 1).flip(1))


def test_pictures_of_several_sizes_are_refused(tmp_path, room) -> None:
    folder = tmp_path / "home" / "a"
    folder.mkdir(parents=True)
    for number in range(34):
        size = (WIDTH, HEIGHT) if number < 33 else (HEIGHT, WIDTH)
        Image.new("RGB", size).save(folder / f"{number}.png")
    (reason,) = reasons_of(folder.parent)
    assert "have different sizes" in reason
    assert f"{HEIGHT} x {WIDTH}" in reason
    assert "separate folders" in reason


@pytest.mark.parametrize("name", ["a.mp4", "b/0.jpg", "b/0.png", "b/0.webp", "c.npz"])
def test_changed_files_give_what_they_hold_or_the_typed_error(tmp_path, room, name) -> None:
    """Bytes are changed at random, and only errors of ours may come of it."""
    path, rng = tmp_path / name, random.Random(3)
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".mp4":
        write_clip(path, room.frames[:9], 24)
    elif path.suffix == ".npz":
        np.savez_compressed(path, depths=room.depth[:2], intrinsics=room.cameras.intrinsics[:2])
    else:
        Image.fromarray((room.frames[0] * 255).byte().numpy()).save(path)
    whole = path.read_bytes()
    footage = Footage(path.parent if path.parent != tmp_path else path)
    refused = 0
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 4, 16))):
            data[int(len(data) * rng.random() ** 2)] = rng.randrange(256)
        path.write_bytes(data)
        try:
            if path.suffix == ".npz":
                load_geometry(path, None)
            else:
                footage.measure()
                list(footage.frames())
        except MirageError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused


def test_a_folder_without_footage(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(CacheFormatError, match="no footage"):
        find_footage(tmp_path)


def test_footage_is_found_below_the_folder(folder) -> None:
    (folder / "deep" / "er").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "deep" / "er" / "0.png")
    (folder / "deep" / "b.MOV").write_bytes(b"")
    assert find_footage(folder) == ("a.mp4", "deep/b.MOV", "deep/er")


def test_a_shot_is_of_whole_chunks(tmp_path) -> None:
    with pytest.raises(ShapeError, match="whole chunks"):
        FootageSource(tmp_path, 96, 64, shot_frames=60)


@dataclasses.dataclass(frozen=True)
class Estimator:
    """Depth of an inside-out room in units of its own, with or without cameras."""

    room: Room
    factor: float
    poses: bool

    def __call__(self, frames: Tensor, cameras: Trajectory | None = None) -> FrameGeometry:
        """Depth of the frames, found by their colours."""
        small = fit_float(Fit((WIDTH, HEIGHT), (96, 64)), self.room.frames)
        apart = torch.cdist(frames.flatten(1), small.flatten(1))
        found = apart.argmin(1).tolist()
        fitted = Fit((WIDTH, HEIGHT), (96, 64)).geometry(self.room.geometry.select(found))
        poses = fitted.world_to_camera if self.poses else None
        return dataclasses.replace(fitted, depth=fitted.depth * self.factor, world_to_camera=poses)


def test_an_estimator_gives_depth_in_the_units_of_the_cameras(folder, room) -> None:
    remove_depth(folder)
    estimator = partial(Estimator, room, 0.21, False)
    first, second = shots(folder, estimator=estimator)
    for shot, start in ((first, 0), (second, 33)):
        exact = Fit((WIDTH, HEIGHT), (96, 64)).geometry(
            room.geometry.select(list(range(start, start + 33, 4)))
        )
        ratio = float((shot.geometry.depth / exact.depth).median())
        assert ratio == pytest.approx(1, abs=0.15)
        assert not shot.exact


def test_an_estimator_may_give_the_cameras_too(folder, room) -> None:
    remove_depth(folder)
    (folder / "a.txt").unlink()
    first, _ = shots(folder, estimator=partial(Estimator, room, 1.0, True))
    poses = first.cameras.world_to_camera
    torch.testing.assert_close(poses[::4], room.cameras.world_to_camera[0:33:4])
    assert torch.equal(poses[5], poses[4])
    reasons = [shot.reason for shot in shots(folder, estimator=partial(Estimator, room, 1, False))]
    assert all("has no cameras" in reason for reason in reasons)


def test_a_source_with_an_estimator_goes_to_workers(folder, room) -> None:
    made = source(folder, estimator=partial(Estimator, room, 1.0, True))
    list(made.load("home/a.mp4"))
    again = pickle.loads(pickle.dumps(made))
    assert "_estimate" not in vars(again)
    *found, _ = again.load("home/a.mp4")
    assert [shot.key for shot in found] == ["home/a.mp4/0", "home/a.mp4/1"]


@pytest.mark.parametrize("factor", [0.02, 1.0, 40.0])
def test_scale_of_depth_is_found(room, factor) -> None:
    chosen = list(range(0, FRAMES, 8))
    geometry = room.geometry.select(chosen)
    scaled = dataclasses.replace(geometry, depth=geometry.depth / factor)
    fit = fit_scale(scaled, room.cameras.select(chosen), room.frames[chosen])
    assert fit.scale == pytest.approx(factor, rel=0.1)
    assert fit.error < 0.1


def test_depth_of_a_still_camera_keeps_its_scale(room) -> None:
    still = room.cameras.select([3] * 9)
    geometry = room.geometry.select([3] * 9)
    fit = fit_scale(geometry, still, room.frames[[3] * 9])
    assert fit.scale == 1
    assert fit.error < 0.01


def test_depth_that_no_scale_fits_is_refused() -> None:
    rng = torch.Generator().manual_seed(0)
    cameras = sliding_cameras(9, way=2)
    depth = (torch.randn(9, 64, 64, generator=rng) * 1.5).exp()
    geometry = FrameGeometry(depth, cameras.intrinsics)
    with pytest.raises(GeometryError, match="do not match"):
        to_camera_units(geometry, cameras, torch.rand(9, 64, 64, 3, generator=rng))


@pytest.mark.skipif(sys.platform != "linux", reason="needs what Linux tells of processes")
def test_depth_of_a_long_video_is_read_frame_by_frame(tmp_path: Path) -> None:
    """Its file is mapped: what a process holds of its own grows by the chosen frames alone."""

    def own() -> int:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) * 1024

    frames, side = 120, 256
    lens = intrinsics_from_fov(side, side, 60).repeat(frames, 1, 1)
    whole = FrameGeometry(torch.full((frames, side, side), 2.0), lens)
    path = save_geometry(whole, tmp_path / "depth")
    del whole
    before = own()
    chosen = load_geometry(path).select(list(range(0, 33, 4)))
    assert len(chosen) == 9
    assert own() - before < path.stat().st_size // 4
