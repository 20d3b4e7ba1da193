"""The document of a glTF file and the numbers in its buffers, checked as they are read."""

from __future__ import annotations

import base64
import binascii
import struct
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from ...errors import CacheFormatError
from ..files import MAX_BYTES, describe, expect_numbers, parse_json
from .gltf_write import BINARY_CHUNK, FLOAT, JSON_CHUNK, MAGIC

WIDTHS: Final = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}
"""Numbers in an element of an accessor; other types do not move a camera."""

_MAX_LISTS: Final = 1_000_000
_MAX_VALUES: Final = 8_000_000
"""Lists, objects and values in a document: 100,000 objects of a scene need a fifth of these."""

_MAX_KEYS: Final = 1_000_000
_MAX_READ: Final = 50_000_000
"""Keys of one curve, and numbers of all curves that are read of a file."""

_NORMALISED: Final = {
    5120: ("<i1", 127), 5121: ("<u1", 255), 5122: ("<i2", 32767), 5123: ("<u2", 65535),
}  # fmt: skip
"""Whole numbers that stand for -1 to 1 or 0 to 1: their type, and which one stands for 1."""


class GltfFile:
    """One glTF file, whichever program wrote it. Every number in it is checked when it is read.

    Attributes:
        name: The file's name, for messages.
        document: Its JSON.
    """

    def __init__(self, document: dict[str, Any], binary: bytes | None, name: str) -> None:
        self.document = document
        self.name = name
        self._binary = binary
        self._buffers: dict[int, bytes] = {}
        self._accessors: dict[int, Tensor] = {}
        self._read = 0

    @classmethod
    def read(cls, path: Path) -> GltfFile:
        """The file at a path, ``.glb`` or ``.gltf``.

        Raises:
            CacheFormatError: It is missing, too large, cut off, or not glTF.
        """
        try:
            with open(path, "rb") as file:
                content = file.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            raise CacheFormatError(f"{path.name} cannot be read", got=str(error)[:200]) from error
        try:
            if len(content) > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES // 2**20} MiB")
            text, binary = content, None
            if content[:4] == struct.pack("<I", MAGIC):
                text, binary = _chunks(content)
            document = parse_json(_bounded(text).decode("utf-8-sig"), path.name)
            if not isinstance(document, dict):
                raise ValueError(describe(document))
        except ValueError as error:
            raise CacheFormatError(
                f"{path.name} is not a glTF file",
                got=str(error)[:200],
                expected=".glb, or .gltf with its data embedded",
                fix="Export as glTF Binary (.glb)",
            ) from error
        return cls(document, binary, path.name)

    def malformed(self, what: str, got: object, expected: str) -> CacheFormatError:
        """The error for a part of the file that breaks the format."""
        return CacheFormatError(
            f"{self.name} is not a well-formed glTF file: {what}",
            got=describe(got),
            expected=expected,
            fix="Export it again",
        )

    def objects(self, parent: dict[str, Any], key: str, where: str = "the file") -> list[Any]:
        """A list of objects in the document; empty where it is missing.

        Raises:
            CacheFormatError: It is something else.
        """
        found = parent.get(key, [])
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise self.malformed(f'"{key}" of {where}', found, "a list of objects")
        return found

    def part(self, parent: dict[str, Any], key: str, where: str) -> dict[str, Any]:
        """An object in the document; empty where it is missing.

        Raises:
            CacheFormatError: It is something else.
        """
        found = parent.get(key, {})
        if not isinstance(found, dict):
            raise self.malformed(f'"{key}" of {where}', found, "an object")
        return found

    def index(self, value: object, count: int, what: str) -> int:
        """A number of something of which there are ``count``.

        Raises:
            CacheFormatError: It is something else, or beyond.
        """
        return self.whole(value, 0, count - 1, what)

    def whole(self, value: object, low: int, high: int, what: str) -> int:
        """A whole number of the document, from ``low`` to ``high``.

        Raises:
            CacheFormatError: It is something else.
        """
        if type(value) is not int or not low <= value <= high:
            raise self.malformed(what, value, f"a whole number from {low} to {high}")
        return value

    def number(self, parent: dict[str, Any], key: str, rest: float, where: str) -> float:
        """A finite number of the document; ``rest`` where it is missing.

        Raises:
            CacheFormatError: It is something else.
        """
        return self.numbers(parent, key, (rest,), where)[0]

    def numbers(
        self, parent: dict[str, Any], key: str, rest: tuple[float, ...], where: str
    ) -> list[float]:
        """Finite numbers of the document, as many as in ``rest``, which stands in for them.

        Raises:
            CacheFormatError: They are something else.
        """
        value = parent.get(key, rest if len(rest) > 1 else rest[0])
        value = value if len(rest) > 1 else [value]
        return expect_numbers(value, len(rest), f'"{key}" of {where} in {self.name}')

    def accessor(self, number: object, kinds: tuple[str, ...], where: str) -> Tensor:
        """(K, width) float64 numbers of an accessor.

        Args:
            number: The accessor, as it stands in the document.
            kinds: Keys of `WIDTHS` that are expected.
            where: What reads it, for messages.

        Raises:
            CacheFormatError: It is malformed, points outside of the data, is compressed, or
                holds values that are not finite.
        """
        accessors = self.objects(self.document, "accessors")
        index = self.index(number, len(accessors), f"the accessor of {where}")
        accessor = accessors[index]
        kind = accessor.get("type")
        if kind not in kinds:
            raise self.malformed(f"the type of {where}", kind, " or ".join(kinds))
        if index not in self._accessors:
            self._accessors[index] = self._values(accessor, WIDTHS[kind], where)
        return self._accessors[index]

    def _values(self, accessor: dict[str, Any], width: int, where: str) -> Tensor:
        kind, one = self._component(accessor, where)
        count = self.whole(accessor.get("count"), 1, _MAX_KEYS, f"the count of {where}")
        self._read += count * width
        if self._read > _MAX_READ:
            raise self.malformed("its animation", self._read, f"at most {_MAX_READ} numbers")
        item = np.dtype(kind).itemsize
        data, start, step = self._span(accessor, count, item * width, where)
        rows = np.ndarray((count, width), kind, buffer=data, offset=start, strides=(step, item))
        values = torch.from_numpy(rows.astype(np.float64))
        if one != 1:
            values = (values / one).clamp(min=-1)
        if not bool(torch.isfinite(values).all()):
            raise self.malformed(where, "values that are not finite", "finite numbers")
        return values

    def _component(self, accessor: dict[str, Any], where: str) -> tuple[str, int]:
        """NumPy's name of the stored type, and which value stands for 1."""
        kind = accessor.get("componentType")
        if "sparse" not in accessor and type(kind) is int:
            if kind == FLOAT:
                return "<f4", 1
            if kind in _NORMALISED and accessor.get("normalized") is True:
                return _NORMALISED[kind]
        raise CacheFormatError(
            f"{self.name} stores its animation in an unsupported format",
            got="sparse values" if "sparse" in accessor else f"component type {describe(kind)}",
            expected=f"32-bit floats or normalised whole numbers for {where}",
            fix="Export without animation compression",
        )

    def _span(
        self, accessor: dict[str, Any], count: int, size: int, where: str
    ) -> tuple[bytes, int, int]:
        """The data of ``count`` elements, where the first begins, and how far apart they are."""
        views = self.objects(self.document, "bufferViews")
        place = f"the buffer view of {where}"
        view = views[self.index(accessor.get("bufferView"), len(views), place)]
        extensions = self.part(view, "extensions", place)
        if any(key.endswith("_meshopt_compression") for key in extensions):
            raise CacheFormatError(
                f"{self.name} compresses its animation",
                got="meshopt compression",
                fix="Export without compression",
            )
        data = self._buffer(view.get("buffer"))
        begin = self.whole(view.get("byteOffset", 0), 0, len(data), f"the offset of {place}")
        left = len(data) - begin
        length = self.whole(view.get("byteLength"), 0, left, f"the length of {place}")
        offset = self.whole(accessor.get("byteOffset", 0), 0, length, f"the offset of {where}")
        step = self.whole(view.get("byteStride", size), size, 252, f"the stride of {place}")
        if offset + (count - 1) * step + size > length:
            raise self.malformed(
                f"{where} points outside of the data", count, f"what {length} bytes hold"
            )
        return data, begin + offset, step

    def _buffer(self, number: object) -> bytes:
        buffers = self.objects(self.document, "buffers")
        index = self.index(number, len(buffers), "the number of a buffer")
        if index not in self._buffers:
            uri = buffers[index].get("uri")
            own = self._binary if index == 0 and uri is None else None
            self._buffers[index] = self._inline(uri) if own is None else own
        return self._buffers[index]

    def _inline(self, uri: object) -> bytes:
        if not isinstance(uri, str) or not uri.startswith("data:"):
            raise CacheFormatError(
                f"The data of {self.name} is in another file, or missing",
                got=describe(uri),
                expected=".glb, or .gltf with its data embedded",
                fix="Export as glTF Binary (.glb)",
            )
        try:
            return base64.b64decode(uri.partition(",")[2], validate=True)
        except (binascii.Error, ValueError) as error:
            raise self.malformed("its embedded data", str(error), "base64") from error


def _chunks(content: bytes) -> tuple[bytes, bytes | None]:
    """The JSON and the data of a binary file; raises `ValueError`."""
    parts: dict[int, bytes] = {}
    offset = 12
    while offset + 8 <= len(content):
        size, kind = struct.unpack_from("<II", content, offset)
        if offset + 8 + size > len(content):
            raise ValueError("the file is truncated")
        parts.setdefault(kind, content[offset + 8 : offset + 8 + size])
        offset += 8 + size
    if JSON_CHUNK not in parts:
        raise ValueError("a binary file without a document")
    return parts[JSON_CHUNK].rstrip(b"\0"), parts.get(BINARY_CHUNK)


def _bounded(text: bytes) -> bytes:
    """The text itself; raises `ValueError` where parsing it would fill the memory."""
    if text.count(b"{") + text.count(b"[") > _MAX_LISTS or text.count(b",") > _MAX_VALUES:
        raise ValueError(f"a document of more than {_MAX_LISTS} lists or {_MAX_VALUES} values")
    return text
