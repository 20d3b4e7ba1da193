"""Reading LMDB files that nobody vouches for.

LMDB's own library maps a file and follows what it says about itself: a file that was cut short
ends the process, and one that was made for it may do worse. This reader knows only what it takes
to list a plain database, and checks every number against the file before it goes there.

The format, version 1 with 64-bit numbers: pages of equal size. Pages 0 and 1 describe the
database, and the one with the higher transaction counts. From its root, branch pages lead to leaf
pages, which hold keys and either values or the first of the pages that hold one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ....errors import CacheFormatError

MAX_ENTRIES: Final = 1 << 18
"""Most entries of a file."""

MAX_KEY: Final = 511
"""Most bytes of a key, LMDB's own limit."""

_MAGIC: Final = 0xBEEFC0DE
_VERSION: Final = 1
_PAGE_SIZES: Final = frozenset(1 << power for power in range(9, 17))
_FIRST_PAGE: Final = 2

# Page: number, unused, flags, end of the places of nodes, start of the nodes.
_HEAD: Final = struct.Struct("<QHHHH")
_BRANCH, _LEAF, _OVERFLOW = 0x01, 0x02, 0x04
_KINDS: Final = 0x6F
"""Flags of a page that say what it holds; the other ones are left over from writing."""

# Meta, behind the head: magic, version, address, size of the map; two databases; last page,
# transaction. A database: page size, flags, depth, pages of three kinds, entries, root.
_META: Final = struct.Struct("<IIQQ" + 2 * "IHHQQQQQ" + "QQ")
_PAGE_SIZE, _FLAGS, _ROOT, _TRANSACTION = 4, 13, 19, 21
_NO_PAGE: Final = (1 << 64) - 1
_SYNCHRONOUS: Final = 0x8000
"""Flag that says nothing about what a database holds."""

# Node: three words of size or page number, the last of which is flags in a leaf; key size.
_NODE: Final = struct.Struct("<HHHH")
_BIG: Final = 0x01
"""Flag of a node whose value has pages of its own."""


@dataclass(frozen=True)
class LmdbEntry:
    """An entry, and where in the file its value stands.

    Attributes:
        key: Its key.
        place: First byte of the value.
        length: Bytes of the value.
    """

    key: bytes
    place: int
    length: int


