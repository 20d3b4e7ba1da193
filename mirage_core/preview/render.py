"""Drawing what a memory shows: every pixel frame of a shot, from tokens or from colours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..cache.footprints import in_source_camera, seen, source_cameras, viewers
from ..cache.types import LatentCache
from ..codecs.memory_kind import Drawer, MemoryKind
from ..constants import TEMPORAL_STRIDE
from ..errors import ModelMismatchError
from ..geometry.camera import latent_size, project_each
from ..geometry.cutouts import mask_centre
from ..geometry.trajectory import Trajectory
from ..geometry.transform import invert_rigid
from ..ops.best_view import BestView, view_bins
from ..readout.readout import (
    default_view,
    grid_intrinsics,
    placed_actors,
    read_grid,
    read_winners,
)
from ..validate import expect_range, expect_shape
from .fill import fill_tokens_and_depth
from .placement import Drawn, PlacedPatches, at_least_a_pixel, draw

FINER = 2
"""Points are chosen on a grid this many times finer than the one on which they were written, so
that patches which became smaller than a cell still cover it."""

RIM = FINER
"""Cells of that grid around the picture, for colours: points beside it reach into it."""

BATCH_PIXELS = 1 << 18
"""About so many pixels are drawn in one go: small pictures together, large ones alone."""


@dataclass(frozen=True, eq=False)
class Preview:
    """A drawn shot.

    Attributes:
        frames: (F, H, W, 3) float32 in 0..1.
        distance: (F, H, W) float32 z-depth of every frame, 0 where no patch lies.
        actor: (F, H, W) int16, which of the memory's actors is seen, -1 where none; None for a
            memory without any.
    """

    frames: Tensor
    distance: Tensor
    actor: Tensor | None = None

    @property
    def depth(self) -> Tensor:
        """(T, H, W) float32 z-depth of every fourth frame, 0 where no patch lies."""
        return self.distance[::TEMPORAL_STRIDE]

    @property
    def holes(self) -> Tensor:
        """(F, H, W) bool, where the memory shows no still point: nothing, or what moves."""
        empty = self.distance <= 0
        return empty if self.actor is None else empty | (self.actor >= 0)

    def unknown(self, actor_strength: float = 1.0) -> Tensor:
        """(F, H, W) float32, how far each pixel is to be made anew.

        1 where the memory shows nothing, 0 at still points, 1 less the strength at actors.

        Raises:
            ValueRangeError: The strength is not within 0 to 1.
        """
        expect_range("The strength of the actors", actor_strength, 0, 1)
        if self.actor is None:
            return self.holes.float()
        empty = (self.distance <= 0).float()
        return torch.where(self.actor >= 0, 1 - actor_strength, empty)


def render_preview(
    cache: LatentCache,
    trajectory: Trajectory,
    codec: Drawer,
    on_frame: Callable[[int, int], None] | None = None,
    background: Tensor | None = None,
    view: BestView | Literal["default"] | None = "default",
) -> Preview:
    """Draw what the memory holds for every camera; holes are filled with smooth colour.

    Actors stand where they are at the time of each frame. Smooth colour is that of the set.

    Args:
        cache: A memory of tokens that ``codec`` made from single pictures, or of colours.
        trajectory: F = 4T - 3 cameras at picture size.
        codec: What draws the points, see `mirage_core.codecs.memory_kind.memory_drawer`.
        on_frame: Called with (done, total) after each frame or few, and between the stages of
            one; may raise to cancel.
        background: (F, H, W, 3) frames in 0..1 that show in holes in place of smooth colour, such
            as those of a video model.
        view: Shows the best views of the front surface, mixed; the nearest points, of which those
            seen first cover the others, when None. By default
            `mirage_core.readout.readout.default_view` decides.

    Raises:
        ModelMismatchError: The memory's points are not for this codec to draw.
        ShapeError: The background has another size than the shot.
    """
    _expect_drawn_by(codec, cache)
    if background is not None:
        expect_shape(
            "The background", background, "F H W 3",
            F=len(trajectory), H=trajectory.height, W=trajectory.width,
        )  # fmt: skip
    view = default_view(cache) if view == "default" else view
    shape = (len(trajectory), trajectory.height, trajectory.width)
    # Made as a whole: pictures that are joined at the end would take twice the memory.
    frames = torch.empty(*shape, 3, device=cache.device)
    distances = torch.empty(shape, device=cache.device)
    actors = None
    if cache.actors:
        actors = torch.full(shape, -1, dtype=torch.int16, device=cache.device)
    together = max(1, BATCH_PIXELS // (trajectory.width * trajectory.height))
    for start in range(0, len(trajectory), together):
        numbers = range(start, min(len(trajectory), start + together))
        behind = None if background is None else background[numbers.start : numbers.stop]

        def stage(done: int = numbers.start) -> None:
            if on_frame is not None:
                on_frame(done, len(trajectory))

        cameras = trajectory.select(list(numbers))
        pictures, maps, _ = _render_frames(cache, cameras, codec, behind, view, stage)
        if actors is not None:
            pictures, maps, seen_actors = _with_actors(
                (pictures, maps), cache, cameras, codec, view, stage
            )
            actors[start : numbers.stop] = seen_actors
        frames[start : numbers.stop], distances[start : numbers.stop] = pictures, maps
        stage(numbers.stop)
    return Preview(frames, distances, actors)


def _expect_drawn_by(codec: Drawer, cache: LatentCache) -> None:
    drawn = MemoryKind.of(codec.name)
    if drawn is not cache.kind or (drawn is MemoryKind.COLOURS and codec.name != cache.codec):
        raise ModelMismatchError(
            "The memory cannot be drawn by this codec",
            got=f"a memory of {cache.kind.value}, {cache.codec!r}",
            expected=f"one of {codec.name!r}",
            fix="Draw it by what memory_drawer gives for the memory's codec",
        )


def _render_frames(
    cache: LatentCache,
    cameras: Trajectory,
    codec: Drawer,
    behind: Tensor | None,
    view: BestView | None,
    stage: Callable[[], None],
) -> Drawn:
    """Pictures in 0..1 of some cameras."""
    winner = _drawn_points(cache, cameras, codec, view)
    stage()
    if behind is None:
        background = _backgrounds(cache, cameras, codec, view)
    else:
        background = behind.to(winner.device, torch.float32)
    stage()
    number = torch.arange(len(winner), device=winner.device)[:, None, None].expand_as(winner)
    shown = winner >= 0
    # Each point once for each camera that sees it.
    pairs = (number[shown] * len(cache) + winner[shown]).unique() if len(cache) else winner[shown]
    if len(pairs) == 0:
        nowhere = torch.zeros_like(background[..., 0])
        return Drawn(background.clamp(0, 1), nowhere, nowhere > 0)
    views, points = pairs // len(cache), pairs % len(cache)
    patches = place(cache, points, cameras, codec, views, view)
    stage()
    drawn = draw(patches, background, stage)
    return drawn._replace(picture=drawn.picture.clamp(0, 1))


def _with_actors(
    drawn: tuple[Tensor, Tensor],
    cache: LatentCache,
    cameras: Trajectory,
    codec: Drawer,
    view: BestView | None,
    stage: Callable[[], None],
) -> tuple[Tensor, Tensor, Tensor]:
    """Drawn pictures and depth with the actors before and behind them, and which is seen where.

    An actor is drawn for itself, so that none of its patches is mixed with the set's.
    """
    pictures, depth = drawn
    which = torch.full(depth.shape, -1, dtype=torch.int16, device=depth.device)
    for number, actor, frames, moved in placed_actors(cache, cameras):
        picture, near, inner = _render_frames(actor.cache, moved, codec, None, view, stage)
        own = (near > 0) & _without_cracks(inner)
        front = own & ((depth[frames] <= 0) | (near <= depth[frames]))
        pictures[frames] = torch.where(front[..., None], picture, pictures[frames])
        depth[frames] = torch.where(front, near, depth[frames])
        which[frames] = torch.where(front, number, which[frames])
    return pictures, depth, which


def _without_cracks(inner: Tensor) -> Tensor:
    """(B, H, W) bool with gaps of a pixel or two closed: patches overlap for these alone."""
    wide = F.max_pool2d(inner.float()[:, None], 3, stride=1, padding=1)
    return -F.max_pool2d(-wide, 3, stride=1, padding=1)[:, 0] > 0


def _drawn_points(
    cache: LatentCache, cameras: Trajectory, codec: Drawer, view: BestView | None
) -> Tensor:
    """(B, h, w) int64: points to draw on each picture, -1 where there is none."""
    rows, cols = (side // codec.spatial_stride for side in (cameras.height, cameras.width))
    lens = grid_intrinsics(cameras, (rows * FINER, cols * FINER)).clone()
    rim = RIM if cache.kind is MemoryKind.COLOURS else 0
    lens[:, :2, 2] += rim
    size = (rows * FINER + 2 * rim, cols * FINER + 2 * rim)
    winner, _ = read_winners(cache, cameras.world_to_camera, lens, size, view=view, finer=FINER)
    return winner


def _backgrounds(
    cache: LatentCache, cameras: Trajectory, codec: Drawer, view: BestView | None
) -> Tensor:
    """(B, H, W, 3): mean colours of the cells, completed and interpolated."""
    size = latent_size(cameras.width, cameras.height)
    winner, depth = read_grid(cache, cameras, size, view=view)
    tokens = cache.gather(winner, [block.tokens for block in cache.blocks])
    colour = codec.decode_patches(rearrange(tokens, "b h w c -> (b h w) c")).mean(dim=(1, 2))
    colour = rearrange(colour, "(b h w) c -> c b h w", b=len(winner), h=size[0])
    filled, _ = fill_tokens_and_depth(colour, depth, winner >= 0)
    smooth = F.interpolate(
        rearrange(filled, "c b h w -> b c h w"),
        size=(cameras.height, cameras.width),
        mode="bilinear",
        align_corners=False,
    )
    return rearrange(smooth, "b c h w -> b h w c")


def place(
    cache: LatentCache,
    points: Tensor,
    cameras: Trajectory,
    codec: Drawer,
    views: Tensor,
    view: BestView | None = None,
) -> PlacedPatches:
    """Decode the tokens of points and place them on the pictures of cameras.

    A token covers one cell of the camera that observed it, on a plane through the point that
    leans as the surface did there. The projection of its edges gives position, size and
    orientation. A point stands in the middle of its mask, which need not be that of its cell.

    Args:
        cache: The memory.
        points: (N,) int64 point indices.
        cameras: Cameras at picture size.
        codec: What draws the points.
        views: (N,) int64, on which camera's picture each point is placed.
        view: Views are mixed by how well they saw; those seen first cover the others when None.
    """
    blocks = cache.blocks
    position = cache.gather(points, [block.points for block in blocks]).double()
    projection = (cameras.intrinsics @ cameras.world_to_camera[:, :3]).to(position.device)[views]
    centre, depth = _at(position, projection)
    drawn_at = centre + (0.5 - cache.convention.centre) * codec.spatial_stride
    axes, leans = [], []
    for edge in _edges(cache, points):
        end, depth_of_edge = _at(edge, projection)
        axes.append(end - centre)
        leans.append(1 / depth_of_edge - 1 / depth)
    across, lean = torch.stack(axes, dim=2), torch.stack(leans, dim=1)
    mask = None
    inverse_depth = 1 / depth
    if any(block.mask is not None for block in blocks):
        mask = cache.gather(points, [block.masks for block in blocks])
        middle = mask_centre(mask).double()
        drawn_at = drawn_at - (across * middle[:, None]).sum(dim=2)
        inverse_depth = inverse_depth - (lean * middle).sum(dim=1)
    once, back = points.unique(return_inverse=True)
    tokens = cache.gather(once, [block.tokens for block in blocks])
    rank = bins = None
    if view is None:
        # What was seen first stays: later cameras show only where earlier ones do not reach.
        rank = source_cameras(cache, points)
    else:
        bins = _bins(cache, points, cameras, codec, views, view)
    extent, lean = at_least_a_pixel(across, lean)
    return PlacedPatches(
        pixels=codec.decode_patches(tokens.float()),
        centre=drawn_at.float(),
        axes=extent.float(),
        inverse_depth=inverse_depth.float(),
        lean=lean.float(),
        rank=rank,
        bins=bins,
        picture=views,
        mask=mask,
        texture=back,
    )


def _bins(
    cache: LatentCache,
    points: Tensor,
    cameras: Trajectory,
    codec: Drawer,
    views: Tensor,
    view: BestView,
) -> Tensor:
    """(N,) int64: how well each point was seen, for the camera on whose picture it is placed."""
    stride = codec.spatial_stride
    lens = grid_intrinsics(cameras, (cameras.height // stride, cameras.width // stride))
    here = viewers(cameras.world_to_camera, lens, cache.device)[views]
    observers = torch.cat(list(seen(cache).observers))[source_cameras(cache, points)]
    position = cache.gather(points, [block.points for block in cache.blocks])
    return view_bins(position, observers, here, view.numbers)


def _edges(cache: LatentCache, points: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 3) points of the world in the middle of each token's right and lower edge."""
    source = source_cameras(cache, points)
    slope = cache.gather(points, [block.slope for block in cache.blocks]).double()
    poses = torch.cat([block.world_to_camera for block in cache.blocks]).to(points.device)
    intrinsics = torch.cat([block.intrinsics for block in cache.blocks]).to(points.device)[source]
    to_world = invert_rigid(poses)[source]
    seen = in_source_camera(cache, points)
    edges = []
    for axis in (0, 1):
        ray = seen / seen[:, 2:]
        ray[:, axis] += 0.5 / intrinsics[:, axis, axis]
        depth = seen[:, 2] / (1 + 0.5 * slope[:, axis])
        edge = ray * depth[:, None]
        edges.append((to_world[:, :3, :3] @ edge[:, :, None])[:, :, 0] + to_world[:, :3, 3])
    return edges[0], edges[1]


def _at(points: Tensor, projection: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 2) pixel positions and (N,) z-depth of points (N, 3) under matrices (N, 3, 4)."""
    x, y, z = project_each(points, projection)
    return torch.stack([x, y], dim=1) / z[:, None], z
