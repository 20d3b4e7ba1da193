"""The lens of a move where it meets a picture: a shot starts as the picture looks.

A move of another program brings its own lens. Seen through another one than the picture was, the
shot would jump in size at its first frame. So the move takes the picture's lens there, and its
later frames keep their ratio to the first: a zoom stays a zoom.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ..cache.types import LatentCache
from ..errors import ValueRangeError
from ..geometry.trajectory import Trajectory, fov_of
from ..validate import expect_shape
from .exchange.axes import camera_frame

PICTURE, FILE = "picture", "file"
LENSES: Final = (PICTURE, FILE)
"""Whose lens a move begins with: the picture's, or its own, as its file has it."""

_SAME: Final = 1e-4
"""Share by which lenses differ that count as one: a fifteenth of a pixel at the edge."""

_NEAR: Final = 1e-6
"""By how much matrices of cameras differ that stand at one place."""

_OFF_CENTRE: Final = 0.2
"""Share by which twice the principal point differs from the size of its own picture at most."""


@dataclass(frozen=True, eq=False)
class FittedLens:
    """A move with the lens that was chosen.

    Attributes:
        trajectory: The move; the given one itself where nothing had to be changed.
        report: Both lenses and what was done, one line.
    """

    trajectory: Trajectory
    report: str


def fit_lens(trajectory: Trajectory, picture: Tensor | None, lens: str = PICTURE) -> FittedLens:
    """Begin a move with the lens of its picture, or with its own.

    A move that was once given its own lens by choice keeps it.

    Args:
        trajectory: The move.
        picture: (3, 3) intrinsics of the picture, in pixels of the move's size; None where they
            are not known, which leaves the move as it is.
        lens: One of `LENSES`.

    Raises:
        ShapeError: The intrinsics have another shape.
        ValueRangeError: ``lens`` is neither.
    """
    if lens not in LENSES:
        raise ValueRangeError("The choice of the lens is unknown", got=lens, expected=LENSES)
    if lens == FILE and not trajectory.own_lens:
        trajectory = dataclasses.replace(trajectory, own_lens=True)
    own = f"lens of the move {fov_of(trajectory.intrinsics[0], trajectory.width):.1f} degrees"
    if picture is None:
        return FittedLens(trajectory, f"{own}, kept: the picture's is not known here")
    expect_shape("The picture's intrinsics", picture, "3 3")
    picture = picture.detach().cpu().double()
    first = trajectory.intrinsics[0]
    if _same(picture, first, trajectory):
        return FittedLens(trajectory, f"{own}, as the picture's")
    both = f"{own}, of the picture {fov_of(picture, trajectory.width):.1f} degrees"
    growth = float(first[0, 0] / picture[0, 0])
    if trajectory.own_lens:
        return FittedLens(
            trajectory, f"{both}: the move's is kept, and shows the picture at {growth:.2f} times "
            "its size",
        )  # fmt: skip
    return FittedLens(
        _begun_with(picture, trajectory),
        f"{both}: the move begins with the picture's, and zooms from there as its own does"
        if bool((trajectory.intrinsics != first).any())
        else f"{both}: the move takes the picture's",
    )


def memory_lens(cache: LatentCache, trajectory: Trajectory) -> Tensor | None:
    """The lens of the remembered camera that stands nearest to the first one of a move.

    Of a memory that was just begun, this is the lens of the picture. Where several cameras stand
    there, as after a zoom, one that has the lens of the move counts before the others.

    Args:
        cache: The memory.
        trajectory: The move.

    Returns:
        (3, 3) float64 intrinsics, in pixels of the move's size; None for a memory without cameras.
    """
    if not any(len(block.frames) for block in cache.blocks):
        return None
    poses = torch.cat([block.world_to_camera for block in cache.blocks])
    lenses = torch.cat([block.intrinsics for block in cache.blocks])
    distance = (poses - trajectory.world_to_camera[0]).flatten(1).norm(dim=1)
    lenses = lenses[distance <= distance.min() + _NEAR].clone()
    lenses[:, :2] *= cache.stride
    refitted = _of_another_size(lenses, trajectory)
    for candidate in (*lenses, *refitted):
        if _same(candidate, trajectory.intrinsics[0], trajectory):
            return candidate
    size = torch.tensor([trajectory.width, trajectory.height], dtype=torch.float64)
    off = (2 * lenses[0, :2, 2] / size - 1).abs().max()
    # A memory does not tell the size of its pictures; the principal point is near their middle.
    return lenses[0] if float(off) <= _OFF_CENTRE else refitted[0]


def _of_another_size(lenses: Tensor, trajectory: Trajectory) -> Tensor:
    """Lenses (K, 3, 3) of pictures that are twice as large as their principal point says."""
    centre = lenses[:, :2, 2]
    rows = [
        camera_frame(
            lens[[0, 1], [0, 1]][None], middle[None], (2 * float(middle[0]), 2 * float(middle[1])),
            trajectory.width, trajectory.height,
        )
        for lens, middle in zip(lenses, centre, strict=True)
    ]  # fmt: skip
    return torch.cat(rows)


def _same(one: Tensor, other: Tensor, trajectory: Trajectory) -> bool:
    """Whether two (3, 3) intrinsics of a move's pictures show the same."""
    focal = (one.diagonal()[:2] / other.diagonal()[:2] - 1).abs().max()
    size = torch.tensor([trajectory.width, trajectory.height], dtype=torch.float64)
    centre = ((one[:2, 2] - other[:2, 2]) / size).abs().max()
    return float(focal) <= _SAME and float(centre) <= _SAME


def _begun_with(picture: Tensor, trajectory: Trajectory) -> Trajectory:
    """The move through the picture's lens at first, then changed as its own lens changes."""
    own = trajectory.intrinsics
    lens = own.clone()
    for axis in (0, 1):
        lens[:, axis, axis] = picture[axis, axis] * (own[:, axis, axis] / own[0, axis, axis])
        lens[:, axis, 2] = picture[axis, 2] + (own[:, axis, 2] - own[0, axis, 2])
    return dataclasses.replace(trajectory, intrinsics=lens)
