"""Actors through a shot: written apart from the set, known again, told when they left."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mirage_core.actors.recognise import assign
from mirage_core.actors.tracks import expect_frames, one_track
from mirage_core.actors.update import (
    CastConfig,
    _is_glimpse,
    contradicted,
    update_actors,
)
from mirage_core.cache.track import Behaviour
from mirage_core.errors import ShapeError, ValueRangeError
from mirage_core.masks.tracks import Tracks
from tiny_actors import Box, Hall, actor, track

RED, GREEN = (0.9, 0.1, 0.1), (0.1, 0.8, 0.1)


def pair(red: float, green: float, z: float = 3.5) -> list[Box]:
    return [Box(red, z, colour=RED), Box(green, z, colour=GREEN)]


def first_look(make, names=("one", "two")):
    hall = Hall.of(make, [pair(-0.9 + 0.05 * n, 0.9 - 0.05 * n) for n in range(4)])
    done = update_actors(hall.memory, hall.look, hall.tracks(*names))
    return hall, done


def test_what_moves_is_written_to_actors_and_not_to_the_set(make) -> None:
    hall, done = first_look(make)
    assert done.report.new == ("one", "two")
    assert [one.name for one in done.cache.actors] == ["one", "two"]
    assert done.cache.blocks == hall.memory.blocks or len(done.cache) == len(hall.memory)
    assert torch.equal(done.cache.blocks[0].points, hall.memory.blocks[0].points)


def test_going_on_in_the_next_chunk(make) -> None:
    _, done = first_look(make)
    later = Hall.of(make, [pair(-0.7 + 0.05 * n, 0.7 - 0.05 * n) for n in range(4)], first=16)
    again = update_actors(done.cache, later.look, later.tracks("one", "two"))
    assert again.report.seen == ("one", "two")
    assert not again.report.new
    one = again.cache.actors[0]
    assert one.track.frames.tolist() == [0, 4, 8, 12, 16, 20, 24, 28]
    assert float(one.track.positions[-1, 0]) == pytest.approx(-0.55, abs=0.08)


def test_what_comes_back_is_known_by_its_looks(make) -> None:
    """Both have one name, a tracker's numbers begin anew, and they changed sides."""
    _, done = first_look(make, ("box", "box"))
    swapped = [list(reversed(pair(0.8, -0.8))) for _ in range(4)]
    later = Hall.of(make, swapped, first=96)
    again = update_actors(done.cache, later.look, later.tracks("box", "box"))
    assert len(again.cache.actors) == 2
    assert again.report.back == ("box", "box")
    red, green = again.cache.actors
    assert float(red.track.positions[-1, 0]) == pytest.approx(0.8, abs=0.1)
    assert float(green.track.positions[-1, 0]) == pytest.approx(-0.8, abs=0.1)


def test_what_looks_alike_is_known_by_its_place(make) -> None:
    twins = [[Box(-0.9, 3.5), Box(0.9, 3.5)]] * 3
    hall = Hall.of(make, twins)
    done = update_actors(hall.memory, hall.look, hall.tracks("box", "box"))
    back = Hall.of(make, [[Box(0.85, 3.5), Box(-0.85, 3.5)]] * 3, first=40)
    again = update_actors(done.cache, back.look, back.tracks("box", "box"))
    assert len(again.cache.actors) == 2
    assert [float(one.track.positions[-1, 0]) for one in again.cache.actors] == [
        pytest.approx(-0.85, abs=0.1), pytest.approx(0.85, abs=0.1),
    ]  # fmt: skip


def test_a_lasting_number_says_who_it_is(make) -> None:
    _, done = first_look(make)
    hall = Hall.of(make, [pair(-0.9, 0.9)] * 3)
    known = update_actors(hall.memory, hall.look, hall.tracks("box", "box", lasting=True)).cache
    assert [one.ids for one in known.actors] == [(1,), (2,)]
    # Elsewhere and in another colour: only its number is the same.
    later = Hall.of(make, [[Box(1.0, 5.0, colour=(0.1, 0.1, 0.9))]] * 3, first=400)
    again = update_actors(known, later.look, later.tracks("box", lasting=True)).cache
    assert len(again.actors) == 2
    assert int(again.actors[0].track.frames[-1]) == 408


def test_another_name_or_other_looks_are_a_new_actor(make) -> None:
    _, done = first_look(make)
    other = Hall.of(make, [[Box(-0.9, 3.5, colour=(0.1, 0.1, 0.9))]] * 3, first=96)
    named = update_actors(done.cache, other.look, other.tracks("three"))
    assert named.report.new == ("three",)
    assert len(named.cache.actors) == 3


def test_what_left_for_good_is_told(make) -> None:
    """It is looked past where it stood: it is not shown any more, and the report says so."""
    _, done = first_look(make)
    empty = Hall.of(make, [[Box(0.75, 3.5, colour=GREEN)]] * 3, first=96)
    again = update_actors(done.cache, empty.look, empty.tracks("two"))
    assert again.report.left == ("one",)
    assert "not where remembered" in again.report.describe()
    assert [one.gone for one in again.cache.actors] == [True, False]
    assert again.cache.actors[0].pose(104) is None
    # It comes back, and stays again where it is seen.
    back = Hall.of(make, [[Box(-0.6, 3.5, colour=RED)]] * 3, first=200)
    found = update_actors(again.cache, back.look, back.tracks("one"))
    assert found.report.back == ("one",)
    assert not found.cache.actors[0].gone
    assert found.cache.actors[0].pose(400) is not None


