"""Memory files: exact round trips, hostile files, failed saves."""

from __future__ import annotations

import errno
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from mirage_core import files
from mirage_core.cache.build import merge_blocks
from mirage_core.cache.io import VERSION, cache_header, load_cache, save_cache
from mirage_core.cache.types import CONTENT, LatentCache
from mirage_core.digests import DIGEST
from mirage_core.errors import CacheFormatError, StorageError
from mirage_core.tensor_files import HEADER_KEY


def expect_equal(one: LatentCache, other: LatentCache) -> None:
    assert (one.convention, one.codec, one.channels) == (
        other.convention,
        other.codec,
        other.channels,
    )
    assert len(one.blocks) == len(other.blocks)
    for a, b in zip(one.blocks, other.blocks, strict=True):
        for name in (*CONTENT, "bounds"):
            left, right = getattr(a, name), getattr(b, name)
            assert left.dtype == right.dtype
            assert torch.equal(left, right), name
    assert one.fingerprint() == other.fingerprint()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_round_trip_keeps_every_bit(make, tmp_path: Path, dtype: torch.dtype) -> None:
    cache = make.cache(600, 0, 7, dtype=dtype)
    cache = LatentCache(cache.blocks, "released", "some codec: ä")
    path = save_cache(tmp_path / "memory", cache)
    assert path == tmp_path / "memory.safetensors"
    loaded = load_cache(path)
    expect_equal(loaded, cache)
    assert loaded.blocks[0].points.T.is_contiguous()


def test_an_empty_memory(tmp_path: Path) -> None:
    cache = LatentCache()
    expect_equal(load_cache(save_cache(tmp_path / "a.safetensors", cache)), cache)


def test_special_values_survive(make, tmp_path: Path) -> None:
    block = make.block(4)
    block.tokens[0, :3] = torch.tensor([-0.0, 1e-42, 3.4e38])
    cache = LatentCache((block,))
    loaded = load_cache(save_cache(tmp_path / "a", cache))
    assert torch.equal(loaded.blocks[0].tokens.view(torch.int32), block.tokens.view(torch.int32))


def test_blocks_that_share_memory(make, tmp_path: Path) -> None:
    """The same block twice, and blocks whose cameras are parts of one tensor."""
    block = make.block(5)
    cache = LatentCache((block, block, merge_blocks([block, block])))
    expect_equal(load_cache(save_cache(tmp_path / "a", cache)), cache)


def test_equal_memories_are_equal_files(make, tmp_path: Path) -> None:
    one = save_cache(tmp_path / "a", make.cache(9, 5)).read_bytes()
    assert save_cache(tmp_path / "b", make.cache(9, 5)).read_bytes() == one


@pytest.fixture
def saved(make, tmp_path: Path) -> Path:
    return save_cache(tmp_path / "memory", make.cache(40, 20, channels=8))


