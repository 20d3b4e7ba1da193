"""The whole loop (Algorithm 1): read the memory, generate, decode, estimate depth, write back."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from ..cache.build import append_all, observe
from ..cache.types import LatentCache
from ..codecs.base import LatentCodec
from ..conditioning.condition import Condition
from ..constants import TEMPORAL_STRIDE
from ..errors import ModelMismatchError, ResumeError
from ..geometry.frame_geometry import FrameGeometry
from ..geometry.trajectory import Trajectory
from ..log import logger
from ..readout.readout import Readout, read
from ..sampling.noise import chunk_noise
from ..sampling.schedule import sigma_schedule
from ..sampling.solve import Denoise, sample
from ..validate import expect_frame_size, expect_shape
from .context import chunk_condition
from .decode import context_latents, decode_with_context
from .depth_source import DepthSource
from .progress import seconds_left
from .remember import ChunkMasks, remember_chunk
from .run_folder import commit, finish, open_folder
from .settings import GenerationSettings
from .state import RolloutState, chunk_seed, rollout_id

STAGES: Final = ("decoding", "depth", "memory", "saving")
"""What follows the sampling of a chunk; each counts as one step in the estimate of time."""


DenoiserFactory = Callable[[Condition], Denoise]
"""Makes the model ready for one chunk."""

NoiseSource = Callable[[RolloutState, tuple[int, int, int, int]], Tensor]
"""Noise (C, T, h, w) of the next chunk, from the state before it and the shape."""


SceneSource = Callable[[Readout], Tensor]
"""What a side branch is shown of a readout, (C, T, h, w) in model space."""

MaskSource = Callable[[Tensor, Trajectory], ChunkMasks]
"""Masks of a chunk's decoded frames (4T - 3, H, W, 3) in 0..1 with their cameras."""


@dataclass(frozen=True)
class GenerationModels:
    """The parts of the loop that hold weights.

    Attributes:
        codec: Pixels to latents and back.
        denoiser: The video model.
        depth: Depth of the frames that a chunk adds.
        device: Where latents are sampled; the models move what they get to their own devices.
        masks: Finds what moves, and the sky; None remembers everything.
        scene: What the side branch is shown; None shows the readout's tokens. Branches that take
            drawings want `mirage_core.preview.render.drawn_latents`.
    """

    codec: LatentCodec
    denoiser: DenoiserFactory
    depth: DepthSource
    device: torch.device = torch.device("cpu")
    masks: MaskSource | None = None
    scene: SceneSource | None = None


@dataclass(frozen=True, eq=False)
class Progress:
    """How far a shot is.

    Attributes:
        chunk: Number of the chunk at work, from 0.
        chunks: How many there are.
        stage: ``sampling``, or one of `STAGES`.
        step: Sampling steps done of this chunk.
        steps: How many it has.
        done: Units of work that are finished, over the whole shot.
        total: How many there are.
        seconds_left: Estimate for the whole shot; None while nothing is known.
        clean: (C, T, h, w) present estimate of the chunk's latents, while sampling.
    """

    chunk: int
    chunks: int
    stage: str
    step: int
    steps: int
    done: int
    total: int
    seconds_left: float | None
    clean: Tensor | None = None


OnProgress = Callable[[Progress], None]
"""Called after every sampling step and before every later stage; may raise to cancel."""


