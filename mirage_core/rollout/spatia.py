"""Conditions for Spatia's side branch, from a memory of colours.

Spatia (CVPR 2026) builds its cloud anew for every clip, from all frames so far. Here the memory
stays: what was written once is drawn in every later chunk, and nothing is thinned from clip to
clip. What else the branch is shown is as in Spatia: every pixel frame of the chunk, the shared
ones included, as discs and as holes; and earlier frames that show the same points, one for each
of some of the chunk's cameras.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from ..cache.types import LatentCache
from ..codecs.base import LatentCodec
from ..codecs.colours import ColourCodec
from ..conditioning.condition import Condition
from ..conditioning.renders import encode_discs
from ..errors import ModelMismatchError
from ..geometry.trajectory import Trajectory
from ..readout.discs import OnFrame, render_discs
from ..readout.readout import Readout
from ..readout.shared_points import SHARED_REFERENCES, choose_by_shared_points
from ..validate import expect_range, expect_shape
from .conditions import OnPart
from .context import expect_readout
from .saved_frames import FrameSource, saved_frames
from .settings import MAX_CONTEXT_FRAMES, GenerationSettings
from .state import RolloutState

TARGET_STRIDE: Final = 12
"""Every so many of the chunk's frames want a reference."""

CANDIDATE_STRIDE: Final = 4
"""Every so many of the frames before the chunk can be one."""

FRAMES_PER_SECOND: Final = 24.0
"""Frame rate of the videos that Spatia's weights were trained with."""


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points with colours.

    Attributes:
        points: (N, 3) in world coordinates.
        colours: (N, 3) in 0..1.
        landmarks: (M, 3) points by which references are chosen; ``points`` when None.

    Raises:
        ShapeError: There are not as many colours as points.
    """

    points: Tensor
    colours: Tensor
    landmarks: Tensor | None = None

    def __post_init__(self) -> None:
        count = expect_shape("The cloud's points", self.points, "N 3")["N"]
        expect_shape("The cloud's colours", self.colours, "N 3", N=count)

    def to(self, device: torch.device) -> Cloud:
        """The cloud on a device."""
        marks = None if self.landmarks is None else self.landmarks.to(device)
        return Cloud(self.points.to(device), self.colours.to(device), marks)


CloudSource = Callable[[RolloutState], Cloud]
"""What there is to draw, from the state before a chunk."""


def whole_memory(cache: LatentCache) -> Cloud:
    """All points of a memory of colours.

    Raises:
        ModelMismatchError: The memory holds tokens.
    """
    codec = ColourCodec.named(cache.codec)
    if not cache.blocks:
        nothing = torch.zeros(0, 3)
        return Cloud(nothing, nothing)
    points = torch.cat([block.points for block in cache.blocks])
    tokens = torch.cat([block.tokens for block in cache.blocks])
    return Cloud(points, codec.decode_patches(tokens)[:, 0, 0])


def remembered(state: RolloutState) -> Cloud:
    """All points of the shot's memory, as `whole_memory`."""
    return whole_memory(state.cache)


def expect_colours(codec: str) -> None:
    """Raise `ModelMismatchError` if a memory that names this codec holds tokens."""
    ColourCodec.named(codec)


def drawn_condition(
    cloud: Cloud,
    readout: Readout,
    codec: LatentCodec,
    *,
    clean: int = 1,
    references: Tensor | None = None,
    mirrored_principal_point: bool = False,
    on_frame: OnFrame | None = None,
) -> Condition:
    """Draw a cloud for all pixel frames of a readout's cameras, and encode what is seen.

    Args:
        cloud: What there is to draw; it is drawn on its own device.
        readout: What the memory shows to the chunk's T latent cameras. Only its cameras, and
            where it shows anything, are looked at.
        codec: Of the shot's latents.
        clean: Leading latent frames that are known.
        references: (C, R, h, w) latents of earlier frames, in the order of their targets.
        mirrored_principal_point: See `mirage_core.readout.discs.render_discs`.
        on_frame: Called after every drawn frame; may raise to cancel.

    Returns:
        The condition, on the readout's device, with nothing in its projection: tokens are not
        what this branch sees.

    Raises:
        ShapeError: The references have another size.
    """
    device = readout.visible.device
    discs = render_discs(
        cloud.points,
        cloud.colours,
        readout.trajectory,
        mirrored_principal_point=mirrored_principal_point,
        on_frame=on_frame,
        frames_on=device,
    )
    latents = encode_discs(discs, codec.encode)
    nothing = torch.zeros_like(latents.render, device=device)
    none = nothing[:, :0]
    return Condition(
        projection=nothing,
        visible=readout.visible,
        references=none if references is None else references.to(device),
        preceding=none,
        preceding_projection=none,
        preceding_visible=readout.visible[:0],
        render=latents.render.to(device),
        score=latents.score.to(device),
        clean=clean,
    )


