"""Geometry files: ours, arrays of other tools, and renders."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from mirage_core.errors import CacheFormatError, GeometryError, ShapeError
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.geometry_io import load_geometry, save_geometry
from mirage_core.geometry.trajectory import intrinsics_from_fov


def sample(count: int = 2) -> FrameGeometry:
    poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    poses[:, 2, 3] = torch.arange(count)
    return FrameGeometry(
        torch.rand(count, 8, 12) + 1,
        intrinsics_from_fov(12, 8, 70).expand(count, 3, 3),
        world_to_camera=poses,
        exclude=torch.rand(count, 8, 12) < 0.3,
        confidence=torch.rand(count, 8, 12),
        metric=True,
    )


def write_exr(path: Path, depth: np.ndarray) -> None:
    height, width = depth.shape
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("exr", rate=1)
        stream.width, stream.height, stream.pix_fmt = width, height, "grayf32le"
        frame = av.VideoFrame.from_ndarray(depth, format="grayf32le")
        for packet in (*stream.encode(frame), *stream.encode()):
            container.mux(packet)


def write_channels(path: Path, channels: dict[str, np.ndarray], flags: int = 0) -> None:
    """An EXR as the format's description has it, not compressed."""
    height, width = next(iter(channels.values())).shape
    kinds = {"float16": 1, "float32": 2, "uint32": 0}

    def attribute(name: str, kind: str, value: bytes) -> bytes:
        return name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<i", len(value)) + value

    listed = b"".join(
        name.encode() + b"\0" + struct.pack("<iB3xii", kinds[channels[name].dtype.name], 0, 1, 1)
        for name in sorted(channels)
    )
    box = struct.pack("<4i", 0, 0, width - 1, height - 1)
    header = struct.pack("<II", 20000630, 2 | flags)
    header += attribute("channels", "chlist", listed + b"\0")
    header += attribute("compression", "compression", b"\0")
    header += attribute("dataWindow", "box2i", box) + attribute("displayWindow", "box2i", box)
    header += attribute("lineOrder", "lineOrder", b"\0")
    header += attribute("pixelAspectRatio", "float", struct.pack("<f", 1))
    header += attribute("screenWindowCenter", "v2f", struct.pack("<2f", 0, 0))
    header += attribute("screenWindowWidth", "float", struct.pack("<f", 1)) + b"\0"
    lines = []
    for row in range(height):
        data = b"".join(channels[name][row].tobytes() for name in sorted(channels))
        lines.append(struct.pack("<2i", row, len(data)) + data)
    starts = np.cumsum([0, *map(len, lines[:-1])]) + len(header) + 8 * height
    path.write_bytes(header + starts.astype("<u8").tobytes() + b"".join(lines))


def test_round_trip_keeps_every_bit(tmp_path: Path) -> None:
    before = sample()
    after = load_geometry(save_geometry(before, tmp_path / "room"))
    for name in ("depth", "intrinsics", "world_to_camera", "exclude", "confidence"):
        assert torch.equal(getattr(before, name), getattr(after, name)), name
    assert after.metric


def test_released_arrays(tmp_path: Path) -> None:
    """The released layout holds camera-to-world poses and masks that are True where valid."""
    geometry = sample()
    poses = torch.linalg.inv(geometry.world_to_camera)
    np.savez(
        tmp_path / "geometry.npz",
        depths=geometry.depth.numpy(),
        intrinsics=geometry.intrinsics.float().numpy(),
        poses_c2w=poses.numpy(),
        masks=(~geometry.exclude).numpy(),
        frame_indices=np.arange(2),
    )
    loaded = load_geometry(tmp_path / "geometry.npz")
    assert torch.equal(loaded.depth, geometry.depth)
    assert torch.equal(loaded.exclude, geometry.exclude)
    torch.testing.assert_close(loaded.world_to_camera, geometry.world_to_camera)


def test_arrays_without_a_camera_need_a_field_of_view(tmp_path: Path) -> None:
    np.savez(tmp_path / "depth.npz", depth=np.ones((4, 6), np.float16))
    with pytest.raises(GeometryError, match="field of view"):
        load_geometry(tmp_path / "depth.npz")
    geometry = load_geometry(tmp_path / "depth.npz", fov=90)
    assert geometry.intrinsics[0, 0, 0].item() == pytest.approx(3.0)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harmed",))

    np.savez(tmp_path / "bad.npz", depth=np.array([Harmful()], dtype=object))
    with pytest.raises(CacheFormatError, match="plain numbers"):
        load_geometry(tmp_path / "bad.npz", fov=60)
    assert not (tmp_path / "harmed").exists()


def test_renders(tmp_path: Path) -> None:
    depth = np.random.default_rng(0).uniform(1, 50, (6, 16)).astype(np.float32)
    write_exr(tmp_path / "z.exr", depth)
    geometry = load_geometry(tmp_path / "z.exr", fov=60)
    assert np.array_equal(geometry.depth[0].numpy(), depth)


