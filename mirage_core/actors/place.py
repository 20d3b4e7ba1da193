"""Casting and directing: an actor put into a scene at its size, on its ground, along a path."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from ..cache.actor import Actor, in_actor
from ..cache.track import Behaviour, Track, heading_of
from ..cache.types import LatentCache
from ..errors import TrajectoryError
from ..validate import expect_range
from .ground import Ground, ground_of

MAX_KEYS: Final = 10_000
MAX_FRAME: Final = 10_000_000
MAX_PLACE: Final = 1e6

BODY: Final = 0.8
"""Part of an actor's width that may not meet the set: what only touches its rim is let be."""

FEET: Final = 0.15
"""Part of its height above the ground that may: thresholds, carpets, and the floor itself."""

IN_THE_WAY: Final = 3
"""Points of the set inside an actor from which on something is in its way."""

CHECKS: Final = 400
"""Places of a path that are looked at, at most."""

_KNOWN: Final = frozenset({"frame", "time", "place", "heading"})


@dataclass(frozen=True, eq=False)
class Placed:
    """A memory with one more actor.

    Attributes:
        cache: The memory.
        notes: Sentences for people.
    """

    cache: LatentCache
    notes: tuple[str, ...]


def parse_path(
    text: str, ground: Ground, fps: float, heading: float | None = None, level: float = 0.0
) -> Track | None:
    """A path from its keyframes; None for an empty text.

    The text is a JSON list of objects. ``frame`` is a frame of the shot, or ``time`` seconds;
    ``place`` is ``[x, z]`` or ``[x, y, z]`` in scene units, and is put on the ground; ``heading``
    is in degrees, 0 along z, 90 along x, and where none is given, the way ahead.

    Args:
        text: The keyframes.
        ground: What the actor stands on.
        fps: Frames per second.
        heading: In radians, where none is given, in place of the way ahead.
        level: Height along ``up`` of places of two numbers, where there is no floor.

    Raises:
        TrajectoryError: The text is no such list, or a number is missing or out of range.
    """
    if not text.strip():
        return None
    try:
        keys = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _no_path("it is not JSON", str(error)) from error
    if not isinstance(keys, list) or not 0 < len(keys) <= MAX_KEYS:
        raise _no_path("it is not a list of keyframes", type(keys).__name__)
    read = sorted((_key(key, number, fps) for number, key in enumerate(keys)), key=lambda k: k[0])
    frames = torch.tensor([frame for frame, _, _ in read])
    if bool((frames.diff() <= 0).any()):
        raise _no_path("two keyframes are at one time", frames.tolist()[:16])
    places = torch.stack([_on_ground(place, ground, level) for _, place, _ in read])
    turns = [heading if turn is None else turn for _, _, turn in read]
    headings = _headings(places, turns, ground)
    return Track(frames, places, headings, ground.up)


def _on_ground(place: list[float], ground: Ground, level: float) -> Tensor:
    """(3,) a place of 2 or 3 numbers on the floor; without one, of 2 numbers at a level."""
    if len(place) == 3:  # noqa: PLR2004
        return ground.under(torch.tensor(place, dtype=torch.float64))
    flat = torch.tensor([place[0], 0.0, place[1]], dtype=torch.float64)
    if ground.found:
        return ground.under(flat)
    return flat + (level - flat @ ground.up) * ground.up


def _key(key: object, number: int, fps: float) -> tuple[int, list[float], Any]:
    """Frame, place and heading in radians, or None, of one keyframe."""
    name = f"keyframe {number + 1}"
    if not isinstance(key, dict) or not set(key) <= _KNOWN:
        raise _no_path(f"{name} is no object of frame or time, place and heading", key)
    if ("frame" in key) == ("time" in key):
        raise _no_path(f"{name} needs a frame or a time, and not both", key)
    if "frame" in key:
        frame = round(_number(key["frame"], f"the frame of {name}", 0, MAX_FRAME))
    else:
        frame = round(_number(key["time"], f"the time of {name}", 0, MAX_FRAME / fps) * fps)
    place = key.get("place")
    if not isinstance(place, list) or len(place) not in (2, 3):
        raise _no_path(f"{name} needs a place of 2 or 3 numbers", key)
    where = [_number(one, f"the place of {name}", -MAX_PLACE, MAX_PLACE) for one in place]
    turn = key.get("heading")
    if turn is not None:
        turn = math.radians(_number(turn, f"the heading of {name}", -36000, 36000))
    return frame, where, turn


