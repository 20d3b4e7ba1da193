"""Measures, reports and contact sheets of finished shots."""

from __future__ import annotations

import math

import pytest
import torch
from mirage_core.errors import ShapeError
from mirage_core.evaluation.metrics import MAX_PSNR, psnr, returns_to_start


def test_psnr_by_the_formula(make) -> None:
    one, other = make.uniform(4, 5, 3), make.uniform(4, 5, 3, seed=1)
    mean = sum(float(d) ** 2 for d in (one - other).flatten()) / 60
    assert psnr(one, other) == pytest.approx(-10 * math.log10(mean), abs=1e-4)
    assert psnr(one, one + 0.1) == pytest.approx(20, abs=1e-4)


def test_psnr_of_equal_pictures() -> None:
    assert psnr(torch.ones(2, 2, 3), torch.ones(2, 2, 3)) == MAX_PSNR


def test_psnr_counts_masked_pixels_only(make) -> None:
    one = make.uniform(4, 5, 3)
    other = one + 0.1
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[1, 2:4] = True
    other[mask] = one[mask] + 0.01
    assert psnr(one, other, mask) == pytest.approx(40, abs=1e-3)
    assert psnr(one, other, ~mask) == pytest.approx(20, abs=1e-3)


def test_psnr_refuses_what_cannot_be_compared() -> None:
    with pytest.raises(ShapeError, match="different sizes"):
        psnr(torch.ones(2, 2, 3), torch.ones(2, 3, 3))
    with pytest.raises(ShapeError, match="no pixel"):
        psnr(torch.ones(2, 2, 3), torch.ones(2, 2, 3), torch.zeros(2, 2, dtype=torch.bool))


def test_moves_that_come_back(make) -> None:
    poses = make.poses(5)
    assert not returns_to_start(poses)
    assert not returns_to_start(poses[:1])
    poses[-1] = poses[0]
    assert returns_to_start(poses)
    poses[-1, 0, 3] += 1e-3
    assert not returns_to_start(poses)
