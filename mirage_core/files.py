"""Writing files so that they appear whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

from .errors import StorageError

_REMEDIES: dict[int, str] = {
    errno.ENOSPC: "The disk is full: free space, or choose another folder",
    errno.EDQUOT: "Your quota is used up: free space, or choose another folder",
    errno.EACCES: "The folder is not yours to write: choose another one",
    errno.EPERM: "The folder is not yours to write: choose another one",
    errno.EROFS: "The disk is read-only: choose another folder",
    errno.ENOTDIR: "A file stands where a folder is needed: choose another name",
    errno.EEXIST: "A file stands where a folder is needed: choose another name",
    errno.ENAMETOOLONG: "Choose a shorter name",
}


def storage_error(path: Path, error: OSError) -> StorageError:
    """The typed error for an `OSError` met while writing ``path``."""
    return StorageError(
        f"{path} could not be written",
        got=error.strerror or str(error),
        fix=_REMEDIES.get(error.errno or 0, "Choose another folder"),
    )


def ensure_writable_folder(path: Path) -> Path:
    """Make a folder with its parents, and try that files can be made in it.

    Raises:
        StorageError: It cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise storage_error(path, error) from error
    return path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its name when the block ends well.

    The suffix is kept, so that writers which go by it work. Whatever ends the block early, a
    cancelled queue included, leaves an existing file as it was and nothing else behind.

    Raises:
        StorageError: The folder cannot be written, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem}.", suffix=f".partial{path.suffix}", dir=path.parent
        )
        os.close(handle)
    except OSError as error:
        raise storage_error(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        _flush_to_disk(temporary)
        # Temporary files are private; finished ones follow the user's umask.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: Path, mode: Literal["wb", "w"]) -> Iterator[IO[Any]]:
    """An open file that takes the name ``path`` when the block ends well.

    Args:
        path: Target file; missing parent folders are made.
        mode: ``wb`` for bytes, ``w`` for UTF-8 text.

    Raises:
        StorageError: The folder cannot be written, or the disk is full.
    """
    encoding = None if "b" in mode else "utf-8"
    with atomic_path(path) as temporary, temporary.open(mode, encoding=encoding) as file:
        yield file


def _flush_to_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
