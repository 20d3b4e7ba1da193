"""Which cells of an observation enter the memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, get_args

from torch import Tensor

from ..cache.build import Observation, append_all, make_block, merge_blocks
from ..cache.types import LatentCache
from ..errors import ValueRangeError
from ..readout.render import read_winners

WritePolicy = Literal["novelty", "append"]
WRITE_POLICIES: Final[tuple[str, ...]] = get_args(WritePolicy)

NEARER_SURFACE: Final = 0.10
"""A cell is new when it is nearer by this share than what the memory shows there."""


def write(
    cache: LatentCache,
    observation: Observation,
    policy: WritePolicy | str,
    on_frame: Callable[[int, int], None] | None = None,
) -> LatentCache:
    """Write an observation under a policy; the input memory stays as it is.

    ``append`` writes every valid cell (paper Eq. 6). ``novelty`` writes only cells that the
    memory, with the frames before already in it, does not show: empty cells, and cells whose
    surface lies more than 10 % in front of the remembered one.

    Args:
        cache: The memory.
        observation: F latent frames with geometry.
        policy: ``append`` or ``novelty``.
        on_frame: Called with (done, total) after each frame; may raise to cancel.

    Returns:
        The memory with one block more, or the same memory when nothing was new.

    Raises:
        ValueRangeError: The policy is unknown.
    """
    if policy == "append":
        return append_all(cache, observation)
    if policy != "novelty":
        raise ValueRangeError(
            "The write policy is unknown", got=policy, expected=", ".join(WRITE_POLICIES)
        )
    working, fresh = cache, []
    total = len(observation.depth)
    for frame in range(total):
        one = _frame(observation, frame)
        block = make_block(one, cache.convention, novel_cells(working, one))
        if len(block):
            working = working.append(block)
            fresh.append(working.blocks[-1])
        if on_frame is not None:
            on_frame(frame + 1, total)
    return cache.append(merge_blocks(fresh)) if fresh else cache


def novel_cells(cache: LatentCache, observation: Observation) -> Tensor:
    """(F, h, w) bool: cells of an observation that the memory does not show yet."""
    size = (int(observation.depth.shape[1]), int(observation.depth.shape[2]))
    winner, known = read_winners(
        cache, observation.world_to_camera, observation.intrinsics, size
    )
    in_front = observation.depth < known.to(observation.depth.device) * (1 - NEARER_SURFACE)
    return (winner < 0).to(in_front.device) | in_front


def _frame(observation: Observation, frame: int) -> Observation:
    only = slice(frame, frame + 1)
    return Observation(
        tokens=observation.tokens[:, only],
        depth=observation.depth[only],
        world_to_camera=observation.world_to_camera[only],
        intrinsics=observation.intrinsics[only],
        frames=observation.frames[only],
    )
