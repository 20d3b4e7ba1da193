"""The pixel conventions, and the step between pixel cameras and cameras of the latent grid."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor

from ..constants import SPATIAL_STRIDE, WAN21_CHANNELS, WAN21_SPATIAL_STRIDE
from ..validate import expect_frame_size, expect_shape


class PixelConvention(str, Enum):
    """Where the centre of cell (i, j) lies, and which cell a projected point falls into.

    ``PAPER``: centres at (j + 1/2, i + 1/2); a point belongs to the cell that contains it
    (floor). Depth is taken at the same place as the ray.

    ``RELEASED``: centres at (j, i); a point belongs to the nearest centre (round half to
    even). Rays are half a cell off the depth they carry; checkpoints trained with the
    released code expect exactly that.
    """

    PAPER = "paper"
    RELEASED = "released"

    @property
    def centre(self) -> float:
        """Offset of a cell's centre from its index."""
        return 0.5 if self is PixelConvention.PAPER else 0.0

    def cells(self, coordinates: Tensor) -> Tensor:
        """Cell indices, still as floats, of continuous coordinates."""
        if self is PixelConvention.PAPER:
            return coordinates.floor()
        return coordinates.round()


def latent_size(width: int, height: int) -> tuple[int, int]:
    """Rows and columns (h, w) of the latent grid of a picture.

    Raises:
        ShapeError: A size is not a multiple of 32.
    """
    expect_frame_size(width, height)
    return height // SPATIAL_STRIDE, width // SPATIAL_STRIDE


def latent_stride(channels: int) -> int:
    """Pixels along each side of a cell of latents with so many channels."""
    return WAN21_SPATIAL_STRIDE if channels == WAN21_CHANNELS else SPATIAL_STRIDE


def scale_intrinsics(
    intrinsics: Tensor, from_size: tuple[int, int], to_size: tuple[int, int]
) -> Tensor:
    """Intrinsics of the same cameras on another grid (paper Eq. 7).

    ``K' = diag(w / W, h / H, 1) K``

    Args:
        intrinsics: (..., 3, 3) in cells of the grid ``from_size``.
        from_size: (H, W) rows and columns.
        to_size: (h, w) rows and columns.

    Returns:
        (..., 3, 3) in cells of the grid ``to_size``.
    """
    rows = torch.tensor(
        [to_size[1] / from_size[1], to_size[0] / from_size[0], 1.0],
        dtype=intrinsics.dtype,
        device=intrinsics.device,
    )
    return intrinsics * rows[:, None]


def projection_matrices(world_to_camera: Tensor, intrinsics: Tensor) -> Tensor:
    """``P = K E`` in float64, rounded once to float32, for T views.

    Args:
        world_to_camera: (T, 4, 4).
        intrinsics: (T, 3, 3) of the grid that is projected to.

    Returns:
        (T, 3, 4) float32 on the device of the inputs.
    """
    expect_shape("The poses", world_to_camera, "T 4 4")
    expect_shape("The intrinsics", intrinsics, "T 3 3", T=len(world_to_camera))
    product = intrinsics.double() @ world_to_camera.double()[:, :3]
    return product.float()


def project(points: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points in one view: ``(u z, v z, z) = P (X, Y, Z, 1)`` (paper Eq. 9).

    Args:
        points: (..., 3) in world coordinates.
        matrix: (3, 4), as `projection_matrices` makes it.

    Returns:
        ``u z``, ``v z`` and the z-depth, (...) each.
    """
    x, y, z = (points @ matrix[:, :3].T + matrix[:, 3]).unbind(-1)
    return x, y, z


def project_to_all(points: Tensor, matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points (N, 3) in each of V views (V, 3, 4): as `project`, (V, N) each."""
    x, y, z = (matrices[:, :, :3] @ points.T + matrices[:, :, 3:]).unbind(1)
    return x, y, z


def project_each(points: Tensor, matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points (N, 3), each under a matrix of its own (N, 3, 4): as `project`, (N,) each."""
    x, y, z = ((matrices[:, :, :3] @ points[:, :, None])[:, :, 0] + matrices[:, :, 3]).unbind(1)
    return x, y, z


def cell_centres(
    height: int, width: int, convention: PixelConvention, device: torch.device | str
) -> Tensor:
    """Homogeneous centres ``(u, v, 1)`` of all cells: (height, width, 3) float32."""
    u = torch.arange(width, device=device, dtype=torch.float32) + convention.centre
    v = torch.arange(height, device=device, dtype=torch.float32) + convention.centre
    grid_v, grid_u = torch.meshgrid(v, u, indexing="ij")
    return torch.stack([grid_u, grid_v, torch.ones_like(grid_u)], dim=-1)
