"""The floor of a scene: which way is up, and how high what stands on it stands."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..cache.track import UPRIGHT
from ..cache.types import LatentCache
from ..validate import expect_shape

LOOKED_AT: Final = 4000
"""Points among which the floor is looked for."""

TRIALS: Final = 400
"""Planes that are tried, each through three of the points."""

TILT: Final = math.radians(25)
"""Most that a floor leans against where up is expected."""

THICK: Final = 0.02
"""How far points of the floor lie off its plane, as a share of the scene's extent."""

BELOW: Final = 0.05
"""Most of the points that lie below a floor; of a table more do."""

LEAST_SHARE: Final = 0.05
LEAST_POINTS: Final = 24


@dataclass(frozen=True, eq=False)
class Ground:
    """The plane on which things stand.

    Attributes:
        up: (3,) float64 unit vector away from it.
        height: ``up`` times its points; None where no floor was found, and things stand on their
            own lowest points.
    """

    up: Tensor
    height: float | None = None

    @property
    def found(self) -> bool:
        """Whether there is a floor."""
        return self.height is not None

    def describe(self) -> str:
        """A few words for people."""
        if self.height is None:
            return "no floor found: it stands on its own lowest points"
        x, y, z = self.up.tolist()
        return f"floor found, up is ({x:.3f}, {y:.3f}, {z:.3f})"

    def under(self, places: Tensor) -> Tensor:
        """Places (..., 3) moved along ``up`` to the ground; as they are without a floor."""
        if self.height is None:
            return places
        return places + (self.height - places @ self.up)[..., None] * self.up


def find_ground(points: Tensor, up: Tensor | None = None) -> Ground:
    """The floor among points of a scene.

    Planes through three points each are tried, always the same ones. A floor is nearly level, has
    many points on it and hardly any below.

    Args:
        points: (N, 3) in the world.
        up: (3,) where up is about; -y when missing.

    Returns:
        The floor; without a height, and with the expected up, where none is found.
    """
    expect_shape("The scene's points", points, "N 3")
    expected = torch.tensor(UPRIGHT, dtype=torch.float64) if up is None else up.double().cpu()
    expected = normalize(expected, dim=0)
    cloud = points.detach().double().cpu()
    cloud = cloud[torch.isfinite(cloud).all(dim=1)]
    if len(cloud) < LEAST_POINTS:
        return Ground(expected)
    cloud = cloud[:: max(1, len(cloud) // LOOKED_AT)]
    spread = (cloud - cloud.median(dim=0).values).norm(dim=1).median()
    if float(spread) == 0:
        return Ground(expected)
    normal, height, count = _best_plane(cloud, expected, THICK * float(spread))
    if count < max(LEAST_POINTS, LEAST_SHARE * len(cloud)):
        return Ground(expected)
    return _settled(cloud, normal, height, THICK * float(spread), expected)


def ground_of(cache: LatentCache, up: Tensor | None = None) -> Ground:
    """The floor among the still points of a memory."""
    points = [block.points for block in cache.blocks]
    return find_ground(torch.cat(points) if points else torch.zeros(0, 3), up)


def _best_plane(cloud: Tensor, up: Tensor, thick: float) -> tuple[Tensor, float, int]:
    """Normal, height and number of points of the best of the planes that may be a floor."""
    chosen = torch.Generator().manual_seed(0)
    corner = cloud[torch.randint(len(cloud), (TRIALS, 3), generator=chosen)]
    normals = torch.linalg.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    normals = normalize(normals, dim=1)
    normals = normals * torch.where(normals @ up < 0, -1.0, 1.0)[:, None]
    heights = (normals * corner[:, 0]).sum(dim=1)
    above = cloud @ normals.T - heights
    on = (above.abs() <= thick).sum(dim=0)
    below = (above < -2 * thick).double().mean(dim=0)
    fitting = (normals @ up > math.cos(TILT)) & (below <= BELOW)
    score = torch.where(fitting, on, 0)
    best = int(score.argmax())
    return normals[best], float(heights[best]), int(score[best])


def _settled(
    cloud: Tensor, normal: Tensor, height: float, thick: float, expected: Tensor
) -> Ground:
    """The plane through all points near the one that was tried."""
    on = cloud[((cloud @ normal) - height).abs() <= thick]
    middle = on.mean(dim=0)
    _, _, axes = torch.linalg.svd(on - middle, full_matrices=False)
    up = axes[2] * (1.0 if float(axes[2] @ normal) > 0 else -1.0)
    if float(up @ expected) < math.cos(TILT):
        # Points on one line have no plane of their own.
        up = normal
    return Ground(up, float(middle @ up))
