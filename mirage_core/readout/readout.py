"""One z-buffered projection of the memory on the latent grid of many cameras."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..cache.actor import Actor, cameras_of
from ..cache.footprints import cell_centres, in_source_camera, seen, viewers
from ..cache.types import CacheBlock, LatentCache
from ..codecs.memory_kind import MemoryKind
from ..constants import TEMPORAL_STRIDE
from ..geometry.camera import (
    PixelConvention,
    latent_size,
    project_each,
    projection_matrices,
    scale_intrinsics,
)
from ..geometry.cutouts import covers_half
from ..geometry.trajectory import Trajectory
from ..ops.best_view import BestView
from ..ops.kernels import BlockTensors
from ..ops.operators import best_winners, read_tokens, splat_keys
from ..ops.splat import winners
from ..validate import expect_frame_count, expect_range


@dataclass(frozen=True, eq=False)
class Readout:
    """What the memory shows to T cameras.

    Attributes:
        tokens: (C, T, h, w) model-space tokens, 0 where nothing is known.
        visible: (T, h, w) bool, True where a point was seen (the paper's m), an actor's included.
        depth: (T, h, w) float32 z-depth of the winning point, 0 where nothing is known.
        winner: (T, h, w) int64 index of the winning point in ``cache``, -1 where none, and where
            an actor is in front.
        cache: The memory that was read.
        trajectory: Cameras of all 4T - 3 pixel frames, at picture size.
        actor: (T, h, w) int16, which of the memory's actors is seen, -1 where none; None for a
            memory without any.
        actor_winner: (T, h, w) int64 index of the winning point among that actor's, else -1.
        actor_strength: What an actor counts for a sampler, 0 to 1, as against the still points.
    """

    tokens: Tensor
    visible: Tensor
    depth: Tensor
    winner: Tensor
    cache: LatentCache
    trajectory: Trajectory
    actor: Tensor | None = None
    actor_winner: Tensor | None = None
    actor_strength: float = 1.0

    @property
    def background(self) -> Tensor:
        """(T, h, w) bool, where a still point is seen: known, and nothing that moves."""
        return self.visible if self.actor is None else self.winner >= 0

    @property
    def weights(self) -> Tensor | None:
        """(T, h, w) float32, what each cell counts for a sampler; None where that is all or none.

        1 for still points, the actors' strength for theirs, 0 where nothing is known.
        """
        if self.actor is None or self.actor_strength in (0, 1):
            return None
        return torch.where(self.actor >= 0, self.actor_strength, self.visible.float())

    @property
    def weighed_tokens(self) -> Tensor:
        """(C, T, h, w) float32 tokens, those of actors times their strength."""
        weights = self.weights
        return self.tokens.float() if weights is None else self.tokens.float() * weights

    @property
    def latent_cameras(self) -> Trajectory:
        """The T cameras that were read: those of every fourth pixel frame."""
        return self.trajectory.select(slice(None, None, TEMPORAL_STRIDE))

    @cached_property
    def planes(self) -> tuple[Tensor, Tensor]:
        """Sub-cell offset and depth ratio of the winning points.

        (2, T, h, w) float32 offset of the token's middle from that of the cell, x then y, in cells
        from -0.5 to 0.5, and (T, h, w) float32 ``ln(z / z_seen)``: z is the depth in this
        camera and z_seen the depth in the camera that observed the point. Both are 0 where
        nothing is seen.
        """
        offset, ratio = _planes(self.cache, self.latent_cameras, self.winner)
        for number, actor, frames, cameras in placed_actors(self.cache, self.latent_cameras):
            if self.actor is None or self.actor_winner is None or self.actor_strength == 0:
                break
            mine = self.actor[frames] == number
            winner = torch.where(mine, self.actor_winner[frames], -1)
            beside, change = _planes(actor.cache, cameras, winner)
            offset[:, frames] = torch.where(mine, beside, offset[:, frames])
            ratio[frames] = torch.where(mine, change, ratio[frames])
        return offset, ratio

    @property
    def hole_rate(self) -> float:
        """Share of cells for which nothing is known."""
        return 1 - float(self.visible.float().mean())


def _planes(cache: LatentCache, cameras: Trajectory, winner: Tensor) -> tuple[Tensor, Tensor]:
    """`Readout.planes` of the winning points (T, h, w) of a memory; 0 where there is none."""
    shape = winner.shape
    offset = torch.zeros(2, *shape, device=winner.device)
    ratio = torch.zeros(shape, device=winner.device)
    view, row, column = (winner >= 0).nonzero(as_tuple=True)
    if not len(view):
        return offset, ratio
    index = winner[view, row, column]
    points = cell_centres(cache, index)
    grid = (int(shape[1]), int(shape[2]))
    here = projection_matrices(cameras.world_to_camera, grid_intrinsics(cameras, grid))
    x, y, z = project_each(points, here.double().to(points.device)[view])
    for plane, position, cell in ((0, x / z, column), (1, y / z, row)):
        inside = position - cell - cache.convention.centre
        offset[plane, view, row, column] = inside.clamp(-0.5, 0.5).float()
    observed = in_source_camera(cache, index, (2,))[:, 0]
    ratio[view, row, column] = (z / observed).log().float()
    return offset, ratio


def placed_actors(
    cache: LatentCache, cameras: Trajectory
) -> Iterator[tuple[int, Actor, list[int], Trajectory]]:
    """The actors of a memory that are anywhere at the frames of cameras.

    Yields:
        Number of the actor, the actor, which of the cameras' frames it is there for, and the
        cameras of these frames as they stand in its own frame.
    """
    for number, actor in enumerate(cache.actors):
        shown, poses = actor.poses(cameras.frame_numbers)
        frames = shown.nonzero()[:, 0].tolist()
        if frames:
            here = cameras.select(frames)
            moved = cameras_of(poses[frames], here.world_to_camera)
            yield number, actor, frames, dataclasses.replace(here, world_to_camera=moved)


def default_view(cache: LatentCache) -> BestView | None:
    """How a memory is looked at by default: at the best views of the front surface.

    None, the nearest point, for the released convention, whose checkpoints were trained so.
    """
    return None if cache.convention is PixelConvention.RELEASED else BestView()


def read_winners(
    cache: LatentCache,
    world_to_camera: Tensor,
    intrinsics: Tensor,
    size: tuple[int, int],
    *,
    view: BestView | None = None,
    finer: float = 1,
    whole_cells: bool = False,
) -> tuple[Tensor, Tensor]:
    """Winning point and depth of every cell, for cameras given on the grid itself.

    Args:
        cache: The memory.
        world_to_camera: (T, 4, 4).
        intrinsics: (T, 3, 3) in cells of the grid.
        size: (h, w) of the grid.
        view: Shows the best view of the front surface; the nearest point when None.
        finer: How many times finer the grid is than the one on which the memory was written.
        whole_cells: Leave out what covers less than half of its cell, as `read` does.

    Returns:
        (T, h, w) int64 indices, -1 where empty, and (T, h, w) float32 z-depth, 0 where empty.
    """
    shape = (len(world_to_camera), *size)
    projection = _projection(cache, world_to_camera, intrinsics)
    memory = _memory(cache, whole_cells)
    nearest_centre = cache.convention is PixelConvention.RELEASED
    if view is None:
        index, depth = winners(
            splat_keys(memory, projection, size, nearest_centre=nearest_centre)
        )
    else:
        cameras = viewers(world_to_camera, intrinsics, cache.device, finer)
        index, depth = best_winners(
            memory, seen(cache), projection, cameras, size,
            rule=view, nearest_centre=nearest_centre,
        )  # fmt: skip
    return index.view(shape), depth.view(shape)


def read_grid(
    cache: LatentCache,
    cameras: Trajectory,
    size: tuple[int, int],
    *,
    view: BestView | None = None,
    whole_cells: bool = False,
) -> tuple[Tensor, Tensor]:
    """`read_winners` for cameras at picture size, on a grid of any size over the picture."""
    return read_winners(
        cache,
        cameras.world_to_camera,
        grid_intrinsics(cameras, size),
        size,
        view=view,
        finer=size[0] * cache.stride / cameras.height,
        whole_cells=whole_cells,
    )


def _memory(cache: LatentCache, whole_cells: bool) -> BlockTensors:
    blocks = cache.blocks
    points = [_larger_parts(block) if whole_cells else block.points for block in blocks]
    return BlockTensors(points, [block.bounds for block in blocks])


def _larger_parts(block: CacheBlock) -> Tensor:
    """The block's points, those of the smaller parts of split cells at no place.

    A whole cell would show their token, which is of something else for the most part.
    """
    if block.mask is None:
        return block.points
    return torch.where(covers_half(block.mask), block.points.T, torch.nan).T


def _projection(cache: LatentCache, world_to_camera: Tensor, intrinsics: Tensor) -> Tensor:
    """Matrices on the memory's device, sent without waiting for it."""
    return projection_matrices(world_to_camera, intrinsics).to(cache.device, non_blocking=True)


def grid_intrinsics(trajectory: Trajectory, size: tuple[int, int]) -> Tensor:
    """(F, 3, 3) intrinsics of a trajectory's cameras on a grid of ``size`` = (rows, columns)."""
    return scale_intrinsics(trajectory.intrinsics, (trajectory.height, trajectory.width), size)


def read(
    cache: LatentCache,
    trajectory: Trajectory,
    view: BestView | None = None,
    actor_strength: float = 1.0,
) -> Readout:
    """Read the memory for all latent frames of a shot in one call (paper Eq. 5, 9, 10).

    Each actor stands where it is at the time of the frame; it hides what is behind it, and is
    hidden, as any points are.

    Of a cell that was split only the part that covers more of it is shown, both when they are
    equal, see `mirage_core.geometry.cutouts`.

    Args:
        cache: The memory.
        trajectory: Cameras of 4T - 3 pixel frames at picture size. Latent frame t takes the
            camera of pixel frame 4t; the grid is 16 times coarser.
        view: Shows the best view of the front surface; the nearest point, as in the paper, when
            None.
        actor_strength: What actors count for a sampler, 0 to 1; at 0 they are marked, and what is
            behind them is shown.

    Returns:
        The readout, on the memory's device, tokens in the memory's type. Of a memory of colours
        each cell has the colour of one point.

    Raises:
        ShapeError: The picture size is not a multiple of 32.
        PlanError: The number of frames is not 4n + 1.
        ValueRangeError: The strength is out of range.
    """
    expect_range("The strength of the actors", actor_strength, 0, 1)
    still = _read_still(cache, trajectory, view)
    return _with_actors(still, view, actor_strength) if cache.actors else still


def _read_still(
    cache: LatentCache, trajectory: Trajectory, view: BestView | None
) -> Readout:
    """What the still points show."""
    expect_frame_count(len(trajectory))
    size = latent_size(trajectory.width, trajectory.height)
    cameras = trajectory.select(slice(None, None, TEMPORAL_STRIDE))
    if view is not None or cache.kind is MemoryKind.COLOURS:
        return _read_winners(cache, trajectory, cameras, size, view)
    blocks = cache.blocks
    tokens, visible, depth, winner = read_tokens(
        _memory(cache, whole_cells=True)._replace(
            tokens=[block.tokens for block in blocks],
            scales=[block.scale for block in blocks if block.scale is not None],
        ),
        _projection(cache, cameras.world_to_camera, grid_intrinsics(cameras, size)),
        size,
        channels=cache.channels,
        dtype=cache.dtype,
        nearest_centre=cache.convention is PixelConvention.RELEASED,
    )
    return Readout(
        tokens=tokens,
        visible=visible,
        depth=depth,
        winner=winner,
        cache=cache,
        trajectory=trajectory,
    )


def _read_winners(
    cache: LatentCache,
    trajectory: Trajectory,
    cameras: Trajectory,
    size: tuple[int, int],
    view: BestView | None,
) -> Readout:
    winner, depth = read_grid(cache, cameras, size, view=view, whole_cells=True)
    tokens = cache.gather(winner, [block.tokens for block in cache.blocks])
    return Readout(
        tokens=tokens.permute(3, 0, 1, 2).contiguous(),
        visible=winner >= 0,
        depth=depth,
        winner=winner,
        cache=cache,
        trajectory=trajectory,
    )


def _with_actors(still: Readout, view: BestView | None, strength: float) -> Readout:
    """A readout of the still points with the actors of its memory before and behind them."""
    tokens, depth = still.tokens.clone(), still.depth.clone()
    which = torch.full(depth.shape, -1, dtype=torch.int16, device=depth.device)
    chosen = torch.full_like(still.winner, -1)
    size = (int(depth.shape[1]), int(depth.shape[2]))
    for number, actor, frames, cameras in placed_actors(still.cache, still.latent_cameras):
        winner, near = read_grid(actor.cache, cameras, size, view=view, whole_cells=True)
        # Among equal depths the newest point wins, and what moves is newer than the set.
        front = (winner >= 0) & ((depth[frames] <= 0) | (near <= depth[frames]))
        shown = actor.cache.gather(winner, [block.tokens for block in actor.cache.blocks])
        tokens[:, frames] = torch.where(front, shown.movedim(3, 0).to(tokens), tokens[:, frames])
        depth[frames] = torch.where(front, near, depth[frames])
        which[frames] = torch.where(front, number, which[frames])
        chosen[frames] = torch.where(front, winner, chosen[frames])
    if strength == 0:
        return dataclasses.replace(still, actor=which, actor_winner=chosen, actor_strength=0.0)
    return dataclasses.replace(
        still,
        tokens=tokens,
        visible=still.visible | (which >= 0),
        depth=depth,
        winner=torch.where(which >= 0, -1, still.winner),
        actor=which,
        actor_winner=chosen,
        actor_strength=strength,
    )
