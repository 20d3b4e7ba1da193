"""What moves, beside the still points: tracks, the type, files, deltas, bytes, viewers."""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_core.cache.accounting import footprint
from mirage_core.cache.actor import Actor, in_actor, in_world, placed_blocks
from mirage_core.cache.actor_io import ACTORS, actor_tensors
from mirage_core.cache.compact import compact
from mirage_core.cache.delta import apply_difference, difference
from mirage_core.cache.io import (
    block_tensors,
    cache_header,
    load_cache,
    needed_version,
    save_cache,
)
from mirage_core.cache.thin import thin
from mirage_core.cache.track import DAMPING, Behaviour, Track, heading_of
from mirage_core.cache.types import LatentCache
from mirage_core.cache.view import MOVING, STILL, view_bytes
from mirage_core.errors import (
    CacheFormatError,
    GeometryError,
    ModelMismatchError,
    ShapeError,
    ValueRangeError,
)
from mirage_core.tensor_files import HEADER_KEY
from tiny_actors import actor, cloud, track


def at(one: Actor, frame: int) -> list[float]:
    pose = one.pose(frame)
    assert pose is not None
    return pose[:3, 3].tolist()


def test_between_two_sights_it_is_on_the_way() -> None:
    way = track((0, 0.0, 0.0, 0.0), (10, 5.0, 0.0, -10.0))
    places, _ = way.at(torch.tensor([-3, 0, 4, 10, 99]))
    expected = [[0, 0, 0], [0, 0, 0], [2, 0, -4], [5, 0, -10], [5, 0, -10]]
    assert torch.allclose(places, torch.tensor(expected, dtype=torch.float64))


def test_headings_turn_the_short_way() -> None:
    way = dataclasses.replace(
        track((0, 0.0, 0.0, 0.0), (2, 0.0, 0.0, 0.0)),
        headings=torch.tensor([math.radians(170), math.radians(-170)]),
    )
    _, headings = way.at(torch.tensor([1]))
    assert float(headings[0]) == pytest.approx(math.pi)


@pytest.mark.parametrize("up", [(0.0, -1.0, 0.0), (0.3, -0.9, 0.1), (0.0, 0.0, 1.0)])
def test_a_pose_stands_upright_and_faces_its_heading(up) -> None:
    way = Track(
        torch.tensor([0]), torch.zeros(1, 3), torch.tensor([0.7]), torch.tensor(up)
    )
    pose = way.poses(*way.at(torch.tensor([0])))[0]
    assert float(torch.linalg.det(pose[:3, :3])) == pytest.approx(1)
    assert torch.allclose(-pose[:3, 1], way.up)
    assert float(heading_of(pose[None, :3, 2], way.up)[0]) == pytest.approx(0.7)


def test_a_quarter_turn_of_the_heading_is_to_the_right() -> None:
    way = track((0, 0.0, 0.0, 0.0), heading=math.pi / 2)
    front = way.poses(*way.at(torch.tensor([0])))[0, :3, 2]
    assert torch.allclose(front, torch.tensor([1.0, 0, 0], dtype=torch.float64))


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"frames": torch.tensor([3, 3])}, ValueRangeError),
        ({"frames": torch.tensor([3])}, ShapeError),
        ({"positions": torch.full((2, 3), torch.nan)}, GeometryError),
        ({"headings": torch.tensor([0.0, torch.inf])}, GeometryError),
        ({"up": torch.zeros(3)}, GeometryError),
    ],
)
def test_a_track_that_is_none(wrong, error) -> None:
    with pytest.raises(error):
        dataclasses.replace(track((0, 0.0, 0.0, 0.0), (4, 1.0, 0.0, 0.0)), **wrong)


def test_where_it_is_when_nobody_looks(make) -> None:
    way = track((0, 0.0, 0.0, 3.0), (8, 0.8, 0.0, 3.0), (40, 1.0, 0.0, 3.0), (48, 1.8, 0.0, 3.0))
    forget, stay, go_on = (
        actor(make, way, behaviour=one)
        for one in (Behaviour.FORGET, Behaviour.STAY, Behaviour.GO_ON)
    )
    assert [forget.pose(frame) is not None for frame in (-1, 0, 5, 8, 20, 44, 49)] == [
        False, True, True, True, False, True, False,
    ]  # fmt: skip
    assert at(stay, 200) == [1.8, 0.0, 3.0]
    assert at(go_on, 49)[0] == pytest.approx(1.8 + 0.1 * DAMPING * -math.expm1(-1 / DAMPING))
    assert at(go_on, 10**6)[0] == pytest.approx(1.8 + 0.1 * DAMPING)
    assert at(go_on, 48) == [1.8, 0.0, 3.0]


def test_what_goes_on_stays_on_its_ground(make) -> None:
    falling = track((0, 0.0, 0.0, 3.0), (8, 0.8, 0.4, 3.0))
    assert at(actor(make, falling, behaviour=Behaviour.GO_ON), 100)[1] == pytest.approx(0.4)


