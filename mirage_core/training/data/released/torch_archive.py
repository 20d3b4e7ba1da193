"""Tensors out of files that torch wrote, without torch's own reader, which can run their code."""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from ....errors import CacheFormatError
from .plain_pickle import PickleStream, Vocabulary, read_next, read_plain

DTYPES: Final = {
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
}
"""Kinds of storage that are read, by the name that a file gives them."""

MAX_ENTRIES: Final = 256
"""Most files in an archive; one per storage, and seven that torch adds."""

MAX_PICKLE: Final = 1 << 20
"""Most bytes of the part that describes the tensors."""

MAX_AXES: Final = 8
MAX_SIZE: Final = 1 << 40
"""Bound of a size, stride or offset; checked before they are multiplied."""

_ENTRY: Final = b"PK\x01\x02"
"""What each entry in a zip file's directory begins with."""

_ZIP: Final = b"PK\x03\x04"
_MAGIC: Final = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION: Final = 1001
_TROUBLE: Final = (
    zipfile.BadZipFile, ValueError, RuntimeError, LookupError, OSError, EOFError, OverflowError,
    struct.error,
)  # fmt: skip
"""What `zipfile` raises for a damaged file."""


@dataclass(frozen=True)
class _Storage:
    """A row of numbers that the file promises."""

    key: str
    dtype: torch.dtype
    count: int

    @property
    def length(self) -> int:
        """Bytes of it."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True)
class _Plan:
    """A tensor before its numbers are there. Offset and strides count numbers."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


Fetch = Callable[[_Storage], bytes]


def read_tensors(data: bytes) -> dict[str, Tensor]:
    """The tensors of a dictionary that ``torch.save`` wrote, in either of its two formats.

    Args:
        data: The file: float32, float16 and bfloat16 tensors by name. Other plain values in the
            dictionary are left out.

    Returns:
        Tensors on the CPU in the file's types. They share what memory they share in the file,
        all of it together no larger than ``data``.

    Raises:
        CacheFormatError: The file is damaged, or holds what is no plain value or tensor, or a
            tensor that lies outside its storage.
    """
    if data.startswith(_ZIP):
        return _read_zip(data)
    return _read_legacy(data)


def _read_zip(data: bytes) -> dict[str, Tensor]:
    # Counted before the directory is read, since zipfile makes an object for each entry.
    entries = data.count(_ENTRY)
    if entries > MAX_ENTRIES:
        raise _damaged(f"{entries} files in the archive")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = _files(archive, len(data))
            root = _root(files)
            if files.get(f"{root}byteorder", b"little") != b"little":
                raise _damaged("numbers in another byte order")
    except _TROUBLE as error:
        raise _damaged(str(error) or type(error).__name__) from error
    description = files[f"{root}data.pkl"]
    if len(description) > MAX_PICKLE:
        raise _damaged(f"a description of {len(description)} bytes")

    def fetch(storage: _Storage) -> bytes:
        return files.get(f"{root}data/{storage.key}", b"")

    return _build(read_plain(description, _vocabulary(5)), fetch)


def _files(archive: zipfile.ZipFile, most: int) -> dict[str, bytes]:
    """The archive's files; torch compresses none, so that they cannot outgrow the archive."""
    infos = archive.infolist()
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise ValueError("a compressed file in the archive")
    total = sum(info.file_size for info in infos)
    if total > most:
        raise ValueError(f"{total} bytes in an archive of {most}")
    files = {info.filename: archive.read(info) for info in infos}
    if len(files) != len(infos):
        raise ValueError("two files of one name in the archive")
    return files


