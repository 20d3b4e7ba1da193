"""The one factor that brings estimated depth to the units of given cameras."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ...errors import GeometryError
from ...geometry.camera import project, projection_matrices
from ...geometry.depth import downsample_depth, valid_depth
from ...geometry.frame_geometry import FrameGeometry
from ...geometry.lift import lift
from ...geometry.trajectory import Trajectory
from ...readout.readout import grid_intrinsics

LONG_SIDE: Final = 64
"""Cells along the longer side of the grid on which views are compared."""

PAIRS: Final = 6
DEPTH_RANGE: Final = (0.5, 500.0)
"""Typical depth in units of the baseline of two cameras: from very near to out of range."""

CANDIDATES: Final = 49
REFINED: Final = 25
MIN_SEEN: Final = 0.3
"""Share of the cells that must be seen by the other camera for a pair to count."""

MAX_ERROR: Final = 0.25
"""Typical relative depth error above which cameras and depth do not match."""


@dataclass(frozen=True)
class ScaleFit:
    """The factor for depth, and how well views agree with it.

    Attributes:
        scale: Factor; 1 when the camera does not move, since it then makes no difference.
        error: Mean absolute logarithm of the ratio of reprojected and estimated depth.
    """

    scale: float
    error: float


def to_camera_units(geometry: FrameGeometry, cameras: Trajectory, colours: Tensor) -> FrameGeometry:
    """Depth in the units of the cameras.

    Cameras from structure from motion have units of their own, and single-view estimators do
    not know them. Of all factors, the one is taken with which depth and colours of one frame,
    lifted and projected into another, agree best with what the other shows.

    Args:
        geometry: Depth of F frames, up to one factor.
        cameras: Their F cameras.
        colours: (F, H, W, 3) the frames, in 0..1.

    Raises:
        GeometryError: No factor makes depth and cameras agree.
    """
    fit = fit_scale(geometry, cameras, colours)
    if not fit.error <= MAX_ERROR:
        raise GeometryError(
            "The depth and the cameras do not match",
            got=f"an error of {fit.error:.0%} at the best scale",
            expected=f"at most {MAX_ERROR:.0%}",
            fix="Check that the cameras belong to these frames, in the order of the frames",
        )
    return dataclasses.replace(
        geometry, depth=geometry.depth * fit.scale, world_to_camera=cameras.world_to_camera
    )


def fit_scale(geometry: FrameGeometry, cameras: Trajectory, colours: Tensor) -> ScaleFit:
    """The factor for depth with which views agree best; see `to_camera_units`."""
    pairs = _FramePairs.of(geometry, cameras, colours)
    if pairs.baseline == 0:
        return ScaleFit(1.0, pairs.errors(torch.ones(1))[1][0].item())
    near, far = (pairs.baseline * distance / pairs.depth for distance in DEPTH_RANGE)
    best = 1.0
    for count, low, high in ((CANDIDATES, near, far), (REFINED, 0.85, 1.18)):
        low, high = (low, high) if count == CANDIDATES else (best * low, best * high)
        scales = torch.logspace(
            torch.tensor(low).log10().item(), torch.tensor(high).log10().item(), count
        )
        costs, errors = pairs.errors(scales)
        place = int(costs.argmin())
        best = float(scales[place])
    return ScaleFit(best, float(errors[place]))


@dataclass(frozen=True, eq=False)
class _FramePairs:
    """Frames to compare, on a coarse grid."""

    depth_maps: Tensor
    colours: Tensor
    cameras: Trajectory
    intrinsics: Tensor
    chosen: list[tuple[int, int]]
    baseline: float
    depth: float

    @classmethod
    def of(cls, geometry: FrameGeometry, cameras: Trajectory, colours: Tensor) -> _FramePairs:
        shrink = LONG_SIDE / max(cameras.width, cameras.height)
        size = (max(2, round(cameras.height * shrink)), max(2, round(cameras.width * shrink)))
        depth = downsample_depth(geometry.depth.cpu(), size)
        small = torch.nn.functional.interpolate(
            colours.cpu().float().movedim(-1, 1), size=size, mode="area"
        ).movedim(1, -1)
        count = len(depth)
        step = max(1, count // 3)
        last = count - 1 - step
        firsts = sorted({round(k * last / (PAIRS // 2 - 1)) for k in range(PAIRS // 2)})
        ahead = [(k, k + step) for k in firsts if 0 <= k <= last]
        chosen = [pair for k, other in ahead for pair in ((k, other), (other, k))]
        places = cameras.positions
        ways = [float((places[a] - places[b]).norm()) for a, b in chosen]
        reach = float(places.abs().amax()) * 1e-9
        way = max(ways, default=0.0)
        typical = float(depth[valid_depth(depth)].median())
        return cls(
            depth, small, cameras, grid_intrinsics(cameras, size), chosen,
            way if way > reach else 0.0, typical,
        )  # fmt: skip

    def errors(self, scales: Tensor) -> tuple[Tensor, Tensor]:
        """Cost (S,), of depth and colours, and error of depth alone (S,) for factors (S,)."""
        results = [[self._compare(a, b, float(s)) for a, b in self.chosen] for s in scales]
        table = torch.tensor(results, dtype=torch.float64).view(len(scales), -1, 2)
        mean = table.mean(dim=1)
        return mean.sum(dim=1), mean[:, 1]

    def _compare(self, a: int, b: int, scale: float) -> tuple[float, float]:
        """Difference in colour and in log depth of frame a, lifted and seen from camera b."""
        poses, intrinsics = self.cameras.world_to_camera, self.intrinsics
        height, width = self.depth_maps.shape[1:]
        here = self.depth_maps[a] * scale
        points = lift(here[None], intrinsics[a : a + 1], poses[a : a + 1])[0]
        matrix = projection_matrices(poses[b : b + 1], intrinsics[b : b + 1])[0]
        x, y, z = project(points, matrix)
        u, v = x / z, y / z
        seen = valid_depth(here) & (z > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        place = torch.stack([u / width, v / height], dim=-1) * 2 - 1
        there = torch.cat([self.colours[b], self.depth_maps[b][..., None] * scale], dim=-1)
        found = torch.nn.functional.grid_sample(
            there.movedim(-1, 0)[None], place[None].nan_to_num(2), align_corners=False
        )[0].movedim(0, -1)
        seen &= valid_depth(found[..., 3])
        if float(seen.float().mean()) < MIN_SEEN:
            return 1.0, 1.0
        colour = (found[..., :3] - self.colours[a]).abs().mean(-1)[seen].mean()
        ratio = (z / found[..., 3])[seen].log().abs().clamp_max(1).mean()
        return float(colour), float(ratio)
