from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_core.errors import CacheFormatError, GeometryError, MirageError, StorageError
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid, rigid, rotation_about
from mirage_core.trajectories import files
from mirage_core.trajectories.files import (
    load_trajectory,
    save_trajectory,
    trajectory_from_json,
    trajectory_to_json,
)
from mirage_core.trajectories.presets import preset_trajectory

WIDTH, HEIGHT = 640, 384
FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))


def some_path(frames=9, seed=0, fps=24.0):
    generator = torch.Generator().manual_seed(seed)
    angles = torch.randn(frames, 3, generator=generator, dtype=torch.float64)
    rotation = rotation_about("x", angles[:, 0]) @ rotation_about("y", angles[:, 1])
    rotation = rotation @ rotation_about("z", angles[:, 2])
    position = 10 * torch.randn(frames, 3, generator=generator, dtype=torch.float64)
    lens = intrinsics_from_fov(WIDTH, HEIGHT, 61.7).repeat(frames, 1, 1)
    lens[:, :2] *= 1 + torch.rand(frames, 1, 1, generator=generator, dtype=torch.float64)
    return Trajectory(rigid(rotation, position), lens, WIDTH, HEIGHT, fps)


def plain(path):
    """What another program would see: the document after a trip through text."""
    return json.loads(json.dumps(trajectory_to_json(path)))


@pytest.mark.parametrize("matrix", ["camera_to_world", "world_to_camera"])
@pytest.mark.parametrize("scale", [1, 0.35])
def test_scaled_and_rounded_matrices_are_taken_and_told(matrix, scale, caplog):
    path = some_path(3)
    data = plain(path)
    data["convention"]["matrix"] = matrix
    poses = path.world_to_camera if matrix == "world_to_camera" else path.camera_to_world
    poses = poses.clone()
    poses[:, :3, : 4 if matrix == "world_to_camera" else 3] *= scale
    for frame, pose in zip(data["frames"], poses, strict=True):
        frame["matrix"] = [[round(x, 3) for x in row] for row in pose.tolist()]
    found = trajectory_from_json(data)
    torch.testing.assert_close(found.positions, path.positions, atol=0.1, rtol=0)
    turned = found.world_to_camera[:, :3, :3]
    torch.testing.assert_close(turned, path.world_to_camera[:, :3, :3], atol=5e-3, rtol=0)
    assert ("scaled by 0.35" if scale < 1 else "rounded") in caplog.text


@given(frames=st.integers(1, 12), seed=st.integers(0, 10_000), fps=st.floats(0.1, 1000))
@settings(max_examples=30, deadline=None)
def test_round_trip_is_exact(frames, seed, fps):
    path = some_path(frames, seed, fps)
    again = trajectory_from_json(plain(path))
    assert again.fingerprint() == path.fingerprint()
    assert torch.equal(again.world_to_camera, path.world_to_camera)
    assert torch.equal(again.intrinsics, path.intrinsics)


def test_files(tmp_path):
    path = some_path()
    written = save_trajectory(tmp_path / "shot", path)
    assert written == tmp_path / "shot.json"
    assert [child.name for child in tmp_path.iterdir()] == ["shot.json"]
    assert load_trajectory(written).fingerprint() == path.fingerprint()
    assert save_trajectory(str(tmp_path / "b.JSON"), path) == tmp_path / "b.JSON"
    written.write_bytes(b"\xef\xbb\xbf" + written.read_bytes())
    assert load_trajectory(str(written)).fingerprint() == path.fingerprint()


def test_the_document_states_its_convention():
    data = plain(some_path(2))
    assert data["format"] == "mirage-trajectory"
    assert data["version"] == 1
    assert data["convention"] == {
        "axes": "opencv", "matrix": "world_to_camera", "intrinsics": "pixels",
    }  # fmt: skip
    assert (data["width"], data["height"], data["fps"]) == (WIDTH, HEIGHT, 24.0)
    path = some_path(2)
    lens = path.intrinsics[1]
    assert data["frames"][1]["intrinsics"] == [
        float(lens[0, 0]), float(lens[1, 1]), float(lens[0, 2]), float(lens[1, 2]),
    ]  # fmt: skip
    assert data["frames"][1]["matrix"] == path.world_to_camera[1].tolist()


