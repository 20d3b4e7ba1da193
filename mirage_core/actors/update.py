"""What a finished chunk tells of actors: written to them and not to the set."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from torch import Tensor

from ..cache.actor import Actor
from ..cache.track import Behaviour
from ..cache.types import LatentCache
from ..errors import GeometryError, ValueRangeError
from ..geometry.depth import downsample_depth
from ..geometry.trajectory import Trajectory
from ..masks.tracks import Tracks
from ..readout.readout import default_view, grid_intrinsics, placed_actors, read_winners
from .build import ActorConfig, Look, MadeActor, make_actor, track_of, write_sights
from .ground import Ground, ground_of
from .recognise import GLIMPSE, THRESHOLD, assign
from .sight import locate, on_depth

SEEN_PAST: Final = 1.1
"""A frame that is so many times deeper than an actor looks past it."""

CONTRADICTED: Final = 0.7
"""Share of an actor's cells that a frame has to look past to contradict it."""

LEAST_CELLS: Final = 4
"""Cells of an actor in view below which a frame says nothing of it."""

LEAST_FRAMES: Final = 2


@dataclass(frozen=True)
class CastConfig:
    """How actors follow what was made.

    Attributes:
        actor: How points and tracks are made.
        threshold: Least score at which something is known again, see
            `mirage_core.actors.recognise`.
        behaviour: What new actors do when nobody looks.
    """

    actor: ActorConfig = field(default_factory=ActorConfig)
    threshold: float = THRESHOLD
    behaviour: Behaviour = Behaviour.STAY


@dataclass(frozen=True)
class CastReport:
    """What became of the actors in a chunk, by name.

    Attributes:
        seen: Known ones that were in view all along.
        back: Known ones that came back into view.
        new: New ones.
        left: Those that are not where they were remembered: they are not shown any more.
        notes: What was noticed of any of them.
    """

    seen: tuple[str, ...] = ()
    back: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """One line for people."""
        parts = [
            f"{words} {', '.join(names)}"
            for words, names in (
                ("in view:", self.seen), ("back in view:", self.back), ("new:", self.new),
                ("not where remembered:", self.left),
            )
            if names
        ]  # fmt: skip
        return "; ".join(["actors: " + (", ".join(parts) or "none in view"), *self.notes])


@dataclass(frozen=True, eq=False)
class Recast:
    """A memory whose actors know of a chunk.

    Attributes:
        cache: The memory.
        report: What became of them.
    """

    cache: LatentCache
    report: CastReport


def update_actors(
    cache: LatentCache,
    look: Look,
    tracks: Tracks,
    config: CastConfig | None = None,
    ground: Ground | None = None,
) -> Recast:
    """Write what moves in some frames to the actors of a memory; its still points stay.

    A thing is the actor of the same lasting number; else the one of its name whose place and looks
    fit best, above a threshold; else a new one. Of two things in view at once no two are one actor.

    Args:
        cache: The memory.
        look: The frames, in the order of time.
        tracks: What moves in them, for each frame.
        config: How actors are made and known again.
        ground: The floor; that of the still points by default.

    Raises:
        ShapeError: Tracks and frames do not belong together.
    """
    config = config or CastConfig()
    ground = ground or ground_of(cache)
    things, masks, notes = _things(cache, look, tracks, ground, config)
    whose = assign(cache.actors, [made.actor for made in things], config.threshold)
    actors = list(cache.actors)
    names: dict[str, list[str]] = {"seen": [], "back": [], "new": []}
    for made, mask, known in zip(things, masks, whose, strict=True):
        if known < 0 and _is_glimpse(made.actor, cache.actors, set(whose)):
            notes = (*notes, f"{made.actor.name}: too little is seen of it to tell who it is")
            continue
        if known < 0:
            actors.append(made.actor)
            names["new"].append(made.actor.name)
            continue
        before = actors[known]
        actors[known] = _grown(before, made.actor, look, mask, ground, config)
        missed = int(look.frames[0]) - int(before.track.frames[-1])
        step = int(look.frames.diff().max()) if len(look.frames) > 1 else 1
        names["seen" if missed <= 2 * step else "back"].append(before.name)
    actors, left = _without_gone(actors, set(whose), len(cache.actors), look)
    report = CastReport(
        tuple(names["seen"]), tuple(names["back"]), tuple(names["new"]), left, notes
    )
    return Recast(cache.with_actors(actors), report)


