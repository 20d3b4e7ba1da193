"""Small tasks and recordings for tests of evaluations."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from mirage_core.errors import GeometryError
from mirage_core.evaluation.task import Choice, Column, Outcome
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid

KILL = "kill"


@dataclass(frozen=True)
class Counting:
    """A task whose results are the numbers in its items' names; it logs what it measures."""

    names: tuple[str, ...]
    log: Path
    model: str = "one"
    shift: float = 0.0

    name: ClassVar[str] = "counting"
    title: ClassVar[str] = "Numbers"
    about: ClassVar[str] = "Counts."
    protocol: ClassVar[tuple[Choice, ...]] = (Choice("what", "a|b", "here"),)
    columns: ClassVar[tuple[Column, ...]] = (
        Column("value", "value", 1),
        Column("square", "square", 1, "lower"),
        Column("absent", "absent", missing="there is none"),
    )

    def settings(self) -> dict[str, Any]:
        return {"model": self.model, "pair": (1, 2)}

    def items(self) -> tuple[str, ...]:
        return self.names

    def prepare(self) -> None:
        self._note("prepared")

    def run(self, item: str) -> Outcome:
        self._note(item)
        if item.startswith(KILL) and self.log.read_text().split().count(item) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if item.startswith("bad"):
            raise GeometryError("There is nothing", got=item)
        value = float(item.rpartition("/")[2].removeprefix(KILL)) + self.shift
        ways = {
            name: {"value": value * factor, "square": (value * factor) ** 2, "absent": None}
            for name, factor in (("plain", 1), ("double", 2))
        }
        return Outcome(ways, {"grey": torch.full((8, 16, 3), 0.5)})

    def _note(self, text: str) -> None:
        with open(self.log, "a") as file:
            file.write(f"{text}\n")


WIDTH, HEIGHT = 64, 64
WALL = 2.0
"""Metres from the first camera to the wall that recordings show."""


def wall_views(count: int = 5) -> tuple[np.ndarray, np.ndarray, Trajectory]:
    """Pictures (F, H, W, 3) uint8, depth (F, H, W) in metres, and cameras that go along a wall.

    The cameras turn a little, so that poses and their inverses differ in every number.
    """
    turns = 0.02 * torch.arange(count, dtype=torch.float64)
    poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    poses[:, 0, 0] = poses[:, 2, 2] = turns.cos()
    poses[:, 0, 2], poses[:, 2, 0] = turns.sin(), -turns.sin()
    poses[:, 0, 3] = 0.05 * torch.arange(count, dtype=torch.float64)
    lens = intrinsics_from_fov(WIDTH, HEIGHT, 60)
    rows, columns = torch.meshgrid(
        torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij"
    )
    rays = torch.stack([columns, rows, torch.ones_like(rows)], dim=-1).double()
    rays = rays @ torch.linalg.inv(lens).T
    pictures, depths = [], []
    for pose in poses:
        ahead = rays @ pose[:3, :3].T
        depth = (WALL - pose[2, 3]) / ahead[..., 2]
        points = ahead * depth[..., None] + pose[:3, 3]
        wave = 0.5 + 0.2 * torch.sin(4 * points[..., :2]) @ torch.tensor([[1.0], [0.5]]).double()
        pictures.append((wave.repeat(1, 1, 3) * 255).round().byte().numpy())
        depths.append(depth.numpy())
    cameras = Trajectory(invert_rigid(poses), lens.repeat(count, 1, 1), WIDTH, HEIGHT)
    return np.stack(pictures), np.stack(depths), cameras


def save_depth(path: Path, metres: np.ndarray, unit: float = 1000.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((metres * unit).round().astype(np.uint16)).save(path)


def save_picture(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