def test_what_is_gone_is_nowhere_until_it_is_seen(make) -> None:
    way = track((0, 0.0, 0.0, 3.0), (8, 0.8, 0.0, 3.0))
    for behaviour in (Behaviour.STAY, Behaviour.GO_ON):
        gone = dataclasses.replace(actor(make, way, behaviour=behaviour), gone=True)
        assert gone.pose(4) is not None
        assert gone.pose(20) is None
    directed = dataclasses.replace(gone.directed(Behaviour.PATH, way), gone=True)
    assert directed.pose(20) is not None


def test_a_path_is_followed_at_all_times(make) -> None:
    way = track((0, 0.0, 0.0, 3.0), (8, 0.8, 0.0, 3.0))
    path = track((0, 5.0, 0.0, 3.0), (10, 5.0, 0.0, 8.0))
    directed = actor(make, way).directed(Behaviour.PATH, path)
    assert at(directed, 4) == [5.0, 0.0, 5.0]
    with pytest.raises(ValueRangeError, match="no path to follow"):
        actor(make, way, behaviour=Behaviour.PATH)


def test_its_own_frame_and_the_world(make) -> None:
    pose = actor(make, track((0, 1.0, 2.0, 3.0), heading=0.5)).pose(0)
    points = make.noise(20, 3)
    assert torch.allclose(in_actor(in_world(points, pose), pose), points.double())


def test_a_scaled_actor_looks_the_same_from_a_scaled_distance(make) -> None:
    one = actor(make, track((0, 0.0, 0.0, 0.0)))
    twice = one.scaled(2)
    assert torch.allclose(torch.tensor(twice.size), 2 * torch.tensor(one.size).double().float())
    for block, larger in zip(one.cache.blocks, twice.cache.blocks, strict=True):
        seen = block.points.double() @ block.world_to_camera[0, :3, :3].T
        again = larger.points.double() @ larger.world_to_camera[0, :3, :3].T
        near, far = seen + block.world_to_camera[0, :3, 3], again + larger.world_to_camera[0, :3, 3]
        assert torch.allclose(2 * near, far, atol=1e-6)


def test_tokens_and_colours_do_not_mix(make) -> None:
    colours = LatentCache(codec="rgb", channels=3)
    with pytest.raises(ModelMismatchError, match="'dog' does not fit.*same VAE"):
        colours.with_actors([actor(make, track((0, 0.0, 0.0, 0.0)))])


@pytest.mark.parametrize("name", ["", "  ", "x" * 201])
def test_an_actor_has_a_name(make, name: str) -> None:
    with pytest.raises(ValueRangeError, match="needs a name"):
        actor(make, track((0, 0.0, 0.0, 0.0)), name)


def test_an_actor_has_points_and_no_actors(make) -> None:
    way = track((0, 0.0, 0.0, 0.0))
    with pytest.raises(ValueRangeError, match="no points"):
        Actor("dog", LatentCache(), way)
    cast = LatentCache((cloud(make),)).with_actors([actor(make, way)])
    with pytest.raises(ValueRangeError, match="holds actors itself"):
        Actor("dog", cast, way)


@pytest.fixture
def cast(make) -> LatentCache:
    path = track((0, 0.0, 0.0, 1.0), (9, 0.0, 0.0, 4.0), heading=0.3)
    one = actor(make, track((0, 0.0, 0.0, 3.0)), "Hündin", ids=(3, 8))
    two = actor(make, track((4, 1.0, 0.0, 3.0)), "cat", behaviour=Behaviour.PATH, path=path)
    return make.cache(600, 7).with_actors([one, dataclasses.replace(two, gone=True)])


def expect_equal_actors(one: LatentCache, other: LatentCache) -> None:
    assert len(one.actors) == len(other.actors)
    for a, b in zip(one.actors, other.actors, strict=True):
        assert (a.name, a.behaviour, a.ids, a.gone) == (b.name, b.behaviour, b.ids, b.gone)
        assert a.cache.fingerprint() == b.cache.fingerprint()
        for mine, theirs in ((a.track, b.track), (a.path, b.path)):
            if mine is None or theirs is None:
                assert mine is theirs
                continue
            for name, part in mine.tensors.items():
                assert torch.equal(part, theirs.tensors[name])
    assert one.fingerprint() == other.fingerprint()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int8], ids=str)
def test_files_keep_actors(cast, tmp_path: Path, dtype) -> None:
    cast = cast.to("cpu", dtype)
    assert all(one.cache.storage == dtype for one in cast.actors)
    loaded = load_cache(save_cache(tmp_path / "memory", cast))
    expect_equal_actors(loaded, cast)
    assert cache_header(cast)["version"] == 4


def test_files_without_actors_are_as_they_were(make, cast, tmp_path: Path) -> None:
    plain = make.cache(600, 7)
    emptied = cast.with_actors([])
    assert ACTORS not in cache_header(plain)
    assert cache_header(plain)["version"] == needed_version(plain.blocks) == 1
    one = save_cache(tmp_path / "a", plain).read_bytes()
    assert save_cache(tmp_path / "b", emptied).read_bytes() == one
    assert plain.fingerprint() == emptied.fingerprint() != cast.fingerprint()


