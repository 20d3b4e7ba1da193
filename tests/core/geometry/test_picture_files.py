"""Picture files: upright, with all bits, and refused before they take memory."""

from __future__ import annotations

import random
import struct
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from mirage_core.cli.inputs import load_depth_picture, load_picture
from mirage_core.errors import CacheFormatError, MirageError
from mirage_core.geometry.geometry_io import load_geometry
from mirage_core.geometry.picture_files import read_levels, read_picture
from mirage_core.geometry.sources import describe_geometry

H, W = 32, 64


def save_tiff(
    path: Path,
    values: np.ndarray,
    inks: int,
    *,
    planes: bool = False,
    turn: int = 1,
    order: str = "<",
) -> None:
    """Plain rows of (H, W, channels), as they stand in the file."""
    kind = {"u": 1, "f": 3}[values.dtype.kind]
    height, width, count = values.shape
    raw = values.astype(values.dtype.newbyteorder(order))
    strips = [raw[..., c].tobytes() for c in range(count)] if planes else [raw.tobytes()]
    places = [8 + sum(map(len, strips[:number])) for number in range(len(strips))]
    tags = {
        256: [width], 257: [height], 258: [8 * values.itemsize] * count, 259: [1], 262: [inks],
        273: places, 274: [turn], 277: [count], 278: [height], 279: [len(s) for s in strips],
        284: [2 if planes else 1], 339: [kind] * count,
    }  # fmt: skip
    start = 8 + sum(map(len, strips))
    behind = start + 2 + 12 * len(tags) + 4
    entries, long = b"", b""
    for number, numbers in tags.items():
        field = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(field) > 4:
            field, long = struct.pack(order + "I", behind + len(long)), long + field
        entries += struct.pack(order + "HHI", number, 4, len(numbers)) + field
    head = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, start)
    listed = struct.pack(order + "H", len(tags)) + entries + bytes(4)
    path.write_bytes(head + b"".join(strips) + listed + long)


def colours(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (H, W, 3), dtype=np.uint8)


def save_deep(path: Path, values: np.ndarray, form: str, codec: str = "png") -> None:
    """Colours of 16 bits, which Pillow cannot write."""
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream(codec)
        stream.width, stream.height, stream.pix_fmt = values.shape[1], values.shape[0], form
        frame = av.VideoFrame.from_ndarray(values.astype(np.uint16), format="rgb48le")
        for packet in (*stream.encode(frame.reformat(format=form)), *stream.encode()):
            container.mux(packet)


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("size", [(64, 32), (32, 32)])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_pictures_stand_upright(
    tmp_path: Path, suffix: str, size: tuple[int, int], number: int
) -> None:
    """Also square ones, whose size does not tell."""
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[274] = number
    smooth = Image.fromarray(colours()[:4, :4]).resize(size, Image.Resampling.BICUBIC)
    smooth.save(path, exif=exif)
    with Image.open(path) as picture:
        right = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    assert np.array_equal(read_picture(path), right)
    levels, _ = read_levels(path)
    assert levels.shape == right.shape
    expected = torch.from_numpy(right.copy()).float() / 255
    assert torch.equal(load_picture(path), expected)


UPRIGHT = {
    1: lambda rows: rows,
    2: np.fliplr,
    3: lambda rows: np.rot90(rows, 2),
    4: np.flipud,
    5: lambda rows: np.rot90(np.fliplr(rows)),
    6: lambda rows: np.rot90(rows, -1),
    7: lambda rows: np.rot90(np.fliplr(rows), -1),
    8: np.rot90,
}
"""By the table of the TIFF specification."""


@pytest.mark.parametrize("number", UPRIGHT)
@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_plain_tiffs_stand_upright(tmp_path: Path, mode: str, number: int) -> None:
    """Rows that are not compressed may be mapped into memory by the turned size."""
    if mode == "I;16":
        plain = Image.fromarray(np.arange(H * W, dtype=np.uint16).reshape(H, W) * 31)
    else:
        plain = Image.fromarray(colours()).convert(mode)
    plain.save(tmp_path / "a.tif", tiffinfo={274: number})
    if mode in ("I;16", "F"):
        white = 65535 if mode == "I;16" else 1
        levels = np.asarray(plain).astype(np.float32)[..., None] / np.float32(white)
    else:
        levels = np.asarray(plain.convert("RGB")).astype(np.float32) / np.float32(255)
    found, _ = read_levels(tmp_path / "a.tif")
    assert np.array_equal(found, UPRIGHT[number](levels))


@pytest.mark.parametrize("number", UPRIGHT)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planes", [False, True])
def test_colours_of_a_16_bit_tiff(tmp_path: Path, planes: bool, order: str, number: int) -> None:
    values = np.random.default_rng(6).integers(0, 65536, (H, W, 3)).astype(np.uint16)
    save_tiff(tmp_path / "a.tif", values, 2, planes=planes, turn=number, order=order)
    found = read_picture(tmp_path / "a.tif")
    assert np.array_equal((found * 65535).round(), UPRIGHT[number](values))


