"""A long walk through a procedural room: poses, what was observed there, and what is true."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mirage_core.cache.build import Observation, WriteConfig, observe
from mirage_core.codecs.dct import DctCodec
from mirage_core.geometry.depth import downsample_depth
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.lift import lift
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid, look_at
from mirage_core.scenes.scene import ProceduralScene

STEP = 0.12
"""Metres between latent frames."""

TURN = 0.12
"""Most radians that the camera turns between latent frames."""

FOV = 75.0
PER_CHUNK = 8
ESTIMATOR_CELL = 2.4
"""Depth samples per latent cell along each axis: what an estimator of coarser resolution gives."""

CHUNK_SCALE, FRAME_SCALE, CELL_NOISE, TOKEN_NOISE = 0.01, 0.003, 0.003, 0.1
"""Relative errors of depth per chunk, frame and sample; noise of the written tokens."""

VIEW_PART = 0.2
"""Part of a smooth token that depends on the direction of view."""


@dataclass(frozen=True)
class Views:
    """Cameras with the tokens (C, F, h, w) and the depth (F, h, w) that are true for them."""

    cameras: Trajectory
    tokens: Tensor
    depth: Tensor


@dataclass(frozen=True)
class Walk:
    """What a walk of some chunks saw.

    Attributes:
        views: Truth of every latent frame; frame 0 is the given picture.
        measured: (F, h', w') depth with an estimator's errors.
        tokens: (C, F, h, w) what is written.
        revisits: Truth near places of the walk.
    """

    views: Views
    measured: Tensor
    tokens: Tensor
    revisits: Views
    frames: Tensor
    scene: ProceduralScene

    @property
    def chunks(self) -> int:
        return (len(self.views.cameras) - 1) // PER_CHUNK

    def chunk(self, number: int) -> slice:
        """Latent frames that a chunk adds."""
        return slice(1 + PER_CHUNK * number, 1 + PER_CHUNK * (number + 1))

    def observation(self, part: slice, drop_flying: bool) -> Observation:
        """Latent frames ready to be written, as float16 tokens."""
        cameras = self.views.cameras.select(part)
        depth = self.measured[part]
        size = (int(depth.shape[1]), int(depth.shape[2]))
        geometry = FrameGeometry(depth, grid_lens(cameras, size))
        return observe(
            self.tokens[:, part].half(),
            geometry,
            world_to_camera=cameras.world_to_camera,
            frames=4 * self.frames[part],
            config=WriteConfig(drop_flying=drop_flying),
            intrinsics=grid_lens(cameras, tuple(self.tokens.shape[2:])),
            allow_empty=True,
        )


def grid_lens(cameras: Trajectory, size: tuple[int, int]) -> Tensor:
    """Intrinsics on a grid of (rows, columns)."""
    return cameras.resized(size[1], size[0]).intrinsics


def make_walk(seed: int, chunks: int, width: int, height: int, revisits: int) -> Walk:
    """Walk through room ``seed`` and look."""
    scene = ProceduralScene.from_seed(seed, texture_size=256)
    rng = random.Random(seed)
    count = 1 + PER_CHUNK * chunks
    poses = path(scene, count, rng)
    views = look(scene, poses, width, height)
    noise = torch.Generator().manual_seed(seed)
    chunk = torch.cat([torch.zeros(1), torch.arange(count - 1) // PER_CHUNK + 1]).long()
    by_chunk = 1 + CHUNK_SCALE * torch.randn(chunks + 1, generator=noise)
    exact = estimated(scene, views.cameras, views.tokens.shape[2:])
    by_frame = 1 + FRAME_SCALE * torch.randn(count, generator=noise)
    scale = (by_chunk[chunk] * by_frame)[:, None, None]
    measured = exact * scale * (1 + CELL_NOISE * torch.randn(exact.shape, generator=noise))
    tokens = views.tokens + TOKEN_NOISE * torch.randn(views.tokens.shape, generator=noise)
    near = look(scene, jittered(scene, poses, revisits, rng), width, height)
    return Walk(views, measured, tokens, near, torch.arange(count), scene)


def with_field(walk: Walk) -> Walk:
    """The same walk with tokens that follow the surface smoothly, instead of a codec's.

    Each channel is a plane wave through space, of unit variance and one of four wavelengths,
    at the point that the cell's centre shows, and a part that turns with the direction of
    view: what a latent would be that knew nothing but the place.
    """
    noise = torch.Generator().manual_seed(walk.scene.seed)
    channels = len(walk.tokens)
    octave = torch.tensor([0.5, 1.0, 2.0, 4.0])[torch.randint(0, 4, (channels,), generator=noise)]
    waves = torch.randn(channels, 3, generator=noise) * octave[:, None]
    phase = 2 * math.pi * torch.rand(channels, generator=noise)
    turning = VIEW_PART * torch.randn(channels, 3, generator=noise)

    def painted(views: Views) -> Views:
        lens = grid_lens(views.cameras, tuple(views.depth.shape[1:]))
        points = lift(views.depth, lens, views.cameras.world_to_camera)
        eye = invert_rigid(views.cameras.world_to_camera)[:, None, None, :3, 3].float()
        tokens = math.sqrt(2) * torch.sin(points @ waves.T + phase)
        tokens += F.normalize(points - eye, dim=-1) @ turning.T
        return replace(views, tokens=tokens.permute(3, 0, 1, 2).contiguous())

    views = painted(walk.views)
    tokens = views.tokens + TOKEN_NOISE * torch.randn(views.tokens.shape, generator=noise)
    return replace(walk, views=views, revisits=painted(walk.revisits), tokens=tokens)


def look(scene: ProceduralScene, poses: Tensor, width: int, height: int) -> Views:
    """Render poses (F, 4, 4) camera_to_world; keep tokens and depth of the latent grid."""
    lens = intrinsics_from_fov(width, height, FOV).expand(len(poses), 3, 3)
    cameras = Trajectory(invert_rigid(poses), lens, width, height)
    codec, tokens, depth = DctCodec(), [], []
    for first in range(0, len(poses), 32):
        frames, z = scene.render(cameras.select(slice(first, first + 32)))
        tokens.append(codec.encode_images(frames))
        depth.append(downsample_depth(z, (height // 16, width // 16)))
    return Views(cameras, torch.cat(tokens, dim=1), torch.cat(depth))


def estimated(scene: ProceduralScene, cameras: Trajectory, grid: torch.Size) -> Tensor:
    """Depth averaged over the samples of a coarser estimator."""
    size = tuple(round(ESTIMATOR_CELL * side) for side in grid)
    parts = []
    for first in range(0, len(cameras), 32):
        part = cameras.select(slice(first, first + 32)).resized(4 * size[1], 4 * size[0])
        _, z = scene.render(part)
        parts.append(F.avg_pool2d(z[:, None], 4)[:, 0])
    return torch.cat(parts)


def path(
    scene: ProceduralScene, count: int, rng: random.Random, per_latent: int = 1
) -> Tensor:
    """(F, 4, 4) camera_to_world of a walk from place to place that keeps off the furniture.

    Args:
        scene: The room.
        count: Number of poses.
        dice: What decides where to go.
        per_latent: Poses for each latent frame.
    """
    stride, turning = STEP / per_latent, TURN / per_latent
    room = scene.layout.solids[0]

    def place() -> Tensor:
        while True:
            x, z = (rng.uniform(room.low[axis], room.high[axis]) for axis in (0, 2))
            spot = torch.tensor([x, -1.5, z], dtype=torch.float64)
            if bool(scene.free(spot, 0.4)):
                return spot

    at, heading, steps = place(), rng.uniform(-math.pi, math.pi), 0
    target, poses = at, []
    while len(poses) < count:
        ahead = target - at
        if float(ahead.norm()) < stride:
            target = _reachable(scene, at, place)
            continue
        at = at + stride * ahead / ahead.norm()
        time = steps / per_latent
        wanted = math.atan2(float(ahead[0]), float(ahead[2])) + 0.5 * math.sin(0.07 * time)
        turn = (wanted - heading + math.pi) % (2 * math.pi) - math.pi
        heading += min(turning, max(-turning, turn))
        poses.append(_pose(at, heading, 0.1 - 0.05 * math.sin(0.05 * time)))
        steps += 1
    return torch.stack(poses)


def _reachable(scene: ProceduralScene, at: Tensor, place) -> Tensor:
    """A place with a free way to it, at least a metre away."""
    share = torch.linspace(0, 1, 64, dtype=torch.float64)[:, None]
    while True:
        spot = place()
        way = at + share * (spot - at)
        if float((spot - at).norm()) > 1.0 and bool(scene.free(way, 0.3).all()):
            return spot


def _pose(at: Tensor, heading: float, down: float) -> Tensor:
    ahead = [math.sin(heading), math.tan(down), math.cos(heading)]
    return look_at(at[None], at[None] + torch.tensor([ahead], dtype=torch.float64))[0]


def jittered(
    scene: ProceduralScene, poses: Tensor, count: int, rng: random.Random
) -> Tensor:
    """Poses of the walk, moved by up to 0.3 m and turned by up to 20 degrees."""
    found: list[Tensor] = []
    while len(found) < count:
        pose = poses[rng.randrange(len(poses))]
        move = torch.tensor([rng.uniform(-0.3, 0.3) for _ in range(3)], dtype=torch.float64)
        at = pose[:3, 3] + move * torch.tensor([1.0, 0.5, 1.0])
        if bool(scene.free(at, 0.2)):
            heading = math.atan2(float(pose[0, 2]), float(pose[2, 2]))
            turned = heading + math.radians(rng.uniform(-20, 20))
            found.append(_pose(at, turned, 0.1 + rng.uniform(-0.1, 0.1)))
    return torch.stack(found)
