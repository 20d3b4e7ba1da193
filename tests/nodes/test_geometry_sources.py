"""Geometry nodes against ComfyUI's own geometry code, and memories of several photographs."""

from __future__ import annotations

import dataclasses
import importlib
import math
from types import ModuleType

import pytest
import torch


def module(pack: ModuleType, name: str) -> ModuleType:
    return importlib.import_module(f"{pack.__name__}.{name}")


def test_moge_pixels_keep_their_points(pack: ModuleType) -> None:
    """ComfyUI's own projection of a depth map gives the points that our cameras give."""
    from comfy.ldm.moge.geometry import depth_map_to_point_map, intrinsics_from_focal_center

    height, width = 12, 20
    depth = torch.rand(2, height, width) + 2
    half = torch.tensor(0.5)
    intrinsics = intrinsics_from_focal_center(
        torch.tensor([0.8, 1.1]), torch.tensor([0.8, 1.1]) * width / height, half, half
    )
    points = depth_map_to_point_map(depth, intrinsics=intrinsics)
    nodes = module(pack, "nodes.geometry")
    result = nodes.MirageGeometryMoGe.execute({"depth": depth, "intrinsics": intrinsics}).result
    geometry, report = result
    assert "not metric" in report
    u, v = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    for frame in range(2):
        k = geometry.intrinsics[frame]
        x = (u[None, :] - k[0, 2]) / k[0, 0] * depth[frame]
        y = (v[:, None] - k[1, 2]) / k[1, 1] * depth[frame]
        ours = torch.stack([x, y, depth[frame].double()], dim=-1)
        torch.testing.assert_close(ours, points[frame].double(), atol=1e-4, rtol=0)


def test_depth_anything_cameras_fit_its_own_decoder(pack: ModuleType) -> None:
    """Intrinsics that ComfyUI decodes for the network's input, brought to the picture."""
    from comfy.ldm.depth_anything_3.transform import pose_encoding_to_extri_intri

    network, picture = (28, 42), (64, 96)
    encoding = torch.tensor([[0.1, 0.2, 0.3, 0.0, 0.0, 0.0, 1.0, 0.9, 1.2]])[None]
    poses, intrinsics = pose_encoding_to_extri_intri(encoding, network)
    da3 = {
        "depth": torch.full((1, *picture), 2.0),
        "mode": "multiview",
        "intrinsics": intrinsics,
        "extrinsics": poses,
    }
    nodes = module(pack, "nodes.geometry")
    geometry, _ = nodes.MirageGeometryDA3.execute(
        da3, fov=60.0, metric=True, sky_threshold=0.5, least_confidence=0.0
    ).result
    k = geometry.intrinsics[0]
    fov_y = 2 * torch.atan(picture[0] / (2 * k[1, 1]))
    fov_x = 2 * torch.atan(picture[1] / (2 * k[0, 0]))
    assert sorted([float(fov_x), float(fov_y)]) == pytest.approx([0.9, 1.2], abs=1e-5)
    assert geometry.metric


def two_views(pack: ModuleType):
    """Two pictures of one flat wall, the second one from a step to the right."""
    core = module(pack, "mirage_core.geometry.frame_geometry")
    path = module(pack, "mirage_core.geometry.trajectory")
    intrinsics = path.intrinsics_from_fov(64, 64, 60)
    poses = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    # Two cells of the wall, which is 4 units away and 4.62 units wide in each view.
    poses[1, 0, 3] = -2.0 * 4 * 2 * math.tan(math.radians(30)) / 4
    geometry = core.FrameGeometry(
        torch.full((2, 64, 64), 4.0), intrinsics.expand(2, 3, 3), world_to_camera=poses
    )
    return torch.rand(2, 64, 64, 3), geometry


def begin(pack: ModuleType, images: torch.Tensor, geometry):
    nodes = module(pack, "nodes.memory")
    vae = module(pack, "nodes.comfy.vae").DctVAE()
    return nodes.MirageCacheInit.execute(
        images, geometry, vae, "bilinear", True, "paper", None
    ).result


