"""Small actors for tests: clouds with tracks, and boxes that move through a hall."""

from __future__ import annotations

import dataclasses

import torch

from mirage_core.actors.build import Look
from mirage_core.cache.actor import Actor
from mirage_core.cache.track import Behaviour, Track
from mirage_core.cache.types import CacheBlock, LatentCache
from mirage_core.codecs.colours import ColourCodec
from mirage_core.constants import WAN_CODEC
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory
from mirage_core.geometry.transform import rotation_about
from mirage_core.masks.tracks import Tracks
from mirage_core.rollout.memory import begin_memory


def track(*places: tuple[int, float, float, float], heading: float = 0.0) -> Track:
    """A track through (frame, x, y, z), always facing one way."""
    frames, positions = [p[0] for p in places], [p[1:] for p in places]
    return Track(
        torch.tensor(frames),
        torch.tensor(positions, dtype=torch.float64),
        torch.full((len(places),), heading, dtype=torch.float64),
    )


def cloud(make, count: int = 60, seed: int = 40, **kwargs) -> CacheBlock:
    """Points of something about one unit tall that stands on the ground, at its origin."""
    block = make.block(count, seed=seed, **kwargs)
    spread = torch.tensor([0.2, 0.3, 0.2])
    points = make.noise(count, 3, seed=seed) * spread - torch.tensor([0.0, 0.5, 0.0])
    cameras = block.world_to_camera.clone()
    cameras[:, 2, 3] += 3
    return dataclasses.replace(
        block, points=points, world_to_camera=cameras, bounds=torch.empty(0)
    )


def actor(make, where: Track, name: str = "dog", seed: int = 40, **kwargs) -> Actor:
    """An actor of a memory of 48 channels on a track."""
    behaviour = kwargs.pop("behaviour", Behaviour.STAY)
    path = kwargs.pop("path", None)
    ids = kwargs.pop("ids", ())
    codec = kwargs.pop("codec", WAN_CODEC)
    points = LatentCache((cloud(make, seed=seed, **kwargs),), codec=codec)
    return Actor(name, points, where, behaviour, path, ids)


@dataclasses.dataclass(frozen=True)
class Box:
    """A box on the floor, in one colour: half its width, its height, and where it is."""

    x: float
    z: float
    half: float = 0.25
    height: float = 1.0
    colour: tuple[float, float, float] = (0.9, 0.1, 0.1)


FLOOR = 1.0
"""The cameras stand one unit above it."""


def stage(
    cameras: Trajectory, boxes: list[list[Box]], wall: float = 6.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures (F, H, W, 3), depth (F, H, W) and numbers from 1 (F, H, W) of boxes in a hall.

    A grey floor and a wall of blue stripes; ``boxes`` has a list for each frame.
    """
    v, u = torch.meshgrid(
        torch.arange(cameras.height) + 0.5, torch.arange(cameras.width) + 0.5, indexing="ij"
    )
    pixel = torch.stack([u, v, torch.ones_like(u)], dim=-1).double()
    pictures, depths, numbers = [], [], []
    for frame, there in enumerate(boxes):
        pose = cameras.camera_to_world[frame]
        ray = pixel @ torch.linalg.inv(cameras.intrinsics[frame]).T @ pose[:3, :3].T
        eye = pose[:3, 3]
        depth = torch.full(u.shape, 60.0, dtype=torch.float64)
        floor = (FLOOR - eye[1]) / ray[..., 1].clamp_min(1e-9)
        back = (wall - eye[2]) / ray[..., 2].clamp_min(1e-9)
        depth = torch.minimum(depth, torch.minimum(floor, back))
        stripes = 0.4 + 0.4 * ((ray[..., 0] * back + eye[0]).floor() % 2)
        picture = torch.where((back < floor)[..., None], stripes[..., None], 0.5).expand(
            -1, -1, 3
        ).clone()
        number = torch.zeros(u.shape, dtype=torch.int32)
        for index, box in enumerate(there, start=1):
            low = torch.tensor([box.x - box.half, FLOOR - box.height, box.z - box.half])
            high = torch.tensor([box.x + box.half, FLOOR, box.z + box.half])
            first, last = (low - eye) / ray, (high - eye) / ray
            near = torch.minimum(first, last).amax(dim=-1)
            far = torch.maximum(first, last).amin(dim=-1)
            hit = (near < far) & (near > 0) & (near < depth)
            depth = torch.where(hit, near, depth)
            picture[hit] = torch.tensor(box.colour, dtype=torch.float64)
            number[hit] = index
        pictures.append(picture.float())
        depths.append(depth.float())
        numbers.append(number)
    return torch.stack(pictures), torch.stack(depths), torch.stack(numbers)


@dataclasses.dataclass(frozen=True, eq=False)
class Hall:
    """Frames of boxes in a hall, and a memory of the set of colours."""

    cameras: Trajectory
    pictures: torch.Tensor
    depth: torch.Tensor
    numbers: torch.Tensor

    @classmethod
    def of(cls, make, boxes: list[list[Box]], first: int = 0, step: int = 4, turn=0.0) -> Hall:
        """A camera at the origin that looks along z, at every ``step``-th frame from ``first``."""
        still = make.trajectory(len(boxes), 96, 64, step=0)
        poses = still.world_to_camera.clone()
        poses[:, :3, :3] = rotation_about("y", torch.tensor(float(-turn), dtype=torch.float64))
        frames = first + step * torch.arange(len(boxes))
        cameras = dataclasses.replace(still, world_to_camera=poses, numbers=frames)
        return cls(cameras, *stage(cameras, boxes))

    @property
    def geometry(self) -> FrameGeometry:
        return FrameGeometry(self.depth, self.cameras.intrinsics, self.cameras.world_to_camera)

    @property
    def look(self) -> Look:
        tokens = ColourCodec().encode_images(self.pictures)
        frames = self.cameras.frame_numbers
        return Look(tokens, self.geometry, self.cameras.world_to_camera, frames)

    @property
    def memory(self) -> LatentCache:
        """Of the first frame, without what moves."""
        codec = ColourCodec()
        first = dataclasses.replace(self.geometry.select([0]), exclude=self.numbers[:1] > 0)
        return begin_memory(codec.encode_images(self.pictures[:1]), first, codec.name)

    def tracks(self, *names: str, lasting: bool = False) -> Tracks:
        named = dict(enumerate(names, start=1))
        return Tracks(self.numbers, named, frozenset(named if lasting else ()))
