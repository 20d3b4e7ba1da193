"""The whole loop (Algorithm 1): read the memory, generate, decode, estimate depth, write back."""

from __future__ import annotations

import torch
from torch import Tensor

from ..constants import TEMPORAL_STRIDE
from ..folder_lock import exclusive_folder
from ..log import logger
from ..readout.readout import Readout
from .chunk_geometry import masks_of
from .decode import context_latents, decode_with_context, encode_overlap
from .memory import write_chunk
from .models import GenerationModels
from .progress import Clock, OnProgress
from .run_folder import commit, expect_folder, finish, open_folder, take_up
from .sample import NoiseSource, sample_chunk
from .settings import GenerationSettings
from .state import RolloutState


def generate(
    state: RolloutState,
    models: GenerationModels,
    settings: GenerationSettings,
    on_progress: OnProgress | None = None,
    noise: NoiseSource | None = None,
) -> RolloutState:
    """Generate all chunks that are left of a shot, and join its video.

    Every finished chunk is saved. Whatever ends the call early, an exception from
    ``on_progress`` included, loses the chunk at work and nothing else: call again with the same
    state to go on from the folder, with the same result as without the break.

    Args:
        state: From `mirage_core.rollout.begin.begin`, or from an earlier call.
        models: The parts that hold weights.
        settings: How the shot is generated.
        on_progress: Called several times per chunk; may raise to cancel.
        noise: Where noise comes from; that of the chunk's seed by default.

    Returns:
        The state after the last chunk.

    Raises:
        ModelMismatchError: The memory is none that the models can be shown.
        ResumeError: The folder belongs to another rollout, or a shot of several chunks has none.
        FolderInUseError: Another program works on this shot.
        StorageError: The folder cannot be written.
    """
    models.expect_fitting(state)
    expect_folder(state)
    if state.folder is None:
        return _generate(state, models, settings, on_progress, noise)
    with exclusive_folder(state.folder):
        state = _generate(open_folder(state), models, settings, on_progress, noise)
        finish(state)
    return state


def _generate(
    state: RolloutState,
    models: GenerationModels,
    settings: GenerationSettings,
    on_progress: OnProgress | None,
    noise: NoiseSource | None,
) -> RolloutState:
    clock = Clock(state, settings.steps, on_progress)
    with torch.no_grad():
        while not state.complete:
            readout, latents = sample_chunk(
                state, models, settings, clock.on_step(state), noise, clock.on_part(state)
            )
            state = take_up(_finish_chunk(state, models, settings, readout, latents, clock))
    return state


def _finish_chunk(
    state: RolloutState,
    models: GenerationModels,
    settings: GenerationSettings,
    readout: Readout,
    latents: Tensor,
    clock: Clock,
) -> RolloutState:
    """Decode a chunk, learn from it, and save it."""
    clock.stage(state, "decoding")
    before = context_latents(state, settings.decode_context)
    frames = decode_with_context(models.codec.decode, before, latents).float().cpu().clamp(0, 1)
    clock.stage(state, "depth")
    geometry = models.depth(
        frames[::TEMPORAL_STRIDE], state.latent_cameras, state.chunk.pose_frames
    )
    found = None
    if models.masks is not None:
        numbers = range(state.chunk.first_frame, state.chunk.output_end)
        found = models.masks(frames, state.frame_cameras, numbers)
    clock.stage(state, "memory")
    written = write_chunk(
        state,
        latents,
        frames,
        geometry,
        settings.memory,
        encode=models.codec.encode_images,
        masks=None if found is None else masks_of(found),
        scaled=models.depth.scaled,
        tracks=None if found is None else found.tracks,
        cast=models.cast,
    )
    logger.info("chunk %d: %s", state.done + 1, written.describe())
    clock.stage(state, "saving")
    return commit(
        state,
        latents=latents,
        frames=frames,
        readout=readout,
        cache=written.cache,
        overlap=encode_overlap(models.codec, state, frames),
    )
