"""Procedural rooms with exact depth and cameras, for trying things and for training."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import GeometryError
from ..geometry.frame_geometry import FrameGeometry
from ..geometry.trajectory import Trajectory, intrinsics_from_fov
from ..geometry.transform import invert_rigid, look_at
from ..validate import expect_range, expect_shape
from .cast import Cameras, Rays, cast, make_rays
from .furnish import furnish
from .shade import shade
from .tables import SceneTables, build_tables
from .types import Layout

CPU_BLOCK: Final = 1 << 16
"""Pixels per block on a CPU: a balance of cached temporaries and calls per frame."""

GPU_BLOCK: Final = 1 << 21
"""Pixels per block elsewhere: enough to keep the device busy, bounded in memory."""

BODY_RADIUS: Final = 0.35
"""Metres that a camera keeps from every surface by default."""

START_CANDIDATES: Final = 48
START_FOV: Final = 75.0


@dataclass(frozen=True, eq=False)
class ProceduralScene:
    """A furnished room; equal seeds give equal pixels, whatever else is rendered.

    World axes are OpenCV's with ``-y`` up, in metres. The floor is y = 0, and the room is
    centred on x = z = 0.

    Attributes:
        seed: Number that the room was made from.
        layout: Solids, materials and lamps.
        texture_size: Texels along each side of a texture, a power of two.
    """

    seed: int
    layout: Layout
    texture_size: int = 512
    _tables: dict[torch.device, SceneTables] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def from_seed(cls, seed: int, *, texture_size: int = 512) -> ProceduralScene:
        """Furnish the room of ``seed``.

        Args:
            seed: Any integer.
            texture_size: Texels along each side of a texture. 256 is enough for pictures up
                to 320 pixels wide and is prepared four times faster.

        Raises:
            ValueRangeError: ``texture_size`` is not a power of two between 16 and 2048.
        """
        expect_range("The texture size", texture_size, 16, 2048)
        expect_range("The bit count of the texture size", texture_size.bit_count(), 1, 1)
        return cls(seed, furnish(seed), texture_size)

    def render(
        self,
        trajectory: Trajectory,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        supersample: int = 1,
        on_frame: Callable[[int, int], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Render the room from every camera of a trajectory.

        Args:
            trajectory: F cameras inside the room.
            device: Where to render; the results stay there.
            dtype: Floating point type of the colours.
            supersample: Rays along each side of a pixel for colour: smooths object edges.
            on_frame: Called with (frames done, F) after every texture and direction of light that
                is prepared, every block of frames, and every band of rows of a large one; an
                exception raised there ends the rendering.

        Returns:
            Colours (F, H, W, 3) in 0..1, and z-depth (F, H, W) float32 in metres at the
            pixel centres.

        Raises:
            GeometryError: A camera is outside of the room.
            ValueRangeError: ``supersample`` is not between 1 and 8.
        """
        expect_range("Supersampling", supersample, 1, 8)
        self._expect_inside(trajectory.positions)
        place = torch.device(device)
        count, height, width = len(trajectory), trajectory.height, trajectory.width
        tables = self._tables_on(place, partial(on_frame, 0, count) if on_frame else None)
        cameras = Cameras.of(self.layout, trajectory)
        fine = cameras
        if supersample > 1:
            fine = Cameras.of(
                self.layout, trajectory.resized(width * supersample, height * supersample)
            )
        frames = torch.empty(count, height, width, 3, device=place, dtype=dtype)
        depth = torch.empty(count, height, width, device=place)
        with torch.inference_mode():
            for block, rows in _blocks(count, height, width * supersample**2, place):
                target = slice(block.start, block.stop), slice(rows.start, rows.stop)
                rays, z, seen = self._cast(cameras.select(block), rows, place)
                depth[target] = z
                part = fine.select(block)
                if supersample > 1:
                    sub = range(rows.start * supersample, rows.stop * supersample)
                    rays, z, seen = self._cast(part, sub, place)
                colours = shade(tables, rays, z, seen, part.pixel_size.to(place, torch.float32))
                frames[target] = _average(colours, supersample)
                if on_frame is not None:
                    on_frame(block.stop if rows.stop == height else block.start, count)
        return frames, depth

    def picture(
        self,
        width: int,
        height: int,
        fov: float = START_FOV,
        *,
        on_frame: Callable[[int, int], None] | None = None,
    ) -> tuple[Tensor, FrameGeometry]:
        """What `start_camera_to_world` sees, as the one picture that a shot begins with.

        Args:
            width: In pixels.
            height: In pixels.
            fov: Horizontal field of view in degrees.
            on_frame: As in `render`.

        Returns:
            Colours (H, W, 3) in 0..1, and the exact geometry of this one frame: depth and
            intrinsics, without a pose, since the camera is wherever a trajectory begins.

        Raises:
            ValueRangeError: The field of view is not between 1 and 170 degrees.
        """
        start = invert_rigid(self.start_camera_to_world.double())[None]
        intrinsics = intrinsics_from_fov(width, height, fov)[None]
        colours, depth = self.render(
            Trajectory(start, intrinsics, width, height), on_frame=on_frame
        )
        return colours[0], FrameGeometry(depth, intrinsics, metric=True)

    def free(self, points: Tensor, margin: float = BODY_RADIUS) -> Tensor:
        """Whether a camera may be at ``points``.

        Args:
            points: (..., 3) world positions in metres.
            margin: Distance to keep from the room's walls and from everything in it.

        Returns:
            (...,) bool.

        Raises:
            ShapeError: The last axis does not have three entries.
        """
        expect_shape("The list of points", points.reshape(-1, points.shape[-1]), "N 3")
        low = points.new_tensor([solid.low for solid in self.layout.solids])
        high = points.new_tensor([solid.high for solid in self.layout.solids])
        inside = ((points > low[0] + margin) & (points < high[0] - margin)).all(-1)
        near = torch.maximum(low[1:] - points[..., None, :], points[..., None, :] - high[1:])
        distance = near.clamp_min(0).norm(dim=-1)
        clear: Tensor = inside & (distance > margin).all(-1)
        return clear

    @cached_property
    def start_camera_to_world(self) -> Tensor:
        """(4, 4) float64 pose of an upright camera with an interesting view of the room.

        Raises:
            GeometryError: The room leaves no place for a camera.
        """
        poses = self._candidates()
        intrinsics = intrinsics_from_fov(48, 32, START_FOV).expand(len(poses), 3, 3)
        trajectory = Trajectory(invert_rigid(poses), intrinsics, 48, 32)
        cameras = Cameras.of(self.layout, trajectory)
        _, depth, seen = self._cast(cameras, range(32), torch.device("cpu"))
        count = len(self.layout.solids)
        scores = [_score(z, ids, count) for z, ids in zip(depth, seen, strict=True)]
        best: Tensor = poses[scores.index(max(scores))].clone()
        return best

    def _candidates(self) -> Tensor:
        """Upright cameras at eye height, away from everything, that face the room's middle."""
        rng = random.Random(self.seed ^ 0x5CE7E)
        room = self.layout.solids[0]
        positions: list[list[float]] = []
        targets: list[list[float]] = []
        for _ in range(4000):
            x = rng.uniform(room.low[0], room.high[0])
            z = rng.uniform(room.low[2], room.high[2])
            position = [x, rng.uniform(-1.7, -1.3), z]
            target = [rng.uniform(-0.8, 0.8), rng.uniform(-1.35, -1.0), rng.uniform(-0.8, 0.8)]
            apart = math.hypot(target[0] - x, target[2] - z)
            if apart > 1.0 and bool(self.free(torch.tensor(position), 0.5)):
                positions.append(position)
                targets.append(target)
            if len(positions) == START_CANDIDATES:
                break
        if not positions:
            raise GeometryError(
                "The room has no free position for a camera", got=f"seed {self.seed}",
                fix="Use another seed",
            )  # fmt: skip
        return look_at(
            torch.tensor(positions, dtype=torch.float64), torch.tensor(targets, dtype=torch.float64)
        )

    def _tables_on(
        self, device: torch.device, on_step: Callable[[], None] | None = None
    ) -> SceneTables:
        tables = self._tables.get(device)
        if tables is None:
            with torch.inference_mode():
                tables = build_tables(
                    self.layout, self.texture_size, device, on_step or (lambda: None)
                )
            self._tables[device] = tables
        return tables

    def _expect_inside(self, positions: Tensor) -> None:
        room = self.layout.solids[0]
        low, high = positions.new_tensor(room.low), positions.new_tensor(room.high)
        outside = ((positions <= low) | (positions >= high)).any(1).nonzero().flatten()
        if len(outside):
            frame = int(outside[0])
            where = ", ".join(f"{value:.2f}" for value in positions[frame].tolist())
            raise GeometryError(
                f"The camera of frame {frame} is outside of the room",
                got=f"position ({where})",
                expected=f"between {room.low} and {room.high}",
                fix="Shorten the camera move, or start from start_camera_to_world",
            )

    def _cast(
        self, cameras: Cameras, rows: range, device: torch.device
    ) -> tuple[Rays, Tensor, Tensor]:
        rays = make_rays(cameras, rows, device)
        return rays, *cast(self.layout.solids, rays, cameras.bounds, rows.start)


