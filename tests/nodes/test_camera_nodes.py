"""Camera moves between ComfyUI's nodes and ours."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch


def module(pack: ModuleType, name: str) -> ModuleType:
    return importlib.import_module(f"{pack.__name__}.{name}")


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    return tmp_path


def orbit(pack: ModuleType, frames: int = 17):
    path = module(pack, "mirage_core.geometry.trajectory")
    presets = module(pack, "mirage_core.trajectories.presets")
    return presets.preset_trajectory(
        "orbit", frames, scene_depth=3.0,
        intrinsics=path.intrinsics_from_fov(96, 64, 60), width=96, height=64,
    )  # fmt: skip


IMAGE = torch.zeros(1, 64, 96, 3)


@pytest.mark.parametrize(
    "form",
    ["glTF binary", "COLMAP text", "Blender transforms.json", "Wan-Fun text", "ReCamMaster JSON",
     "Nuke chan"],
)  # fmt: skip
def test_a_move_goes_out_and_comes_back(pack: ModuleType, output: Path, form: str) -> None:
    nodes, files = module(pack, "nodes.trajectory_exchange"), module(pack, "nodes.comfy.files")
    before = orbit(pack)
    written = Path(
        nodes.MirageTrajectoryExport.execute(before, form, "shots/a").ui["text"][0]
    )
    (name,) = [
        name
        for suffix in ("json", "txt", "glb", "chan")
        for name in files.list_files(suffix)
        if files.resolve_file(name) == written
    ]
    after, report = nodes.MirageTrajectoryImport.execute(
        IMAGE, name, 0, 1.0, False, 24.0
    ).result
    torch.testing.assert_close(after.world_to_camera, before.world_to_camera, atol=1e-6, rtol=0)
    assert "17 frames in the file, 17 in the shot" in report
    longer, _ = nodes.MirageTrajectoryImport.execute(IMAGE, name, 33, 2.0, True, 24.0).result
    assert len(longer) == 33
    assert torch.equal(longer.world_to_camera[0], torch.eye(4, dtype=torch.float64))
    reach = (longer.positions[-1] - longer.positions[0]).norm()
    assert float(reach) == pytest.approx(
        2 * float((before.positions[-1] - before.positions[0]).norm()), rel=1e-5
    )


def test_frames_of_a_file_are_cut_to_the_time_grid(pack: ModuleType, output: Path) -> None:
    nodes, files = module(pack, "nodes.trajectory_exchange"), module(pack, "nodes.comfy.files")
    nodes.MirageTrajectoryExport.execute(orbit(pack).select(slice(16)), "glTF binary", "b")
    (name,) = files.list_files("glb")
    path, _ = nodes.MirageTrajectoryImport.execute(IMAGE, name, 0, 1.0, True, 24.0).result
    assert len(path) == 13
    assert nodes.MirageTrajectoryImport.validate_inputs(frames=12) is not True


def rig(folder: Path) -> None:
    """A COLMAP model of two cameras; picture 3 of the right one stands far off."""
    folder.mkdir()
    (folder / "cameras.txt").write_text("1 SIMPLE_RADIAL 96 64 50 48 32 0.01\n")
    lines = []
    for n, x in enumerate((0.0, 0.1, 0.2, 0.9, 1.0)):
        for side in ("left", "right"):
            place = n / 10 if side == "left" else x
            lines.append(f"{len(lines) + 1} 1 0 0 0 {-place} 0 0 1 {side}/{n + 8}.png\n\n")
    (folder / "images.txt").write_text("# IMAGE_ID, QW, QX, QY, QZ\n" + "".join(lines))


def test_a_camera_of_a_rig_is_chosen_and_the_report_tells(
    pack: ModuleType, output: Path
) -> None:
    nodes = module(pack, "nodes.trajectory_exchange")
    rig(output / "rig")
    name = "rig/images.txt [output]"

    def read(camera: str) -> tuple[list[float], str]:
        made = nodes.MirageTrajectoryImport.execute(
            IMAGE, name, 0, 1.0, False, 24.0, None, camera
        )
        path, report = made.result
        assert made.ui["text"] == (report,)
        return path.positions[:, 0].tolist(), report

    places, report = read("")
    assert places == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert "left, right" in report and "left is played" in report
    assert "largest step 0.1 " in report
    assert "a corner moves by 1.3%" in report
    places, report = read(" right ")
    assert places == pytest.approx([0, 0.1, 0.2, 0.9, 1.0])
    assert "largest step 0.7 to frame 3 of the file" in report


def test_a_file_without_a_lens_takes_that_of_the_geometry(
    pack: ModuleType, output: Path
) -> None:
    nodes = module(pack, "nodes.trajectory_exchange")
    geometry = module(pack, "mirage_core.geometry.frame_geometry")
    lens = module(pack, "mirage_core.geometry.trajectory").intrinsics_from_fov(48, 32, 80)
    (output / "kitti.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n" * 5)

    def focal(given: object) -> tuple[float, str]:
        path, report = nodes.MirageTrajectoryImport.execute(
            IMAGE, "kitti.txt [output]", 0, 1.0, True, 24.0, given
        ).result
        return float(path.intrinsics[0, 0, 0]), report

    own, report = focal(geometry.FrameGeometry(torch.ones(1, 32, 48), lens[None]))
    assert own == pytest.approx(2 * float(lens[0, 0]))
    assert "80 degrees" in report
    assert "60 degrees" in focal(None)[1]


def test_models_are_offered_and_weights_are_not(pack: ModuleType, output: Path) -> None:
    nodes = module(pack, "nodes.trajectory_exchange")
    for name in ("sparse/0/images.bin", "sparse/0/cameras.bin", "weights.bin", "shot.chan"):
        (output / "mirage" / name).parent.mkdir(parents=True, exist_ok=True)
        (output / "mirage" / name).write_bytes(b"")
    (file,) = [i for i in nodes.MirageTrajectoryImport.define_schema().inputs if i.id == "file"]
    offered = [name for name in file.options if name.endswith("[output]")]
    assert offered == ["mirage/shot.chan [output]", "mirage/sparse/0/images.bin [output]"]


def test_cameras_of_comfyui_make_a_path(pack: ModuleType) -> None:
    """Create Camera Info is the real node; its cameras are passed in order."""
    from comfy_extras.nodes_gaussian_splat import CreateCameraInfo

    nodes = module(pack, "nodes.trajectory_exchange")
    places = [(0.0, 0.0, 0.0), (1.0, 0.5, 0.0)]
    cameras = [
        CreateCameraInfo.execute(
            {"mode": "look_at", "position_x": x, "position_y": y, "position_z": z},
            0.0, 0.0, -4.0, 0.0, 40.0,
        ).result[0]
        for x, y, z in places
    ]  # fmt: skip
    (path,) = nodes.MirageTrajectoryFromCameras.execute([IMAGE], cameras, [9], [24.0]).result
    # y is up there and down here.
    expected = torch.tensor([[0.0, 0.0, 0.0], [1.0, -0.5, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(path.positions[[0, -1]], expected, atol=1e-6, rtol=0)
    target = torch.tensor([0.0, 0.0, 4.0, 1.0], dtype=torch.float64)
    for frame in (0, -1):
        seen = path.world_to_camera[frame] @ target
        assert seen[:2].abs().max() < 1e-5
        assert float(seen[2]) > 0
    vertical = 2 * torch.atan(64 / (2 * path.intrinsics[0, 1, 1])) * 180 / torch.pi
    assert float(vertical) == pytest.approx(40.0, abs=1e-4)


def test_a_frame_becomes_a_camera_that_comfyui_reads_alike(pack: ModuleType) -> None:
    """ComfyUI's own splat renderer takes the same right, down and forward from it."""
    from comfy_extras.nodes_gaussian_splat import _camera_basis

    nodes = module(pack, "nodes.trajectory_exchange")
    before = orbit(pack)
    camera, cameras = nodes.MirageTrajectoryCamera.execute(before, -1).result
    assert len(cameras) == 5 and cameras[-1] == camera
    (back,) = nodes.MirageTrajectoryFromCameras.execute([IMAGE], cameras, [17], [24.0]).result
    torch.testing.assert_close(
        back.world_to_camera[::4], before.world_to_camera[::4], atol=1e-6, rtol=0
    )
    eye, _, right, down, forward = _camera_basis(camera, "cpu")
    pose = before.camera_to_world[-1].float()
    torch.testing.assert_close(torch.stack([right, down, forward], dim=1), pose[:3, :3])
    torch.testing.assert_close(eye, pose[:3, 3])


