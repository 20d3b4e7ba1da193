"""Reading LMDB files that nobody vouches for.

LMDB maps a file and follows what it says about itself: one that was cut short ends the process,
and one that was made for it may do worse. So the file is verified first, by code of the package
that reads it page by page.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from ....errors import CacheFormatError, PackageError

MAX_ENTRIES: Final = 1 << 18
"""Most entries of a file."""


class LmdbFile:
    """An LMDB database of keys and values, opened for reading; nothing is written beside it.

    Args:
        path: The file, or the folder with ``data.mdb`` in it.

    Raises:
        CacheFormatError: The file is missing, damaged, or no LMDB file of this machine's kind.
        PackageError: The package lmdb is not installed, or cannot verify files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path / "data.mdb" if path.is_dir() else path
        lmdb, verify = _package()
        try:
            # A pipe of this name would be waited for without end.
            if not self.path.is_file():
                raise ValueError("no such file")
            if problems := verify(str(self.path), subdir=False):
                raise ValueError("; ".join(problems))
            self._database = lmdb.open(
                str(self.path),
                subdir=False, readonly=True, lock=False, create=False, readahead=False,
            )  # fmt: skip
            self._expect_whole()
        except Exception as error:  # what is damaged is met in many ways while it is verified
            raise self._damaged(str(error) or type(error).__name__) from error
        self._trouble = (lmdb.Error, ValueError)

    def __enter__(self) -> LmdbFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def keys(self) -> list[bytes]:
        """All keys, in order.

        Raises:
            CacheFormatError: There are more than `MAX_ENTRIES`.
        """
        try:
            with self._database.begin() as transaction:
                if (count := transaction.stat()["entries"]) > MAX_ENTRIES:
                    raise ValueError(f"{count} entries; {MAX_ENTRIES} at most")
                return list(transaction.cursor().iternext(keys=True, values=False))
        except self._trouble as error:
            raise self._damaged(str(error)) from error

    def read(self, key: bytes, most: int) -> bytes:
        """The value of a key.

        Args:
            key: One of this file's.
            most: Most bytes that the value may have.

        Raises:
            CacheFormatError: There is no such value, or it is longer.
        """
        try:
            with self._database.begin(buffers=True) as transaction:
                value = transaction.get(key)
                if value is None:
                    raise ValueError(f"no value of {key!r}")
                if len(value) > most:
                    raise ValueError(f"a value of {len(value)} bytes; {most} at most")
                return bytes(value)
        except self._trouble as error:
            raise self._damaged(str(error)) from error

    def _expect_whole(self) -> None:
        """Raise unless all pages are in the file: of a long value only the first is verified."""
        pages = self._database.info()["last_pgno"] + 1
        promised = pages * self._database.stat()["psize"]
        if (size := self.path.stat().st_size) < promised:
            self._database.close()
            raise ValueError(f"{size} bytes of {promised}")

    def _damaged(self, got: str) -> CacheFormatError:
        return CacheFormatError(
            f"The LMDB file {self.path.name} cannot be read",
            got=got[:200],
            expected="a whole file with one plain database",
            fix="Fetch it anew: it was cut short, is damaged, or was made to do harm",
        )


def _package() -> tuple[Any, Any]:
    """The package, and its check of a file."""
    try:
        import lmdb
        from lmdb.verify import verify
    except ImportError as error:
        raise PackageError(
            "Released samples need the package lmdb",
            got=str(error),
            fix='Install it with: pip install "lmdb>=3.0"',
        ) from error
    return lmdb, verify
