"""Values and tensors out of files that nobody vouches for: of `pickle` and of `torch.save`.

Two locks keep such a file from running anything. First its opcodes are looked at, and only those
that plain values need go on. Then names are looked up in a table of a few words, never in modules.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from ....errors import CacheFormatError

MAX_OPCODES: Final = 4096
"""Most opcodes of a stream, and so most values in it. A sample of ten files needs fifty."""

MAX_DESCRIPTION: Final = 1 << 16
"""Most bytes of what describes the tensors of a file."""

MAX_ENTRIES: Final = 256
"""Most files in an archive; one per storage, and seven that torch adds."""

DTYPES: Final = {
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
}
"""Kinds of storage that are read, by the name that a file gives them."""

_OPCODES: Final = frozenset(
    """PROTO FRAME STOP MARK MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET NONE NEWTRUE NEWFALSE
    BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINBYTES BINBYTES BINBYTES8 SHORT_BINUNICODE
    BINUNICODE BINUNICODE8 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS EMPTY_TUPLE TUPLE
    TUPLE1 TUPLE2 TUPLE3 GLOBAL STACK_GLOBAL REDUCE BINPERSID""".split()
)
"""What plain values and tensors need. What makes or changes instances is not among them."""

_ENTRY: Final = b"PK\x01\x02"
"""What each entry in a zip file's directory begins with."""

_ZIP: Final = b"PK\x03\x04"

Load = Callable[[Any], object]
"""What stands for a persistent id; raises `ValueError` for one that is out of order."""


class _Unpickler(pickle.Unpickler):
    """Plain values, and what a table has for names. Nothing is imported."""

    def __init__(self, stream: io.BytesIO, names: Mapping[str, object], load: Load | None) -> None:
        super().__init__(stream)
        self._names = names
        self._load = load

    def find_class(self, module: str, name: str, /) -> Any:
        if f"{module} {name}" not in self._names:
            raise ValueError(f"the name {f'{module} {name}'!r}")
        return self._names[f"{module} {name}"]

    def persistent_load(self, pid: Any, /) -> Any:
        if self._load is None:
            raise ValueError("a persistent id")
        return self._load(pid)


def read_plain(data: bytes) -> Any:
    """The value of a pickle: containers, text, bytes, numbers and None.

    Args:
        data: A stream of protocol 2 to 5 that ends where the data ends.

    Raises:
        CacheFormatError: The stream is damaged or long, or holds anything else. The message has
            the opcode, or the name that it asked for.
    """
    left = len(data)

    def encode(text: str, coding: str) -> bytes:
        """Bytes, as protocol 2 writes them; all together are no longer than the stream."""
        nonlocal left
        left -= len(text)
        if coding != "latin1" or left < 0:
            raise ValueError(f"text in the coding {coding!r}, or the same bytes over and over")
        return text.encode("latin1")

    stream = io.BytesIO(data)
    try:
        value = _next(stream, {"_codecs encode": encode, "__builtin__ bytes": lambda: b""})
        if rest := len(data) - stream.tell():
            raise ValueError(f"{rest} bytes after the end")
    except Exception as error:  # `pickle` says itself that damage may raise anything
        raise CacheFormatError(
            "A pickled value was refused",
            got=_reason(error),
            expected="plain values, which cannot run anything",
            fix="Do not read this file with anything else: it is damaged, or made to do harm",
        ) from error
    return value


def read_tensors(data: bytes) -> dict[str, Tensor]:
    """The tensors of a dictionary that ``torch.save`` wrote, in either of its two formats.

    Args:
        data: The file: float32, float16 and bfloat16 tensors by name. Other plain values in the
            dictionary are left out.

    Returns:
        Tensors on the CPU in the file's types, each no larger than ``data``.

    Raises:
        CacheFormatError: The file is damaged or compressed, or holds what is no plain value or
            tensor, or a tensor that lies outside its storage.
    """
    try:
        if data.startswith(_ZIP):
            _expect_archive(data)
        else:
            _expect_legacy(data)
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if type(content) is not dict:
            raise ValueError(f"{type(content).__name__} instead of a dictionary of tensors")
        found = {name: value.detach() for name, value in content.items() if type(value) is Tensor}
        # A stride of 0 makes a few numbers into a tensor of any size.
        if any(tensor.nbytes > len(data) for tensor in found.values()):
            raise ValueError("a tensor larger than the file")
    except Exception as error:  # torch raises whatever its readers meet
        raise _unreadable(error) from error
    return found


