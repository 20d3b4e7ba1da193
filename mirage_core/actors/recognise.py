"""Which actor a thing is that came into view: by its number, else by name, place and looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from ..cache.actor import Actor
from ..cache.track import Behaviour

THRESHOLD: Final = 0.4
"""Least score of an actor that is known again; below it a thing is a new one."""

STRIDE: Final = 0.03
"""Part of its height that something may go in one frame while nobody looks."""

FLAT: Final = 0.1
"""Part of the mean variance that even a channel without any has."""

GLIMPSE: Final = 6
"""Of what fewer points are seen than this, too little is seen to call it new while one of its name
is missing."""

PLACE: Final = 0.5
"""What the place counts: what stands elsewhere and looks the same has so much less of a score."""


def likeness(one: Actor, other: Actor) -> float:
    """How alike two actors look, 1 for the same tokens, towards 0.

    The distance between the means of their tokens or colours is measured, channel by channel, in
    the variance of the more varied of them: so the kind of token does not matter, and a glimpse of
    a few points is not taken for something plain. Channels count by how far apart they are.
    """
    a, b = (_values(actor) for actor in (one, other))
    variance = torch.maximum(a.var(dim=0, correction=0), b.var(dim=0, correction=0))
    variance = (variance + FLAT * variance.mean()).clamp_min(1e-12)
    apart = (a.mean(dim=0) - b.mean(dim=0)).square()
    distance = float((apart.square() / variance).sum() / apart.sum().clamp_min(1e-12))
    return 1 / (1 + distance / 2)


def nearness(known: Actor, seen: Actor) -> float:
    """How well the place at which something came into view fits an actor, 1 at its place, to 0.

    It may have gone a way meanwhile, the longer the more time has passed.
    """
    first = seen.track.frames[:1]
    expected = _expected(known, first)
    away = max(0, int(first) - int(known.track.frames[-1]))
    speed = max(float(known.track.velocity().norm()), STRIDE * known.size[1])
    reach = max(known.size[0], known.size[2], 1e-9) + speed * away
    apart = float((seen.track.positions[0] - expected).norm())
    return float(torch.exp(torch.tensor(-0.5 * (apart / reach) ** 2)))


def _expected(known: Actor, frame: Tensor) -> Tensor:
    if known.behaviour is Behaviour.PATH and known.path is not None:
        return known.path.at(frame)[0][0]
    places = known.track.going_on if known.behaviour is Behaviour.GO_ON else known.track.at
    return places(frame)[0][0]


def score(known: Actor, seen: Actor) -> float:
    """How sure it is that two are one: 0 for other names, 2 for the same lasting number."""
    if known.name.casefold() != seen.name.casefold():
        return 0.0
    if set(known.ids) & set(seen.ids):
        return 2.0
    return likeness(known, seen) * (1 - PLACE + PLACE * nearness(known, seen))


def assign(
    known: Sequence[Actor], seen: Sequence[Actor], threshold: float = THRESHOLD
) -> list[int]:
    """Which actor each thing is, -1 for a new one; no actor is two things at once.

    Args:
        known: The actors of the memory.
        seen: What is in view now, each made as an actor, with those of its numbers that last.
        threshold: Least score.
    """
    from scipy.optimize import linear_sum_assignment

    found = [-1] * len(seen)
    if not known or not seen:
        return found
    scores = torch.tensor([[score(one, other) for one in known] for other in seen])
    rows, columns = linear_sum_assignment(scores.numpy(), maximize=True)
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if float(scores[row, column]) >= threshold:
            found[row] = column
    return found


def _values(actor: Actor) -> Tensor:
    return torch.cat([block.values for block in actor.cache.blocks]).double().cpu()
