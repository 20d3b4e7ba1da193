"""The preview of a shot with the embedded codec: every pixel frame, drawn from the memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..cache.types import LatentCache
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


def render_preview(
    cache: LatentCache,
    trajectory: Trajectory,
    codec: EmbeddedCodec,
    on_frame: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Draw what the memory holds for every camera; holes are filled with smooth colour.

    Args:
        cache: A memory of tokens that ``codec`` made from single pictures.
        trajectory: F cameras at picture size.
        codec: The codec of the tokens.
        on_frame: Called with (done, total) after each frame; may raise to cancel.

    Returns:
        (F, H, W, 3) float32 in 0..1, on the memory's device.
    """
    frames = []
    for number in range(len(trajectory)):
        frames.append(_render_frame(cache, trajectory.select([number]), codec))
        if on_frame is not None:
            on_frame(number + 1, len(trajectory))
    return torch.stack(frames)


def _render_frame(cache: LatentCache, camera: Trajectory, codec: EmbeddedCodec) -> Tensor:
    rows, cols = latent_size(camera.width, camera.height)
    fine = (rows * FINER, cols * FINER)
    winner, _ = read_winners(cache, camera.world_to_camera, grid_intrinsics(camera, fine), fine)
    points = winner[winner >= 0].unique()
    background = _background(cache, camera, codec)
    if len(points) == 0:
        return background.clamp(0, 1)
    return draw(place(cache, points, camera, codec), background).clamp(0, 1)


def _background(cache: LatentCache, camera: Trajectory, codec: EmbeddedCodec) -> Tensor:
    """(H, W, 3): mean colours of the cells, completed and interpolated."""
    size = latent_size(camera.width, camera.height)
    winner, depth = read_winners(cache, camera.world_to_camera, grid_intrinsics(camera, size), size)
    tokens = cache.gather(winner, [block.tokens for block in cache.blocks])
    filled, _ = fill_tokens_and_depth(
        rearrange(tokens, "t h w c -> c t h w"), depth, winner >= 0
    )
    cells = rearrange(filled, "c 1 h w -> (h w) c")
    colour = codec.decode_patches(cells).mean(dim=(1, 2)).view(1, *size, 3)
    smooth = F.interpolate(
        rearrange(colour, "1 h w c -> 1 c h w"),
        size=(camera.height, camera.width),
        mode="bilinear",
        align_corners=False,
    )
    return rearrange(smooth, "1 c h w -> h w c")


def place(
    cache: LatentCache, points: Tensor, camera: Trajectory, codec: EmbeddedCodec
) -> PlacedPatches:
    """Decode the tokens of points and place them on a camera's picture.

    A token covers one cell of the camera that observed it: a square at the point's depth,
    parallel to that camera's picture. Its projection gives position, size and orientation.

    Args:
        cache: The memory.
        points: (N,) int64 point indices.
        camera: One camera at picture size.
        codec: The codec of the tokens.
    """
    blocks = cache.blocks
    position = cache.gather(points, [block.points for block in blocks]).double()
    right, down = _half_extents(cache, points, position)
    projection = camera.intrinsics[0] @ camera.world_to_camera[0, :3]
    projection = projection.to(position.device)
    centre, depth = _project(position, projection)
    axes = [_project(position + half, projection)[0] - centre for half in (right, down)]
    tokens = cache.gather(points, [block.tokens for block in blocks])
    return PlacedPatches(
        pixels=codec.decode_patches(tokens.float()),
        centre=centre.float(),
        axes=torch.stack(axes, dim=2).float(),
        depth=depth.float(),
    )


def _half_extents(
    cache: LatentCache, points: Tensor, position: Tensor
) -> tuple[Tensor, Tensor]:
    """(N, 3) vectors in the world from a token's centre to its right and lower edge."""
    first, sources = 0, []
    for block in cache.blocks:
        sources.append(block.source.long() + first)
        first += len(block.frames)
    source = cache.gather(points, sources)
    poses = torch.cat([block.world_to_camera for block in cache.blocks]).to(points.device)
    focal = torch.cat([block.intrinsics for block in cache.blocks]).to(points.device)
    pose = poses[source]
    depth = (pose[:, 2, :3] * position).sum(dim=1) + pose[:, 2, 3]
    axes = invert_rigid(poses)[source][:, :3, :3]
    half_width = 0.5 * depth / focal[source, 0, 0]
    half_height = 0.5 * depth / focal[source, 1, 1]
    return axes[:, :, 0] * half_width[:, None], axes[:, :, 1] * half_height[:, None]


def _project(points: Tensor, projection: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 2) pixel positions and (N,) z-depth of points (N, 3)."""
    x, y, z = (points @ projection[:, :3].T + projection[:, 3]).unbind(1)
    return torch.stack([x / z, y / z], dim=1), z