def _is_glimpse(seen: Actor, known: Sequence[Actor], matched: set[int]) -> bool:
    """Whether a thing may well be a missing actor of its name, of which hardly anything is seen."""
    missing = (one.name.casefold() for number, one in enumerate(known) if number not in matched)
    return len(seen) < GLIMPSE and seen.name.casefold() in missing


def _things(
    cache: LatentCache, look: Look, tracks: Tracks, ground: Ground, config: CastConfig
) -> tuple[list[MadeActor], list[Tensor], tuple[str, ...]]:
    """Each thing in view as an actor of its own, its mask, and what was noticed."""
    things, masks, notes = [], [], []
    for number in tracks.numbers:
        name = tracks.names[number]
        mask = on_depth(tracks.of(number), look.geometry)
        ids = (number,) if number in tracks.lasting else ()
        try:
            made = make_actor(
                name, look, mask, cache, ground, config.actor, ids=ids, behaviour=config.behaviour
            )
        except (GeometryError, ValueRangeError) as error:
            notes.append(f"{name}: {error.what[:1].lower()}{error.what[1:]}")
            continue
        things.append(made)
        masks.append(mask)
        notes += [f"{name}: {note}" for note in made.notes[1:]]
    if things and not ground.found:
        notes.append(ground.describe())
    return things, masks, tuple(notes)


def _grown(
    known: Actor, seen: Actor, look: Look, mask: Tensor, ground: Ground, config: CastConfig
) -> Actor:
    """An actor that was seen again, with the new part of its track and its new sides."""
    sights = locate(look.geometry, look.world_to_camera, mask, ground)
    heading = float(known.track.headings[-1])
    track = track_of(sights, look.frames, ground, config.actor, heading)
    points = write_sights(known.cache, look, mask, sights, track, config.actor)
    ids = tuple(dict.fromkeys((*known.ids, *seen.ids)))
    joined = known.track.joined(track)
    return dataclasses.replace(known, cache=points, track=joined, ids=ids, gone=False)


def _without_gone(
    actors: list[Actor], matched: set[int], known: int, look: Look
) -> tuple[list[Actor], tuple[str, ...]]:
    """The actors, of which those that frames look past are gone, and their names.

    Where an actor was told to be, it stays.
    """
    left = []
    for number in range(known):
        actor = actors[number]
        told = actor.gone or actor.behaviour in (Behaviour.PATH, Behaviour.FORGET)
        if number not in matched and not told and contradicted(actor, look):
            actors[number] = dataclasses.replace(actor, gone=True)
            left.append(actor.name)
    return actors, tuple(left)


def contradicted(actor: Actor, look: Look) -> bool:
    """Whether frames look past an actor at the place where it would be then."""
    size = (int(look.tokens.shape[2]), int(look.tokens.shape[3]))
    rows, columns = look.geometry.size
    cameras = Trajectory(
        look.world_to_camera, look.geometry.intrinsics, columns, rows, numbers=look.frames
    )
    alone = LatentCache(
        (), actor.cache.convention, actor.cache.codec, actor.cache.channels, (actor,)
    )
    depth = downsample_depth(look.geometry.depth, size, "nearest", actor.cache.convention)
    against = for_it = 0
    for _, _, frames, moved in placed_actors(alone, cameras):
        winner, near = read_winners(
            actor.cache, moved.world_to_camera, grid_intrinsics(moved, size), size,
            view=default_view(actor.cache),
        )  # fmt: skip
        shown = winner >= 0
        past = shown & (depth[frames].to(near) > SEEN_PAST * near)
        count = shown.flatten(1).sum(dim=1)
        share = past.flatten(1).sum(dim=1) / count.clamp_min(1)
        in_view = count >= LEAST_CELLS
        against += int((in_view & (share > CONTRADICTED)).sum())
        for_it += int((in_view & (share <= CONTRADICTED)).sum())
    return against >= LEAST_FRAMES and against > for_it