@pytest.mark.parametrize("bits", [8, 16])
def test_white_may_be_0(tmp_path: Path, bits: int) -> None:
    white = 2**bits - 1
    values = np.random.default_rng(7).integers(0, white + 1, (H, W, 1)).astype(f"u{bits // 8}")
    save_tiff(tmp_path / "a.tif", values, 0)
    found, _ = read_levels(tmp_path / "a.tif")
    assert np.array_equal((found[..., :1] * white).round(), white - values.astype(int))


@pytest.mark.parametrize("planes", [False, True])
def test_cmyk_of_16_bits_is_refused(tmp_path: Path, planes: bool) -> None:
    values = np.random.default_rng(8).integers(0, 65536, (H, W, 4)).astype(np.uint16)
    save_tiff(tmp_path / "a.tif", values, 5, planes=planes)
    with pytest.raises(CacheFormatError, match="CMYK of 16 bits"):
        read_picture(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("kind", "count", "told"), [("f8", 1, "64-bit floats"), ("f2", 1, "16-bit floats"),
                                ("f4", 3, "32-bit floats in 3 channels")],
)  # fmt: skip
def test_floats_that_are_not_read_are_named(
    tmp_path: Path, kind: str, count: int, told: str
) -> None:
    save_tiff(tmp_path / "a.tif", np.ones((H, W, count), kind), 2 if count > 1 else 1)
    with pytest.raises(CacheFormatError, match=rf"a\.tif .*{told}.* one channel of 32-bit floats"):
        load_depth_picture(tmp_path / "a.tif")


def test_what_is_no_picture_is_called_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"a text")
    with pytest.raises(CacheFormatError, match=r"a\.tif .*cannot identify") as caught:
        read_picture(tmp_path / "a.tif")
    assert str(tmp_path) not in str(caught.value)


