"""What enters the memory, cell by cell: write policies, and what a chunk has to say."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mirage_core.cache.build import Observation, append_all, merge_blocks
from mirage_core.cache.compact import culling_order
from mirage_core.cache.types import LatentCache
from mirage_core.errors import ShapeError, ValueRangeError
from mirage_core.geometry.camera import PixelConvention
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.readout.readout import read_winners
from mirage_core.rollout.prepare import prepare_observation
from mirage_core.rollout.settings import MemorySettings
from mirage_core.writing.novelty import NoveltyRule, novel_cells
from mirage_core.writing.policy import WRITE_POLICIES, WriteLimits, WriteRules, write

GRID = (8, 12)
LOOSE = WriteLimits(compact=False)
ONLY_ADD = NoveltyRule(carve=0, upgrade=0)


@pytest.fixture
def seen(make) -> Observation:
    """One frame on which every cell has a depth."""
    return make.observation(2 + make.uniform(1, *GRID))


def write_twice(first: Observation, second: Observation, policy: str, convention) -> LatentCache:
    cache = append_all(LatentCache(convention=convention), first)
    before = cache.fingerprint()
    result = write(cache, second, WriteRules(policy, ONLY_ADD, LOOSE))
    assert cache.fingerprint() == before
    assert len(cache.blocks) == 1
    return result


def test_novelty_writes_nothing_that_is_shown(make, convention: PixelConvention, seen) -> None:
    again = make.observation(seen.depth, seed=5)
    cache = append_all(LatentCache(convention=convention), seen)
    assert write(cache, again, "novelty") is cache


def test_append_writes_everything(make, convention: PixelConvention, seen) -> None:
    cache = write_twice(seen, make.observation(seen.depth, seed=5), "append", convention)
    assert [len(block) for block in cache.blocks] == [96, 96]


def test_novelty_writes_exactly_the_holes(make, convention: PixelConvention, seen) -> None:
    hole = make.uniform(*GRID, seed=3) < 0.3
    holed = make.observation(seen.depth.where(~hole, 0.0))
    fresh = make.observation(seen.depth, seed=5)
    cache = write_twice(holed, fresh, "novelty", convention)
    assert len(cache) == 96
    assert torch.equal(cache.blocks[1].tokens, fresh.tokens[:, 0].permute(1, 2, 0)[hole])
    winner, depth = read_winners(cache, fresh.world_to_camera, fresh.intrinsics, GRID)
    assert (winner >= 0).all()
    assert torch.allclose(depth, fresh.depth, rtol=1e-5)


def test_novelty_writes_surfaces_well_in_front(make, convention: PixelConvention, seen) -> None:
    share = torch.linspace(0.7, 1.3, 96).view(1, *GRID)
    fresh = make.observation(seen.depth * share, seed=5)
    cache = write_twice(seen, fresh, "novelty", convention)
    nearer = share[0] < 1 - ONLY_ADD.nearer
    assert 10 < int(nearer.sum()) < 90
    assert torch.equal(cache.blocks[1].tokens, fresh.tokens[:, 0].permute(1, 2, 0)[nearer])


def test_cells_without_depth_are_never_written(make, seen) -> None:
    blind = make.observation(torch.zeros(1, *GRID))
    for policy in WRITE_POLICIES:
        assert len(write(LatentCache(), blind, policy)) == 0


def test_later_frames_of_one_observation_see_the_earlier(make) -> None:
    """Three equal frames are written once; the first frame keeps the cells."""
    depth = 2 + make.uniform(1, *GRID)
    three = make.observation(depth.repeat(3, 1, 1))
    cache = write(LatentCache(), three, "novelty")
    assert len(cache) == 96
    assert cache.blocks[0].source.unique().tolist() == [0]
    assert len(write(LatentCache(), three, "append")) == 288


def test_a_moved_camera_adds_what_came_into_view(make) -> None:
    """A wall and a step to the side: written are the cells that the first frame cannot show."""
    wall = torch.full((1, *GRID), 2.0)
    moved = torch.eye(4, dtype=torch.float64)
    cells = 4
    moved[0, 3] = -cells * 2.0 / (0.9 * GRID[1])
    first, second = make.observation(wall), make.observation(wall, pose=moved, seed=1)
    rules = WriteRules(novelty=NoveltyRule(view_score=0), limits=LOOSE)
    cache = write(append_all(LatentCache(), first), second, rules)
    new = cache.blocks[1]
    columns = (new.points[:, 0] / 2 + moved[0, 3].float() / 2) * 0.9 * GRID[1] + GRID[1] / 2
    assert len(new) == cells * GRID[0]
    assert float(columns.min()) > GRID[1] - cells


def test_equals_writing_frame_by_frame(make) -> None:
    depth = torch.tensor([3.0, 2.0, 1.0])[:, None, None] * (2 + 0.1 * make.uniform(3, *GRID))
    many = make.observation(depth.where(make.uniform(3, *GRID, seed=9) < 0.6, 0.0))
    whole = write(LatentCache(), many, "novelty")
    step = LatentCache()
    for frame in range(3):
        one = many.frame(frame)
        step = write(step, one, WriteRules(limits=LOOSE))
    assert len(step.blocks) == 3
    order = culling_order(torch.cat([block.points for block in step.blocks]))
    for name in ("points", "tokens"):
        parts = torch.cat([getattr(block, name) for block in step.blocks])
        assert torch.equal(getattr(whole.blocks[0], name), parts[order]), name
    seen_in = torch.cat([block.frames[block.source.long()] for block in step.blocks])
    assert seen_in.unique().tolist() == [0, 4, 8]
    joined = merge_blocks(list(step.blocks))
    assert torch.equal(joined.frames[joined.source.long()], seen_in)
    block = whole.blocks[0]
    assert torch.equal(block.frames[block.source.long()], seen_in[order])


def test_novel_cells_of_an_empty_memory(seen) -> None:
    novel, replaced = novel_cells(LatentCache(), seen, NoveltyRule())
    assert novel.all()
    assert len(replaced) == 0


def test_progress_and_cancelling(make) -> None:
    calls: list[tuple[int, int]] = []
    depth = 2 + make.uniform(3, *GRID)
    write(
        LatentCache(),
        make.observation(depth),
        "novelty",
        lambda a, b: calls.append((a, b)),
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]

    def cancel(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(LatentCache(), make.observation(depth), "novelty", cancel)


def test_unknown_policy(seen) -> None:
    with pytest.raises(ValueRangeError, match="novelty, append"):
        write(LatentCache(), seen, "carve")
    with pytest.raises(ValueRangeError, match="no limit"):
        WriteLimits(max_points=-1)


def test_depth_that_does_not_belong_to_the_chunk(make, shot) -> None:
    state = shot.begin()
    latents = torch.zeros(48, 9, 4, 4)
    frames = torch.zeros(33, 64, 64, 3)
    def observed(geometry: FrameGeometry) -> Observation:
        settings = MemorySettings(align=None, reencode=False)
        return prepare_observation(
            state, latents, frames, geometry, settings, encode=shot.CODEC.encode_images
        ).observation

    for count in (1, 8, 32):
        geometry = FrameGeometry(torch.ones(count, 64, 64), make.lens(64, 64, count))
        with pytest.raises(ShapeError, match="9 .every fourth frame., 33"):
            observed(geometry)
    wide = FrameGeometry(torch.ones(9, 64, 96), make.lens(64, 96, 9))
    with pytest.raises(ShapeError, match="aspect"):
        observed(wide)


def test_all_frames_or_every_fourth_give_the_same_points(make, shot) -> None:
    state = shot.begin()
    latents, frames = make.noise(48, 9, 4, 4), make.uniform(33, 64, 64, 3)
    depth = 1 + make.uniform(33, 16, 16)
    every = FrameGeometry(depth, make.lens(16, 16, 33))
    fourth = FrameGeometry(depth[::4], make.lens(16, 16, 9))
    settings = MemorySettings(align=None, reencode=False, token_dtype=torch.float32)
    encode = shot.CODEC.encode_images
    one, other = (
        prepare_observation(state, latents, frames, geometry, settings, encode=encode).observation
        for geometry in (every, fourth)
    )
    assert torch.equal(one.depth, other.depth)
    assert torch.equal(one.tokens, latents[:, 1:])
    assert one.frames.tolist() == list(range(4, 33, 4))
    settings = dataclasses.replace(settings, reencode=True)
    again = prepare_observation(state, latents, frames, every, settings, encode=encode)
    assert torch.equal(again.observation.tokens, encode(frames[4::4]))
