"""Lifting the cells of a latent grid to points of the scene."""

from __future__ import annotations

import torch
from torch import Tensor

from ..validate import expect_shape
from .camera import PixelConvention, cell_centres
from .transform import invert_rigid


def lift(
    depth: Tensor,
    intrinsics: Tensor,
    world_to_camera: Tensor,
    convention: PixelConvention = PixelConvention.PAPER,
    beside: Tensor | None = None,
) -> Tensor:
    """Points of all cells of F frames in world coordinates (paper Eq. 8).

    ``p = E^-1 (d K^-1 (u, v, 1)^T)``, with (u, v) the cell's centre.

    Args:
        depth: (F, h, w) z-depth on the latent grid.
        intrinsics: (F, 3, 3) latent intrinsics.
        world_to_camera: (F, 4, 4).
        convention: Where cell centres lie.
        beside: (F, h, w, 2) how far points lie beside their cell's centre, x then y, in cells;
            at the centre when None.

    Returns:
        (F, h, w, 3) float32 on the device of ``depth``; meaningless where depth is invalid.
    """
    sizes = expect_shape("The depth", depth, "F h w")
    expect_shape("The intrinsics", intrinsics, "F 3 3", F=sizes["F"])
    expect_shape("The poses", world_to_camera, "F 4 4", F=sizes["F"])
    device = depth.device
    camera_to_world = invert_rigid(world_to_camera.double())
    rays = camera_to_world[:, :3, :3] @ torch.linalg.inv(intrinsics.double())
    centres = cell_centres(sizes["h"], sizes["w"], convention, device)
    directions = torch.einsum("fij,hwj->fhwi", rays.float().to(device), centres)
    if beside is not None:
        sizes = {name: sizes[name] for name in "Fhw"}
        expect_shape("The places inside cells", beside, "F h w 2", **sizes)
        across = rays[:, :, :2].float().to(device)
        directions = directions + torch.einsum("fij,fhwj->fhwi", across, beside)
    origin = camera_to_world[:, None, None, :3, 3].float().to(device)
    return directions * depth.float()[..., None] + origin
