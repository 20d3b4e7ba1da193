"""A block of the memory as a small binary file for viewers: positions and colours in 16 bits.

A position is kept as its cell and distance in the camera that saw it. Cells of the latent grid
are then kept almost exactly, and the distance is kept with the same relative error near and far.

Layout, little-endian:

- ``MIRPTS`` and two digits of version, 8 bytes
- 6 uint32: points N, cameras S, pixel convention (0 paper, 1 released), smaller parts M, pixels
  along each side of what a point stands for, layer (0 still points, 1 an actor)
- 6 float64: first u and its step, first v and its step, logarithm of the first depth and its step
- S x 13 float64: ``R^-1 K^-1`` row by row, the camera's centre, the pixel frame it stands for
- 9 planes of N + M uint16: u, v, depth, camera; colour and feature as 5-6-5 bits of red, green,
  blue; how the surface leans to the right and downwards as int16, in units of 1 / `LEAN_UNIT`;
  mask, see `mirage_core.geometry.cutouts`

Of a split cell the larger part is among the N points, as `mirage_core.readout.readout.read` counts,
and the smaller one among the M that follow: only what draws patches asks for those.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ShapeError
from ..geometry.camera import PixelConvention, project_each
from ..geometry.cutouts import covers_half
from ..geometry.transform import invert_rigid
from ..validate import expect_shape
from .types import CacheBlock, LatentCache

MAGIC: Final = b"MIRPTS02"
LEAN_UNIT: Final = 1 << 14
LEVELS: Final = 65535
STILL: Final = 0
MOVING: Final = 1
SPREAD: Final = 2.0
"""Standard deviations of a principal component that reach from middle grey to full colour."""


@dataclass(frozen=True, eq=False)
class FeatureBasis:
    """Directions along which tokens are shown as colours.

    Attributes:
        mean: (C,) float32.
        axes: (C, 3) float32; a component of 1 is one full colour away from middle grey.
    """

    mean: Tensor
    axes: Tensor

    def colours(self, tokens: Tensor) -> Tensor:
        """Colours (N, 3) in 0..1 of tokens (N, C)."""
        offset = tokens.float().cpu() - self.mean
        return (offset @ self.axes / 2 + 0.5).clamp(0, 1)


def feature_basis(cache: LatentCache) -> FeatureBasis | None:
    """Principal components of the first block's tokens; None for a memory without points.

    The first block stays while a memory grows, and so do the colours of its points.
    """
    first = next((block for block in cache.blocks if len(block)), None)
    if first is None:
        return None
    tokens = first.values.detach().double().cpu()
    mean = tokens.mean(dim=0)
    offset = tokens - mean
    spread, axes = torch.linalg.eigh(offset.T @ offset / len(tokens))
    spread, axes = spread[-3:].flip(0), axes[:, -3:].flip(1)
    # An eigenvector's sign is arbitrary; the entry of largest magnitude is made positive.
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    axes = axes * torch.where(largest < 0, -1.0, 1.0)
    reach = SPREAD * spread.clamp(min=0).sqrt()
    axes = torch.where(reach > 0, axes / reach.clamp(min=1e-12), 0.0)
    return FeatureBasis(mean.float(), axes.float())


def block_digest(block: CacheBlock) -> str:
    """Hex digest of what a viewer can tell a block by: points, tokens, masks and cameras."""
    digest = hashlib.blake2b(digest_size=16)
    for name in ("points", "tokens", "source", "world_to_camera", "intrinsics", "frames", "mask"):
        if name not in block.parts:
            continue
        part = block.parts[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(part.shape)}{part.dtype}".encode())
        digest.update(part.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def view_bytes(
    block: CacheBlock,
    colours: Tensor,
    features: Tensor,
    convention: PixelConvention,
    stride: int,
    layer: int = STILL,
) -> bytes:
    """Encode a block; the module's text describes the layout.

    Args:
        block: N points.
        colours: (N, 3) in 0..1.
        features: (N, 3) in 0..1, a second set of colours.
        convention: The memory's pixel convention.
        stride: Pixels along each side of what a point stands for.
        layer: `STILL`, or `MOVING` for points of an actor, in the world.

    Raises:
        ShapeError: There is not one colour for each point, or there are more cameras than
            16 bits can count.
    """
    expect_shape("The colours", colours, "N 3", N=len(block))
    expect_shape("The features", features, "N 3", N=len(block))
    if len(block.frames) > LEVELS:
        raise ShapeError(
            "A block has too many cameras for a viewer",
            got=len(block.frames),
            expected=f"at most {LEVELS}",
        )
    whole, parts = _shown(block)
    rows = np.concatenate([whole, parts])
    u, v, z = (values[rows] for values in _seen(block))
    axes = [_cells(u), _cells(v), _levels(np.log(z))]
    header = MAGIC + struct.pack(
        "<6I",
        len(whole),
        len(block.frames),
        int(convention is PixelConvention.RELEASED),
        len(parts),
        stride,
        layer,
    )
    ranges = [number for first, step, _ in axes for number in (first, step)]
    planes = [values for _, _, values in axes]
    planes.append(block.source.cpu().numpy()[rows])
    planes += [_packed(part)[rows] for part in (colours, features)]
    planes += list(_leans(block)[rows].T)
    planes.append(block.masks.cpu().numpy().view(np.uint16)[rows])
    return b"".join(
        [header, struct.pack("<6d", *ranges), _cameras(block).tobytes()]
        + [plane.astype("<u2").tobytes() for plane in planes]
    )


def shown_rows(block: CacheBlock) -> Tensor:
    """(K,) int64: the points that a file for viewers holds, in its order.

    Points that are not in front of the camera that saw them, or not finite, are left out: no
    camera of the memory's own can show them. The smaller parts of split cells come last.
    """
    return torch.from_numpy(np.concatenate(_shown(block)))


def source_cells(block: CacheBlock, convention: PixelConvention) -> Tensor:
    """(N, 2) int64 column and row of every point's cell in the camera that saw it.

    -1 where there is none, as for points that are not finite.
    """
    u, v, _ = (torch.from_numpy(values) for values in _seen(block))
    return convention.cells(torch.stack([u, v], dim=1)).nan_to_num(-1, -1, -1).clamp_min(-1).long()


def _shown(block: CacheBlock) -> tuple[NDArray, NDArray]:
    """Rows of whole cells and larger parts, and rows of smaller parts."""
    u, v, z = _seen(block)
    kept = np.isfinite(u) & np.isfinite(v) & np.isfinite(z) & (z > 0)
    large = covers_half(block.masks).cpu().numpy()
    return np.flatnonzero(kept & large), np.flatnonzero(kept & ~large)


def _seen(block: CacheBlock) -> tuple[NDArray, NDArray, NDArray]:
    """Grid coordinates and depth (N,) float64 of every point in the camera that saw it."""
    matrices = (block.intrinsics @ block.world_to_camera[:, :3])[block.source.cpu().long()]
    x, y, z = project_each(block.points.detach().cpu().double(), matrices)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (x / z).numpy(), (y / z).numpy(), z.numpy()


def _cells(values: NDArray) -> tuple[float, float, NDArray]:
    """First value, step and levels; the step is a power of two, so that half cells are exact."""
    if not len(values):
        return 0.0, 1.0, values
    first = math.floor(values.min())
    extent = max(1.0, math.ceil(values.max()) - first)
    step = 2.0 ** math.ceil(math.log2(extent / LEVELS))
    return float(first), step, np.rint((values - first) / step)


def _levels(values: NDArray) -> tuple[float, float, NDArray]:
    """First value, step and levels that spread evenly from the least to the largest value."""
    if not len(values):
        return 0.0, 1.0, values
    first = float(values.min())
    step = float(values.max() - first) / LEVELS or 1.0
    return first, step, np.rint((values - first) / step)


def _leans(block: CacheBlock) -> NDArray:
    """(N, 2) uint16 bits of int16 slopes."""
    units = (block.slope.cpu().float() * LEAN_UNIT).nan_to_num(0).round()
    return units.clamp(-LEVELS // 2, LEVELS // 2).to(torch.int16).numpy().view(np.uint16)


def _cameras(block: CacheBlock) -> NDArray:
    """(S, 13) float64 rows of the header."""
    inverse = invert_rigid(block.world_to_camera)
    rays = inverse[:, :3, :3] @ torch.linalg.inv(block.intrinsics)
    rows = [rays.flatten(1), inverse[:, :3, 3], block.frames[:, None].double()]
    return torch.cat(rows, dim=1).numpy().astype("<f8")


def _packed(colours: Tensor) -> NDArray:
    """Colours (N, 3) in 0..1 as 5-6-5 bits."""
    top = torch.tensor([31.0, 63.0, 31.0])
    levels = (colours.detach().cpu().float().nan_to_num().clamp(0, 1) * top).round().to(torch.int32)
    return (levels[:, 0] << 11 | levels[:, 1] << 5 | levels[:, 2]).numpy()
