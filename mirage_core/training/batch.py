"""One forward pass: clips, what is shown of them, noise levels and noise.

Everything random here follows from one seed, which follows from the run's seed and the number
of the micro-batch. It is drawn on the CPU. So a run gives the same batches on any machine, with
any number of processes, and after any break.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..conditioning.condition import Condition
from ..conditioning.features import Features
from ..conditioning.segments import Segments
from ..errors import ShapeError
from ..validate import expect_shape
from .data.clip import TrainingClip
from .flow import draw_sigmas, noisy, timesteps
from .settings import TrainingSettings


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """What the model takes, and what it should give.

    Attributes:
        latents: (B, C, R + T + P, h, w) frames, the target noisy.
        timesteps: (B, R + T + P), 0 for clean frames.
        side: (B, channels, T + P, h, w) input of the side branch; None without one.
        text: (B, L, D) captions.
        target: (B, C, T, h, w) clean target.
        noise: (B, C, T, h, w).
        segments: How many frames of each kind there are.
        seed: For what the model itself draws, such as dropout.
    """

    latents: Tensor
    timesteps: Tensor
    side: Tensor | None
    text: Tensor
    target: Tensor
    noise: Tensor
    segments: Segments
    seed: int

    def to(self, device: torch.device, dtype: torch.dtype) -> TrainingBatch:
        """The batch on a device; what the model takes in ``dtype``, the rest in float32."""
        side = None if self.side is None else self.side.to(device, dtype, non_blocking=True)
        return dataclasses.replace(
            self,
            latents=self.latents.to(device, dtype, non_blocking=True),
            timesteps=self.timesteps.to(device, non_blocking=True),
            side=side,
            text=self.text.to(device, dtype, non_blocking=True),
            target=self.target.to(device, non_blocking=True),
            noise=self.noise.to(device, non_blocking=True),
        )


@dataclass(frozen=True, eq=False)
class BatchMaker:
    """Makes batches of clips.

    Attributes:
        settings: Of the run.
        features: Input planes of the side branch; empty for a model without one.
        empty_text: (L, D) what stands for a missing or dropped caption.
        white: (C, F, h, w) latent of a white video of at least T + P frames, for branches that
            take one. The autoencoder is causal, so shorter videos are its beginning.
    """

    settings: TrainingSettings
    features: Features
    empty_text: Tensor
    white: Tensor | None = None

    def make(
        self, clips: Sequence[TrainingClip], seed: int, sigmas: Tensor | None = None
    ) -> TrainingBatch:
        """A batch of clips of one size.

        Args:
            clips: B clips.
            seed: Of everything random.
            sigmas: (B, T) noise levels to use. Then nothing is left out either: all captions,
                references and preceding frames that the settings allow are shown.

        Raises:
            ShapeError: Sizes differ, or the branch takes planes that the clips do not have.
        """
        given, settings = sigmas is not None, self.settings
        generator = torch.Generator().manual_seed(seed)
        chosen = _subsets(clips, settings, generator, whole=given)
        target = torch.stack([clip.target.float() for clip in clips])
        count, _, frames = target.shape[:3]
        text = self._texts(clips, generator, 0.0 if given else settings.text_dropout)
        if sigmas is None:
            sigmas = draw_sigmas(
                count, frames, generator,
                shift=settings.shift, per_frame=settings.noise == "frame",
            )  # fmt: skip
        noise = torch.randn(target.shape, generator=generator)
        conditions = [_shown(clip, *places) for clip, places in zip(clips, chosen, strict=True)]
        segments = conditions[0].segments
        references = torch.stack([condition.references.float() for condition in conditions])
        preceding = torch.stack([condition.preceding.float() for condition in conditions])
        return TrainingBatch(
            latents=torch.cat([references, noisy(target, noise, sigmas), preceding], dim=2),
            timesteps=segments.timesteps(timesteps(sigmas)),
            side=self._side(conditions),
            text=text,
            target=target,
            noise=noise,
            segments=segments,
            seed=seed,
        )

    def _side(self, conditions: Sequence[Condition]) -> Tensor | None:
        if not self.features:
            return None
        frames = conditions[0].segments.main
        white = None if self.white is None else self.white[:, :frames]
        return torch.stack([c.side_input(self.features, white).float() for c in conditions])

    def _texts(
        self, clips: Sequence[TrainingClip], generator: torch.Generator, dropout: float
    ) -> Tensor:
        """(B, text_tokens, D), filled up with zeros."""
        dropped = torch.rand(len(clips), generator=generator) < dropout
        width = self.empty_text.shape[1]
        filled = torch.zeros(len(clips), self.settings.text_tokens, width)
        for row, (clip, drop) in enumerate(zip(clips, dropped.tolist(), strict=True)):
            text = self.empty_text if drop or clip.text is None else clip.text
            if text.shape[1] != width:
                raise ShapeError(
                    f"The text of clip {clip.key!r} was made by a different encoder",
                    got=f"{text.shape[1]} channels",
                    expected=f"{width}, as the video model expects",
                )
            text = text[: self.settings.text_tokens]
            filled[row, : len(text)] = text.float()
        return filled


def one_text(text: Tensor) -> Tensor:
    """(L, D) of one text, which may come as (1, L, D): so text encoders and denoisers have it.

    Raises:
        ShapeError: It is neither.
    """
    expect_shape("The empty text", text, "1 L D" if text.ndim > 2 else "L D")  # noqa: PLR2004
    return text[0] if text.ndim > 2 else text  # noqa: PLR2004


ShownFrames = tuple[list[int], list[int]]
"""Which reference frames and which preceding frames are shown."""


def _subsets(
    clips: Sequence[TrainingClip],
    settings: TrainingSettings,
    generator: torch.Generator,
    *,
    whole: bool,
) -> list[ShownFrames]:
    """For each clip; all clips show the same numbers of frames.

    The first references are the best ones, the last preceding frames the newest ones: these
    are what the caps keep.
    """
    sizes = [clip.target.shape[2:] for clip in clips]
    if any(size != sizes[0] for size in sizes):
        raise ShapeError("Clips of several sizes cannot share a forward pass", got=sizes)
    counts = [clip.condition.segments for clip in clips]
    references = min(min(count.references, settings.references) for count in counts)
    preceding = min(min(count.preceding, settings.preceding) for count in counts)
    draw = settings.random_subsets and not whole
    shown = [references, preceding]
    if draw:
        shown = [int(torch.randint(0, n + 1, (), generator=generator)) for n in shown]
    places = []
    for count in counts:
        best = range(min(count.references, settings.references))
        newest = range(max(0, count.preceding - settings.preceding), count.preceding)
        if draw:
            pair = _some(best, shown[0], generator), _some(newest, shown[1], generator)
        else:
            pair = list(best[: shown[0]]), list(newest[len(newest) - shown[1] :])
        places.append(pair)
    return places


def _some(frames: range, count: int, generator: torch.Generator) -> list[int]:
    """``count`` random frames, ascending."""
    picked = torch.randperm(len(frames), generator=generator)[:count].tolist()
    return [frames[index] for index in sorted(picked)]


def _shown(clip: TrainingClip, references: list[int], preceding: list[int]) -> Condition:
    condition = clip.condition
    offset, log_depth = condition.preceding_offset, condition.preceding_log_depth
    return dataclasses.replace(
        condition,
        references=condition.references[:, references],
        preceding=condition.preceding[:, preceding],
        preceding_projection=condition.preceding_projection[:, preceding],
        preceding_visible=condition.preceding_visible[preceding],
        preceding_offset=None if offset is None else offset[:, preceding],
        preceding_log_depth=None if log_depth is None else log_depth[preceding],
    )
