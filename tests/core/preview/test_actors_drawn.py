"""Drawing memories with actors: before and behind the set, never as known background."""

from __future__ import annotations

import pytest
import torch

from mirage_core.cache.actor import Actor, placed_blocks
from mirage_core.cache.types import LatentCache
from mirage_core.codecs.colours import ColourCodec
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory
from mirage_core.preview.render import render_preview
from mirage_core.rollout.memory import begin_memory
from tiny_actors import track

CODEC = ColourCodec()
SIZE = 64


def board(make, colour: tuple[float, float, float], depth: float, half: int) -> LatentCache:
    """A board of one colour: the middle ``2 half`` pixels of a picture, upright at a depth."""
    picture = torch.tensor(colour).expand(1, SIZE, SIZE, 3)
    outside = torch.ones(1, SIZE, SIZE, dtype=torch.bool)
    middle = slice(SIZE // 2 - half, SIZE // 2 + half)
    outside[:, middle, middle] = False
    geometry = FrameGeometry(
        torch.full((1, SIZE, SIZE), depth), shot(make).intrinsics[:1], exclude=outside
    )
    return begin_memory(CODEC.encode_images(picture), geometry, CODEC.name)


def shot(make) -> Trajectory:
    return make.trajectory(5, SIZE, SIZE, step=0)


def stage(make, depth: float) -> LatentCache:
    """A blue wall at 4 units, with a red board that stands before the camera's middle."""
    red = board(make, (1, 0, 0), 2.0, 10)
    one = Actor("sign", red, track((0, 0.0, 0.0, depth - 2.0), (4, 0.4, 0.0, depth - 2.0)))
    return board(make, (0, 0, 1), 4.0, 32).with_actors([one])


def test_an_actor_hides_the_set_and_moves(make) -> None:
    drawn = render_preview(stage(make, 2.0), shot(make), CODEC)
    assert drawn.actor is not None
    for frame, move in ((0, 0), (4, 11)):
        seen = (drawn.actor[frame] == 0).nonzero()
        middle = seen.double().mean(dim=0)
        assert middle[0] == pytest.approx(31.5, abs=0.6)
        assert middle[1] == pytest.approx(31.5 + move, abs=0.7)
        assert len(seen) == pytest.approx(400, rel=0.15)
        red = drawn.frames[frame][drawn.actor[frame] == 0]
        assert torch.allclose(red, torch.tensor([1.0, 0, 0]).expand_as(red), atol=0.01)
    still = drawn.frames[drawn.actor < 0]
    assert torch.allclose(still, torch.tensor([0.0, 0, 1]).expand_as(still), atol=0.02)


def test_the_set_hides_an_actor(make) -> None:
    drawn = render_preview(stage(make, 6.0), shot(make), CODEC)
    assert not bool((drawn.actor >= 0).any())
    assert torch.equal(drawn.frames, render_preview(
        board(make, (0, 0, 1), 4.0, 32), shot(make), CODEC
    ).frames)  # fmt: skip


def test_an_actor_is_no_known_background(make) -> None:
    drawn = render_preview(stage(make, 2.0), shot(make), CODEC)
    moving = drawn.actor >= 0
    assert bool(drawn.holes[moving].all())
    assert not bool(drawn.holes[~moving].any())
    assert bool((drawn.unknown(0.75)[moving] == 0.25).all())
    assert not bool(drawn.unknown(1)[moving].any())
    assert bool(drawn.unknown(0)[moving].all())


def test_an_actor_before_nothing_is_seen(make) -> None:
    alone = LatentCache((), codec=CODEC.name, channels=3).with_actors(stage(make, 2.0).actors)
    drawn = render_preview(alone, shot(make), CODEC)
    assert int((drawn.actor[0] == 0).sum()) == pytest.approx(400, rel=0.15)
    empty = drawn.actor < 0
    assert bool((drawn.distance[empty] == 0).all())
    assert bool((drawn.unknown()[empty] == 1).all())


def test_it_is_drawn_as_a_still_thing_at_its_place(make) -> None:
    cache = stage(make, 2.0)
    drawn = render_preview(cache, shot(make), CODEC)
    still = LatentCache(
        placed_blocks(cache.actors[0], cache.actors[0].pose(4)), codec=CODEC.name, channels=3
    )
    expected = render_preview(still, shot(make), CODEC)
    near = drawn.distance[4][drawn.actor[4] == 0]
    assert torch.allclose(near, expected.distance[4].amax().expand_as(near), atol=1e-4)
    share = ((drawn.actor[4] == 0) == (expected.distance[4] > 0)).float().mean()
    assert float(share) > 0.995


def test_without_actors_there_is_no_mask(make) -> None:
    drawn = render_preview(board(make, (0, 0, 1), 4.0, 20), shot(make), CODEC)
    assert drawn.actor is None
    assert torch.equal(drawn.holes, drawn.distance <= 0)
    assert torch.equal(drawn.unknown(0.5), drawn.holes.float())
