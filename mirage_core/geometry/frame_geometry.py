"""Depth and cameras of pictures, from whatever source, in the project's conventions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import GeometryError, ShapeError
from ..validate import expect_rigid, expect_shape
from .camera import scale_intrinsics
from .depth import valid_depth
from .trajectory import expect_intrinsics

SCALED_SHIFT, EQUAL_SHIFT = 0.1, 0.02
"""Shares of the picture from which, and up to which, a principal point is off in the same way
along both sides: then it counts in pixels of another size."""

ASPECT_TOLERANCE = 0.02
"""Relative difference in aspect ratio up to which depth and picture count as one frame."""

PROBE_STEP = 16
"""Every so many rows and columns a pixel is looked at first when a frame's depth is checked."""


@dataclass(frozen=True, eq=False)
class FrameGeometry:
    """Depth maps of F frames with their cameras; immutable and checked when it is made.

    Attributes:
        depth: (F, H, W) float32 z-depth in scene units; 0, negative, NaN and infinite
            values are invalid.
        intrinsics: (F, 3, 3) float64 in pixels of the depth map.
        world_to_camera: (F, 4, 4) float64, or None where the trajectory gives the poses.
        exclude: (F, H, W) bool, True where nothing may be remembered (sky, moving things).
        confidence: (F, H, W) float32, or None.
        metric: True when depth is in metres.
        notes: What a reader took, guessed or left unused, for reports; it changes nothing.

    Raises:
        ShapeError: Shapes do not fit together.
        GeometryError: No pixel of a frame has a valid depth, or the cameras are malformed, or
            count in pixels of another size.
    """

    depth: Tensor
    intrinsics: Tensor
    world_to_camera: Tensor | None = None
    exclude: Tensor | None = None
    confidence: Tensor | None = None
    metric: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", self.depth.detach().float())
        object.__setattr__(self, "intrinsics", self.intrinsics.detach().cpu().double())
        sizes = expect_shape("The depth", self.depth, "F H W")
        expect_shape("The depth's intrinsics", self.intrinsics, "F 3 3", F=sizes["F"])
        expect_intrinsics("The depth's intrinsics", self.intrinsics)
        _expect_own_resolution(self.intrinsics, sizes["W"], sizes["H"])
        if self.world_to_camera is not None:
            poses = self.world_to_camera.detach().cpu().double()
            object.__setattr__(self, "world_to_camera", poses)
            expect_shape("The depth's poses", poses, "F 4 4", F=sizes["F"])
            expect_rigid("The depth's camera pose", poses)
        for name, extra in (("exclusion mask", self.exclude), ("confidence", self.confidence)):
            if extra is not None:
                expect_shape(f"The depth's {name}", extra, "F H W", **sizes)
        empty = _frames_without_depth(self.depth)
        if empty:
            raise GeometryError(
                f"The depth of frame {empty[0]} has no valid pixel",
                got="only zeros, negative numbers, NaN or infinities",
                expected="distances above 0",
                fix="Check the depth picture's range, or run the depth estimator again; a frame of "
                "nothing but sky has no depth: keep some surface in view",
            )

    def __len__(self) -> int:
        return len(self.depth)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the depth maps."""
        return int(self.depth.shape[1]), int(self.depth.shape[2])

    def intrinsics_for(self, size: tuple[int, int]) -> Tensor:
        """(F, 3, 3) float64 intrinsics for a picture or grid of ``size`` = (rows, columns)."""
        return scale_intrinsics(self.intrinsics, self.size, size)

    def select(self, frames: list[int]) -> FrameGeometry:
        """The geometry of the given frames only."""
        parts = {
            name: value[frames]
            for name in ("depth", "intrinsics", "world_to_camera", "exclude", "confidence")
            if (value := getattr(self, name)) is not None
        }
        return dataclasses.replace(self, **parts)

    def typical_depth(self) -> float:
        """Median valid depth of the first frame: the distance of what is looked at."""
        first = self.depth[0]
        return float(first[valid_depth(first)].median())

    def expect_aspect(self, width: int, height: int) -> None:
        """Raise `ShapeError` unless the depth shows the same frame as a picture."""
        rows, cols = self.size
        mismatch = (cols / rows) / (width / height)
        if abs(mismatch - 1) > ASPECT_TOLERANCE:
            raise ShapeError(
                "The depth and the picture have different aspect ratios",
                got=f"depth {cols} x {rows}, picture {width} x {height}",
                expected="the same crop of the same picture",
                fix="Crop the picture first, then estimate its depth",
            )


def joined(parts: Sequence[FrameGeometry], name: str) -> FrameGeometry:
    """One geometry of the frames of several.

    Args:
        parts: At least one; all with the same things known.
        name: How errors call them together.

    Raises:
        ShapeError: They differ in size, or in what is known of them.
    """
    fields = ("depth", "intrinsics", "world_to_camera", "exclude", "confidence")
    shared = [field for field in fields if getattr(parts[0], field) is not None]
    for number, part in enumerate(parts):
        known = [field for field in fields if getattr(part, field) is not None]
        if known != shared or part.size != parts[0].size:
            raise ShapeError(
                f"The files of {name} do not belong together",
                got=f"{', '.join(known)} of {part.size[1]} x {part.size[0]} in file {number}",
                expected=f"{', '.join(shared)} of {parts[0].size[1]} x {parts[0].size[0]}",
            )
    whole: dict[str, Any] = {
        field: torch.cat([getattr(part, field) for part in parts]) for field in shared
    }
    return dataclasses.replace(parts[0], **whole)


def _frames_without_depth(depth: Tensor) -> list[int]:
    """Numbers of the frames (F, H, W) that have no valid pixel."""
    # A few pixels tell it of nearly every frame; only the others are looked at whole.
    few = valid_depth(depth[:, ::PROBE_STEP, ::PROBE_STEP]).flatten(1).any(1)
    doubtful = (~few).nonzero().flatten().tolist()
    return [frame for frame in doubtful if not bool(valid_depth(depth[frame]).any())]


def _expect_own_resolution(intrinsics: Tensor, width: int, height: int) -> None:
    """Raise `GeometryError` for intrinsics (F, 3, 3) that count in another picture's pixels.

    They are off by the same factor along both sides. A crop shifts the middle as well, but
    hardly ever by the same share along both.
    """
    middle = intrinsics[:, :2, 2] / intrinsics.new_tensor([width, height])
    across, down = middle.unbind(1)
    scaled = ((across - down).abs() < EQUAL_SHIFT) & ((across - 0.5).abs() > SCALED_SHIFT)
    wrong = (scaled | (middle <= 0).any(1) | (middle >= 1).any(1)).nonzero().flatten()
    if len(wrong):
        found = intrinsics[int(wrong[0]), :2, 2].tolist()
        raise GeometryError(
            "The depth's intrinsics do not belong to pictures of its size",
            got=f"a principal point of ({found[0]:.4g}, {found[1]:.4g}), {width} x {height} pixels",
            expected="a point near the centre, in pixels of the depth map",
            fix="Scale focal lengths and principal point by the size of the depth map over that of "
            "the picture that they were made for",
        )


def depth_from_picture(
    values: Tensor, near: float, far: float, *, inverse: bool = True
) -> Tensor:
    """Depth from grey values, where 0 and 1 stand for the ends of a range.

    Args:
        values: (F, H, W) in 0..1.
        near: Distance of the nearest surface, in scene units.
        far: Distance of the farthest surface.
        inverse: True when white is near and values are proportional to 1/depth, as relative
            depth estimators give them; False when white is far and values are distances.

    Returns:
        (F, H, W) float32 z-depth.

    Raises:
        GeometryError: ``near`` is not above 0, or ``far`` is not beyond ``near``.
    """
    expect_shape("The depth picture", values, "F H W")
    if not 0 < near < far < float("inf"):
        raise GeometryError(
            "The depth range is empty", got=f"{near} to {far}", expected="0 < near < far"
        )
    level = values.float().clamp(0, 1)
    if inverse:
        return 1 / (1 / far + level * (1 / near - 1 / far))
    return near + level * (far - near)
