"""How a memory begins, and how a finished chunk enters it: one way for all who do either."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ..actors.build import Look
from ..actors.tracks import expect_frames
from ..actors.update import CastConfig, CastReport, update_actors
from ..cache.build import observe
from ..cache.types import LatentCache
from ..constants import TEMPORAL_STRIDE
from ..geometry.frame_geometry import FrameGeometry
from ..masks.tracks import Tracks
from ..writing.consistency import remove_points
from ..writing.policy import write
from .chunk_geometry import Masks, chunk_geometry
from .prepare import ChunkReport, Encoder, PreparedObservation, prepare_observation
from .settings import MemorySettings
from .state import RolloutState

TRACKED: Final = "The tracks of moving things"
"""How errors call the mask of what goes to actors."""


def begin_memory(
    tokens: Tensor,
    geometry: FrameGeometry,
    codec: str,
    settings: MemorySettings | None = None,
    *,
    world_to_camera: Tensor | None = None,
    allow_empty: bool = False,
) -> LatentCache:
    """The memory of a picture, or of several photographs of one place (paper Eq. 4, 7, 8).

    Args:
        tokens: (C, V, h, w) model-space latents of V pictures, each encoded alone; or their
            uint8 colours.
        geometry: Depth of the V pictures; its exclusion mask stays out.
        codec: Name of the codec that made the tokens.
        settings: How chunks are remembered.
        world_to_camera: (V, 4, 4) poses for geometry that has none; the identity by default.
        allow_empty: Accept pictures of which nothing may be remembered.

    Raises:
        ShapeError: Tokens and geometry do not belong together.
        GeometryError: Nothing is left to remember.
    """
    settings = settings or MemorySettings()
    views = len(geometry)
    if geometry.world_to_camera is not None:
        world_to_camera = geometry.world_to_camera
    elif world_to_camera is None:
        world_to_camera = torch.eye(4, dtype=torch.float64).expand(views, 4, 4)
    observation = observe(
        settings.as_stored(tokens),
        geometry,
        world_to_camera=world_to_camera,
        frames=torch.zeros(views, dtype=torch.int64),
        convention=settings.convention,
        config=settings.write,
        allow_empty=allow_empty,
    )
    empty = LatentCache((), settings.convention, codec, int(tokens.shape[0]))
    # Where photographs overlap, the first one of a surface speaks for it.
    cache = write(empty, observation, "append" if views == 1 else "novelty")
    return cache.to(cache.device, settings.token_dtype)


@dataclass(frozen=True, eq=False)
class WrittenChunk:
    """A memory with one more chunk in it.

    Attributes:
        cache: The memory.
        prepared: What was written, and what was left out.
        cast: What became of the actors; None where nothing was tracked.
    """

    cache: LatentCache
    prepared: PreparedObservation
    cast: CastReport | None = None

    @property
    def report(self) -> ChunkReport:
        """What was done, in numbers."""
        return self.prepared.report

    def describe(self) -> str:
        """A few lines for people."""
        cast = [] if self.cast is None else [self.cast.describe()]
        return "\n".join([self.report.describe(), *cast])


def write_chunk(
    state: RolloutState,
    latents: Tensor,
    frames: Tensor,
    geometry: FrameGeometry,
    settings: MemorySettings | None = None,
    *,
    encode: Encoder,
    masks: Masks | None = None,
    scaled: bool = False,
    on_frame: Callable[[int, int], None] | None = None,
    tracks: Tracks | None = None,
    cast: CastConfig | None = None,
) -> WrittenChunk:
    """Write a finished chunk to the memory (paper Eq. 6, Algorithm 1); the input stays as it is.

    Args:
        state: The state before the chunk is finished.
        latents: (C, T, h, w) model-space latents of the chunk.
        frames: (4T - 3, H, W, 3) decoded frames in 0..1; a memory of colours takes these alone.
        geometry: Depth of the chunk's T latent frames, of all its 4T - 3 frames, or of the
            whole shot.
        settings: How chunks are remembered.
        encode: Encodes pictures, each alone, for settings that encode decoded frames again.
        masks: What moves, the sky, and whatever else stays out.
        scaled: True for depth in scene units, which is neither aligned nor checked for lens and
            path.
        on_frame: Called with (done, total) after each frame is written; may raise to cancel.
        tracks: Which things move where, for every frame or every fourth: they are written to
            their actors, and stay out of the set.
        cast: How actors are made and known again.

    Raises:
        ShapeError: Frames, latents, depth, tracks or masks do not belong to this chunk.
        GeometryError: The cameras are not the shot's, or, when strict, no frame agrees with the
            memory.
    """
    settings = settings or MemorySettings()
    if tracks is not None:
        tracks = expect_frames(tracks, state.chunk.latent_frames, TEMPORAL_STRIDE)
        masks = {**(masks or {}), TRACKED: tracks.moving}
    prepared = prepare_observation(
        state, latents, frames, geometry, settings, encode=encode, masks=masks, scaled=scaled
    )
    known = state.cache
    # The policy novelty removes what it sees through by itself.
    if settings.rules.policy == "append":
        known = remove_points(known, prepared.gone)
    cache = write(known, prepared.observation, settings.rules, on_frame)
    if tracks is None:
        return WrittenChunk(cache, prepared)
    look, tracks = _look(state, geometry, prepared, tracks)
    if len(look.frames) == 0:
        note = "the depth of every frame was refused: nothing was learned of them"
        return WrittenChunk(cache, prepared, CastReport(notes=(note,)))
    recast = update_actors(cache, look, tracks, cast)
    return WrittenChunk(recast.cache, prepared, recast.report)


def _look(
    state: RolloutState, geometry: FrameGeometry, prepared: PreparedObservation, tracks: Tracks
) -> tuple[Look, Tracks]:
    """The chunk's new frames that agree with the memory, as actors are made from them."""
    seen, alignment = prepared.observation, prepared.report.alignment
    if alignment is None:
        own = chunk_geometry(state, geometry, check_cameras=False)
        # Depth that was aligned before leaves out all of the frames that it refuses.
        trusted = tuple((~own.masked.flatten(1).all(dim=1)).tolist())
    else:
        own, trusted = alignment.geometry, alignment.trusted
    first = len(own.frames) - len(seen.frames)
    chosen = [row for row in range(len(seen.frames)) if trusted[first + row]]
    rows = [first + row for row in chosen]
    look = Look(
        seen.tokens[:, chosen],
        own.frames.select(rows),
        seen.world_to_camera[chosen],
        seen.frames[chosen],
    )
    return look, tracks.select(rows)
