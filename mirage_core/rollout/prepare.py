"""From an estimator's depth to what may be written: align, mask, hold back, report."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cache.build import Observation
from ..cache.types import LatentCache
from ..geometry.frame_geometry import FrameGeometry
from ..readout.readout import grid_intrinsics
from ..writing.consistency import ConsistencyConfig, find_inconsistent, remove_points
from ..writing.policy import WriteRules
from ..writing.views import DETAIL, SourceViews, cell_range
from .align_chunk import AlignedGeometry, PrepareConfig, align_to_memory, hidden_cells
from .state import RolloutState
from .update import Encoder, chunk_observation


@dataclass(frozen=True)
class ObservationReport:
    """What was done to a chunk's observation. Entries per frame include the overlapping one.

    Attributes:
        frames: Pixel frame of each latent frame.
        scale: Factor by which depth was multiplied.
        shift: Shift of inverse depth.
        before: Median relative error against the memory before the alignment; NaN where the
            memory shows too little.
        fitted: The same after scale and shift.
        residual: The same after the whole alignment.
        overlap: Share of cells that could be compared.
        refused: Pixel frames whose depth contradicts the memory; they are not written.
        masked: Share of the new cells that masks keep out.
        held_back: Share of the new cells that other views contradict.
        written: Share of the new cells that may be written.
        gone: Remembered points that new frames see past.
    """

    frames: tuple[int, ...]
    scale: tuple[float, ...]
    shift: tuple[float, ...]
    before: tuple[float, ...]
    fitted: tuple[float, ...]
    residual: tuple[float, ...]
    overlap: tuple[float, ...]
    refused: tuple[int, ...]
    masked: float
    held_back: float
    written: float
    gone: int

    def describe(self) -> str:
        """A few lines for people."""
        worst = max((value for value in self.residual if value == value), default=None)  # noqa: PLR0124
        scales = f"{min(self.scale):.3f} to {max(self.scale):.3f}"
        lines = [
            "depth against the memory: nothing to compare with"
            if worst is None
            else f"depth scaled by {scales}; left is an error of {worst:.1%} at most",
            f"masked {self.masked:.1%}, held back {self.held_back:.1%}, "
            f"to write {self.written:.1%} of the cells",
        ]
        if self.refused:
            numbers = ", ".join(str(frame) for frame in self.refused)
            lines.append(f"refused, since depth contradicts the memory: frames {numbers}")
        if self.gone:
            lines.append(f"{self.gone:,} remembered points are seen through")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class PreparedObservation:
    """What may be written, and why the rest may not.

    Attributes:
        observation: The chunk's new latent frames; depth is 0 where nothing may be written.
        report: What was done.
        gone: (M,) int64, points of the memory that successive new frames see past.
        excluded: (F, h, w) bool, cells of the new frames under a mask.
        held_back: (F, h, w) bool, cells of the new frames that other views contradict.
    """

    observation: Observation
    report: ObservationReport
    gone: Tensor
    excluded: Tensor
    held_back: Tensor


def prepare_observation(
    state: RolloutState,
    latents: Tensor,
    frames: Tensor,
    geometry: FrameGeometry,
    *,
    encode: Encoder | None,
    dtype: torch.dtype,
    config: PrepareConfig | None = None,
    dynamic: Tensor | None = None,
    sky: Tensor | None = None,
    with_first: bool = False,
) -> PreparedObservation:
    """What a finished chunk has to say to the memory, in agreement with it.

    1. Depth is aligned to what the memory shows at the same cameras, on cells that are visible,
       not masked and not at edges. Frames that cannot be made to agree are refused.
    2. Cells with any masked pixel are left out.
    3. New frames are encoded, and cells that other views contradict are held back.

    The memory is only read. All checks come before frames are encoded.

    Args:
        state: The state before the chunk is finished.
        latents: (C, T, h, w) model-space latents of the chunk.
        frames: (4T - 3, H, W, 3) decoded frames of the chunk in 0..1.
        geometry: Depth of all 4T - 3 frames, of the T whose cameras latent frames take, or of
            the whole shot.
        encode: Encodes decoded frames again; None writes the latents themselves.
        dtype: Type of the stored tokens.
        config: Settings.
        dynamic: Masks of moving things, see `mirage_core.geometry.masks.mask_to_grid`.
        sky: Masks of the sky.
        with_first: Take the overlapping frame as well, see `chunk_observation`.

    Raises:
        ShapeError: Frames, latents, depth or masks do not belong to this chunk.
        GeometryError: Everything is masked, the cameras are not the shot's, or, when strict,
            no frame agrees with the memory.
    """
    config = config or PrepareConfig()
    aligned = align_to_memory(
        state, geometry, config, dynamic=dynamic, sky=sky, with_first=with_first
    )
    observation = chunk_observation(
        state, latents, frames, aligned.geometry,
        encode=encode, config=config.write, dtype=dtype, with_first=with_first,
    )  # fmt: skip
    start = 0 if with_first else 1
    held = Held.nothing(observation, state.cache.device)
    if config.contradiction is not None:
        held = hold_back(state, observation, latents, aligned.geometry, config.contradiction)
    return PreparedObservation(
        held.observation,
        _report(aligned, held, start),
        held.gone,
        aligned.masked[start:],
        held.held_back,
    )


@dataclass(frozen=True, eq=False)
class Held:
    """An observation without what other views contradict.

    Attributes:
        observation: Depth is 0 where nothing may be written.
        held_back: (F, h, w) bool, the cells that were taken out.
        gone: (M,) int64, points of the memory that successive new frames see past.
    """

    observation: Observation
    held_back: Tensor
    gone: Tensor

    @classmethod
    def nothing(cls, observation: Observation, device: torch.device) -> Held:
        """The whole observation."""
        return cls(
            observation,
            torch.zeros_like(observation.depth, dtype=torch.bool),
            torch.zeros(0, dtype=torch.int64, device=device),
        )

    def describe(self) -> str:
        """A line for people."""
        share = float(self.held_back.float().mean())
        return f"held back {share:.1%}, {len(self.gone):,} remembered points are seen through"


def hold_back(
    state: RolloutState,
    observation: Observation,
    latents: Tensor,
    geometry: FrameGeometry,
    config: ConsistencyConfig | None = None,
) -> Held:
    """Take out of an observation what the chunk's other frames or the memory contradict.

    Args:
        state: The state before the chunk is finished.
        observation: The chunk's new frames, or all of them.
        latents: (C, T, h, w) model-space latents of the chunk.
        geometry: Aligned depth of the chunk's T latent frames.
        config: Thresholds.
    """
    hidden = hidden_cells(state, geometry).to(observation.depth.device)
    views = _views(state, observation, latents, geometry, hidden)
    first = len(hidden) - len(observation.depth)
    found = find_inconsistent(state.cache, observation, views, config, first=first)
    left = torch.where(found.held_back, 0.0, observation.depth)
    return Held(dataclasses.replace(observation, depth=left), found.held_back, found.gone)


def without_gone(cache: LatentCache, gone: Tensor, rules: WriteRules) -> LatentCache:
    """The memory to write to, without points that new frames see past.

    The policy ``novelty`` removes what it sees through by itself.
    """
    return remove_points(cache, gone) if rules.policy == "append" else cache


def _report(aligned: AlignedGeometry, held: Held, start: int) -> ObservationReport:
    alignment = aligned.alignment
    return ObservationReport(
        frames=aligned.frames,
        scale=tuple(alignment.correction.scale.tolist()),
        shift=tuple(alignment.correction.shift.tolist()),
        before=alignment.before,
        fitted=alignment.fitted,
        residual=alignment.residual,
        overlap=alignment.overlap,
        refused=aligned.refused,
        masked=float(aligned.masked[start:].float().mean()),
        held_back=float(held.held_back.float().mean()),
        written=float((held.observation.depth > 0).float().mean()),
        gone=len(held.gone),
    )


def _views(
    state: RolloutState,
    observation: Observation,
    latents: Tensor,
    geometry: FrameGeometry,
    hidden: Tensor,
) -> SourceViews:
    """All frames of the chunk, the overlapping one first, as witnesses."""
    cameras, size = state.latent_cameras, state.grid
    fine = (size[0] * DETAIL, size[1] * DETAIL)
    near, far = (maps.to(hidden.device) for maps in cell_range(geometry.depth, fine))
    out = hidden.repeat_interleave(DETAIL, 1).repeat_interleave(DETAIL, 2)
    tokens = observation.tokens.float()
    if tokens.shape[1] < len(hidden):
        tokens = torch.cat([latents[:, :1].to(tokens.device, torch.float32), tokens], dim=1)
    return SourceViews(
        torch.where(out, 0.0, near),
        torch.where(out, 0.0, far),
        tokens,
        ~hidden,
        cameras.world_to_camera,
        grid_intrinsics(cameras, size),
    )