@pytest.mark.parametrize("axes", ["opencv", "opengl"])
@pytest.mark.parametrize("matrix", ["world_to_camera", "camera_to_world"])
def test_every_convention_describes_the_same_cameras(axes, matrix):
    path = some_path()
    # Points of the scene are the same in all conventions; only the camera's own axes change.
    poses = path.camera_to_world @ (FLIP if axes == "opengl" else torch.eye(4).double())
    if matrix == "world_to_camera":
        poses = torch.linalg.inv(poses)
    data = plain(path)
    data["convention"].update(axes=axes, matrix=matrix)
    for frame, pose in zip(data["frames"], poses, strict=True):
        frame["matrix"] = pose.tolist()
    again = trajectory_from_json(data)
    torch.testing.assert_close(again.world_to_camera, path.world_to_camera, atol=1e-12, rtol=0)
    torch.testing.assert_close(again.positions, path.positions, atol=1e-12, rtol=0)


def test_an_opengl_camera_looks_along_its_negative_z():
    data = plain(some_path(1))
    data["convention"].update(axes="opengl", matrix="camera_to_world")
    data["frames"][0]["matrix"] = torch.eye(4).tolist()
    pose = trajectory_from_json(data).camera_to_world[0]
    assert pose[:3, 2].tolist() == [0, 0, -1]
    assert pose[:3, 1].tolist() == [0, -1, 0]
    assert pose[:3, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize("tag", ["axes", "matrix", "intrinsics"])
@pytest.mark.parametrize("value", [None, "missing", "colmap", 3, ["opencv"], {}])
def test_a_missing_tag_is_named(tag, value):
    data = plain(some_path(1))
    if value == "missing":
        del data["convention"][tag]
    else:
        data["convention"][tag] = value
    with pytest.raises(CacheFormatError, match=f'Add "{tag}": "') as caught:
        trajectory_from_json(data)
    assert "convention" in str(caught.value)


def test_a_document_without_a_convention_is_refused():
    data = plain(some_path(1))
    for value in ([], "opencv", None):
        data["convention"] = value
        with pytest.raises(CacheFormatError, match='Add "axes"'):
            trajectory_from_json(data)


def test_a_newer_version_asks_for_an_update():
    data = plain(some_path(1)) | {"version": 2}
    with pytest.raises(CacheFormatError, match="Update Mirage"):
        trajectory_from_json(data)


def broken(change):
    data = plain(some_path(3))
    change(data)
    return data


def put(*keys, value):
    def change(data):
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        put("format", value="colmap"),
        put("version", value=True),
        put("version", value=0),
        put("version", value=None),
        put("width", value=0),
        put("width", value="640"),
        put("width", value=640.5),
        put("height", value=10**5000),
        put("fps", value=0),
        put("fps", value=10**400),
        put("fps", value="24"),
        put("frames", value=[]),
        put("frames", value={}),
        put("frames", value=None),
        put("frames", 1, value=[]),
        put("frames", 1, value={}),
        put("frames", 1, "matrix", value="eye"),
        put("frames", 1, "matrix", 3, value=[0, 0, 1]),
        put("frames", 1, "matrix", 0, 0, value="NaN"),
        put("frames", 1, "matrix", 0, 0, value=None),
        put("frames", 1, "matrix", 0, 0, value=True),
        put("frames", 1, "matrix", 0, 0, value=10**400),
        put("frames", 1, "matrix", 0, 0, value=math.nan),
        put("frames", 1, "intrinsics", value=[1, 1, 1]),
        put("frames", 1, "intrinsics", value=[1, 1, 1, [1]]),
        put("frames", 1, "intrinsics", value=None),
    ],
)
def test_malformed_documents_are_refused(change):
    with pytest.raises(CacheFormatError) as caught:
        trajectory_from_json(broken(change))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "change",
    [
        put("frames", 1, "matrix", 0, value=[2, 0, 0, 0]),
        put("frames", 1, "matrix", 3, value=[0, 0, 0, 2]),
        put("frames", 1, "intrinsics", 0, value=-1),
    ],
)
@pytest.mark.parametrize("matrix", ["world_to_camera", "camera_to_world"])
def test_numbers_that_are_no_cameras(change, matrix):
    data = broken(change)
    data["convention"]["matrix"] = matrix
    with pytest.raises(GeometryError):
        trajectory_from_json(data)


