"""Files of torch.save: tensors come back to the bit, everything else is refused."""

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
from mirage_core.training.data.released.plain_pickle import read_plain
from mirage_core.training.data.released.torch_archive import MAX_ENTRIES, read_tensors
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


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_tensors_come_back_to_the_bit(legacy: bool, protocol: int, dtype) -> None:
    whole = noise(5, 4, 6, dtype=dtype)
    content = OrderedDict(
        latent=whole,
        part=whole[1:4, ::2].transpose(0, 2),
        other=noise(7, seed=1, dtype=dtype).requires_grad_(),
        none=torch.zeros(0, 3, dtype=dtype),
        single=torch.tensor(1.5, dtype=dtype),
    )
    read = read_tensors(archive({**content, "note": ["plain"]}, legacy=legacy, protocol=protocol))
    assert list(read) == list(content)
    for name, tensor in content.items():
        assert read[name].dtype == dtype
        assert torch.equal(read[name], tensor), name
    assert torch.equal(read_tensors(archive(content))["part"], content["part"])


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("number", range(6))
def test_calls_in_tensor_files_are_refused(legacy: bool, number: int, sentinel: Path) -> None:
    act = hostile(sentinel)[number]
    for content in (act, {"latent": act}, {"latent": noise(2), "more": act}):
        refuse(read_tensors, archive(content, legacy=legacy))
    inside = files(tensors()) | {"train_target_rgb.pt": archive({"latent": act}, legacy=legacy)}
    refuse(lambda data: convert_sample(data, "key"), pickle.dumps(inside))


class Storage:
    """Pickled as a persistent id."""

    def __init__(self, key="0", count=8, kind=torch.HalfStorage, *, parts=None) -> None:
        self.parts = ("storage", kind, key, "cpu", count) if parts is None else parts


class Description(pickle.Pickler):
    """Writes what describes tensors."""

    def persistent_id(self, obj):
        return obj.parts if isinstance(obj, Storage) else None


