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
from typing import Final

import torch
from torch import Tensor

from ...codecs.base import LatentCodec, expect_drawable
from ...conditioning.features import DRAWINGS, SideFeature
from ...constants import MAX_CHUNK_FRAMES, TEMPORAL_STRIDE
from ...errors import ShapeError
from ...geometry.frame_geometry import FrameGeometry
from ...geometry.trajectory import Trajectory
from ...ops.best_view import BestView
from ...preview.drawn import Drawings
from ...readout.readout import Readout, read
from ...rollout.begin import begin
from ...rollout.context import chunk_condition
from ...rollout.history import History
from ...rollout.memory import write_chunk
from ...rollout.run_folder import finish_chunk
from ...rollout.settings import GenerationSettings
from ...rollout.state import ChunkRecord, RolloutState
from ...validate import expect_range, expect_shape
from .clip import TrainingClip

CHUNK_STEP: Final = MAX_CHUNK_FRAMES - 1
"""Pixel frames from one chunk to the next."""

MAX_NOISE: Final = 0.5



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
        drawn: Which of `mirage_core.conditioning.features.DRAWINGS` is stored as the scene, for
            branches that take that; needs the embedded codec. The readout itself when None.
        masks: What says which masks kept things out of the memory; empty where none did.
    """

    loop: GenerationSettings = field(default_factory=GenerationSettings)
    noise: DepthNoise = field(default_factory=DepthNoise)
    planes: bool = True
    drawn: SideFeature | None = None
    masks: str = ""

    def describe(self) -> str:
        """Text that differs whenever clips would."""
        loop = self.loop
        memory = loop.memory
        parts: list[object] = [memory.rules.policy, memory.convention.value]
        parts += [loop.references, loop.preceding, loop.threshold, loop.exclude_seen]
        parts += [memory.reencode, memory.first_twice, memory.write]
        parts += [self.noise, self.planes]
        parts += [] if self.drawn is None else [self.drawn.value]
        # Parts are told apart by semicolons, and what a user wrote is one part.
        parts += [f"masks {self.masks.replace(';', ',')}"] if self.masks else []
        return ";".join(map(str, parts))


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
def build_clips(shot: Shot, codec: LatentCodec, settings: ClipSettings) -> list[TrainingClip]:
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
    draw = None if settings.drawn is None else _drawer(codec, DRAWINGS[settings.drawn])
    state = begin(frames[0], geometry, cameras, codec, settings=settings.loop)
    records: list[ChunkRecord] = []
    clips = []
    while True:
        readout = read(state.cache, state.frame_cameras, settings.loop.memory.view)
        span = _latents_of(state)
        clips.append(_clip(state, shot, latents[:, span], readout, settings, records, draw))
        if state.done == len(state.plan) - 1:
            return clips
        chunk = frames[state.chunk.first_frame : state.chunk.output_end]
        written = write_chunk(
            state,
            latents[:, span],
            chunk,
            geometry.select(list(range(span.start, span.stop))),
            settings.loop.memory,
            encode=codec.encode_images,
            scaled=shot.exact,
        )
        state = finish_chunk(state, latents[:, span], readout, written.cache)
        records += [] if state.last is None else [state.last]


def _latents_of(state: RolloutState) -> slice:
    """Numbers of the next chunk's latent frames in the shot, the overlapping one included."""
    start = state.chunk.first_frame // TEMPORAL_STRIDE
    return slice(start, start + state.chunk.latent_frames)


def _clip(
    state: RolloutState,
    shot: Shot,
    target: Tensor,
    readout: Readout,
    settings: ClipSettings,
    records: list[ChunkRecord],
    draw: Callable[[Readout], Tensor] | None,
) -> TrainingClip:
    """What the model sees in the next chunk."""
    loop = settings.loop
    condition = chunk_condition(
        state,
        readout,
        references=loop.references,
        preceding=loop.preceding,
        threshold=loop.threshold,
        exclude_seen=loop.exclude_seen,
        history=History(state, records.__getitem__),
        planes=settings.planes,
    )
    if draw is not None:
        condition = dataclasses.replace(condition, projection=draw(readout))
    return TrainingClip(
        target=target.cpu().contiguous(),
        condition=condition.to("cpu"),
        text=None if shot.text is None else shot.text.cpu().contiguous(),
        caption=shot.caption,
        key=f"{shot.key}#{state.done}",
        path=_path(state.latent_cameras),
    )


def _path(cameras: Trajectory) -> Tensor:
    """(T, 6) where cameras are, and where they look to."""
    poses = cameras.camera_to_world
    return torch.cat([poses[:, :3, 3], poses[:, :3, 2]], dim=1).float().cpu()


def _drawer(codec: LatentCodec, view: BestView | None) -> Callable[[Readout], Tensor]:
    drawable = expect_drawable(
        codec,
        "Only tokens of the embedded codec can be drawn one by one",
        "Leave --drawn out, or make the clips with --embedded-codec",
    )
    return Drawings(drawable, view)


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
