"""Depth with cameras: what is accepted, and how it is brought to other sizes."""

from __future__ import annotations

import math

import pytest
import torch

from mirage_core.errors import GeometryError, ShapeError
from mirage_core.geometry.frame_geometry import FrameGeometry, depth_from_picture
from mirage_core.geometry.trajectory import intrinsics_from_fov


def geometry(make, frames: int = 3, **kwargs) -> FrameGeometry:
    depth = kwargs.pop("depth", 1 + make.uniform(frames, 6, 8))
    return FrameGeometry(depth, kwargs.pop("intrinsics", make.lens(6, 8, frames)), **kwargs)


def test_types_and_sizes(make) -> None:
    made = geometry(make, world_to_camera=make.poses(3).float())
    assert (len(made), made.size) == (3, (6, 8))
    assert made.depth.dtype == torch.float32
    assert made.intrinsics.dtype == made.world_to_camera.dtype == torch.float64
    assert torch.equal(made.intrinsics_for((12, 4))[:, :2], torch.stack(
        [made.intrinsics[:, 0] / 2, made.intrinsics[:, 1] * 2], dim=1
    ))  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"depth": torch.ones(6, 8)},
        {"depth": torch.ones(2, 6, 8)},
        {"intrinsics": torch.eye(3)[None]},
        {"world_to_camera": torch.eye(4)[None]},
        {"exclude": torch.zeros(3, 6, 7, dtype=torch.bool)},
        {"confidence": torch.zeros(1, 6, 8)},
    ],
)
def test_shapes_that_do_not_fit(make, change) -> None:
    with pytest.raises(ShapeError):
        geometry(make, **change)


@pytest.mark.parametrize("place", [(0, 0), (17, 5), (39, 49)])
def test_one_valid_pixel_is_enough_wherever_it_is(make, place: tuple[int, int]) -> None:
    depth = torch.zeros(2, 40, 50)
    depth[0], depth[(1, *place)] = 1.0, 2.0
    made = geometry(make, depth=depth, intrinsics=make.lens(40, 50, 2))
    assert made.depth[(1, *place)] == 2.0


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_frame_without_valid_depth_is_named(make, value: float) -> None:
    depth = torch.ones(3, 6, 8)
    depth[1] = value
    with pytest.raises(GeometryError, match="depth of frame 1 has no valid pixel"):
        geometry(make, depth=depth)
    depth[1, 0, 0] = 1
    geometry(make, depth=depth)


@pytest.mark.parametrize(
    "change",
    [
        {"intrinsics": torch.zeros(3, 3, 3)},
        {"intrinsics": torch.full((3, 3, 3), math.nan)},
        {"intrinsics": torch.ones(3, 3, 3)},
        {"world_to_camera": torch.zeros(3, 4, 4)},
        {"world_to_camera": torch.full((3, 4, 4), math.inf)},
    ],
)
def test_cameras_that_are_none(make, change) -> None:
    with pytest.raises(GeometryError):
        geometry(make, **change)


def test_selecting_frames(make) -> None:
    made = geometry(
        make, exclude=make.uniform(3, 6, 8) > 0.5, world_to_camera=make.poses(3), metric=True
    )
    part = made.select([2, 0])
    assert part.metric
    assert part.confidence is None
    for name in ("depth", "intrinsics", "world_to_camera", "exclude"):
        assert torch.equal(getattr(part, name), getattr(made, name)[[2, 0]])


def test_typical_depth_leaves_invalid_pixels_out() -> None:
    depth = torch.zeros(2, 1, 6)
    depth[0, 0] = torch.tensor([1.0, 2, 3, 0, math.inf, math.nan])
    depth[1] = 50
    lens = torch.tensor([[1.0, 0, 3], [0, 1, 0.5], [0, 0, 1]])
    made = FrameGeometry(depth, lens.repeat(2, 1, 1))
    assert made.typical_depth() == 2


def test_aspect(make) -> None:
    made = geometry(make)
    made.expect_aspect(1280, 960)
    made.expect_aspect(1280, 944)
    for width, height in ((1280, 704), (960, 1280), (1280, 900)):
        with pytest.raises(ShapeError, match="depth 8 x 6, picture"):
            made.expect_aspect(width, height)


def test_depth_pictures() -> None:
    grey = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0]).view(1, 1, 5)
    inverse = depth_from_picture(grey, 1, 4)
    assert inverse.flatten().tolist() == pytest.approx([4, 4, 1.6, 1, 1])
    linear = depth_from_picture(grey, 1, 4, inverse=False)
    assert linear.flatten().tolist() == pytest.approx([1, 1, 2.5, 4, 4])


@pytest.mark.parametrize(
    "ends", [(0, 1), (-1, 1), (2, 2), (3, 1), (1, math.inf), (math.nan, 1), (1, math.nan)]
)
def test_depth_pictures_need_a_range(ends) -> None:
    with pytest.raises(GeometryError, match="0 < near < far"):
        depth_from_picture(torch.zeros(1, 2, 2), *ends)


@pytest.mark.parametrize("factor", [0.25, 0.5, 0.75, 1.5, 2, 4])
def test_intrinsics_in_pixels_of_another_picture_are_refused(factor: float) -> None:
    lens = intrinsics_from_fov(48, 32, 60)[None]
    with pytest.raises(GeometryError, match="do not belong.*48 x 32 pixels.*Scale focal"):
        FrameGeometry(torch.ones(1, 32, 48), lens * torch.tensor([[factor], [factor], [1.0]]))


@pytest.mark.parametrize(("across", "down"), [(0.1, 0.5), (0.5, 0.8), (0.45, 0.45), (0.3, 0.7)])
def test_crops_and_shifted_lenses_are_taken(across: float, down: float) -> None:
    lens = intrinsics_from_fov(48, 32, 60)[None].clone()
    lens[0, 0, 2], lens[0, 1, 2] = across * 48, down * 32
    assert len(FrameGeometry(torch.ones(1, 32, 48), lens)) == 1
