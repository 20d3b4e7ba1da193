"""`Actor`: something that moves, with points of its own, its track, and what it does unseen."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from ..errors import ModelMismatchError, ValueRangeError
from ..geometry.transform import invert_rigid
from .track import Behaviour, Track

if TYPE_CHECKING:
    from .types import CacheBlock, LatentCache

MAX_ACTORS: Final = 1000
"""Most actors of a memory: numbers of actors fit into 16 bits, and no scene has more."""

MAX_NAME: Final = 200

_MEASURED: Final = 100_000
"""About so many points tell an actor's size."""

_OUTLIERS: Final = 0.01
"""Share of the points at either end that an actor's size leaves out."""


@dataclass(frozen=True, eq=False)
class Actor:
    """Something that moves.

    Attributes:
        name: What it is called.
        cache: Its points in its own frame, whose origin is on the ground below it: x to its right,
            y into the ground, z out of its front. The cameras that saw it stand in that frame, so
            that it is read as any memory is.
        track: Where it was seen.
        behaviour: Where it is when nobody looks.
        path: Where it was told to be; needed for `Behaviour.PATH`.
        ids: Numbers that a tracker gave it.
        gone: It was not where it was remembered: until it is seen again it is nowhere, unless a
            path says where it is.

    Raises:
        ValueRangeError: It has no name or no points, holds actors itself, or has no path where it
            is told to follow one.
    """

    name: str
    cache: LatentCache
    track: Track
    behaviour: Behaviour = Behaviour.STAY
    path: Track | None = None
    ids: tuple[int, ...] = ()
    gone: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "behaviour", Behaviour(self.behaviour))
        object.__setattr__(self, "ids", tuple(self.ids))
        if not self.name.strip() or len(self.name) > MAX_NAME:
            raise ValueRangeError(
                "The actor needs a name",
                got=repr(self.name[:MAX_NAME]),
                expected=f"1 to {MAX_NAME} characters",
            )
        if len(self.cache) == 0:
            raise ValueRangeError(
                f"The actor {self.name!r} has no points",
                fix="Check its mask: it must be white on the thing, where depth is known",
            )
        if self.cache.actors:
            raise ValueRangeError(f"The actor {self.name!r} holds actors itself")
        if self.behaviour is Behaviour.PATH and self.path is None:
            raise ValueRangeError(
                f"The actor {self.name!r} has no path to follow",
                fix="Give a path, or choose another behaviour",
            )

    def __len__(self) -> int:
        return len(self.cache)

    @property
    def nbytes(self) -> int:
        """Bytes held by points, track and path."""
        path = 0 if self.path is None else self.path.nbytes
        return self.cache.nbytes + self.track.nbytes + path

    @property
    def size(self) -> tuple[float, float, float]:
        """Width, height above the ground and length in scene units, a few stray points left out."""
        points = torch.cat([block.points for block in self.cache.blocks]).double().cpu()
        points = points[:: max(1, len(points) // _MEASURED)]
        ends = torch.tensor([_OUTLIERS, 1 - _OUTLIERS], dtype=torch.float64)
        low, high = torch.quantile(points, ends, dim=0)
        return float(high[0] - low[0]), float(-low[1]), float(high[2] - low[2])

    @property
    def one_sided(self) -> bool:
        """Whether it was seen in a single frame."""
        return sum(len(block.frames) for block in self.cache.blocks) == 1

    def appearance(self) -> Tensor:
        """(C,) float32 mean of its tokens or colours: what it is recognised by."""
        values = torch.cat([block.values for block in self.cache.blocks])
        return values.float().mean(dim=0).cpu()

    def poses(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Where it is at frames (F,) of the shot.

        Returns:
            (F,) bool, whether it is anywhere, and (F, 4, 4) float64 actor_to_world.
        """
        shown = torch.ones(len(frames), dtype=torch.bool)
        track = self.track
        if self.behaviour is Behaviour.PATH and self.path is not None:
            track = self.path
            places = track.at(frames)
        elif self.behaviour is Behaviour.GO_ON and not self.gone:
            places = track.going_on(frames)
        else:
            places = track.at(frames)
            if self.behaviour is Behaviour.FORGET or self.gone:
                shown = track.seen_at(frames)
        return shown, track.poses(*places)

    def pose(self, frame: int) -> Tensor | None:
        """(4, 4) float64 actor_to_world at a frame of the shot; None where it is nowhere."""
        shown, poses = self.poses(torch.tensor([frame]))
        return poses[0] if bool(shown[0]) else None

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Actor:
        """The actor with points on another device, or tokens of another type."""
        return dataclasses.replace(self, cache=self.cache.to(device, dtype))

    def directed(self, behaviour: Behaviour, path: Track | None = None) -> Actor:
        """The same actor that does something else when nobody looks."""
        path = self.path if path is None else path
        return dataclasses.replace(self, behaviour=behaviour, path=path)

    def scaled(self, scale: float) -> Actor:
        """The same actor ``scale`` times as large, at the same places."""
        blocks = []
        for block in self.cache.blocks:
            cameras = block.world_to_camera.clone()
            cameras[:, :3, 3] *= scale
            blocks.append(
                dataclasses.replace(
                    block,
                    points=block.points * scale,
                    world_to_camera=cameras,
                    bounds=torch.empty(0),
                )
            )
        return dataclasses.replace(
            self, cache=dataclasses.replace(self.cache, blocks=tuple(blocks))
        )


def placed_blocks(actor: Actor, actor_to_world: Tensor) -> tuple[CacheBlock, ...]:
    """An actor's blocks in the world, as if it were a still thing that stands there.

    Args:
        actor: The actor.
        actor_to_world: (4, 4) pose, such as of `Actor.pose`.
    """
    back = invert_rigid(actor_to_world.double())
    return tuple(
        dataclasses.replace(
            block,
            points=in_world(block.points, actor_to_world).float(),
            world_to_camera=block.world_to_camera @ back,
            bounds=torch.empty(0),
        )
        for block in actor.cache.blocks
    )


def cameras_of(actor_to_world: Tensor, world_to_camera: Tensor) -> Tensor:
    """(F, 4, 4) cameras as they stand in an actor's frame: from it to the camera."""
    return world_to_camera.double() @ actor_to_world.double()


def in_world(points: Tensor, actor_to_world: Tensor) -> Tensor:
    """(N, 3) float64 points of an actor's frame, in the world."""
    pose = actor_to_world.to(points.device)
    return points.double() @ pose[:3, :3].T + pose[:3, 3]


def in_actor(points: Tensor, actor_to_world: Tensor) -> Tensor:
    """(N, 3) float64 points of the world, in an actor's frame."""
    return in_world(points, invert_rigid(actor_to_world.double()))


def expect_cast(cache: LatentCache, actors: tuple[Actor, ...]) -> None:
    """Raise unless actors fit into a memory.

    Raises:
        ModelMismatchError: An actor holds what the memory does not, such as tokens among colours.
        ValueRangeError: There are too many of them.
    """
    if len(actors) > MAX_ACTORS:
        raise ValueRangeError(
            "The memory has too many actors", got=len(actors), expected=f"at most {MAX_ACTORS}"
        )
    own = (cache.codec, cache.channels, cache.convention)
    for actor in actors:
        its = actor.cache
        if (its.codec, its.channels, its.convention) != own:
            raise ModelMismatchError(
                f"The actor {actor.name!r} does not fit the memory",
                got=f"an actor of {its.kind.value}, {its.codec!r}, {its.convention.value}",
                expected=f"{cache.kind.value}, {cache.codec!r}, {cache.convention.value}",
                fix="Make the actor with the same VAE, the same kind of memory and the same pixel "
                "convention as the set",
            )