@dataclass(frozen=True)
class References:
    """How earlier frames are chosen, and where they come from.

    Attributes:
        target_stride: Every so many of the chunk's frames want a reference.
        candidate_stride: Every so many of the frames before the chunk can be one.
        coarse_counts: Round counts of shared points as Spatia's code does, see
            `mirage_core.readout.shared_points.assign_references`.
        frames: Finished frames by number; those of the clips on disk by default.
    """

    target_stride: int = TARGET_STRIDE
    candidate_stride: int = CANDIDATE_STRIDE
    coarse_counts: bool = False
    frames: FrameSource = saved_frames

    def choose(
        self,
        state: RolloutState,
        landmarks: Tensor,
        limit: int = SHARED_REFERENCES,
        on_camera: OnPart | None = None,
    ) -> list[int]:
        """Numbers of the chosen pixel frames, in the order of their targets.

        Args:
            state: The state before the chunk; its first chunk has no references.
            landmarks: (N, 3) points by which frames are compared.
            limit: Most references.
            on_camera: Called after every camera that was looked through; may raise to cancel.

        Raises:
            ValueRangeError: The limit is out of range.
        """
        expect_range("The number of reference frames", limit, 0, MAX_CONTEXT_FRAMES)
        chunk = state.chunk
        if limit == 0 or not chunk.shared_frames:
            return []
        candidates = range(0, chunk.first_frame, self.candidate_stride)
        if not candidates:
            return []
        chosen = choose_by_shared_points(
            landmarks,
            _cameras(state, range(chunk.first_frame, chunk.output_end, self.target_stride)),
            _cameras(state, candidates),
            limit=limit,
            coarse_counts=self.coarse_counts,
            on_camera=on_camera,
        )
        return [candidates[number] for number in chosen]

    def encode(self, state: RolloutState, codec: LatentCodec, numbers: list[int]) -> Tensor:
        """(C, R, h, w) latents of finished pixel frames, each encoded alone.

        Frame 0 is the given picture itself, whose latent the state has.

        Raises:
            ResumeError: The rollout has no folder.
            CacheFormatError: A clip is missing or damaged.
        """
        others = [number for number in numbers if number]
        latents = {0: state.first_latent[:, 0].float()}
        for number, frame in zip(others, self.frames(state, others), strict=True):
            picture = frame[None].to(state.first_latent.device)
            latents[number] = codec.encode_images(picture)[:, 0].to(latents[0])
        picked = [latents[number] for number in numbers]
        return torch.stack(picked, dim=1) if picked else state.first_latent[:, :0].float()


@dataclass(frozen=True)
class SpatiaConditions:
    """Conditions for a branch of Spatia's, see `mirage_core.rollout.conditions.ConditionSource`.

    Attributes:
        codec: Of the shot's latents.
        cloud: What is drawn; all points of the memory by default.
        references: How earlier frames are chosen; their number is that of the settings.
        mirrored_principal_point: See `mirage_core.readout.discs.render_discs`.
    """

    codec: LatentCodec
    cloud: CloudSource = remembered
    references: References = field(default_factory=References)
    mirrored_principal_point: bool = False

    def expect_fitting(self, state: RolloutState, codec: LatentCodec) -> None:
        """Raise `ModelMismatchError` unless the memory holds colours, and the codec is ours."""
        expect_colours(state.cache.codec)
        if codec.name != self.codec.name:
            raise ModelMismatchError(
                "Two codecs are given for one shot",
                got=f"{self.codec.name!r} for what is drawn, {codec.name!r} for the frames",
                fix="Give the same codec to both",
            )

    def __call__(
        self,
        state: RolloutState,
        readout: Readout,
        settings: GenerationSettings,
        on_part: OnPart | None = None,
    ) -> Condition:
        """The condition of the next chunk.

        Args:
            state: The state before the chunk.
            readout: What the memory shows to the chunk's T latent cameras.
            settings: Only the number of references is looked at. Preceding frames are the
                first ones of the chunk itself.
            on_part: Called after every drawn frame and every camera that was looked through;
                may raise to cancel.

        Raises:
            ShapeError: The readout does not belong to this chunk.
            ModelMismatchError: The memory holds tokens.
            ResumeError: Earlier frames are needed, and the rollout has no folder.
            CacheFormatError: A clip is missing or damaged.
        """
        expect_readout(state, readout)
        cloud = self.cloud(state)
        landmarks = cloud.points if cloud.landmarks is None else cloud.landmarks
        numbers = self.references.choose(state, landmarks, settings.references, on_part)
        return drawn_condition(
            cloud,
            readout,
            self.codec,
            clean=state.chunk.clean_latents,
            references=self.references.encode(state, self.codec, numbers),
            mirrored_principal_point=self.mirrored_principal_point,
            on_frame=on_part,
        )


def _cameras(state: RolloutState, numbers: range) -> Trajectory:
    return state.trajectory.select(list(numbers))
