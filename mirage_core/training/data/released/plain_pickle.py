"""Plain values out of a pickle stream that nobody vouches for.

`pickletools` splits the stream into opcodes and runs nothing. What the opcodes stand for is done
here, and only for values that cannot act: dictionaries with text keys, lists, tuples, text,
bytes, numbers, None. Names are looked up in a table of a few words, never in modules.
"""

from __future__ import annotations

import io
import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ....errors import CacheFormatError

MAX_OPCODES: Final = 4096
"""Most opcodes of a stream. A sample of ten files needs fifty."""

MAX_DEPTH: Final = 16
"""Most containers inside each other."""

_LONGEST_LINE: Final = 128
"""Most bytes of a name; also cuts numbers written as text, which take long to read."""

_PLAIN: Final = (str, bytes, int, float, bool, type(None))
_BROKEN: Final = (ValueError, struct.error, OverflowError, AssertionError, EOFError)
"""What `pickletools` raises for a stream that is no pickle."""


@dataclass(frozen=True)
class Name:
    """A name out of the stream that the vocabulary knows; nothing is imported for it."""

    text: str


Call = Callable[[tuple[Any, ...]], Any]
"""Stands in for a callable that the stream names. Takes what the stream would call it with, and
raises `ValueError` for anything out of order."""


@dataclass(frozen=True)
class Vocabulary:
    """What a stream may hold besides plain values.

    Attributes:
        names: Names, ``"module name"``, that may stand as arguments.
        calls: What is done instead of calling a name.
        load: Turns a persistent id into a value, or raises `ValueError`. Without it there are
            none.
        kinds: Types of the values that ``calls`` and ``load`` make, where they may be results.
    """

    names: frozenset[str] = frozenset()
    calls: Mapping[str, Call] = field(default_factory=dict)
    load: Callable[[Any], Any] | None = None
    kinds: tuple[type, ...] = ()


PLAIN: Final = Vocabulary()


def read_plain(data: bytes, vocabulary: Vocabulary = PLAIN) -> Any:
    """The value of a pickle stream that ends where the data ends.

    Args:
        data: The stream, of protocol 2 to 5.
        vocabulary: What may be in it besides plain values.

    Returns:
        A value without cycles, at most `MAX_DEPTH` containers deep.

    Raises:
        CacheFormatError: The stream is damaged, or holds anything else. The message names the
            opcode, and the name that it asked for.
    """
    stream = PickleStream(data)
    value = read_next(stream, vocabulary)
    if stream.left:
        raise refused("STOP", f"{stream.left} bytes after the end")
    return value


class PickleStream(io.BytesIO):
    """Bytes to read pickles from, one after the other."""

    def readline(self, size: int | None = -1, /) -> bytes:
        """A short line; a longer one comes without its end, which is then missed."""
        return super().readline(_LONGEST_LINE)

    @property
    def left(self) -> int:
        """Bytes behind the place where the stream stands."""
        place = self.tell()
        end = self.seek(0, io.SEEK_END)
        self.seek(place)
        return end - place


def read_next(stream: PickleStream, vocabulary: Vocabulary = PLAIN) -> Any:
    """The value of the stream's next pickle; the stream stands behind it afterwards.

    Raises:
        CacheFormatError: See `read_plain`.
    """
    machine = _Machine(vocabulary, stream.left)
    name = "PROTO"
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            name = opcode.name
            if count >= MAX_OPCODES:
                raise refused(name, f"more than {MAX_OPCODES} opcodes")
            if (count == 0) != (name == "PROTO"):
                raise refused(name, "a stream without a protocol of its own, or with two")
            step = _STEPS.get(name)
            if step is None:
                raise refused(name, "an opcode that plain values do not need")
            step(machine, argument)
    except (*_BROKEN, IndexError, KeyError) as error:
        raise refused(name, str(error) or type(error).__name__) from error
    return machine.result()


def refused(opcode: str, got: str) -> CacheFormatError:
    """The error for a stream that is not read any further."""
    return CacheFormatError(
        f"A pickled value was refused at {opcode}",
        got=got[:200],
        expected="plain values and tensors, which cannot run anything",
        fix="Do not read this file with anything else: it is damaged, or made to do harm",
    )


def expect_plain(value: Any, kinds: tuple[type, ...] = (), depth: int = 0) -> None:
    """Raise `CacheFormatError` unless a value is plain, free of cycles and not too deep."""
    _height(value, kinds, depth, {})


def _height(value: Any, kinds: tuple[type, ...], depth: int, known: dict[int, int]) -> int:
    """Containers inside a value, itself included.

    A value that stands in many places is looked at once, or ten lines could take for ever. A
    cycle has no end, and so becomes too deep.
    """
    if type(value) in (*_PLAIN, *kinds):
        return 0
    if type(value) not in (dict, list, tuple):
        what = value.text if type(value) is Name else type(value).__name__
        raise refused("STOP", f"{what} where a plain value belongs")
    height = known.get(id(value))
    if height is None:
        if depth >= MAX_DEPTH:
            raise refused("STOP", f"more than {MAX_DEPTH} containers inside each other")
        inner = value.values() if type(value) is dict else value
        height = 1 + max((_height(item, kinds, depth + 1, known) for item in inner), default=0)
        known[id(value)] = height
    if depth + height > MAX_DEPTH:
        raise refused("STOP", f"more than {MAX_DEPTH} containers inside each other")
    return height


