"""References one to one: an earlier frame for each target camera, by the points both can see.

Spatia's rule. `mirage_core.readout.overlap` has that of the method's released code, which ranks
frames by voxel overlap with all of what comes next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..errors import ValueRangeError
from ..geometry.camera import project
from ..geometry.trajectory import Trajectory
from ..validate import expect_finite, expect_range, expect_shape

SHARED_REFERENCES: Final = 7
"""References of one clip at most (Spatia's setting)."""

SAME_DEPTH: Final = 1e-6
"""Points of one pixel that are farther than the nearest by no more than this are visible too."""

_PIECE: Final = 1 << 20
"""Points that are counted together: few enough for exact sums in float32."""

OnCamera = Callable[[int, int], None]
"""Called with (done, total) after every camera. May raise to cancel."""


def choose_by_shared_points(
    points: Tensor,
    targets: Trajectory,
    candidates: Trajectory,
    *,
    limit: int = SHARED_REFERENCES,
    coarse_counts: bool = False,
    on_camera: OnCamera | None = None,
) -> list[int]:
    """A candidate for each target camera, no candidate twice, with most shared points in all.

    Args:
        points: (N, 3) in world coordinates.
        targets: T cameras that want a reference, at picture size.
        candidates: C cameras of earlier frames, at picture size.
        limit: Most references; those of the first targets stay.
        coarse_counts: Round counts as `assign_references` says.
        on_camera: Called after every camera.

    Returns:
        Candidates in the order of their targets. With fewer candidates than targets, targets
        that share least are left without.

    Raises:
        ShapeError: The points have another shape.
        GeometryError: A point is not finite.
        ValueRangeError: The limit is negative.
    """
    total = len(targets) + len(candidates)

    def after(done: int) -> OnCamera | None:
        return None if on_camera is None else lambda number, _: on_camera(done + number, total)

    wanted = visible_points(points, targets, after(0))
    known = visible_points(points, candidates, after(len(targets)))
    return assign_references(shared_counts(wanted, known), limit, coarse_counts=coarse_counts)


def visible_points(
    points: Tensor, cameras: Trajectory, on_camera: OnCamera | None = None
) -> Tensor:
    """Which points each camera sees when every point is one pixel large.

    A point in front of the camera falls into the pixel ``(fx X / Z + cx, fy Y / Z + cy)``, cut
    towards zero, so that -0.9 is pixel 0. It is visible when the pixel lies inside the picture
    and its depth is within `SAME_DEPTH` of the nearest in the pixel.

    Args:
        points: (N, 3) in world coordinates.
        cameras: V cameras at picture size.
        on_camera: Called after every camera.

    Returns:
        (V, N) bool on the device of ``points``.

    Raises:
        ShapeError: The points have another shape.
        GeometryError: A point is not finite.
    """
    expect_shape("The points", points, "N 3")
    expect_finite("The points", points)
    exact = points.double()
    matrices = (cameras.intrinsics @ cameras.world_to_camera[:, :3]).to(points.device)
    visible = torch.zeros(len(cameras), len(points), dtype=torch.bool, device=points.device)
    for view, matrix in enumerate(matrices):
        x, y, depth = project(exact, matrix)
        column, row = (x / depth).trunc(), (y / depth).trunc()
        inside = (depth > 0) & (column >= 0) & (column < cameras.width)
        inside &= (row >= 0) & (row < cameras.height)
        which = inside.nonzero()[:, 0]
        pixel = (row[which] * cameras.width + column[which]).long()
        nearest = depth.new_full((cameras.height * cameras.width,), torch.inf)
        nearest.scatter_reduce_(0, pixel, depth[which], "amin")
        visible[view, which] = depth[which] - nearest[pixel] <= SAME_DEPTH
        if on_camera is not None:
            on_camera(view + 1, len(cameras))
    return visible


def shared_counts(targets: Tensor, candidates: Tensor) -> Tensor:
    """(T, C) int64 number of points visible to both, from (T, N) and (C, N) bool.

    Raises:
        ShapeError: The two are not about the same points.
    """
    sizes = expect_shape("The targets' points", targets, "T N")
    expect_shape("The candidates' points", candidates, "C N", N=sizes["N"])
    total = torch.zeros(len(targets), len(candidates), dtype=torch.int64, device=targets.device)
    pieces = zip(targets.split(_PIECE, dim=1), candidates.split(_PIECE, dim=1), strict=True)
    for wanted, known in pieces:
        total += (wanted.float() @ known.float().T).long()
    return total


def assign_references(
    counts: Tensor, limit: int = SHARED_REFERENCES, *, coarse_counts: bool = False
) -> list[int]:
    """The one-to-one assignment of candidates to targets with the largest total.

    Pairs that share nothing are assigned as well: each target that can gets a reference.

    Args:
        counts: (T, C) points that target and candidate share.
        limit: Most references; those of the first targets stay.
        coarse_counts: Round counts to bfloat16 first, as Spatia's code does: above 256 counts
            lose digits, which can change a pick.

    Returns:
        Candidates in the order of their targets.

    Raises:
        ShapeError: The counts are not a matrix.
        ValueRangeError: The limit is negative, or a count is.
    """
    expect_shape("The counts of shared points", counts, "T C")
    expect_range("The number of reference frames", limit, 0, float("inf"))
    if counts.numel() and int(counts.min()) < 0:
        raise ValueRangeError(
            "A count of shared points is negative", got=int(counts.min()), expected="at least 0"
        )
    rounded = counts.to(torch.bfloat16) if coarse_counts else counts
    _, chosen = linear_sum_assignment(rounded.double().cpu().numpy(), maximize=True)
    return [int(candidate) for candidate in chosen[:limit]]