def described(*tensor, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    act = Act(torch._utils._rebuild_tensor_v2, *tensor)
    Description(buffer, protocol).dump({"latent": act})
    return buffer.getvalue()


def packed(description: bytes, entries=None, **options) -> bytes:
    buffer = io.BytesIO()
    entries = {"archive/data/0": bytes(16)} if entries is None else entries
    with zipfile.ZipFile(buffer, "w", **options) as file:
        file.writestr("archive/data.pkl", description)
        for name, content in entries.items():
            file.writestr(name, content)
    return buffer.getvalue()


def view(storage=None, offset=0, size=(2, 4), stride=(4, 1), gradient=False, hooks=None, *more):
    storage = Storage() if storage is None else storage
    hooks = OrderedDict() if hooks is None else hooks
    return (storage, offset, size, stride, gradient, hooks, *more)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_tensor_written_by_hand_is_read(protocol: int) -> None:
    numbers = torch.arange(8).half()
    data = packed(
        described(*view(), protocol=protocol), {"archive/data/0": numbers.numpy().tobytes()}
    )
    assert torch.equal(read_tensors(data)["latent"], numbers.view(2, 4))


HUGE = 1 << 62


@pytest.mark.parametrize(
    "tensor",
    [
        view(offset=1), view(offset=-1), view(offset=HUGE), view(offset=1.0), view(offset=True),
        view(size=(3, 4)), view(size=(2, -4)), view(size=(HUGE, HUGE)), view(size=(2,)),
        view(size=[2, 4]), view(size="24"), view(size=(2.0, 4)), view(size=(0, HUGE)),
        view(size=(2,) * 9, stride=(0,) * 9), view(size=(1 << 5000, 1)), view(size=((2,), 4)),
        view(stride=(4, 2)), view(stride=(-4, 1)), view(stride=(HUGE, 1)), view(stride=(4,)),
        view(stride=(0, 0), size=(1 << 20, 1 << 20)), view(stride=(0, 0), size=(3, 3)),
        view(gradient=1), view(hooks={"a": 1}), view(hooks=[]), view(None, 0, (2, 4), (4, 1), False,
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
        view(Storage(parts=("storage", torch.HalfStorage, "0", "cpu", 8, None))),
        view(Storage(parts=())), view(Storage(parts="0")), view(Storage(parts=[])),
        view(Storage(parts=("storage", torch.HalfStorage, "0", None, 8))),
    ],
    ids=lambda tensor: str(tensor[1:4])[:40],
)  # fmt: skip
def test_tensors_that_are_refused(tensor: tuple) -> None:
    refuse(read_tensors, packed(described(*tensor)))
    refuse(read_tensors, packed(described(*tensor, protocol=4)))


def test_other_rebuilding_is_refused() -> None:
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


def test_archives_that_are_refused() -> None:
    good = described(*view())
    entry = {"archive/data/0": bytes(16)}
    bomb = {"archive/data/0": bytes(50 << 20)}
    large = described(*view(Storage(count=25 << 20), size=(25 << 20, 1)))
    cases = [
        packed(large, bomb, compression=zipfile.ZIP_DEFLATED),
        packed(large, bomb, compression=zipfile.ZIP_LZMA),
        packed(good, compression=zipfile.ZIP_DEFLATED),
        packed(good, {}),
        packed(good, {"archive/data/0": bytes(14)}),
        packed(good, {"archive/data/0": bytes(18)}),
        packed(good, {**entry, "archive/byteorder": b"big"}),
        packed(good, {**entry, "other/data.pkl": good}),
        packed(good, {**entry, **{f"archive/data/{n}": b"" for n in range(1, MAX_ENTRIES)}}),
        packed(good + b"\0"),
        packed(good[:-1]),
        packed(b""),
        packed(b"\x80\x02N."),
        b"PK\x03\x04",
        b"",
    ]
    for case in cases:
        refuse(read_tensors, case)


def test_entries_that_share_their_bytes_are_refused() -> None:
    """The bomb that needs no compression: many names for one long part of the file."""
    data = packed(described(*view()), {"archive/data/0": bytes(4 << 20)})
    start = data.index(b"PK\x01\x02")
    first = data.index(b"PK\x01\x02", start + 1)
    end = data.index(b"PK\x05\x06")
    last = data[first:end]
    copies = b"".join(last.replace(b"data/0", b"data/%d" % n) for n in range(1, 10))
    directory = data[start:end] + copies
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 11, 11, len(directory), start, 0)
    refuse(read_tensors, data[:start] + directory + tail, "bytes in an archive of")


def test_damaged_numbers_are_noticed() -> None:
    data = bytearray(archive({"latent": noise(40)}))
    place = data.index(noise(40).view(torch.int16).numpy().tobytes())
    data[place + 7] ^= 1
    refuse(read_tensors, bytes(data), "CRC")


def test_legacy_files_that_are_refused() -> None:
    data = archive({"latent": noise(4), "more": noise(3)}, legacy=True)
    assert set(read_tensors(data)) == {"latent", "more"}
    row = struct.pack("<q", 4) + noise(4).view(torch.int16).numpy().tobytes()
    assert row in data
    for other in (3, 5, -1, HUGE):
        refuse(read_tensors, data.replace(row, struct.pack("<q", other) + row[8:]))
    refuse(read_tensors, data.replace(b"little_endian\x94\x88", b"little_endian\x94\x89")
           .replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89"))  # fmt: skip
    start = data.index(b"\x80\x02]")
    nest = [["0"] * 10]
    for _ in range(12):
        nest = [nest] * 10
    for keys in (["0"], [], ["0", "0"], {"0": 1}, None, [["0"]], nest):
        refuse(read_tensors, data[:start] + pickle.dumps(keys, 2))


@pytest.mark.parametrize("legacy", [False, True])
def test_every_cut_gives_the_typed_error(legacy: bool) -> None:
    data = archive({"latent": noise(4)}, legacy=legacy)
    for end in range(len(data)):
        with pytest.raises(CacheFormatError):
            read_tensors(data[:end])
    stream = pickle.dumps({"a": data, "b": [1, 2.5, "x"]}, 4)
    for end in range(len(stream)):
        with pytest.raises(CacheFormatError):
            read_plain(stream[:end])


SMALL = [archive({"latent": noise(4), "b": noise(2, 2)}, legacy=legacy) for legacy in (0, 1)]


@given(
    data=st.sampled_from(SMALL),
    changes=st.lists(st.tuples(st.integers(0, 1 << 12), st.integers(0, 255)), max_size=8),
)
@settings(max_examples=400, deadline=None)
def test_changed_files_give_tensors_or_the_typed_error(data: bytes, changes) -> None:
    changed = bytearray(data)
    for place, value in changes:
        changed[place % len(data)] = value
    with nothing_runs():
        try:
            read = read_tensors(bytes(changed))
        except CacheFormatError:
            return
    for tensor in read.values():
        assert tensor.numel() <= len(data)
        tensor.float().sum()
