"""The shots of `actors.py` made by the bundled model: what it makes of actors that it is shown."""

from __future__ import annotations

import functools
from typing import Any

import torch
from _embedded_variants import Shot, Variant, by_model, drawn_over, shoot
from torch import Tensor

from mirage_core.cache.actor import Actor
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory
from mirage_core.metrics import psnr
from mirage_core.models.bundled import STEPS, branch_path, model_path
from mirage_core.models.load import load_transformer


@functools.cache
def bundled() -> Any:
    """The model that ships, with its branch."""
    return load_transformer(model_path(), branch=branch_path(), dtype=torch.float32).eval()


def made_shots(
    seed: int,
    truth: tuple[Tensor, Tensor, Tensor],
    cameras: Trajectory,
    actors: dict[str, Actor],
    looked: slice,
) -> tuple[dict[str, Any], list[Tensor]]:
    """A whole shot for each behaviour, and figures on the frames that are looked at.

    Args:
        seed: Of the room.
        truth: Pictures (F, H, W, 3), depth and which mover is seen (F, H, W), -1 for none.
        cameras: F cameras.
        actors: The actor with each behaviour.
        looked: Frames on which the shots are compared with the truth.

    Returns:
        By behaviour PSNR on the mover's pixels and on the set's; and each shot's last frame.
    """
    pictures, depth, which = truth
    geometry = FrameGeometry(depth, cameras.intrinsics, cameras.world_to_camera, metric=True)
    shot = Shot(seed, cameras, pictures, geometry, which >= 0)
    moving = which[looked] == 0
    found: dict[str, Any] = {}
    last = []
    for ways, make in (("model", by_model), ("drawn over", drawn_over)):
        for name, actor in actors.items():
            variant = Variant(make(bundled(), STEPS), filtered=True, actors=(actor,))
            frames = shoot(shot, variant, STEPS).frames
            found.setdefault(name, {})[ways] = {
                "mover": psnr(frames[looked], pictures[looked], moving),
                "set": psnr(frames[looked], pictures[looked], ~moving),
            }
            last.append(frames[-1])
    return found, last
