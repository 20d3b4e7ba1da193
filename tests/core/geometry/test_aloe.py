"""Real photographs: what the memory of the left one shows at the right camera."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from mirage_core.codecs.dct import DctCodec
from mirage_core.metrics import psnr

MIN_GAIN_DB = 8.0
"""Measured: 25.1 dB against 14.9 dB of the unmoved left photograph."""

MAX_LOSS_DB = 6.5
"""Measured: 30.5 dB for the codec's own reconstruction of the right photograph."""


@pytest.fixture(scope="module")
def aloe() -> Iterator[ModuleType]:
    """The program that prints these figures."""
    path = Path(__file__).resolve().parents[3] / "benchmarks" / "aloe.py"
    spec = importlib.util.spec_from_file_location("aloe_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def folder(aloe) -> Path:
    """Where the pair lies; tests are skipped where it is not at hand."""
    found = aloe.find_pair()
    if found is None:
        pytest.skip("needs the stereo pair Aloe: set MIRAGE_ALOE to the folder with left.jpg")
    return found


def test_the_codec_keeps_the_photograph(folder: Path) -> None:
    photo = ImageOps.fit(Image.open(folder / "left.jpg").convert("RGB"), (1280, 704))
    frame = torch.from_numpy(np.asarray(photo, dtype=np.float32) / 255)[None]
    codec = DctCodec()
    tokens = codec.encode(frame)
    assert psnr(codec.decode(tokens), frame) > 30
    static = codec.static_tokens(tokens).repeat(1, 2, 1, 1)
    assert psnr(codec.decode(static)[1:2], frame) > 29


def test_the_right_view_from_the_left_photograph(
    aloe, folder: Path, record_property, capsys
) -> None:
    pair = aloe.load_pair(folder)
    found = aloe.compare(pair, DctCodec())
    share = float(found.visible.float().mean())
    figures = {
        "memory": found.shown, "unmoved": found.unmoved, "codec": found.codec, "visible": share,
    }  # fmt: skip
    for name, value in figures.items():
        record_property(f"aloe_{name}", round(value, 3))
    with capsys.disabled():
        sys.stdout.write(
            f"\nAloe, right view on the {share:.0%} of pixels that the memory shows: memory "
            f"{found.shown:.2f} dB, unmoved left photograph {found.unmoved:.2f} dB, codec of the "
            f"right photograph {found.codec:.2f} dB\n"
        )
    assert 0.75 < share < 0.95
    assert found.shown - found.unmoved > MIN_GAIN_DB
    assert found.codec - found.shown < MAX_LOSS_DB


def test_measured_points_land_where_the_disparity_says(aloe, folder: Path) -> None:
    """Lifting by the formula and projecting into the right camera moves pixels by d."""
    pair = aloe.load_pair(folder)
    depth = pair.depth[0, 100:900:50, 100:1200:50].double()
    column = torch.arange(100, 1200, 50) + 0.5
    left, right = pair.intrinsics
    x = (column - left[0, 2]) / left[0, 0] * depth - aloe.BASELINE
    seen = right[0, 0] * x / depth + right[0, 2]
    disparity = (column - seen)[depth > 0]
    assert len(disparity) > 200
    assert float((disparity - disparity.round()).abs().max()) < 1e-3
    assert 1 <= float(disparity.min())
    assert float(disparity.max()) <= 255
