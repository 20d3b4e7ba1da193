"""Sights of a thing: where it stands in each frame that shows it, from its mask and depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ..cache.track import ground_axes
from ..errors import GeometryError, ShapeError
from ..geometry.depth import valid_depth
from ..geometry.frame_geometry import ASPECT_TOLERANCE, FrameGeometry
from ..geometry.lift import lift
from ..geometry.masks import MASKED
from ..validate import expect_shape
from .ground import Ground

LEAST_PIXELS: Final = 12
"""Fewer pixels with depth are no sight of a thing."""

HALF: Final = 0.5
"""A mask that covers more of the picture is of the set, and of no thing in it."""

STRAY: Final = 4.0
"""Depths beyond so many median deviations from the median, and farther from it than the thing is
wide, are no part of it."""

OTHER_SIZE: Final = 2.0
"""A sight so many times higher or wider than the usual one, or so many times less, is not of it."""

_EDGES: Final = (0.03, 0.97)
"""Shares of a thing's points at its ends: a few stray ones beyond do not count."""


@dataclass(frozen=True, eq=False)
class Sights:
    """Where a thing is seen.

    Attributes:
        rows: (K,) int64, which of the frames show it.
        positions: (K, 3) float64 points of the ground below its middle.
        toward: (K, 3) float64 directions from it to the camera.
        sizes: (K, 2) float64 visible width and height.
        nearest: (K,) float64 z-depth of its nearest point; `farthest` of its farthest one.
        farthest: (K,) float64.
        whole: (K,) bool, the picture's edge does not cut it.
        dropped: Frames that its mask marks and that are no sight of it.
    """

    rows: Tensor
    positions: Tensor
    toward: Tensor
    sizes: Tensor
    nearest: Tensor
    farthest: Tensor
    whole: Tensor
    dropped: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, chosen: Tensor, dropped: tuple[int, ...] = ()) -> Sights:
        """Some of the sights, (K,) bool."""
        return Sights(
            self.rows[chosen], self.positions[chosen], self.toward[chosen], self.sizes[chosen],
            self.nearest[chosen], self.farthest[chosen], self.whole[chosen],
            (*self.dropped, *dropped),
        )  # fmt: skip


@dataclass(frozen=True)
class _Sight:
    """One frame's sight, see `Sights`."""

    position: Tensor
    toward: Tensor
    size: Tensor
    near: float
    far: float
    whole: bool


def on_depth(mask: Tensor, geometry: FrameGeometry) -> Tensor:
    """(F, h, w) bool: a mask (M, H, W) on the depth's pixels, where the middle of each is masked.

    Raises:
        ShapeError: There is not one mask for each frame, or one for all; or masks show another
            crop.
    """
    sizes = expect_shape("The actor's mask", mask, "M H W")
    if sizes["M"] not in (1, len(geometry)):
        raise ShapeError(
            "The actor's mask and the depth have different numbers of frames",
            got=f"{sizes['M']} masks, {len(geometry)} depth maps",
            expected=f"1 or {len(geometry)}",
            fix="Track the thing on exactly the frames whose depth is given",
        )
    rows, columns = geometry.size
    if abs(sizes["W"] * rows / (sizes["H"] * columns) - 1) > ASPECT_TOLERANCE:
        raise ShapeError(
            "The actor's mask and the depth show different crops",
            got=f"{sizes['W']} x {sizes['H']} and {columns} x {rows}",
            expected="the same crop of the same pictures, in any size",
        )
    marked = (mask if mask.dtype == torch.bool else mask > MASKED).float()
    if tuple(mask.shape[1:]) != geometry.size:
        marked = torch.nn.functional.interpolate(
            marked[:, None], geometry.size, mode="nearest-exact"
        )[:, 0]
    return (marked > 0).expand(len(geometry), -1, -1).to(geometry.depth.device)


