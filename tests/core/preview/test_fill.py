"""Completing holes: known values stay, nothing leaves their range, nothing breaks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mirage_core.errors import ShapeError
from mirage_core.preview.fill import (
    RELAXATION_STEPS,
    complete_depth,
    fill_holes,
    fill_readout,
    fill_tokens_and_depth,
    uncertain_pixels,
)
from mirage_core.readout.readout import read

sizes = st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 23), st.integers(1, 23))


def holes(make, shape: tuple[int, ...], share: float, seed: int) -> Tensor:
    known = make.uniform(*shape[1:], seed=seed) < share
    known[:, 0, 0] = True
    return known


@given(shape=sizes, share=st.sampled_from([0.0, 0.05, 0.5, 1.0]), seed=st.integers(0, 999))
def test_known_values_stay_and_bound_the_rest(make, shape, share: float, seed: int) -> None:
    values = make.noise(*shape, seed=seed)
    known = holes(make, shape, share, seed + 1)
    weight = 1e-3 + make.uniform(*shape[1:], seed=seed + 2)
    for pull in (None, weight):
        filled = fill_holes(values, known, pull)
        assert torch.equal(filled[:, known], values[:, known])
        for channel in range(shape[0]):
            for frame in range(shape[1]):
                seen = values[channel, frame][known[frame]]
                found = filled[channel, frame]
                assert float(found.min()) >= float(seen.min()) - 1e-5
                assert float(found.max()) <= float(seen.max()) + 1e-5


@given(
    near=st.floats(1e-3, 1e3),
    ratio=st.sampled_from([1.0, 2.0, 100.0, 1e4, 1e8]),
    seed=st.integers(0, 999),
)
def test_any_range_of_depth_keeps_the_bounds(make, near: float, ratio: float, seed: int) -> None:
    """Far cells pull harder with the cube of depth; that must not starve the near ones."""
    depth = near * ratio ** make.uniform(1, 13, 17, seed=seed)
    visible = holes(make, (1, 1, 13, 17), 0.2, seed)
    depth = depth.where(visible, 0.0)
    tokens, filled = fill_tokens_and_depth(torch.ones(2, 1, 13, 17), depth, visible)
    assert torch.allclose(tokens, torch.ones_like(tokens), atol=1e-5)
    assert float(filled.min()) >= float(depth[visible].min()) * 0.999
    assert float(filled.max()) <= float(depth[visible].max()) * 1.001
    assert torch.allclose(filled[visible], depth[visible], rtol=1e-4)


@given(unit=st.sampled_from([1e-6, 1e-3, 1.0, 1e3, 1e6]), seed=st.integers(0, 999))
def test_the_unit_does_not_matter(make, unit: float, seed: int) -> None:
    visible = holes(make, (1, 1, 9, 12), 0.3, seed)
    depth = (1 + 9 * make.uniform(1, 9, 12, seed=seed)).where(visible, 0.0)
    tokens = make.noise(4, 1, 9, 12, seed=seed)
    one, metres = fill_tokens_and_depth(tokens, depth, visible)
    other, scaled = fill_tokens_and_depth(tokens, depth * unit, visible)
    assert torch.allclose(one, other, atol=1e-4)
    assert torch.allclose(metres * unit, scaled, rtol=1e-4)


def test_one_known_cell_fills_a_large_frame() -> None:
    known = torch.zeros(1, 90, 160, dtype=torch.bool)
    known[0, 89, 0] = True
    filled = fill_holes(torch.full((2, 1, 90, 160), 3.0), known)
    assert torch.allclose(filled, torch.full_like(filled, 3.0), atol=1e-4)


def test_frames_do_not_mix(make) -> None:
    values = make.noise(3, 4, 7, 9)
    known = make.uniform(4, 7, 9) < 0.3
    together = fill_holes(values, known)
    for frame in range(4):
        only = slice(frame, frame + 1)
        alone = fill_holes(values[:, only], known[only])
        assert torch.allclose(alone[:, 0], together[:, frame], atol=1e-6)


def test_hidden_values_do_not_matter(make) -> None:
    values, known = make.noise(3, 2, 7, 9), make.uniform(2, 7, 9) < 0.3
    dirty = values.where(known, torch.nan)
    assert torch.equal(fill_holes(values, known), fill_holes(dirty, known))


def test_nothing_known_gives_zeros() -> None:
    nothing = torch.zeros(2, 5, 6, dtype=torch.bool)
    filled = fill_holes(torch.full((3, 2, 5, 6), torch.nan), nothing)
    assert torch.equal(filled, torch.zeros(3, 2, 5, 6))
    tokens, depth = fill_tokens_and_depth(torch.ones(3, 2, 5, 6), torch.ones(2, 5, 6), nothing)
    assert not tokens.any()
    assert not depth.any()


def test_holes_beside_an_edge_take_the_background() -> None:
    """Left of a hole stands something near, right of it the wall behind: the wall goes on."""
    depth = torch.full((1, 9, 12), 8.0)
    depth[:, :, :5] = 2.0
    visible = torch.ones(1, 9, 12, dtype=torch.bool)
    visible[:, 3:6, 5:7] = False
    tokens = torch.where(depth == 8, 1.0, 0.0)[None]
    filled, completed = fill_tokens_and_depth(tokens, depth.where(visible, 0.0), visible)
    assert float(filled[0][~visible].min()) > 0.8
    assert float(completed[~visible].min()) > 5


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ShapeError):
        fill_holes(torch.zeros(3, 2, 5, 6), torch.zeros(2, 5, 5, dtype=torch.bool))
    with pytest.raises(ShapeError):
        fill_holes(torch.zeros(2, 5, 6), torch.zeros(2, 5, 6, dtype=torch.bool))


def test_readouts_without_holes(make) -> None:
    readout = read(make.cache(100), make.trajectory(5, 128, 128))
    assert 0.1 < readout.hole_rate < 0.9
    tokens, depth = fill_readout(readout)
    assert bool(tokens.isfinite().all())
    assert bool((depth > 0).all())
    assert torch.equal(tokens[:, readout.visible], readout.tokens[:, readout.visible])


def test_readouts_that_show_nothing_stand_at_the_scenes_distance(make) -> None:
    cloud = torch.tensor([0.0, 0.0, -7.0]) + 0.01 * make.noise(50, 3)
    readout = read(make.cloud(cloud), make.trajectory(5))
    assert readout.hole_rate == 1
    tokens, depth = fill_readout(readout)
    assert not tokens.any()
    assert torch.allclose(depth, torch.tensor(7.0), atol=0.1)
    _, empty = fill_readout(read(make.cache(), make.trajectory(5)))
    assert bool((empty == 1).all())


def test_completing_finer_depth(make) -> None:
    depth = (1 + make.uniform(2, 32, 48)).where(make.uniform(2, 32, 48, seed=1) > 0.5, 0.0)
    done = complete_depth(depth, torch.full((2, 2, 3), 4.0))
    assert torch.equal(done, depth.where(depth > 0, 4.0))


def test_uncertain_cells() -> None:
    depth = torch.full((1, 32, 64), 2.0)
    depth[0, 3, 20] = 0
    depth[0, :16, 40] = 2.3
    depth[0, 20, 50] = 2.1
    uncertain = uncertain_pixels(depth, 16)
    expected = torch.tensor([[False, True, True, False], [False] * 4])
    assert torch.equal(uncertain[0, ::16, ::16], expected)
    assert torch.equal(uncertain[0], expected.repeat_interleave(16, 0).repeat_interleave(16, 1))


def test_what_is_remembered_is_not_written_from_its_own_drawing() -> None:
    depth = torch.full((1, 32, 64), 2.0)
    shown = torch.zeros(1, 2, 4, dtype=torch.bool)
    shown[0, 1, :3] = True
    uncertain = uncertain_pixels(depth, 16, shown)
    assert torch.equal(uncertain[:, ::16, ::16], shown)


def test_every_averaging_step_is_reported(make) -> None:
    calls: list[tuple[int, int]] = []
    values, known = make.uniform(2, 1, 6, 8), torch.zeros(1, 6, 8, dtype=torch.bool)
    known[0, 2, 3] = True
    filled = fill_holes(values, known, on_step=lambda *at: calls.append(at))
    assert calls == [(step, RELAXATION_STEPS) for step in range(1, RELAXATION_STEPS + 1)]
    assert torch.equal(filled, fill_holes(values, known))