def read_weights(data: bytes) -> dict[str, Tensor]:
    """The tensors of a dictionary or list of weights that ``torch.save`` wrote.

    Args:
        data: The file, such as a network of torchvision's.

    Returns:
        Tensors on the CPU by name; those of a list by their number, as text.

    Raises:
        CacheFormatError: The file is damaged or compressed, or holds no tensors.
    """
    try:
        if data.startswith(_ZIP):
            _expect_archive(data)
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        entries = content.items() if isinstance(content, dict) else enumerate(content)
        found = {str(name): value.detach() for name, value in entries}
    except Exception as error:  # torch raises whatever its readers meet
        raise _unreadable(error) from error
    return found


def _unreadable(error: Exception) -> CacheFormatError:
    return CacheFormatError(
        "A tensor file cannot be read",
        got=_reason(error),
        expected="a whole file that torch.save wrote",
        fix="Fetch the data anew: it is damaged, or made to do harm",
    )


def _next(stream: io.BytesIO, names: Mapping[str, object], load: Load | None = None) -> Any:
    """The value of the stream's next pickle; the stream stands behind it afterwards."""
    start = stream.tell()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if opcode.name not in _OPCODES:
            raise ValueError(f"the opcode {opcode.name}")
        # `pickle` makes room for all places up to the one that a value is kept in.
        place = argument if "PUT" in opcode.name and type(argument) is int else 0
        if max(count, place) >= MAX_OPCODES:
            raise ValueError(f"more than {MAX_OPCODES} opcodes or places")
    stream.seek(start)
    return _Unpickler(stream, names, load).load()


def _promised(stream: io.BytesIO) -> dict[str, int]:
    """Bytes of each storage that the description of tensors promises, by key.

    Older versions of torch do not compare them with what is there, and read beyond it.
    """
    storages: dict[str, int] = {}

    def load(pid: Any) -> None:
        what, dtype, key, _, count, *view = pid
        known = what == "storage" and type(dtype) is torch.dtype and type(key) is str
        if not known or type(count) is not int or count < 0 or view not in ([], [None]):
            raise ValueError("a storage out of order")
        length = count * dtype.itemsize
        if storages.setdefault(key, length) != length:
            raise ValueError("one storage of two lengths")

    def rebuild(storage: None, offset: int, size: Any, stride: Any, grad: bool, hooks: Any) -> None:
        if hooks != {}:
            raise ValueError("a tensor with hooks")

    words = {"torch._utils _rebuild_tensor_v2": rebuild, "collections OrderedDict": dict}
    _next(stream, {**DTYPES, **words}, load)
    if stream.tell() > MAX_DESCRIPTION:
        raise ValueError(f"a description of {stream.tell()} bytes")
    return storages


def _expect_archive(data: bytes) -> None:
    """Raise unless all that a zip file promises is in it, once and not compressed."""
    # Counted before the directory is read, since zipfile makes an object for each entry.
    if (entries := data.count(_ENTRY)) > MAX_ENTRIES:
        raise ValueError(f"{entries} files in the archive")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos = archive.infolist()
        if any(
            i.compress_type != zipfile.ZIP_STORED or i.file_size != i.compress_size for i in infos
        ):
            raise ValueError("a compressed file in the archive")
        if (total := sum(info.file_size for info in infos)) > len(data):
            raise ValueError(f"{total} bytes in an archive of {len(data)}")
        if damaged := archive.testzip():
            raise ValueError(f"a wrong CRC of {damaged}")
        # torch does not tell upper from lower case.
        sizes = {info.filename.lower(): info.file_size for info in infos}
        if len(sizes) != len(infos):
            raise ValueError("two files of one name in the archive")
        root = infos[0].filename.split("/")[0]
        description = archive.read(f"{root}/data.pkl")
    for key, length in _promised(io.BytesIO(description)).items():
        if (size := sizes.get(f"{root}/data/{key}".lower())) != length:
            raise ValueError(f"a storage of {size} bytes instead of {length}")


def _expect_legacy(data: bytes) -> None:
    """Raise unless the format before archives is whole: five pickles, then the storages.

    Each storage stands behind its count, which torch compares.
    """
    stream = io.BytesIO(data)
    for _ in ("magic number", "version", "system"):
        _next(stream, {})
    storages = _promised(stream)
    keys = _next(stream, {})
    if sorted(keys) != sorted(storages):
        raise ValueError("other storages than the tensors need")
    if stream.tell() + sum(8 + length for length in storages.values()) != len(data):
        raise ValueError(f"{len(data) - stream.tell()} bytes of storages")


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