def test_photographs_make_a_path(pack: ModuleType) -> None:
    nodes = module(pack, "nodes.trajectory_exchange")
    core = module(pack, "mirage_core.geometry.frame_geometry")
    errors = module(pack, "mirage_core.errors")
    path = orbit(pack, 5)
    depth = torch.ones(5, 64, 96)
    geometry = core.FrameGeometry(depth, path.intrinsics, world_to_camera=path.world_to_camera)
    (made,) = nodes.MirageTrajectoryFromGeometry.execute(IMAGE, geometry, 17, 24.0).result
    torch.testing.assert_close(made.world_to_camera[::4], path.world_to_camera)
    bare = core.FrameGeometry(depth, path.intrinsics)
    with pytest.raises(errors.GeometryError, match="multiview"):
        nodes.MirageTrajectoryFromGeometry.execute(IMAGE, bare, 17, 24.0)




def still_lens(pack: ModuleType, fov: float = 39.6, frames: int = 9):
    path = module(pack, "mirage_core.geometry.trajectory")
    lens = path.intrinsics_from_fov(96, 64, fov).expand(frames, 3, 3)
    return path.Trajectory(torch.eye(4).expand(frames, 4, 4), lens, 96, 64)


def geometry_of(pack: ModuleType, fov: float = 60.0):
    core = module(pack, "mirage_core.geometry.frame_geometry")
    path = module(pack, "mirage_core.geometry.trajectory")
    return core.FrameGeometry(
        torch.full((1, 64, 96), 3.0), path.intrinsics_from_fov(96, 64, fov)[None]
    )


