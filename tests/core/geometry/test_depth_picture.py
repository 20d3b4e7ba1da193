"""What the values of a depth picture mean, and what black means."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mirage_core.cli.inputs import load_depth_picture
from mirage_core.errors import CacheFormatError, ValueRangeError
from mirage_core.geometry.depth import valid_depth
from mirage_core.geometry.depth_picture import (
    A_DISTANCE,
    FAR_LINEAR,
    MILLIMETRES,
    NEAR_INVERSE,
    NEAR_LINEAR,
    NO_READING,
    SCENE_UNITS,
    DepthReading,
    geometry_from_picture,
)
from mirage_core.geometry.geometry_io import load_geometry
from mirage_core.geometry.sources import describe_geometry

H, W = 24, 40


def kinect() -> torch.Tensor:
    """Millimetres from 1.0 to 3.9 m; a strip and some pixels without a reading."""
    metres = torch.linspace(1, 3.9, H * W).reshape(H, W)
    metres[:, 10:14] = 0
    metres[3, 3] = 0
    return (metres * 1000).round()


def picture(levels: torch.Tensor) -> torch.Tensor:
    """As ComfyUI's Load Image gives grey."""
    return levels[None, ..., None].expand(1, H, W, 3)


def read(levels: torch.Tensor, fov: float = 60.0, **reading: object):
    return geometry_from_picture(picture(levels), DepthReading(**reading), fov)


def test_millimetres_are_known_by_their_range() -> None:
    found = read(kinect() / 65535)
    holes = kinect() == 0
    assert torch.equal(valid_depth(found.depth[0]), ~holes)
    torch.testing.assert_close(found.depth[0], kinect() / 1000, atol=1e-4, rtol=0)
    assert found.metric
    share = f"{float(holes.float().mean()):.1%}"
    report = describe_geometry(found)
    assert f"{share} invalid" in report
    assert f"black is no reading ({share})" in report
    assert "taken: millimetres (finer than 8 bits, up to 6.0% of white)" in report


def test_millimetres_under_another_encoding_are_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("WARNING", logger="mirage"):
        found = describe_geometry(read(kinect() / 65535, encoding=NEAR_INVERSE))
    assert "look like millimetres" in caplog.text
    assert "taken: near is white, 1 to 20 (finer than 8 bits" in found
    assert "look like millimetres, which auto would take" in found


def test_white_is_out_of_range_in_millimetres() -> None:
    levels = kinect() / 65535
    levels[0] = 1
    found = read(levels)
    assert found.metric
    assert not valid_depth(found.depth[0, 0]).any()


def saturated(rows: slice) -> torch.Tensor:
    """Inverse depth of 16 bits up to 0.4, before which a thing is white."""
    levels = (0.05 + 0.35 * torch.arange(H)[:, None] / H).repeat(1, W)
    levels[rows, 15:25] = 1
    return (levels * 65535).round() / 65535


def test_a_white_thing_inside_is_near(caplog: pytest.LogCaptureFixture) -> None:
    levels = saturated(slice(8, 20))
    with caplog.at_level("WARNING", logger="mirage"):
        found = read(levels)
    torch.testing.assert_close(found.depth[0], 1 / (1 / 20 + levels * (1 - 1 / 20)))
    assert not found.metric
    assert float(found.depth[0, 8:20, 15:25].max()) == pytest.approx(1)
    assert "the white inside is near; choose millimetres" in caplog.text
    assert "the white inside is near" in describe_geometry(found)
    caplog.clear()
    assert read(levels, encoding=MILLIMETRES).metric
    assert "look like" not in describe_geometry(read(levels, encoding=NEAR_INVERSE))
    assert not caplog.records


def test_white_that_reaches_the_border_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="mirage"):
        found = read(saturated(slice(8, H)))
    assert found.metric
    assert not valid_depth(found.depth[0, 8:, 15:25]).any()
    assert "the white is out of range; choose near is white" in caplog.text


def test_a_stray_white_pixel_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    levels = torch.nn.functional.interpolate(kinect()[None, None] / 65535, scale_factor=2)[0, 0]
    levels[20, 20] = 1
    with caplog.at_level("WARNING", logger="mirage"):
        found = geometry_from_picture(levels[None, ..., None], DepthReading(), 60)
    assert found.metric
    assert not caplog.records


