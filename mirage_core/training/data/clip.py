"""`TrainingClip`: what the denoiser is asked for, and all that it is told, for one chunk."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...conditioning.condition import Condition
from ...constants import LATENT_CHANNELS
from ...errors import ShapeError
from ...validate import expect_shape


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingClip:
    """One training sample, in model space, with the layout of a chunk of a rollout.

    The first target frame is clean, as in a rollout: it is the given picture, or the last
    frame of what came before. Cells that the memory does not show are 0 everywhere.

    Attributes:
        target: (C, T, h, w) latents that the denoiser should make.
        scene: (C, T, h, w) what the memory shows to the target's cameras.
        visible: (T, h, w) bool, where it shows something.
        preceding: (C, P, h, w) clean frames right before the first target frame, in order.
        preceding_scene: (C, P, h, w) what the memory showed when they were made.
        preceding_visible: (P, h, w) bool, where it showed something then.
        references: (C, R, h, w) clean frames of the same place, best first.
        offset: (2, T, h, w) where in its cell the winning point falls, from the cell's middle
            in cells, -0.5..0.5, x then y. The four extra planes are all there, or none is.
        log_depth: (T, h, w) ln(depth now / depth in the frame that saw the point).
        preceding_offset: (2, P, h, w) the same for the preceding frames, as it was then.
        preceding_log_depth: (P, h, w) the same.
        text: (L, D) embedding of the caption without padding, or None.
        caption: What the clip shows.
        key: Name that is unique in a data set and the same whenever the clip is made again.

    Raises:
        ShapeError: Sizes differ, the key is empty, or some extra planes are missing.
    """

    target: Tensor
    scene: Tensor
    visible: Tensor
    preceding: Tensor
    preceding_scene: Tensor
    preceding_visible: Tensor
    references: Tensor
    offset: Tensor | None = None
    log_depth: Tensor | None = None
    preceding_offset: Tensor | None = None
    preceding_log_depth: Tensor | None = None
    text: Tensor | None = None
    caption: str = ""
    key: str

    def __post_init__(self) -> None:
        sizes = expect_shape("The clip's target", self.target, "C T h w", C=LATENT_CHANNELS)
        count, grid = sizes["T"], {"h": sizes["h"], "w": sizes["w"]}
        frame = {"C": LATENT_CHANNELS, **grid}
        expect_shape("The clip's scene", self.scene, "C T h w", T=count, **frame)
        expect_shape("The clip's visibility", self.visible, "T h w", T=count, **grid)
        expect_shape("The clip's references", self.references, "C R h w", **frame)
        before = expect_shape("The clip's preceding frames", self.preceding, "C P h w", **frame)
        shown = {"P": before["P"], **grid}
        expect_shape("What they showed", self.preceding_scene, "C P h w", **shown, C=frame["C"])
        expect_shape("Where they showed it", self.preceding_visible, "P h w", **shown)
        if self.text is not None:
            expect_shape("The clip's text", self.text, "L D")
        self._expect_planes(count, before["P"], grid)
        if not self.key:
            raise ShapeError("A training clip needs a key", expected="a unique name")

    def _expect_planes(self, count: int, before: int, grid: dict[str, int]) -> None:
        planes = (
            (self.offset, f"2 {count} h w"),
            (self.log_depth, f"{count} h w"),
            (self.preceding_offset, f"2 {before} h w"),
            (self.preceding_log_depth, f"{before} h w"),
        )
        given = [plane is not None for plane, _ in planes]
        if any(given) and not all(given):
            raise ShapeError(
                "Some of the clip's extra planes are missing",
                got=f"{sum(given)} of {len(given)}",
                expected="offset and log_depth of target and preceding frames, or none of them",
            )
        for plane, pattern in planes:
            if plane is not None:
                expect_shape("The clip's extra plane", plane, pattern, **grid)

    @property
    def has_planes(self) -> bool:
        """True when the sub-cell offset and the depth ratio are there."""
        return self.offset is not None

    def condition(self) -> Condition:
        """All that the denoiser is told besides the text."""
        return Condition(
            scene=self.scene,
            visible=self.visible,
            references=self.references,
            preceding=self.preceding,
            preceding_scene=self.preceding_scene,
            preceding_visible=self.preceding_visible,
            offset=self.offset,
            log_depth=self.log_depth,
            preceding_offset=self.preceding_offset,
            preceding_log_depth=self.preceding_log_depth,
        )