class LmdbFile:
    """A plain LMDB database, opened for reading.

    Args:
        path: The file, or the folder with ``data.mdb`` in it.

    Raises:
        CacheFormatError: The file is missing or no LMDB file of this format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path / "data.mdb" if path.is_dir() else path
        self._file: BinaryIO | None = None
        try:
            # A pipe of this name would be waited for without end.
            if not self.path.is_file():
                raise self._damaged("no such file")
            self._length = self.path.stat().st_size
            self._file = open(self.path, "rb")
        except OSError as error:
            raise self._damaged(str(error)) from error
        try:
            self._page_size, self._root = self._describe()
        except CacheFormatError:
            self.close()
            raise

    def __enter__(self) -> LmdbFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def entries(self) -> Iterator[LmdbEntry]:
        """All entries by key, without their values.

        Raises:
            CacheFormatError: The file is damaged, or holds databases inside each other.
        """
        left = [] if self._root == _NO_PAGE else [self._root]
        seen: set[int] = set()
        count, last = 0, b""
        while left:
            number = left.pop()
            if number in seen:
                raise self._damaged(f"page {number} stands in two places")
            seen.add(number)
            page, nodes, kind = self._page(number)
            if kind == _BRANCH:
                left += [self._child(page, node) for node in reversed(nodes)]
                continue
            count += len(nodes)
            if count > MAX_ENTRIES:
                raise self._damaged(f"more than {MAX_ENTRIES} entries")
            for node in nodes:
                entry = self._entry(number, page, node)
                if entry.key <= last:
                    raise self._damaged(f"page {number} holds keys that are out of order")
                last = entry.key
                yield entry

    def read(self, entry: LmdbEntry, most: int) -> bytes:
        """The value of an entry.

        Args:
            entry: One of this file's.
            most: Most bytes that it may have.

        Raises:
            CacheFormatError: It is longer, or the file was cut short meanwhile.
        """
        if entry.length > most:
            raise self._damaged(f"a value of {entry.length} bytes; {most} at most")
        return self._bytes(entry.place, entry.length)

    def _describe(self) -> tuple[int, int]:
        """Page size, and number of the root page."""
        first = self._meta(0)
        size = first[_PAGE_SIZE]
        if size not in _PAGE_SIZES:
            raise self._damaged(f"pages of {size} bytes")
        newest = max(first, self._meta(size), key=lambda meta: meta[_TRANSACTION])
        if newest[_PAGE_SIZE] != size or newest[_FLAGS] & ~_SYNCHRONOUS:
            raise self._damaged("a database of another kind than plain keys and values")
        return size, newest[_ROOT]

    def _meta(self, place: int) -> tuple[int, ...]:
        """One of the two descriptions. A file of which only one is whole was not finished."""
        values = _META.unpack(self._bytes(place + _HEAD.size, _META.size))
        if values[:2] != (_MAGIC, _VERSION):
            raise self._damaged("no LMDB file of version 1 with 64-bit numbers")
        return values

    def _page(self, number: int) -> tuple[bytes, tuple[int, ...], int]:
        """A branch or leaf page, the places of its nodes, and which of the two it is."""
        page = self._bytes(self._place(number), self._page_size)
        own, _, flags, lower, upper = _HEAD.unpack_from(page)
        kind = flags & _KINDS
        count, odd = divmod(lower - _HEAD.size, 2)
        fits = _HEAD.size <= lower <= upper <= self._page_size
        if own != number or kind not in (_BRANCH, _LEAF) or odd or not fits:
            raise self._damaged(f"page {number} is no page of keys")
        nodes = struct.unpack_from(f"<{count}H", page, _HEAD.size)
        if any(not upper <= node <= self._page_size - _NODE.size for node in nodes):
            raise self._damaged(f"page {number} points out of itself")
        return page, nodes, kind

    def _child(self, page: bytes, node: int) -> int:
        low, middle, high, _ = _NODE.unpack_from(page, node)
        return int(low | middle << 16 | high << 32)

    def _entry(self, number: int, page: bytes, node: int) -> LmdbEntry:
        low, high, flags, key_size = _NODE.unpack_from(page, node)
        length = low | high << 16
        start = node + _NODE.size + key_size
        big = flags == _BIG
        if flags not in (0, _BIG) or not 0 < key_size <= MAX_KEY:
            raise self._damaged(f"page {number} holds another kind of entry")
        if start + (8 if big else length) > self._page_size:
            raise self._damaged(f"page {number} holds an entry longer than itself")
        place = self._place(number) + start
        if big:
            place = self._overflow(int.from_bytes(page[start : start + 8], "little"))
            if place + length > self._length:
                raise self._damaged(f"a value of {length} bytes ends behind the file")
        return LmdbEntry(page[node + _NODE.size : start], place, length)

    def _overflow(self, number: int) -> int:
        """Where the value begins that has pages of its own."""
        place = self._place(number)
        own, _, flags, _, _ = _HEAD.unpack(self._bytes(place, _HEAD.size))
        if own != number or flags & _KINDS != _OVERFLOW:
            raise self._damaged(f"page {number} is no page of a value")
        return place + _HEAD.size

    def _place(self, number: int) -> int:
        """First byte of a page, all of which is in the file."""
        if not _FIRST_PAGE <= number < self._length // self._page_size:
            raise self._damaged(f"page {number} is not in the file")
        return number * self._page_size

    def _bytes(self, place: int, count: int) -> bytes:
        if self._file is None:
            raise self._damaged("the file was closed")
        try:
            self._file.seek(place)
            data = self._file.read(count)
        except OSError as error:
            raise self._damaged(str(error)) from error
        if len(data) != count:
            raise self._damaged(f"{len(data)} bytes at {place} instead of {count}")
        return data

    def _damaged(self, got: str) -> CacheFormatError:
        return CacheFormatError(
            f"The LMDB file {self.path.name} cannot be read",
            got=got[:200],
            expected="a whole file with one plain database",
            fix="Fetch it anew: it was cut short, is damaged, or was made to do harm",
        )
