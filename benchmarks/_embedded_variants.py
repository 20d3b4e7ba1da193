"""Variants of making a shot, to compare: each makes a chunk from what is remembered."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mirage_core.cache.actor import Actor
from mirage_core.cache.types import LatentCache
from mirage_core.codecs.dct import CODEC_NAME, DctCodec
from mirage_core.constants import TEMPORAL_STRIDE
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory
from mirage_core.models.bundled import SHIFT
from mirage_core.preview.drawn import drawn_latents
from mirage_core.preview.fill import fill_holes, fill_readout
from mirage_core.preview.render import render_preview
from mirage_core.readout.pixel_memory import RgbCache
from mirage_core.readout.readout import Readout, read
from mirage_core.rollout.begin import begin
from mirage_core.rollout.chunk_geometry import DYNAMIC
from mirage_core.rollout.context import chunk_condition
from mirage_core.rollout.decode import context_latents, decode_with_context
from mirage_core.rollout.denoisers import TransformerDenoisers
from mirage_core.rollout.memory import begin_memory, write_chunk
from mirage_core.rollout.run_folder import commit, open_folder
from mirage_core.rollout.sample import seeded_noise
from mirage_core.rollout.settings import GenerationSettings
from mirage_core.rollout.state import RolloutState
from mirage_core.sampling.schedule import sigma_schedule
from mirage_core.sampling.solve import sample
from mirage_core.writing.policy import WriteRules, write

CODEC = DctCodec()


@dataclass(frozen=True, eq=False)
class Shot:
    """A procedural shot.

    Attributes:
        seed: Of the room.
        cameras: F cameras.
        truth: (F, H, W, 3) rendered frames.
        geometry: Depth of all frames, with the errors of an estimator.
        moving: (F, H, W) bool, what moves; None where nothing does.
    """

    seed: int
    cameras: Trajectory
    truth: Tensor
    geometry: FrameGeometry
    moving: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Made:
    """A chunk: what was read, its latents, and frames where they are not the decoded latents."""

    readout: Readout
    latents: Tensor
    frames: Tensor | None = None


Make = Callable[[RolloutState], Made]


@dataclass(eq=False)
class Variant:
    """One variant of making chunks.

    Attributes:
        make: From the state before a chunk to the chunk.
        forget: Begin the memory anew at every chunk, from the chunk's first frame.
        filtered: Keep what moves out of the memory.
        learn: Told of every finished chunk's frames and state, for memories beside the latent one.
        actors: In the memory from the start.
    """

    make: Make
    forget: bool = False
    filtered: bool = False
    learn: Callable[[RolloutState, Tensor], None] | None = None
    actors: tuple[Actor, ...] = ()


@dataclass(frozen=True, eq=False)
class Result:
    """A finished shot: (F, H, W, 3) frames, and (T, h, w) bool which cells were known."""

    frames: Tensor
    known: Tensor
    points: int


def settings(steps: int) -> GenerationSettings:
    """The loop's settings that all variants share."""
    return GenerationSettings(
        steps=steps, shift=SHIFT, method="euler", references=0, preceding=2
    )


def shoot(shot: Shot, variant: Variant, steps: int, **memory: Any) -> Result:
    """Make a whole shot with the loop of a rollout, with some of `MemorySettings` changed."""
    loop = settings(steps).remembering(**memory)
    first = shot.geometry.select([0])
    if variant.filtered and shot.moving is not None:
        first = dataclasses.replace(first, exclude=shot.moving[:1])
    frames, known = [], []
    with tempfile.TemporaryDirectory(prefix="mirage-embedded-") as folder:
        state = begin(
            shot.truth[0], first, shot.cameras, CODEC,
            settings=loop, seed=shot.seed, folder=Path(folder) / "shot",
        )  # fmt: skip
        state = dataclasses.replace(state, cache=state.cache.with_actors(variant.actors))
        state = open_folder(state)
        if variant.learn is not None:
            variant.learn(state, shot.truth[:1])
        while not state.complete:
            chunk, added = state.chunk, 1 if state.done else 0
            made = variant.make(state)
            pictures = made.frames
            if pictures is None:
                before = context_latents(state, loop.decode_context)
                pictures = decode_with_context(CODEC.decode, before, made.latents)
            seen = slice(chunk.first_frame, chunk.output_end)
            moving = None
            if variant.filtered and shot.moving is not None:
                moving = shot.moving[seen]
            cache = write_chunk(
                state, made.latents, pictures,
                shot.geometry.select(list(range(seen.start, seen.stop, TEMPORAL_STRIDE))),
                loop.memory, encode=CODEC.encode_images, masks={DYNAMIC: moving}, scaled=True,
            ).cache  # fmt: skip
            before_state = state
            state = commit(
                state, latents=made.latents, frames=pictures, readout=made.readout, cache=cache
            )
            if variant.learn is not None:
                variant.learn(before_state, pictures)
            if variant.forget:
                state = dataclasses.replace(state, cache=_anew(state, shot, pictures[-1], loop))
            frames.append(pictures[added:])
            known.append(made.readout.visible[added:])
        points = len(state.cache)
    return Result(torch.cat(frames), torch.cat(known), points)