def _average(colours: Tensor, factor: int) -> Tensor:
    """Mean of every ``factor`` x ``factor`` rays: (F, H, W, 3)."""
    if factor == 1:
        return colours
    return functional.avg_pool2d(colours.movedim(-1, 1), factor).movedim(1, -1)


def _blocks(
    count: int, height: int, row_pixels: int, device: torch.device
) -> Iterator[tuple[range, range]]:
    """Cut F frames into blocks of whole frames, or a frame into bands of rows."""
    budget = CPU_BLOCK if device.type == "cpu" else GPU_BLOCK
    frames = max(1, budget // (row_pixels * height))
    band = height if row_pixels * height <= budget else max(1, budget // row_pixels)
    for first in range(0, count, frames):
        for row in range(0, height, band):
            yield range(first, min(count, first + frames)), range(row, min(height, row + band))


def _score(depth: Tensor, seen: Tensor, solids: int) -> float:
    """Higher for views with many objects and much depth, none of it very close."""
    shares = torch.bincount(seen.flatten().long(), minlength=solids)[1:] / seen.numel()
    objects = float((shares > 0.004).sum()) + 8 * float(shares.sum().clamp_max(0.45))
    crowding = max(0.0, 1.3 - float(depth.min()))
    return objects + float(depth.std()) + 0.4 * float(depth.mean()) - 8 * crowding
