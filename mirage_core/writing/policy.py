"""How observations enter the memory: write policies, as functions from memory to memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from ..cache.build import Observation, append_all
from ..cache.compact import compact
from ..cache.thin import thin
from ..cache.types import LatentCache
from ..errors import ValueRangeError
from .novelty import NoveltyRule, write_novel

WritePolicy = Literal["novelty", "append"]
WRITE_POLICIES: Final[tuple[str, ...]] = get_args(WritePolicy)


@dataclass(frozen=True)
class WriteLimits:
    """What a memory may cost, and how it is kept in order after each write.

    Attributes:
        max_points: Most points to hold, or 0 for as many as there are. Above it density is
            thinned, see `mirage_core.cache.thin.thin`.
        compact: Join small blocks, see `mirage_core.cache.compact.compact`.

    Raises:
        ValueRangeError: ``max_points`` is negative.
    """

    max_points: int = 0
    compact: bool = True

    def __post_init__(self) -> None:
        if self.max_points < 0:
            raise ValueRangeError(
                "The most points of a memory cannot be negative",
                got=self.max_points,
                expected="0 for no limit, or a number of points",
            )


@dataclass(frozen=True)
class WriteRules:
    """A write policy with its settings.

    ``append`` writes every valid cell (paper Eq. 6). ``novelty`` takes the frames one by one,
    each compared with the memory that holds the frames before it: it writes the cells that
    the memory does not show, removes points that the frame sees through, and replaces points
    of the same surface that were seen from much farther away.

    Attributes:
        policy: ``novelty`` or ``append``.
        novelty: What counts as new, for ``novelty``.
        limits: What the memory may cost.

    Raises:
        ValueRangeError: The policy is unknown.
    """

    policy: WritePolicy | str = "novelty"
    novelty: NoveltyRule = field(default_factory=NoveltyRule)
    limits: WriteLimits = field(default_factory=WriteLimits)

    def __post_init__(self) -> None:
        if self.policy not in WRITE_POLICIES:
            raise ValueRangeError(
                "The write policy is unknown",
                got=self.policy,
                expected=", ".join(WRITE_POLICIES),
            )


def write(
    cache: LatentCache,
    observation: Observation,
    rules: WriteRules | WritePolicy | str = "novelty",
    on_frame: Callable[[int, int], None] | None = None,
) -> LatentCache:
    """Write an observation under a policy; the input memory stays as it is.

    Args:
        cache: The memory. What is written takes its token type.
        observation: F latent frames with geometry.
        rules: The policy with its settings; a name alone takes the defaults.
        on_frame: Called with (done, total) after each frame; may raise to cancel.

    Returns:
        The memory after the write; the same memory when nothing changed.

    Raises:
        ValueRangeError: The policy is unknown.
    """
    if not isinstance(rules, WriteRules):
        rules = WriteRules(rules)
    if rules.policy == "append":
        written = append_all(cache, observation)
    else:
        written = write_novel(cache, observation, rules.novelty, on_frame)
    if rules.limits.max_points:
        written = thin(written, rules.limits.max_points)
    return compact(written) if rules.limits.compact else written
