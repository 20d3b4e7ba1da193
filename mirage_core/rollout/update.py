"""What a finished chunk has to say to the memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..cache.build import Observation, WriteConfig, observe
from ..constants import TEMPORAL_STRIDE
from ..errors import ShapeError
from ..geometry.frame_geometry import FrameGeometry
from ..readout.readout import grid_intrinsics
from ..validate import expect_shape
from .state import RolloutState

Encoder = Callable[[Tensor], Tensor]
"""Encodes each picture (F, H, W, 3) alone to model-space tokens (C, F, h, w)."""


def chunk_observation(
    state: RolloutState,
    latents: Tensor,
    frames: Tensor,
    geometry: FrameGeometry,
    *,
    encode: Encoder | None,
    config: WriteConfig,
    dtype: torch.dtype,
    with_first: bool = False,
) -> Observation:
    """The new latent frames of a chunk with their depth, ready to be written (paper Eq. 6).

    The first latent frame of a chunk is in the memory already: it is the given picture, or
    the last latent frame of the chunk before.

    Args:
        state: The state before the chunk is finished.
        latents: (C, T, h, w) model-space latents of the chunk.
        frames: (4T - 3, H, W, 3) decoded frames of the chunk in 0..1.
        geometry: Depth of all 4T - 3 frames, of the T whose cameras latent frames take, or of
            the whole shot.
        encode: Encodes decoded frames again (paper); None writes the latents (released code).
        config: How depth becomes points.
        dtype: Type of the stored tokens.
        with_first: Take the first latent frame as well, as the released code does with the
            given picture, which it remembers twice.

    Raises:
        ShapeError: Frames, latents or depth do not belong to this chunk.
    """
    chunk = state.chunk
    height, width = state.grid
    expect_shape(
        "The chunk's latents", latents, "C T h w",
        C=state.cache.channels, T=chunk.latent_frames, h=height, w=width,
    )
    expect_shape(
        "The chunk's decoded frames", frames, "F H W C",
        F=chunk.model_frames, H=state.trajectory.height, W=state.trajectory.width,
    )
    geometry.expect_aspect(state.trajectory.width, state.trajectory.height)
    depth = at_latent_frames(of_chunk(geometry, state), chunk.model_frames, chunk.latent_frames)
    start = 0 if with_first else 1
    tokens = latents[:, start:]
    if encode is not None:
        tokens = encode(frames[start * TEMPORAL_STRIDE :: TEMPORAL_STRIDE])
    cameras = state.latent_cameras.select(slice(start, None))
    return observe(
        tokens.to(dtype),
        depth.select(list(range(start, chunk.latent_frames))),
        world_to_camera=cameras.world_to_camera,
        frames=torch.tensor(chunk.pose_frames[start:]),
        convention=state.cache.convention,
        config=config,
        intrinsics=grid_intrinsics(cameras, (height, width)),
        allow_empty=True,
    )


def of_chunk(geometry: FrameGeometry, state: RolloutState) -> FrameGeometry:
    """Geometry of the next chunk's latent frames, out of that of the whole shot.

    Geometry of any other length is the chunk's own and stays as it is.
    """
    if len(geometry) != len(state.trajectory):
        return geometry
    return geometry.select(list(state.chunk.pose_frames))


def at_latent_frames(
    geometry: FrameGeometry, pixel_frames: int, latent_frames: int
) -> FrameGeometry:
    """Geometry of the latent frames only, from that of all pixel frames if need be.

    Raises:
        ShapeError: It has another number of frames.
    """
    if len(geometry) == latent_frames:
        return geometry
    if len(geometry) == pixel_frames:
        return geometry.select(list(range(0, pixel_frames, TEMPORAL_STRIDE)))
    raise ShapeError(
        "The depth does not belong to this chunk",
        got=f"{len(geometry)} depth maps",
        expected=f"{latent_frames} (every fourth frame), {pixel_frames} (all frames), or the "
        "whole shot",
        fix="Estimate depth on the chunk's decoded frames",
    )
