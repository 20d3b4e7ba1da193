from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

import pytest

from mirage_core import files
from mirage_core.errors import StorageError
from mirage_core.files import (
    atomic_path,
    atomic_write,
    discard_unfinished,
    ensure_writable_folder,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_content_appears_only_at_the_end(tmp_path):
    target = tmp_path / "a.json"
    with atomic_write(target, "w") as file:
        file.write("é\n")
        file.flush()
        assert not target.exists()
        (temporary,) = names(tmp_path)
        assert temporary.startswith(files.TEMPORARY_PREFIX)
        assert temporary.endswith(".json")
    assert target.read_bytes() == "é\n".encode()
    assert names(tmp_path) == ["a.json"]


def test_missing_parent_folders_are_made(tmp_path):
    with atomic_write(tmp_path / "a" / "b" / "c.json", "w") as file:
        file.write("{}")
    assert (tmp_path / "a" / "b" / "c.json").read_text() == "{}"


def test_replaces_an_existing_file(tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old and longer")
    with atomic_write(target, "wb") as file:
        file.write(b"new")
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError, SystemExit])
@pytest.mark.parametrize("exists", [True, False])
def test_a_failure_leaves_everything_as_it_was(tmp_path, failure, exists):
    target = tmp_path / "a.bin"
    if exists:
        target.write_bytes(b"old")
    with pytest.raises(failure), atomic_write(target, "wb") as file:
        file.write(b"half")
        raise failure
    assert names(tmp_path) == (["a.bin"] if exists else [])
    assert not exists or target.read_bytes() == b"old"


@pytest.mark.parametrize("operation", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ENOSPC, "free disk space"),
        (errno.EACCES, "no permission to write"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "Check the disk"),
    ],
)
def test_disk_errors_say_what_to_do(tmp_path, monkeypatch, operation, number, fix):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")

    def fail(*_args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, operation, fail)
    with pytest.raises(StorageError, match=fix) as caught, atomic_write(target, "wb") as file:
        file.write(b"new")
    assert str(target) in str(caught.value)
    assert os.strerror(number) in str(caught.value)
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
def test_a_really_full_disk(tmp_path):
    import resource
    import signal

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with (
            pytest.raises(StorageError, match="files of this size"),
            atomic_write(tmp_path / "a", "wb") as file,
        ):
            file.write(bytes(1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert names(tmp_path) == []


def test_targets_that_cannot_be_are_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    cases = {
        tmp_path / "file" / "a.bin": "A file exists where",
        tmp_path / "folder": "A folder with this name",
        tmp_path / ("n" * 300): "shorter name",
        tmp_path / "nul\0byte": "could not be written",
    }
    for target, message in cases.items():
        started = False
        with pytest.raises(StorageError, match=message), atomic_write(target, "wb"):
            started = True
        assert not started
    assert names(tmp_path) == ["file", "folder"]


def test_errors_about_other_files_pass_through(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a", "wb"):
        open(tmp_path / "source")  # noqa: SIM115
    assert names(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_the_umask_decides_who_may_read(tmp_path):
    old = os.umask(0o022)
    try:
        with atomic_write(tmp_path / "a", "wb") as file:
            file.write(b"")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def test_atomic_path_serves_writers_that_open_files_themselves(tmp_path):
    target = tmp_path / "clip.mp4"
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".mp4"
        temporary.write_bytes(b"video")
    assert target.read_bytes() == b"video"
    with pytest.raises(StorageError), atomic_path(target) as temporary:
        temporary.unlink()
    assert target.read_bytes() == b"video"


def test_nested_writes_of_one_target_do_not_collide(tmp_path):
    target = tmp_path / "a"
    with atomic_write(target, "wb") as outer:
        with atomic_write(target, "wb") as inner:
            inner.write(b"inner")
        assert target.read_bytes() == b"inner"
        outer.write(b"outer")
    assert target.read_bytes() == b"outer"


def test_ensure_writable_folder_creates_and_leaves_nothing_behind(tmp_path):
    folder = tmp_path / "a" / "b"
    assert ensure_writable_folder(folder) == folder
    assert ensure_writable_folder(str(folder)) == folder
    assert names(folder) == []


def test_ensure_writable_folder_refuses(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="A file exists where"):
        ensure_writable_folder(tmp_path / "file")
    with pytest.raises(StorageError, match="A file exists where"):
        ensure_writable_folder(tmp_path / "file" / "below")

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StorageError, match="free disk space"):
        ensure_writable_folder(tmp_path / "new")
    assert names(tmp_path / "new") == []


def test_leftovers_of_a_killed_program_are_removed(tmp_path):
    finished = tmp_path / "chunk_0000.mp4"
    with atomic_write(finished, "wb") as file:
        file.write(b"whole")
        (left,) = tmp_path.iterdir()
        content = left.name
    killed = tmp_path / content
    killed.write_bytes(b"half")
    discard_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [finished.name]
    assert finished.read_bytes() == b"whole"


def test_a_folder_in_the_place_of_a_file_is_moved_aside(tmp_path):
    path = tmp_path / "video.mp4"
    for folder in ("video.mp4.aside", "video.mp4.aside-2"):
        path.mkdir()
        (path / "mine.txt").write_text(folder)
        assert files.make_way(path) == path and not path.exists()
        assert (tmp_path / folder / "video.mp4" / "mine.txt").read_text() == folder


def test_what_is_no_folder_stays_in_its_place(tmp_path):
    path = tmp_path / "video.mp4"
    assert files.make_way(path) == path
    path.write_text("x")
    assert files.make_way(path).read_text() == "x"
    assert [found.name for found in tmp_path.iterdir()] == ["video.mp4"]


def test_a_folder_that_cannot_be_moved_aside(tmp_path, monkeypatch):
    (tmp_path / "video.mp4").mkdir()

    def refuse(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(StorageError, match="no permission"):
        files.make_way(tmp_path / "video.mp4")
    with pytest.raises(StorageError, match="shorter name"):
        files.make_way(tmp_path / ("x" * 300))


@pytest.mark.skipif(sys.platform != "linux", reason="needs paths of any bytes")
def test_a_path_that_nothing_could_open_again_is_refused(tmp_path):
    with pytest.raises(StorageError, match="not UTF-8"):
        ensure_writable_folder(tmp_path / "caf\udce9")
    assert names(tmp_path) == []
