"""Which channel of a render is depth: layers as renderers name them, and numbered files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import OpenEXR
import pytest
import torch

from mirage_core.errors import CacheFormatError
from mirage_core.geometry.geometry_io import load_geometry
from mirage_core.geometry.sources import describe_geometry
from shared_material import SHARED

SHAPE = (9, 16)
DEPTH = np.linspace(2, 8.94, 9 * 16, dtype=np.float32).reshape(SHAPE)
FIELD = SHARED / "data" / "field" / "exr"


def flat(value: float) -> np.ndarray:
    return np.full(SHAPE, value, np.float32)


def layer(name: str, leaves: str) -> dict[str, np.ndarray]:
    """A layer of constants, none of which is the depth."""
    dot = f"{name}." if name else ""
    return {f"{dot}{leaf}": flat(0.1 * number + 0.3) for number, leaf in enumerate(leaves)}


def depth(*names: str) -> dict[str, np.ndarray]:
    return {name: DEPTH for name in names}


def write(path: Path, channels: dict[str, np.ndarray], compression: str = "ZIP") -> None:
    header = {
        "type": OpenEXR.scanlineimage,
        "compression": getattr(OpenEXR, f"{compression}_COMPRESSION"),
    }
    with OpenEXR.File(header, dict(channels)) as file:
        file.write(str(path))


RENDERERS = {
    "blender": depth("ViewLayer.Depth.Z")
    | layer("ViewLayer.Normal", "XYZ")
    | layer("ViewLayer.Combined", "RGBA"),
    "blender with denoising": depth("ViewLayer.Depth.Z")
    | layer("ViewLayer.Denoising Depth", "Z")
    | layer("ViewLayer.Denoising Normal", "XYZ"),
    "blender's file output": depth("Depth.V") | layer("Normal", "XYZ") | layer("Image", "RGBA"),
    "v-ray": depth("VRayZDepth.R", "VRayZDepth.G", "VRayZDepth.B") | layer("", "RGBA"),
    "v-ray with alpha": depth("zDepth.R", "zDepth.G", "zDepth.B") | layer("zDepth", "A"),
    "arnold": depth("Z") | layer("N", "XYZ") | layer("P", "XYZ") | layer("", "RGBA"),
    "nuke": depth("depth.Z") | layer("forward", "uv") | layer("", "RGBA"),
    "a root Z beside a layer": depth("Z") | layer("fog.depth", "Z") | layer("n", "xyz"),
    "a depth of three": depth("Depth.X", "Depth.Y", "Depth.Z") | layer("Normal", "XYZ"),
    "a small z": depth("main.z") | layer("normal", "xyz") | layer("", "RGB"),
    "luminance beside it": depth("Z") | layer("", "Y"),
    "a layer called fog": depth("Fog.Depth.Z") | layer("Fog.Mist", "Z") | layer("Fog.C", "RGB"),
    "inverse beside it": depth("zDepth") | layer("", "RGB") | {"inverse_depth": flat(2)},
    "inverse depth beside it": depth("depth.Z") | layer("inverseDepth", "Z") | layer("", "RGB"),
    "one channel": depth("ViewLayer.Depth.Z"),
    "one channel without a word": depth("Y"),
}


@pytest.mark.parametrize("name", RENDERERS)
def test_the_depth_of_a_renderer_is_found(tmp_path: Path, name: str) -> None:
    write(tmp_path / "z.exr", RENDERERS[name])
    assert np.array_equal(load_geometry(tmp_path / "z.exr", 60).depth[0].numpy(), DEPTH)


@pytest.mark.parametrize("beside", [layer("ViewLayer.Combined", "RGBA"), layer("", "RGBA"), {}])
@pytest.mark.parametrize("vector", ["ViewLayer.Normal", "N", "Position", ""])
def test_a_part_of_a_vector_is_no_depth(
    tmp_path: Path, vector: str, beside: dict[str, np.ndarray]
) -> None:
    write(tmp_path / "z.exr", layer(vector, "XYZ") | beside)
    with pytest.raises(CacheFormatError, match="not part of a normal"):
        load_geometry(tmp_path / "z.exr", 60)


def test_mist_is_no_depth(tmp_path: Path) -> None:
    """Blender calls its only channel Z; it is a share from 0 to 1."""
    write(tmp_path / "z.exr", layer("ViewLayer.Mist", "Z") | layer("ViewLayer.Combined", "RGBA"))
    with pytest.raises(CacheFormatError, match=r"channels .*ViewLayer\.Mist\.Z"):
        load_geometry(tmp_path / "z.exr", 60)


NO_DEPTH = [
    "ViewLayer.Mist.Z", "ViewLayer.Normal.Z", "Denoising Normal.Z", "P.Z", "position.Z", "motion.Z",
    "MotionVector.Z", "vector.Z", "fog", "disparity", "disparity.Z", "inverse_depth",
    "inverseDepth.Z", "InverseDepth", "uv.Z",
]  # fmt: skip


@pytest.mark.parametrize("beside", ["", "RGB", "RGBA"])
@pytest.mark.parametrize("name", NO_DEPTH)
def test_what_its_name_says_is_no_depth_is_read_only_by_that_name(
    tmp_path: Path, name: str, beside: str
) -> None:
    path = tmp_path / "z.exr"
    write(path, depth(name) | layer("", beside))
    with pytest.raises(CacheFormatError, match=f"channels .*{re.escape(name)}.*name the channel"):
        load_geometry(path, 60)
    assert np.array_equal(load_geometry(path, 60, name).depth[0].numpy(), DEPTH)


@pytest.mark.parametrize("channel", ["Z", "P.{}", "{}"])
def test_a_position_in_parts_is_no_depth(tmp_path: Path, channel: str) -> None:
    parts = [
        OpenEXR.Part(
            {"type": OpenEXR.scanlineimage}, {channel.format(axis): DEPTH}, f"P.{axis}{{{axis}}}"
        )
        for axis in "XYZ"
    ]
    with OpenEXR.File(parts) as file:
        file.write(str(tmp_path / "z.exr"))
    with pytest.raises(CacheFormatError, match="a position"):
        load_geometry(tmp_path / "z.exr", 60)


@pytest.mark.parametrize("name", ["Y", "ViewLayer.Depth.Z"])
def test_an_only_channel_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path / "z.exr", depth(name))
    assert f"taken: {name}" in describe_geometry(load_geometry(tmp_path / "z.exr", 60))


def test_colour_beside_or_in_a_layer_called_depth_is_no_depth(tmp_path: Path) -> None:
    write(tmp_path / "z.exr", layer("VRayZDepth", "RGB") | layer("", "RGBA"))
    with pytest.raises(CacheFormatError, match=r"a picture in colour \(VRayZDepth\)"):
        load_geometry(tmp_path / "z.exr", 60)


def test_front_and_back_are_two_depths(tmp_path: Path) -> None:
    path = tmp_path / "z.exr"
    write(path, {"depth.front": DEPTH, "depth.back": DEPTH * 2} | layer("", "RGBA"))
    with pytest.raises(CacheFormatError, match="depth.back, depth.front, each of which may be"):
        load_geometry(path, 60)
    found = load_geometry(path, 60, "depth.back")
    assert np.array_equal(found.depth[0].numpy(), DEPTH * 2)


def test_of_several_one_is_chosen_by_name(tmp_path: Path) -> None:
    path = tmp_path / "z.exr"
    near = {"ViewLayer_001.Depth.Z": DEPTH / 2}
    write(path, depth("ViewLayer.Depth.Z") | near | layer("a", "RGB"))
    both = "channels ViewLayer.Depth.Z, ViewLayer_001.Depth.Z"
    with pytest.raises(CacheFormatError, match=re.escape(both)):
        load_geometry(path, 60)
    for name in ("ViewLayer_001.Depth.Z", "ViewLayer_001.Depth"):
        found = load_geometry(path, 60, name)
        assert np.array_equal(found.depth[0].numpy(), DEPTH / 2)
        assert "taken: ViewLayer_001.Depth.Z" in describe_geometry(found)
    with pytest.raises(CacheFormatError, match="Depth2.*one of .*ViewLayer.Depth.Z"):
        load_geometry(path, 60, "Depth2")
    with pytest.raises(CacheFormatError, match="a picture in colour"):
        load_geometry(path, 60, "a")


def test_of_several_parts_one_is_chosen_by_name(tmp_path: Path) -> None:
    parts = [
        OpenEXR.Part({"type": OpenEXR.scanlineimage}, {"Z": DEPTH * scale}, name)
        for name, scale in (("left", 1), ("right", 2))
    ]
    with OpenEXR.File(parts) as file:
        file.write(str(tmp_path / "z.exr"))
    found = load_geometry(tmp_path / "z.exr", 60, "right.Z")
    assert np.array_equal(found.depth[0].numpy(), DEPTH * 2)


def test_a_normal_in_a_part_of_its_own_is_no_depth(tmp_path: Path) -> None:
    parts = [
        OpenEXR.Part({"type": OpenEXR.scanlineimage}, dict(channels), name)
        for name, channels in (("normal", layer("", "XYZ")), ("z", {"Z": DEPTH}))
    ]
    with OpenEXR.File(parts) as file:
        file.write(str(tmp_path / "z.exr"))
    assert np.array_equal(load_geometry(tmp_path / "z.exr", 60).depth[0].numpy(), DEPTH)


@pytest.mark.parametrize("compression", ["DWAA", "DWAB", "PIZ", "B44"])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_equal_channels_stay_equal_in_lossy_files(
    tmp_path: Path, compression: str, kind: type
) -> None:
    names = ("VRayZDepth.R", "VRayZDepth.G", "VRayZDepth.B")
    channels = depth(*names) | layer("", "RGBA")
    write(tmp_path / "z.exr", {k: v.astype(kind) for k, v in channels.items()}, compression)
    found = load_geometry(tmp_path / "z.exr", 60).depth[0].numpy()
    np.testing.assert_allclose(found, DEPTH, rtol=0.02)


def test_equal_channels_may_hold_what_is_not_a_number(tmp_path: Path) -> None:
    holed = DEPTH.copy()
    holed[0, 0] = np.nan
    write(tmp_path / "z.exr", dict.fromkeys(("D.depth.R", "D.depth.G", "D.depth.B"), holed))
    found = load_geometry(tmp_path / "z.exr", 60).depth[0].numpy()
    assert np.array_equal(found[0, 1:], DEPTH[0, 1:])
    assert not np.isfinite(found[0, 0])


def test_numbered_files_are_one_shot(tmp_path: Path) -> None:
    for number in (9998, 9999, 10000):
        write(tmp_path / f"shot.{number}.exr", {"Z": DEPTH + number})
    write(tmp_path / "shot.9998.beauty.exr", layer("", "RGB"))
    shot = load_geometry(tmp_path / "shot.####.exr", 60)
    assert shot.depth[:, 0, 0].tolist() == [10000.0, 10001.0, 10002.0]
    assert torch.equal(shot.intrinsics[0], shot.intrinsics[2])
    assert len(load_geometry(tmp_path / "shot.%04d.exr", 60)) == 3
    write(tmp_path / "shot.10002.exr", {"Z": DEPTH})
    with pytest.raises(CacheFormatError, match=r"no shot\.10001\.exr"):
        load_geometry(tmp_path / "shot.####.exr", 60)
    with pytest.raises(CacheFormatError, match="No file belongs"):
        load_geometry(tmp_path / "none.####.exr", 60)
    with pytest.raises(CacheFormatError, match="several numbers"):
        load_geometry(tmp_path / "a.##.b.##.exr", 60)


@pytest.mark.skipif(not FIELD.is_dir(), reason="needs shared/data/field")
@pytest.mark.parametrize(
    "name",
    ["blender_depth_normal", "fileout_depthV_normal", "vray_zdepth_rgb", "comp_dwaa_f32",
     "dwaa_onlyZ"],
)  # fmt: skip
def test_field_files(name: str) -> None:
    found = load_geometry(FIELD / f"{name}.exr", 60).depth[0].numpy()
    assert np.array_equal(found, np.load(FIELD / "Z_true.npy"))
