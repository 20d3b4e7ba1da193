"""The picture of depth: colours by inverse distance, stripes where nothing is used, a label."""

from __future__ import annotations

import pytest
import torch

from mirage_core.geometry.depth_view import UNUSED, depth_range, depth_view
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import intrinsics_from_fov

HEIGHT, WIDTH = 120, 200


def ramp(**parts: object) -> FrameGeometry:
    """Distances from 1 at the left to 11 at the right."""
    depth = torch.linspace(1, 11, WIDTH).expand(1, HEIGHT, WIDTH)
    return FrameGeometry(depth, intrinsics_from_fov(WIDTH, HEIGHT, 60)[None], **parts)  # type: ignore[arg-type]


def test_the_range_leaves_the_extremes_out() -> None:
    near, far = depth_range(ramp())
    assert near == pytest.approx(1.1, abs=0.06) and far == pytest.approx(10.9, abs=0.06)


def test_one_stray_pixel_does_not_decide_the_range() -> None:
    depth = torch.full((1, HEIGHT, WIDTH), 5.0)
    depth[0, 0, 0] = 1e6
    geometry = FrameGeometry(depth, intrinsics_from_fov(WIDTH, HEIGHT, 60)[None])
    assert depth_range(geometry) == (5.0, 5.0)
    assert bool(depth_view(geometry).isfinite().all())


def test_near_is_red_and_far_is_blue() -> None:
    row = depth_view(ramp())[10]
    assert row[4, 0] > 0.4 > row[4, 2]
    assert row[-4, 2] > row[-4, 0]


def test_what_is_left_out_is_striped_and_not_in_the_range() -> None:
    sky = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    sky[:, :, WIDTH // 2 :] = True
    geometry = ramp(exclude=sky)
    assert depth_range(geometry)[1] < 6.1
    picture = depth_view(geometry)
    shades = (picture[:80, 150:] * 255).round().int().reshape(-1, 3).unique(dim=0)
    assert set(map(tuple, shades.tolist())) == set(UNUSED)


def test_depth_that_is_left_out_altogether_still_has_a_range() -> None:
    geometry = ramp(exclude=torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool))
    assert depth_range(geometry)[1] > 10
    assert bool(depth_view(geometry).isfinite().all())


def test_the_label_is_written_over_the_foot() -> None:
    picture = depth_view(ramp(metric=True))
    foot, above = picture[-4], picture[HEIGHT // 2]
    assert float(foot.max()) < 0.2 and float(above.max()) > 0.5
    assert picture.shape == (HEIGHT, WIDTH, 3) and picture.dtype == torch.float32


@pytest.mark.parametrize("size", [(8, 8), (16, 900), (700, 40)])
def test_pictures_of_any_shape_are_drawn(size: tuple[int, int]) -> None:
    depth = torch.rand(2, *size) + 0.5
    lens = intrinsics_from_fov(size[1], size[0], 60).expand(2, 3, 3)
    assert depth_view(FrameGeometry(depth, lens), 1).shape == (*size, 3)
