"""What a finished chunk has to say to the memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..cache.build import Observation, WriteConfig, observe
from ..constants import TEMPORAL_STRIDE
from ..errors import ShapeError
from ..geometry.frame_geometry import FrameGeometry
from ..readout.render import grid_intrinsics
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
) -> Observation:
    """The new latent frames of a chunk with their depth, ready to be written (paper Eq. 6).

    The first latent frame of a chunk is in the memory already: it is the given picture, or
    the last latent frame of the chunk before.

    Args:
        state: The state before the chunk is finished.
        latents: (C, T, h, w) model-space latents of the chunk.
        frames: (4T - 3, H, W, 3) decoded frames of the chunk in 0..1.
        geometry: Depth of all 4T - 3 frames, or of the T frames whose cameras the latent
            frames take.
        encode: Encodes decoded frames again, as the paper does; None writes the latents
            themselves, as the released code does.
        config: How depth becomes points.
        dtype: Type of the stored tokens.

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
    depth = _at_latent_frames(geometry, chunk.model_frames, chunk.latent_frames)
    tokens = latents[:, 1:]
    if encode is not None:
        tokens = encode(frames[TEMPORAL_STRIDE::TEMPORAL_STRIDE])
    cameras = state.latent_cameras.select(slice(1, None))
    return observe(
        tokens.to(dtype),
        depth.select(list(range(1, chunk.latent_frames))),
        world_to_camera=cameras.world_to_camera,
        frames=torch.tensor(chunk.pose_frames[1:]),
        convention=state.cache.convention,
        config=config,
        intrinsics=grid_intrinsics(cameras, (height, width)),
        allow_empty=True,
    )


def _at_latent_frames(
    geometry: FrameGeometry, pixel_frames: int, latent_frames: int
) -> FrameGeometry:
    if len(geometry) == latent_frames:
        return geometry
    if len(geometry) == pixel_frames:
        return geometry.select(list(range(0, pixel_frames, TEMPORAL_STRIDE)))
    raise ShapeError(
        "The depth does not belong to this chunk",
        got=f"{len(geometry)} depth maps",
        expected=f"{latent_frames} (every fourth frame) or {pixel_frames} (all frames)",
        fix="Estimate depth on the chunk's decoded frames",
    )
