"""Making actors: the track of what a mask follows, and its points in its own frame."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from ..cache.actor import Actor, cameras_of
from ..cache.build import Observation, WriteConfig, observe
from ..cache.track import Behaviour, Track, heading_of
from ..cache.types import LatentCache
from ..constants import TEMPORAL_STRIDE
from ..errors import ShapeError
from ..geometry.camera import project, projection_matrices
from ..geometry.depth import valid_depth
from ..geometry.frame_geometry import FrameGeometry
from ..validate import expect_range, expect_shape
from ..writing.novelty import NoveltyRule
from ..writing.policy import WriteRules, write
from .ground import Ground
from .sight import Sights, locate

STRAIGHT: Final = 0.9
"""A way whose ends are so much of its length apart is straight, and what goes it faces ahead."""

MOVED: Final = 0.25
"""What went less far than this share of its width stood still."""

AGREED: Final = 0.5
"""Part of an actor's points that its sights have to agree on for the others to be left out."""

_BEHIND: Final = 20.0
"""How many times the thing's size behind it everything else is put, so that cells on its outline
are cut out; such points are dropped."""


@dataclass(frozen=True)
class ActorConfig:
    """How actors are made.

    Attributes:
        turns: It faces where it goes. Off, it keeps one heading, as what glides.
        smooth: Frames over which places are smoothed, as a standard deviation.
        views: Most frames of one look from which points are taken.
        write: How depth becomes points.

    Raises:
        ValueRangeError: A number is out of range.
    """

    turns: bool = True
    smooth: float = 3.0
    views: int = 8
    write: WriteConfig = field(default_factory=lambda: WriteConfig(drop_flying=False))

    def __post_init__(self) -> None:
        expect_range("The smoothing of the track", self.smooth, 0, 1000)
        expect_range("The most views of an actor", self.views, 1, 1000)


@dataclass(frozen=True, eq=False)
class Look:
    """Frames in which something moves, with what is needed to remember it.

    Attributes:
        tokens: (C, F, h, w) model-space latents of the frames, each encoded alone; or colours.
        geometry: Their depth.
        world_to_camera: (F, 4, 4) float64.
        frames: (F,) int64 frames of the shot, rising.

    Raises:
        ShapeError: The numbers of frames differ.
    """

    tokens: Tensor
    geometry: FrameGeometry
    world_to_camera: Tensor
    frames: Tensor

    def __post_init__(self) -> None:
        count = expect_shape("The actor's frames", self.tokens, "C F h w")["F"]
        expect_shape("The actor's cameras", self.world_to_camera, "F 4 4", F=count)
        expect_shape("The actor's frame numbers", self.frames, "F", F=count)
        if len(self.geometry) != count:
            raise ShapeError(
                "The actor's pictures and their depth have different numbers of frames",
                got=f"{count} pictures, {len(self.geometry)} depth maps",
                expected="one depth map for each picture",
            )


@dataclass(frozen=True, eq=False)
class MadeActor:
    """An actor, and what was noticed while it was made.

    Attributes:
        actor: The actor.
        notes: Sentences for people.
    """

    actor: Actor
    notes: tuple[str, ...]


def make_actor(
    name: str,
    look: Look,
    mask: Tensor,
    like: LatentCache,
    ground: Ground,
    config: ActorConfig | None = None,
    *,
    ids: tuple[int, ...] = (),
    behaviour: Behaviour = Behaviour.STAY,
) -> MadeActor:
    """An actor of what a mask follows through frames.

    Args:
        name: What it is called.
        look: The frames.
        mask: (F, H, W) bool on the depth's pixels, see `mirage_core.actors.sight.on_depth`.
        like: A memory of the same kind, with or without points; only its settings count.
        ground: What it stands on.
        config: How it is made.
        ids: Numbers that a tracker gave it.
        behaviour: What it does when nobody looks.

    Raises:
        GeometryError: No frame shows it.
        ValueRangeError: Nothing of it can be remembered.
    """
    config = config or ActorConfig()
    sights = locate(look.geometry, look.world_to_camera, mask, ground)
    track = track_of(sights, look.frames, ground, config)
    empty = LatentCache((), like.convention, like.codec, like.channels)
    points = write_sights(empty, look, mask, sights, track, config)
    actor = Actor(name, points, track, behaviour, ids=ids)
    return MadeActor(actor, (ground.describe(), *notes_of(sights, look.frames)))


