"""Depth passes of renderers: every layout and compression, and which channel is depth."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import OpenEXR
import pytest
import torch

from mirage_core.errors import CacheFormatError, PackageError
from mirage_core.geometry.exr import read_exr_depth
from mirage_core.geometry.geometry_io import load_geometry


def write(path: Path, channels: dict[str, np.ndarray], **header: object) -> None:
    header = {"type": OpenEXR.scanlineimage, "compression": OpenEXR.ZIP_COMPRESSION, **header}
    with OpenEXR.File(header, channels) as file:
        file.write(str(path))


def window(left: int, top: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    first = np.array([left, top], np.int32)
    return first, first + np.array([width - 1, height - 1], np.int32)


def room(kind: type = np.float32, shape: tuple[int, int] = (40, 70)) -> np.ndarray:
    return np.random.default_rng(0).uniform(1, 50, shape).astype(kind)


def read(path: Path) -> np.ndarray:
    return load_geometry(path, fov=60).depth[0].numpy()


def refuse(path: Path, words: str) -> None:
    with pytest.raises(CacheFormatError, match=f"cannot be read as OpenEXR depth.*{words}"):
        load_geometry(path, fov=60)


COMPRESSIONS = {
    "NO": 0, "RLE": 0, "ZIPS": 0, "ZIP": 0, "PIZ": 0, "PXR24": 2e-5, "B44": 0.05, "B44A": 0.05,
    "DWAA": 0.05, "DWAB": 0.05,
}  # fmt: skip
"""Names, and the relative error that each may make in some kind of channel."""


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.uint32])
@pytest.mark.parametrize("name", COMPRESSIONS)
def test_every_compression(tmp_path: Path, name: str, kind: type) -> None:
    depth = np.linspace(2, 90, 40 * 70).reshape(40, 70).astype(kind)
    compression = getattr(OpenEXR, f"{name}_COMPRESSION")
    write(tmp_path / "z.exr", {"Z": depth, "A": depth.astype(np.float16)}, compression=compression)
    found = read(tmp_path / "z.exr")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, depth.astype(np.float32), rtol=COMPRESSIONS[name])
    with OpenEXR.File(str(tmp_path / "z.exr"), separate_channels=True) as file:
        assert np.array_equal(found, file.channels()["Z"].pixels.astype(np.float32))


@pytest.mark.parametrize("size", [(16, 16), (64, 32), (128, 128)])
def test_tiles(tmp_path: Path, size: tuple[int, int]) -> None:
    tiles = OpenEXR.TileDescription()
    tiles.xSize, tiles.ySize = size
    write(tmp_path / "z.exr", {"Z": room()}, type=OpenEXR.tiledimage, tiles=tiles)
    assert np.array_equal(read(tmp_path / "z.exr"), room())


def parts(path: Path, *pictures: tuple[str, dict[str, np.ndarray]], **header: object) -> None:
    listed = [
        # A copy: older versions empty what they are given.
        OpenEXR.Part({"type": OpenEXR.scanlineimage, **header}, dict(channels), name)
        for name, channels in pictures
    ]
    with OpenEXR.File(listed) as file:
        file.write(str(path))


def test_several_parts(tmp_path: Path) -> None:
    depth, path = room(), tmp_path / "parts.exr"
    colours = {name: room(np.float16) for name in "RGB"}
    for name, channel in (("second", "Z"), ("depth", "V"), ("a", "Depth.V"), ("b", "main.z")):
        parts(path, ("rgb", colours), (name, {channel: depth}))
        assert np.array_equal(read(path), depth)
    parts(path, ("left", {"Z": depth}), ("right", {"Z": depth}))
    refuse(path, r"channels left\.Z, right\.Z")
    parts(path, ("rgb", colours), ("normal", {"N": depth}))
    refuse(path, r"channels normal\.N, rgb\.B, rgb\.G, rgb\.R")
    parts(path, ("rgb", colours), ("second", {"Z": depth}))
    path.write_bytes(path.read_bytes()[:-200])
    refuse(path, "cut off")


@pytest.mark.parametrize(
    ("data", "picture"),
    [
        (window(3, 2, 8, 5), window(3, 2, 8, 5)),
        (window(0, 0, 8, 5), window(0, 0, 10, 7)),
        (window(1, 1, 8, 5), window(0, 0, 10, 7)),
        (window(-2, -1, 8, 5), window(0, 0, 6, 3)),
        (window(5, 3, 8, 5), window(0, 0, 10, 7)),
        (window(-3, 2, 8, 5), window(-1, -1, 4, 9)),
    ],
)
def test_the_picture_is_the_display_window(tmp_path: Path, data, picture) -> None:
    """The field of view is that of the display window, so pixels keep their places in it."""
    depth = room(shape=(5, 8))
    write(tmp_path / "z.exr", {"Z": depth}, dataWindow=data, displayWindow=picture)
    found = read_exr_depth(tmp_path / "z.exr").numpy()
    (left, top), (right, bottom) = picture
    assert found.shape == (bottom - top + 1, right - left + 1)
    for y in range(top, bottom + 1):
        for x in range(left, right + 1):
            row, column = y - data[0][1], x - data[0][0]
            inside = 0 <= row < 5 and 0 <= column < 8
            assert found[y - top, x - left] == (depth[row, column] if inside else np.inf)


def test_a_data_window_beside_the_picture_is_refused(tmp_path: Path) -> None:
    header = {"dataWindow": window(20, 20, 8, 5), "displayWindow": window(0, 0, 8, 5)}
    write(tmp_path / "z.exr", {"Z": room(shape=(5, 8))}, **header)
    refuse(tmp_path / "z.exr", "beside the display window")


@pytest.mark.parametrize("name", ["Z", "Y", "V", "Pz", "depth.Z", "ViewLayer.Depth.Z", "depth"])
@pytest.mark.parametrize("beside", [(), ("R", "G", "B", "A"), ("ViewLayer.Combined.R", "u.X")])
def test_depth_passes_of_renderers(tmp_path: Path, name: str, beside: tuple[str, ...]) -> None:
    """32 bits of depth beside 16 bits of colour, under the names that renderers use."""
    colours = {colour: room(np.float16) for colour in beside}
    write(tmp_path / "z.exr", {name: room(), **colours})
    if beside and name in ("Y", "V", "Pz"):
        refuse(tmp_path / "z.exr", f"channels .*{name}.*called Z or depth")
        return
    assert np.array_equal(read(tmp_path / "z.exr"), room())


@pytest.mark.parametrize(
    ("kind", "far"),
    [("float32", 1e10), ("float32", 65504), ("float16", 65504), ("float16", np.inf),
     ("uint32", 2**32 - 1)],
)  # fmt: skip
def test_where_a_renderer_sees_no_surface_depth_is_invalid(tmp_path: Path, kind, far) -> None:
    depth = np.full((6, 16), 4, kind)
    depth[:2] = far
    write(tmp_path / "z.exr", {"Z": depth})
    found = read(tmp_path / "z.exr")
    assert not np.isfinite(found[:2]).any()
    assert (found[2:] == 4).all()


@pytest.mark.parametrize("far", [65503, 65505, 1e6])
def test_other_distances_of_32_bits_are_surfaces(tmp_path: Path, far: float) -> None:
    depth = np.full((6, 16), far, np.float32)
    write(tmp_path / "z.exr", {"Z": depth})
    assert np.array_equal(read(tmp_path / "z.exr"), depth)


def test_colours_are_depth_only_when_they_are_grey(tmp_path: Path) -> None:
    for kind, alpha in ((np.float32, {}), (np.float16, {"A": np.ones((40, 70), np.float16)})):
        grey = room(kind)
        write(tmp_path / "grey.exr", {"R": grey, "G": grey, "B": grey, **alpha})
        assert np.array_equal(read(tmp_path / "grey.exr"), grey)
    write(tmp_path / "red.exr", {"R": grey + 1, "G": grey, "B": grey})
    refuse(tmp_path / "red.exr", "picture in colour.*depth pass")


def test_what_is_no_depth_is_refused_by_name(tmp_path: Path) -> None:
    deep = np.empty((4, 6), object)
    for place in np.ndindex(deep.shape):
        deep[place] = np.arange(1 + sum(place) % 3, dtype=np.float32)
    kind = {"type": OpenEXR.deepscanline, "compression": OpenEXR.ZIPS_COMPRESSION}
    write(tmp_path / "deep.exr", {"Z": deep}, **kind)
    refuse(tmp_path / "deep.exr", "deep pixels")
    write(tmp_path / "two.exr", {"a.Z": room(), "b.Z": room()})
    refuse(tmp_path / "two.exr", r"channels a\.Z, b\.Z")
    write(tmp_path / "half.exr", {"Z": OpenEXR.Channel(room(), 2, 2), "Y": room()})
    refuse(tmp_path / "half.exr", "Z with fewer values than pixels")
    (tmp_path / "text.exr").write_text("nothing of the kind")
    refuse(tmp_path / "text.exr", "a whole OpenEXR file")


def test_a_damaged_file_is_refused_wherever_it_is_damaged(tmp_path: Path) -> None:
    write(tmp_path / "whole.exr", {"Z": room()})
    whole = (tmp_path / "whole.exr").read_bytes()
    one, minus = struct.pack("<i", 1), struct.pack("<i", -1)
    backwards = whole.replace(b"compression\0" + one, b"compression\0" + minus)
    assert backwards != whole
    for content in (b"", whole[:4], whole[:9], whole[:31], whole[:60], whole[:-70], backwards):
        (tmp_path / "odd.exr").write_bytes(content)
        refuse(tmp_path / "odd.exr", "a whole OpenEXR file")


def test_more_pixels_than_the_file_can_hold_are_refused(tmp_path: Path) -> None:
    """Before room is made for them: PIZ takes 3 GiB and many seconds for the first of these."""
    write(tmp_path / "z.exr", {"Z": room()}, compression=OpenEXR.PIZ_COMPRESSION)
    tiles = OpenEXR.TileDescription()
    write(tmp_path / "t.exr", {"Z": room()}, type=OpenEXR.tiledimage, tiles=tiles)
    for name, where, values in (
        ("z.exr", b"dataWindow\0box2i\0", (0, 0, 8 << 20, 39)),
        ("z.exr", b"displayWindow\0box2i\0", (0, 0, 1 << 16, 1 << 16)),
        ("t.exr", b"tiles\0tiledesc\0", (16, 16 << 20)),
    ):
        content = bytearray((tmp_path / name).read_bytes())
        start = content.index(where) + len(where) + 4
        struct.pack_into(f"<{len(values)}i", content, start, *values)
        (tmp_path / "huge.exr").write_bytes(content)
        refuse(tmp_path / "huge.exr", "MiB of pixels in 1 channels")


def test_one_constant_is_no_bomb(tmp_path: Path) -> None:
    flat = {name: np.full((2000, 4500), 4, np.float16) for name in ("Z", "R", "G", "B")}
    write(tmp_path / "z.exr", flat, compression=OpenEXR.ZIP_COMPRESSION)
    assert 4 * 4 * 2000 * 4500 > 128 << 20
    assert (tmp_path / "z.exr").stat().st_size < 1 << 17
    assert (read_exr_depth(tmp_path / "z.exr") == 4).all()


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "z.exr", {"Z": room()})
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(PackageError, match='pip install "OpenEXR>='):
        load_geometry(tmp_path / "z.exr", fov=60)


MUTATE = """
import random, resource, sys
from pathlib import Path
from mirage_core.errors import CacheFormatError
from mirage_core.geometry.exr import read_exr_depth
folder, chance = Path(sys.argv[1]), random.Random(1)
seeds = [path.read_bytes() for path in sorted(folder.glob("*.exr"))]
most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + (1 << 20)
whole = 0
for number in range(1500):
    content = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((1, 2, 8))):
        place = chance.randrange(min(len(content) - 4, chance.choice((450, 1 << 20))))
        value = chance.choice((0, 1, 1 << 31, (1 << 32) - 1, chance.randrange(1 << 32)))
        width = chance.choice((1, 4))
        content[place : place + width] = value.to_bytes(4, "little")[:width]
    if chance.random() < 0.1:
        del content[chance.randrange(len(content)) :]
    (folder / "changed").write_bytes(content)
    try:
        whole += read_exr_depth(folder / "changed").numel() > 0
    except CacheFormatError:
        pass
assert 0 < whole < 1500
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < most
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the module resource is POSIX")
def test_changed_files_neither_crash_nor_take_memory(tmp_path: Path) -> None:
    """In a process of its own, which a crash of the decoder would end."""
    for name in COMPRESSIONS:
        compression = getattr(OpenEXR, f"{name}_COMPRESSION")
        write(tmp_path / f"{name}.exr", {"Z": room()}, compression=compression)
    tiles = OpenEXR.TileDescription()
    write(tmp_path / "tiles.exr", {"Z": room()}, type=OpenEXR.tiledimage, tiles=tiles)
    parts(tmp_path / "parts.exr", ("rgb", {"Y": room(np.float16)}), ("z", {"Z": room()}))
    command = [sys.executable, "-c", MUTATE, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_values_are_of_their_own_memory(tmp_path: Path) -> None:
    write(tmp_path / "z.exr", {"Z": room()})
    first = read_exr_depth(tmp_path / "z.exr")
    kept = first.clone()
    write(tmp_path / "z.exr", {"Z": room() + 1})
    read_exr_depth(tmp_path / "z.exr")
    assert torch.equal(first, kept)
