"""LMDB shards: what LMDB writes is read, and a damaged file is a typed error."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from mirage_core.errors import CacheFormatError, PackageError
from mirage_core.training.data.released import lmdb_file
from mirage_core.training.data.released.lmdb_file import LmdbFile
from mirage_core.training.data.released.lmdb_import import convert_sample
from tiny_samples import write_shard


def test_keys_and_values_of_a_real_database(tmp_path: Path) -> None:
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
    path.chmod(0o444)
    with LmdbFile(path) as file:
        assert file.keys() == sorted(want)
        assert {key: file.read(key, 1 << 20) for key in file.keys()} == want
        with pytest.raises(CacheFormatError, match="10 at most"):
            file.read(max(want, key=lambda key: len(want[key])), 10)
        with pytest.raises(CacheFormatError, match="no value"):
            file.read(keys[0], 10)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(CacheFormatError):
        file.keys()
    with pytest.raises(CacheFormatError):
        file.read(keys[1], 1 << 20)


def test_a_folder_with_a_database_in_it(tmp_path: Path) -> None:
    write_shard(tmp_path / "shard_000.lmdb", {"a": b"1"}, folder=True)
    before = sorted(tmp_path.rglob("*"))
    with LmdbFile(tmp_path / "shard_000.lmdb") as file:
        assert (file.keys(), file.read(b"a", 1)) == ([b"a"], b"1")
    assert sorted(tmp_path.rglob("*")) == before
    write_shard(tmp_path / "none.lmdb", {})
    with LmdbFile(tmp_path / "none.lmdb") as file:
        assert file.keys() == []


def test_more_entries_than_a_shard_has_are_refused(tmp_path: Path, monkeypatch) -> None:
    write_shard(tmp_path / "shard_000.lmdb", {f"{n:08d}": b"" for n in range(5)})
    monkeypatch.setattr(lmdb_file, "MAX_ENTRIES", 4)
    with (
        LmdbFile(tmp_path / "shard_000.lmdb") as file,
        pytest.raises(CacheFormatError, match="5 entries; 4 at most"),
    ):
        file.keys()


@pytest.fixture(scope="module")
def shard(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("lmdb") / "shard_000.lmdb"
    write_shard(path, {f"{n:08d}": os.urandom(9000 if n % 5 == 0 else 90) for n in range(150)})
    return path.read_bytes()


WALK = """
import random, sys
from pathlib import Path
from mirage_core.errors import CacheFormatError
from mirage_core.training.data.released.lmdb_file import LmdbFile

shard, path, chance = Path(sys.argv[1]).read_bytes(), Path(sys.argv[1] + ".odd"), random.Random(1)

def walk(content):
    path.write_bytes(content)
    try:
        with LmdbFile(path) as file:
            return sum(len(file.read(key, 1 << 20)) for key in file.keys())
    except CacheFormatError:
        return None

assert walk(shard) == 30 * 9000 + 120 * 90
for end in [*range(0, 9000, 97), *range(9000, len(shard), 3001), len(shard) - 1]:
    assert walk(shard[:end]) is None, end
found = []
for _ in range(600):
    changed = bytearray(shard)
    for _ in range(chance.choice((1, 2, 8))):
        place = chance.randrange(len(shard) // 4096) * 4096 + chance.randrange(90)
        changed[place] = chance.choice((0, 1, 2, 4, 16, 255))
    found.append(walk(changed))
assert None in found and max(value or 0 for value in found) <= len(shard)
"""


def test_damaged_shards_give_values_or_the_typed_error(shard: bytes, tmp_path: Path) -> None:
    """In a process of its own, which LMDB would end with a bus error at pages that are missing."""
    (tmp_path / "shard_000.lmdb").write_bytes(shard)
    command = [sys.executable, "-c", WALK, str(tmp_path / "shard_000.lmdb")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def refuse(path: Path, content: bytes, match: str) -> None:
    path.write_bytes(content)
    with pytest.raises(CacheFormatError, match=match):
        LmdbFile(path)


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
    refuse(tmp_path / "shard_000.lmdb", changed, "more than once")


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
    refuse(tmp_path / "shard_000.lmdb", changed, "out of order")


def test_a_database_inside_a_database_is_no_sample(tmp_path: Path) -> None:
    path = tmp_path / "shard_000.lmdb"
    with lmdb.open(str(path), subdir=False, max_dbs=2, lock=False) as database:
        inner = database.open_db(b"inner", dupsort=True)
        with database.begin(write=True) as transaction:
            transaction.put(b"00000000", b"a", db=inner)
    with LmdbFile(path) as file:
        assert file.keys() == [b"inner"]
        value = file.read(b"inner", 1 << 20)
    with pytest.raises(CacheFormatError, match="refused"):
        convert_sample(value, "key")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "shard_000.lmdb")
    for name in ("shard_000.lmdb", "nowhere.lmdb"):
        with pytest.raises(CacheFormatError, match="no such file"):
            LmdbFile(tmp_path / name)


@pytest.mark.parametrize("module", ["lmdb", "lmdb.verify"])
def test_a_missing_or_old_package_is_named(tmp_path: Path, monkeypatch, module: str) -> None:
    write_shard(tmp_path / "shard_000.lmdb", {"a": b"1"})
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PackageError, match='pip install "lmdb>='):
        LmdbFile(tmp_path / "shard_000.lmdb")
