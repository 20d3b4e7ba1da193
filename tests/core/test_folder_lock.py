"""One program in a folder at a time, and none that blocks it for ever."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import filelock
import pytest

from mirage_core.errors import FolderInUseError, ResumeError, StorageError
from mirage_core.files import make_unused_folder
from mirage_core.folder_lock import HOLDER, LOCK, exclusive_folder

PROGRAM = """
import sys
from pathlib import Path
from mirage_core.folder_lock import exclusive_folder
with exclusive_folder(Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.read()
"""


@contextmanager
def other_program(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a folder until its input ends."""
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "in\n"
            yield process
        finally:
            process.kill()


def test_the_second_program_is_told_who_works(tmp_path: Path) -> None:
    with other_program(tmp_path) as process:
        with pytest.raises(FolderInUseError) as caught, exclusive_folder(tmp_path):
            pass
        assert isinstance(caught.value, ResumeError) and caught.value.fix
        assert f"process {process.pid} on {platform.node()}, since 20" in str(caught.value)
        process.communicate("")
        assert process.returncode == 0
    with exclusive_folder(tmp_path):
        assert json.loads((tmp_path / HOLDER).read_text())["process"] == os.getpid()


def test_two_trainings_do_not_share_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="training needs accelerate")
    from mirage_core.cli.train_parts import own_folder

    arguments = argparse.Namespace(out=tmp_path, device="cpu")
    with other_program(tmp_path), pytest.raises(FolderInUseError), own_folder(arguments):
        pass
    with own_folder(arguments):
        assert (tmp_path / HOLDER).exists()


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_dead_programs_folder_is_taken_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with other_program(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / HOLDER).exists()
        with caplog.at_level("INFO"), exclusive_folder(tmp_path):
            pass
    assert f"process {process.pid} on" in caplog.text and "has ended" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff", '{"host": {}}', "[" * 100000])
def test_a_damaged_note_of_the_holder_blocks_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / HOLDER).write_text(text, encoding="latin-1")
    with exclusive_folder(tmp_path):
        assert json.loads((tmp_path / HOLDER).read_text())["process"] == os.getpid()
    with other_program(tmp_path):
        (tmp_path / HOLDER).write_text(text, encoding="latin-1")
        with pytest.raises(FolderInUseError, match="process unknown"), exclusive_folder(tmp_path):
            pass


@pytest.mark.parametrize("name", [LOCK, HOLDER])
def test_a_folder_in_the_place_of_a_lock_file_blocks_nobody(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine.txt").write_text("x")
    with exclusive_folder(tmp_path):
        assert json.loads((tmp_path / HOLDER).read_text())["process"] == os.getpid()
        assert (tmp_path / LOCK).is_file()
    assert (tmp_path / f"{name}.aside" / name / "mine.txt").read_text() == "x"


@pytest.mark.parametrize("content", [b"", b"\xff" * 99, b"locked"])
def test_what_stands_in_the_lock_file_does_not_matter(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LOCK).write_bytes(content)
    with exclusive_folder(tmp_path):
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(tmp_path / LOCK).acquire(timeout=0)


def test_the_holder_may_enter_again(tmp_path: Path) -> None:
    """Also by another name of the folder; the outermost block ends the lock."""
    folder = tmp_path / "made" / "on the way"
    with exclusive_folder(folder):
        with exclusive_folder(folder / ".." / folder.name):
            pass
        assert (folder / HOLDER).exists()
        with pytest.raises(subprocess.CalledProcessError):
            subprocess.run(
                [sys.executable, "-c", PROGRAM, str(folder)], check=True, input="", text=True
            )
    assert not (folder / HOLDER).exists()
    with other_program(folder):
        pass


def test_another_thread_is_another_program(tmp_path: Path) -> None:
    with exclusive_folder(tmp_path), ThreadPoolExecutor(1) as pool:

        def enter() -> None:
            with exclusive_folder(tmp_path):
                pass

        with pytest.raises(FolderInUseError, match=f"process {os.getpid()} on"):
            pool.submit(enter).result()
    with exclusive_folder(tmp_path):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_end_its_parents_lock(tmp_path: Path) -> None:
    """Not even one that leaves the block the ordinary way; nor does it have the folder."""
    program = """
import os, sys
from pathlib import Path
from mirage_core.errors import FolderInUseError
from mirage_core.folder_lock import exclusive_folder
folder, child = Path(sys.argv[1]), None
with exclusive_folder(folder):
    child = os.fork()
    if child == 0:
        try:
            with exclusive_folder(folder):
                os._exit(3)
        except FolderInUseError:
            pass
    else:
        assert os.waitpid(child, 0)[1] == 0
        print("in", flush=True)
        sys.stdin.read()
"""
    command = [sys.executable, "-W", "ignore", "-c", program, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout.readline() == "in\n"
        with (
            pytest.raises(FolderInUseError, match=f"process {process.pid} on"),
            exclusive_folder(tmp_path),
        ):
            pass
        process.communicate("")
        assert process.returncode == 0


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes of this kind")
def test_people_who_share_a_folder_share_its_lock(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        with exclusive_folder(tmp_path):
            assert (tmp_path / LOCK).stat().st_mode & 0o060 == 0o060
    finally:
        os.umask(before)


def test_an_error_inside_ends_the_lock(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), exclusive_folder(tmp_path):
        raise KeyboardInterrupt
    with other_program(tmp_path):
        pass


def test_a_folder_that_vanished_meanwhile_is_let_go(tmp_path: Path) -> None:
    folder = tmp_path / "shot"
    with exclusive_folder(folder):
        folder.rename(tmp_path / "elsewhere")
    with exclusive_folder(folder):
        pass


def test_a_disk_without_locks_is_worked_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(*_: object, **__: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(filelock.FileLock, "acquire", no_locks)
    with exclusive_folder(tmp_path):
        assert (tmp_path / HOLDER).exists()
    assert "knows no locks" in caplog.text


def test_a_file_in_the_place_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "shot").write_text("")
    with pytest.raises(StorageError), exclusive_folder(tmp_path / "shot"):
        pass


def test_unused_folders_are_made_one_by_one(tmp_path: Path) -> None:
    made = [make_unused_folder(tmp_path / "a" / "shot").name for _ in range(3)]
    assert made == ["shot", "shot-2", "shot-3"]
    (tmp_path / "file").write_text("")
    assert make_unused_folder(tmp_path / "file").name == "file-2"
    with pytest.raises(StorageError):
        make_unused_folder(tmp_path / "file" / "below")


def test_a_parent_that_is_a_file_is_no_taken_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows such a parent is said to exist, as a name that is taken is."""

    def exists(*_: object, **__: object) -> None:
        raise FileExistsError

    monkeypatch.setattr(Path, "mkdir", exists)
    with pytest.raises(StorageError):
        make_unused_folder(tmp_path / "file" / "below")