@pytest.mark.parametrize("encoding", [FAR_LINEAR, NEAR_LINEAR, NEAR_INVERSE])
def test_black_that_stands_apart_is_no_reading(encoding: str) -> None:
    """In 8 bits too, under each meaning, unless it is said to be a distance."""
    levels = (torch.linspace(100, 255, H * W).round() / 255).reshape(H, W)
    levels[:5] = 0
    found = read(levels, encoding=encoding)
    assert not valid_depth(found.depth[0, :5]).any()
    assert valid_depth(found.depth[0, 5:]).all()
    whole = read(levels, encoding=encoding, black=A_DISTANCE)
    assert valid_depth(whole.depth).all()
    assert torch.equal(whole.depth[0, 5:], found.depth[0, 5:])


def test_black_at_the_end_of_a_range_is_a_distance() -> None:
    ramp = (torch.linspace(0, 255, H * W).round() / 255).reshape(H, W)
    assert valid_depth(read(ramp).depth).all()
    assert float(read(ramp).depth.max()) == pytest.approx(20)
    assert not valid_depth(read(ramp, black=NO_READING).depth[0, 0, 0])
    two = torch.zeros(H, W)
    two[:9] = 1
    assert valid_depth(read(two, encoding=FAR_LINEAR).depth).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_a_picture_that_is_stretched_to_its_range_is_what_it_was(bits: int) -> None:
    white = 2**bits - 1
    levels = (torch.linspace(0, white, H * W).round() / white).reshape(H, W)
    right = 1 / (1 / 20 + levels * (1 - 1 / 20))
    torch.testing.assert_close(read(levels).depth[0], right)
    assert "taken: near is white, 1 to 20 (nothing in the picture tells more)" in (
        describe_geometry(read(levels))
    )
    # A dark one of 8 bits, too.
    dark = torch.linspace(0, 99, H * W).round().reshape(H, W) / 255
    assert not read(dark).metric


def test_distances_beyond_1_are_scene_units() -> None:
    metres = kinect() / 1000
    for encoding in ("auto", NEAR_INVERSE, FAR_LINEAR, SCENE_UNITS):
        found = read(metres, encoding=encoding)
        assert torch.equal(found.depth[0], metres)
        assert "taken: scene units" in describe_geometry(found)
    assert torch.equal(read(metres / 8, encoding=SCENE_UNITS).depth[0], metres / 8)


def test_colours_are_averaged_and_told_of() -> None:
    levels = torch.rand(1, H, W, 4)
    found = geometry_from_picture(levels, DepthReading(FAR_LINEAR), 60)
    torch.testing.assert_close(found.depth, 1 + 19 * levels[..., :3].mean(-1))
    assert "the picture has colours" in describe_geometry(found)
    grey_alpha = torch.rand(1, H, W, 2)
    found = geometry_from_picture(grey_alpha, DepthReading(FAR_LINEAR), 60)
    torch.testing.assert_close(found.depth, 1 + 19 * grey_alpha[..., 0])


def test_unknown_words_are_refused() -> None:
    with pytest.raises(ValueRangeError, match="encoding is unknown.*millimetres"):
        DepthReading("inches")
    with pytest.raises(ValueRangeError, match="meaning of black"):
        DepthReading(MILLIMETRES, black="hole")


def test_files_mean_the_same_on_the_command_line(tmp_path) -> None:
    """16 bits in millimetres, and a float TIFF, which Load Image would cut to 8 bits."""
    Image.fromarray(kinect().numpy().astype(np.uint16)).save(tmp_path / "mm.png")
    for encoding in ("auto", "millimetres"):
        found = load_depth_picture(tmp_path / "mm.png", encoding)
        torch.testing.assert_close(found.depth[0], kinect() / 1000, atol=1e-4, rtol=0)
    far = load_depth_picture(tmp_path / "mm.png", "far-white", 0.001, 65.535, 60)
    assert torch.equal(valid_depth(far.depth[0]), kinect() > 0)
    black = load_depth_picture(tmp_path / "mm.png", "far-white", 0.001, 65.535, 60, "distance")
    assert float(black.depth.min()) == pytest.approx(0.001)
    Image.fromarray(kinect().numpy() / 1000).save(tmp_path / "m.tif")
    Image.fromarray(kinect().numpy().astype(np.uint16)).save(tmp_path / "mm.tif")
    for name in ("m.tif", "mm.tif"):
        found = load_geometry(tmp_path / name, 60)
        torch.testing.assert_close(found.depth[0], kinect() / 1000, atol=1e-4, rtol=0)
    Image.fromarray(np.arange(H * W, dtype=np.uint8).reshape(H, W)).save(tmp_path / "8.tif")
    with pytest.raises(CacheFormatError, match="what its levels mean.*--depth"):
        load_geometry(tmp_path / "8.tif", 60)