def locate(geometry: FrameGeometry, poses: Tensor, mask: Tensor, ground: Ground) -> Sights:
    """Where a thing stands in each frame.

    Its middle is halfway between its sides as seen, and half its width behind its nearest part:
    that is exact for what is as deep as it is wide.

    Args:
        geometry: Depth of F frames.
        poses: (F, 4, 4) world_to_camera.
        mask: (F, h, w) bool on the depth's pixels.
        ground: What it stands on.

    Raises:
        GeometryError: No frame shows it, or its mask covers most of every frame.
    """
    sights, rows, dropped, broad = [], [], [], False
    for row in range(len(geometry)):
        marked = mask[row]
        if not bool(marked.any()):
            continue
        broad = float(marked.float().mean()) > HALF
        seen = None if broad else _sight(geometry.select([row]), poses[row], marked, ground)
        if seen is None:
            dropped.append(row)
        else:
            sights.append(seen)
            rows.append(row)
    if not sights:
        raise GeometryError(
            "The actor's mask covers more than half of the picture"
            if broad
            else "The actor is in none of the frames",
            got=f"{len(dropped)} of {len(geometry)} frames marked",
            expected="a mask that is white on one thing, where depth is known",
            fix="Check that the mask is that of the thing, and not inverted",
        )
    found = Sights(
        rows=torch.tensor(rows),
        positions=torch.stack([one.position for one in sights]),
        toward=torch.stack([one.toward for one in sights]),
        sizes=torch.stack([one.size for one in sights]),
        nearest=torch.tensor([one.near for one in sights], dtype=torch.float64),
        farthest=torch.tensor([one.far for one in sights], dtype=torch.float64),
        whole=torch.tensor([one.whole for one in sights]),
        dropped=tuple(dropped),
    )
    return _of_one_size(found)


def _of_one_size(sights: Sights) -> Sights:
    """Without sights much larger or smaller than most: a mask that flickers, or covers more."""
    usual = sights.sizes[sights.whole] if bool(sights.whole.any()) else sights.sizes
    ratio = sights.sizes / usual.median(dim=0).values.clamp_min(1e-12)
    fits = (ratio < OTHER_SIZE).all(dim=1)
    # What the edge cuts is smaller than it is, and still there.
    fits &= (ratio > 1 / OTHER_SIZE).all(dim=1) | ~sights.whole
    return sights.only(fits, tuple(sights.rows[~fits].tolist()))


def _sight(
    geometry: FrameGeometry, pose: Tensor, marked: Tensor, ground: Ground
) -> _Sight | None:
    """What one frame's mask (h, w) shows; None where that is nothing."""
    depth = geometry.depth[0]
    marked = marked & valid_depth(depth)
    if int(marked.sum()) < LEAST_PIXELS:
        return None
    across = int(marked.any(dim=0).sum()) / float(geometry.intrinsics[0, 0, 0])
    near, far = _extent(depth[marked], across)
    marked = marked & (depth >= near) & (depth <= far)
    if int(marked.sum()) < LEAST_PIXELS:
        return None
    points = lift(geometry.depth, geometry.intrinsics, pose[None])[0][marked].double().cpu()
    centre = -pose[:3, :3].T.double() @ pose[:3, 3].double()
    up = ground.up
    toward = centre - points.mean(dim=0)
    toward = toward - (toward @ up) * up
    if float(toward.norm()) < 1e-9:  # noqa: PLR2004
        toward = ground_axes(up)[0]
    toward = torch.nn.functional.normalize(toward, dim=0)
    aside = torch.linalg.cross(up, toward)
    ends = torch.tensor(_EDGES, dtype=torch.float64)
    left, right = torch.quantile(points @ aside, ends)
    front = torch.quantile(points @ toward, ends[1])
    bottom, top = torch.quantile(points @ up, ends)
    width = float(right - left)
    foot = float(bottom) if ground.height is None else ground.height
    position = aside * (left + right) / 2 + toward * (front - width / 2) + up * foot
    rim = torch.cat([marked[0], marked[-1], marked[:, 0], marked[:, -1]])
    return _Sight(
        position, toward, torch.tensor([width, float(top) - foot], dtype=torch.float64),
        near, far, not bool(rim.any()),
    )  # fmt: skip


def _extent(depth: Tensor, across: float) -> tuple[float, float]:
    """Least and largest depth that belong to one thing, ``across`` wide at a distance of 1."""
    middle = float(depth.median())
    deviation = float((depth - middle).abs().median())
    reach = max(STRAY * deviation, across * middle)
    return middle - reach, middle + reach
