"""A hand-held camera with structured light, such as the first Kinect, in a procedural room.

Where the numbers come from:

- Khoshelham and Elberink, "Accuracy and resolution of Kinect depth data for indoor mapping
  applications", Sensors 12 (2012): the range, and steps of depth of 2.85e-5 z^2 (in cm), which
  is 7 cm at 5 m.
- Handa, Whelan, McDonald and Davison, "A benchmark for RGB-D visual odometry, 3D reconstruction
  and SLAM", ICRA 2014: depth is looked up up to a pixel aside, its disparity is disturbed and
  rounded, ``z = 35130 / round(35130 / z + noise)`` (in cm), with deviations of 1/2 pixel and 1/6.
- Nguyen, Izadi and Lovell, "Modeling Kinect sensor noise for improved 3D reconstruction and
  tracking", 3DIMPVT 2012: errors grow fast where a surface is seen at a grazing angle. Here it
  gives no depth at all beyond a limit.

The bleeding of edges, the limit of the angle, and the errors of pose, exposure, white balance
and shutter are choices of this module, of the size that hand-held captures show.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

from mirage_core.geometry.lift import lift
from mirage_core.geometry.trajectory import Trajectory
from mirage_core.geometry.transform import invert_rigid
from mirage_core.scenes.scene import ProceduralScene
from mirage_core.validate import expect_range

WIDTH, HEIGHT, FOCAL = 640, 480, 580.0
"""Pictures of the sensor, and its focal length in pixels."""

STEPS = 351.3
"""Steps of disparity at a depth of 1 m: eighths of a pixel."""

STEPS_PER_PIXEL = 8
BATCH = 4
GAMMA = 2.2


@dataclass(frozen=True)
class Sensor:
    """How a capture departs from the truth.

    Attributes:
        nearest: Least depth in metres that is measured.
        farthest: Greatest depth in metres.
        disparity: Deviation of the disparity, in its steps.
        lateral: Deviation of the place at which depth is looked up, in pixels.
        bleed: Pixels by which what is in front spreads over what is behind.
        edge: Share of the depth from which a jump is an edge.
        grazing: Degrees between ray and normal from which nothing is measured.
        turn: Deviation of a pose's direction in degrees, about all three axes together.
        shift: Deviation of a pose's place in metres, along all three axes together.
        exposure: Deviation of the exposure's logarithm, which wanders.
        white: Deviation of the logarithm of red and of blue against green, which wander.
        memory: How much of the exposure and the white balance of a frame the next one keeps.
        shutter: Share of the time between two frames for which the shutter is open.
        samples: Moments that a motion blur is the mean of, an odd number.

    Raises:
        ValueRangeError: A number is out of range.
    """

    nearest: float = 0.5
    farthest: float = 5.0
    disparity: float = 1 / 6
    lateral: float = 0.5
    bleed: int = 3
    edge: float = 0.05
    grazing: float = 78.0
    turn: float = 0.3
    shift: float = 0.005
    exposure: float = 0.08
    white: float = 0.03
    memory: float = 0.97
    shutter: float = 0.1
    samples: int = 3

    def __post_init__(self) -> None:
        for name in ("disparity", "lateral", "exposure", "white", "shutter"):
            expect_range(f"The sensor's {name}", getattr(self, name), 0.0, 10.0)
        expect_range("The least depth of the sensor", self.nearest, 0.01, 100.0)
        expect_range("The greatest depth of the sensor", self.farthest, self.nearest, 100.0)
        expect_range("The bleeding of edges", self.bleed, 0, 32)
        expect_range("The share of an edge", self.edge, 0.001, 1.0)
        expect_range("The grazing angle", self.grazing, 1.0, 90.0)
        expect_range("The error of directions", self.turn, 0.0, 45.0)
        expect_range("The error of places", self.shift, 0.0, 10.0)
        expect_range("What exposures remember", self.memory, 0.0, 1.0)
        expect_range("The samples of a shutter", self.samples, 1, 63)
        expect_range("The rest of the shutter's samples by two", self.samples % 2, 1, 1)


@dataclass(frozen=True, eq=False)
class Capture:
    """What a camera recorded, and where it believes to have been.

    Attributes:
        pictures: (F, H, W, 3) uint8.
        depth: (F, H, W) float32 in metres, 0 where nothing was measured.
        cameras: F cameras.
    """

    pictures: Tensor
    depth: Tensor
    cameras: Trajectory

    def __len__(self) -> int:
        return len(self.pictures)


def sensor_lens() -> Tensor:
    """(3, 3) float64 intrinsics of the sensor's pictures."""
    return torch.tensor(
        [[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]], dtype=torch.float64
    )