def test_cut_off_anywhere(saved: Path) -> None:
    whole = saved.read_bytes()
    cuts = {0, 1, 7, 8, 9, len(whole) - 1, *(len(whole) * part // 25 for part in range(25))}
    assert len(cuts) >= 30
    for cut in cuts:
        saved.write_bytes(whole[:cut])
        with pytest.raises(CacheFormatError):
            load_cache(saved)


def test_bytes_behind_the_end(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes() + b"\0")
    with pytest.raises(CacheFormatError):
        load_cache(saved)


def test_random_bytes(tmp_path: Path) -> None:
    rng, path = random.Random(0), tmp_path / "a.safetensors"
    for size in (1, 8, 9, 100, 5000):
        path.write_bytes(rng.randbytes(size))
        with pytest.raises(CacheFormatError):
            load_cache(path)


@settings(max_examples=150)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_gives_the_same_memory_or_the_agreed_error(
    make, tmp_path_factory, where: float, bit: int
) -> None:
    cache = make.cache(6, channels=8)
    path = save_cache(tmp_path_factory.getbasetemp() / "flipped", cache)
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    path.write_bytes(content)
    loaded = load_or_refuse(path)
    assert loaded is None or loaded.fingerprint() == cache.fingerprint()


def test_no_byte_of_the_header_can_hide_the_digest(make, tmp_path: Path) -> None:
    """The name of the digest's own entry is the one place that a digest does not cover."""
    path = save_cache(tmp_path / "memory", make.cache(6, channels=8))
    whole = path.read_bytes()
    places = range(whole.index(b"digest") - 4, whole.index(b"sha256:") + 80)
    for place in places:
        for bit in range(8):
            content = bytearray(whole)
            content[place] ^= 1 << bit
            path.write_bytes(content)
            assert load_or_refuse(path) is None, (place, bit)


def load_or_refuse(path: Path) -> LatentCache | None:
    """The memory, or None where the file was refused in the agreed way."""
    try:
        return load_cache(path)
    except CacheFormatError:
        return None


@settings(max_examples=150)
@given(places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_give_a_memory_or_the_agreed_error(make, tmp_path_factory, places) -> None:
    """Flips in header, numbers and JSON alike; nothing else may come out."""
    cache = make.cache(6, channels=8)
    tensors = {f"block.0.{name}": getattr(cache.blocks[0], name).contiguous() for name in CONTENT}
    metadata = {HEADER_KEY: json.dumps(cache_header(cache))}
    content = bytearray(safetensors.torch.save(tensors, metadata))
    for where, value in places:
        content[min(int(where * len(content)), len(content) - 1)] = value
    path = tmp_path_factory.getbasetemp() / "changed.safetensors"
    path.write_bytes(content)
    loaded = load_or_refuse(path)
    assert loaded is None or all(bool(block.points.isfinite().all()) for block in loaded.blocks)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path, tmp_path / ("x" * 300), "\0"):
        with pytest.raises(CacheFormatError):
            load_cache(path)


def test_foreign_files(make, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for metadata in (None, {"format": "pt"}, {HEADER_KEY: json.dumps({"format": "mirage-chunk"})}):
        safetensors.torch.save_file({"weight": torch.zeros(3)}, path, metadata)
        with pytest.raises(CacheFormatError, match="Choose a file that Mirage wrote"):
            load_cache(path)
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(CacheFormatError):
        load_cache(path)


def rewrite(path: Path, header: Any = None, **tensors: Tensor | None) -> None:
    """Replace header entries (or, with text, the header) and tensors; None removes one.

    The file has no digest then, as those of earlier versions, so that what is behind is reached.
    """
    with safe_open(path, framework="pt") as file:
        content = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        old = json.loads(file.metadata()[HEADER_KEY])
    old.pop(DIGEST, None)
    for name, value in tensors.items():
        content.pop(f"block.1.{name}")
        if value is not None:
            content[f"block.1.{name}"] = value
    text = header if isinstance(header, str) else json.dumps({**old, **(header or {})})
    safetensors.torch.save_file(content, path, {HEADER_KEY: text})


def test_rewriting_by_itself_does_no_harm(saved: Path) -> None:
    rewrite(saved)
    assert len(load_cache(saved)) == 60


def test_a_newer_version_says_so(saved: Path) -> None:
    rewrite(saved, {"version": VERSION + 1})
    with pytest.raises(CacheFormatError, match="newer Mirage.*Update Mirage"):
        load_cache(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"version": None}, {"version": "1"}, {"version": 0}, {"version": -1}, {"version": True},
        {"version": 1.0}, {"version": []},
        {"format": "mirage-chunk"}, {"format": None}, {"format": 1},
        {"blocks": None}, {"blocks": -1}, {"blocks": "2"}, {"blocks": 2.0}, {"blocks": True},
        {"blocks": 1}, {"blocks": 3}, {"blocks": 10**9}, {"blocks": []},
        {"channels": None}, {"channels": 0}, {"channels": 48}, {"channels": "8"}, {"channels": -8},
        {"points": 59}, {"points": None}, {"points": "60"},
        {"codec": None}, {"codec": 3}, {"codec": []},
        {"pixel_convention": None}, {"pixel_convention": "corner"}, {"pixel_convention": []},
        "", "null", "[]", "3", '"mirage-cache"', "{", "1" * 5000, "[" * 100_000,
        '{"format": "mirage-cache", "version": ' + "9" * 5000 + "}",
    ],
    ids=lambda change: str(change)[:40],
)  # fmt: skip
def test_hostile_headers(saved: Path, change: dict[str, Any] | str) -> None:
    rewrite(saved, change)
    with pytest.raises(CacheFormatError):
        load_cache(saved)


@pytest.mark.parametrize("name", CONTENT)
def test_missing_tensors(saved: Path, name: str) -> None:
    rewrite(saved, **{name: None})
    with pytest.raises(CacheFormatError, match=name):
        load_cache(saved)


def spoiled(value: float, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    tensor = torch.zeros(*shape, dtype=dtype)
    tensor[-1] = value
    return tensor


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("points", spoiled(NAN, 20, 3)),
        ("points", spoiled(INF, 20, 3)),
        ("points", spoiled(1e300, 20, 3, dtype=torch.float64)),
        ("points", torch.zeros(20, 3, dtype=torch.int32)),
        ("points", torch.zeros(20, 2)),
        ("points", torch.zeros(60)),
        ("points", torch.zeros(())),
        ("points", torch.zeros(20, 3, 1)),
        ("points", torch.zeros(19, 3)),
        ("points", torch.zeros(20, 3).to(torch.float8_e5m2)),
        ("tokens", spoiled(NAN, 20, 8)),
        ("tokens", spoiled(-INF, 20, 8, dtype=torch.bfloat16)),
        ("tokens", torch.zeros(20, 8, dtype=torch.int8)),
        ("tokens", torch.zeros(20, 8, dtype=torch.complex64)),
        ("tokens", torch.zeros(20, 48)),
        ("tokens", torch.zeros(20, 0)),
        ("source", spoiled(2, 20, dtype=torch.int32)),
        ("source", spoiled(-1, 20, dtype=torch.int32)),
        ("source", spoiled(2**32, 20, dtype=torch.int64)),
        ("source", spoiled(NAN, 20)),
        ("slope", spoiled(NAN, 20, 2, dtype=torch.float16)),
        ("slope", spoiled(1e30, 20, 2)),
        ("world_to_camera", torch.zeros(2, 4, 4, dtype=torch.float64)),
        ("world_to_camera", torch.full((2, 4, 4), NAN, dtype=torch.float64)),
        ("world_to_camera", 1e200 * torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)),
        ("world_to_camera", torch.eye(4, dtype=torch.float64).repeat(1, 1, 1)),
        ("intrinsics", torch.full((2, 3, 3), NAN, dtype=torch.float64)),
        ("intrinsics", torch.zeros(2, 3, 3, dtype=torch.float64)),
        ("intrinsics", -torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)),
        ("frames", torch.zeros(2)),
        ("frames", torch.zeros(3, dtype=torch.int64)),
    ],
)
def test_hostile_values(saved: Path, name: str, value: Tensor) -> None:
    rewrite(saved, **{name: value})
    with pytest.raises(CacheFormatError):
        load_cache(saved)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("exists", [True, False])
