"""Casting and directing: size, ground, paths, walls."""

from __future__ import annotations

import math

import pytest
import torch

from mirage_core.actors.build import make_actor
from mirage_core.actors.ground import Ground, ground_of
from mirage_core.actors.place import parse_path, place_actor
from mirage_core.actors.sight import on_depth
from mirage_core.cache.actor import Actor
from mirage_core.cache.track import Behaviour
from mirage_core.cache.types import LatentCache
from mirage_core.errors import ModelMismatchError, TrajectoryError, ValueRangeError
from tiny_actors import FLOOR, Box, Hall

GROUND = Ground(torch.tensor([0.0, -1, 0], dtype=torch.float64), -FLOOR)


@pytest.fixture(scope="module")
def person(make) -> Actor:
    """From another picture, half as large as here, as its depth is in other units."""
    hall = Hall.of(make, [[Box(0.4, 3.0, half=0.15, height=0.8)]])
    mask = on_depth(hall.numbers == 1, hall.geometry)
    return make_actor("person", hall.look, mask, hall.memory, ground_of(hall.memory)).actor


@pytest.fixture(scope="module")
def scene(make) -> LatentCache:
    return Hall.of(make, [[]]).memory


def test_it_is_scaled_and_stands_on_the_ground(person, scene) -> None:
    placed = place_actor(scene, person, height=1.6, path='[{"frame": 0, "place": [1, 4]}]')
    (actor,) = placed.cache.actors
    assert actor.size[1] == pytest.approx(1.6, rel=1e-3)
    assert actor.size[0] == pytest.approx(2 * person.size[0], rel=0.05)
    pose = actor.pose(77)
    assert pose[:3, 3].tolist() == pytest.approx([1.0, FLOOR, 4.0], abs=0.03)
    assert "1.60 high" in placed.notes[-1]


def test_without_a_height_it_keeps_its_size(person, scene) -> None:
    (actor,) = place_actor(scene, person).cache.actors
    assert actor.size == pytest.approx(person.size)
    assert actor.behaviour is Behaviour.STAY
    assert float(actor.pose(0)[1, 3]) == pytest.approx(FLOOR, abs=0.03)


def test_a_path_of_keyframes() -> None:
    text = """[{"time": 2, "place": [1, 9, 3]}, {"frame": 0, "place": [0, 3], "heading": 90},
               {"frame": 72, "place": [1, 5]}]"""
    path = parse_path(text, GROUND, 24.0)
    assert path.frames.tolist() == [0, 48, 72]
    expected = [[0, FLOOR, 3], [1, FLOOR, 3], [1, FLOOR, 5]]
    assert torch.allclose(path.positions, torch.tensor(expected, dtype=torch.float64))
    # The second and the third face where it goes.
    assert path.headings.tolist() == pytest.approx([math.pi / 2, 0, 0], abs=1e-9)


def test_no_path() -> None:
    assert parse_path("  ", GROUND, 24.0) is None


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", "{}", "7", "[7]", "null", "[" * 100_000,
        '[{"place": [0, 1]}]', '[{"frame": 0, "time": 0, "place": [0, 1]}]',
        '[{"frame": 0}]', '[{"frame": 0, "place": 3}]', '[{"frame": 0, "place": [1]}]',
        '[{"frame": 0, "place": [1, true]}]', '[{"frame": 0, "place": [1, NaN]}]',
        '[{"frame": 0, "place": [1, Infinity]}]', '[{"frame": -1, "place": [1, 1]}]',
        '[{"frame": "0", "place": [1, 1]}]', '[{"frame": 1e400, "place": [1, 1]}]',
        '[{"frame": 0, "place": [1, 1], "heading": "left"}]',
        '[{"frame": 0, "place": [1, 1], "speed": 3}]',
        '[{"frame": 4, "place": [1, 1]}, {"frame": 4.2, "place": [2, 1]}]',
    ],
)  # fmt: skip
def test_a_path_that_is_none(text: str) -> None:
    with pytest.raises(TrajectoryError, match="path cannot be read"):
        parse_path(text, GROUND, 24.0)


def test_what_was_seen_from_one_side_keeps_facing_as_it_did(person, scene, make) -> None:
    text = '[{"frame": 0, "place": [-1, 4]}, {"frame": 40, "place": [1, 4]}]'
    placed = place_actor(scene, person, behaviour=Behaviour.PATH, path=text)
    (actor,) = placed.cache.actors
    assert actor.path.headings.tolist() == [float(person.track.headings[0])] * 2
    assert any("seen from one side" in note for note in placed.notes)
    told = text.replace("[-1, 4]", '[-1, 4], "heading": 0')
    (turned,) = place_actor(scene, person, behaviour=Behaviour.PATH, path=told).cache.actors
    assert float(turned.path.headings[0]) == 0
    hall = Hall.of(make, [[Box(-0.9 + 0.3 * n, 3.5)] for n in range(7)])
    mask = on_depth(hall.numbers == 1, hall.geometry)
    many = make_actor("box", hall.look, mask, hall.memory, ground_of(hall.memory)).actor
    (ahead,) = place_actor(scene, many, behaviour=Behaviour.PATH, path=text).cache.actors
    assert ahead.path.headings.tolist() == pytest.approx([math.pi / 2] * 2, abs=1e-6)


def test_directed_along_a_path(person, scene) -> None:
    text = '[{"frame": 0, "place": [-1, 4]}, {"frame": 40, "place": [1, 4]}]'
    (actor,) = place_actor(scene, person, behaviour=Behaviour.PATH, path=text).cache.actors
    assert actor.pose(20)[:3, 3].tolist() == pytest.approx([0.0, FLOOR, 4.0], abs=0.03)
    with pytest.raises(ValueRangeError, match="no path to follow"):
        place_actor(scene, person, behaviour=Behaviour.PATH)


def test_a_path_through_a_wall_is_told_and_not_refused(person, scene) -> None:
    text = '[{"frame": 0, "place": [0, 4]}, {"frame": 40, "place": [0, 8]}]'
    placed = place_actor(scene, person, behaviour=Behaviour.PATH, path=text)
    (note,) = [note for note in placed.notes if "goes through the set" in note]
    frames = [int(part) for part in note.split("frames ")[1].split(" and")[0].split(",")]
    # The wall is at 6.
    assert all(17 <= frame <= 23 for frame in frames)
    assert len(placed.cache.actors) == 1
    free = '[{"frame": 0, "place": [0, 3]}, {"frame": 40, "place": [0, 5]}]'
    clear = place_actor(scene, person, behaviour=Behaviour.PATH, path=free)
    assert not any("goes through" in note for note in clear.notes)


def test_the_same_name_again_takes_its_place(person, scene) -> None:
    once = place_actor(scene, person).cache
    twice = place_actor(once, person)
    assert len(twice.cache.actors) == 1
    assert any("takes its place" in note for note in twice.notes)


def test_an_actor_of_tokens_in_a_memory_of_colours(make, person) -> None:
    with pytest.raises(ModelMismatchError, match="'person' does not fit"):
        place_actor(make.cache(100), person)


def test_a_scene_without_a_floor(person) -> None:
    nothing = LatentCache((), codec="rgb", channels=3)
    placed = place_actor(nothing, person)
    assert any("no floor found" in note for note in placed.notes)
    assert placed.cache.actors[0].pose(0) is not None
    # Its own feet say how far below the camera it stands.
    text = '[{"frame": 0, "place": [1, 4]}]'
    (there,) = place_actor(nothing, person, path=text).cache.actors
    assert there.pose(0)[:3, 3].tolist() == pytest.approx([1.0, FLOOR, 4.0], abs=0.03)