def recorded(
    scene: ProceduralScene, cameras: Trajectory, sensor: Sensor, seed: int
) -> tuple[Capture, Capture]:
    """What a perfect camera and the sensor record along a path; equal seeds give equal captures.

    Args:
        scene: The room.
        cameras: Where both really are, in F frames one after the other.
        sensor: Its errors.
        seed: Of all that is random.

    Returns:
        The exact capture and the sensor's.
    """
    noise = torch.Generator().manual_seed(seed)
    believed = jittered(cameras, sensor, noise)
    gains = wandering_gains(len(cameras), sensor, noise)
    moments = shutter_poses(cameras.camera_to_world, sensor)
    parts: list[tuple[Tensor, ...]] = []
    for part in _batches(len(cameras)):
        frames, depth = _rendered(scene, cameras, moments, part)
        # The middle moment is the frame's own pose.
        middle = sensor.samples // 2
        light = (frames**GAMMA).mean(dim=1) * gains[part, None, None]
        measured = measured_depth(depth[:, middle], cameras.intrinsics[part], sensor, noise)
        pictures = _bytes(frames[:, middle]), _bytes(light ** (1 / GAMMA))
        parts.append((*pictures, depth[:, middle], measured))
    exact, blurred, depth, measured = (torch.cat(part) for part in zip(*parts, strict=True))
    return Capture(exact, depth, cameras), Capture(blurred, measured, believed)


def exact(scene: ProceduralScene, cameras: Trajectory) -> Capture:
    """What a perfect camera would record: pictures and depth as they are."""
    parts = [scene.render(cameras.select(part)) for part in _batches(len(cameras))]
    pictures, depths = zip(*parts, strict=True)
    return Capture(_bytes(torch.cat(pictures)), torch.cat(depths), cameras)


def _rendered(
    scene: ProceduralScene, cameras: Trajectory, moments: Tensor, part: slice
) -> tuple[Tensor, Tensor]:
    """Frames (n, samples, H, W, 3) and depth (n, samples, H, W) of some frames' moments."""
    some = moments[part]
    count, samples = some.shape[:2]
    lens = cameras.intrinsics[part].repeat_interleave(samples, 0)
    poses = invert_rigid(some.flatten(0, 1))
    frames, depth = scene.render(Trajectory(poses, lens, cameras.width, cameras.height))
    return frames.unflatten(0, (count, samples)), depth.unflatten(0, (count, samples))


def measured_depth(
    depth: Tensor, intrinsics: Tensor, sensor: Sensor, noise: torch.Generator
) -> Tensor:
    """Depth maps as the sensor gives them.

    Args:
        depth: (F, H, W) true z-depth in metres.
        intrinsics: (F, 3, 3) of these maps.
        sensor: Its errors.
        noise: What is random.

    Returns:
        (F, H, W) float32, 0 where nothing was measured.
    """
    blind = shadowed(depth) | grazed(depth, intrinsics, sensor.grazing)
    spread = bled(depth, sensor)
    aside = _looked_up(spread, sensor.lateral, noise)
    steps = STEPS / aside + sensor.disparity * torch.randn(aside.shape, generator=noise)
    found = STEPS / steps.round().clamp_min(1)
    inside = (found >= sensor.nearest) & (found <= sensor.farthest)
    return torch.where(inside & ~blind, found, 0.0)


def bled(depth: Tensor, sensor: Sensor) -> Tensor:
    """Depth maps (F, H, W) in which what is in front spreads over edges."""
    if not sensor.bleed:
        return depth
    window = 2 * sensor.bleed + 1
    near = -F.max_pool2d(-depth[:, None], window, stride=1, padding=sensor.bleed)[:, 0]
    return torch.where(near < depth * (1 - sensor.edge), near, depth)


