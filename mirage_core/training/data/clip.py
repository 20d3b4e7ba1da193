"""`TrainingClip`: what the denoiser is asked for, and all that it is told, for one chunk."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...conditioning.condition import Condition
from ...errors import ShapeError
from ...validate import expect_shape


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingClip:
    """One training sample, in model space, with the layout of a chunk of a rollout.

    The first target frame is clean, as in a rollout: it is the given picture, or the last
    frame of what came before. Cells that the memory does not show are 0 everywhere.

    Attributes:
        target: (C, T, h, w) latents that the denoiser should make.
        condition: All that the denoiser is told besides the text, of T target frames.
        text: (L, D) embedding of the caption without padding, or None.
        caption: What the clip shows.
        key: Name that is unique in a data set and the same whenever the clip is made again.
        path: (T, 6) places of the target frames' cameras in scene units, and the directions in
            which they look; None where they are not known. For people: no model sees it.

    Raises:
        ShapeError: Sizes differ, the key is empty, or some extra planes are missing.
    """

    target: Tensor
    condition: Condition
    text: Tensor | None = None
    caption: str = ""
    key: str
    path: Tensor | None = None

    def __post_init__(self) -> None:
        told = expect_shape("The clip's projection", self.condition.projection, "C T h w")
        expect_shape("The clip's target", self.target, "C T h w", **told)
        if (self.condition.offset is None) != (self.condition.log_depth is None):
            raise ShapeError(
                "Some of the clip's extra planes are missing",
                expected="offset and log_depth of target and preceding frames, or none of them",
            )
        if self.text is not None:
            expect_shape("The clip's text", self.text, "L D")
        if self.path is not None:
            expect_shape("The clip's camera path", self.path, "T 6", T=told["T"])
        if not self.key:
            raise ShapeError("A training clip needs a key", expected="a unique name")

    @property
    def has_planes(self) -> bool:
        """True when the sub-cell offset and the depth ratio are there."""
        return self.condition.offset is not None
