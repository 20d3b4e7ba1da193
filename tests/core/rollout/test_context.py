"""What the model sees of the past: reference frames, preceding frames, and their projections."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mirage_core.errors import ResumeError, ShapeError, ValueRangeError
from mirage_core.geometry.camera import projection_matrices
from mirage_core.readout.overlap import Views, VoxelMap, best_overlaps
from mirage_core.readout.readout import grid_intrinsics, read
from mirage_core.rollout import history
from mirage_core.rollout.context import chunk_condition, reference_frames
from mirage_core.rollout.history import History
from mirage_core.rollout.run_folder import all_latents, load_record, open_folder
from mirage_core.rollout.state import RolloutState
from plain_overlap import points_in_view, select_references, voxel_keys, voxel_overlap

SIZE = (8, 12)


@pytest.fixture(scope="module")
def later(shot, tmp_path_factory) -> RolloutState:
    """The small shot before its third chunk: 17 latent frames of history."""
    return shot.advance(open_folder(shot.begin(tmp_path_factory.mktemp("later") / "shot")), 2)


def history_scores(state: RolloutState) -> list[float]:
    """Overlap of every earlier latent frame, point by point and frame by frame."""
    ahead = state.latent_cameras
    lens = grid_intrinsics(ahead, state.grid)
    wanted = voxel_keys(points_in_view(state.cache, ahead.world_to_camera, lens, state.grid))
    scores = []
    for number in range(17):
        camera = state.trajectory.select([4 * number])
        # Chunk 0 ends with frame 32, chunk 1 with frame 64.
        until = 32 if number < 9 else 64
        blocks = tuple(
            block.take(block.frames[block.source.long()] <= until) for block in state.cache.blocks
        )
        known = dataclasses.replace(state.cache, blocks=blocks)
        lens = grid_intrinsics(camera, state.grid)
        seen = points_in_view(known, camera.world_to_camera, lens, state.grid)
        scores.append(voxel_overlap(wanted, voxel_keys(seen)))
    return scores


def test_references_are_the_best_of_the_whole_history(later: RolloutState) -> None:
    scores = history_scores(later)
    assert len({round(score, 9) for score in scores}) > 5
    assert reference_frames(later) == select_references(scores)
    out = frozenset({14, 15, 16})
    assert reference_frames(later, exclude={14, 15}) == select_references(scores, exclude=out)
    assert reference_frames(later, limit=2) == select_references(scores, limit=2)
    assert reference_frames(later, threshold=0.99) == select_references(scores, threshold=0.99)
    assert reference_frames(later, limit=0) == []


def test_the_condition_of_a_later_chunk(later: RolloutState) -> None:
    readout = read(later.cache, later.frame_cameras)
    found = chunk_condition(later, readout, references=3)
    history = all_latents(later)
    chosen = reference_frames(later, limit=3, exclude={14, 15})
    assert len(chosen) == 3
    assert not set(chosen) & {14, 15, 16}
    assert torch.equal(found.references, history[:, chosen])
    assert torch.equal(found.preceding, history[:, 14:16])
    assert torch.equal(found.projection, readout.tokens.float())
    assert torch.equal(found.visible, readout.visible)
    assert found.projection.dtype == found.references.dtype == torch.float32


def test_projections_are_those_of_their_own_time(later: RolloutState) -> None:
    """Stored when the frames were made; the memory shows more by now."""
    readout = read(later.cache, later.frame_cameras)
    found = chunk_condition(later, readout, preceding=10)
    records = [load_record(later, index) for index in range(2)]
    stored = torch.cat([record.projections for record in records], dim=1)[:, 6:16]
    shown = torch.cat([record.visible for record in records])[6:16]
    assert torch.equal(found.preceding_projection, stored.float())
    assert torch.equal(found.preceding_visible, shown)
    now = read(later.cache, later.trajectory.select(slice(0, 65)))
    assert not torch.equal(now.visible[6:16], shown)


def test_released_references_may_be_seen_already(later: RolloutState) -> None:
    readout = read(later.cache, later.frame_cameras)
    released = chunk_condition(later, readout, exclude_seen=False)
    expected = select_references(history_scores(later))
    assert set(expected) & {14, 15, 16}
    assert torch.equal(released.references, all_latents(later)[:, expected])


def test_the_first_chunk_has_no_past(shot) -> None:
    state = shot.begin()
    found = chunk_condition(state, read(state.cache, state.frame_cameras))
    assert (found.segments.references, found.segments.preceding) == (0, 0)
    assert found.segments.target == 9


def test_a_young_shot_has_fewer_preceding_frames(shot, tmp_path: Path) -> None:
    """After a chunk of 33 frames, and at most the frames before the overlapping one."""
    state = shot.advance(open_folder(shot.begin(tmp_path / "shot")), 1)
    found = chunk_condition(state, read(state.cache, state.frame_cameras), preceding=20)
    assert torch.equal(found.preceding, all_latents(state)[:, :8])


def test_only_needed_chunks_are_read(
    later: RolloutState, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def counting(state: RolloutState, index: int):
        asked.append(index)
        return load_record(state, index)

    monkeypatch.setattr(history, "load_record", counting)
    readout = read(later.cache, later.frame_cameras)
    chunk_condition(later, readout, references=0)
    assert asked == [1]
    asked.clear()
    chunk_condition(later, readout, preceding=10)
    assert sorted(asked) == [0, 1]


def test_what_compaction_moves_does_not_matter(later: RolloutState) -> None:
    """Points may stand in any order: each knows the frame that saw it."""
    rng = torch.Generator().manual_seed(0)
    blocks = tuple(
        block.take(torch.randperm(len(block), generator=rng)) for block in later.cache.blocks
    )
    mixed = dataclasses.replace(later.cache, blocks=blocks[::-1])
    assert reference_frames(dataclasses.replace(later, cache=mixed)) == reference_frames(later)


def test_bad_input(later: RolloutState, shot) -> None:
    readout = read(later.cache, later.frame_cameras)
    with pytest.raises(ShapeError, match="readout"):
        chunk_condition(later, read(later.cache, later.trajectory.select(slice(0, 33))))
    with pytest.raises(ShapeError, match="other cameras"):
        chunk_condition(later, read(later.cache, later.trajectory.select(slice(0, 5))))
    for change in ({"references": -1}, {"preceding": 1000}):
        with pytest.raises(ValueRangeError):
            chunk_condition(later, readout, **change)
    homeless = dataclasses.replace(later, folder=None)
    with pytest.raises(ResumeError, match="no folder"):
        History(homeless).latents([0])


coordinate = st.floats(-2.5, 2.5, width=32)


@st.composite
def worlds(draw) -> tuple[Tensor, Tensor, int, int]:
    """Points with birth times; some of them far out, behind the cameras, or not finite."""
    seed = draw(st.integers(0, 2**20))
    count = draw(st.sampled_from([0, 1, 40, 600]))
    rng = torch.Generator().manual_seed(seed)
    points = torch.randn(count, 3, generator=rng) * torch.tensor([1.5, 1.0, 2.0])
    points[:, 2] += 2
    if count:
        points[0] = torch.tensor([1e9, 0.0, 3.0])
        points[-1, 0] = torch.nan
    born = torch.randint(-1, 30, (count,), generator=rng)
    return points, born, draw(st.integers(1, 12)), seed


@given(
    world=worlds(),
    voxel=st.sampled_from([0.1, 0.5, 3.0]),
    limit=st.integers(1, 5),
    threshold=st.sampled_from([0.0, 0.04, 0.3]),
    exclude=st.frozensets(st.integers(0, 12), max_size=3),
)
def test_the_fast_way_is_the_plain_way(make, world, voxel, limit, threshold, exclude) -> None:
    points, born, views, seed = world
    poses, lens = make.poses(views + 2, reach=1.5, seed=seed), make.lens(*SIZE, views + 2)
    matrices = projection_matrices(poses, lens)
    ahead, behind = Views(matrices[:2], *SIZE), Views(matrices[2:], *SIZE)
    times = sorted((7 * number) % 31 for number in range(views))
    found = best_overlaps(
        points, born, ahead, behind, times,
        limit=limit, threshold=threshold, exclude=exclude, voxel=voxel,
    )  # fmt: skip
    inside = [ahead.inside(view, points) for view in range(2)]
    wanted = voxel_keys(points[inside[0] | inside[1]], voxel)
    scores = [
        voxel_overlap(wanted, voxel_keys(points[behind.inside(k, points) & (born <= time)], voxel))
        for k, time in enumerate(times)
    ]
    expected = select_references(scores, limit=limit, threshold=threshold, exclude=exclude)
    assert found == (expected if len(points) else [])


@given(world=worlds(), voxel=st.sampled_from([0.1, 1.0]))
def test_voxels_in_view(make, world, voxel: float) -> None:
    points, born, views, seed = world
    matrices = projection_matrices(make.poses(views, seed=seed), make.lens(*SIZE, views))
    views_ = Views(matrices, *SIZE)
    found = int(VoxelMap.of(points, born, voxel).seen(views_).sum())
    inside = torch.zeros(len(points), dtype=torch.bool)
    for view in range(views):
        inside |= views_.inside(view, points)
    assert found == len(voxel_keys(points[inside], voxel))
