"""A finished chunk enters the memory: one way for rollouts and for training clips."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..cache.types import LatentCache
from ..geometry.align import AlignConfig
from ..geometry.frame_geometry import FrameGeometry
from ..writing.consistency import ConsistencyConfig
from ..writing.policy import WriteRules, write
from .align_chunk import PrepareConfig
from .prepare import ObservationReport, prepare_observation, without_gone
from .settings import GenerationSettings
from .state import RolloutState
from .update import Encoder


@dataclass(frozen=True, eq=False)
class ChunkMasks:
    """What must stay out of the memory, see `mirage_core.geometry.masks.mask_to_grid`.

    Attributes:
        dynamic: (M, H, W) masks of moving things, or None.
        sky: (M, H, W) masks of the sky, or None.
    """

    dynamic: Tensor | None = None
    sky: Tensor | None = None


def remember_chunk(
    state: RolloutState,
    settings: GenerationSettings,
    latents: Tensor,
    frames: Tensor,
    geometry: FrameGeometry,
    *,
    encode: Encoder,
    exact: bool,
    masks: ChunkMasks,
) -> tuple[LatentCache, ObservationReport]:
    """The memory with a finished chunk in it, as the settings have it.

    Args:
        state: The state before the chunk is finished.
        settings: How to write.
        latents: (C, T, h, w) model-space latents of the chunk.
        frames: (4T - 3, H, W, 3) decoded frames in 0..1.
        geometry: Depth of the chunk's T latent frames, or of all its frames.
        encode: Encodes pictures, each alone, for settings that do.
        exact: True for depth in scene units, which is neither aligned nor checked for lens and
            path.
        masks: What moves, and the sky.

    Raises:
        ShapeError: Frames, latents, depth or masks do not belong to this chunk.
        GeometryError: Everything is masked, or the cameras are not the shot's.
    """
    config = PrepareConfig(
        write=settings.write,
        align=AlignConfig("none") if exact else settings.align,
        contradiction=ConsistencyConfig() if settings.hold_back else None,
        check_cameras=not exact,
    )
    ready = prepare_observation(
        state,
        latents,
        frames,
        geometry,
        encode=encode if settings.reencode else None,
        dtype=settings.token_dtype,
        config=config,
        dynamic=masks.dynamic,
        sky=masks.sky,
        with_first=settings.first_twice and state.done == 0,
    )
    rules = WriteRules(settings.policy)
    cache = write(without_gone(state.cache, ready.gone, rules), ready.observation, rules)
    return cache, ready.report