class _Machine:
    """A stack and a memo, as the format defines them."""

    def __init__(self, vocabulary: Vocabulary, length: int) -> None:
        self._vocabulary = vocabulary
        self._calls: dict[str, Call] = {
            "_codecs encode": self._encode,
            "__builtin__ bytes": _empty_bytes,
            "collections OrderedDict": _empty_dict,
            **vocabulary.calls,
        }
        self._left = length
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def result(self) -> Any:
        if len(self._stack) != 1 or self._below:
            raise refused("STOP", f"{len(self._stack)} values instead of one")
        expect_plain(self._stack[0], self._vocabulary.kinds)
        return self._stack[0]

    def nothing(self, _: Any) -> None:
        """For what frames the values, and is no value."""

    def protocol(self, number: int) -> None:
        if not 2 <= number <= 5:
            raise ValueError(f"protocol {number}")

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def none(self, _: Any) -> None:
        self.push(None)

    def true(self, _: Any) -> None:
        self.push(True)

    def false(self, _: Any) -> None:
        self.push(False)

    def new_list(self, _: Any) -> None:
        self.push([])

    def new_dict(self, _: Any) -> None:
        self.push({})

    def mark(self, _: Any) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _marked(self) -> list[Any]:
        values, self._stack = self._stack, self._below.pop()
        return values

    def _take(self, count: int) -> list[Any]:
        if count > len(self._stack):
            raise ValueError("values are missing")
        values = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return values

    def _top(self, kind: type) -> Any:
        if type(self._stack[-1]) is not kind:
            raise ValueError(f"{type(self._stack[-1]).__name__} instead of {kind.__name__}")
        return self._stack[-1]

    def new_tuple(self, _: Any) -> None:
        self.push(tuple(self._marked()))

    def append(self, _: Any) -> None:
        (value,) = self._take(1)
        self._top(list).append(value)

    def appends(self, _: Any) -> None:
        values = self._marked()
        self._top(list).extend(values)

    def set_item(self, _: Any) -> None:
        self._set(self._take(2))

    def set_items(self, _: Any) -> None:
        self._set(self._marked())

    def _set(self, values: list[Any]) -> None:
        target = self._top(dict)
        if len(values) % 2:
            raise ValueError("a key without a value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if type(key) is not str or key in target:
                raise ValueError("a key that is no text, or stands there twice")
            target[key] = value

    def put(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    def memoize(self, _: Any) -> None:
        self.put(len(self._memo))

    def get(self, place: int) -> None:
        self.push(self._memo[place])

    def name(self, text: str) -> None:
        if text not in self._vocabulary.names and text not in self._calls:
            raise ValueError(f"the name {text!r}")
        self.push(Name(text))

    def stack_name(self, _: Any) -> None:
        module, name = self._take(2)
        if type(module) is not str or type(name) is not str:
            raise ValueError("a name that is no text")
        self.name(f"{module} {name}")

    def call(self, _: Any) -> None:
        name, arguments = self._take(2)
        if type(name) is not Name or type(arguments) is not tuple:
            raise ValueError(f"a call of {type(name).__name__}")
        if name.text not in self._calls:
            raise ValueError(f"a call of {name.text!r}")
        self.push(self._calls[name.text](arguments))

    def load(self, _: Any) -> None:
        (what,) = self._take(1)
        if self._vocabulary.load is None:
            raise ValueError("a persistent id")
        self.push(self._vocabulary.load(what))

    def _encode(self, arguments: tuple[Any, ...]) -> bytes:
        """Bytes, as protocol 2 writes them; all together are no longer than the stream."""
        match arguments:
            case (str() as text, "latin1"):
                self._left -= len(text)
                if self._left < 0:
                    raise ValueError("the same bytes over and over")
                return text.encode("latin1")
        raise ValueError("text in another coding than latin1")


def _empty_bytes(arguments: tuple[Any, ...]) -> bytes:
    if arguments:
        raise ValueError("bytes() of something")
    return b""


def _empty_dict(arguments: tuple[Any, ...]) -> dict[str, Any]:
    if arguments:
        raise ValueError("OrderedDict() of something")
    return {}


def _tuple_of(count: int) -> Callable[[_Machine, Any], None]:
    def step(machine: _Machine, _: Any) -> None:
        machine.push(tuple(machine._take(count)))

    return step


_STEPS: Final[dict[str, Callable[[_Machine, Any], None]]] = {
    "PROTO": _Machine.protocol,
    **dict.fromkeys(("FRAME", "STOP"), _Machine.nothing),
    **dict.fromkeys(
        (
            "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
            "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
            "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
        ),
        _Machine.push,
    ),
    "NONE": _Machine.none,
    "NEWTRUE": _Machine.true,
    "NEWFALSE": _Machine.false,
    "EMPTY_LIST": _Machine.new_list,
    "EMPTY_DICT": _Machine.new_dict,
    "EMPTY_TUPLE": _tuple_of(0),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "TUPLE": _Machine.new_tuple,
    "MARK": _Machine.mark,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.get),
    "MEMOIZE": _Machine.memoize,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.call,
    "BINPERSID": _Machine.load,
}  # fmt: skip
"""What each opcode does. Text forms of protocol 0, instances, extensions, sets and buffers are
not among them."""
