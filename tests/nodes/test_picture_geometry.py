"""Pictures of every kind as Mirage Picture Geometry takes them, with a depth picture."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pictures_with_any_channels_become_colours(pack: ModuleType, channels: int) -> None:
    """Grey, grey with alpha, colours, colours with alpha: upright, and without the alpha."""
    ramp = torch.linspace(0, 1, 64)[None, :, None, None].expand(1, 64, 128, channels).clone()
    if channels in (2, 4):
        ramp[..., -1] = 0.5
    result = pack.nodes.picture_geometry.MiragePictureGeometry.execute(
        ramp, "auto", 0.01, 60.0, torch.full((1, 32, 64, 3), 0.5)
    )
    frame, geometry = result.args[:2]
    assert frame.shape == (1, 64, 128, 3)
    assert geometry.size == (32, 64)
    torch.testing.assert_close(frame, ramp[..., :1].expand(-1, -1, -1, 3), atol=0.01, rtol=0)


@pytest.mark.parametrize("shape", [(0, 90, 160, 3), (1, 0, 160, 3)], ids=["frames", "rows"])
def test_no_picture_is_told(pack: ModuleType, shape: tuple[int, ...]) -> None:
    with pytest.raises(pack.mirage_core.errors.ShapeError, match="There is no picture"):
        pack.nodes.picture_geometry.MiragePictureGeometry.execute(
            torch.zeros(shape), "auto", 0.01, 60.0, torch.full((1, 9, 16, 3), 0.5)
        )


def test_a_given_size_crops_the_picture_and_its_depth_alike(pack: ModuleType) -> None:
    """The middle of a wide picture, at the field of view that is left of it."""
    ramp = torch.linspace(0, 1, 160)[None, None, :, None].expand(1, 90, 160, 3)
    result = pack.nodes.picture_geometry.MiragePictureGeometry.execute(
        ramp, "auto", 0.9, 60.0, torch.full((1, 90, 160, 3), 0.5), 64, 64
    )
    frame, geometry = result.args[:2]
    assert frame.shape == (1, 64, 64, 3)
    assert geometry.size == (90, 90)
    torch.testing.assert_close(frame.mean(), torch.tensor(0.5), atol=0.01, rtol=0)
    assert frame.amin() == pytest.approx(35 / 159, abs=0.02)
    focal = 80 / math.tan(math.radians(30))
    assert geometry.intrinsics[0, 0, 0] == pytest.approx(focal, rel=1e-5)
    assert geometry.intrinsics[0, 0, 2] == pytest.approx(45, abs=1e-4)


@pytest.mark.parametrize("size", [(64, 0), (0, 64), (60, 64)])
def test_a_size_that_is_none_is_refused_before_the_run(
    pack: ModuleType, size: tuple[int, int]
) -> None:
    node = pack.nodes.picture_geometry.MiragePictureGeometry
    assert node.validate_inputs(width=0, height=0) is True
    assert node.validate_inputs(width=480, height=832) is True
    assert "divisible by 32" in node.validate_inputs(width=size[0], height=size[1])
