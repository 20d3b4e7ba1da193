"""Pickles and files of torch.save: plain values and tensors come back, nothing else ever runs."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_core.errors import CacheFormatError
from mirage_core.training.data.released.lmdb_import import convert_sample
from mirage_core.training.data.released.safe_load import (
    MAX_ENTRIES,
    MAX_OPCODES,
    read_plain,
    read_tensors,
)
from tiny_samples import (
    PROTOCOLS,
    Act,
    archive,
    files,
    hostile,
    noise,
    nothing_runs,
    refuse,
    tensors,
)


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "it ran"
    yield path
    assert not path.exists()


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


class TestPlain:
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_plain_values_come_back(self, protocol: int) -> None:
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
    def test_any_dictionary_comes_back(self, protocol: int, value: dict) -> None:
        assert read_plain(pickle.dumps(value, protocol)) == value

    @pytest.mark.parametrize("protocol", range(6))
    @pytest.mark.parametrize("number", range(6))
    def test_calls_are_refused(self, protocol: int, number: int, sentinel: Path) -> None:
        act = hostile(sentinel)[number]
        for value in (act, {"a.pt": act}, {"a": [1, (act,)]}, {"a": b"", "b": {"c": act}}):
            refuse(read_plain, pickle.dumps(value, protocol))
        refuse(lambda data: convert_sample(data, "key"), pickle.dumps(act, protocol))

    def test_the_hostile_values_would_run(self, tmp_path: Path) -> None:
        """Else the test above shows nothing."""
        for number in range(5):
            path = tmp_path / str(number)
            pickle.loads(pickle.dumps(hostile(path)[number]))
            assert path.exists()

    @pytest.mark.parametrize(
        ("body", "match"),
        [
            (b"cos\nsystem\n.", "os system"),
            (b"cbuiltins\neval\n.", "builtins eval"),
            (b"ctorch.serialization\nload\n.", "torch.serialization load"),
            (b"ctorch\nHalfStorage\n.", "torch HalfStorage"),
            (b"ccollections\nOrderedDict\n.", "collections OrderedDict"),
            (b"c_codecs\ndecode\n.", "_codecs decode"),
            (short("posix") + short("system") + b"\x93.", "posix system"),
            (short("collections") + b"K\x01\x93.", "STACK_GLOBAL"),
            (b"\x82\x01.", "EXT1"),
            (b"\x83\x01\x00.", "EXT2"),
            (b"\x84\x01\x00\x00\x00.", "EXT4"),
            (b"(ios\nsystem\n.", "INST"),
            (b"(c_codecs\nencode\no.", "OBJ"),
            (b"c_codecs\nencode\n)\x81.", "NEWOBJ"),
            (b"c_codecs\nencode\n)}\x92.", "NEWOBJ_EX"),
            (b"c_codecs\nencode\n}b.", "BUILD"),
            (b"Pname\n.", "PERSID"),
            (b"K\x00Q.", "persistent id"),
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
            (b"c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.", "refused"),
            (b"c_codecs\nencode\n" + short("ab") + short("rot13") + b"\x86R.", "rot13"),
            (b"c_codecs\nencode\n" + short("ab") + b"\x85R.", "refused"),
            (b"K\x01K\x02\x86)R.", "callable"),
            (b"})R.", "callable"),
            (b"]K\x01K\x02s.", "refused"),
            (b"})a.", "refused"),
            (b"h\x05.", "refused"),
            (b"j\xff\xff\xff\xff.", "refused"),
            (b"Nr\xff\xff\xff\xff.", "places"),
            (b"q\x00.", "refused"),
            (b"\x94.", "refused"),
            (b"t.", "refused"),
            (b"\x87.", "refused"),
            (b".", "refused"),
            (b"N.N.", "after the end"),
            (b"N", "exhausted"),
            (b"\xff.", "refused"),
            (b"X\xff\xff\xff\xffab.", "remain"),
            (b"B\xff\xff\xff\xffab.", "remain"),
            (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fab.", "remain"),
            (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffab.", "refused"),
            (b"N0" * MAX_OPCODES, "POP"),
            (b"N" * MAX_OPCODES + b".", "opcodes"),
        ],
    )  # fmt: skip
    def test_streams_that_are_refused(self, body: bytes, match: str) -> None:
        refuse(read_plain, b"\x80\x04" + body, match)

    @pytest.mark.parametrize("head", [b"", b"\x80", b"\x80\x06N.", b"\x80\xffN."])
    def test_no_streams_at_all(self, head: bytes) -> None:
        refuse(read_plain, head)

    def test_what_is_nested_is_no_sample(self) -> None:
        loop: list = []
        loop.append(loop)
        turn: dict = {}
        turn["a"] = [turn]
        ends = [
            b"\x80\x04)" + b"\x85" * 2000 + b".",
            b"\x80\x04" + b"(" * 2000 + b"t" * 2000 + b".",
        ]
        for data in (pickle.dumps(loop, 4), pickle.dumps(turn, 4), *ends):
            refuse(lambda data: convert_sample(data, "key"), data, "something else than files")

    def test_what_stands_in_many_places_costs_its_size_once(self) -> None:
        """Ten lists of ten of the list before: 10^14 values if they were counted one by one."""
        value: list = [b"x"] * 10
        for _ in range(13):
            value = [value] * 10
        with nothing_runs():
            assert len(read_plain(pickle.dumps(value, 4))) == 10
        once = b"c_codecs\nencode\nq\x00X\x00\x00\x10\x00" + b"x" * (1 << 20)
        once += b"X\x06\x00\x00\x00latin1\x86q\x01R"
        assert read_plain(b"\x80\x02](" + once + b"e.") == [b"x" * (1 << 20)]
        refuse(read_plain, b"\x80\x02](" + once + b"h\x00h\x01R" * 900 + b"e.", "over and over")

    @given(data=st.binary(max_size=300), protocol=st.sampled_from(PROTOCOLS), framed=st.booleans())
    @settings(max_examples=400, deadline=None)
    def test_random_bytes(self, data: bytes, protocol: int, framed: bool) -> None:
        data = b"\x80" + bytes([protocol]) + data + b"." if framed else data
        with nothing_runs():
            try:
                read_plain(data)
            except CacheFormatError:
                return

    OPCODES = [
        b"N", b"K\x01", b"]", b"}", b")", b"(", b"t", b"\x85", b"\x86", b"a", b"e", b"s", b"u",
        b"R", b"\x93", b"\x94", b"q\x00", b"h\x00", b"Q", b"b", b"\x81", b"o", b"0", b"1", b"2",
        b"cos\nsystem\n", b"ccollections\nOrderedDict\n", b"c_codecs\nencode\n", short("latin1"),
        short("os"), short("system"), short("storage"), b"C\x01x", b"G" + bytes(8), b"\x88",
        b"c__builtin__\nbytes\n",
    ]  # fmt: skip

    @given(parts=st.lists(st.sampled_from(OPCODES), max_size=30))
    @settings(max_examples=400, deadline=None)
    def test_random_programs(self, parts: list[bytes]) -> None:
        with nothing_runs():
            try:
                read_plain(b"\x80\x04" + b"".join(parts) + b".")
            except CacheFormatError:
                return


class Storage:
    """Pickled as a persistent id."""

    def __init__(self, key="0", count=8, kind=torch.HalfStorage, *, parts=None) -> None:
        self.parts = ("storage", kind, key, "cpu", count) if parts is None else parts


class Description(pickle.Pickler):
    """Writes what describes tensors."""

    def persistent_id(self, obj):
        return obj.parts if isinstance(obj, Storage) else None


def described(*tensor, call=torch._utils._rebuild_tensor_v2) -> bytes:
    buffer = io.BytesIO()
    Description(buffer, 2).dump({"latent": Act(call, *tensor)})
    return buffer.getvalue()


ROW = {"archive/data/0": bytes(16)}


def packed(description: bytes, entries=ROW, **options) -> bytes:
    """An archive as torch writes it."""
    every = {"archive/version": b"3\n", "archive/byteorder": b"little", **entries}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as file:
        file.writestr("archive/data.pkl", description)
        for name, content in every.items():
            file.writestr(name, content)
    return buffer.getvalue()


def view(storage=None, offset=0, size=(2, 4), stride=(4, 1), gradient=False, hooks=None, *more):
    storage = Storage() if storage is None else storage
    hooks = OrderedDict() if hooks is None else hooks
    return (storage, offset, size, stride, gradient, hooks, *more)


HUGE = 1 << 62


class TestTensors:
    @pytest.mark.parametrize("legacy", [False, True])
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
    def test_tensors_come_back_to_the_bit(self, legacy: bool, dtype) -> None:
        whole = noise(5, 4, 6, dtype=dtype)
        content = OrderedDict(
            latent=whole,
            part=whole[1:4, ::2].transpose(0, 2),
            other=noise(7, seed=1, dtype=dtype).requires_grad_(),
            none=torch.zeros(0, 3, dtype=dtype),
            single=torch.tensor(1.5, dtype=dtype),
        )
        read = read_tensors(archive({**content, "note": ["plain"]}, legacy=legacy))
        assert list(read) == list(content)
        for name, tensor in content.items():
            assert read[name].dtype == dtype
            assert torch.equal(read[name], tensor), name
            assert not read[name].requires_grad

    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    @pytest.mark.parametrize("legacy", [False, True])
    def test_protocols_that_torch_does_not_read_safely_are_refused(self, legacy: bool) -> None:
        refuse(read_tensors, archive({"latent": noise(2)}, legacy=legacy, protocol=4))

    @pytest.mark.parametrize("legacy", [False, True])
    @pytest.mark.parametrize("number", range(6))
    def test_calls_are_refused(self, legacy: bool, number: int, sentinel: Path) -> None:
        act = hostile(sentinel)[number]
        for content in (act, {"latent": act}, {"latent": noise(2), "more": act}):
            refuse(read_tensors, archive(content, legacy=legacy))
        inside = files(tensors())
        inside["train_target_rgb.pt"] = archive({"latent": act}, legacy=legacy)
        refuse(lambda data: convert_sample(data, "key"), pickle.dumps(inside))

    def test_a_tensor_written_by_hand_is_read(self) -> None:
        numbers = torch.arange(8).half()
        data = packed(described(*view()), {"archive/data/0": numbers.numpy().tobytes()})
        assert torch.equal(read_tensors(data)["latent"], numbers.view(2, 4))

    @pytest.mark.parametrize(
        "tensor",
        [
            view(offset=1), view(offset=-1), view(offset=HUGE), view(offset=1.0),
            view(size=(3, 4)), view(size=(2, -4)), view(size=(HUGE, HUGE)), view(size=(2,)),
            view(size="24"), view(size=(2.0, 4)), view(size=(1 << 5000, 1)), view(size=((2,), 4)),
            view(stride=(4, 2)), view(stride=(-4, 1)), view(stride=(HUGE, 1)), view(stride=(4,)),
            view(stride=(0, 0), size=(1 << 20, 1 << 20)), view(stride=(0, 0), size=(40, 40)),
            view(hooks={"a": 1}), view(hooks=[]), view(None, 0, (2, 4), (4, 1), False,
            OrderedDict(), {"conj": True}), view()[:4], (), view("0"), view(7),
            view(Storage(count=9)), view(Storage(count=7)), view(Storage(count=-8)),
            view(Storage(count=HUGE)), view(Storage(count="8")), view(Storage(count=None)),
            view(Storage(key="1")), view(Storage(key="../data.pkl")), view(Storage(key=0)),
            view(Storage(key="")), view(Storage(key="٠")), view(Storage(key=None)),
            view(Storage(kind=torch.FloatStorage)), view(Storage(kind=torch.DoubleStorage)),
            view(Storage(kind=torch.UntypedStorage)), view(Storage(kind="HalfStorage")),
            view(Storage(kind=os.system)), view(Storage(kind=OrderedDict)),
            view(Storage(parts=("module", torch.HalfStorage, "0", "cpu", 8))),
            view(Storage(parts=("storage", torch.HalfStorage, "0", "cpu"))),
            view(Storage(parts=("storage", torch.HalfStorage, "0", "cpu", 8, ("1", 0, 4)))),
            view(Storage(parts=())), view(Storage(parts="0")), view(Storage(parts=[])),
        ],
        ids=lambda tensor: str(tensor[1:4])[:40],
    )  # fmt: skip
    def test_tensors_that_are_refused(self, tensor: tuple) -> None:
        refuse(read_tensors, packed(described(*tensor)))

    def test_a_storage_is_what_the_description_promises(self) -> None:
        """Older versions of torch read as many numbers as are promised, wherever they are."""
        row = view(Storage(count=1 << 20), 0, (1 << 20,), (1,))
        refuse(read_tensors, packed(described(*row)), "16 bytes instead of 2097152")
        twice = {**ROW, "archive/DATA/0": bytes(2 << 20)}
        refuse(read_tensors, packed(described(*row), twice), "two files of one name")

    def test_other_rebuilding_is_refused(self) -> None:
        parameter = {"latent": torch.nn.Parameter(noise(2))}
        error = refuse(read_tensors, archive(parameter))
        assert "torch._utils _rebuild_parameter" in str(error)
        for content in (
            torch.nn.Linear(2, 2), {"latent": noise(2).float().numpy()}, {"latent": torch.float16},
            {"latent": torch.zeros(2).to_sparse()}, {"latent": torch.device("cpu")}, noise(2),
            [noise(2)], {"latent": noise(2).long()}, {"latent": noise(2).double()},
            {"latent": torch.Size([2])}, {"latent": noise(2).to(torch.complex64)},
        ):  # fmt: skip
            refuse(read_tensors, archive(content))
            refuse(read_tensors, archive(content, legacy=True))
        refuse(read_tensors, packed(described(*view()[:4], call=torch._utils._rebuild_tensor)))

    def test_archives_that_are_refused(self) -> None:
        good = described(*view())
        bomb = {"archive/data/0": bytes(50 << 20)}
        large = described(*view(Storage(count=25 << 20), size=(25 << 20, 1)))
        every = {f"archive/data/{n}": b"" for n in range(1, MAX_ENTRIES)}
        assert set(read_tensors(packed(good))) == {"latent"}
        for case, match in (
            (packed(large, bomb, compression=zipfile.ZIP_DEFLATED), "compressed"),
            (packed(large, bomb, compression=zipfile.ZIP_LZMA), "compressed"),
            (packed(good, compression=zipfile.ZIP_DEFLATED), "compressed"),
            (packed(good, {}), "None bytes instead of 16"),
            (packed(good, {"archive/data/0": bytes(14)}), "14 bytes instead of 16"),
            (packed(good, {"archive/data/0": bytes(18)}), "18 bytes instead of 16"),
            (packed(good, {**ROW, **every}), "files in the archive"),
            (packed(good[:-1]), None),
            (packed(b""), None),
            (packed(b"\x80\x02N."), "NoneType"),
            (packed(pickle.dumps({"a": "a" * (1 << 17)}, 2)), "a description of"),
            (b"PK\x03\x04", None),
            (b"", None),
        ):
            refuse(read_tensors, case, match)

    def test_entries_that_share_their_bytes_are_refused(self) -> None:
        """The bomb that needs no compression: many names for one long part of the file."""
        data = packed(described(*view()), {"archive/data/0": bytes(4 << 20)})
        start = data.index(b"PK\x01\x02")
        end = data.index(b"PK\x05\x06")
        last = data[data.rindex(b"PK\x01\x02") : end]
        copies = b"".join(last.replace(b"data/0", b"data/%d" % n) for n in range(1, 10))
        directory = data[start:end] + copies
        count = 4 + 9
        tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(directory), start, 0)
        refuse(read_tensors, data[:start] + directory + tail, "bytes in an archive of")

    def test_damaged_numbers_are_noticed(self) -> None:
        data = bytearray(archive({"latent": noise(40)}))
        place = data.index(noise(40).view(torch.int16).numpy().tobytes())
        data[place + 7] ^= 1
        refuse(read_tensors, bytes(data), "CRC")

    def test_legacy_files_that_are_refused(self) -> None:
        data = archive({"latent": noise(4), "more": noise(3)}, legacy=True)
        assert set(read_tensors(data)) == {"latent", "more"}
        row = struct.pack("<q", 4) + noise(4).view(torch.int16).numpy().tobytes()
        assert row in data
        for other in (3, 5, -1, HUGE):
            refuse(read_tensors, data.replace(row, struct.pack("<q", other) + row[8:]))
        refuse(read_tensors, data + b"\0", "bytes of storages")
        start = data.index(b"\x80\x02]")
        nest = [["0"] * 10]
        for _ in range(12):
            nest = [nest] * 10
        for keys in (["0"], [], ["0", "0"], {"0": 1}, None, [["0"]], nest):
            refuse(read_tensors, data[:start] + pickle.dumps(keys, 2))

    def test_a_tar_file_is_refused(self) -> None:
        """The oldest format: torch unpacks it to a folder first."""
        import tarfile

        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as file:
            for name in ("storages", "tensors", "pickle"):
                file.addfile(tarfile.TarInfo(name))
        refuse(read_tensors, buffer.getvalue())

    @pytest.mark.parametrize("legacy", [False, True])
    def test_every_cut_gives_the_typed_error(self, legacy: bool) -> None:
        data = archive({"latent": noise(4)}, legacy=legacy)
        for end in range(len(data)):
            with pytest.raises(CacheFormatError):
                read_tensors(data[:end])
        stream = pickle.dumps({"a": data, "b": [1, 2.5, "x"]}, 4)
        for end in range(len(stream)):
            with pytest.raises(CacheFormatError):
                read_plain(stream[:end])

    SMALL = [archive({"latent": noise(4), "b": noise(2, 2)}, legacy=legacy) for legacy in (0, 1)]
    CHANGES = st.lists(st.tuples(st.integers(0, 1 << 12), st.integers(0, 255)), max_size=8)

    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    @given(data=st.sampled_from(SMALL), changes=CHANGES)
    @settings(max_examples=400, deadline=None)
    def test_changed_files(self, data: bytes, changes) -> None:
        self.expect_tensors_or_error(data, changes, lambda changed: changed)

    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    @given(data=st.just(described(*view())), changes=CHANGES)
    @settings(max_examples=400, deadline=None)
    def test_changed_descriptions(self, data: bytes, changes) -> None:
        """In whole archives, so that torch sees them."""
        self.expect_tensors_or_error(data, changes, packed)

    def expect_tensors_or_error(self, data: bytes, changes, wrap) -> None:
        changed = bytearray(data)
        for place, value in changes:
            changed[place % len(data)] = value
        file = wrap(bytes(changed))
        with nothing_runs():
            try:
                read = read_tensors(file)
            except CacheFormatError:
                return
        for tensor in read.values():
            assert tensor.nbytes <= len(file)
            tensor.float().sum()
