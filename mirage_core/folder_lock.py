"""One program at a time in a folder of work that can be taken up again.

The lock is the operating system's, so that it ends with the program that holds it, however that
ends. What stands in the file beside it only tells people who it is.
"""

from __future__ import annotations

import json
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from .errors import FolderInUseError
from .files import atomic_write, ensure_writable_folder, make_way, storage_error
from .log import logger

LOCK: Final = ".lock"
"""Name of the file that the operating system locks; empty."""

HOLDER: Final = "in_use.json"
"""Name of the file that says who works in the folder: host, process, and since when."""

_held: dict[Path, _Held] = {}
_guard = threading.Lock()


@dataclass
class _Held:
    """A lock of this program, and how often it was taken."""

    lock: FileLock
    process: int
    thread: int
    count: int = 0

    @property
    def ours(self) -> bool:
        """False in a child that was forked off the program that took the lock."""
        return self.process == os.getpid()


@contextmanager
def exclusive_folder(folder: Path) -> Iterator[None]:
    """Keep other programs out of a folder while the block runs.

    The thread that has the folder may enter again: what it calls need not know. A lock whose
    program has ended, by whatever means, is taken over.

    Args:
        folder: Where the work is kept; made when it is missing.

    Raises:
        FolderInUseError: Another program works there, or another thread of this one; the
            message says which.
        StorageError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder = folder.resolve()
    except (OSError, ValueError) as error:
        raise storage_error(folder, error) from error
    with _guard:
        held = _held.get(folder)
        if held is None or not held.ours:
            held = _take(folder)
        elif held.thread != threading.get_ident():
            raise _in_use(folder)
        held.count += 1
        _held[folder] = held
    try:
        yield
    finally:
        with _guard:
            held.count -= 1
            if not held.count and held.ours:
                del _held[folder]
                _release(folder, held.lock)


def _take(folder: Path) -> _Held:
    # People who share a folder share its lock, whoever came first.
    lock = FileLock(str(make_way(folder / LOCK)), thread_local=False, mode=0o666)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise _in_use(folder) from error
    except NotImplementedError:
        # Rare network file systems. The work itself is as safe as it ever was with one program.
        logger.warning(
            "%s cannot be locked against other programs: its disk knows no locks", folder
        )
    except OSError as error:
        raise storage_error(folder / LOCK, error) from error
    try:
        ensure_writable_folder(folder)
        before = _read_holder(folder)
        if before is not None:
            logger.info("Took over %s from %s, which has ended", folder, _describe(before))
        with atomic_write(make_way(folder / HOLDER), "w") as file:
            json.dump(_this_program(), file)
    except BaseException:
        lock.release()
        raise
    return _Held(lock, os.getpid(), threading.get_ident())


def _in_use(folder: Path) -> FolderInUseError:
    return FolderInUseError(
        f"Another program works in {folder}",
        got=_describe(_read_holder(folder)),
        expected="one program in a folder at a time",
        fix="Wait until it is done, or end it and try again; nothing that it finished is lost",
    )


def _release(folder: Path, lock: FileLock) -> None:
    try:
        (folder / HOLDER).unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s could not be removed: %s", folder / HOLDER, error)
    lock.release()


def _this_program() -> dict[str, Any]:
    now = datetime.now(timezone.utc)
    return {
        "host": platform.node(),
        "process": os.getpid(),
        "since": now.isoformat(timespec="seconds"),
    }


def _read_holder(folder: Path) -> dict[str, Any] | None:
    """What the file says; None when there is none. A damaged one tells nothing."""
    try:
        found = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _describe(holder: dict[str, Any] | None) -> str:
    known = {key: (holder or {}).get(key, "unknown") for key in ("host", "process", "since")}
    return "process {process} on {host}, since {since}".format(**known)
