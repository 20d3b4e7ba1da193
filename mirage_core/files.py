"""Atomic writes: a file appears complete or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, Literal, TextIO, overload

from .errors import StorageError
from .log import logger

TEMPORARY_PREFIX: Final = ".mirage-"
"""Beginning of every temporary name; the dot hides it from file choosers."""

_REMEDIES: Final[dict[int, str]] = {
    errno.ENOSPC: "The disk is full: free disk space, or choose another folder",
    errno.EDQUOT: "Your quota is used up: free disk space, or choose another folder",
    errno.EFBIG: "This disk does not support files of this size: choose another folder",
    errno.EACCES: "You have no permission to write to this folder: choose another folder",
    errno.EPERM: "You have no permission to write to this folder: choose another folder",
    errno.EROFS: "The disk is read-only: choose another folder",
    errno.ENOTDIR: "A file exists where a folder is needed: choose another folder",
    errno.EEXIST: "A file exists where a folder is needed: choose another folder",
    errno.EISDIR: "A folder with this name exists: choose another file name",
    errno.ENAMETOOLONG: "Choose a shorter name",
}


def storage_error(path: Path, error: Exception) -> StorageError:
    """The typed error for an `OSError`, or a refused name, met while writing ``path``."""
    number = error.errno if isinstance(error, OSError) else None
    return StorageError(
        f"{str(path)!r} could not be written",
        got=getattr(error, "strerror", None) or str(error) or type(error).__name__,
        expected="a folder that can be written to, with enough space",
        fix=_REMEDIES.get(number or 0, "Check the disk, or choose another folder"),
    )


def ensure_writable_folder(path: Path | str) -> Path:
    """Make a folder with its parents, and write a byte into it to see that it works.

    Returns:
        The folder.

    Raises:
        StorageError: It cannot be made, or nothing can be written into it.
    """
    path = Path(path)
    probe = path / _temporary_name("")
    _expect_unicode(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        _create(probe)
        try:
            probe.write_bytes(b"\0")
            _flush(probe)
        finally:
            _discard(probe)
    except (OSError, ValueError) as error:
        raise storage_error(path, error) from error
    return path


def _expect_unicode(path: Path) -> None:
    """What safetensors cannot open again must not be begun."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise StorageError(
            "The path of the folder is not UTF-8",
            got=ascii(str(path)),
            fix="Choose a folder with another name",
        ) from error


def make_unused_folder(path: Path) -> Path:
    """Make ``path``, or ``path-2``, ``path-3``, ... where that exists.

    Two programs that ask at the same time get different folders.

    Raises:
        StorageError: The folder cannot be made.
    """
    number, candidate = 2, path
    try:
        # By itself: a file in a parent's place must not look like a name that is taken.
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                candidate.mkdir()
            except FileExistsError:
                candidate = path.with_name(f"{path.name}-{number}")
                number += 1
            else:
                return candidate
    except (OSError, ValueError) as error:
        raise storage_error(candidate, error) from error


def make_way(path: Path) -> Path:
    """Rename a folder that stands where a file belongs; nothing in it is lost.

    Returns:
        ``path``, at which there is no folder now.

    Raises:
        StorageError: The folder cannot be renamed.
    """
    try:
        if not path.is_dir() or path.is_symlink():
            return path
        aside = make_unused_folder(path.with_name(f"{path.name}.aside"))
        path.rename(aside / path.name)
    except OSError as error:
        raise storage_error(path, error) from error
    logger.warning("A folder stood in the place of %s: it is in %s now", path, aside)
    return path


def with_suffix(path: Path | str, suffix: str) -> Path:
    """``path`` with ``suffix`` added unless it has it already, in whatever case."""
    path = Path(path)
    return path if path.suffix.lower() == suffix else path.with_name(path.name + suffix)


def discard_unfinished(folder: Path, *, age: float = 0.0) -> None:
    """Remove temporary files that a killed program left.

    Args:
        folder: Where they are.
        age: Seconds since they were last written to. 0 is for a folder with one writer; where
            others may be writing, a file that has rested for long belongs to nobody.
    """
    for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
        try:
            rested = time.time() - leftover.stat().st_mtime
        except FileNotFoundError:
            continue
        if rested >= age:
            _discard(leftover)


def share_file(source: Path, target: Path) -> None:
    """Give a file a second name, in place of what may stand there; the first one may go.

    Where the disk cannot, as with FAT or between two disks, it is copied. For files that are
    only ever replaced, as by `atomic_path`: what is written into one shows under both names.

    Raises:
        StorageError: The file is gone, the disk is full, or the folder cannot be written.
    """
    temporary = target.parent / _temporary_name(target.suffix)
    try:
        if _linked(source, temporary):
            os.replace(temporary, target)
            return
        with atomic_path(target) as copy:
            shutil.copyfile(source, copy)
    except OSError as error:
        raise storage_error(target, error) from error
    finally:
        # Where both were one file already, replacing it leaves the temporary name.
        _discard(temporary)


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except (OSError, NotImplementedError):
        return False
    return True


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its name when the block ends well.

    For writers that open files themselves; `atomic_write` gives an open file. The temporary
    file exists, is empty, and has the suffix of ``path``, so that writers which go by it work.
    Whatever ends the block early, a cancelled queue included, leaves an existing file as it was
    and nothing else behind.

    Args:
        path: Target file; missing parent folders are made.

    Yields:
        The temporary path.

    Raises:
        StorageError: The disk is full, or the folder or the name cannot be written. An
            `OSError` from the block that names another file passes through.
    """
    path = Path(path)
    temporary = path.parent / _temporary_name(path.suffix)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _expect_replaceable(path)
        _create(temporary)
    except (OSError, ValueError) as error:
        raise storage_error(path, error) from error
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is not None and str(error.filename) != str(temporary):
            raise
        raise storage_error(path, error) from error
    finally:
        _discard(temporary)


@overload
def atomic_write(path: Path | str, mode: Literal["wb"]) -> AbstractContextManager[BinaryIO]: ...


@overload
def atomic_write(path: Path | str, mode: Literal["w"]) -> AbstractContextManager[TextIO]: ...


def atomic_write(path: Path | str, mode: Literal["wb", "w"]) -> AbstractContextManager[IO[Any]]:
    """An open file that takes the name ``path`` when the block ends well.

    The content reaches the disk before it gets its name, so that a crash leaves the old file
    or the new one, never a part.

    Args:
        path: Target file; missing parent folders are made.
        mode: ``"wb"`` for bytes, ``"w"`` for UTF-8 text with Unix line ends.

    Raises:
        StorageError: As in `atomic_path`.
    """
    return _atomic_file(Path(path), mode)


@contextmanager
def _atomic_file(path: Path, mode: str) -> Iterator[IO[Any]]:
    binary = "b" in mode
    with (
        atomic_path(path) as temporary,
        open(
            temporary,
            mode,
            encoding=None if binary else "utf-8",
            newline=None if binary else "\n",
        ) as file,
    ):
        yield file


def _temporary_name(suffix: str) -> str:
    return f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{suffix}"


def _expect_replaceable(path: Path) -> None:
    """Refuse, before the work, a name that is too long or that a folder has."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))


def _create(temporary: Path) -> None:
    # Not tempfile, whose files are private: os.open leaves the mode to the umask, and asking
    # for the umask means changing it for all threads.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))


def _flush(path: Path) -> None:
    # Opened for writing since Windows refuses to flush through a read-only handle.
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _discard(temporary: Path) -> None:
    try:
        temporary.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("The temporary file %s could not be removed: %s", temporary, error)
