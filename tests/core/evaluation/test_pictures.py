"""What the pictures of the tables show, against computations of their own."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor

from mirage_core.codecs.dct import CODEC_NAME, DctCodec
from mirage_core.evaluation.cost_plot import DPI, SIZE, cost_pictures, curves
from mirage_core.evaluation.depth_study import MOST, TINY, Compared, DepthStudy
from mirage_core.evaluation.holes import HOLE, Holes
from mirage_core.evaluation.rooms import Rooms
from mirage_core.evaluation.systems import PreviewSystem
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.readout.readout import read
from mirage_core.rollout.memory import begin_memory
from mirage_core.rollout.settings import MemorySettings
from mirage_core.training.data.build_clip import Shot

ROOMS = Rooms(1, 33, 96, 64)
WAYS = {
    "tokens, after chunk 1": {"read_ms": 2.0, "mebibytes": 0.5},
    "colours, after chunk 1": {"read_ms": 300.0, "mebibytes": 24.0},
    "tokens, after chunk 2": {"read_ms": 3.0, "mebibytes": None},
    "preview": {"read_ms": None, "mebibytes": 0.4},
}


def strips(picture: Tensor, width: int) -> list[Tensor]:
    """The frames of a strip, from left to right."""
    return list(picture.split(width, dim=1))


@pytest.mark.rooms
def test_holes_are_red_and_the_rest_is_what_the_memory_shows() -> None:
    item = ROOMS.items()[0]
    found, shot = Holes(ROOMS).run(item), next(ROOMS.load(item))
    rows = list(found.pictures)
    assert rows[:2] == ["truth", "bilinear (red: holes)"]
    assert len(rows) == 1 + 4 + 1
    from mirage_core.evaluation.holes import FILTERS

    cache = begin_memory(
        DctCodec().encode_images(shot.frames[:1]), shot.geometry.select([0]), CODEC_NAME,
        MemorySettings(write=FILTERS[""]), world_to_camera=shot.cameras.world_to_camera[:1],
    )  # fmt: skip
    visible = read(cache, shot.cameras).visible[1:]
    chosen = [0, 2, 4, 5, 7]
    for frame, number in zip(strips(found.pictures[rows[1]], 48), chosen, strict=True):
        red = (frame == torch.tensor(HOLE)).all(dim=-1)
        cells = (~visible[number]).repeat_interleave(8, 0).repeat_interleave(8, 1)
        assert torch.equal(red, cells)
    for frame, number in zip(strips(found.pictures["truth"], 48), chosen, strict=True):
        assert torch.equal(frame, shot.frames[4 * (number + 1), ::2, ::2])


class Doubled:
    """Depth that is twice too large, 5 % nearer on the left and unknown in the first row."""

    scaled = False

    def __init__(self, shot: Shot) -> None:
        self.shot = shot

    def __call__(self, frames: Tensor, cameras: object, numbers: list[int]) -> FrameGeometry:
        depth = 2 * self.shot.geometry.depth[numbers]
        depth[:, :, :32] *= 1 - MOST / 2
        depth[:, 0] = 0
        return FrameGeometry(depth, self.shot.cameras.intrinsics[numbers])


@pytest.mark.rooms
def test_depth_that_is_too_near_is_blue() -> None:
    shot = next(ROOMS.load(ROOMS.items()[0]))
    compared = Compared.of(shot, Doubled(shot))
    picture = compared.error_map()
    assert picture.shape == (9, 64, 96, 3)
    assert not picture[:, 0].any()
    assert torch.allclose(picture[:, 1:, 32:], torch.ones(()), atol=1e-4)
    near = picture.new_tensor([0.5, 0.5, 1.0])
    assert torch.allclose(picture[:, 1:, :32], near.expand(9, 63, 32, 3), atol=1e-4)
    assert compared.errors()["abs_rel"] == pytest.approx(MOST / 2 / 3, rel=1e-3)


@pytest.mark.rooms
def test_every_estimator_has_its_shot_and_its_errors() -> None:
    found = DepthStudy(ROOMS, PreviewSystem(), dict(TINY)).run(ROOMS.items()[0])
    rows = list(found.pictures)
    assert len(rows) == 2 + 2 * len(TINY)
    assert rows[0] == "truth"
    for name in TINY:
        assert any(row == f"made with {name}" for row in rows)
        assert any(row.startswith(f"error of {name} (red: 10% too far") for row in rows)
    right = found.pictures[next(row for row in rows if row.startswith("error of as given"))]
    assert bool((right == 1).all())
    assert {picture.shape for picture in found.pictures.values()} == {(32, 240, 3)}


def test_the_plot_has_the_values_of_the_table() -> None:
    assert curves(WAYS, "read_ms") == {"tokens": {1: 2.0, 2: 3.0}, "colours": {1: 300.0}}
    assert curves(WAYS, "mebibytes") == {"tokens": {1: 0.5}, "colours": {1: 24.0}}


def test_the_plot_is_a_picture() -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    (picture,) = cost_pictures(WAYS).values()
    assert picture.shape == (round(SIZE[1] * DPI), round(SIZE[0] * DPI), 3)
    assert 0 <= float(picture.min()) < 0.2 and float(picture.max()) == 1
    # A point more changes it.
    more = WAYS | {"colours, after chunk 2": {"read_ms": 500.0, "mebibytes": 48.0}}
    assert not torch.equal(*[next(iter(cost_pictures(ways).values())) for ways in (WAYS, more)])


def test_without_matplotlib_there_is_no_plot_and_a_line_says_so(monkeypatch, caplog) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with caplog.at_level("WARNING"):
        assert not cost_pictures(WAYS)
    assert 'pip install "mirage[evaluate]"' in caplog.text
