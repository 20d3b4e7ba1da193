"""Shots of procedural rooms: random camera moves with exact depth, from nothing but numbers."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch

from ...constants import MAX_CHUNK_FRAMES
from ...errors import GeometryError
from ...geometry.camera import latent_size
from ...geometry.frame_geometry import FrameGeometry
from ...geometry.trajectory import Trajectory, intrinsics_from_fov
from ...geometry.transform import look_at
from ...scenes.scene import ProceduralScene
from ...trajectories.presets import preset_trajectory
from ...validate import expect_frame_count, expect_range
from .build_clip import Shot

MOVES: Final = (
    "truck", "truck", "dolly", "dolly", "pedestal", "crane", "orbit", "orbit", "arc",
    "lemniscate", "spiral", "pan",
)  # fmt: skip
"""Presets to draw from; doubled ones come twice as often."""

TURNS: Final = ("pan", "pan", "tilt")
TURNING: Final = 0.5
"""Share of moves that turn the camera as well."""

RETURNING: Final = 0.6
"""Share of shots that come back on their own way."""

CAPTION: Final = "a furnished room, the camera moves through it"
SMALL: Final = 320
"""Widest picture for which coarse textures are enough."""

AMOUNTS: Final = (0.4, 1.8)
"""Range of the size of a move, in the units of the presets."""

ATTEMPTS: Final = 400


@dataclass(frozen=True)
class ProceduralSource:
    """Rooms by number; equal numbers give equal shots.

    Attributes:
        rooms: Seeds of the rooms.
        width: Picture width, a multiple of 32.
        height: Picture height, a multiple of 32.
        shots: Camera moves in each room.
        frames: Frames of each move, 32n + 1 for n chunks.
        both_ways: Use each move also backwards: nothing moves in these rooms, so the way back
            is as good a shot as the way there, at no cost of rendering.
        device: Where rooms are rendered.

    Raises:
        ShapeError: The picture size is not a multiple of 32.
        PlanError: ``frames`` is not 4n + 1.
        ValueRangeError: There is no shot, or it is shorter than a chunk.
    """

    rooms: range
    width: int = 192
    height: int = 128
    shots: int = 8
    frames: int = 65
    both_ways: bool = True
    device: str = "cpu"

    def __post_init__(self) -> None:
        latent_size(self.width, self.height)
        expect_frame_count(self.frames)
        expect_range("The frames of a shot", self.frames, MAX_CHUNK_FRAMES, 100_001)
        expect_range("The shots of a room", self.shots, 1, 100_000)
        expect_range("The number of rooms", len(self.rooms), 1, 1 << 31)

    def items(self) -> tuple[str, ...]:
        """Names of the rooms, one per seed."""
        return tuple(f"room-{seed}" for seed in self.rooms)

    def load(self, item: str) -> Iterator[Shot]:
        """Render the shots of one room.

        Raises:
            GeometryError: The room leaves no place for a camera move.
        """
        seed = int(item.removeprefix("room-"))
        size = 256 if self.width <= SMALL else 512
        scene = ProceduralScene.from_seed(seed, texture_size=size)
        for number in range(self.shots):
            rng = random.Random(f"{seed}/{number}")
            cameras, order = self._move(scene, rng)
            # A camera that comes back sees the same pictures: they are rendered once.
            pictures, maps = scene.render(cameras, self.device)
            frames, depth = pictures[order], maps[order]
            there = cameras.select(order)
            yield self._shot(f"{item}/{number}", frames, depth, there)
            if self.both_ways:
                back = torch.arange(len(order) - 1, -1, -1)
                yield self._shot(f"{item}/{number}b", frames[back], depth[back], there.select(back))

    def _shot(
        self, key: str, frames: torch.Tensor, depth: torch.Tensor, cameras: Trajectory
    ) -> Shot:
        geometry = FrameGeometry(
            depth, cameras.intrinsics, world_to_camera=cameras.world_to_camera, metric=True
        )
        return Shot(key, frames, cameras, geometry, exact=True, caption=CAPTION)

    def _move(
        self, scene: ProceduralScene, rng: random.Random
    ) -> tuple[Trajectory, torch.Tensor]:
        """Distinct cameras of a move that bumps into nothing, and which of them each frame is."""
        last = self.frames - 1
        order = torch.arange(self.frames)
        if rng.random() < RETURNING:
            turn = rng.randint(last // 3, last)
            order = (turn - (order - turn).abs()).abs()
        for _ in range(ATTEMPTS):
            cameras = self._draw(scene, rng)
            if cameras is not None:
                return cameras.select(slice(0, int(order.max()) + 1)), order
        raise GeometryError(
            "The room has no free space for a camera move",
            got=f"seed {scene.seed}, {ATTEMPTS} attempts",
            fix="Use other rooms",
        )

    def _draw(self, scene: ProceduralScene, rng: random.Random) -> Trajectory | None:
        """A random move from a random place; None where it would leave free space."""
        room = scene.layout.solids[0]
        ends = torch.tensor([[rng.random() for _ in range(3)] for _ in range(2)]).double()
        low, high = (torch.tensor(end, dtype=torch.float64) for end in (room.low, room.high))
        ends = low + ends * (high - low)
        ends[:, 1] = torch.tensor([rng.uniform(-1.8, -1.1), rng.uniform(-1.5, -0.6)])
        reach = math.dist(*ends[:, [0, 2]].tolist())
        if reach < 1 or not bool(scene.free(ends[0])):
            return None
        start = look_at(ends[0], ends[1])
        intrinsics = intrinsics_from_fov(self.width, self.height, rng.uniform(50, 80))
        move = rng.choice(MOVES)
        cameras = self._preset(move, rng, intrinsics, reach, start)
        if not bool(scene.free(cameras.positions).all()):
            return None
        if rng.random() < TURNING:
            turn = self._preset(rng.choice(TURNS), rng, intrinsics, reach, None)
            poses = turn.world_to_camera @ cameras.world_to_camera
            cameras = dataclasses.replace(cameras, world_to_camera=poses)
        return cameras

    def _preset(
        self,
        name: str,
        rng: random.Random,
        intrinsics: torch.Tensor,
        reach: float,
        start: torch.Tensor | None,
    ) -> Trajectory:
        return preset_trajectory(
            name,
            self.frames,
            intrinsics=intrinsics,
            width=self.width,
            height=self.height,
            scene_depth=reach,
            amount=rng.uniform(*AMOUNTS) * rng.choice((-1, 1)),
            easing=rng.choice(("linear", "smooth")),
            start=start,
        )
