"""Making actors: the floor, places in each frame, tracks, points."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from mirage_core.actors.build import (
    ActorConfig,
    _beside,
    make_actor,
    smoothed,
    track_of,
    write_sights,
)
from mirage_core.actors.ground import find_ground, ground_of
from mirage_core.actors.sight import locate, on_depth
from mirage_core.cache.actor import Actor, cameras_of
from mirage_core.codecs.colours import ColourCodec
from mirage_core.errors import GeometryError, ShapeError
from mirage_core.geometry.transform import rotation_about
from mirage_core.preview.render import render_preview
from tiny_actors import FLOOR, Box, Hall


def made(hall: Hall, mask=None, config: ActorConfig | None = None):
    memory = hall.memory
    chosen = hall.numbers == 1 if mask is None else mask
    return make_actor(
        "box", hall.look, on_depth(chosen, hall.geometry), memory, ground_of(memory), config
    )


def walk(make, count: int = 7, **kwargs) -> Hall:
    return Hall.of(make, [[Box(-0.9 + 0.3 * n, 3.5)] for n in range(count)], **kwargs)


def test_the_floor_of_a_scene(make) -> None:
    ground = ground_of(walk(make).memory)
    assert ground.found
    assert ground.height == pytest.approx(-FLOOR, abs=0.02)
    assert torch.allclose(ground.up, torch.tensor([0.0, -1, 0], dtype=torch.float64), atol=0.02)


def test_a_floor_that_leans(make) -> None:
    floor = make.uniform(800, 3) * torch.tensor([6.0, 0.0, 6.0])
    wall = make.uniform(800, 3, seed=1) * torch.tensor([6.0, -3.0, 0.0])
    turn = rotation_about("x", torch.tensor(math.radians(12))).float()
    ground = find_ground(torch.cat([floor, wall]) @ turn.T)
    expected = (turn @ torch.tensor([0.0, -1, 0])).double()
    assert ground.found
    assert torch.allclose(ground.up, expected, atol=1e-3)


@pytest.mark.parametrize("what", ["nothing", "a wall", "a ball", "one place"])
def test_a_floor_that_cannot_be_found(make, what: str) -> None:
    cloud = {
        "nothing": torch.zeros(0, 3),
        "a wall": make.uniform(600, 3) * torch.tensor([6.0, -3.0, 0.0]),
        "a ball": torch.nn.functional.normalize(make.noise(3000, 3), dim=1),
        "one place": torch.ones(600, 3),
    }[what]
    ground = find_ground(cloud)
    assert not ground.found
    assert torch.equal(ground.up, torch.tensor([0.0, -1, 0], dtype=torch.float64))
    assert "no floor" in ground.describe()


def test_a_table_is_no_floor(make) -> None:
    table = make.uniform(2000, 3) * torch.tensor([2.0, 0.0, 2.0])
    floor = make.uniform(600, 3, seed=2) * torch.tensor([6.0, 0.0, 6.0])
    floor[:, 1] = 0.8
    assert find_ground(torch.cat([table, floor])).height == pytest.approx(-0.8, abs=0.02)


def test_places_headings_and_size_are_those_of_the_box(make) -> None:
    """It is as deep as it is wide: its middle is exact."""
    actor = made(walk(make)).actor
    track = actor.track
    assert track.frames.tolist() == [0, 4, 8, 12, 16, 20, 24]
    true = torch.tensor([[-0.9 + 0.3 * n, FLOOR, 3.5] for n in range(7)], dtype=torch.float64)
    assert float((track.positions - true).abs().max()) < 0.09
    assert torch.allclose(
        track.headings, torch.full((7,), math.pi / 2, dtype=torch.float64), atol=0.05
    )
    assert actor.size[1] == pytest.approx(1.0, abs=0.06)
    assert actor.size[2] == pytest.approx(0.5, abs=0.2)


def test_it_is_drawn_where_it_was_seen(make) -> None:
    hall = walk(make)
    cache = hall.memory.with_actors([made(hall).actor])
    drawn = render_preview(cache, hall.cameras, ColourCodec())
    for frame in range(7):
        mine, true = drawn.actor[frame] == 0, hall.numbers[frame] == 1
        assert float((mine & true).sum() / (mine | true).sum()) > 0.8, frame
        red = drawn.frames[frame][mine & true]
        assert float((red - torch.tensor([0.9, 0.1, 0.1])).abs().mean()) < 0.05


def test_no_point_of_the_set_becomes_its(make) -> None:
    actor = made(walk(make)).actor
    colours = torch.cat([block.tokens for block in actor.cache.blocks]).float()
    assert float((colours - torch.tensor([230.0, 26, 26])).abs().max()) < 3
    points = torch.cat([block.points for block in actor.cache.blocks])
    assert float(points.norm(dim=1).max()) < 1.5


def test_several_views_are_one_actor(make) -> None:
    """Seen from both sides, it has both sides, and no more points than that."""
    front = made(walk(make, 1)).actor
    around = made(walk(make, 7)).actor
    assert len(front) < len(around) < 3 * len(front)


def test_a_straight_way_is_not_bent_by_smoothing() -> None:
    times = torch.tensor([0.0, 4, 8, 12, 40, 44]).double()
    line = times[:, None] * torch.tensor([0.3, 0.0, -0.2]).double() + 1
    assert torch.allclose(smoothed(times, line, 3.0), line)
    noisy = line + 0.1 * torch.tensor([1.0, -1, 1, -1, 1, -1]).double()[:, None]
    assert float((smoothed(times, noisy, 3.0) - line).abs().mean()) < 0.07


def test_what_glides_keeps_its_heading(make) -> None:
    """There and back: what turns faces the other way then, what glides does not."""
    ways = [-0.6, -0.3, 0.0, 0.3, 0.6, 0.3, 0.0, -0.3, -0.6]
    hall = Hall.of(make, [[Box(x, 3.5)] for x in ways])
    turned = made(hall).actor.track.headings
    assert float((turned[-1] - turned[0]).abs()) == pytest.approx(math.pi, abs=0.1)
    gliding = made(hall, config=ActorConfig(turns=False)).actor.track.headings
    assert float(gliding.std()) == 0


def test_what_stands_still_faces_who_saw_it(make) -> None:
    hall = Hall.of(make, [[Box(0.0, 3.5)]] * 3)
    headings = made(hall).actor.track.headings
    assert torch.allclose(headings.abs(), torch.full((3,), math.pi).double(), atol=0.05)


def test_a_track_with_gaps(make) -> None:
    hall = walk(make)
    mask = hall.numbers == 1
    mask[2:4] = False
    found = made(hall, mask)
    assert found.actor.track.frames.tolist() == [0, 4, 16, 20, 24]
    assert any("1 gaps" in note for note in found.notes)
    at = found.actor.pose(10)[:3, 3]
    assert float(at[0]) == pytest.approx(-0.9 + 0.3 * 2.5, abs=0.1)


def test_a_mask_that_flickers(make) -> None:
    """In one frame it covers twice as much: that frame says nothing of the track."""
    hall = walk(make)
    mask = hall.numbers == 1
    mask[3, 20:, 20:80] = True
    found = made(hall, mask)
    assert found.actor.track.frames.tolist() == [0, 4, 8, 16, 20, 24]
    assert any("something else in frames 12" in note for note in found.notes)


def test_a_mask_of_half_of_the_set(make) -> None:
    hall = walk(make)
    mask = torch.zeros_like(hall.numbers, dtype=torch.bool)
    mask[:, :, :60] = True
    with pytest.raises(GeometryError, match="covers more than half.*not inverted"):
        made(hall, mask)


def test_a_mask_of_nothing(make) -> None:
    hall = walk(make)
    with pytest.raises(GeometryError, match="in none of the frames"):
        made(hall, torch.zeros_like(hall.numbers, dtype=torch.bool))


def test_an_actor_cut_by_the_pictures_edge(make) -> None:
    """It walks out of the picture: the frames that cut it do not bend its track."""
    hall = Hall.of(make, [[Box(1.0 + 0.25 * n, 3.5)] for n in range(7)])
    found = made(hall)
    cut = [note for note in found.notes if "edge cuts it" in note]
    assert len(cut) == 1
    track = found.actor.track
    true = torch.tensor([1.0 + 0.25 * (int(f) / 4) for f in track.frames])
    assert float((track.positions[:, 0] - true).abs().max()) < 0.12
    assert len(track) < 7


def test_things_that_cross_are_two_actors(make) -> None:
    """The far one is hidden for a while; both tracks go straight on."""
    near = [Box(-0.9 + 0.3 * n, 3.0) for n in range(7)]
    far = [Box(0.9 - 0.3 * n, 4.5, colour=(0.1, 0.8, 0.1)) for n in range(7)]
    hall = Hall.of(make, [list(both) for both in zip(near, far, strict=True)])
    for number, boxes in ((1, near), (2, far)):
        actor = made(hall, hall.numbers == number).actor
        rows = (actor.track.frames / 4).long().tolist()
        true = torch.tensor([boxes[row].x for row in rows]).double()
        assert float((actor.track.positions[:, 0] - true).abs().max()) < 0.2, number


def test_one_picture_and_a_mask(make) -> None:
    actor: Actor = made(walk(make, 1)).actor
    assert len(actor.track) == 1
    assert actor.pose(500) is not None


def test_masks_and_frames_have_to_fit(make) -> None:
    hall = walk(make)
    with pytest.raises(ShapeError, match="different numbers of frames"):
        on_depth(hall.numbers[:3] == 1, hall.geometry)
    with pytest.raises(ShapeError, match="different crops"):
        on_depth(torch.zeros(7, 64, 64), hall.geometry)
    with pytest.raises(ShapeError, match="different numbers of frames"):
        dataclasses.replace(hall.look, geometry=hall.geometry.select([0]))

def test_its_outline_is_not_that_of_all_views_together(make) -> None:
    """Places that are off by a pixel or so: the points that most sights see beside it are gone."""
    hall = walk(make)
    mask = on_depth(hall.numbers == 1, hall.geometry)
    ground = ground_of(hall.memory)
    sights = locate(hall.geometry, hall.cameras.world_to_camera, mask, ground)
    jitter = 0.04 * torch.tensor([1.0, -1, 1, -1, 1, -1, 1])[:, None].double()
    off = dataclasses.replace(sights, positions=sights.positions + jitter)
    track = track_of(off, hall.look.frames, ground, ActorConfig(smooth=0))
    empty = dataclasses.replace(hall.memory, blocks=())
    points = write_sights(empty, hall.look, mask, off, track, ActorConfig())
    where = torch.cat([block.points for block in points.blocks])
    beside = _beside(where, cameras_of(track.poses(*track.at(hall.look.frames)),
                     hall.cameras.world_to_camera), hall.geometry, mask, off)  # fmt: skip
    assert len(points) > 0 and not beside.any()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mirage_core.actors.build.without_fringe", lambda cache, *_: cache)
        union = write_sights(empty, hall.look, mask, off, track, ActorConfig())
    assert len(points) < len(union)
