"""The preview of a shot with the embedded codec: every pixel frame, drawn from the memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..cache.types import LatentCache
from ..constants import SPATIAL_STRIDE, TEMPORAL_STRIDE
from ..embedded.codec import EmbeddedCodec
from ..geometry.camera import latent_size
from ..geometry.trajectory import Trajectory
from ..geometry.transform import invert_rigid
from ..readout.render import grid_intrinsics, read_winners
from .fill import fill_tokens_and_depth
from .placement import PlacedPatches, draw

FINER = 2
"""Points are chosen on a grid this many times finer than the latent grid, so that patches
which became smaller than a cell still cover it."""


@dataclass(frozen=True, eq=False)
class Preview:
    """A drawn shot.

    Attributes:
        frames: (F, H, W, 3) float32 in 0..1.
        depth: (T, H, W) float32 z-depth of every fourth frame, 0 where no patch lies.
    """

    frames: Tensor
    depth: Tensor


def render_preview(
    cache: LatentCache,
    trajectory: Trajectory,
    codec: EmbeddedCodec,
    on_frame: Callable[[int, int], None] | None = None,
) -> Preview:
    """Draw what the memory holds for every camera; holes are filled with smooth colour.

    Args:
        cache: A memory of tokens that ``codec`` made from single pictures.
        trajectory: F = 4T - 3 cameras at picture size.
        codec: The codec of the tokens.
        on_frame: Called with (done, total) after each frame; may raise to cancel.
    """
    frames, depths = [], []
    for number in range(len(trajectory)):
        frame, depth = _render_frame(cache, trajectory.select([number]), codec)
        frames.append(frame)
        if number % TEMPORAL_STRIDE == 0:
            depths.append(depth)
        if on_frame is not None:
            on_frame(number + 1, len(trajectory))
    return Preview(torch.stack(frames), torch.stack(depths))


def _render_frame(
    cache: LatentCache, camera: Trajectory, codec: EmbeddedCodec
) -> tuple[Tensor, Tensor]:
    rows, cols = latent_size(camera.width, camera.height)
    fine = (rows * FINER, cols * FINER)
    winner, _ = read_winners(cache, camera.world_to_camera, grid_intrinsics(camera, fine), fine)
    points = winner[winner >= 0].unique()
    background = _background(cache, camera, codec)
    if len(points) == 0:
        return background.clamp(0, 1), torch.zeros_like(background[..., 0])
    picture, depth = draw(place(cache, points, camera, codec), background)
    return picture.clamp(0, 1), depth


def _background(cache: LatentCache, camera: Trajectory, codec: EmbeddedCodec) -> Tensor:
    """(H, W, 3): mean colours of the cells, completed and interpolated."""
    size = latent_size(camera.width, camera.height)
    winner, depth = read_winners(cache, camera.world_to_camera, grid_intrinsics(camera, size), size)
    tokens = cache.gather(winner, [block.tokens for block in cache.blocks])
    colour = codec.decode_patches(rearrange(tokens, "1 h w c -> (h w) c")).mean(dim=(1, 2))
    colour = rearrange(colour, "(h w) c -> c 1 h w", h=size[0])
    filled, _ = fill_tokens_and_depth(colour, depth, winner >= 0)
    smooth = F.interpolate(
        rearrange(filled, "c 1 h w -> 1 c h w"),
        size=(camera.height, camera.width),
        mode="bilinear",
        align_corners=False,
    )
    return rearrange(smooth, "1 c h w -> h w c")


def place(
    cache: LatentCache, points: Tensor, camera: Trajectory, codec: EmbeddedCodec
) -> PlacedPatches:
    """Decode the tokens of points and place them on a camera's picture.

    A token covers one cell of the camera that observed it, on a plane through the point that
    leans as the surface did there. The projection of its edges gives position, size and
    orientation.

    Args:
        cache: The memory.
        points: (N,) int64 point indices.
        camera: One camera at picture size.
        codec: The codec of the tokens.
    """
    blocks = cache.blocks
    position = cache.gather(points, [block.points for block in blocks]).double()
    projection = camera.intrinsics[0] @ camera.world_to_camera[0, :3]
    projection = projection.to(position.device)
    centre, depth = _project(position, projection)
    drawn_at = centre + (0.5 - cache.convention.centre) * SPATIAL_STRIDE
    axes, leans = [], []
    for edge in _edges(cache, points, position):
        place_of_edge, depth_of_edge = _project(edge, projection)
        axes.append(place_of_edge - centre)
        leans.append(1 / depth_of_edge - 1 / depth)
    tokens = cache.gather(points, [block.tokens for block in blocks])
    return PlacedPatches(
        pixels=codec.decode_patches(tokens.float()),
        centre=drawn_at.float(),
        axes=torch.stack(axes, dim=2).float(),
        inverse_depth=(1 / depth).float(),
        lean=torch.stack(leans, dim=1).float(),
        # What was seen first stays: later blocks show only where earlier ones do not reach.
        rank=torch.bucketize(points, torch.tensor(cache.offsets[1:]).to(points), right=True),
    )


def _edges(cache: LatentCache, points: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 3) points of the world in the middle of each token's right and lower edge."""
    first, sources = 0, []
    for block in cache.blocks:
        sources.append(block.source.long() + first)
        first += len(block.frames)
    source = cache.gather(points, sources)
    slope = cache.gather(points, [block.slope for block in cache.blocks]).double()
    poses = torch.cat([block.world_to_camera for block in cache.blocks]).to(points.device)
    lens = torch.cat([block.intrinsics for block in cache.blocks]).to(points.device)[source]
    to_camera, to_world = poses[source], invert_rigid(poses)[source]
    seen = (to_camera[:, :3, :3] @ position[:, :, None])[:, :, 0] + to_camera[:, :3, 3]
    edges = []
    for axis in (0, 1):
        ray = seen / seen[:, 2:]
        ray[:, axis] += 0.5 / lens[:, axis, axis]
        depth = seen[:, 2] / (1 + 0.5 * slope[:, axis])
        edge = ray * depth[:, None]
        edges.append((to_world[:, :3, :3] @ edge[:, :, None])[:, :, 0] + to_world[:, :3, 3])
    return edges[0], edges[1]


def _project(points: Tensor, projection: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 2) pixel positions and (N,) z-depth of points (N, 3)."""
    x, y, z = (points @ projection[:, :3].T + projection[:, 3]).unbind(1)
    return torch.stack([x / z, y / z], dim=1), z