@pytest.mark.parametrize("name", ["Z", "Y", "V", "Pz", "depth.Z", "ViewLayer.Depth.Z", "depth"])
@pytest.mark.parametrize("beside", [(), ("R", "G", "B", "A"), ("ViewLayer.Combined.R", "u.X")])
def test_depth_passes_of_renderers(tmp_path: Path, name: str, beside: tuple[str, ...]) -> None:
    """32 bits of depth beside 16 bits of colour, under the names that renderers use."""
    rng = np.random.default_rng(1)
    depth = rng.uniform(1, 50, (6, 16)).astype(np.float32)
    colours = {c: rng.uniform(0, 1, (6, 16)).astype(np.float16) for c in beside}
    write_channels(tmp_path / "z.exr", {name: depth, **colours})
    if beside and name in ("Y", "V", "Pz"):
        with pytest.raises(CacheFormatError, match=f"channels .*{name}.*called Z or depth"):
            load_geometry(tmp_path / "z.exr", fov=60)
        return
    geometry = load_geometry(tmp_path / "z.exr", fov=60)
    assert np.array_equal(geometry.depth[0].numpy(), depth)


@pytest.mark.parametrize(
    ("kind", "far"), [("float32", 1e10), ("float16", 65504), ("float16", np.inf)]
)
def test_where_a_renderer_sees_no_surface_depth_is_invalid(tmp_path: Path, kind, far) -> None:
    depth = np.full((6, 16), 4, kind)
    depth[:2] = far
    write_channels(tmp_path / "z.exr", {"Z": depth})
    geometry = load_geometry(tmp_path / "z.exr", fov=60)
    assert not torch.isfinite(geometry.depth[:, :2]).any()
    assert (geometry.depth[:, 2:] == 4).all()


def test_colours_are_depth_only_when_they_are_grey(tmp_path: Path) -> None:
    for kind, alpha in ((np.float32, {}), (np.float16, {"A": np.ones((6, 16), np.float16)})):
        grey = np.random.default_rng(2).uniform(1, 9, (6, 16)).astype(kind)
        write_channels(tmp_path / "grey.exr", {"R": grey, "G": grey, "B": grey, **alpha})
        assert np.array_equal(load_geometry(tmp_path / "grey.exr", fov=60).depth[0].numpy(), grey)
    write_channels(tmp_path / "red.exr", {"R": grey + 1, "G": grey, "B": grey})
    with pytest.raises(CacheFormatError, match="picture in colour.*depth pass"):
        load_geometry(tmp_path / "red.exr", fov=60)


def test_a_damaged_exr_is_refused_wherever_it_is_damaged(tmp_path: Path) -> None:
    write_channels(tmp_path / "whole.exr", {"Z": np.ones((6, 16), np.float32)})
    whole = (tmp_path / "whole.exr").read_bytes()
    one, minus = struct.pack("<i", 1), struct.pack("<i", -1)
    backwards = whole.replace(b"compression\0" + one, b"compression\0" + minus)
    assert backwards != whole
    for content in (b"", whole[:4], whole[:9], whole[:31], whole[:60], whole[:-70], backwards):
        (tmp_path / "odd.exr").write_bytes(content)
        with pytest.raises(CacheFormatError, match="cannot be read as OpenEXR depth"):
            load_geometry(tmp_path / "odd.exr", fov=60)


def test_other_kinds_of_exr_are_refused_by_name(tmp_path: Path) -> None:
    depth = np.ones((6, 16), np.float32)
    for flag, words in ((0x800, "deep pixels"), (0x1000, "several parts")):
        write_channels(tmp_path / "odd.exr", {"Z": depth}, flag)
        with pytest.raises(CacheFormatError, match=words):
            load_geometry(tmp_path / "odd.exr", fov=60)
    write_channels(tmp_path / "whole.exr", {"Z": depth.astype(np.uint32)})
    with pytest.raises(CacheFormatError, match="whole numbers"):
        load_geometry(tmp_path / "whole.exr", fov=60)
    write_channels(tmp_path / "two.exr", {"a.Z": depth, "b.Z": depth})
    with pytest.raises(CacheFormatError, match=r"channels a\.Z, b\.Z"):
        load_geometry(tmp_path / "two.exr", fov=60)
    (tmp_path / "text.exr").write_text("nothing of the kind")
    with pytest.raises(CacheFormatError, match="another kind"):
        load_geometry(tmp_path / "text.exr", fov=60)


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.npz", "cut.exr"])
def test_damaged_files_are_refused(tmp_path: Path, name: str) -> None:
    whole = tmp_path / f"whole{Path(name).suffix}"
    if whole.suffix == ".safetensors":
        save_geometry(sample(), whole)
    elif whole.suffix == ".npz":
        np.savez(whole, depth=np.ones((4, 6)))
    else:
        write_exr(whole, np.ones((6, 16), np.float32))
    (tmp_path / name).write_bytes(whole.read_bytes()[:40])
    with pytest.raises(CacheFormatError):
        load_geometry(tmp_path / name, fov=60)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"points": torch.zeros(3)}, tmp_path / "memory.safetensors")
    with pytest.raises(CacheFormatError, match="does not hold geometry"):
        load_geometry(tmp_path / "memory.safetensors")
    with pytest.raises(CacheFormatError, match="not a geometry file"):
        load_geometry(tmp_path / "depth.png")
    with pytest.raises(CacheFormatError, match="does not exist"):
        load_geometry(tmp_path / "none.npz")
    np.savez(tmp_path / "colours.npz", rgb=np.ones((4, 6)))
    with pytest.raises(CacheFormatError, match="no depth"):
        load_geometry(tmp_path / "colours.npz")


def test_arrays_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    cameras = np.eye(3)[None].repeat(3, 0)
    np.savez(tmp_path / "odd.npz", depth=np.ones((2, 4, 6)), intrinsics=cameras)
    with pytest.raises(ShapeError):
        load_geometry(tmp_path / "odd.npz")
