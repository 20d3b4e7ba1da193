"""A chunk with tracked things: they go to their actors, and stay out of the set."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mirage_core.actors.tracks import one_track
from mirage_core.errors import ShapeError
from mirage_core.geometry.align import AlignConfig
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.readout.readout import read
from mirage_core.rollout.memory import write_chunk
from mirage_core.rollout.settings import MemorySettings
from tiny_actors import actor, track


def things(shot, state, every: int = 1):
    """The chunk's parts with a square that stands 1.2 units away and goes to the right."""
    parts = shot.parts(state)
    count = state.chunk.latent_frames
    depth = torch.full((count, 64, 64), 2.4)
    mask = torch.zeros(count, 64, 64, dtype=torch.bool)
    for number in range(count):
        mask[number, 20:50, 10 + 2 * number : 32 + 2 * number] = True
    depth[mask] = 1.2
    geometry = FrameGeometry(depth, state.latent_cameras.intrinsics)
    if every == 4:
        mask = torch.cat([mask[:1], mask[1:].repeat_interleave(4, 0)])
    return parts, geometry, one_track("sign", mask)


def write(shot, state, parts, geometry, settings=None, **kwargs):
    settings = settings or MemorySettings(align=None)
    return write_chunk(
        state, parts["latents"], parts["frames"], geometry, settings,
        encode=shot.CODEC.encode_images, **kwargs,
    )  # fmt: skip


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("align", [None, AlignConfig("none")])
def test_tracked_things_go_to_their_actor(shot, every: int, align) -> None:
    state = shot.begin(None)
    parts, geometry, tracks = things(shot, state, every)
    settings = MemorySettings(align=align)
    written = write(shot, state, parts, geometry, settings, tracks=tracks)
    assert written.cast is not None
    assert written.cast.new == ("sign",)
    (sign,) = written.cache.actors
    assert sign.track.frames[0] == 4
    near = torch.cat([block.points for block in written.cache.blocks])[:, 2]
    assert not bool((near < 1.5).any())
    masked = write(shot, state, parts, geometry, settings, masks={"a mask": tracks.moving})
    without = dataclasses.replace(written.cache, actors=())
    assert without.fingerprint() == masked.cache.fingerprint()


def test_frames_that_were_refused_before_tell_nothing_of_actors(shot) -> None:
    """Mirage Align Geometry has left them out: their depth is of another scale."""
    state = shot.begin(None)
    parts, geometry, tracks = things(shot, state)
    refused = torch.zeros(geometry.depth.shape, dtype=torch.bool)
    refused[4:6] = True
    depth = torch.where(refused, 0.7 * geometry.depth, geometry.depth)
    geometry = dataclasses.replace(geometry, depth=depth, exclude=refused)
    written = write(shot, state, parts, geometry, tracks=tracks)
    (sign,) = written.cache.actors
    assert sign.track.frames.tolist() == [4, 8, 12, 24, 28, 32]
    assert float(sign.track.positions[:, 2].min()) > 1.0


def test_nothing_tracked_changes_nothing(shot) -> None:
    state = shot.begin(None)
    parts, geometry, _ = things(shot, state)
    plain = write(shot, state, parts, geometry)
    nothing = one_track("sign", torch.zeros(9, 64, 64))
    tracked = write(shot, state, parts, geometry, tracks=nothing)
    assert plain.cast is None
    assert tracked.cache.fingerprint() == plain.cache.fingerprint()
    assert tracked.cast.describe() == "actors: none in view"


def test_tracks_of_another_chunk(shot) -> None:
    state = shot.begin(None)
    parts, geometry, tracks = things(shot, state)
    with pytest.raises(ShapeError, match="tracks do not belong to this chunk"):
        write(shot, state, parts, geometry, tracks=tracks.select([0, 1]))


def test_what_a_model_makes_of_an_actor_is_no_part_of_the_set(make, shot) -> None:
    """Nothing tracks it: where the memory shows it, and a cell around, nothing is written."""
    state = shot.begin(None)
    parts, geometry, _ = things(shot, state)
    way = track((0, 0.0, 0.6, 1.6))
    cast = dataclasses.replace(
        state, cache=state.cache.with_actors([actor(make, way, codec="test")])
    )
    seen = read(cast.cache, cast.frame_cameras).actor >= 0
    assert bool(seen[1:].any())
    written = write(shot, cast, parts, geometry)
    alone = write(shot, state, parts, geometry)
    assert bool(written.prepared.excluded[seen[1:]].all())
    assert not bool(alone.prepared.excluded.any())
    assert written.cast is None
    assert written.cache.actors == cast.cache.actors


def test_a_close_up_of_an_actor(make, shot) -> None:
    """It fills every frame: nothing of the set is seen, and nobody is told to turn a mask."""
    state = shot.begin(None)
    parts, geometry, _ = things(shot, state)
    way = track((0, 0.0, 0.5, 0.35), (32, 0.96, 0.5, 0.35))
    near = actor(make, way, count=4000, codec="test")
    cast = dataclasses.replace(state, cache=state.cache.with_actors([near]))
    written = write(shot, cast, parts, geometry)
    assert float(written.prepared.excluded.float().mean()) > 0.9


def test_frames_whose_depth_is_refused_tell_nothing_of_actors(shot) -> None:
    state = shot.begin(None)
    parts, geometry, tracks = things(shot, state)
    wrong = dataclasses.replace(
        geometry, depth=torch.rand(geometry.depth.shape, generator=torch.Generator()) * 50 + 0.5
    )
    written = write(shot, state, parts, wrong, MemorySettings(), tracks=tracks)
    if not any(written.report.alignment.trusted):
        assert not written.cache.actors
        assert "refused" in written.cast.describe()
    else:
        pytest.fail("the alignment took noise for depth")
