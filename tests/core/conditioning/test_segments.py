"""Token order, rotary positions and timesteps of clean and noisy frames."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mirage_core.conditioning.segments import Segments
from mirage_core.errors import ShapeError

segments = st.builds(
    Segments,
    target=st.integers(1, 9),
    references=st.integers(0, 8),
    preceding=st.integers(0, 3),
)


def expected_position(seg: Segments, frame: int, row: int, column: int, height: int) -> tuple:
    """What the released code gives to one token: three cases, written out."""
    if frame < seg.references:
        return (frame - seg.references, height + row, column)
    return (frame - seg.references, row, column)


@given(segments, st.integers(1, 4), st.integers(1, 5))
def test_positions_of_every_token(seg: Segments, height: int, width: int) -> None:
    found = seg.positions(height, width)
    assert found.dtype == torch.int64
    expected = [
        expected_position(seg, frame, row, column, height)
        for frame in range(seg.total)
        for row in range(height)
        for column in range(width)
    ]
    assert found.tolist() == [list(position) for position in expected]


@given(segments, st.integers(1, 4), st.integers(1, 5))
def test_no_two_tokens_share_a_position(seg: Segments, height: int, width: int) -> None:
    found = seg.positions(height, width)
    assert len(found.unique(dim=0)) == seg.total * height * width


@given(segments)
def test_target_positions_do_not_depend_on_the_other_frames(seg: Segments) -> None:
    alone = Segments(seg.target).positions(2, 3).reshape(seg.target, 6, 3)
    among = seg.positions(2, 3).reshape(seg.total, 6, 3)[seg.target_frames]
    assert torch.equal(among, alone)


@given(segments)
def test_frames_are_counted(seg: Segments) -> None:
    assert seg.total == seg.references + seg.main
    assert seg.main == seg.target + seg.preceding
    assert len(range(seg.total)[seg.target_frames]) == seg.target


@given(segments, st.lists(st.floats(1, 1000, width=32), min_size=1, max_size=3))
def test_clean_frames_have_time_zero(seg: Segments, times: list[float]) -> None:
    noisy = torch.tensor(times)
    found = seg.timesteps(noisy)
    assert found.shape == (len(times), seg.total)
    moving = torch.zeros(seg.total, dtype=torch.bool)
    moving[seg.target_frames] = True
    moving[seg.references] = False
    assert torch.equal(found[:, moving], noisy[:, None].expand(-1, seg.target - 1))
    assert (found[:, ~moving] == 0).all()
    assert noisy.tolist() == pytest.approx(times), "the caller's numbers were changed"


@given(segments, st.integers(1, 9), st.floats(1, 1000, width=32))
def test_all_clean_target_frames_have_time_zero(seg: Segments, clean: int, time: float) -> None:
    seg = dataclasses.replace(seg, clean=min(clean, seg.target))
    (found,) = seg.timesteps(torch.tensor([time]))
    expected = [0.0] * seg.clean + [time] * (seg.target - seg.clean)
    assert found[seg.target_frames].tolist() == expected
    assert int(found.count_nonzero()) == seg.target - seg.clean
    assert torch.equal(seg.positions(2, 3), dataclasses.replace(seg, clean=1).positions(2, 3))


@pytest.mark.parametrize("clean", [-1, 0, 4])
def test_clean_frames_that_cannot_be_counted(clean: int) -> None:
    with pytest.raises(ShapeError, match="clean frames"):
        Segments(3, clean=clean)


def test_every_target_frame_may_have_its_own_time() -> None:
    seg = Segments(3, references=1, preceding=2)
    given_times = torch.tensor([[5.0, 700.0, 30.0]])
    assert seg.timesteps(given_times).tolist() == [[0.0, 5.0, 700.0, 30.0, 0.0, 0.0]]


@pytest.mark.parametrize("shape", [(), (2, 4), (2, 3, 1)])
def test_timesteps_of_other_frames_are_refused(shape: tuple) -> None:
    with pytest.raises(ShapeError, match="timesteps"):
        Segments(3, references=1).timesteps(torch.zeros(shape))


@pytest.mark.parametrize(
    "counts", [{"target": 0}, {"target": 2, "references": -1}, {"target": 2, "preceding": -1}]
)
def test_frames_that_cannot_be_counted(counts: dict) -> None:
    with pytest.raises(ShapeError, match="at least one target frame"):
        Segments(**counts)
