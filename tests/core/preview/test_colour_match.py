"""Colours of a chunk brought to those of the memory."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mirage_core.errors import ShapeError, ValueRangeError
from mirage_core.preview.colour_match import MAX_GAIN, ColourShift, colour_shift, match_colours

SIZE = (5, 12, 16)


def drawings(make) -> torch.Tensor:
    return 0.3 + 0.3 * make.uniform(*SIZE, 3)


def holes(make, share: float = 0.4) -> torch.Tensor:
    return (make.uniform(*SIZE, seed=7) < share).float()


@given(
    gain=st.tuples(*[st.floats(0.7, 1.4)] * 3), offset=st.tuples(*[st.floats(-0.05, 0.05)] * 3)
)
def test_what_drifted_comes_back(make, gain, offset) -> None:
    truth = drawings(make)
    drifted = (truth - truth.new_tensor(offset)) / truth.new_tensor(gain)
    shift = colour_shift(drifted, truth, holes(make))
    assert shift.gain == pytest.approx(gain, abs=1e-4)
    assert shift.offset == pytest.approx(offset, abs=1e-4)
    assert torch.allclose(shift.apply(drifted), truth, atol=1e-4)


def test_holes_have_no_say(make) -> None:
    truth, unknown = drawings(make), holes(make)
    made = torch.where(unknown[..., None] > 0, 0.99, truth)
    matched, shift = match_colours(made, truth, unknown)
    assert shift.gain == pytest.approx((1, 1, 1)) and shift.offset == pytest.approx((0, 0, 0))
    assert torch.allclose(matched, made, atol=1e-6)
    assert shift.known == pytest.approx(float((unknown == 0).float().mean()))


def test_all_frames_move_alike(make) -> None:
    """A shift of each frame alone would flicker with what is known of it."""
    truth = drawings(make)
    made = truth.clone()
    made[2] += 0.2
    matched, _ = match_colours(made, truth, holes(make))
    change = matched - made
    place = (made > 0.1) & (made < 0.8)
    # One line for each channel: the changes of one channel lie on it in every frame.
    for channel in range(3):
        chosen = place[..., channel]
        fit = torch.stack([made[..., channel][chosen], torch.ones(int(chosen.sum()))], dim=1)
        target = change[..., channel][chosen][:, None]
        line = torch.linalg.lstsq(fit, target).solution
        assert float((fit @ line - target).abs().max()) < 1e-5


def test_a_share_of_the_shift(make) -> None:
    truth = drawings(make)
    made = truth + 0.1
    half, _ = match_colours(made, truth, holes(make), 0.5)
    assert torch.allclose(half, truth + 0.05, atol=1e-4)
    kept, _ = match_colours(made, truth, holes(make), 0.0)
    assert torch.equal(kept, made)


def test_what_is_no_drift_is_bounded(make) -> None:
    truth = drawings(make)
    shift = colour_shift(0.5 + 0.1 * (truth - 0.5), truth, holes(make))
    assert shift.gain == pytest.approx((MAX_GAIN,) * 3)
    flat = colour_shift(torch.full_like(truth, 0.2), truth, holes(make))
    assert flat.gain == (1, 1, 1)
    mean = truth[holes(make) == 0].mean(0) - 0.2
    assert flat.offset == pytest.approx(mean.tolist(), abs=1e-5)


def test_with_nothing_known_nothing_moves(make) -> None:
    truth = drawings(make)
    shift = colour_shift(truth + 0.1, truth, torch.ones(SIZE))
    assert shift == ColourShift()
    assert "too little" in shift.describe()
    share = float((holes(make) == 0).float().mean())
    told = colour_shift(truth - 0.1, truth, holes(make)).describe()
    assert "+10.0, +10.0, +10.0" in told and f"{share:.0%}" in told


def test_bad_input(make) -> None:
    truth = drawings(make)
    with pytest.raises(ShapeError, match="masks"):
        match_colours(truth, truth, holes(make)[:3])
    with pytest.raises(ShapeError, match="drawings"):
        match_colours(truth, truth[:, :4], holes(make))
    with pytest.raises(ValueRangeError, match="strength"):
        match_colours(truth, truth, holes(make), 1.5)