def test_any_change_of_an_actor_changes_the_fingerprint(cast) -> None:
    first, *others = cast.actors
    moved = dataclasses.replace(first, track=track((0, 0.0, 0.0, 3.5)))
    prints = {cast.fingerprint()}
    for other in (
        dataclasses.replace(first, name="dog"), moved, first.directed(Behaviour.FORGET),
        dataclasses.replace(first, ids=()), first.scaled(2), dataclasses.replace(first, gone=True),
        first.directed(Behaviour.STAY, track((0, 0.0, 0.0, 0.0))),
    ):  # fmt: skip
        prints.add(cast.with_actors([other, *others]).fingerprint())
    assert len(prints) == 8


@settings(max_examples=100)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_gives_the_same_memory_or_the_agreed_error(
    make, tmp_path_factory, where: float, bit: int
) -> None:
    cache = make.cache(6).with_actors([actor(make, track((0, 0.0, 0.0, 3.0)), count=4)])
    path = save_cache(tmp_path_factory.getbasetemp() / "flipped_actor", cache)
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    path.write_bytes(content)
    try:
        loaded = load_cache(path)
    except CacheFormatError:
        return
    assert loaded.fingerprint() == cache.fingerprint()


@settings(max_examples=100)
@given(places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_give_a_memory_or_the_agreed_error(make, tmp_path_factory, places) -> None:
    """Without a digest, as a file of other hands; nothing else may come out."""
    cache = make.cache(6).with_actors([actor(make, track((0, 0.0, 0.0, 3.0)), count=4)])
    tensors = {
        **block_tensors(cache.blocks[0], "block.0"),
        **actor_tensors(cache.actors, block_tensors),
    }
    plain = {name: part.contiguous() for name, part in tensors.items()}
    content = bytearray(
        safetensors.torch.save(plain, {HEADER_KEY: json.dumps(cache_header(cache))})
    )
    for where, value in places:
        content[min(int(where * len(content)), len(content) - 1)] = value
    path = tmp_path_factory.getbasetemp() / "changed_actor.safetensors"
    path.write_bytes(content)
    try:
        load_cache(path)
    except CacheFormatError:
        return


@pytest.mark.parametrize(
    "change",
    [
        None, [], 7, {"name": 5}, {"behaviour": "fly"}, {"ids": "all"}, {"ids": [-1]},
        {"blocks": 2}, {"blocks": -1}, {"points": 59}, {"path": True}, {"path": 0}, {"name": ""},
        {"blocks": 10**9}, {"gone": 0}, {"gone": None},
    ],
)  # fmt: skip
def test_a_header_that_describes_no_actor(make, tmp_path: Path, change) -> None:
    cache = make.cache(6).with_actors([actor(make, track((0, 0.0, 0.0, 3.0)))])
    header = cache_header(cache)
    if isinstance(change, dict):
        header[ACTORS][0] |= change
    else:
        header[ACTORS] = [change]
    tensors = {
        **block_tensors(cache.blocks[0], "block.0"),
        **actor_tensors(cache.actors, block_tensors),
    }
    path = tmp_path / "a.safetensors"
    plain = {name: part.contiguous() for name, part in tensors.items()}
    path.write_bytes(safetensors.torch.save(plain, {HEADER_KEY: json.dumps(header)}))
    with pytest.raises(CacheFormatError):
        load_cache(path)


def test_changes_of_a_memory_keep_its_actors(make, cast) -> None:
    for after in (
        cast.append(make.block(5)), cast.to("cpu", torch.float16), compact(cast), thin(cast, 100),
    ):  # fmt: skip
        assert [one.name for one in after.actors] == ["Hündin", "cat"]
    assert all(one.cache.storage == torch.float16 for one in cast.to("cpu", torch.float16).actors)


def test_a_delta_tells_of_actors_that_changed(make, cast) -> None:
    grown = cast.append(make.block(5))
    assert difference(cast, grown).actors is None
    left = grown.with_actors(grown.actors[:1])
    delta = difference(cast, left)
    assert len(delta.actors) == 1
    expect_equal_actors(apply_difference(cast, delta), left)


def test_every_byte_is_accounted_for(make, cast) -> None:
    counted, still = footprint(cast), footprint(make.cache(600, 7))
    assert counted.parts == still.parts
    assert counted.points == still.points == 607
    assert counted.total == cast.nbytes == still.total + sum(one.nbytes for one in cast.actors)
    assert counted.bytes_per_point == still.bytes_per_point
    assert counted.actors > 60 * 48 * 4


def test_viewers_tell_actors_from_still_points(make, cast) -> None:
    first = cast.actors[0]
    block = placed_blocks(first, first.pose(0))[0]
    colours = torch.zeros(len(block), 3)
    still, moving = (
        view_bytes(block, colours, colours, cast.convention, 16, layer)
        for layer in (STILL, MOVING)
    )
    assert [struct.unpack_from("<6I", file, 8)[5] for file in (still, moving)] == [0, 1]
    assert still[:28] + still[32:] == moving[:28] + moving[32:]
    assert still == view_bytes(block, colours, colours, cast.convention, 16)
