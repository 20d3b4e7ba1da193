"""A chunk's depth on the memory's scale, and frames refused that contradict it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

import torch

from ..cache.build import WriteConfig
from ..errors import GeometryError
from ..geometry.align import AlignConfig, Alignment, align_depth, depth_edges
from ..geometry.depth import downsample_depth, flying_pixels
from ..readout.depth_pairs import depth_pairs
from ..readout.readout import grid_intrinsics
from .chunk_geometry import ChunkGeometry
from .state import RolloutState

MAX_EDGE_SHARE: Final = 0.7
"""Largest share of a frame's cells that may be at edges and not count."""


@dataclass(frozen=True, eq=False)
class AlignedGeometry:
    """A chunk's depth in agreement with the memory.

    Attributes:
        geometry: The chunk's geometry, aligned; refused frames are left out of it as well.
        alignment: The correction and its errors.
        frames: Pixel frame of each latent frame.
        trusted: Which frames may be written.
    """

    geometry: ChunkGeometry
    alignment: Alignment
    frames: tuple[int, ...]
    trusted: tuple[bool, ...]

    @property
    def refused(self) -> tuple[int, ...]:
        """Pixel frames whose depth contradicts the memory."""
        return tuple(f for f, good in zip(self.frames, self.trusted, strict=True) if not good)

    def summary(self) -> str:
        """The whole alignment in one line."""
        scale, residual = self.alignment.correction.scale.tolist(), self.alignment.residual
        known = [value for value in residual if value == value]  # noqa: PLR0124
        worst = max(known, default=None)
        if worst is None:
            return "depth against the memory: nothing to compare with"
        scales = f"{min(scale):.3f} to {max(scale):.3f}"
        return f"depth scaled by {scales}; left is an error of {worst:.1%} at most"

    def describe(self) -> str:
        """A line for each frame, and what is left out."""
        correction = self.alignment.correction
        rows = zip(
            self.frames, correction.scale.tolist(), self.alignment.before,
            self.alignment.residual, self.alignment.overlap, self.trusted, strict=True,
        )  # fmt: skip
        lines = [
            f"frame {frame}: {_error(before)} off, x {scale:.3f}, {_error(after)} left, "
            f"{overlap:.0%} compared" + ("" if good else ", refused")
            for frame, scale, before, after, overlap, good in rows
        ]
        refused = ", ".join(map(str, self.refused)) or "none"
        masked = float(self.geometry.masked.float().mean())
        lines.append(f"masked {masked:.1%}, refused frames: {refused}")
        return "\n".join([*lines, *self.geometry.notes])


def align_to_memory(
    state: RolloutState,
    geometry: ChunkGeometry,
    align: AlignConfig,
    *,
    write: WriteConfig | None = None,
    strict: bool = False,
    with_first: bool = False,
) -> AlignedGeometry:
    """Bring a chunk's depth to the memory's scale, and refuse frames that contradict it.

    The memory is only read.

    Args:
        state: The state before the chunk is finished.
        geometry: The chunk's depth with masks.
        align: How depth is aligned.
        write: How depth becomes points.
        strict: Raise when no frame agrees with the memory.
        with_first: The frames that the chunk begins with will be written as well.

    Raises:
        GeometryError: When strict, of what is not masked no frame agrees with the memory.
    """
    frames, masked = geometry.frames, geometry.masked
    alignment = _align(state, geometry, align, write or WriteConfig())
    start = 0 if with_first else state.chunk.clean_latents
    demanded = start if strict and not bool(masked.all()) else None
    trusted = _trusted(state, alignment, align, demanded)
    values = alignment.correction.apply(frames.depth)
    # A shift may push all of a frame behind the camera. Geometry must have some depth: the
    # frame keeps its own, and is refused.
    lost = ~(values > 0).flatten(1).any(1)
    values = torch.where(lost[:, None, None], frames.depth, values)
    trusted = tuple(good and not gone for good, gone in zip(trusted, lost.tolist(), strict=True))
    aligned = dataclasses.replace(geometry, frames=dataclasses.replace(frames, depth=values))
    aligned = aligned.without(masked | ~torch.tensor(trusted)[:, None, None])
    return AlignedGeometry(aligned, alignment, tuple(state.chunk.pose_frames), trusted)


def _trusted(
    state: RolloutState, alignment: Alignment, align: AlignConfig, demanded: int | None
) -> tuple[bool, ...]:
    """Which latent frames may be written; one of those from ``demanded`` on has to, if given."""
    if align.mode == "none" or not state.cache.blocks:
        return (True,) * len(alignment.fitted)
    trusted = alignment.trusted(align.refuse_above)
    if demanded is not None and not any(trusted[demanded:]):
        _raise_untrusted(alignment, align, demanded)
    return trusted


def _align(
    state: RolloutState, geometry: ChunkGeometry, align: AlignConfig, write: WriteConfig
) -> Alignment:
    cameras, size, depth = state.latent_cameras, state.grid, geometry.frames.depth
    coarse = downsample_depth(depth, size, write.depth_mode, state.cache.convention)
    skip = geometry.masked.to(coarse.device)
    edges = (depth_edges(coarse) | flying_pixels(coarse)) & ~skip
    # A frame that is mostly edges is judged by them: it may be nothing but noise.
    few = edges.flatten(1).sum(1) <= MAX_EDGE_SHARE * (~skip).flatten(1).sum(1)
    skip = skip | (edges & few[:, None, None])
    pairs = depth_pairs(
        state.cache,
        depth,
        cameras.world_to_camera,
        grid_intrinsics(cameras, size),
        size,
        skip,
    )
    return align_depth(pairs, align)


def _raise_untrusted(alignment: Alignment, config: AlignConfig, first: int) -> None:
    errors = [value for value in alignment.fitted[first:] if value == value]  # noqa: PLR0124
    got = (
        f"errors of {min(errors):.0%} to {max(errors):.0%} after the alignment"
        if errors
        else "too little of the memory in view to compare with"
    )
    raise GeometryError(
        "No frame's depth agrees with the memory",
        got=got,
        expected=f"at most {config.refuse_above:.0%}",
        fix="Check the depth source and its field of view, or make the chunk again",
    )


def _error(value: float) -> str:
    return f"{value:.1%}" if value == value else "unknown"  # noqa: PLR0124