def notes_of(sights: Sights, frames: Tensor) -> tuple[str, ...]:
    """What is worth saying of sights."""
    notes = []
    if sights.dropped:
        left_out = ", ".join(str(int(frames[row])) for row in sights.dropped[:16])
        notes.append(f"its mask is of something else in frames {left_out}: left out")
    cut = int((~sights.whole).sum())
    if cut:
        notes.append(f"the picture's edge cuts it in {cut} of {len(sights)} frames")
    gaps = frames[sights.rows].diff()
    usual = int(frames.diff().median()) if len(frames) > 1 else 1
    lost = int((gaps > max(usual, TEMPORAL_STRIDE)).sum())
    if lost:
        notes.append(f"its track has {lost} gaps, over which it goes straight on")
    return tuple(notes)


def track_of(
    sights: Sights,
    frames: Tensor,
    ground: Ground,
    config: ActorConfig,
    heading: float | None = None,
) -> Track:
    """The smoothed track of what was seen.

    Sights that the picture's edge cuts say little of where its middle is: they count only where
    there are no others.

    Args:
        sights: Where it was seen.
        frames: (F,) frames of the shot that ``sights.rows`` count.
        ground: What it stands on.
        config: How much to smooth, and whether it turns.
        heading: How it was headed before; where it came from nowhere, to the camera.
    """
    used = sights.only(sights.whole) if bool(sights.whole.any()) else sights
    times = frames[used.rows].double()
    places = ground.under(smoothed(times, used.positions, config.smooth))
    width = float(used.sizes[:, 0].median())
    before = heading
    if before is None:
        before = float(heading_of(used.toward[:1], ground.up)[0])
    ways = places.diff(dim=0)
    length = float(ways.norm(dim=1).sum())
    apart = float((places[-1] - places[0]).norm())
    known = heading is not None and not config.turns
    if apart > MOVED * width and apart > STRAIGHT * length and not known:
        before = float(heading_of((places[-1] - places[0])[None], ground.up)[0])
        headings = torch.full_like(times, before)
    elif config.turns and length > MOVED * width and len(places) > 1:
        headings = _facing_ahead(ways, width, before, ground.up)
    else:
        headings = torch.full_like(times, before)
    return Track(frames[used.rows], places, headings, ground.up)


def smoothed(times: Tensor, values: Tensor, deviation: float) -> Tensor:
    """Values (K, D) at times (K,) by straight lines through what is near in time.

    Straight ways at any speed stay as they are. The weights' width is ``deviation``, and at least
    one and a half of the usual step.
    """
    if len(times) < 3 or deviation == 0:  # noqa: PLR2004
        return values
    width = max(deviation, 1.5 * float(times.diff().median()))
    apart = times[None, :] - times[:, None]
    weight = torch.exp(-0.5 * (apart / width).square())
    total = weight.sum(dim=1, keepdim=True)
    middle = (weight * apart).sum(dim=1, keepdim=True) / total
    mean = weight @ values / total
    beside = apart - middle
    spread = (weight * beside.square()).sum(dim=1, keepdim=True).clamp_min(1e-12)
    slope = (weight * beside) @ values / spread
    return mean - slope * middle


def _facing_ahead(ways: Tensor, width: float, before: float, up: Tensor) -> Tensor:
    """(K,) headings along steps (K - 1, 3); where it hardly moves it stays as it was headed."""
    steps = torch.cat([ways[:1], (ways[1:] + ways[:-1]) / 2, ways[-1:]])
    wanted = heading_of(steps, up)
    moving = steps.norm(dim=1) > MOVED * width / max(4, len(steps))
    headings = torch.full((len(steps),), before, dtype=torch.float64)
    first = int(moving.nonzero()[0, 0]) if bool(moving.any()) else 0
    last = float(wanted[first]) if bool(moving.any()) else before
    for number in range(len(steps)):
        last = float(wanted[number]) if bool(moving[number]) else last
        headings[number] = last
    return headings


def write_sights(
    cache: LatentCache,
    look: Look,
    mask: Tensor,
    sights: Sights,
    track: Track,
    config: ActorConfig,
) -> LatentCache:
    """An actor's points with what a look adds to them; the best view of each place is kept.

    Args:
        cache: The points so far, in the actor's frame.
        look: The frames.
        mask: (F, H, W) bool on the depth's pixels.
        sights: What the frames show of it.
        track: Where it was in them.
        config: How points are made.
    """
    rules = WriteRules("novelty", NoveltyRule(carve=0.0))
    size = float(sights.sizes.max())
    for number in _chosen(sights, config.views):
        row = int(sights.rows[number])
        seen = _observed(cache, look, mask[row], sights, number, track, config)
        if bool((seen.depth > 0).any()):
            cache = _without_far(write(cache, seen, rules), _BEHIND / 2 * size)
    return without_fringe(cache, look, mask, sights, track)