def test_photographs_of_one_place_begin_one_memory(pack: ModuleType) -> None:
    images, geometry = two_views(pack)
    one, _ = begin(pack, images[:1], geometry)
    both, latent = begin(pack, images, geometry)
    cells = (64 // 16) ** 2
    assert len(one) == cells
    # From so far aside a view of what is known is worth its own point.
    assert cells < len(both)
    # The same view once more is worth none.
    again, _ = begin(pack, images[[0, 0]], geometry.select([0, 0]))
    assert len(again) == cells
    assert float(both.blocks[-1].points[:, 0].max()) > float(one.blocks[0].points[:, 0].max()) + 1
    assert latent["samples"].shape[2] == 1


def test_pictures_and_views_must_belong_together(pack: ModuleType) -> None:
    errors = module(pack, "mirage_core.errors")
    images, geometry = two_views(pack)
    with pytest.raises(errors.ShapeError, match="as many pictures as views"):
        begin(pack, images[[0, 1, 1]], geometry)


@pytest.mark.rooms
@pytest.mark.parametrize("views", [1, 16])
def test_a_room_from_all_sides_is_one_surface(pack: ModuleType, views: int) -> None:
    """Photographs around a room: every remembered point lies on what all cameras agree on."""
    room = module(pack, "mirage_core.scenes.scene").ProceduralScene.from_seed(
        16, texture_size=64
    )
    transform = module(pack, "mirage_core.geometry.transform")
    path = module(pack, "mirage_core.geometry.trajectory")
    angles = 2 * math.pi * torch.arange(views, dtype=torch.float64) / views
    around = room.start_camera_to_world.double().repeat(views, 1, 1)
    around[:, :3, :3] = transform.rotation_about("y", angles) @ around[:, :3, :3]
    lens = path.intrinsics_from_fov(160, 96, 70).expand(views, 3, 3)
    cameras = path.Trajectory(transform.invert_rigid(around), lens, 160, 96)
    images, depth = room.render(cameras, device=torch.device("cpu"))
    geometry = module(pack, "mirage_core.geometry.frame_geometry").FrameGeometry(
        depth, lens, world_to_camera=cameras.world_to_camera
    )
    cache, first = begin(pack, images, geometry)
    reading = module(pack, "mirage_core.readout.readout")
    lenses = reading.grid_intrinsics(cameras, (6, 10))
    winner, shown = reading.read_winners(cache, cameras.world_to_camera, lenses, (6, 10))
    assert float((winner >= 0).float().mean()) > 0.9
    exact = depth[:, 8::16, 8::16]
    wrong = (shown / exact).log().abs()[winner >= 0]
    assert float(wrong.median()) < 0.02
    # Neighbours share half of their view: it is not remembered twice.
    # A cell at a depth edge is two points.
    assert len(cache) < 60 * views if views > 1 else 60 < len(cache) < 2 * 60
    assert first["samples"].shape[2] == 1


def test_more_photographs_than_can_be_taken_are_refused(pack: ModuleType) -> None:
    errors = module(pack, "mirage_core.errors")
    images, geometry = two_views(pack)
    with pytest.raises(errors.ShapeError, match="17 pictures.*at most 16.*fewer"):
        begin(pack, images[:1].expand(17, -1, -1, -1), geometry.select([0] * 17))


def test_pictures_without_poses_are_not_dropped_in_silence(
    pack: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    images, geometry = two_views(pack)
    with caplog.at_level("WARNING", logger="mirage"):
        begin(pack, images[:1], geometry)
        assert not caplog.messages
        begin(pack, images, dataclasses.replace(geometry, world_to_camera=None))
    assert "first of 2 pictures" in caplog.text and "multiview" in caplog.text


def test_masks_of_other_pictures_are_refused(pack: ModuleType) -> None:
    errors = module(pack, "mirage_core.errors")
    images, geometry = two_views(pack)
    init = module(pack, "nodes.memory").MirageCacheInit.execute
    vae = module(pack, "nodes.comfy.vae").DctVAE()
    depth = module(pack, "nodes.geometry").MirageGeometry.execute
    for mask in (torch.zeros(1, 48, 64), torch.zeros(3, 64, 64)):
        with pytest.raises(errors.ShapeError, match="exclusion mask and the"):
            init(images, geometry, vae, "bilinear", True, "paper", mask)
        with pytest.raises(errors.ShapeError, match="exclusion mask and the"):
            depth(images, "far is white", 1.0, 5.0, 60.0, mask)
    thin = torch.zeros(1, 256, 256)
    thin[0, 130] = 1
    (geometry, report) = depth(images, "far is white", 1.0, 5.0, 60.0, thin).result
    assert bool(geometry.exclude[:, 130 // 4].all()) and "1.6% left out" in report


def test_saved_geometry_comes_back(pack: ModuleType, monkeypatch, tmp_path) -> None:
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    nodes = module(pack, "nodes.geometry")
    _, geometry = two_views(pack)
    nodes.MirageGeometrySave.execute(geometry, "wall")
    offered = module(pack, "nodes.comfy.files").list_files("safetensors")
    (name,) = [file for file in offered if "wall" in file]
    loaded, report = nodes.MirageGeometryLoad.execute(name, 60.0).result
    assert torch.equal(loaded.depth, geometry.depth)
    assert "with camera poses" in report


def test_a_depth_picture_of_16_bits_needs_no_settings(pack: ModuleType, tmp_path) -> None:
    """From a file through Load Image's own reader, with its holes."""
    import numpy as np
    from comfy_api.latest import InputImpl
    from PIL import Image

    metres = np.linspace(1, 4, 32 * 64).reshape(32, 64)
    metres[:, 20:24] = 0
    Image.fromarray((metres * 1000).round().astype(np.uint16)).save(tmp_path / "depth.png")
    images = InputImpl.VideoFromFile(str(tmp_path / "depth.png")).get_components().images
    node = module(pack, "nodes.geometry").MirageGeometry
    geometry, report = node.execute(images, "auto", 1.0, 20.0, 60.0).result
    right = torch.from_numpy(metres).float()
    torch.testing.assert_close(geometry.depth[0], right, atol=6e-4, rtol=0)
    assert "6.2% invalid" in report and "taken: millimetres" in report
    whole, _ = node.execute(
        images, "far is white", 0.001, 65.535, 60.0, None, "a distance"
    ).result
    assert float(whole.depth.min()) == pytest.approx(0.001)


@pytest.mark.parametrize("source", ["moge", "da3"])
def test_an_estimator_may_be_wired_straight(pack: ModuleType, source: str) -> None:
    """The geometry of its own node, without a guess."""
    nodes = module(pack, "nodes.geometry")
    depth = torch.rand(1, 32, 64) + 2
    if source == "moge":
        lens = torch.tensor([[[0.9, 0, 0.5], [0, 1.8, 0.5], [0, 0, 1]]])
        output = {"depth": depth, "intrinsics": lens, "normal": torch.zeros(1, 32, 64, 3)}
        right, _ = nodes.MirageGeometryMoGe.execute(output).result
    else:
        output = {"depth": depth, "mode": "mono", "sky": (depth > 2.9).float()}
        right, _ = nodes.MirageGeometryDA3.execute(output, 71.0, False, 0.5, 0.0).result
    found, report = nodes.MirageGeometry.execute(output, "auto", 1.0, 20.0, 71.0).result
    assert torch.equal(found.depth, right.depth)
    assert torch.equal(found.intrinsics, right.intrinsics)
    assert found.metric == right.metric == (source == "moge")
    assert (found.exclude is None) == (right.exclude is None) == (source == "moge")
    assert "taken: depth and lens of" in report


def test_numbered_files_are_offered_as_one(pack: ModuleType, monkeypatch, tmp_path) -> None:
    import folder_paths
    import numpy as np

    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    for number in (7, 8, 9):
        depth = np.full((4, 6), number, np.float32)
        np.savez(tmp_path / f"shot_{number:03}.npz", depth=depth, mine=2 * depth)
    np.savez(tmp_path / "other.npz", depth=np.ones((4, 6)))
    node = module(pack, "nodes.geometry").MirageGeometryLoad
    offered = module(pack, "nodes.comfy.files").list_files("npz", numbered=True)
    assert offered[0] == "shot_###.npz" and len(offered) == 5
    geometry, _ = node.execute("shot_###.npz", 60.0).result
    assert geometry.depth[:, 0, 0].tolist() == [7, 8, 9]
    doubled, report = node.execute("shot_###.npz", 60.0, " mine ").result
    assert doubled.depth[:, 0, 0].tolist() == [14, 16, 18]
    assert "not used: depth" in report
    before = node.fingerprint_inputs("shot_###.npz", 60.0)
    (tmp_path / "shot_009.npz").unlink()
    assert node.fingerprint_inputs("shot_###.npz", 60.0) != before


def test_the_empty_mask_of_load_image_may_stay_connected(pack: ModuleType) -> None:
    images, geometry = two_views(pack)
    depth = torch.linspace(0, 1, 32 * 64).reshape(1, 32, 64, 1).expand(-1, -1, -1, 3)
    node = module(pack, "nodes.geometry").MirageGeometry
    found, report = node.execute(
        depth, "far is white", 1.0, 5.0, 60.0, torch.zeros(1, 64, 64)
    ).result
    assert "0.0% left out" in report


def test_transparency_is_left_out_where_a_memory_begins(pack: ModuleType) -> None:
    images, geometry = two_views(pack)
    whole, first = begin(pack, images, geometry)
    alpha = torch.cat([images, torch.rand(2, 64, 64, 1)], dim=-1)
    again, latent = begin(pack, alpha, geometry)
    assert torch.equal(first["samples"], latent["samples"])
    assert torch.equal(whole.blocks[0].tokens, again.blocks[0].tokens)
