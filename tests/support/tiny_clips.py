"""Small training clips and shots for tests and benchmarks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from mirage_core.codecs.dct import CODEC_NAME, DctCodec
from mirage_core.conditioning.condition import Condition
from mirage_core.constants import LATENT_CHANNELS
from mirage_core.errors import GeometryError
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.training.data.build_clip import Shot
from mirage_core.training.data.clip import TrainingClip
from mirage_core.training.data.pipeline import BadShot, DataJob


def random_clip(
    key: str,
    *,
    seed: int = 0,
    target: int = 3,
    grid: tuple[int, int] = (4, 6),
    preceding: int = 2,
    references: int = 1,
    words: int = 0,
    planes: bool = True,
) -> TrainingClip:
    """A clip of noise whose numbers fit float16 exactly."""
    rng = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng).half().float()

    def shown(count: int) -> torch.Tensor:
        return torch.rand(count, *grid, generator=rng) > 0.4  # noqa: PLR2004

    extra = {}
    if planes:
        extra = {
            "offset": noise(2, target, *grid),
            "log_depth": noise(target, *grid),
            "preceding_offset": noise(2, preceding, *grid),
            "preceding_log_depth": noise(preceding, *grid),
        }
    return TrainingClip(
        target=noise(LATENT_CHANNELS, target, *grid),
        condition=Condition(
            projection=noise(LATENT_CHANNELS, target, *grid),
            visible=shown(target),
            preceding=noise(LATENT_CHANNELS, preceding, *grid),
            preceding_projection=noise(LATENT_CHANNELS, preceding, *grid),
            preceding_visible=shown(preceding),
            references=noise(LATENT_CHANNELS, references, *grid),
            **extra,
        ),
        text=noise(words, 8) if words else None,
        caption=f"clip {key}",
        key=key,
    )


def sliding_cameras(frames: int, width: int = 64, height: int = 64, way: float = 1.0) -> Trajectory:
    """Cameras that slide to the right by ``way`` in all."""
    poses = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    poses[:, 0, 3] = -torch.linspace(0, way, frames, dtype=torch.float64)
    lens = intrinsics_from_fov(width, height, 60).repeat(frames, 1, 1)
    return Trajectory(poses, lens, width, height)


def wall_shot(key: str, frames: int = 65, seed: int = 0, *, exact: bool = True) -> Shot:
    """Random pictures with the depth of a leaning wall, from sliding cameras."""
    rng = torch.Generator().manual_seed(seed)
    cameras = sliding_cameras(frames)
    depth = torch.linspace(2, 3, 64)[None, :, None].expand(frames, 64, 64)
    geometry = FrameGeometry(depth, cameras.intrinsics, world_to_camera=cameras.world_to_camera)
    pictures = torch.rand(frames, 64, 64, 3, generator=rng)
    return Shot(key, pictures, cameras, geometry, exact=exact, caption="a wall")


@dataclass(frozen=True)
class WallSource:
    """Shots of a wall; ``bad`` items fail, ``deadly`` ones kill their process, ``stuck`` ones
    never end.

    Every item that is begun leaves a line in ``log``.
    """

    count: int
    log: Path
    bad: tuple[int, ...] = ()
    deadly: tuple[int, ...] = ()
    stuck: tuple[int, ...] = ()
    frames: int = 65
    width: int = 64
    height: int = 64

    def items(self) -> tuple[str, ...]:
        """Names of all walls."""
        return tuple(f"wall-{number}" for number in range(self.count))

    def load(self, item: str) -> Iterator[Shot | BadShot]:
        """Two shots of one wall; a bad wall fails at the second."""
        number = int(item.removeprefix("wall-"))
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(f"{item}\n")
        if number in self.deadly:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGKILL)
        if number in self.stuck:
            threading.Event().wait()
        if number in self.bad:
            raise GeometryError(f"{item} is bad")
        yield wall_shot(f"{item}/0", self.frames, number)
        yield BadShot(f"{item}/1", "too dark")


def wall_job(source: WallSource, flush_seconds: float = 60.0) -> DataJob:
    """A job that makes clips of walls with the codec that has no weights."""
    return DataJob(source, DctCodec, CODEC_NAME, flush_seconds=flush_seconds)
