"""All that the denoiser is told about one chunk."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ShapeError
from ..readout.readout import Readout
from ..validate import expect_shape
from .features import SideFeature, drawing_of, stack_features
from .segments import Segments


@dataclass(frozen=True, eq=False)
class Condition:
    """What the memory shows to a chunk, and the clean frames that go with it.

    Everything is in model space.

    Attributes:
        projection: (C, T, h, w) what the memory shows to the target's cameras, 0 where nothing; its
            drawing, for branches that take that.
        visible: (T, h, w) bool, where it shows something.
        references: (C, R, h, w) clean frames of the same place, best first.
        preceding: (C, P, h, w) clean frames right before the first target frame, in order.
        preceding_projection: (C, P, h, w) what the memory showed when they were made.
        preceding_visible: (P, h, w) bool, where it showed something then.
        offset: (2, T, h, w) where in its cell the winning point falls, from the cell's middle
            in cells, x then y. The four planes from here on are for branches that take them.
        log_depth: (T, h, w) ln(depth now / depth in the frame that saw the point).
        preceding_offset: (2, P, h, w) the same for the preceding frames, as it was then.
        preceding_log_depth: (P, h, w) the same.
        render: (C, T, h, w) latent of a colour render, for branches that are steered by one, see
            `mirage_core.conditioning.renders`.
        score: (C, T, h, w) latent of its holes.
        clean: How many of the target's frames, from the first on, are known and clean.

    Raises:
        ShapeError: Sizes differ, planes of the target come without those of the preceding
            frames, or more target frames are clean than there are.
    """

    projection: Tensor
    visible: Tensor
    references: Tensor
    preceding: Tensor
    preceding_projection: Tensor
    preceding_visible: Tensor
    offset: Tensor | None = None
    log_depth: Tensor | None = None
    preceding_offset: Tensor | None = None
    preceding_log_depth: Tensor | None = None
    render: Tensor | None = None
    score: Tensor | None = None
    clean: int = 1

    def __post_init__(self) -> None:
        sizes = expect_shape("The projection", self.projection, "C T h w")
        grid = {"h": sizes["h"], "w": sizes["w"]}
        frame = {"C": sizes["C"], **grid}
        expect_shape("The visibility", self.visible, "T h w", T=sizes["T"], **grid)
        expect_shape("The references", self.references, "C R h w", **frame)
        count = expect_shape("The preceding frames", self.preceding, "C P h w", **frame)["P"]
        expect_shape("What they showed", self.preceding_projection, "C P h w", P=count, **frame)
        expect_shape("Where they showed it", self.preceding_visible, "P h w", P=count, **grid)
        for name, latent in (("render", self.render), ("score", self.score)):
            if latent is not None:
                expect_shape(f"The latent of the {name}", latent, "C T h w", **sizes)
        for now, then, pattern in (
            (self.offset, self.preceding_offset, "2 F h w"),
            (self.log_depth, self.preceding_log_depth, "F h w"),
        ):
            if (now is None) != (then is None):
                raise ShapeError(
                    "Target and preceding frames do not have the same planes",
                    expected="planes for both, or for none",
                )
            if now is not None and then is not None:
                expect_shape("The target's extra plane", now, pattern, F=sizes["T"], **grid)
                expect_shape("The preceding frames' plane", then, pattern, F=count, **grid)

    @classmethod
    def of_projection(cls, projection: Tensor, visible: Tensor) -> Condition:
        """A condition without reference or preceding frames."""
        none = projection[:, :0]
        return cls(projection, visible, none, none, none, visible[:0])

    @classmethod
    def of_readout(cls, readout: Readout, shown: Tensor | None = None) -> Condition:
        """A condition without reference or preceding frames, with the readout's planes.

        Args:
            readout: What the memory shows to T latent cameras.
            shown: (C, T, h, w) what the side branch is shown of it; its tokens by default.
        """
        offset, log_depth = readout.planes
        return dataclasses.replace(
            cls.of_projection(
                readout.weighed_tokens if shown is None else shown, readout.visible
            ),
            offset=offset,
            log_depth=log_depth,
            preceding_offset=offset[:, :0],
            preceding_log_depth=log_depth[:0],
        )

    def to(self, device: torch.device | str) -> Condition:
        """The condition on a device, each part contiguous in memory of its own."""
        parts: dict[str, Any] = {
            name: value.to(device).contiguous()
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return dataclasses.replace(self, **parts)

    @property
    def segments(self) -> Segments:
        """How many frames of each kind there are."""
        return Segments(
            target=self.projection.shape[1],
            references=self.references.shape[1],
            preceding=self.preceding.shape[1],
            clean=self.clean,
        )

    def side_input(self, features: Sequence[SideFeature], white: Tensor | None = None) -> Tensor:
        """Input of a side branch: (channels, T + P, h, w), target first.

        Args:
            features: What the branch was made for.
            white: (C, T + P, h, w) latent of a white video, for branches that take one.

        Raises:
            ModelMismatchError: The branch is steered by a render, and there is none.
            ShapeError: The white latent or a plane is missing or has another size, or there are
                preceding frames beside a render.
        """
        if self.render is not None and self.segments.preceding:
            raise ShapeError(
                "A side branch that is steered by a render sees the past in the clip itself",
                got=f"{self.segments.preceding} preceding frames",
                expected="none: its past frames are the first ones of the target",
                fix="Set the number of preceding frames to 0",
            )
        before = self.preceding if drawing_of(features) else self.preceding_projection
        return stack_features(
            features,
            torch.cat([self.projection, before], dim=1),
            torch.cat([self.visible, self.preceding_visible]),
            white,
            _joined(self.offset, self.preceding_offset, 1),
            _joined(self.log_depth, self.preceding_log_depth, 0),
            self.render,
            self.score,
        )


def _joined(now: Tensor | None, then: Tensor | None, axis: int) -> Tensor | None:
    """Planes of target and preceding frames in one; None where there are none."""
    return None if now is None or then is None else torch.cat([now, then], dim=axis)