def _number(value: object, name: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _no_path(f"{name} is no number", value)
    if not low <= value <= high:
        raise _no_path(f"{name} is out of range", value)
    return float(value)


def _no_path(what: str, got: object) -> TrajectoryError:
    return TrajectoryError(
        f"The actor's path cannot be read: {what}",
        got=f"{got!s:.200}",
        expected='such as [{"frame": 0, "place": [0, 3], "heading": 90}, {"frame": 48, "place": '
        "[1, 3]}]",
    )


def _headings(places: Tensor, given: list[float | None], ground: Ground) -> Tensor:
    """(K,) headings: those given, else the way ahead, at the end the way that led there."""
    ways = places.diff(dim=0)
    ahead = torch.cat([ways, ways[-1:]]) if len(ways) else torch.zeros(1, 3, dtype=torch.float64)
    along = heading_of(ahead, ground.up)
    return torch.tensor(
        [float(along[n]) if turn is None else turn for n, turn in enumerate(given)],
        dtype=torch.float64,
    )


def place_actor(
    cache: LatentCache,
    actor: Actor,
    *,
    height: float = 0.0,
    behaviour: Behaviour = Behaviour.STAY,
    path: str = "",
    fps: float = 24.0,
    ground: Ground | None = None,
) -> Placed:
    """A memory with an actor in it, at a size, on the floor, doing something.

    Args:
        cache: The memory.
        actor: The actor; of an actor of the same name the memory keeps this one.
        height: Its height in scene units; 0 keeps its own, which is right for metric depth.
        behaviour: What it does when nobody looks.
        path: Keyframes, see `parse_path`. With another behaviour than `Behaviour.PATH` the first
            one says where it stands; without any it stands where it was seen, on the ground.
        fps: Frames per second, for keyframes in seconds.
        ground: The floor; that of the still points by default.

    Raises:
        ModelMismatchError: The actor holds what the memory does not.
        TrajectoryError: The path cannot be read.
        ValueRangeError: The height is out of range, or there is no path to follow.
    """
    expect_range("The actor's height", height, 0, MAX_PLACE)
    ground = ground or ground_of(cache)
    # What only one side is known of would be a sheet seen from its edge.
    facing = float(actor.track.headings[-1]) if actor.one_sided else None
    level = float(actor.track.positions[-1] @ ground.up)
    drawn = parse_path(path, ground, fps, facing, level)
    notes = [] if ground.found else [ground.describe()]
    if actor.one_sided and drawn is not None:
        notes.append(f"{actor.name} was seen from one side: it faces as it did then, unless told")
    if height:
        actor = actor.scaled(height / max(actor.size[1], 1e-9))
    track = dataclasses.replace(
        actor.track, positions=ground.under(actor.track.positions), up=ground.up
    )
    if drawn is not None and behaviour is not Behaviour.PATH:
        track = dataclasses.replace(
            drawn,
            frames=drawn.frames[:1],
            positions=drawn.positions[:1],
            headings=drawn.headings[:1],
        )
    actor = dataclasses.replace(actor, track=track).directed(behaviour, drawn)
    others = [one for one in cache.actors if one.name != actor.name]
    if len(others) < len(cache.actors):
        notes.append(f"{actor.name} was in the memory already: this one takes its place")
    blocked = blocked_frames(cache, actor)
    if blocked:
        frames = ", ".join(map(str, blocked[:8]))
        more = " and more" if len(blocked) > 8 else ""  # noqa: PLR2004
        notes.append(f"{actor.name} goes through the set at frames {frames}{more}")
    width, tall, length = actor.size
    notes.append(
        f"{actor.name}: {width:.2f} wide, {tall:.2f} high, {length:.2f} long, "
        f"{len(actor):,} points, {behaviour.value}"
    )
    return Placed(cache.with_actors([*others, actor]), tuple(notes))


def blocked_frames(cache: LatentCache, actor: Actor) -> list[int]:
    """Frames at which still points stand where an actor's path or track leads it."""
    way = actor.path if actor.behaviour is Behaviour.PATH and actor.path else actor.track
    first, last = int(way.frames[0]), int(way.frames[-1])
    step = max(1, math.ceil((last - first + 1) / CHECKS))
    frames = torch.arange(first, last + 1, step)
    if not len(cache):
        return []
    points = torch.cat([block.points for block in cache.blocks]).cpu()
    width, tall, length = actor.size
    half = torch.tensor([BODY * width / 2, BODY * length / 2], dtype=torch.float64)
    found = []
    for frame, pose in zip(frames.tolist(), way.poses(*way.at(frames)), strict=True):
        own = in_actor(points, pose)
        beside = (own[:, [0, 2]].abs() < half).all(dim=1)
        inside = beside & (own[:, 1] < -FEET * tall) & (own[:, 1] > -tall)
        if int(inside.sum()) >= IN_THE_WAY:
            found.append(frame)
    return found
