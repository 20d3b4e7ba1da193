"""From footage to training clips: the chunk loop, with real latents in place of generated ones.

Training must see what generation will see. So a shot goes through the loop of a rollout: the
memory begins with the first frame, each chunk is read before it is written, depth has the
errors of estimated depth, and the write policy is the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

import torch
from torch import Tensor

from ...codecs.base import LatentCodec
from ...codecs.dct import DctCodec
from ...constants import MAX_CHUNK_FRAMES, TEMPORAL_STRIDE
from ...errors import ModelMismatchError, ShapeError
from ...geometry.frame_geometry import FrameGeometry
from ...geometry.trajectory import Trajectory
from ...preview.render import drawn_latents
from ...readout.detail import point_planes
from ...readout.readout import Readout, read
from ...rollout.context import preceding_frames, reference_frames
from ...rollout.generate import begin
from ...rollout.remember import ChunkMasks, remember_chunk
from ...rollout.settings import GenerationSettings
from ...rollout.state import ChunkRecord, ChunkStatistics, RolloutState
from ...validate import expect_range, expect_shape
from .clip import TrainingClip

CHUNK_STEP: Final = MAX_CHUNK_FRAMES - 1
"""Pixel frames from one chunk to the next."""

MAX_NOISE: Final = 0.5

DRAWN: Final = "drawn"
"""What the settings of a data set say when its scenes are drawings."""


class TrainingCodec(LatentCodec, Protocol):
    """A codec that also codes whole videos."""

    def encode(self, frames: Tensor, /) -> Tensor:
        """A video (F, H, W, 3) in 0..1 to (C, (F - 1) / 4 + 1, h, w)."""


@dataclass(frozen=True)
class DepthNoise:
    """How wrong depth is made; every shot draws its own amount up to these.

    Attributes:
        smooth: Largest relative error that changes slowly over the picture (one deviation).
        white: Largest relative error from cell to cell (one deviation).

    Raises:
        ValueRangeError: A share is not between 0 and 0.5.
    """

    smooth: float = 0.04
    white: float = 0.02

    def __post_init__(self) -> None:
        expect_range("The smooth depth noise", self.smooth, 0, MAX_NOISE)
        expect_range("The white depth noise", self.white, 0, MAX_NOISE)

    def apply(self, depth: Tensor, grid: tuple[int, int], seed: int) -> Tensor:
        """Depth (F, H, W) with errors that are constant within each cell of the latent grid."""
        rng = torch.Generator().manual_seed(seed)
        smooth, white = (torch.rand(2, generator=rng) * torch.tensor([self.smooth, self.white]))
        count = len(depth)
        coarse = torch.randn(count, 1, 4, 4, generator=rng)
        slow = torch.nn.functional.interpolate(
            coarse, size=grid, mode="bilinear", align_corners=True
        )
        error = smooth * slow + white * torch.randn(count, 1, *grid, generator=rng)
        error = torch.nn.functional.interpolate(error, size=depth.shape[1:], mode="nearest-exact")
        return depth * error[:, 0].exp().to(depth.device)


@dataclass(frozen=True)
class ClipSettings:
    """How clips are made from shots.

    Attributes:
        loop: Policy, convention, references and preceding frames of the chunk loop.
        noise: Errors of depth; for shots whose depth is exact.
        planes: Store the sub-cell offset and the depth ratio as well.
        drawn: Store the memory's tokens drawn at their places as the scene, for branches that
            take that; needs the embedded codec.
    """

    loop: GenerationSettings = field(default_factory=GenerationSettings)
    noise: DepthNoise = field(default_factory=DepthNoise)
    planes: bool = True
    drawn: bool = False

    def describe(self) -> str:
        """Text that differs whenever clips would."""
        loop = self.loop
        parts: list[object] = [loop.policy, loop.convention.value]
        parts += [loop.references, loop.preceding]
        parts += [loop.threshold, loop.exclude_seen, loop.reencode, loop.first_twice, loop.write]
        parts += [self.noise, self.planes]
        return ";".join(map(str, [*parts, DRAWN] if self.drawn else parts))


@dataclass(frozen=True, eq=False)
class Shot:
    """Footage with cameras and depth.

    Attributes:
        key: Unique name.
        frames: (F, H, W, 3) in 0..1; frames after the last whole chunk are not used.
        cameras: Cameras of the F frames, in pixels of H x W.
        geometry: Depth of the F frames, or of every fourth frame from the first.
        exact: True when depth is exact and in scene units, as that of a renderer: it gets
            errors. False when it was estimated: it has errors of its own, and is brought to the
            memory's scale as in a rollout.
        caption: What the shot shows.
        text: (L, D) embedding of the caption, or None.

    Raises:
        ShapeError: Frames, cameras and depth do not belong together, or there is no chunk.
    """

    key: str
    frames: Tensor
    cameras: Trajectory
    geometry: FrameGeometry
    exact: bool = False
    caption: str = ""
    text: Tensor | None = None

    def __post_init__(self) -> None:
        expect_shape(
            "The shot", self.frames, "F H W 3", H=self.cameras.height, W=self.cameras.width
        )
        count = len(self.frames)
        depths = (count, (count - 1) // TEMPORAL_STRIDE + 1)
        if len(self.cameras) != count or len(self.geometry) not in depths:
            raise ShapeError(
                f"The cameras or the depth do not match the frames of {self.key!r}",
                got=f"{len(self.frames)} frames, {len(self.cameras)} cameras, "
                f"{len(self.geometry)} depth maps",
                expected="a camera for every frame, and depth of every frame or every fourth",
                fix="Use the cameras that were made for exactly these frames",
            )
        if len(self.frames) < MAX_CHUNK_FRAMES:
            raise ShapeError(
                f"The shot {self.key!r} is shorter than one chunk",
                got=f"{len(self.frames)} frames",
                expected=f"at least {MAX_CHUNK_FRAMES}",
            )
        self.geometry.expect_aspect(self.cameras.width, self.cameras.height)

    def seed(self) -> int:
        """A number that follows from the key."""
        return int.from_bytes(hashlib.sha256(self.key.encode()).digest()[:7], "little")


@torch.no_grad()
def build_clips(shot: Shot, codec: TrainingCodec, settings: ClipSettings) -> list[TrainingClip]:
    """Take a shot through the chunk loop, and keep what the model would see in every chunk.

    Args:
        shot: Footage; everything is computed where its frames are.
        codec: Pixels to latents.
        settings: How.

    Returns:
        One clip for each whole chunk of 33 frames (the last frame of a chunk is the first of
        the next), on the CPU, named ``<shot>#<chunk>``.

    Raises:
        ShapeError: The picture size is not a multiple of 32.
        ModelMismatchError: The scenes are to be drawings, and the codec's tokens cannot be drawn.
        GeometryError: Nothing of the first frame can be remembered, or estimated depth has
            nothing in common with the memory.
    """
    count = (len(shot.frames) - 1) // CHUNK_STEP * CHUNK_STEP + 1
    frames = shot.frames[:count]
    latents = codec.encode(frames).float()
    geometry = _noisy(shot, settings, (int(latents.shape[2]), int(latents.shape[3])), count)
    cameras = shot.cameras.select(slice(0, count))
    state = begin(frames[0], geometry, cameras, codec, settings=settings.loop)
    history = _History(latents, _drawer(codec) if settings.drawn else None)
    clips = []
    while True:
        clips.append(history.clip(state, shot, settings))
        if state.done == len(state.plan) - 1:
            return clips
        state = _advance(state, frames, latents, geometry, codec, shot, settings, history)


def _drawer(codec: TrainingCodec) -> Callable[[Readout], Tensor]:
    if not isinstance(codec, DctCodec):
        raise ModelMismatchError(
            "Only tokens of the embedded codec can be drawn one by one",
            got=codec.name,
            fix="Leave --drawn out, or make the clips with --embedded-codec",
        )
    return partial(drawn_latents, codec=codec)


def _noisy(
    shot: Shot, settings: ClipSettings, grid: tuple[int, int], count: int
) -> FrameGeometry:
    """Depth of the frames whose cameras latents take, with errors where it has none."""
    step = TEMPORAL_STRIDE if len(shot.geometry) == len(shot.frames) else 1
    used = list(range(0, (count - 1) // TEMPORAL_STRIDE * step + 1, step))
    chosen = shot.geometry.select(used)
    if not shot.exact:
        return chosen
    depth = settings.noise.apply(chosen.depth, grid, shot.seed())
    return dataclasses.replace(chosen, depth=depth)


def _advance(
    state: RolloutState,
    frames: Tensor,
    latents: Tensor,
    geometry: FrameGeometry,
    codec: TrainingCodec,
    shot: Shot,
    settings: ClipSettings,
    history: _History,
) -> RolloutState:
    """Write a chunk to the memory, as a rollout does after it has generated one."""
    loop, chunk = settings.loop, state.chunk
    start = chunk.first_frame // TEMPORAL_STRIDE
    span = slice(start, start + chunk.latent_frames)
    depth = geometry.select(list(range(span.start, span.stop)))
    cache, _ = remember_chunk(
        state,
        loop,
        latents[:, span],
        frames[chunk.first_frame : chunk.output_end],
        depth,
        encode=codec.encode_each,
        exact=shot.exact,
        masks=ChunkMasks(),
    )
    added = 1 if chunk.index else 0
    readout = history.readout
    record = ChunkRecord(
        latents[:, span][:, added:], readout.tokens[:, added:], readout.visible[added:]
    )
    done = ChunkStatistics(chunk.index, readout.hole_rate, len(cache), cache.nbytes, 0.0, 0.0)
    return state.advanced(record, cache, done)


class _History:
    """Latents of a shot, and what the memory showed when each of them was made."""

    def __init__(self, latents: Tensor, drawer: Callable[[Readout], Tensor] | None) -> None:
        self._latents = latents
        self._drawer = drawer
        empty = latents[:, :0]
        self._scene = empty
        self._visible = empty[0].bool()
        self._offset = empty[:2]
        self._ratio = empty[0]

    def clip(self, state: RolloutState, shot: Shot, settings: ClipSettings) -> TrainingClip:
        """What the model sees in the next chunk; it is remembered as shown."""
        loop = settings.loop
        before = preceding_frames(state, loop.preceding)
        chosen = reference_frames(
            state,
            limit=loop.references,
            threshold=loop.threshold,
            exclude=set(before) if loop.exclude_seen else None,
        )
        self.readout = read(state.cache, state.frame_cameras)
        scene = self.readout.tokens.float()
        planes: dict[str, Tensor] = {}
        if settings.planes:
            offset, ratio = point_planes(self.readout)
            planes = {"offset": offset, "log_depth": ratio}
            planes |= {"preceding_offset": self._offset[:, before]}
            planes |= {"preceding_log_depth": self._ratio[before]}
        start = state.chunk.first_frame // TEMPORAL_STRIDE
        parts = {
            "target": self._latents[:, start : start + state.chunk.latent_frames],
            "scene": scene if self._drawer is None else self._drawer(self.readout),
            "visible": self.readout.visible,
            "preceding": self._latents[:, before],
            "preceding_scene": self._scene[:, before],
            "preceding_visible": self._visible[before],
            "references": self._latents[:, chosen],
            **planes,
        }
        added = 1 if state.done else 0
        self._scene = torch.cat([self._scene, scene[:, added:]], dim=1)
        self._visible = torch.cat([self._visible, self.readout.visible[added:]])
        if settings.planes:
            self._offset = torch.cat([self._offset, offset[:, added:]], dim=1)
            self._ratio = torch.cat([self._ratio, ratio[added:]])
        return TrainingClip(
            key=f"{shot.key}#{state.done}",
            caption=shot.caption,
            text=shot.text,
            **{name: part.cpu().contiguous() for name, part in parts.items()},
        )
