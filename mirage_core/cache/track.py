"""Where something is that moves: place and heading by frame, and where it is when nobody looks."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..errors import GeometryError, ValueRangeError
from ..geometry.transform import rigid
from ..validate import expect_finite, expect_shape

LAST_MOTION: Final = 16
"""Frames before it was lost from which the last motion of something is taken."""

DAMPING: Final = 480.0
"""Frames after which what goes on has lost all but 1/e of its speed."""

SHORT_GAP: Final = 8
"""Frames: a gap between two sights that is no longer is bridged, whatever the behaviour."""

UPRIGHT: Final = (0.0, -1.0, 0.0)
"""Up in a world that begins with a level camera: -y, as OpenCV's axes have it."""

_LEVEL: Final = 1e-6


class Behaviour(enum.Enum):
    """Where something is when nobody looks.

    Attributes:
        FORGET: Nowhere, as in the paper: shown only at the times at which it was seen.
        STAY: Where it was last.
        GO_ON: It keeps its last motion, damped, on its ground.
        PATH: On the path that was drawn for it, at all times.
    """

    FORGET = "forget"
    STAY = "stay"
    GO_ON = "go_on"
    PATH = "path"


@dataclass(frozen=True, eq=False)
class Track:
    """Places and headings of something on its ground.

    The heading is the direction of its front as seen from above: 0 is the world's z axis laid on
    the ground, a quarter turn is the world's x axis where up is -y.

    Attributes:
        frames: (K,) int64 frames of the shot, rising.
        positions: (K, 3) float64 points of the ground below it, in the world.
        headings: (K,) float64 radians; consecutive ones are brought within half a turn.
        up: (3,) float64 unit vector, away from the ground.

    Raises:
        ShapeError: The tensors do not have these shapes.
        ValueRangeError: There is no frame at all, or the frames do not rise.
        GeometryError: A number is not finite, or ``up`` has no direction.
    """

    frames: Tensor
    positions: Tensor
    headings: Tensor
    up: Tensor = field(default_factory=lambda: torch.tensor(UPRIGHT, dtype=torch.float64))

    def __post_init__(self) -> None:
        frames = self.frames.detach().cpu().long()
        for name in ("positions", "headings", "up"):
            object.__setattr__(self, name, getattr(self, name).detach().cpu().double())
        count = expect_shape("The track's frames", frames, "K")["K"]
        expect_shape("The track's places", self.positions, "K 3", K=count)
        expect_shape("The track's headings", self.headings, "K", K=count)
        expect_shape("The track's up", self.up, "3")
        if count == 0 or bool((frames[1:] <= frames[:-1]).any()):
            raise ValueRangeError(
                "The frames of a track do not rise",
                got=frames[:16].tolist(),
                expected="at least one frame, each later than the one before",
            )
        for name in ("positions", "headings", "up"):
            expect_finite(f"The track's {name}", getattr(self, name))
        if float(self.up.norm()) < _LEVEL:
            raise GeometryError("The track's up has no direction", got=self.up.tolist())
        object.__setattr__(self, "frames", frames)
        object.__setattr__(self, "up", normalize(self.up, dim=0))
        object.__setattr__(self, "headings", _unwrapped(self.headings))

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def nbytes(self) -> int:
        """Bytes held by the tensors."""
        return sum(part.numel() * part.element_size() for part in self.tensors.values())

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by the name of its field."""
        names = ("frames", "positions", "headings", "up")
        return {name: getattr(self, name) for name in names}

    def at(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Places (F, 3) and headings (F,) at frames (F,), the ends kept before and after."""
        wanted = frames.cpu().long().contiguous()
        later = torch.searchsorted(self.frames, wanted).clamp(1, max(1, len(self) - 1))
        if len(self) == 1:
            return self.positions.expand(len(wanted), 3), self.headings.expand(len(wanted))
        first, last = self.frames[later - 1], self.frames[later]
        share = ((wanted - first).double() / (last - first)).clamp(0, 1)
        return (
            torch.lerp(self.positions[later - 1], self.positions[later], share[:, None]),
            torch.lerp(self.headings[later - 1], self.headings[later], share),
        )

    def seen_at(self, frames: Tensor) -> Tensor:
        """(F,) bool: frames at which it was seen, or between two sights that lie close together."""
        wanted = frames.cpu().long().contiguous()
        after = torch.searchsorted(self.frames, wanted)
        exact = self.frames[after.clamp(max=len(self) - 1)] == wanted
        inside = (after > 0) & (after < len(self))
        gap = self.frames[after.clamp(max=len(self) - 1)] - self.frames[(after - 1).clamp_min(0)]
        return exact | (inside & (gap <= SHORT_GAP))

    def velocity(self) -> Tensor:
        """(3,) last motion along the ground, in scene units per frame; 0 for a single sight."""
        recent = self.frames >= self.frames[-1] - LAST_MOTION
        time = self.frames[recent].double()
        time = time - time.mean()
        spread = float(time.square().sum())
        if spread == 0:
            return torch.zeros(3, dtype=torch.float64)
        places = self.positions[recent]
        motion = (time[:, None] * (places - places.mean(dim=0))).sum(dim=0) / spread
        return motion - (motion @ self.up) * self.up

    def going_on(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """As `at`, but after the last sight it keeps its motion, less and less."""
        places, headings = self.at(frames)
        after = (frames.cpu() - self.frames[-1]).clamp_min(0).double()
        way = DAMPING * -torch.expm1(-after / DAMPING)
        return places + way[:, None] * self.velocity(), headings

    def poses(self, positions: Tensor, headings: Tensor) -> Tensor:
        """(F, 4, 4) actor_to_world: x to its right, y into the ground, z out of its front."""
        return rigid(heading_axes(headings, self.up), positions)

    def joined(self, other: Track) -> Track:
        """Both tracks in one; of a frame that both have, the other's counts."""
        keep = ~torch.isin(self.frames, other.frames)
        frames = torch.cat([self.frames[keep], other.frames])
        order = frames.argsort()
        return dataclasses.replace(
            self,
            frames=frames[order],
            positions=torch.cat([self.positions[keep], other.positions])[order],
            headings=torch.cat([self.headings[keep], other.headings])[order],
        )


def heading_axes(headings: Tensor, up: Tensor) -> Tensor:
    """(F, 3, 3) float64 axes, as columns, of things that stand upright and face headings (F,)."""
    down = -normalize(up.double(), dim=0)
    ahead, right = ground_axes(up)
    cos, sin = torch.cos(headings.double())[:, None], torch.sin(headings.double())[:, None]
    front = cos * ahead + sin * right
    across = torch.linalg.cross(down.expand_as(front), front)
    return torch.stack([across, down.expand_as(front), front], dim=-1)


def ground_axes(up: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors (3,) of the ground: the direction of heading 0, and that of a quarter turn."""
    down = -normalize(up.double(), dim=0)
    ahead = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    if float((ahead - (ahead @ down) * down).norm()) < 0.1:  # noqa: PLR2004
        # The world's z stands on the ground: y lies on it.
        ahead = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    ahead = normalize(ahead - (ahead @ down) * down, dim=0)
    return ahead, torch.linalg.cross(down, ahead)


def heading_of(direction: Tensor, up: Tensor) -> Tensor:
    """(F,) headings of directions (F, 3), whatever they have along ``up``."""
    ahead, right = ground_axes(up)
    return torch.atan2(direction.double() @ right, direction.double() @ ahead)


def _unwrapped(headings: Tensor) -> Tensor:
    """The same directions, each within half a turn of the one before."""
    turn = 2 * torch.pi
    steps = headings.diff()
    back = torch.round(steps / turn) * turn
    return torch.cat([headings[:1], headings[1:] - back.cumsum(0)])
