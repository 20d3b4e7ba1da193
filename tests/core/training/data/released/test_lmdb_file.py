"""LMDB shards: what LMDB writes is read, and a damaged file is a typed error."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_core.errors import CacheFormatError
from mirage_core.training.data.released.lmdb_file import LmdbFile
from tiny_samples import (
    write_shard,
)


def test_pages_of_a_real_database_are_found(tmp_path: Path) -> None:
    """A deep tree, with long and short values, after changes that free pages."""
    want = {
        b"%0200d" % number: os.urandom((3, 700, 9000)[number % 3] + number) for number in range(900)
    }
    keys = list(want)
    path = tmp_path / "shard_000.lmdb"
    with lmdb.open(str(path), subdir=False, map_size=1 << 28, lock=False) as database:
        for start in range(0, 900, 300):
            with database.begin(write=True) as transaction:
                for key in keys[start : start + 300]:
                    transaction.put(key, want[key])
                for key in keys[start : start + 300 : 7]:
                    transaction.delete(key)
                    del want[key]
        assert database.stat()["depth"] >= 3
    with LmdbFile(path) as file:
        entries = list(file.entries())
        assert {entry.key: file.read(entry, 1 << 20) for entry in entries} == want
        assert [entry.key for entry in entries] == sorted(want)
        with pytest.raises(CacheFormatError, match="10 at most"):
            file.read(max(entries, key=lambda entry: entry.length), 10)


@pytest.fixture(scope="module")
def shard(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("lmdb") / "shard_000.lmdb"
    write_shard(path, {f"{n:08d}": os.urandom(9000 if n % 5 == 0 else 90) for n in range(150)})
    return path.read_bytes()


def walk(path: Path) -> int:
    with LmdbFile(path) as file:
        return sum(len(file.read(entry, 1 << 20)) for entry in file.entries())


def test_every_cut_of_a_shard_gives_the_typed_error(shard: bytes, tmp_path: Path) -> None:
    """LMDB's own library ends the process with a bus error on these."""
    path = tmp_path / "cut.lmdb"
    path.write_bytes(shard)
    assert walk(path) == 30 * 9000 + 120 * 90
    for end in [*range(0, 9000, 97), *range(9000, len(shard) - 4096, 3001)]:
        path.write_bytes(shard[:end])
        with pytest.raises(CacheFormatError):
            walk(path)
    with pytest.raises(CacheFormatError):
        walk(tmp_path / "nowhere.lmdb")


@given(
    changes=st.lists(
        st.tuples(
            st.integers(0, 1 << 20), st.integers(0, 90), st.sampled_from([0, 1, 2, 4, 16, 255])
        ),
        min_size=1,
        max_size=20,
    )
)
@settings(max_examples=150, deadline=None)
def test_changed_shards_give_values_or_the_typed_error(shard, tmp_path_factory, changes) -> None:
    changed = bytearray(shard)
    for page, place, value in changes:
        changed[page % (len(shard) // 4096) * 4096 + place] = value
    path = tmp_path_factory.mktemp("changed") / "shard.lmdb"
    path.write_bytes(changed)
    try:
        assert walk(path) <= 151 * len(shard)
    except CacheFormatError:
        return


def test_pages_that_lead_back_are_refused(shard: bytes, tmp_path: Path) -> None:
    """All children of all branch pages become the root, which is a branch page."""
    size = 4096
    changed = bytearray(shard)
    branches = [
        page for page in range(2, len(shard) // size)
        if shard[page * size : page * size + 8] == struct.pack("<Q", page)
        and struct.unpack_from("<H", shard, page * size + 10)[0] & 1
    ]  # fmt: skip
    assert branches
    for page in branches:
        lower = struct.unpack_from("<H", shard, page * size + 12)[0]
        for slot in range(16, lower, 2):
            node = struct.unpack_from("<H", shard, page * size + slot)[0]
            struct.pack_into("<HHH", changed, page * size + node, branches[-1], 0, 0)
    path = tmp_path / "shard_000.lmdb"
    path.write_bytes(changed)
    with pytest.raises(CacheFormatError, match="two places"):
        walk(path)


def test_many_names_for_one_value_are_refused(shard: bytes, tmp_path: Path) -> None:
    """All places of a leaf point at its first node."""
    changed = bytearray(shard)
    leaves = [
        start for start in range(2 * 4096, len(shard), 4096)
        if struct.unpack_from("<QHH", shard, start) == (start // 4096, 0, 2)
    ]  # fmt: skip
    assert leaves
    for start in leaves:
        lower = struct.unpack_from("<H", shard, start + 12)[0]
        changed[start + 16 : start + lower] = shard[start + 16 : start + 18] * ((lower - 16) // 2)
    path = tmp_path / "shard_000.lmdb"
    path.write_bytes(changed)
    with pytest.raises(CacheFormatError, match="out of order"):
        walk(path)


@pytest.mark.parametrize("flags", [2, 4, 8, 16])
def test_other_kinds_of_databases_are_refused(shard: bytes, tmp_path: Path, flags: int) -> None:
    path = tmp_path / "shard_000.lmdb"
    with lmdb.open(str(path), subdir=False, max_dbs=2, lock=False) as database:
        inner = database.open_db(b"inner")
        with database.begin(write=True) as transaction:
            transaction.put(b"00000000", b"a", db=inner)
    with pytest.raises(CacheFormatError, match="another kind"):
        walk(path)
    changed = bytearray(shard)
    for page in (0, 1):
        struct.pack_into("<H", changed, page * 4096 + 16 + 24 + 48 + 4, flags)
    path.write_bytes(changed)
    with pytest.raises(CacheFormatError, match="another kind"):
        walk(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "shard_000.lmdb")
    with pytest.raises(CacheFormatError, match="no such file"):
        LmdbFile(tmp_path / "shard_000.lmdb")