def fov(pack: ModuleType, path, frame: int = 0) -> float:
    return module(pack, "mirage_core.geometry.trajectory").fov_of(path.intrinsics[frame], 96)


@pytest.mark.parametrize("form", ["glTF binary", "Mirage JSON", "COLMAP text"])
def test_an_imported_move_begins_with_the_lens_of_the_picture(
    pack: ModuleType, output: Path, form: str
) -> None:
    nodes, files = module(pack, "nodes.trajectory_exchange"), module(pack, "nodes.comfy.files")
    written = Path(
        nodes.MirageTrajectoryExport.execute(still_lens(pack), form, "b").ui["text"][0]
    )
    (name,) = [n for n in files.list_files(written.suffix[1:]) if files.resolve_file(n) == written]
    arguments = (IMAGE, name, 0, 1.0, True, 24.0)
    path, report = nodes.MirageTrajectoryImport.execute(*arguments, geometry_of(pack)).result
    assert fov(pack, path) == fov(pack, path, -1) == pytest.approx(60)
    assert "39.6 degrees, of the picture 60.0 degrees" in report
    kept, report = nodes.MirageTrajectoryImport.execute(
        *arguments, geometry_of(pack), lens="file"
    ).result
    assert fov(pack, kept) == pytest.approx(39.6)
    assert "1.60 times" in report
    # Without the picture's geometry nothing is known of its lens: the memory tells it later.
    path, report = nodes.MirageTrajectoryImport.execute(*arguments).result
    assert fov(pack, path) == pytest.approx(39.6) and "not known" in report


def test_the_report_names_camera_and_animation(pack: ModuleType, output: Path) -> None:
    nodes, files = module(pack, "nodes.trajectory_exchange"), module(pack, "nodes.comfy.files")
    errors = module(pack, "mirage_core.errors")
    nodes.MirageTrajectoryExport.execute(orbit(pack), "glTF binary", "b")
    (name,) = files.list_files("glb")
    arguments = (IMAGE, name, 0, 1.0, True, 24.0)
    _, report = nodes.MirageTrajectoryImport.execute(*arguments).result
    assert "camera 'Camera'" in report and "animation 'Camera move'" in report
    chosen, _ = nodes.MirageTrajectoryImport.execute(*arguments, animation="Camera move").result
    assert len(chosen) == 17
    with pytest.raises(errors.TrajectoryError, match="'Camera'"):
        nodes.MirageTrajectoryImport.execute(*arguments, camera="Other")


def test_a_loaded_move_and_one_of_cameras_begin_with_the_lens_of_the_picture(
    pack: ModuleType, output: Path
) -> None:
    saved, nodes = module(pack, "nodes.trajectory"), module(pack, "nodes.trajectory_exchange")
    files = module(pack, "nodes.comfy.files")
    saved.MirageTrajectorySave.execute(still_lens(pack), "c")
    (name,) = files.list_files("json")
    (path,) = saved.MirageTrajectoryLoad.execute(name).result
    assert fov(pack, path) == pytest.approx(39.6)
    (path,) = saved.MirageTrajectoryLoad.execute(name, geometry_of(pack)).result
    assert fov(pack, path) == pytest.approx(60)
    (path,) = saved.MirageTrajectoryLoad.execute(name, geometry_of(pack), "file").result
    assert fov(pack, path) == pytest.approx(39.6)

    cameras = nodes.MirageTrajectoryCamera.execute(still_lens(pack), 0).result[1]
    arguments = ([IMAGE], cameras, [9], [24.0])
    made = nodes.MirageTrajectoryFromCameras.execute(*arguments, [geometry_of(pack)])
    assert fov(pack, made.result[0]) == pytest.approx(60)
    assert "39.6 degrees, of the picture 60.0" in made.ui["text"][0]
    made = nodes.MirageTrajectoryFromCameras.execute(*arguments, [geometry_of(pack)], ["file"])
    assert fov(pack, made.result[0]) == pytest.approx(39.6)
    (path,) = nodes.MirageTrajectoryFromCameras.execute(*arguments).result
    assert fov(pack, path) == pytest.approx(39.6)