@pytest.mark.parametrize("data", [None, 3, "text", [], [{}], {}])
def test_things_that_are_no_documents(data):
    with pytest.raises(CacheFormatError, match="mirage-trajectory"):
        trajectory_from_json(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda child: (
        st.lists(child, max_size=5) | st.dictionaries(st.text(max_size=5), child, max_size=3)
    ),
    max_leaves=8,
)
places = st.sampled_from(
    [(key,) for key in ("format", "version", "convention", "width", "height", "fps", "frames")]
    + [("convention", tag) for tag in ("axes", "matrix", "intrinsics")]
    + [("frames", 0), ("frames", 0, "matrix"), ("frames", 0, "intrinsics")]
    + [("frames", 2, "matrix", 1), ("frames", 2, "matrix", 1, 2), ("frames", 2, "intrinsics", 0)]
)
GOOD = plain(some_path(3))


@given(place=places, value=json_values)
@settings(max_examples=150, deadline=None)
def test_hostile_values_never_raise_anything_untyped(place, value):
    data = copy.deepcopy(GOOD)
    put(*place, value=value)(data)
    try:
        trajectory_from_json(data)
    except (CacheFormatError, GeometryError):
        pass


@given(cut=st.integers(0, 3000), junk=st.binary(max_size=3))
@settings(max_examples=50, deadline=None)
def test_damaged_files_never_raise_anything_untyped(tmp_path_factory, cut, junk):
    content = json.dumps(GOOD).encode()
    file = tmp_path_factory.mktemp("damaged") / "a.json"
    file.write_bytes(content[:cut] + junk)
    try:
        load_trajectory(file)
    except MirageError:
        pass
    else:
        assert cut >= len(content)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[" * 200_000, b'{"version": NaN}', b"1" * 5000, b"\0" * 10],
)
def test_foreign_files(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(CacheFormatError):
        load_trajectory(tmp_path / "a.json")


def test_unreadable_paths(tmp_path):
    for path in (tmp_path / "missing.json", tmp_path, tmp_path / "nul\0"):
        with pytest.raises(CacheFormatError, match="cannot be read"):
            load_trajectory(path)


def test_bombs(tmp_path, monkeypatch):
    written = save_trajectory(tmp_path / "a", some_path(5))
    size = written.stat().st_size
    monkeypatch.setattr(files, "MAX_BYTES", size)
    assert len(load_trajectory(written)) == 5
    monkeypatch.setattr(files, "MAX_BYTES", size - 1)
    with pytest.raises(CacheFormatError, match="too large"):
        load_trajectory(written)
    monkeypatch.setattr(files, "MAX_FRAMES", 4)
    with pytest.raises(CacheFormatError, match="list of 5"):
        trajectory_from_json(plain(some_path(5)))


def test_skew_is_refused_before_anything_is_written(tmp_path):
    path = some_path(2)
    lens = path.intrinsics.clone()
    lens[1, 0, 1] = 0.5
    skewed = Trajectory(path.world_to_camera, lens, WIDTH, HEIGHT)
    with pytest.raises(GeometryError, match="frame 1 have a skew"):
        save_trajectory(tmp_path / "a.json", skewed)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        save_trajectory(tmp_path / "file" / "a.json", some_path(1))


def test_presets_survive_the_trip():
    lens = intrinsics_from_fov(WIDTH, HEIGHT, 50)
    path = preset_trajectory(
        "dolly_zoom", 33, intrinsics=lens, width=WIDTH, height=HEIGHT, scene_depth=3.0
    )
    assert trajectory_from_json(plain(path)).fingerprint() == path.fingerprint()
    inverse = invert_rigid(path.camera_to_world)
    torch.testing.assert_close(inverse, path.world_to_camera, atol=1e-12, rtol=0)
