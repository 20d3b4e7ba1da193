"""Small actors for tests: clouds with tracks."""

from __future__ import annotations

import dataclasses

import torch

from mirage_core.cache.actor import Actor
from mirage_core.cache.track import Behaviour, Track
from mirage_core.cache.types import CacheBlock, LatentCache
from mirage_core.constants import WAN_CODEC


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
