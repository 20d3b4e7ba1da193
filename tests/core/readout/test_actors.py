"""Reading a memory with actors: one z-buffer, a mask of their own, the time of each frame."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mirage_core.cache.actor import Actor, placed_blocks
from mirage_core.cache.track import Behaviour
from mirage_core.cache.types import LatentCache
from mirage_core.conditioning.condition import Condition
from mirage_core.conditioning.inpaint import InpaintPlanes
from mirage_core.geometry.trajectory import Trajectory
from mirage_core.ops.best_view import BestView
from mirage_core.readout.readout import read
from tiny_actors import actor, track


@pytest.fixture
def shot(make) -> Trajectory:
    return make.trajectory(9, width=192, height=128)


def frozen(cache: LatentCache, frame: int) -> LatentCache:
    """The memory with its actors as still points, where they are at a frame."""
    blocks = list(cache.blocks)
    for one in cache.actors:
        pose = one.pose(frame)
        if pose is not None:
            blocks += placed_blocks(one, pose)
    return dataclasses.replace(cache, blocks=tuple(blocks), actors=())


def crowd(make) -> tuple[Actor, ...]:
    """Two that move and cross before and in the set."""
    one = actor(make, track((0, -1.0, 0.5, 2.0), (8, 1.0, 0.5, 3.0)))
    two = actor(make, track((0, 1.0, 0.5, 2.5), (8, -1.0, 0.5, 2.5)), "cat", seed=50)
    return one, two


@pytest.mark.parametrize("view", [None, BestView()], ids=["nearest", "best view"])
def test_actors_and_set_share_one_z_buffer(make, shot, view) -> None:
    """Frame by frame it is as if the actors were frozen into the set at that frame."""
    cache = make.cache(900).with_actors(crowd(make))
    found = read(cache, shot, view)
    shown = 0
    for latent in range(3):
        # The memory of one moment, seen by all cameras; only that moment's frame counts.
        expected = read(frozen(cache, 4 * latent), shot, None if view is None else view)
        same = found.visible[latent] == expected.visible[latent]
        depths = (found.depth[latent] - expected.depth[latent]).abs() < 1e-4
        tokens = (found.tokens[:, latent] == expected.tokens[:, latent]).all(dim=0)
        assert bool(same.all())
        if view is None:
            assert float(depths.float().mean()) > 0.99
            assert float(tokens.float().mean()) > 0.99
        own = expected.winner[latent] >= len(cache)
        if view is None:
            assert float(((found.actor[latent] >= 0) == own).float().mean()) > 0.99
        shown += int(own.sum())
    assert shown > 30
    assert set(found.actor.unique().tolist()) == {-1, 0, 1}


def test_whole_numbers_give_the_same_bits(make, shot) -> None:
    """Where moving an actor does not round, its tokens and depth are those of still points."""
    still = track((0, 0.0, 0.5, 2.0))
    cache = make.cache(900).with_actors([actor(make, still)])
    expected, found = read(frozen(cache, 0), shot), read(cache, shot)
    assert torch.equal(found.visible, expected.visible)
    assert float((found.tokens == expected.tokens).float().mean()) > 0.999
    assert torch.allclose(found.depth, expected.depth, atol=1e-5)


def test_a_mask_of_its_own(make, shot) -> None:
    cache = make.cache(900).with_actors(crowd(make))
    found = read(cache, shot)
    moving = found.actor >= 0
    assert bool(moving.any())
    assert torch.equal(found.visible, found.background | moving)
    assert not bool((found.background & moving).any())
    assert bool((found.winner[moving] == -1).all())
    assert bool((found.actor_winner[moving] >= 0).all())
    assert bool((found.actor_winner[~moving] == -1).all())


def test_without_actors_nothing_changes(make, shot) -> None:
    cache = make.cache(900)
    plain, emptied = read(cache, shot), read(cache.with_actors(crowd(make)).with_actors([]), shot)
    assert plain.actor is None
    assert plain.weights is None
    assert torch.equal(plain.tokens, emptied.tokens)
    assert plain.background is plain.visible


def test_chunks_show_actors_at_their_own_time(make) -> None:
    """The second chunk of a shot sees them where they are then."""
    shot = make.trajectory(17, width=192, height=128, step=0)
    one = actor(make, track((0, -1.0, 0.5, 3.0), (16, 1.0, 0.5, 3.0)))
    cache = LatentCache().with_actors([one])
    whole, later = read(cache, shot), read(cache, shot.select(slice(8, 17)))
    assert torch.equal(later.actor, whole.actor[2:])
    assert torch.equal(later.tokens, whole.tokens[:, 2:])
    assert not torch.equal(whole.actor[0], whole.actor[2])


def test_what_is_forgotten_is_not_read(make, shot) -> None:
    seen = track((0, 0.0, 0.5, 2.0), (4, 0.0, 0.5, 2.0))
    cache = LatentCache().with_actors([actor(make, seen, behaviour=Behaviour.FORGET)])
    found = read(cache, shot)
    assert [bool((found.actor[t] >= 0).any()) for t in range(3)] == [True, True, False]


def test_planes_of_actors_are_those_of_their_points(make, shot) -> None:
    cache = make.cache(900).with_actors([actor(make, track((0, 0.0, 0.5, 2.0)))])
    expected, found = read(frozen(cache, 0), shot), read(cache, shot)
    moving = (found.actor >= 0) & (expected.winner >= len(cache))
    assert int(moving.sum()) > 10
    for mine, theirs in zip(found.planes, expected.planes, strict=True):
        assert torch.allclose(mine[..., moving], theirs[..., moving], atol=1e-4)


def test_a_sampler_weighs_actors_apart(make, shot) -> None:
    cache = make.cache(900).with_actors(crowd(make))
    whole, half = read(cache, shot), read(cache, shot, actor_strength=0.5)
    none, alone = read(cache, shot, actor_strength=0), read(make.cache(900), shot)
    moving = half.actor >= 0
    assert torch.equal(half.weights[moving], torch.full((int(moving.sum()),), 0.5))
    assert torch.equal(half.weights[~moving], half.visible[~moving].float())
    assert torch.equal(none.tokens, alone.tokens)
    assert torch.equal(none.visible, alone.visible)
    assert torch.equal(none.actor, whole.actor)
    told = Condition.of_readout(half).projection
    assert torch.equal(told[:, moving], whole.tokens[:, moving].float() / 2)
    assert torch.equal(told[:, ~moving], whole.tokens[:, ~moving].float())
    assert torch.equal(InpaintPlanes.of_readout(half).unknown[0], 1 - half.weights)


def test_forty_actors(make, shot) -> None:
    many = [
        actor(make, track((0, 0.1 * n - 2, 0.5, 2 + 0.1 * n)), f"extra {n}", seed=n)
        for n in range(40)
    ]
    found = read(make.cache(300).with_actors(many), shot)
    assert int(found.actor.max()) > 30
