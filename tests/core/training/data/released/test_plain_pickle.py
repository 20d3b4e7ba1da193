"""Pickle streams: plain values come back, everything else is refused and never runs."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_core.errors import CacheFormatError
from mirage_core.training.data.released.lmdb_import import convert_sample
from mirage_core.training.data.released.plain_pickle import MAX_OPCODES, read_plain
from tiny_samples import (
    PROTOCOLS,
    hostile,
    nothing_runs,
    refuse,
)


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "it ran"
    yield path
    assert not path.exists()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_come_back(protocol: int) -> None:
    value = {
        "bytes": bytes(range(256)), "none": b"", "long": b"\xff" * 70_000, "text": "ä€𝄞",
        "numbers": [0, 1, 255, 256, 65_536, -1, 2**31, -(2**31), 2**63, 0.5, -1e300],
        "flags": (True, False, None), "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "again": {},
    }  # fmt: skip
    value["again"] = {"same": value["numbers"], "twice": [value["numbers"]]}
    read = read_plain(pickle.dumps(value, protocol))
    assert read == value
    assert type(read["flags"][0]) is bool
    assert read["again"]["same"] is read["numbers"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(
    value=st.dictionaries(
        st.text(max_size=5), st.one_of(st.binary(), st.text(), st.integers(), st.booleans())
    )
)
@settings(max_examples=30, deadline=None)
def test_any_dictionary_comes_back(protocol: int, value: dict) -> None:
    assert read_plain(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("number", range(6))
def test_calls_are_refused_and_never_made(protocol: int, number: int, sentinel: Path) -> None:
    act = hostile(sentinel)[number]
    for value in (act, {"a.pt": act}, {"a": [1, (act,)]}, {"a": b"", "b": {"c": act}}):
        refuse(read_plain, pickle.dumps(value, protocol))
    refuse(lambda data: convert_sample(data, "key"), pickle.dumps(act, protocol))


def test_the_hostile_values_would_run(tmp_path: Path) -> None:
    """Else the tests above show nothing."""
    for number in range(5):
        path = tmp_path / str(number)
        pickle.loads(pickle.dumps(hostile(path)[number]))
        assert path.exists()


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (b"cos\nsystem\n.", "GLOBAL.*os system"),
        (b"cbuiltins\neval\n.", "builtins eval"),
        (b"ctorch.serialization\nload\n.", "torch.serialization load"),
        (b"ctorch\nHalfStorage\n.", "torch HalfStorage"),
        (b"c_codecs\ndecode\n.", "_codecs decode"),
        (b"c_codecs\nencode\n.", "_codecs encode"),
        (b"c__builtin__\nbytes\n.", "__builtin__ bytes"),
        (short("posix") + short("system") + b"\x93.", "STACK_GLOBAL.*posix system"),
        (short("collections") + b"K\x01\x93.", "STACK_GLOBAL"),
        (short("collections") + short("OrderedDict.fromkeys") + b"\x93.", "fromkeys"),
        (b"\x82\x01.", "EXT1"),
        (b"\x83\x01\x00.", "EXT2"),
        (b"\x84\x01\x00\x00\x00.", "EXT4"),
        (b"(ios\nsystem\n.", "INST"),
        (b"(ccollections\nOrderedDict\no.", "OBJ"),
        (b"ccollections\nOrderedDict\n)\x81.", "NEWOBJ"),
        (b"ccollections\nOrderedDict\n)}\x92.", "NEWOBJ_EX"),
        (b"}}b.", "BUILD"),
        (b"Pname\n.", "PERSID"),
        (b"K\x00Q.", "BINPERSID"),
        (b"\x97.", "NEXT_BUFFER"),
        (b"\x98.", "READONLY_BUFFER"),
        (b"\x96\x00\x00\x00\x00\x00\x00\x00\x00.", "BYTEARRAY8"),
        (b"\x8f.", "EMPTY_SET"),
        (b"(\x91.", "FROZENSET"),
        (b"K\x01K\x022.", "DUP"),
        (b"K\x010.", "POP"),
        (b"K\x01(1.", "POP_MARK"),
        (b"S'text'\n.", "STRING"),
        (b"I" + b"9" * 5000 + b"\n.", "refused"),
        (b"L" + b"9" * 50 + b"L\n.", "LONG"),
        (b"F1.5\n.", "FLOAT"),
        (b"(l.", "LIST"),
        (b"\x8b\xff\xff\xff\x7f.", "refused"),
        (b"\x8b\x01\x00\x00\x00\x01.", "LONG4"),
        (b"ccollections\nOrderedDict\n]R.", "REDUCE"),
        (b"ccollections\nOrderedDict\nK\x01\x85R.", "OrderedDict"),
        (b"c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.", "bytes"),
        (b"c_codecs\nencode\n" + short("ab") + short("rot13") + b"\x86R.", "latin1"),
        (b"c_codecs\nencode\n" + short("€") [:0] + short("ab") + b"\x85R.", "latin1"),
        (b"K\x01K\x02\x86)R.", "REDUCE"),
        (b"}K\x01K\x02s.", "SETITEM"),
        (b"}" + 2 * (short("a") + b"N") + b"(" + b"u.", "SETITEMS"),
        (b"}(" + 2 * (short("a") + b"N") + b"u.", "twice"),
        (b"}(" + short("a") + b"u.", "without a value"),
        (b"]K\x01K\x02s.", "SETITEM"),
        (b"})a.", "APPEND"),
        (b"h\x05.", "BINGET"),
        (b"j\xff\xff\xff\xff.", "LONG_BINGET"),
        (b"q\x00.", "BINPUT"),
        (b"\x94.", "MEMOIZE"),
        (b"t.", "TUPLE"),
        (b"\x87.", "TUPLE3"),
        (b".", "STOP"),
        (b"NN.", "STOP"),
        (b"N(.", "STOP"),
        (b"N.N.", "after the end"),
        (b"\x80\x02N.", "PROTO"),
        (b"N", "exhausted"),
        (b"\xff.", "refused"),
        (b"X\xff\xff\xff\xffab.", "remain"),
        (b"B\xff\xff\xff\xffab.", "remain"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fab.", "remain"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffab.", "refused"),
        (b"c" + b"a" * 200 + b"\nb\n.", "refused"),
        (b"N0" * MAX_OPCODES, "POP"),
        (b"N" * MAX_OPCODES + b".", "opcodes"),
    ],
)  # fmt: skip
def test_streams_that_are_refused(body: bytes, match: str) -> None:
    refuse(read_plain, b"\x80\x04" + body, match)


@pytest.mark.parametrize("head", [b"", b"\x80\x00", b"\x80\x01", b"\x80\x06", b"\x80\xff", b"\x80"])
def test_protocols_that_are_refused(head: bytes) -> None:
    refuse(read_plain, head + b"N.")


def test_what_is_nested_is_bounded() -> None:
    loop: list = []
    loop.append(loop)
    turn: dict = {}
    turn["a"] = [turn]
    deep: list = []
    for _ in range(40):
        deep = [deep]
    for value in (loop, turn, deep):
        refuse(read_plain, pickle.dumps(value, 4), "inside each other")
    refuse(read_plain, b"\x80\x04)" + b"\x85" * 2000 + b".", "inside each other")
    refuse(read_plain, b"\x80\x04" + b"(" * 2000 + b"t" * 2000 + b".", "inside each other")


def test_what_stands_in_many_places_costs_its_size_once() -> None:
    """Ten lists of ten of the list before: 10^14 values if they were counted one by one."""
    value: list = [b"x"] * 10
    for _ in range(13):
        value = [value] * 10
    with nothing_runs():
        assert len(read_plain(pickle.dumps(value, 4))) == 10
    keys = b"\x80\x02](]" + b"2" * 3 + b"e."
    refuse(read_plain, keys, "DUP")
    once = b"c_codecs\nencode\nq\x00X\x00\x00\x10\x00" + b"x" * (1 << 20)
    once += b"X\x06\x00\x00\x00latin1\x86q\x01R"
    assert read_plain(b"\x80\x02](" + once + b"e.") == [b"x" * (1 << 20)]
    refuse(read_plain, b"\x80\x02](" + once + b"h\x00h\x01R" * 900 + b"e.", "over and over")


@given(data=st.binary(max_size=300), protocol=st.sampled_from(PROTOCOLS), framed=st.booleans())
@settings(max_examples=400, deadline=None)
def test_random_bytes_give_the_typed_error(data: bytes, protocol: int, framed: bool) -> None:
    data = b"\x80" + bytes([protocol]) + data + b"." if framed else data
    with nothing_runs():
        try:
            read_plain(data)
        except CacheFormatError:
            return


OPCODES = [
    b"N", b"K\x01", b"]", b"}", b")", b"(", b"t", b"\x85", b"\x86", b"a", b"e", b"s", b"u", b"R",
    b"\x93", b"\x94", b"q\x00", b"h\x00", b"Q", b"b", b"\x81", b"o", b"0", b"1", b"2",
    b"cos\nsystem\n", b"ccollections\nOrderedDict\n", b"c_codecs\nencode\n", short("latin1"),
    short("os"), short("system"), short("storage"), b"C\x01x", b"G" + bytes(8), b"\x88",
]  # fmt: skip


@given(parts=st.lists(st.sampled_from(OPCODES), max_size=30))
@settings(max_examples=400, deadline=None)
def test_random_programs_give_plain_values_or_the_typed_error(parts: list[bytes]) -> None:
    with nothing_runs():
        try:
            value = read_plain(b"\x80\x04" + b"".join(parts) + b".")
        except CacheFormatError:
            return
    assert type(value) in (dict, list, tuple, str, bytes, int, float, bool, type(None))