def begin(
    picture: Tensor,
    geometry: FrameGeometry,
    trajectory: Trajectory,
    codec: LatentCodec,
    *,
    settings: GenerationSettings,
    seed: int = 0,
    folder: Path | None = None,
    models: str = "",
) -> RolloutState:
    """Make the memory of the given picture, and the state before the first chunk.

    Args:
        picture: (H, W, 3) in 0..1.
        geometry: Depth of the picture; only its first frame is taken. Without poses of its
            own, its camera is the first of the trajectory.
        trajectory: Cameras of the whole shot.
        codec: Pixels to latents.
        settings: How the shot is generated.
        seed: Seed of the shot.
        folder: Where chunks are saved.
        models: Any text that stands for the models in use, for the rollout's id.

    Raises:
        ShapeError: The picture's size does not fit the grid, the depth, or the trajectory.
        GeometryError: Nothing of the picture can be remembered.
        PlanError: The trajectory's length is not 4n + 1.
        TrajectoryError: The trajectory is too short.
    """
    expect_frame_size(trajectory.width, trajectory.height)
    expect_shape(
        "The picture", picture, "H W 3", H=trajectory.height, W=trajectory.width
    )  # fmt: skip
    geometry.expect_aspect(trajectory.width, trajectory.height)
    first = geometry.select([0])
    pose = first.world_to_camera
    tokens = codec.encode_each(picture[None].float())
    observation = observe(
        tokens.to(settings.token_dtype),
        first,
        world_to_camera=trajectory.world_to_camera[:1] if pose is None else pose,
        frames=torch.zeros(1, dtype=torch.int64),
        convention=settings.convention,
        config=settings.write,
    )
    empty = LatentCache((), settings.convention, codec.name, int(tokens.shape[0]))
    cache = append_all(empty, observation)
    run_id = rollout_id(trajectory, cache, tokens, seed, f"{settings.describe()}\0{models}")
    return RolloutState(trajectory, cache, tokens, seed, run_id, folder)


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
        state: From `begin`, or from an earlier call.
        models: The parts that hold weights.
        settings: How the shot is generated.
        on_progress: Called several times per chunk; may raise to cancel.
        noise: Where noise comes from; `chunk_noise` of the chunk's seed by default.

    Returns:
        The state after the last chunk.

    Raises:
        ModelMismatchError: The memory was made with another codec.
        ResumeError: The folder belongs to another rollout, or a shot of several chunks has none.
        StorageError: The folder cannot be written.
    """
    _expect_fitting(state, models)
    if state.folder is not None:
        state = open_folder(state)
    clock = _Clock(state, settings.steps, on_progress)
    with torch.no_grad():
        while not state.complete:
            readout, latents = sample_chunk(state, models, settings, clock.on_step(state), noise)
            state = _finish_chunk(state, models, settings, readout, latents, clock)
    if state.folder is not None:
        finish(state)
    return state


def sample_chunk(
    state: RolloutState,
    models: GenerationModels,
    settings: GenerationSettings,
    on_step: Callable[[int, int, Tensor], None] | None = None,
    noise: NoiseSource | None = None,
) -> tuple[Readout, Tensor]:
    """Read the memory for the next chunk, and sample its latents.

    Returns:
        The readout, and (C, T, h, w) float32 latents, the overlapping one first.
    """
    readout = read(state.cache, state.frame_cameras)
    condition = chunk_condition(
        state,
        readout,
        references=settings.references,
        preceding=settings.preceding,
        threshold=settings.threshold,
        exclude_seen=settings.exclude_seen,
    )
    if models.scene is not None:
        condition = dataclasses.replace(condition, scene=models.scene(readout))
    height, width = state.grid
    shape = (state.cache.channels, state.chunk.latent_frames, height, width)
    drawn = (noise or seeded_noise)(state, shape)
    latents = sample(
        models.denoiser(condition),
        drawn.to(models.device),
        state.overlap_latent,
        sigma_schedule(settings.steps, settings.shift),
        method=settings.method,
        integer_timesteps=settings.integer_timesteps,
        on_step=on_step,
    )
    return readout, latents


def seeded_noise(state: RolloutState, shape: tuple[int, int, int, int]) -> Tensor:
    """Noise of the next chunk from the shot's seed and the chunk's number."""
    return chunk_noise(shape, chunk_seed(state.seed, state.done))


def _finish_chunk(
    state: RolloutState,
    models: GenerationModels,
    settings: GenerationSettings,
    readout: Readout,
    latents: Tensor,
    clock: _Clock,
) -> RolloutState:
    """Decode a chunk, learn from it, and save it."""
    clock.stage(state, "decoding")
    before = context_latents(state, settings.carried)
    frames = decode_with_context(models.codec.decode, before, latents).float().cpu().clamp(0, 1)
    clock.stage(state, "depth")
    geometry = models.depth(
        frames[::TEMPORAL_STRIDE], state.latent_cameras, state.chunk.pose_frames
    )
    masks = ChunkMasks()
    if models.masks is not None:
        masks = models.masks(frames, state.frame_cameras)
    clock.stage(state, "memory")
    cache, report = remember_chunk(
        state,
        settings,
        latents,
        frames,
        geometry,
        encode=models.codec.encode_each,
        exact=models.depth.scaled,
        masks=masks,
    )
    logger.info("chunk %d: %s", state.done + 1, report.describe())
    clock.stage(state, "saving")
    return commit(state, latents=latents, frames=frames, readout=readout, cache=cache)


def _expect_fitting(state: RolloutState, models: GenerationModels) -> None:
    """Refuse, before any work, what can never come to an end."""
    if models.codec.name != state.cache.codec:
        raise ModelMismatchError(
            "The memory was made with another codec",
            got=f"a memory of {state.cache.codec!r}",
            expected=models.codec.name,
            fix="Use the codec that the memory was made with, or make the memory again",
        )
    if state.folder is None and len(state.plan) > 1:
        raise ResumeError(
            "A shot of several chunks needs a folder",
            got=f"{len(state.plan)} chunks and no folder",
            fix="Give a folder: later chunks read what earlier ones left there",
        )


class _Clock:
    """Counts units of work, and tells how long the rest will take."""

    def __init__(self, state: RolloutState, steps: int, on_progress: OnProgress | None) -> None:
        self._steps = steps
        self._report = on_progress
        self._per_chunk = steps + len(STAGES)
        self._start = state.done * self._per_chunk
        self._since = time.monotonic()

    def on_step(self, state: RolloutState) -> Callable[[int, int, Tensor], None]:
        """A callback for the sampling of the next chunk."""

        def report(step: int, _: int, clean: Tensor) -> None:
            self._tell(state, "sampling", step, step, clean)

        return report

    def stage(self, state: RolloutState, name: str) -> None:
        """Say that a stage after the sampling begins."""
        self._tell(state, name, self._steps, self._steps + STAGES.index(name), None)

    def _tell(
        self, state: RolloutState, stage: str, step: int, units: int, clean: Tensor | None
    ) -> None:
        if self._report is None:
            return
        done = state.done * self._per_chunk + units
        total = len(state.plan) * self._per_chunk
        pace = (time.monotonic() - self._since) / max(1, done - self._start)
        left = pace * (total - done) if done > self._start else seconds_left(state)
        self._report(
            Progress(
                chunk=state.done,
                chunks=len(state.plan),
                stage=stage,
                step=step,
                steps=self._steps,
                done=done,
                total=total,
                seconds_left=left,
                clean=clean,
            )
        )