def _root(files: Mapping[str, bytes]) -> str:
    """Folder of the description inside the archive, with its slash."""
    roots = [name.removesuffix("data.pkl") for name in files if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise ValueError(f"{len(roots)} descriptions in the archive")
    return roots[0]


def _read_legacy(data: bytes) -> dict[str, Tensor]:
    """The format before archives: five pickles, then the length and numbers of each storage."""
    stream = PickleStream(data)
    magic, version, system = (read_next(stream) for _ in range(3))
    known = type(magic) is int and magic == _MAGIC and version == _LEGACY_VERSION
    if not known or type(system) is not dict or system.get("little_endian") is not True:
        raise _damaged("no file of torch.save, or one in another byte order")
    content = read_next(stream, _vocabulary(6))
    keys = read_next(stream)
    storages = {plan.storage.key: plan.storage for plan in _plans(content).values()}
    if type(keys) is not list or any(type(key) is not str or key not in storages for key in keys):
        raise _damaged("other storages than the tensors need")
    if len(keys) != len(storages) or stream.tell() > MAX_PICKLE:
        raise _damaged("a storage twice, or too long a description")
    found = {}
    for key in keys:
        head = stream.read(8)
        count = int.from_bytes(head, "little")
        if len(head) < 8 or count != storages[key].count:
            raise _damaged(f"a storage of {count} numbers", f"{storages[key].count}")
        found[key] = stream.read(storages[key].length)
    return _build(content, lambda storage: found[storage.key])


def _vocabulary(words: int) -> Vocabulary:
    """What describes tensors: a storage has an id of ``words`` parts."""

    def load(what: Any) -> _Storage:
        return _storage(what, words)

    calls = {"torch._utils _rebuild_tensor_v2": _plan}
    return Vocabulary(frozenset(DTYPES), calls, load, kinds=(_Plan,))


def _storage(what: Any, words: int) -> _Storage:
    if type(what) is not tuple or len(what) != words or what[0] != "storage":
        raise ValueError("a persistent id that names no storage")
    _, kind, key, place, count, *view = what
    name = getattr(kind, "text", None)
    if type(name) is not str or name not in DTYPES:
        raise ValueError(f"a storage of {name or type(kind).__name__}")
    if type(key) is not str or not (key.isascii() and key.isdecimal()) or type(place) is not str:
        raise ValueError("a storage without a number")
    if any(part is not None for part in view):
        raise ValueError("a view of a storage")
    (size,) = _numbers("storage length", (count,))
    return _Storage(key, DTYPES[name], size)


def _plan(arguments: tuple[Any, ...]) -> _Plan:
    storage, offset, size, stride, gradient, hooks, *more = arguments
    if type(storage) is not _Storage or type(gradient) is not bool:
        raise ValueError("a tensor without a storage")
    if type(hooks) is not dict or hooks or any(part is not None for part in more):
        raise ValueError("a tensor with hooks or metadata")
    sizes, strides = _numbers("size", size), _numbers("stride", stride)
    (start,) = _numbers("offset", (offset,))
    if len(sizes) != len(strides):
        raise ValueError(f"{len(sizes)} sizes and {len(strides)} strides")
    count = math.prod(sizes)
    last = start + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    # The count keeps a stride of 0 from making a few numbers into a tensor of any size.
    if count > storage.count or (count and last >= storage.count):
        raise ValueError(
            f"a tensor of {count} numbers up to place {last} in a storage of {storage.count}"
        )
    return _Plan(storage, start, sizes, strides)


def _numbers(what: str, values: Any) -> tuple[int, ...]:
    if type(values) is not tuple or len(values) > MAX_AXES:
        raise ValueError(f"a {what} that is no short tuple")
    for value in values:
        if type(value) is not int or not 0 <= value < MAX_SIZE:
            raise ValueError(f"a {what} that is no count")
    return values


def _plans(content: Any) -> dict[str, _Plan]:
    if type(content) is not dict:
        raise _damaged(f"a {type(content).__name__}", "a dictionary of tensors")
    plans = {name: value for name, value in content.items() if type(value) is _Plan}
    if len({plan.storage for plan in plans.values()}) != len(
        {plan.storage.key for plan in plans.values()}
    ):
        raise _damaged("one storage of two lengths or types")
    return plans


def _build(content: Any, fetch: Fetch) -> dict[str, Tensor]:
    plans = _plans(content)
    rows: dict[str, Tensor] = {}
    for storage in {plan.storage for plan in plans.values()}:
        raw = fetch(storage)
        if len(raw) != storage.length:
            raise _damaged(
                f"a storage of {len(raw)} bytes", f"{storage.length} bytes, as the file promises"
            )
        # frombuffer takes no empty buffer, and shares what it takes, so that it must be ours.
        rows[storage.key] = (
            torch.frombuffer(bytearray(raw), dtype=storage.dtype)
            if raw
            else torch.empty(0, dtype=storage.dtype)
        )
    return {
        name: rows[plan.storage.key].as_strided(plan.size, plan.stride, plan.offset)
        for name, plan in plans.items()
    }


def _damaged(got: str, expected: str = "a whole file that torch.save wrote") -> CacheFormatError:
    return CacheFormatError(
        "A tensor file cannot be read",
        got=got[:200],
        expected=expected,
        fix="Fetch the data anew: it is damaged, or made to do harm",
    )
