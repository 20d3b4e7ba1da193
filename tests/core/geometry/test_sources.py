"""Estimators' layouts, checked by what they mean: where a pixel's point lies in space."""

from __future__ import annotations

import math

import pytest
import torch

from mirage_core.errors import GeometryError, ShapeError, ValueRangeError
from mirage_core.geometry.sources import (
    describe_geometry,
    geometry_from_da3,
    geometry_from_moge,
)


def moge(height: int = 6, width: int = 10, count: int = 1) -> dict:
    """A slanted plane seen with focal lengths of 0.9 widths and 1.5 heights: square pixels."""
    u = (torch.arange(width) + 0.5) / width
    v = (torch.arange(height) + 0.5) / height
    depth = (4 + u[None, :] + 2 * v[:, None]).expand(count, height, width)
    fx, fy = 0.9, 0.9 * width / height
    intrinsics = torch.tensor([[fx, 0, 0.5], [0, fy, 0.5], [0, 0, 1.0]]).expand(count, 3, 3)
    points = torch.stack(
        [
            (u[None, :] - 0.5) / fx * depth[0],
            (v[:, None] - 0.5) / fy * depth[0],
            depth[0],
        ],
        dim=-1,
    )
    mask = torch.ones(count, height, width, dtype=torch.bool)
    return {
        "depth": depth,
        "intrinsics": intrinsics,
        "points": points.expand(count, -1, -1, -1),
        "mask": mask,
        "image": torch.zeros(count, height, width, 3),
    }


def unproject(geometry, frame: int = 0) -> torch.Tensor:
    """(H, W, 3) points of pixel centres in the camera's space."""
    height, width = geometry.size
    k = geometry.intrinsics[frame]
    u, v = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    z = geometry.depth[frame].double()
    x = (u[None, :] - k[0, 2]) / k[0, 0] * z
    y = (v[:, None] - k[1, 2]) / k[1, 1] * z
    return torch.stack([x, y, z], dim=-1)


def da3(height: int = 28, width: int = 42, count: int = 1, **more) -> dict:
    return {
        "depth": torch.full((count, height, width), 3.0),
        "image": torch.zeros(count, height, width, 3),
        **{"mode": "mono", **more},
    }


def views(count: int = 3, network: tuple[int, int] = (14, 28)) -> dict:
    """Cameras side by side, with intrinsics in pixels of a smaller network input."""
    rows, columns = network
    k = torch.tensor([[18.0, 0, columns / 2], [0, 18.0, rows / 2], [0, 0, 1]])
    poses = torch.eye(4)[:3].repeat(count, 1, 1)
    poses[:, 0, 3] = -torch.arange(count) * 0.5
    return {"intrinsics": k.expand(1, count, 3, 3), "extrinsics": poses[None], "mode": "multiview"}


def test_moge_points_stay_where_moge_put_them() -> None:
    source = moge()
    geometry = geometry_from_moge(source, metric=True)
    torch.testing.assert_close(unproject(geometry), source["points"][0].double(), atol=1e-5, rtol=0)
    assert geometry.metric
    assert geometry.exclude is None


def test_moge_sky_is_infinite_and_left_out() -> None:
    source = moge()
    source["mask"] = source["mask"].clone()
    source["mask"][0, :2] = False
    source["depth"] = torch.where(source["mask"], source["depth"], torch.inf)
    geometry = geometry_from_moge(source, metric=False)
    assert geometry.exclude is not None
    assert torch.equal(geometry.exclude, ~source["mask"])
    assert "33.3% invalid, 33.3% left out" in describe_geometry(geometry)


def test_a_moge_panorama_is_refused() -> None:
    source = moge()
    del source["intrinsics"]
    with pytest.raises(GeometryError, match="Run MoGe Inference"):
        geometry_from_moge(source, metric=True)


def test_moge_masks_of_another_size_are_refused() -> None:
    source = moge()
    source["mask"] = source["mask"][:, :3]
    with pytest.raises(ShapeError, match="mask"):
        geometry_from_moge(source, metric=True)


def test_one_view_takes_the_field_of_view_it_is_given() -> None:
    geometry = geometry_from_da3(da3(), fov=90.0)
    assert geometry.intrinsics[0, 0, 0].item() == pytest.approx(21.0)
    assert geometry.world_to_camera is None
    assert "field of view 90 degrees" in describe_geometry(geometry)


