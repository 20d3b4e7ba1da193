"""Pictures of every kind as Mirage Picture Geometry takes them, with a depth picture."""

from __future__ import annotations

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
