"""Motion that nobody named: new observations that other views of the scene contradict.

A new surface in front of a remembered one is no contradiction by itself: the side of a box that
comes into view as the camera passes looks just so. It is one when another camera looked at that
very place and saw past it. Then something stands there which did not, or no longer does.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cache.build import Observation
from ..cache.types import LatentCache
from ..geometry.camera import PixelConvention, project_to_all, projection_matrices
from ..geometry.lift import lift
from ..geometry.masks import grow
from ..ops.best_view import BestView
from ..readout.readout import read_winners
from ..validate import expect_range
from .views import SourceViews, mean_tokens, memory_source_views


@dataclass(frozen=True)
class ConsistencyConfig:
    """When a new observation counts as inconsistent with what other views saw.

    Attributes:
        depth: Share of the depth by which another view must see past a place.
        votes: Views that must agree. With two, one bad frame rejects nothing.
        share: Least share of inconsistent views among all that saw the place.
        token: Distance of tokens (root mean square over the channels of 3 x 3 means, model
            space; of colours, 255 levels) beyond which the same place looks different; None
            looks at depth alone.
        grow: Cells by which what is rejected grows: outlines mix two surfaces, and fit neither.

    Raises:
        ValueRangeError: A setting is out of range.
    """

    depth: float = 0.10
    votes: int = 2
    share: float = 0.15
    token: float | None = None
    grow: int = 1

    def __post_init__(self) -> None:
        expect_range("The depth inconsistency", self.depth, 0.01, 1.0)
        expect_range("The number of inconsistent views", self.votes, 1, 64)
        expect_range("The share of inconsistent views", self.share, 0.0, 1.0)
        expect_range("The growth of rejected cells", self.grow, 0, 64)
        if self.token is not None:
            expect_range("The token inconsistency", self.token, 0.01, 100.0)


@dataclass(frozen=True, eq=False)
class Inconsistencies:
    """What does not fit together.

    Attributes:
        rejected: (F, h, w) bool, cells of the observation that must not be written.
        gone: (M,) int64, points of the memory that successive new frames see past, ascending.
    """

    rejected: Tensor
    gone: Tensor


def find_inconsistent(
    cache: LatentCache,
    observation: Observation,
    views: SourceViews,
    config: ConsistencyConfig | None = None,
    first: int = 0,
    view: BestView | None = None,
) -> Inconsistencies:
    """Compare new observations with each other and against the memory.

    Everything that must be known of earlier chunks is read from the memory at the cameras that
    filled it, so nothing else has to be carried from chunk to chunk.

    Args:
        cache: The memory before the update.
        observation: F new latent frames.
        views: All frames of the chunk, those of the observation included.
        config: Thresholds.
        first: Number of the observation's first frame among ``views``.
        view: How the memory is looked at; the nearest points when None.

    Returns:
        Cells to reject, and remembered points that are gone.
    """
    config = config or ConsistencyConfig()
    size = (int(observation.depth.shape[1]), int(observation.depth.shape[2]))
    groups = [views]
    if cache.blocks:
        asked = observation.world_to_camera, observation.frames, size
        groups.append(memory_source_views(cache, *asked, view=view))
    points = lift(
        observation.depth, observation.intrinsics, observation.world_to_camera, cache.convention,
        observation.beside,
    )  # fmt: skip
    majority = dataclasses.replace(config, share=max(config.share, 0.5))
    known = observation.depth > 0
    own = mean_tokens(observation.tokens, known)
    rejected = torch.zeros_like(known)
    for frame in range(len(known)):
        verdicts = [_ask(points[frame], group, cache.convention, config) for group in groups]
        for verdict in verdicts[:1]:
            verdict.past[first + frame] = verdict.seen[first + frame] = False
        rejected[frame] = _enough([v.past for v in verdicts], [v.seen for v in verdicts], config)
        if config.token is not None:
            other = [
                _differs(own[:, frame], group, verdict, config.token)
                for group, verdict in zip(groups, verdicts, strict=True)
            ]
            same = [v.seen & ~d for v, d in zip(verdicts, other, strict=True)]
            rejected[frame] |= _enough(other, same, majority)
    rejected = grow((rejected & known).float(), config.grow) > 0
    rejected &= known
    return Inconsistencies(rejected, _gone(cache, observation, views, config, first, view))


@dataclass(frozen=True, eq=False)
class _Verdict:
    """What S views say of points: (S, h, w) each; ``cell`` is on the latent grid."""

    past: Tensor
    seen: Tensor
    cell: Tensor


def _ask(
    points: Tensor, views: SourceViews, convention: PixelConvention, config: ConsistencyConfig
) -> _Verdict:
    """Which views see past points (h, w, 3), and which see a surface there."""
    rows, cols = views.nearest.shape[1:]
    detail = views.detail
    projection = projection_matrices(views.world_to_camera, views.intrinsics).to(points.device)
    flat = points.reshape(-1, 3)
    x, y, z = project_to_all(flat, projection)
    safe = z.clamp_min(1e-6)
    # Depth maps lie where the picture lies: the released convention is half a cell beside.
    beside = 0.5 - convention.centre
    u, v = (x / safe + beside) * detail, (y / safe + beside) * detail
    inside = (z > 0) & (v >= 0) & (v < rows) & (u >= 0) & (u < cols)
    row, column = (torch.where(inside, axis, 0.0).floor().long() for axis in (v, u))
    # The corner of four places that is nearest to the point.
    corner = [torch.where(inside, axis, 0.0).round().long() for axis in (v, u)]
    place = corner[0] * (cols + 1) + corner[1]
    near, far = (maps.to(points.device).flatten(1).gather(1, place) for maps in views.around)
    known = inside & (far > 0)
    past = known & (near > z * (1 + config.depth))
    seen = known & (near <= z * (1 + config.depth)) & (far >= z * (1 - config.depth))
    cell = row // detail * (cols // detail) + column // detail
    shape = (len(views), *points.shape[:2])
    return _Verdict(past.view(shape), seen.view(shape), cell.view(shape))


def _enough(
    against: list[Tensor], agreeing: list[Tensor], config: ConsistencyConfig
) -> Tensor:
    """(h, w) bool: enough views (S, h, w) speak against a cell."""
    votes = torch.cat(against).sum(0)
    return (votes >= config.votes) & (
        votes >= config.share * (votes + torch.cat(agreeing).sum(0))
    )


def _differs(own: Tensor, views: SourceViews, verdict: _Verdict, threshold: float) -> Tensor:
    """(S, h, w) bool: the place is seen, but looks unlike the new tokens (C, h, w)."""
    tokens = views.smooth_tokens.to(own.device).flatten(2)
    cell = verdict.cell.flatten(1)
    theirs = tokens.gather(2, cell[None].expand(len(tokens), -1, -1)).unflatten(2, own.shape[1:])
    known = views.known.to(own.device).flatten(1).gather(1, cell).view_as(verdict.seen)
    distance = (theirs - own[:, None]).square().mean(0).sqrt()
    return verdict.seen & known & (distance > threshold)


def _gone(
    cache: LatentCache,
    observation: Observation,
    views: SourceViews,
    config: ConsistencyConfig,
    first: int,
    view: BestView | None,
) -> Tensor:
    """Remembered points that new frames see past, in as many frames as must agree."""
    size = (int(observation.depth.shape[1]), int(observation.depth.shape[2]))
    winner, _ = read_winners(
        cache, observation.world_to_camera, observation.intrinsics, size, view=view
    )
    shown = winner[winner >= 0].unique()
    if not len(shown):
        return shown
    points = cache.gather(shown, [block.points for block in cache.blocks])
    verdict = _ask(points[None].to(views.nearest.device), views, cache.convention, config)
    new = slice(first, first + len(observation.depth))
    votes = verdict.past[new, 0].sum(0)
    agreeing = verdict.seen[new, 0].sum(0)
    enough = (votes >= config.votes) & (votes > agreeing)
    return shown[enough.to(shown.device)]


def remove_points(cache: LatentCache, points: Tensor) -> LatentCache:
    """The memory without some of its points, such as those that are gone.

    Args:
        cache: The memory; it stays as it is.
        points: (M,) int64 indices of points in it.

    Returns:
        A memory that shares the blocks which lose nothing; the same one for no points.
    """
    if not len(points):
        return cache
    blocks = []
    for block, start in zip(cache.blocks, cache.offsets, strict=False):
        mine = points[(points >= start) & (points < start + len(block))] - start
        keep = torch.ones(len(block), dtype=torch.bool, device=block.points.device)
        keep[mine.to(keep.device)] = False
        blocks.append(block.take(keep) if len(mine) else block)
    return dataclasses.replace(cache, blocks=tuple(block for block in blocks if len(block)))