def _anew(state: RolloutState, shot: Shot, frame: Tensor, loop: GenerationSettings) -> LatentCache:
    """A memory of one frame alone: the last one that is finished."""
    number = state.plan[state.done - 1].output_end - 1
    pose = shot.cameras.world_to_camera[[number]]
    geometry = dataclasses.replace(shot.geometry.select([number]), world_to_camera=pose)
    tokens = CODEC.encode_images(frame[None])
    return begin_memory(tokens, geometry, CODEC_NAME, loop.memory)


def by_model(model: Any, steps: int, *, side: bool = True) -> Make:
    """The video model, shown the drawing of the latent memory; without its branch, nothing."""

    def make(state: RolloutState) -> Made:
        readout = read(state.cache, state.frame_cameras)
        scene = drawn_latents(readout, CODEC) if side else None
        return Made(readout, _sampled(model, state, readout, scene, None, steps))

    return make


def drawn_over(model: Any, steps: int) -> Make:
    """The video model, and the memory's patches drawn over its frames."""

    def make(state: RolloutState) -> Made:
        readout = read(state.cache, state.frame_cameras)
        scene = drawn_latents(readout, CODEC)
        latents = _sampled(model, state, readout, scene, None, steps)
        before = context_latents(state, settings(steps).decode_context)
        behind = decode_with_context(CODEC.decode, before, latents)
        preview = render_preview(readout.cache, readout.trajectory, CODEC, background=behind)
        latents = torch.cat([state.overlap_latent, CODEC.encode(preview.frames)[:, 1:]], dim=1)
        return Made(readout, latents, preview.frames)

    return make


def by_cells(state: RolloutState) -> Made:
    """Whole cells of the memory, holes filled smoothly, no network."""
    readout = read(state.cache, state.frame_cameras)
    tokens, _ = fill_readout(readout)
    tokens = torch.cat([state.overlap_latent, CODEC.static_tokens(tokens)[:, 1:]], dim=1)
    return Made(readout, tokens)


def by_patches(state: RolloutState) -> Made:
    """The preview: patches drawn for every frame, no network."""
    readout = read(state.cache, state.frame_cameras)
    frames = render_preview(readout.cache, readout.trajectory, CODEC).frames
    latents = torch.cat([state.overlap_latent, CODEC.encode(frames)[:, 1:]], dim=1)
    return Made(readout, latents, frames)


@dataclass(eq=False)
class RgbMemory:
    """Colours as points beside the latent memory, encoded again for the same model.

    Attributes:
        model: The video model.
        shot: For the depth of finished frames.
        steps: Of sampling.
    """

    model: Any
    shot: Shot
    steps: int
    memory: RgbCache = field(default_factory=lambda: RgbCache.empty(CODEC))

    def make(self, state: RolloutState) -> Made:
        """The model, shown the pictures of the colour memory."""
        readout = read(state.cache, state.frame_cameras)
        cameras = state.frame_cameras
        middle = [max(0, 4 * (frame // 4) - 1) for frame in range(len(cameras))]
        shown = self.memory.read(cameras.select(middle))
        tokens = fill_holes(shown.tokens, shown.visible)
        tokens = torch.cat([tokens[:, :1], CODEC.static_tokens(tokens[:, 1:])], dim=1)
        latents = _sampled(self.model, state, readout, tokens, shown.visible, self.steps)
        return Made(readout, latents)

    def learn(self, state: RolloutState, frames: Tensor) -> None:
        """Remember every fourth frame of a chunk, by the policy of the latent memory."""
        first = state.chunk.first_frame if len(frames) > 1 else 0
        numbers = list(range(first, first + len(frames), TEMPORAL_STRIDE))
        observation = self.memory.observe(
            frames[::TEMPORAL_STRIDE],
            self.shot.geometry.select(numbers),
            world_to_camera=self.shot.cameras.world_to_camera[numbers],
            numbers=torch.tensor(numbers),
        )
        self.memory = self.memory.holding(write(self.memory.cache, observation, WriteRules()))


def _sampled(
    model: Any,
    state: RolloutState,
    readout: Readout,
    scene: Tensor | None,
    visible: Tensor | None,
    steps: int,
) -> Tensor:
    loop = settings(steps)
    condition = chunk_condition(
        state, readout, references=loop.references, preceding=loop.preceding
    )
    if scene is not None:
        condition = dataclasses.replace(condition, projection=scene)
    if visible is not None:
        condition = dataclasses.replace(condition, visible=visible)
    height, width = state.grid
    shape = (state.cache.channels, state.chunk.latent_frames, height, width)
    text = torch.zeros(1, 1, model.config.text_dim)
    denoisers = TransformerDenoisers(model, text, side_scale=0.0 if scene is None else 1.0)
    with torch.no_grad():
        return sample(
            denoisers(condition), seeded_noise(state, shape), state.overlap_latent,
            sigma_schedule(steps, loop.shift), method=loop.method,
        )  # fmt: skip
