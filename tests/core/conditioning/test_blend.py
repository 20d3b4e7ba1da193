"""Weights of visible cells near holes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_core.conditioning.blend import edge_weights
from mirage_core.errors import ShapeError, ValueRangeError


def brute_force(visible: torch.Tensor, softness: float) -> torch.Tensor:
    weights = torch.zeros(visible.shape)
    for t, y, x in visible.nonzero().tolist():
        holes = (~visible[t]).nonzero().tolist()
        nearest = min((math.hypot(y - v, x - u) for v, u in holes), default=math.inf)
        weights[t, y, x] = min(1.0, nearest / (1 + softness))
    return weights


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(1, 6)),
    share=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    softness=st.floats(0, 6),
)
def test_against_brute_force(
    seed: int, size: tuple[int, int, int], share: float, softness: float
) -> None:
    rng = torch.Generator().manual_seed(seed)
    visible = torch.rand(size, generator=rng) < share
    found = edge_weights(visible, softness)
    assert found.shape == visible.shape and found.dtype == torch.float32
    assert torch.allclose(found, brute_force(visible, softness), atol=1e-6)


def test_no_softness_is_the_mask_itself() -> None:
    visible = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(1)) < 0.5
    assert torch.equal(edge_weights(visible, 0.0), visible.float())


def test_the_border_of_the_picture_is_no_edge() -> None:
    assert bool((edge_weights(torch.ones(1, 4, 4).bool(), 3.0) == 1).all())


def test_bad_input() -> None:
    with pytest.raises(ShapeError, match="visibility"):
        edge_weights(torch.ones(4, 4).bool(), 1.0)
    for softness in (-1.0, math.nan, 1e9):
        with pytest.raises(ValueRangeError, match="softness"):
            edge_weights(torch.ones(1, 4, 4).bool(), softness)