def test_network_intrinsics_are_brought_to_the_picture() -> None:
    """A ray through the picture's corner is the ray through the network input's corner."""
    geometry = geometry_from_da3(da3(count=3, **views()), fov=10.0)
    expected = (0 - 28 / 2) / 18.0, (0 - 14 / 2) / 18.0
    k = geometry.intrinsics[1]
    assert ((0 - k[0, 2]) / k[0, 0]).item() == pytest.approx(expected[0])
    assert ((0 - k[1, 2]) / k[1, 1]).item() == pytest.approx(expected[1])
    assert geometry.world_to_camera is not None
    assert geometry.world_to_camera[2, 0, 3].item() == pytest.approx(-1.0)


@pytest.mark.parametrize("off", [(0.97, 1.04), (1.003, 0.996)])
def test_a_principal_point_beside_the_middle_does_not_scale_the_lens(off: tuple) -> None:
    """As pose_method ray_pose finds it: the input's size, not that point, sets the scale."""
    source = views(network=(112, 168))
    source["intrinsics"] = source["intrinsics"].clone()
    source["intrinsics"][..., 0, 2] *= off[0]
    source["intrinsics"][..., 1, 2] *= off[1]
    geometry = geometry_from_da3(da3(count=3, **source), fov=60.0)
    k = geometry.intrinsics[0]
    assert float(k[0, 0]) == pytest.approx(18.0 * 42 / 168)
    assert float(k[1, 1]) == pytest.approx(18.0 * 28 / 112)
    assert (float(k[0, 2]), float(k[1, 2])) == pytest.approx((21 * off[0], 14 * off[1]))


def test_one_picture_as_several_views_takes_the_field_of_view_it_is_given() -> None:
    """ComfyUI puts identities in place of cameras that the network did not give."""
    source = {"intrinsics": torch.eye(3)[None, None], "extrinsics": torch.eye(4)[None, None]}
    geometry = geometry_from_da3(da3(mode="multiview", **source), fov=90.0)
    assert geometry.world_to_camera is None
    assert geometry.intrinsics[0, 0, 0].item() == pytest.approx(21.0)
    many = {name: value.expand(1, 3, -1, -1) for name, value in source.items()}
    with pytest.raises(GeometryError, match="malformed.*pose_method"):
        geometry_from_da3(da3(count=3, **many), fov=90.0)


def test_rotations_in_low_precision_become_rotations() -> None:
    source = views()
    angle = math.radians(20)
    turn = torch.tensor(
        [[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]]
    )
    source["extrinsics"] = source["extrinsics"].clone()
    source["extrinsics"][0, 1, :, :3] = turn.bfloat16().float()
    geometry = geometry_from_da3(da3(count=3, **source), fov=60.0)
    assert geometry.world_to_camera is not None
    assert torch.allclose(geometry.world_to_camera[1, :3, :3].float(), turn, atol=5e-3)


def test_cameras_that_were_not_found_are_refused() -> None:
    source = views()
    source["extrinsics"] = torch.full_like(source["extrinsics"], torch.nan)
    with pytest.raises(GeometryError, match="overlap"):
        geometry_from_da3(da3(count=3, **source), fov=60.0)
    source["extrinsics"] = views()["extrinsics"] * torch.tensor([-1.0, 1, 1, 1])
    with pytest.raises(GeometryError, match="mirror"):
        geometry_from_da3(da3(count=3, **source), fov=60.0)


def test_sky_and_doubt_are_left_out() -> None:
    sky = torch.zeros(1, 28, 42)
    sky[:, :7] = 0.9
    confidence = torch.arange(28 * 42).view(1, 28, 42).float()
    geometry = geometry_from_da3(
        da3(sky=sky, confidence=confidence), fov=60.0, least_confidence=0.5
    )
    assert geometry.exclude is not None
    assert bool(geometry.exclude[:, :7].all())
    assert geometry.exclude.float().mean().item() == pytest.approx(0.5, abs=0.01)


def test_all_sky_is_refused() -> None:
    with pytest.raises(GeometryError, match="only sky"):
        geometry_from_da3(da3(sky=torch.ones(1, 28, 42)), fov=60.0)


@pytest.mark.parametrize("share", [-0.1, 1.0, math.nan])
def test_confidence_share_is_checked(share: float) -> None:
    with pytest.raises(ValueRangeError):
        geometry_from_da3(da3(), fov=60.0, least_confidence=share)


def test_foreign_layouts_are_refused() -> None:
    source = views()
    source["intrinsics"] = source["intrinsics"][0]
    with pytest.raises(ShapeError, match="unexpected layout"):
        geometry_from_da3(da3(count=3, **source), fov=60.0)