def _chosen(sights: Sights, most: int) -> list[int]:
    """Numbers of the sights to take points from: whole ones, large ones first, then spread out."""
    usable = sights.whole.nonzero()[:, 0] if bool(sights.whole.any()) else torch.arange(len(sights))
    # What is near is seen finest.
    first = int(usable[sights.nearest[usable].argmin()])
    spread = torch.linspace(0, len(usable) - 1, min(most, len(usable))).round().long()
    return [first, *(int(n) for n in usable[spread] if int(n) != first)][:most]


def _observed(
    cache: LatentCache,
    look: Look,
    marked: Tensor,
    sights: Sights,
    number: int,
    track: Track,
    config: ActorConfig,
) -> Observation:
    """One frame's sight of an actor, from a camera that stands in the actor's frame."""
    row = int(sights.rows[number])
    near, far = float(sights.nearest[number]), float(sights.farthest[number])
    size = float(sights.sizes.max())
    one = look.geometry.select([row])
    depth = one.depth[0]
    own = marked & (depth >= near) & (depth <= far)
    # Depth bleeds at outlines: what lies off the thing is brought to its middle.
    depth = torch.where(own, depth, depth[own].median())
    outside = far + _BEHIND * size
    pose = track.poses(*track.at(look.frames[[row]]))
    seen = observe(
        look.tokens[:, [row]],
        dataclasses.replace(
            one,
            depth=torch.where(marked, depth, outside)[None],
            world_to_camera=None,
            exclude=None,
        ),
        world_to_camera=cameras_of(pose, look.world_to_camera[[row]]),
        frames=look.frames[[row]],
        convention=cache.convention,
        config=config.write,
        allow_empty=True,
    )
    limit = far + _BEHIND / 2 * size
    return dataclasses.replace(seen, depth=torch.where(seen.depth > limit, 0.0, seen.depth))


def _without_far(cache: LatentCache, reach: float) -> LatentCache:
    """The points within reach of the actor's origin: the far parts of its outline's cells go."""
    blocks = []
    for block in cache.blocks:
        near = block.points.norm(dim=1) <= reach
        blocks.append(block if bool(near.all()) else block.take(near))
    return dataclasses.replace(cache, blocks=tuple(block for block in blocks if len(block)))



def without_fringe(
    cache: LatentCache, look: Look, mask: Tensor, sights: Sights, track: Track
) -> LatentCache:
    """An actor's points without those of a look that most of its sights see beside it.

    Places are known to about a pixel, so the outlines of several views do not meet. All of them
    together would be wider than the thing; what most of them agree on is not.

    Args:
        cache: The points, in the actor's frame.
        look: The frames that the latest points are of; what came before stays as it is.
        mask: (F, H, W) bool on the depth's pixels.
        sights: What the frames show of it.
        track: Where it was in them.
    """
    poses = cameras_of(
        track.poses(*track.at(look.frames[sights.rows])), look.world_to_camera[sights.rows]
    )
    blocks = []
    for block in cache.blocks:
        new = torch.isin(block.frames.cpu(), look.frames.cpu())[block.source.cpu().long()]
        beside = _beside(block.points, poses, look.geometry, mask, sights)
        keep = ~(beside & new.to(beside.device))
        blocks.append(block if bool(keep.all()) else block.take(keep))
    kept = dataclasses.replace(cache, blocks=tuple(block for block in blocks if len(block)))
    # Where most of it would go, it is its heading that is wrong, and not its outline.
    return kept if len(kept) > AGREED * len(cache) else cache


def _beside(
    points: Tensor, poses: Tensor, geometry: FrameGeometry, mask: Tensor, sights: Sights
) -> Tensor:
    """(N,) bool: points (N, 3) that more of some sights show beside a thing than on it."""
    height, width = geometry.size
    matrices = projection_matrices(poses, geometry.intrinsics[sights.rows]).to(points.device)
    votes = torch.zeros(len(points), dtype=torch.int32, device=points.device)
    for row, matrix, nearest in zip(
        sights.rows.tolist(), matrices, sights.nearest.tolist(), strict=True
    ):
        x, y, z = project(points, matrix)
        column, line = (x / z).floor(), (y / z).floor()
        inside = (z > 0) & (column >= 0) & (column < width) & (line >= 0) & (line < height)
        place = torch.where(inside, line * width + column, 0.0).long()
        marked = mask[row].flatten().to(points.device)[place]
        depth = geometry.depth[row].flatten().to(points.device)[place]
        # What stands before it hides whether it is there.
        hidden = valid_depth(depth) & (depth < nearest)
        votes += (inside & ~marked & ~hidden).int() - (inside & marked).int()
    return votes > 0
