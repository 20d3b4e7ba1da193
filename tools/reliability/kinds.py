"""What a kind of file is: how small valid ones are made, and what reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mirage_core.errors import MirageError
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov

WIDTH, HEIGHT = 64, 64


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        make: Writes valid files into an empty folder, and returns those that may be damaged.
        read: Reads the file in that folder as Mirage does.
        settle: Writes anew what the other files in the folder say of the damaged one, such as
            its length, where readers look at that first.
    """

    make: Callable[[Path], Sequence[Path]]
    read: Callable[[Path], object]
    settle: Callable[[Path], None] | None = None


def each(*uses: Callable[[], object]) -> None:
    """Call all, then raise the first typed error: it must not hide what another call does."""
    first: MirageError | None = None
    for use in uses:
        try:
            use()
        except MirageError as error:
            first = first or error
    if first is not None:
        raise first


def random_numbers(seed: int = 0) -> torch.Generator:
    """Equal seeds give equal files."""
    return torch.Generator().manual_seed(seed)


def pictures(frames: int) -> torch.Tensor:
    """(frames, H, W, 3) of noise in 0..1."""
    return torch.rand(frames, HEIGHT, WIDTH, 3, generator=random_numbers())


def move(frames: int) -> Trajectory:
    """A camera that slides to the right."""
    poses = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    poses[:, 0, 3] = -0.02 * torch.arange(frames)
    lens = intrinsics_from_fov(WIDTH, HEIGHT, 60).repeat(frames, 1, 1)
    return Trajectory(poses, lens, WIDTH, HEIGHT)
