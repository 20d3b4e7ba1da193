"""Memories that are hard to read right, for tests of every implementation of the readout."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mirage_core.geometry.camera import projection_matrices
from mirage_core.geometry.transform import invert_rigid, rigid, rotation_about
from mirage_core.ops.best_view import Seen
from mirage_core.ops.kernels import BlockTensors
from mirage_core.ops.splat import point_bounds

AHEAD = torch.tensor([0.0, 0.0, 2.0])


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers; equal arguments give equal results."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def views(count: int, height: int, width: int, reach: float = 0.5, seed: int = 5) -> Tensor:
    """(count, 3, 4) projections of cameras near the origin that look about."""
    numbers = noise(count, 5, seed=seed).double()
    turn = rotation_about("y", 0.3 * numbers[:, 0]) @ rotation_about("x", 0.2 * numbers[:, 1])
    lens = torch.tensor(
        [[0.9 * width, 0, width / 2], [0, 0.9 * width, height / 2], [0, 0, 1]], dtype=torch.float64
    )
    poses = invert_rigid(rigid(turn, reach * numbers[:, 2:]))
    return projection_matrices(poses, lens.repeat(count, 1, 1))


def _not_numbers(cloud: Tensor) -> Tensor:
    for column, value in enumerate((torch.nan, torch.inf, -torch.inf)):
        cloud[column::7, column] = value
    return cloud


def _denormal(cloud: Tensor) -> Tensor:
    cloud[::3] *= 1e-41
    cloud[::2, 2] = 1e-40
    return cloud


def _huge(cloud: Tensor) -> Tensor:
    cloud[::2] *= 1e18
    cloud[::5] *= 1e19
    return cloud


def _at_camera(cloud: Tensor) -> Tensor:
    cloud[::2] = 0
    cloud[1::4, 2] = -0.0
    return cloud


def _ties(cloud: Tensor) -> Tensor:
    count = len(cloud)
    few = cloud[: max(1, count // 5)]
    return few[torch.arange(count) * 37 % len(few)] if count else cloud


CLOUDS: dict[str, Callable[[Tensor], Tensor]] = {
    "random": lambda cloud: cloud,
    "ties": _ties,
    "around": lambda cloud: 3 * (cloud - AHEAD),
    "behind": lambda cloud: cloud * torch.tensor([1.0, 1.0, -1.0]) - 2 * AHEAD,
    "at the camera": _at_camera,
    "not numbers": _not_numbers,
    "denormal": _denormal,
    "huge": _huge,
    "dense": lambda cloud: (cloud - AHEAD) / 20 + AHEAD,
    "empty": lambda cloud: cloud[:0],
    "one": lambda cloud: cloud[:1] * 0 + AHEAD,
}
"""What becomes of a random cloud in front of the camera."""


def cloud(name: str, count: int, seed: int = 3) -> Tensor:
    """(N, 3) points of one of `CLOUDS`; each axis is contiguous, as in a memory."""
    return CLOUDS[name](noise(count, 3, seed=seed) + AHEAD).T.contiguous().T


def memory(
    parts: list[Tensor], dtype: torch.dtype = torch.bfloat16, channels: int = 48, seed: int = 0
) -> BlockTensors:
    """A memory with one block per part, and random tokens."""
    tokens, scales = [], []
    for number, part in enumerate(parts):
        values = noise(len(part), channels, seed=seed + number)
        if dtype == torch.int8:
            tokens.append((50 * values).clamp(-127, 127).to(dtype))
            scales.append(noise(len(part), seed=seed + number).abs().half())
        else:
            tokens.append(values.to(dtype))
    return BlockTensors(parts, [point_bounds(part) for part in parts], tokens, scales)


def same_bits(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    """Whether results are equal bit for bit, the sign of zero and NaN included."""
    raw = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return all(
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(a.view(raw[a.itemsize]), b.to(a.device).view(raw[b.itemsize]))
        for a, b in zip(one, other, strict=True)
    )


def seen_by(parts: list[Tensor], observers: int = 5, seed: int = 11) -> Seen:
    """Observers about the origin for the points of some blocks, with slopes of any size."""
    source, slope, cameras = [], [], []
    for number, part in enumerate(parts):
        generator = torch.Generator().manual_seed(seed + number)
        source.append(torch.randint(0, observers, (len(part),), generator=generator).int())
        slope.append((0.05 * noise(len(part), 2, seed=seed + number)).half())
        focal = 10 + 30 * torch.rand(observers, 1, generator=generator)
        cameras.append(torch.cat([noise(observers, 3, seed=seed - number), focal], dim=1))
    return Seen(source, slope, cameras)


def viewers(projection: Tensor, focal: float = 16.2) -> Tensor:
    """(T, 4) positions and focal lengths of the cameras of `views`."""
    matrix = projection.double()
    place = -torch.linalg.solve(matrix[:, :, :3], matrix[:, :, 3:])[..., 0]
    return torch.cat([place, torch.full((len(place), 1), focal)], dim=1).float()
