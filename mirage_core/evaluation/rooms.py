"""Procedural rooms as data for every table: recordings, and shots with exact cameras."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from ..geometry.camera import latent_size
from ..geometry.frame_geometry import FrameGeometry
from ..geometry.trajectory import Trajectory
from ..scenes.movers import add_movers
from ..scenes.scene import ProceduralScene
from ..training.data.build_clip import DepthNoise, Shot
from ..training.validation import there_and_back
from ..validate import expect_range
from .rgbd import Views

FIRST_ROOM: Final = 910_000
"""Rooms from here on are in no training set and no validation."""

NOISE: Final = DepthNoise(0.02, 0.01)
"""Errors of depth: smooth ones and those from cell to cell, both at most."""

SMALL: Final = 320
"""Widest picture for which coarse textures are enough."""

CAPTION: Final = "a furnished room"


@dataclass(frozen=True)
class Rooms:
    """Rooms by number, seen on a move that bumps into nothing.

    Attributes:
        count: How many.
        frames: Frames of the move.
        width: Picture width in pixels, a multiple of 32.
        height: Picture height.
        first: Number of the first room.
        movers: Things that move in each; geometry excludes them where they are.
        noise: Errors of depth.

    Raises:
        ShapeError: The picture size is not a multiple of 32.
        ValueRangeError: There is no room or no frame.
    """

    count: int
    frames: int
    width: int
    height: int
    first: int = FIRST_ROOM
    movers: int = 0
    noise: DepthNoise = NOISE

    def __post_init__(self) -> None:
        latent_size(self.width, self.height)
        expect_range("The number of rooms", self.count, 1, 1_000_000)
        expect_range("The frames of a room", self.frames, 2, 100_001)
        expect_range("The things that move", self.movers, 0, 16)

    def settings(self) -> dict[str, Any]:
        """What results depend on, but for how many rooms there are."""
        return {
            "data": "procedural rooms",
            "size": [self.width, self.height],
            "frames": self.frames,
            "movers": self.movers,
            "depth noise": [self.noise.smooth, self.noise.white],
        }

    def items(self) -> tuple[str, ...]:
        """Names of the rooms."""
        return tuple(f"room-{self.first + number}" for number in range(self.count))

    def views(self, item: str) -> Views:
        """All frames of a room.

        Raises:
            GeometryError: The room has no place for the move, or for what moves.
        """
        seed = int(item.removeprefix("room-"))
        scene = ProceduralScene.from_seed(seed, texture_size=256 if self.width <= SMALL else 512)
        cameras = self._path(scene)
        moving = None
        if self.movers:
            frames, depth, moving = add_movers(scene, seed, self.movers, cameras).render(cameras)
        else:
            frames, depth = scene.render(cameras)
        grid = latent_size(self.width, self.height)
        geometry = FrameGeometry(
            self.noise.apply(depth, grid, seed), cameras.intrinsics, cameras.world_to_camera,
            exclude=moving, metric=True,
        )  # fmt: skip
        return Views(frames, geometry, cameras)

    def _path(self, scene: ProceduralScene) -> Trajectory:
        """One way of the move that the validation of the trainer goes there and back."""
        whole = there_and_back(scene, 2 * self.frames - 1, self.width, self.height)
        return whole.select(slice(0, self.frames))

    def open(self, item: str) -> Views:
        """A room as a recording."""
        return self.views(item)

    def load(self, item: str) -> Iterator[Shot]:
        """A room as one shot."""
        views = self.views(item)
        yield Shot(
            item, views.frames, views.cameras, views.geometry, exact=True, caption=CAPTION
        )
