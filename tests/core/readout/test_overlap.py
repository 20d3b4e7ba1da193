"""Reference frames: what is in view, voxel overlap, the choice."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mirage_core.cache.types import LatentCache
from plain_overlap import points_in_view, select_references, voxel_keys, voxel_overlap

SIZE = (8, 12)


def test_points_in_view_by_a_loop(make) -> None:
    cache = make.cache(700, 600)
    poses, lens = make.poses(3, reach=2, seed=4), make.lens(*SIZE, 3)
    points = torch.cat([block.points for block in cache.blocks])
    inside = torch.zeros(len(points), dtype=torch.bool)
    for pose, k in zip(poses, lens, strict=True):
        seen = points.double() @ pose[:3, :3].T + pose[:3, 3]
        u, v, w = (seen @ k.T).unbind(1)
        inside |= (w > 0) & (u >= 0) & (u < SIZE[1] * w) & (v >= 0) & (v < SIZE[0] * w)
    assert 50 < int(inside.sum()) < 1250
    assert torch.equal(points_in_view(cache, poses, lens, SIZE), points[inside])


def test_hidden_points_count_and_points_behind_do_not(make) -> None:
    cloud = torch.tensor([[0.0, 0, 2], [0, 0, 5], [0, 0, -2], [0, 0, 0]])
    found = points_in_view(make.cloud(cloud), torch.eye(4)[None], make.lens(*SIZE), SIZE)
    assert found.tolist() == cloud[:2].tolist()


def test_an_empty_memory(make) -> None:
    found = points_in_view(LatentCache(), torch.eye(4)[None], make.lens(*SIZE), SIZE)
    assert found.shape == (0, 3)
    assert len(voxel_keys(found)) == 0
    assert voxel_overlap(voxel_keys(found), voxel_keys(found)) == 0


coordinate = st.floats(-50, 50, width=32)
clouds = st.lists(st.tuples(coordinate, coordinate, coordinate), max_size=30)


@given(one=clouds, other=clouds, voxel=st.sampled_from([0.1, 1.0, 7.5]))
def test_overlap_equals_sets_of_cells(one, other, voxel: float) -> None:
    a, b = (torch.tensor(c, dtype=torch.float32).view(-1, 3) for c in (one, other))
    cells = [{tuple(row) for row in torch.floor(c / voxel).long().tolist()} for c in (a, b)]
    union = cells[0] | cells[1]
    expected = len(cells[0] & cells[1]) / len(union) if union else 0.0
    keys = voxel_keys(a, voxel), voxel_keys(b, voxel)
    assert [len(k) for k in keys] == [len(c) for c in cells]
    assert voxel_overlap(*keys) == pytest.approx(expected)
    assert voxel_overlap(*keys) == voxel_overlap(*keys[::-1])


def test_far_and_broken_points_do_not_count() -> None:
    cloud = torch.tensor([[1e9, 0, 0], [torch.nan, 0, 0], [0, -torch.inf, 0], [0.05, 0.05, 0.05]])
    assert len(voxel_keys(cloud)) == 1


@given(
    scores=st.lists(st.sampled_from([0.0, 0.03, 0.04, 0.2, 0.5, 0.9]), max_size=12),
    limit=st.integers(0, 5),
    exclude=st.frozensets(st.integers(0, 12), max_size=3),
)
def test_the_choice(scores, limit: int, exclude) -> None:
    chosen = select_references(scores, limit=limit, threshold=0.04, exclude=exclude)
    fit = [i for i, score in enumerate(scores) if score >= 0.04 and i not in exclude]
    assert len(chosen) == min(limit, len(fit)) == len(set(chosen))
    assert set(chosen) <= set(fit)
    order = [(-scores[i], i) for i in chosen]
    assert order == sorted(order)
    left = [i for i in fit if i not in chosen]
    if chosen and left:
        assert (-scores[chosen[-1]], chosen[-1]) < min((-scores[i], i) for i in left)
