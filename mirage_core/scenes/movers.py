"""Procedural rooms in which things move, with exact masks of what moves."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ..errors import GeometryError, ShapeError
from ..geometry.camera import project
from ..geometry.trajectory import Trajectory
from .cast import Cameras, cast, make_rays
from .scene import ProceduralScene
from .types import Layout, Solid, Vector

CLEARANCE: Final = 0.9
"""Metres that movers keep from cameras."""

ATTEMPTS: Final = 4000

COLOURS: Final = ((0.82, 0.24, 0.18), (0.18, 0.42, 0.78), (0.92, 0.72, 0.16), (0.30, 0.62, 0.34))


@dataclass(frozen=True)
class Mover:
    """A box or drum that glides to and fro between two places at constant speed.

    Attributes:
        shape: ``"box"``, ``"ball"`` or ``"drum"``.
        half: Half its extent along x, y and z in metres.
        start: Its centre at time 0.
        end: The centre where it turns back.
        speed: Metres per second.
        colour: RGB in 0..1.
    """

    shape: str
    half: Vector
    start: Vector
    end: Vector
    speed: float
    colour: Vector

    def centre(self, seconds: float) -> Vector:
        """Where it is at a time."""
        length = math.dist(self.start, self.end)
        way = (self.speed * seconds) % (2 * length) if length else 0.0
        share = (way if way <= length else 2 * length - way) / length if length else 0.0
        x, y, z = (a + share * (b - a) for a, b in zip(self.start, self.end, strict=True))
        return x, y, z

    def solid(self, seconds: float) -> Solid:
        """The mover as a solid at a time."""
        centre = self.centre(seconds)
        x, y, z = ((c - h, c + h) for c, h in zip(centre, self.half, strict=True))
        return Solid(self.shape, (x[0], y[0], z[0]), (x[1], y[1], z[1]), (0,) * 6)


@dataclass(frozen=True, eq=False)
class MovingScene:
    """A furnished room with things that move in it.

    Attributes:
        room: What stands still.
        movers: What moves; they cast no shadows.
    """

    room: ProceduralScene
    movers: tuple[Mover, ...]

    def render(
        self, trajectory: Trajectory, start_frame: int = 0, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Render room and movers; frame f shows the time ``(start_frame + f) / fps``.

        Args:
            trajectory: F cameras inside the room.
            start_frame: Number of the first frame in the shot.
            device: Where to render.

        Returns:
            Colours (F, H, W, 3) in 0..1, z-depth (F, H, W) in metres, and (F, H, W) bool, True
            where the pixel's centre shows something that moves.

        Raises:
            GeometryError: A camera is outside of the room.
        """
        frames, depth, which = self.render_each(trajectory, start_frame, device)
        return frames, depth, which >= 0

    def render_each(
        self, trajectory: Trajectory, start_frame: int = 0, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `render`, but with (F, H, W) int16, which mover each pixel shows, -1 for none."""
        frames, depth = self.room.render(trajectory, device)
        which = torch.full(depth.shape, -1, dtype=torch.int16, device=depth.device)
        for frame in range(len(trajectory)):
            seconds = (start_frame + frame) / trajectory.fps
            self._paint(trajectory.select([frame]), seconds, frames, depth, which, frame)
        return frames, depth, which

    def watch(
        self, camera: Trajectory, count: int, on_frame: Callable[[int, int], None] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `render_each`, through a camera that stands still: the room is drawn once.

        Args:
            camera: One camera, with the frames per second.
            count: How many frames.
            on_frame: Called with (frames done, ``count``); an exception raised there ends it.

        Returns:
            As `render_each`, on the CPU.

        Raises:
            GeometryError: The camera is outside of the room.
            ShapeError: There is not exactly one camera, or no frame.
        """
        if len(camera) != 1 or count < 1:
            raise ShapeError(
                "A camera that stands still is one camera, for one frame or more",
                got=f"{len(camera)} cameras, {count} frames",
                expected="1 camera, at least 1 frame",
            )
        still, z = self.room.render(camera)
        frames, depth = (part.repeat_interleave(count, dim=0) for part in (still, z))
        which = torch.full(depth.shape, -1, dtype=torch.int16)
        for frame in range(count):
            self._paint(camera, frame / camera.fps, frames, depth, which, frame)
            if on_frame is not None:
                on_frame(frame + 1, count)
        return frames, depth, which

    def _paint(
        self,
        camera: Trajectory,
        seconds: float,
        frames: Tensor,
        depth: Tensor,
        which: Tensor,
        frame: int,
    ) -> None:
        """Draw the movers of one frame into the frame's maps."""
        walls = self.room.layout.solids[0]
        solids = (walls, *(mover.solid(seconds) for mover in self.movers))
        cameras = Cameras.of(Layout(solids, (), ()), camera)
        rays = make_rays(cameras, range(camera.height), depth.device)
        z, seen = cast(solids, rays, cameras.bounds, 0)
        shown = (seen[0] > 0) & (z[0] < depth[frame])
        points = torch.stack([d[0] * z[0] for d in rays.directions], dim=-1)
        points = points + rays.origins[0].float().to(points.device)
        for number, mover in enumerate(self.movers, start=1):
            mine = shown & (seen[0] == number)
            centre = torch.tensor(mover.centre(seconds), device=points.device)
            half = torch.tensor(mover.half, device=points.device)
            which[frame][mine] = number - 1
            frames[frame][mine] = _colour(mover, (points[mine] - centre) / half).to(frames.dtype)
        depth[frame][shown] = z[0][shown]


def add_movers(
    room: ProceduralScene, seed: int, count: int, cameras: Trajectory
) -> MovingScene:
    """Let boxes, balls and drums move across what cameras see.

    Args:
        room: The room.
        seed: Equal seeds give equal movers.
        count: How many.
        cameras: Cameras that movers keep away from; each path is seen by the first of them.

    Raises:
        GeometryError: The room has no place for so many.
        ShapeError: ``count`` is negative.
    """
    if count < 0:
        raise ShapeError("The number of movers is negative", got=count, expected="0 or more")
    rng = random.Random(seed)
    movers: list[Mover] = []
    for _ in range(ATTEMPTS):
        if len(movers) == count:
            return MovingScene(room, tuple(movers))
        mover = _propose(room, rng, len(movers))
        if _fits(room, mover, cameras):
            movers.append(mover)
    if len(movers) < count:
        raise GeometryError(
            "The room has no space for so many movers",
            got=count,
            expected=f"{len(movers)} or fewer",
            fix="Use fewer movers or another seed",
        )
    return MovingScene(room, tuple(movers))


def _propose(room: ProceduralScene, rng: random.Random, number: int) -> Mover:
    walls = room.layout.solids[0]
    shape = ("box", "drum", "ball")[number % 3]
    radius = rng.uniform(0.14, 0.24)
    tall = radius if shape == "ball" else rng.uniform(0.3, 0.75)
    x, z = (rng.uniform(walls.low[a] + 0.4, walls.high[a] - 0.4) for a in (0, 2))
    angle, length = rng.uniform(0, math.pi), rng.uniform(1.0, 2.4)
    ends = [(x, -tall, z), (x + length * math.cos(angle), -tall, z + length * math.sin(angle))]
    return Mover(
        shape, (radius, tall, radius), ends[0], ends[1],
        rng.uniform(0.5, 1.0), COLOURS[number % len(COLOURS)],
    )  # fmt: skip


def _fits(room: ProceduralScene, mover: Mover, cameras: Trajectory) -> bool:
    """The whole way is free, away from all cameras, and in the first one's view."""
    share = torch.linspace(0, 1, 13, dtype=torch.float64)[:, None]
    start, end = (torch.tensor(place, dtype=torch.float64) for place in (mover.start, mover.end))
    way = start + share * (end - start)
    heights = torch.linspace(-0.9, 0.9, 4, dtype=torch.float64)[:, None] * mover.half[1]
    raised = way[:, None] + heights * torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    low = room.layout.solids[0].high[1]
    inside = raised.clone()
    inside[..., 1] = inside[..., 1].clamp_max(low - mover.half[0] - 0.05)
    if not bool(room.free(inside.reshape(-1, 3), mover.half[0] + 0.02).all()):
        return False
    apart = torch.cdist(way[:, [0, 2]], cameras.positions[:, [0, 2]])
    if float(apart.min()) < CLEARANCE:
        return False
    x, y, z = project(way, cameras.intrinsics[0] @ cameras.world_to_camera[0, :3])
    u, v = x / z, y / z
    seen = (z > 0) & (u > 0) & (u < cameras.width) & (v > 0) & (v < cameras.height)
    return bool(seen.float().mean() > 0.5)  # noqa: PLR2004


def _colour(mover: Mover, local: Tensor) -> Tensor:
    """Checks that go along with the mover; sides are darker than the top."""
    checks = ((local * 2).floor().long().sum(-1) % 2).float()
    side = torch.where(local[:, 1] < -0.98, 1.0, 0.8 - 0.15 * local[:, 0].clamp(-1, 1))
    shade = side * (0.65 + 0.35 * checks)
    return shade[:, None] * torch.tensor(mover.colour, device=local.device)
