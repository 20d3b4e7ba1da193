"""One model call of the sampler: latents and a timestep in, velocity out."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..conditioning.condition import Condition
from ..constants import PATCH_SIZE
from ..errors import ModelMismatchError, ShapeError, ValueRangeError
from ..validate import expect_shape
from .transformer import MirageTransformer3DModel


@dataclass(frozen=True, eq=False)
class MirageDenoiser:
    """The video model with everything that stays the same over a chunk's steps.

    Attributes:
        transformer: The video model.
        condition: What the memory shows, and the clean frames beside the target.
        text: (1, L, text_dim) encoded prompt.
        negative: (1, L, text_dim) encoded negative prompt; needed unless ``guidance`` is 1.
        white: (48, T + P, h, w) latent of a white video, for branches that take one.
        guidance: Scale of classifier-free guidance; 1 runs the model once for each step. The
            side branch is on in both passes, so guidance strengthens the text alone.
        side_scale: Factor on the side branch's hints; 0 leaves the branch out.

    Raises:
        ModelMismatchError: The model has no side branch, and ``side_scale`` is not 0.
        ShapeError: Sizes differ, or the white latent is missing.
        ValueRangeError: There is guidance and no negative prompt.
    """

    transformer: MirageTransformer3DModel
    condition: Condition
    text: Tensor
    negative: Tensor | None = None
    white: Tensor | None = None
    guidance: float = 1.0
    side_scale: float = 1.0
    _side: Tensor | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        sizes = dict(zip("Thw", self.condition.visible.shape, strict=True))
        if sizes["h"] % PATCH_SIZE or sizes["w"] % PATCH_SIZE:
            raise ShapeError(
                "The readout does not fit the video model's grid",
                got=f"{sizes['w']} x {sizes['h']} cells",
                expected=f"width and height divisible by {PATCH_SIZE}",
            )
        width = self.transformer.config.text_dim
        expect_shape("The encoded prompt", self.text, "1 L D", D=width)
        if self.negative is not None:
            expect_shape("The encoded negative prompt", self.negative, "1 L D", D=width)
        elif self.guidance != 1:
            raise ValueRangeError(
                "Guidance needs a negative prompt",
                got=f"guidance {self.guidance:g} and no negative prompt",
                fix="Encode one (it may be empty), or set the guidance to 1",
            )
        object.__setattr__(self, "_side", self._side_input())

    @torch.no_grad()
    def __call__(self, latents: Tensor, timestep: float) -> Tensor:
        """Predict the velocity of the target frames.

        Args:
            latents: (48, T, h, w) float32, the condition's clean frames first. The model runs
                on its device.
            timestep: Of the frames that are not clean, 0..1000.

        Returns:
            (48, T, h, w) float32: noise minus clean latents.

        Raises:
            ShapeError: The latents have another size than the condition.
        """
        condition, segments = self.condition, self.condition.segments
        expect_shape("The latents", latents, "C T h w", **_sizes(condition.projection))
        device, dtype = latents.device, self.transformer.dtype
        frames = torch.cat(
            [condition.references.to(latents), latents, condition.preceding.to(latents)], dim=1
        )
        timesteps = segments.timesteps(torch.full((1,), float(timestep), device=device))

        def velocity(text: Tensor) -> Tensor:
            side = None if self._side is None else self._side[None].to(device, dtype)
            (predicted,) = self.transformer(
                frames[None].to(dtype),
                timesteps,
                text.to(device, dtype),
                side_hidden_states=side,
                num_reference_frames=segments.references,
                num_preceding_frames=segments.preceding,
                side_scale=self.side_scale,
                return_dict=False,
            )
            return predicted[0, :, segments.target_frames].float()

        conditional = velocity(self.text)
        if self.negative is None or self.guidance == 1:
            return conditional
        unconditional = velocity(self.negative)
        return unconditional + self.guidance * (conditional - unconditional)

    def _side_input(self) -> Tensor | None:
        """Input of the side branch (channels, T + P, h, w); None when it does not run."""
        if self.side_scale == 0:
            return None
        config = self.transformer.branch_config
        if config is None:
            raise ModelMismatchError(
                "The video model has no side branch, so the memory cannot steer it",
                fix="Load a side branch with the model, or set its scale to 0",
            )
        return self.condition.side_input(config.features, self.white)


def _sizes(scene: Tensor) -> dict[str, int]:
    return dict(zip("CThw", scene.shape, strict=True))
