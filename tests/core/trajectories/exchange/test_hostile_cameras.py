"""Cut-off, damaged and hostile camera files: typed errors, whatever is in them."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_core.errors import CacheFormatError, MirageError
from mirage_core.trajectories.exchange import text_files
from mirage_core.trajectories.exchange.camera_file import Wanted
from mirage_core.trajectories.exchange.formats import read_cameras

WANTED = Wanted(96, 64, 24.0)
ROWS = "1 0 0 {x} 0 1 0 0 0 0 1 0"


def lines(template: str) -> Callable[[], bytes]:
    return lambda: "".join(template.format(n=n, x=n / 10) + "\n" for n in range(4)).encode()


def camera_path() -> bytes:
    flat = [1, 0, 0, 0.5, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    entries = [{"camera_to_world": flat, "fov": 50, "aspect": 1.5}] * 3
    return json.dumps(
        {"render_height": 64, "render_width": 96, "fps": 24, "camera_path": entries}
    ).encode()


def recammaster() -> bytes:
    text = "[1 0 0 0] [0 1 0 0] [0 0 1 0] [5 6 7 1] "
    return json.dumps({f"frame{n}": {"cam01": text, "cam02": text} for n in range(3)}).encode()


def unreal() -> bytes:
    entry = {"position": [1, 2, 3], "rotation": [10, 20, 30]}
    return json.dumps({"CineCameraActor": {str(n): entry for n in range(3)}}).encode()


def splatting() -> bytes:
    entry = {
        "img_name": "a1", "width": 96, "height": 64, "fx": 50, "fy": 50, "position": [1, 2, 3],
        "rotation": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    }  # fmt: skip
    return json.dumps([entry] * 3).encode()


def images_bin() -> bytes:
    image = struct.pack("<I7dI", 1, 1, 0, 0, 0, 1, 2, 3, 1) + b"1.png\0"
    return struct.pack("<Q", 2) + (image + struct.pack("<Q2dq", 1, 1, 2, -1)) * 2


def cameras_bin() -> bytes:
    return struct.pack("<QIiQQ4d", 1, 1, 1, 96, 64, 50, 50, 48, 32)


FILES: dict[str, Callable[[], bytes]] = {
    "tum.txt": lines("130503110{n}.5 {x} 0 0 0 0 0 1"),
    "kitti.txt": lines(ROWS),
    "wan.txt": lines("0.5 0.9 0.5 0.5 0 0 " + ROWS),
    "re10k.txt": lines("{n} 0.5 0.9 0.5 0.5 0 0 " + ROWS),
    "a.chan": lines("{n} {x} 0 0 10 20 30 40"),
    "viewcrafter.txt": lambda: b"0 3 10 20 17 10 0\n0 -2 -8 -6 0 2\n0 0.1\n",
    "camera_path.json": camera_path,
    "camera_extrinsics.json": recammaster,
    "unreal.json": unreal,
    "cameras.json": splatting,
    "motionctrl.json": lambda: json.dumps([[1, 0, 0, 5, 0, 1, 0, 0, 0, 0, 1, 0]] * 3).encode(),
    "images.bin": images_bin,
    "cameras.bin": cameras_bin,
}


def write(folder: Path, name: str, content: bytes) -> Path:
    """A file among healthy ones."""
    (folder / "cameras.bin").write_bytes(cameras_bin())
    (folder / "images.bin").write_bytes(images_bin())
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize("name", FILES)
def test_whole_files_are_read(tmp_path: Path, name: str) -> None:
    assert len(read_cameras(write(tmp_path, name, FILES[name]()), WANTED).trajectory) >= 2


@pytest.mark.parametrize("name", FILES)
def test_a_file_may_end_anywhere(tmp_path: Path, name: str) -> None:
    content = FILES[name]()
    for size in range(0, len(content) - 1, max(1, len(content) // 60)):
        path = write(tmp_path, name, content[:size])
        try:
            read_cameras(path, WANTED)
        except MirageError:
            continue
        # A list of lines without a count is a shorter one where it is cut between numbers.
        assert path.suffix in (".txt", ".chan")


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=40, deadline=None)
@given(at=st.integers(0, 10**6), value=st.integers(0, 255), count=st.integers(1, 9))
def test_any_bytes_may_be_wrong(
    tmp_path_factory, name: str, at: int, value: int, count: int
) -> None:
    content = bytearray(FILES[name]())
    for offset in range(count):
        content[(at + 7 * offset) % len(content)] = (value + offset) % 256
    path = write(tmp_path_factory.mktemp("damaged"), name, bytes(content))
    try:
        read_cameras(path, WANTED)
    except MirageError:
        pass


NUMBERS = ["nan", "inf", "-inf", "1e308", "-1e308", "1e-320", "1e17", "9" * 400, "0x10", "", "a"]


@pytest.mark.parametrize("name", [name for name in FILES if not name.endswith(".bin")])
@pytest.mark.parametrize("number", NUMBERS)
def test_any_number_may_be_wrong(tmp_path: Path, name: str, number: str) -> None:
    text = FILES[name]().decode()
    places = [n for n, letter in enumerate(text) if letter in "0123456789"]
    for place in places[:: max(1, len(places) // 25)]:
        changed = text[:place] + number + text[place + 1 :]
        try:
            read_cameras(write(tmp_path, name, changed.encode()), WANTED)
        except MirageError:
            continue


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tum.txt", "1.5 0 0 0 0 0 0 1\n2.5 0 0 0 0 0 0 0\n3.5 0 0 0 0 0 0 1\n"),
        ("tum.txt", "1.5 0 0 0 0 0 0 0\n"),
        ("untimed.txt", "0 0 0 0 0 0 1\n1 0 0 0 0 0 1\n"),
        ("kitti.txt", "0 " * 12),
        ("a.chan", "1 0 0 0 0 0 0 0\n"),
        ("a.chan", "1 0 0 0 0 0 0 180\n"),
        ("a.chan", "1 0 0 0 0 0 0 40\n1 1 0 0 0 0 0 40\n"),
        ("a.chan", "1.5 0 0 0 0 0 0 40\n"),
        ("a.chan", "1 0 0 0 0 0 0 40\n1000000000 1 0 0 0 0 0 40\n"),
        ("a.chan", "1 0 0 0 0 0 0 40\n1e300 1 0 0 0 0 0 40\n"),
        ("wan.txt", "0 0 0.5 0.5 0 0 " + ROWS.format(x=0)),
        ("mixed.txt", ROWS.format(x=0) + "\n" + ROWS.format(x=0) + " 5\n"),
        ("loop.txt", "0 1e300\n0 0\n0 0\n"),
        ("a.json", "[]"),
        ("a.json", "[[]]"),
        ("a.json", "{}"),
        ("a.json", "null"),
        ("a.json", '{"camera_path": 3}'),
        ("a.json", '{"camera_path": []}'),
        ("a.json", '{"camera_path": [3], "render_width": 9, "render_height": 9}'),
        ("a.json", '{"frames": {}}'),
        ("a.json", '{"frame0": {}}'),
        ("a.json", '{"frame0": 3}'),
        ("a.json", '{"frame0": {"cam01": "[1]"}}'),
        ("a.json", '{"frame0": {"cam01": "[1 0 0 0] [0 1 0 0] [0 0 1 0] [0 0 0 1]"}, "frame1": 2}'),
        ("a.json", '{"A": {"0": {"position": [0, 0], "rotation": [0, 0, 0]}}}'),
        ("a.json", '[{"position": [0, 0, 0], "rotation": [0, 0, 0]}]'),
        ("a.json", "[" * 100_000),
        ("a.json", "[[1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, NaN]]"),
    ],
)
def test_files_without_a_camera_are_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(MirageError):
        read_cameras(tmp_path / name, WANTED)


def test_lists_have_a_longest_length(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text((ROWS.format(x=0) + "\n") * (text_files.MAX_POSES + 2))
    with pytest.raises(CacheFormatError, match="too many"):
        read_cameras(path, WANTED)
    path = tmp_path / "a.json"
    path.write_text("[" + "[1]," * text_files.MAX_POSES + "[1]]")
    with pytest.raises(CacheFormatError, match="too many"):
        read_cameras(path, WANTED)
    path.write_text(" " * (text_files.MAX_TEXT + 1))
    with pytest.raises(CacheFormatError, match="16 MiB"):
        read_cameras(path, WANTED)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b"1 " * (30 * 2**20)),
        ("a.txt", b"\n" * 2**20),
        ("a.txt", b"\n" * (60 * 2**20)),
        ("images.txt", b"\n" * (60 * 2**20)),
        ("a.chan", b"7" * (60 * 2**20)),
        ("images.txt", b"# QW, QX, QY, QZ\n" + b"1 " * (30 * 2**20)),
        ("images.bin", struct.pack("<Q", 100_000) + b"\1" * 2**20),
        ("images.bin", struct.pack("<Q", 2**62)),
        ("images.bin", struct.pack("<QI7dI", 1, 1, 1, *[0] * 6, 1) + b"a\0" + b"\xff" * 8),
        ("cameras.bin", struct.pack("<Q", 2**62)),
    ],
)
def test_large_files_take_little_memory(tmp_path: Path, name: str, content: bytes) -> None:
    path = write(tmp_path, name, content)
    tracemalloc.start()
    try:
        with pytest.raises(MirageError):
            read_cameras(path, WANTED)
        assert tracemalloc.get_traced_memory()[1] < 2**28
    finally:
        tracemalloc.stop()
