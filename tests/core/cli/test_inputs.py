"""Depth of a shot as its files have it, on the command line."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import OpenEXR
import pytest
from PIL import Image

from mirage_core.cli.inputs import BLACKS, ENCODINGS, read_geometry
from mirage_core.errors import CacheFormatError
from mirage_core.geometry.depth_picture import BLACKS as ALL_BLACKS
from mirage_core.geometry.depth_picture import ENCODINGS as ALL_ENCODINGS

METRES = np.linspace(1, 4, 8 * 12, dtype=np.float32).reshape(8, 12)


def given(**changes: object) -> Namespace:
    defaults = {
        "geometry": None, "depth": None, "depth_encoding": "auto", "depth_black": "auto",
        "depth_channel": "", "near": 1.0, "far": 20.0, "fov": 60.0,
    }  # fmt: skip
    return Namespace(**{**defaults, **changes})


def test_every_word_of_the_library_has_one_here() -> None:
    assert sorted(ENCODINGS.values()) == sorted(ALL_ENCODINGS)
    assert sorted(BLACKS.values()) == sorted(ALL_BLACKS)


@pytest.mark.parametrize("option", ["geometry", "depth"])
@pytest.mark.parametrize("name", ["z.exr", "z.npz", "z.tif"])
def test_files_of_distances_need_no_range(tmp_path: Path, option: str, name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".exr":
        with OpenEXR.File({}, {"a.Z": METRES, "b.Z": METRES * 2}) as file:
            file.write(str(path))
        with pytest.raises(CacheFormatError, match=r"a\.Z, b\.Z.*--depth-channel"):
            read_geometry(given(**{option: path}))
    elif path.suffix == ".npz":
        np.savez(path, **{"a.Z": METRES})
    else:
        Image.fromarray(METRES).save(path)
    found = read_geometry(given(**{option: path, "depth_channel": "a.Z"}))
    assert np.array_equal(found.depth[0].numpy(), METRES)


def test_numbered_files_are_the_full_shot(tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(METRES + number).save(tmp_path / f"d{number:02}.tif")
    found = read_geometry(given(geometry=tmp_path / "d##.tif"))
    assert found.depth[:, 0, 0].tolist() == [1, 2, 3]
