"""What a finished chunk has to say to the memory: align, mask, observe, reject, report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cache.build import Observation, observe
from ..codecs.colours import ColourCodec
from ..codecs.memory_kind import MemoryKind
from ..constants import TEMPORAL_STRIDE, WHITE_8
from ..geometry.align import AlignConfig
from ..geometry.frame_geometry import FrameGeometry
from ..preview.colour_match import ColourShift, colour_shift
from ..readout.readout import default_view, grid_intrinsics, read_winners
from ..validate import expect_shape
from ..writing.consistency import find_inconsistent
from ..writing.views import DETAIL, SourceViews, cell_range
from .align_chunk import AlignedGeometry, align_to_memory
from .chunk_geometry import ChunkGeometry, Masks, chunk_geometry
from .settings import MemorySettings
from .state import RolloutState

Encoder = Callable[[Tensor], Tensor]
"""Encodes each picture (F, H, W, 3) alone to model-space tokens (C, F, h, w)."""


@dataclass(frozen=True)
class ChunkReport:
    """What was done to a chunk's observation.

    Attributes:
        masked: Share of the new cells that masks keep out.
        rejected: Share of the new cells that other views contradict.
        written: Share of the new cells that may be written.
        gone: Remembered points that new frames see past.
        alignment: How depth was aligned; None when nothing was compared.
        drift: How the chunk's colours would have to move to those of a memory of colours; None
            for tokens.
        notes: Sentences for people: masks that leave nothing.
    """

    masked: float
    rejected: float
    written: float
    gone: int
    alignment: AlignedGeometry | None = None
    drift: ColourShift | None = None
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """A few lines for people."""
        lines = [] if self.alignment is None else [self.alignment.summary()]
        lines.append(
            f"masked {self.masked:.1%}, held back {self.rejected:.1%}, "
            f"to write {self.written:.1%} of the cells"
        )
        # Where all is masked there is nothing that depth could contradict.
        if self.alignment is not None and self.alignment.refused and not self.notes:
            numbers = ", ".join(map(str, self.alignment.refused))
            lines.append(f"refused, since depth contradicts the memory: frames {numbers}")
        if self.gone:
            lines.append(f"{self.gone:,} remembered points are seen through")
        if self.drift is not None:
            lines.append(self.drift.describe_drift())
        return "\n".join([*lines, *self.notes])


@dataclass(frozen=True, eq=False)
class PreparedObservation:
    """What may be written, and why the rest may not.

    Attributes:
        observation: The chunk's new latent frames; depth is 0 where nothing may be written.
        report: What was done.
        gone: (M,) int64, points of the memory that successive new frames see past.
        excluded: (F, h, w) bool, cells of the new frames under a mask.
        rejected: (F, h, w) bool, cells of the new frames that other views contradict.
    """

    observation: Observation
    report: ChunkReport
    gone: Tensor
    excluded: Tensor
    rejected: Tensor


def prepare_observation(
    state: RolloutState,
    latents: Tensor,
    frames: Tensor,
    geometry: FrameGeometry,
    settings: MemorySettings,
    *,
    encode: Encoder,
    masks: Masks | None = None,
    scaled: bool = False,
) -> PreparedObservation:
    """What a finished chunk has to say to the memory, in agreement with it.

    1. Depth is aligned to what the memory shows at the same cameras, on cells that are visible,
       not masked and not at edges. Frames that cannot be made to agree are refused.
    2. Cells with any masked pixel are left out.
    3. New frames are encoded, and cells that other views contradict are rejected.

    The memory is only read. All checks come before frames are encoded. The clean latent frames
    that a chunk begins with are compared and not written: the memory has what they show, the
    given picture or the end of the chunk before.

    Args:
        state: The state before the chunk is finished.
        latents: (C, T, h, w) model-space latents of the chunk.
        frames: (4T - 3, H, W, 3) decoded frames of the chunk in 0..1.
        geometry: Depth of all 4T - 3 frames, of the T whose cameras latent frames take, or of
            the whole shot.
        settings: How chunks are remembered.
        encode: Encodes decoded frames again, for settings that do.
        masks: What moves, the sky, and whatever else stays out.
        scaled: True for depth in scene units, which is neither aligned nor checked for lens and
            path.

    Raises:
        ShapeError: Frames, latents, depth or masks do not belong to this chunk.
        GeometryError: The cameras are not the shot's, or, when strict, no frame agrees with the
            memory.
    """
    _expect_chunk(state, latents, frames)
    encode, settings = _as_remembered(state, encode, settings)
    first_too = settings.first_twice and state.done == 0
    own = chunk_geometry(
        state, geometry, masks, growth=settings.growth, check_cameras=not scaled
    )
    aligned = _aligned(state, own, settings, scaled, first_too)
    own = own if aligned is None else aligned.geometry
    start = 0 if first_too else state.chunk.clean_latents
    observation = _observe(state, latents, frames, own, settings, encode, start)
    checked = Consistent.all_of(observation, state.cache.device)
    if settings.consistency is not None:
        before = _remembered(state, latents, frames, settings, encode)
        checked = reject_inconsistent(state, observation, before, own, settings)
    masked = own.masked[start:]
    drift = _colour_drift(state, observation) if state.cache.kind is MemoryKind.COLOURS else None
    report = _report(checked, masked, aligned, drift, own.notes)
    return PreparedObservation(
        checked.observation, report, checked.gone, masked, checked.rejected
    )


def _report(
    checked: Consistent,
    masked: Tensor,
    aligned: AlignedGeometry | None,
    drift: ColourShift | None,
    notes: tuple[str, ...],
) -> ChunkReport:
    return ChunkReport(
        masked=_share(masked),
        rejected=_share(checked.rejected),
        written=_share(checked.observation.depth > 0),
        gone=len(checked.gone),
        alignment=aligned,
        drift=drift,
        notes=notes,
    )


def _colour_drift(state: RolloutState, observation: Observation) -> ColourShift:
    """By the first, the middle and the last new frame, whatever is written of them."""
    last = len(observation.depth) - 1
    numbers = sorted({0, last // 2, last})
    made = observation.tokens[:, numbers].movedim(0, -1)
    winner, _ = read_winners(
        state.cache,
        observation.world_to_camera[numbers],
        observation.intrinsics[numbers],
        state.memory_grid,
        view=default_view(state.cache),
    )
    known = state.cache.gather(winner, [block.tokens for block in state.cache.blocks])
    return colour_shift(made.float() / WHITE_8, known.to(made.device) / WHITE_8, winner < 0)


def _aligned(
    state: RolloutState,
    geometry: ChunkGeometry,
    settings: MemorySettings,
    scaled: bool,
    with_first: bool,
) -> AlignedGeometry | None:
    """The geometry in agreement with the memory; None for settings that do not align."""
    if settings.align is None:
        return None
    align = AlignConfig("none") if scaled else settings.align
    return align_to_memory(
        state, geometry, align,
        write=settings.write, strict=settings.strict, with_first=with_first,
    )  # fmt: skip


def _as_remembered(
    state: RolloutState, encode: Encoder, settings: MemorySettings
) -> tuple[Encoder, MemorySettings]:
    """Colours come from the frames themselves, whatever the codec of the shot."""
    if state.cache.kind is MemoryKind.TOKENS:
        return encode, settings
    colours = ColourCodec.named(state.cache.codec)
    return colours.encode_images, dataclasses.replace(settings, reencode=True)


def _remembered(
    state: RolloutState, latents: Tensor, frames: Tensor, settings: MemorySettings, encode: Encoder
) -> Tensor:
    """(C, K, h, w) what the memory would hold of the frames that the chunk begins with.

    The first latent stands for a picture by itself. Those after it are of moving pictures, and
    unlike what is remembered where decoded frames are encoded again.
    """
    count = state.chunk.clean_latents
    own = count == 1 or not settings.reencode
    if own and state.cache.kind is MemoryKind.TOKENS:
        return latents[:, :count]
    return encode(frames[: (count - 1) * TEMPORAL_STRIDE + 1 : TEMPORAL_STRIDE])


def _observe(
    state: RolloutState,
    latents: Tensor,
    frames: Tensor,
    geometry: ChunkGeometry,
    settings: MemorySettings,
    encode: Encoder,
    start: int,
) -> Observation:
    """The latent frames from ``start`` on with their depth (paper Eq. 6)."""
    chunk = state.chunk
    tokens = latents[:, start:]
    if settings.reencode:
        tokens = encode(frames[start * TEMPORAL_STRIDE :: TEMPORAL_STRIDE])
    cameras = state.latent_cameras.select(slice(start, None))
    return observe(
        settings.as_stored(tokens),
        geometry.frames.select(list(range(start, chunk.latent_frames))),
        world_to_camera=cameras.world_to_camera,
        frames=torch.tensor(chunk.pose_frames[start:]),
        convention=state.cache.convention,
        config=settings.write,
        intrinsics=grid_intrinsics(cameras, state.memory_grid),
        allow_empty=True,
    )


@dataclass(frozen=True, eq=False)
class Consistent:
    """An observation without what other views contradict.

    Attributes:
        observation: Depth is 0 where nothing may be written.
        rejected: (F, h, w) bool, the cells that were taken out.
        gone: (M,) int64, points of the memory that successive new frames see past.
    """

    observation: Observation
    rejected: Tensor
    gone: Tensor

    @classmethod
    def all_of(cls, observation: Observation, device: torch.device) -> Consistent:
        """The whole observation."""
        return cls(
            observation,
            torch.zeros_like(observation.depth, dtype=torch.bool),
            torch.zeros(0, dtype=torch.int64, device=device),
        )


def reject_inconsistent(
    state: RolloutState,
    observation: Observation,
    before: Tensor,
    geometry: ChunkGeometry,
    settings: MemorySettings,
) -> Consistent:
    """Take out of an observation what the chunk's other frames or the memory contradict.

    Args:
        state: The state before the chunk is finished.
        observation: The chunk's new frames, or all of them.
        before: (C, K, h, w) what the memory would hold of the frames that the chunk begins
            with and the observation leaves out.
        geometry: Aligned depth of the chunk's T latent frames.
        settings: Thresholds, and how the memory is looked at.
    """
    excluded = geometry.excluded(state.memory_grid).to(observation.depth.device)
    views = _source_views(state, observation, before, geometry, excluded)
    first = len(excluded) - len(observation.depth)
    found = find_inconsistent(
        state.cache, observation, views, settings.consistency, first=first, view=settings.view
    )
    left = torch.where(found.rejected, 0.0, observation.depth)
    return Consistent(
        dataclasses.replace(observation, depth=left), found.rejected, found.gone
    )


def _source_views(
    state: RolloutState,
    observation: Observation,
    before: Tensor,
    geometry: ChunkGeometry,
    excluded: Tensor,
) -> SourceViews:
    """All frames of the chunk, the overlapping ones first."""
    cameras, size = state.latent_cameras, state.memory_grid
    # Points of colours are as fine as depth is.
    detail = DETAIL if state.cache.kind is MemoryKind.TOKENS else 1
    fine = (size[0] * detail, size[1] * detail)
    near, far = (maps.to(excluded.device) for maps in cell_range(geometry.frames.depth, fine))
    out = excluded.repeat_interleave(detail, 1).repeat_interleave(detail, 2)
    tokens = observation.tokens.float()
    if tokens.shape[1] < len(excluded):
        tokens = torch.cat([before.to(tokens.device, torch.float32), tokens], dim=1)
    return SourceViews(
        torch.where(out, 0.0, near),
        torch.where(out, 0.0, far),
        tokens,
        ~excluded,
        cameras.world_to_camera,
        grid_intrinsics(cameras, size),
    )


def _expect_chunk(state: RolloutState, latents: Tensor, frames: Tensor) -> None:
    chunk, (height, width) = state.chunk, state.latent_grid
    expect_shape(
        "The chunk's latents", latents, "C T h w",
        C=state.channels, T=chunk.latent_frames, h=height, w=width,
    )
    expect_shape(
        "The chunk's decoded frames", frames, "F H W C",
        F=chunk.model_frames, H=state.trajectory.height, W=state.trajectory.width,
    )  # fmt: skip


def _share(cells: Tensor) -> float:
    return float(cells.float().mean())