def shadowed(depth: Tensor) -> Tensor:
    """(F, H, W) bool: surfaces that something nearer hides from the projector on the right."""
    columns = torch.arange(depth.shape[2], dtype=torch.float32)
    lit_from = columns - STEPS / STEPS_PER_PIXEL / depth
    nearer = lit_from.flip(2).cummin(dim=2).values.flip(2)
    # Half a pixel is what rounding a slanted surface to pixels may do by itself.
    return nearer < lit_from - 0.5  # noqa: PLR2004


def grazed(depth: Tensor, intrinsics: Tensor, limit: float) -> Tensor:
    """(F, H, W) bool: surfaces that are seen at more than ``limit`` degrees from their normal."""
    still = torch.eye(4, dtype=torch.float64).expand(len(depth), 4, 4)
    points = lift(depth, intrinsics, still).movedim(3, 1)
    padded = F.pad(points, (1, 1, 1, 1), mode="replicate")
    across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    normal = F.normalize(torch.linalg.cross(across, down, dim=1), dim=1)
    facing = (normal * F.normalize(points, dim=1)).sum(dim=1).abs()
    return facing < math.cos(math.radians(limit))


def jittered(cameras: Trajectory, sensor: Sensor, noise: torch.Generator) -> Trajectory:
    """The cameras where a tracker believes them to be, each with an error of its own."""
    share = 1 / math.sqrt(3)
    turns, shifts = (
        share * size * torch.randn(len(cameras), 3, generator=noise, dtype=torch.float64)
        for size in (math.radians(sensor.turn), sensor.shift)
    )
    poses = cameras.camera_to_world
    poses[:, :3, :3] @= torch.from_numpy(Rotation.from_rotvec(turns.numpy()).as_matrix())
    poses[:, :3, 3] += shifts
    return Trajectory(invert_rigid(poses), cameras.intrinsics, cameras.width, cameras.height)


def wandering_gains(count: int, sensor: Sensor, noise: torch.Generator) -> Tensor:
    """(F, 3) float32 factors of linear light in red, green and blue."""
    size = torch.tensor([sensor.exposure, sensor.white, sensor.white])
    fresh = math.sqrt(1 - sensor.memory**2)
    state, states = torch.randn(3, generator=noise), []
    for _ in range(count):
        states.append(state * size)
        state = sensor.memory * state + fresh * torch.randn(3, generator=noise)
    exposure, red, blue = torch.stack(states).unbind(1)
    return torch.stack([exposure + red, exposure, exposure + blue], dim=1).exp()


def shutter_poses(poses: Tensor, sensor: Sensor) -> Tensor:
    """(F, samples, 4, 4) camera_to_world at moments while the shutter is open.

    Args:
        poses: (F, 4, 4) camera_to_world in the middle of each frame.
        sensor: For how long, and how many moments.
    """
    count = len(poses)
    if count == 1:
        return poses[:, None].repeat(1, sensor.samples, 1, 1)
    offset = (np.arange(sensor.samples) + 0.5) / sensor.samples - 0.5
    times = np.clip(np.arange(count)[:, None] + sensor.shutter * offset, 0, count - 1).ravel()
    frames = np.arange(count)
    turned = Slerp(frames, Rotation.from_matrix(poses[:, :3, :3].numpy()))(times)
    moments = torch.eye(4, dtype=torch.float64).repeat(len(times), 1, 1)
    moments[:, :3, :3] = torch.from_numpy(turned.as_matrix())
    for axis in range(3):
        moments[:, axis, 3] = torch.from_numpy(np.interp(times, frames, poses[:, axis, 3].numpy()))
    return moments.unflatten(0, (count, sensor.samples))


def _looked_up(depth: Tensor, deviation: float, noise: torch.Generator) -> Tensor:
    count, height, width = depth.shape
    moved = deviation * torch.randn(2, count, height, width, generator=noise)
    row = (torch.arange(height)[:, None] + moved[0].round().long()).clamp_(0, height - 1)
    column = (torch.arange(width) + moved[1].round().long()).clamp_(0, width - 1)
    return depth.flatten(1).gather(1, (row * width + column).flatten(1)).view_as(depth)


def _bytes(frames: Tensor) -> Tensor:
    return (frames.clamp(0, 1) * 255).round().to(torch.uint8)


def _batches(count: int) -> Iterator[slice]:
    for first in range(0, count, BATCH):
        yield slice(first, min(first + BATCH, count))
