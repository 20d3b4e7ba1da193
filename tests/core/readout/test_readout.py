"""Reading the memory for a shot."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mirage_core.cache.build import append_all, merge_blocks
from mirage_core.cache.types import LatentCache
from mirage_core.errors import PlanError, ShapeError
from mirage_core.geometry.camera import scale_intrinsics
from mirage_core.geometry.trajectory import Trajectory
from mirage_core.readout.readout import Readout, grid_intrinsics, read, read_winners


@pytest.fixture
def shot(make) -> Trajectory:
    return make.trajectory(9, width=192, height=128)


def rows(cache: LatentCache, name: str) -> torch.Tensor:
    return torch.cat([getattr(block, name) for block in cache.blocks])


def test_shapes_and_agreement(make, convention, shot) -> None:
    cache = dataclasses.replace(make.cache(300, 200), convention=convention)
    found = read(cache, shot)
    assert found.tokens.shape == (48, 3, 8, 12)
    assert found.tokens.is_contiguous()
    assert found.visible.shape == found.depth.shape == found.winner.shape == (3, 8, 12)
    assert found.visible.dtype == torch.bool
    assert 20 < int(found.visible.sum()) < 288
    assert torch.equal(found.visible, found.winner >= 0)
    assert torch.equal(found.visible, found.depth > 0)
    assert not found.tokens[:, ~found.visible].any()
    tokens = rows(cache, "tokens")[found.winner[found.visible]]
    assert torch.equal(found.tokens[:, found.visible].T, tokens)
    assert found.hole_rate == pytest.approx(1 - float(found.visible.double().mean()), abs=1e-6)


def test_depth_is_that_of_the_winning_point(make, shot) -> None:
    cache = make.cache(300, 200)
    found = read(cache, shot)
    for frame, pose in enumerate(found.latent_cameras.world_to_camera):
        visible = found.visible[frame]
        points = rows(cache, "points")[found.winner[frame][visible]].double()
        expected = (points @ pose[:3, :3].T + pose[:3, 3])[:, 2]
        assert torch.allclose(found.depth[frame][visible].double(), expected, rtol=1e-5)


def test_takes_the_camera_of_every_fourth_frame(make, shot) -> None:
    cache = make.cache(300)
    found = read(cache, shot)
    assert len(found.latent_cameras) == 3
    lens = scale_intrinsics(shot.intrinsics[::4], (128, 192), (8, 12))
    assert torch.equal(grid_intrinsics(found.latent_cameras, (8, 12)), lens)
    winner, depth = read_winners(cache, shot.world_to_camera[::4], lens, (8, 12))
    assert torch.equal(found.winner, winner)
    assert torch.equal(found.depth, depth)
    turned = dataclasses.replace(
        shot, world_to_camera=shot.world_to_camera[[0, 0, 0, 0, 4, 0, 0, 0, 8]]
    )
    assert torch.equal(read(cache, turned).winner, found.winner)


def test_blocks_do_not_matter(make, convention, shot) -> None:
    """One block or several: the same winners, tokens and depth; ties go to the newest."""
    several = dataclasses.replace(make.cache(200, 1, 300), convention=convention)
    twice = dataclasses.replace(several, blocks=(*several.blocks, several.blocks[0]))
    for cache in (several, twice):
        one = dataclasses.replace(cache, blocks=(merge_blocks(list(cache.blocks)),))
        found, expected = read(cache, shot), read(one, shot)
        assert torch.equal(found.winner, expected.winner)
        assert torch.equal(found.tokens, expected.tokens)
        assert torch.equal(found.depth, expected.depth)
    # Everything that the first block showed is now shown by its copy at the end.
    assert int(read(twice, shot).winner[read(several, shot).winner.le(199)].ge(0).sum()) > 0
    assert not ((found.winner >= 0) & (found.winner < 200)).any()


def test_shifted_indices(make, shot) -> None:
    """A block that nothing shows of moves the indices behind it and changes nothing else."""
    cache = make.cache(200)
    behind = dataclasses.replace(
        make.block(70), points=-make.block(70).points.abs(), bounds=torch.empty(0)
    )
    shifted = LatentCache((behind, *cache.blocks))
    found, expected = read(shifted, shot), read(cache, shot)
    assert torch.equal(found.winner, torch.where(expected.visible, expected.winner + 70, -1))
    assert torch.equal(found.tokens, expected.tokens)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_tokens_keep_their_type(make, shot, dtype) -> None:
    assert read(make.cache(50, dtype=dtype), shot).tokens.dtype == dtype


def test_same_bits_every_time(make, shot) -> None:
    cache = make.cache(3000, 2000)
    first = read(cache, shot)
    before = torch.get_num_threads()
    try:
        for threads in (2, 1, 2):
            torch.set_num_threads(threads)
            again = read(cache, shot)
            assert torch.equal(again.winner, first.winner)
            assert torch.equal(again.depth.view(torch.int32), first.depth.view(torch.int32))
            assert torch.equal(again.tokens, first.tokens)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("counts", [(), (0,)])
def test_an_empty_memory_shows_nothing(make, shot, counts) -> None:
    found: Readout = read(make.cache(*counts), shot)
    assert found.tokens.shape == (48, 3, 8, 12)
    assert found.hole_rate == 1
    assert not found.tokens.any()
    assert not found.depth.any()
    assert bool((found.winner == -1).all())


def test_what_was_written_is_read_at_the_same_camera(make, convention) -> None:
    depth = 1 + make.uniform(1, 8, 12)
    observation = make.observation(depth, pose=make.poses(1)[0])
    cache = append_all(LatentCache(convention=convention), observation)
    lens = scale_intrinsics(observation.intrinsics, (8, 12), (128, 192))
    found = read(cache, Trajectory(observation.world_to_camera, lens, 192, 128))
    assert torch.equal(found.tokens, observation.tokens)
    assert torch.allclose(found.depth, depth, rtol=1e-5)
    assert found.hole_rate == 0


def test_refusals(make, shot) -> None:
    with pytest.raises(PlanError):
        read(make.cache(5), shot.select(slice(0, 8)))
    with pytest.raises(ShapeError):
        read(make.cache(5), shot.resized(200, 128))