def test_what_is_hidden_or_out_of_view_has_not_left(make) -> None:
    _, done = first_look(make)
    hidden = Hall.of(make, [[Box(-0.6, 2.0, half=0.6, height=1.6)]] * 3, first=96)
    assert not contradicted(done.cache.actors[0], hidden.look)
    turned = Hall.of(make, [[]] * 3, first=96, turn=1.6)
    assert not contradicted(done.cache.actors[0], turned.look)
    gone = Hall.of(make, [[]] * 3, first=96)
    assert contradicted(done.cache.actors[0], gone.look)


def test_who_follows_a_path_does_not_leave(make) -> None:
    _, done = first_look(make)
    way = track((0, -0.9, 1.0, 3.5), (200, -0.9, 1.0, 3.5))
    directed = [done.cache.actors[0].directed(Behaviour.PATH, way), done.cache.actors[1]]
    empty = Hall.of(make, [[]] * 3, first=96)
    again = update_actors(done.cache.with_actors(directed), empty.look, empty.tracks())
    assert again.report.left == ("two",)


def test_a_mask_that_shows_nothing_is_told(make) -> None:
    hall = Hall.of(make, [pair(-0.9, 0.9)] * 3)
    broad = hall.numbers.clone()
    broad[:, :, :70] = 1
    done = update_actors(hall.memory, hall.look, Tracks(broad, {1: "wall", 2: "two"}))
    assert done.report.new == ("two",)
    assert any("wall: the actor's mask covers more than half" in note for note in done.report.notes)


def test_no_threshold_makes_everything_new(make) -> None:
    _, done = first_look(make)
    later = Hall.of(make, [pair(-0.7, 0.7)] * 3, first=16)
    again = update_actors(
        done.cache, later.look, later.tracks("one", "two"), CastConfig(threshold=1.5)
    )
    assert len(again.cache.actors) == 4


def test_forty_actors_are_told_apart(make) -> None:
    """All of one name, in two rows of twenty hues: none is doubled."""
    hall, _ = first_look(make)
    many = [
        actor(make, track((0, float(n), 0.0, 3.0)), "extra", seed=n, codec="test")
        for n in range(40)
    ]
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1)).tolist()
    again = [dataclasses.replace(many[n], track=track((40, n + 0.1, 0.0, 3.0))) for n in order]
    assert assign(many, again) == order


def test_tracks_are_numbers_with_names() -> None:
    one = one_track("dog", torch.tensor([[[1.0, 0.0, 0.0]]]))
    both = one.with_thing("cat", torch.tensor([[[0.0, 0.4, 0.6]]]))
    assert both.map.tolist() == [[[1, 0, 2]]]
    assert dict(both.names) == {1: "dog", 2: "cat"}
    assert both.moving.tolist() == [[[True, False, True]]]
    with pytest.raises(ShapeError):
        one.with_thing("cat", torch.zeros(1, 2, 3))
    for names in ({}, {1: " "}):
        with pytest.raises(ValueRangeError, match="without a name"):
            Tracks(one.map, names)
    with pytest.raises(ValueRangeError, match="without a name"):
        Tracks(-one.map, {1: "dog"})


def test_tracks_of_all_frames_or_every_fourth() -> None:
    all_frames = Tracks(torch.arange(9).view(9, 1, 1), {n: str(n) for n in range(1, 9)})
    assert expect_frames(all_frames, 3, 4).map.flatten().tolist() == [0, 4, 8]
    assert expect_frames(all_frames, 9, 4) is all_frames
    with pytest.raises(ShapeError, match="do not belong to this chunk"):
        expect_frames(all_frames, 4, 4)


def test_a_glimpse_of_a_few_points_is_known_again(make) -> None:
    """Four of two hundred points, all of one part of it, look plainer than the whole."""
    whole = actor(make, track((0, 0.0, 0.0, 3.0)), "dog", count=200, codec="test")
    (block,) = whole.cache.blocks
    part = block.take((block.tokens[:, 0] - block.tokens.mean()).abs().argsort()[:4])
    glimpse = dataclasses.replace(
        whole, cache=dataclasses.replace(whole.cache, blocks=(part,)),
        track=track((96, 0.5, 0.0, 3.0)),
    )  # fmt: skip
    assert assign([whole], [glimpse]) == [0]


def test_a_glimpse_of_nobody_in_particular_is_no_new_actor(make) -> None:
    """A few points of other looks while one of its name is missing: that is told, and no more."""
    way = track((0, 0.0, 0.0, 3.0))
    dog = actor(make, way, "dog", codec="test")
    few, many = (actor(make, way, "dog", count=n, seed=9, codec="test") for n in (4, 60))
    assert _is_glimpse(few, [dog], set())
    assert not _is_glimpse(few, [dog], {0})
    assert not _is_glimpse(many, [dog], set())
    assert not _is_glimpse(dataclasses.replace(few, name="cat"), [dog], set())
