"""A chunk with tracked things: they go to their actors, and stay out of the set."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mirage_core.actors.tracks import one_track
from mirage_core.errors import ShapeError
from mirage_core.geometry.align import AlignConfig
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.rollout.memory import write_chunk
from mirage_core.rollout.settings import MemorySettings


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
