"""Files of weights: equal content gives equal bytes, and odd shapes are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mirage_core.errors import ModelMismatchError
from mirage_core.tensor_files import MAX_AXES, read_header, read_tensors, write_tensors

TENSORS = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(2, dtype=torch.float16)}
NOTES = {
    name: f'{name}: \u00e9 \u4e16 \U0001f30d " \\ \n\t\x01\x7f' for name in "qwertzuiop\u00e9\x1f"
}


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    """Entries of the header have no order of their own."""
    written = set()
    for number in range(12):
        notes = dict(sorted(NOTES.items(), key=lambda item: hash((number, item[0]))))
        path = write_tensors(tmp_path / f"{number}.safetensors", TENSORS, notes)
        written.add(path.read_bytes())
    assert len(written) == 1


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write_tensors(tmp_path / "a.safetensors", TENSORS, NOTES)
    assert read_header(path).metadata == {"format": "pt", **NOTES}
    found = read_tensors(path)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


def test_tensors_without_entries(tmp_path: Path) -> None:
    path = write_tensors(tmp_path / "a.safetensors", TENSORS)
    assert read_header(path).metadata == {"format": "pt"}


def test_more_axes_than_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.ones([1] * MAX_AXES), "y": torch.ones([1] * (MAX_AXES + 1))}, str(path))
    assert read_tensors(path, ["x"])["x"].ndim == MAX_AXES
    with pytest.raises(ModelMismatchError, match=f"y has {MAX_AXES + 1} axes"):
        read_tensors(path)


@pytest.mark.parametrize("name", ["\ud800", "a\0b", "y" * 5000])
def test_names_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    for read in (read_header, read_tensors):
        with pytest.raises(ModelMismatchError) as caught:
            read(tmp_path / f"{name}.safetensors")
        assert str(caught.value).encode()