def test_an_interrupted_save_leaves_the_old_file(
    make, tmp_path, monkeypatch, failure, exists
) -> None:
    path, old = tmp_path / "memory.safetensors", make.cache(9)
    if exists:
        save_cache(path, old)

    def interrupt(*_: Any, **__: Any) -> bytes:
        raise failure

    monkeypatch.setattr(safetensors.torch, "save", interrupt)
    with pytest.raises(failure):
        save_cache(path, make.cache(5))
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == (["memory.safetensors"] if exists else [])
    if exists:
        expect_equal(load_cache(path), old)


def test_a_full_disk_is_a_typed_error(make, saved: Path, monkeypatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StorageError, match="disk is full"):
        save_cache(saved, make.cache(5))
    monkeypatch.undo()
    assert len(load_cache(saved)) == 60
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_disk_that_really_refuses_more_bytes(make, saved: Path, file_size_limit) -> None:
    with file_size_limit(10_000), pytest.raises(StorageError):
        save_cache(saved, make.cache(5000))
    assert len(load_cache(saved)) == 60
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_folder_that_cannot_be(make, saved: Path) -> None:
    with pytest.raises(StorageError):
        save_cache(saved / "below" / "a.safetensors", make.cache(5))
    with pytest.raises(StorageError):
        save_cache(saved.parent / ("x" * 300), make.cache(5))