def test_pages_behind_the_first_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pages = [Image.fromarray(np.full((H, W), value, np.float32)) for value in (2, 3, 4)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with caplog.at_level("WARNING", logger="mirage"):
        levels, floats = read_levels(tmp_path / "a.tif")
    assert floats
    assert (levels == 2).all()
    assert "the first of 3 pages of a.tif" in caplog.text
    assert "the first of 3 pages" in describe_geometry(load_geometry(tmp_path / "a.tif", 60))


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 7, 8])
def test_colours_of_16_bits_stand_upright(tmp_path: Path, number: int) -> None:
    values = np.random.default_rng(1).integers(0, 65536, (H, W, 3))
    save_deep(tmp_path / "a.png", values, "rgb48be")
    content = (tmp_path / "a.png").read_bytes()
    exif = struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 274, 3, 1, number, 0, 0)
    chunk = b"eXIf" + exif
    block = struct.pack(">I", len(exif)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "b.png").write_bytes(content[:33] + block + content[33:])
    plain = Image.fromarray((values // 256).astype(np.uint8))
    plain.getexif()[274] = number
    turned = np.asarray(ImageOps.exif_transpose(plain))
    found = read_picture(tmp_path / "b.png")
    assert found.dtype == np.float32
    assert np.array_equal((found * 65535).round().astype(int) // 256, turned)


@pytest.mark.parametrize("form", ["rgb48be", "rgba64be", "ya16be"])
@pytest.mark.parametrize("width", [64, 50, 33])
def test_16_bits_stay_16_bits(tmp_path: Path, form: str, width: int) -> None:
    values = np.random.default_rng(2).integers(0, 65536, (H, width, 3))
    if form == "ya16be":
        values[...] = values[..., :1]
    save_deep(tmp_path / "a.png", values, form)
    found = read_picture(tmp_path / "a.png") * 65535
    # Grey goes through the luminance of the test's own writer.
    tolerance = 0.01 if form != "ya16be" else 300
    np.testing.assert_allclose(found, values, atol=tolerance)
    assert len(np.unique(found)) > 256


def test_ppm_files_keep_16_bits(tmp_path: Path) -> None:
    values = np.random.default_rng(5).integers(0, 65536, (H, W, 3)).astype(">u2")
    (tmp_path / "a.ppm").write_bytes(b"P6 %d %d 65535\n" % (W, H) + values.tobytes())
    np.testing.assert_allclose(read_picture(tmp_path / "a.ppm") * 65535, values, atol=0.01)


def test_grey_of_16_bits_is_a_picture(tmp_path: Path) -> None:
    grey = np.random.default_rng(3).integers(0, 65536, (H, W)).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    found = load_picture(tmp_path / "a.png")
    assert found.shape == (H, W, 3)
    np.testing.assert_allclose(found[..., 1] * 65535, grey, atol=0.01)
    half = load_picture(tmp_path / "a.png", (W // 2 * 2, H))
    assert torch.equal(half, found)


def test_resizing_keeps_16_bits(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 4 * W)[None, :, None] * np.ones((4 * H, 1, 3))
    save_deep(tmp_path / "a.png", ramp, "rgb48be")
    found = load_picture(tmp_path / "a.png", (2 * W, 2 * H))
    assert found.shape == (2 * H, 2 * W, 3)
    assert 0 <= float(found.min()) < float(found.max()) <= 1
    steps = found[H, 8:-8, 0].diff()
    torch.testing.assert_close(steps, torch.full_like(steps, 2 / (4 * W - 1)), atol=2e-5, rtol=0)


def test_alpha_palette_and_cmyk_are_colours(tmp_path: Path) -> None:
    rgb = Image.fromarray(colours())
    flat = rgb.quantize(16)
    rgba = rgb.copy()
    rgba.putalpha(7)
    for picture, name in ((rgba, "a.png"), (flat, "b.png"), (rgb.convert("CMYK"), "c.tif")):
        picture.save(tmp_path / name)
        assert np.array_equal(read_picture(tmp_path / name), np.asarray(picture.convert("RGB")))


def test_floats_are_no_picture_but_depth(tmp_path: Path) -> None:
    metres = np.linspace(0.5, 4, H * W, dtype=np.float32).reshape(H, W)
    Image.fromarray(metres).save(tmp_path / "a.tif")
    with pytest.raises(CacheFormatError, match="numbers beyond"):
        load_picture(tmp_path / "a.tif")
    assert np.array_equal(load_depth_picture(tmp_path / "a.tif").depth[0].numpy(), metres)
    found = load_depth_picture(tmp_path / "a.tif", "near-white", 1, 20, 60)
    assert np.array_equal(found.depth[0].numpy(), metres)
    Image.fromarray(metres / 8).save(tmp_path / "a.tif")
    assert np.array_equal(load_depth_picture(tmp_path / "a.tif").depth[0].numpy(), metres / 8)
    assert float(load_picture(tmp_path / "a.tif").max()) == 0.5


def grow_tiff(path: Path, width: int, height: int) -> None:
    """A TIFF of floats whose header promises other sides than its pixels fill."""
    Image.new("F", (W, H)).save(path)
    content = bytearray(path.read_bytes())
    entries = struct.unpack_from("<I", content, 4)[0] + 2
    for tag, value in ((256, width), (257, height)):
        place = next(
            start
            for start in range(entries, len(content), 12)
            if struct.unpack_from("<H", content, start)[0] == tag
        )
        struct.pack_into("<HII", content, place + 2, 4, 1, value)
    path.write_bytes(content)


def test_a_tiff_whose_strips_end_early_is_refused(tmp_path: Path) -> None:
    """Pillow would fill the rest with black, which is a distance."""
    grow_tiff(tmp_path / "a.tif", W, 2 * H)
    with pytest.raises(CacheFormatError, match=f"strips of {W * H} pixels for {W} x {2 * H}"):
        load_depth_picture(tmp_path / "a.tif")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("width", "height"), [(32, 4194336), (1 << 15, 1 << 15), (9000, 9000)])
def test_more_pixels_than_the_file_can_hold_are_refused(
    tmp_path: Path, width: int, height: int
) -> None:
    grow_tiff(tmp_path / "a.tif", width, height)
    for read in (load_picture, load_depth_picture):
        with pytest.raises(CacheFormatError, match=rf"{width} x {height} pixels in|exceeds limit"):
            read(tmp_path / "a.tif")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_changed_files_give_typed_errors(tmp_path: Path) -> None:
    chance = random.Random(4)
    grey = np.linspace(0, 60000, H * W).reshape(H, W).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "b.tif")
    Image.fromarray(colours()).save(tmp_path / "c.jpg")
    Image.fromarray(colours()).save(tmp_path / "d.tif", compression="tiff_lzw")
    Image.fromarray(colours()).save(tmp_path / "f.webp")
    save_deep(tmp_path / "e.png", colours().astype(int) * 256, "rgb48be")
    seeds = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    whole = 0
    for _ in range(600):
        content = bytearray(chance.choice(seeds))
        for _ in range(chance.choice((1, 2, 8))):
            place = chance.randrange(min(len(content), chance.choice((150, 1 << 20))))
            content[place] = chance.choice((0, 1, 255, chance.randrange(256)))
        if chance.random() < 0.1:
            del content[chance.randrange(len(content)) :]
        (tmp_path / "changed").write_bytes(content)
        try:
            load_depth_picture(tmp_path / "changed")
            whole += 1
        except MirageError:
            pass
    assert 0 < whole < 600
