"""A procedural picture, the memories that nodes make of it, and a camera before it."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch


class PictureKit:
    """A picture with its depth and codec, and a path that steps to the left.

    Args:
        pack: The pack as ComfyUI imports it.
        width: Of the picture.
        height: Of the picture.
        frames: Of the path.
        step: Metres from one of its cameras to the next.
    """

    def __init__(
        self, pack: ModuleType, width: int, height: int, frames: int, step: float = 0.0
    ) -> None:
        self.pack = pack
        self.vae = self.module("nodes.embedded").MirageEmbeddedCodec.execute().args[0]
        scene = self.module("nodes.embedded").MirageEmbeddedScene
        self.image, self.geometry = scene.execute(16, width, height, 70.0).args[:2]
        path = self.module("mirage_core.geometry.trajectory").Trajectory
        poses = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
        poses[:, 0, 3] = -step * torch.arange(frames)
        lens = self.geometry.intrinsics_for((height, width)).repeat(frames, 1, 1)
        self.path = path(poses, lens, width, height)

    def module(self, name: str) -> Any:
        return importlib.import_module(f"{self.pack.__name__}.{name}")

    def memory(self, **changes: Any) -> Any:
        node = self.module("nodes.memory").MirageCacheInit
        return node.execute(
            self.image, self.geometry, self.vae, "bilinear", True, "paper", **changes
        ).args[0]
