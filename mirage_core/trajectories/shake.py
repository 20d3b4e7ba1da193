"""A camera held by hand: noise on a path, the same wherever and however often it is made."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ..geometry.trajectory import Trajectory
from ..geometry.transform import invert_rigid, rigid, rotation_about
from ..validate import expect_range

MAX_SEED: Final = 2**32 - 1
_MASK: Final = 2**32 - 1
_LATTICE: Final = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
"""Odd factors that spread seed, channel and place over 32 bits."""
_OCTAVE: Final = 2.17
"""Times as fast as the first is the second layer of noise, which is half as strong."""
_CHANNELS: Final = 6
_ROLL: Final = 0.5
"""Part of the amplitude that rolls: hands hold the horizon better than the direction."""


@dataclass(frozen=True)
class Shake:
    """How a camera shakes.

    Attributes:
        seed: Which of 2^32 ways.
        degrees: Turns at most, to each side; rolls half of it.
        distance: Moves at most along each axis of the camera, in scene units.
        hz: Swings a second, about.

    Raises:
        ValueRangeError: A number is out of range.
    """

    seed: int = 0
    degrees: float = 0.4
    distance: float = 0.0
    hz: float = 1.5

    def __post_init__(self) -> None:
        expect_range("The seed of the shake", self.seed, 0, MAX_SEED)
        expect_range("The degrees of the shake", self.degrees, 0, 45)
        expect_range("The distance of the shake", self.distance, 0, 1e9)
        expect_range("The frequency of the shake", self.hz, 0.01, 60)


def _hash(seed: int, channel: int, place: int) -> int:
    """32 bits that have nothing to do with those of neighbours (lowbias32)."""
    parts = zip((seed, channel, place), _LATTICE, strict=True)
    mixed = 0
    for value, factor in parts:
        mixed ^= value * factor & _MASK
    mixed ^= mixed >> 16
    mixed = mixed * 0x7FEB352D & _MASK
    mixed ^= mixed >> 15
    mixed = mixed * 0x846CA68B & _MASK
    return mixed ^ mixed >> 16


def _gradient(seed: int, channel: int, at: float) -> float:
    """One layer of noise, -0.5 to 0.5, and 0 wherever ``at`` is a whole number."""
    place = math.floor(at)
    share = at - place
    before, after = (_hash(seed, channel, place + side) / 2**31 - 1 for side in (0, 1))
    blend = share * share * share * (share * (share * 6 - 15) + 10)
    rising, falling = before * share, after * (share - 1)
    return rising + (falling - rising) * blend


def noise(seed: int, channel: int, at: float) -> float:
    """Smooth noise, -1 to 1; 0 at 0, so that a shot begins where it would without.

    Args:
        seed: 0 to 2^32 - 1.
        channel: Which of several that have nothing to do with each other.
        at: Time in swings, from 0.
    """
    fine = _gradient(seed, channel + _CHANNELS, at * _OCTAVE)
    return (_gradient(seed, channel, at) + 0.5 * fine) * (4 / 3)


def shaken(trajectory: Trajectory, shake: Shake) -> Trajectory:
    """The same move with a camera that is held by hand; its first frame stays where it is."""
    rows = [
        [noise(shake.seed, channel, frame / trajectory.fps * shake.hz) for channel in range(6)]
        for frame in range(len(trajectory))
    ]
    values = torch.tensor(rows, dtype=torch.float64)
    yaw, pitch, roll = (math.radians(shake.degrees) * values[:, :3]).unbind(1)
    turn = rotation_about("y", yaw) @ rotation_about("x", pitch)
    turn = turn @ rotation_about("z", _ROLL * roll)
    moved: Tensor = trajectory.camera_to_world @ rigid(turn, shake.distance * values[:, 3:])
    moved[0] = trajectory.camera_to_world[0]
    return dataclasses.replace(trajectory, world_to_camera=invert_rigid(moved))
