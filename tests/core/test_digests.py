"""Digests as docs/conventions.md defines them, and what they tell."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mirage_core.digests import (
    DIGEST,
    PREFIX,
    SMALL,
    file_digest,
    is_whole,
    sampled_digest,
    sealed,
    tensors_digest,
)

TENSORS = {
    "b": torch.arange(6, dtype=torch.float32).view(2, 3),
    "a": torch.tensor([True, False]),
    "none": torch.zeros(0, 4, dtype=torch.int64),
    "one": torch.tensor(1.5, dtype=torch.bfloat16),
}


def test_a_digest_of_tensors_is_what_the_page_says() -> None:
    b = np.arange(6, dtype="<f4").tobytes()
    expected = hashlib.sha256(
        b"a\0torch.bool\0(2,)\0\x01\x00"
        + b"b\0torch.float32\0(2, 3)\0" + b
        + b"none\0torch.int64\0(0, 4)\0"
        + b"one\0torch.bfloat16\0()\0\xc0\x3f"
    ).hexdigest()  # fmt: skip
    assert tensors_digest(TENSORS) == f"sha256:{expected}"


def test_a_digest_of_a_document_is_what_the_page_says() -> None:
    document = {"z": 1, "a": [0.5, None, "ä"]}
    text = '{"a": [0.5, null, "\\u00e4"], "z": 1}'
    expected = hashlib.sha256(f"{text}\0sha256:00".encode()).hexdigest()
    assert sealed(document, "sha256:00") == document | {DIGEST: f"sha256:{expected}"}


def test_memory_layout_does_not_matter() -> None:
    turned = {"b": torch.arange(6.0).view(3, 2).T, "part": torch.arange(10)[2:8:2]}
    plain = {name: tensor.clone(memory_format=torch.contiguous_format)
             for name, tensor in turned.items()}  # fmt: skip
    assert tensors_digest(turned) == tensors_digest(plain)


@pytest.mark.parametrize(
    "other",
    [
        {}, {"a": torch.zeros(4)}, {"b": torch.zeros(2, 2)}, {"a": torch.zeros(2, 2).int()},
        {"a": torch.zeros(2, 2) - 0.0 * torch.ones(2, 2)} | {"b": torch.zeros(0)},
        {"a": -torch.zeros(2, 2)},
    ],
    ids=str,
)  # fmt: skip
def test_other_tensors_have_another_digest(other: dict[str, torch.Tensor]) -> None:
    assert tensors_digest(other) != tensors_digest({"a": torch.zeros(2, 2)})


def test_files_larger_than_a_piece(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert file_digest(tmp_path / "a") == PREFIX + hashlib.sha256(content).hexdigest()


def test_what_counts_as_whole() -> None:
    document = {"step": 3, "lengths": {"a": 1}}
    whole = json.loads(json.dumps(sealed(document, "content")))
    assert is_whole(whole, "content")
    assert is_whole(dict(reversed(whole.items())), "content")
    assert is_whole(document), "files of earlier versions have no digest"
    assert not is_whole(whole, "other content")
    assert not is_whole(whole | {"step": 4}, "content")
    assert not is_whole(whole | {"more": 1}, "content")
    assert not is_whole(whole | {DIGEST: None}, "content")
    lost = dict(whole)
    lost["dig3st"] = lost.pop(DIGEST)
    assert not is_whole(lost, "content")


@pytest.mark.parametrize("size", [0, 1000, SMALL, SMALL + 1, 3 * SMALL])
def test_a_sampled_file_is_told_from_others(tmp_path: Path, size: int) -> None:
    """By its size, its ends and all that is spread over it; and it is the same when copied."""
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(content)
    other.write_bytes(content)
    assert sampled_digest(one) == sampled_digest(other)
    for changed in (content + b"1", content[:-1] + b"x", b"x" + content[1:], content[::-1]):
        other.write_bytes(changed)
        assert (sampled_digest(other) == sampled_digest(one)) is (changed == content)
