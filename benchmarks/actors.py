"""Actors: what is seen of a mover when a camera comes back to it, by what it does unseen.

In each procedural room something moves. A camera looks at it, turns away, and comes back. Prints
one JSON object: on the mover's pixels PSNR against the truth and overlap of its silhouette, on
the set's pixels PSNR, for each behaviour; ghosts, the actor's points that were left in the set;
and for three movers in a room how often each is known again. Movers go straight on; with
``--turning`` they turn back on their way.

``--rooms 20 --frames 97 193`` is the whole of it. ``--save FILE`` keeps the report, room by room:
the same command goes on where it was stopped, so remove the file after a change of the code.
``--picture FILE`` has the truth beside the behaviours for the last room. ``--model`` makes the same
shots with the bundled model (of 320 x 192, with tokens), and by it with the memory drawn over.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import statistics
import sys
from datetime import date
from pathlib import Path
from typing import Any, Final

import torch
from _actor_shots import made_shots
from PIL import Image
from readout_cpu import processor
from torch import Tensor

from mirage_core.actors.build import ActorConfig, Look, make_actor
from mirage_core.actors.ground import ground_of
from mirage_core.actors.sight import on_depth
from mirage_core.actors.update import CastConfig, update_actors
from mirage_core.cache.actor import Actor
from mirage_core.cache.track import Behaviour, Track
from mirage_core.cache.types import LatentCache
from mirage_core.codecs.colours import ColourCodec
from mirage_core.codecs.dct import DctCodec
from mirage_core.errors import GeometryError
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid, rigid, rotation_about
from mirage_core.masks.tracks import Tracks
from mirage_core.metrics import psnr
from mirage_core.preview.render import render_preview
from mirage_core.rollout.memory import begin_memory
from mirage_core.scenes.movers import Mover, MovingScene, add_movers
from mirage_core.scenes.scene import ProceduralScene

FIRST_ROOM: Final = 9000
CODECS: Final = {"tokens": DctCodec(), "colours": ColourCodec()}
LOOK: Final = 25
"""Frames for which the camera looks before it turns away, and after it is back."""

STEP: Final = 4
AWAY: Final = math.radians(100)
SAME: Final = ("machine", "torch", "what", "size", "turning", "model")
"""What rooms of one report have in common."""

COVERED: Final = 0.9
"""Part of its way that a mover which goes straight on has gone at the end."""


def turning_away(scene: ProceduralScene, frames: int, size: tuple[int, int]) -> Trajectory:
    """Cameras that look, turn away by `AWAY`, and come back."""
    away = frames - 2 * LOOK
    share = torch.cat(
        [
            torch.zeros(LOOK),
            torch.sin(torch.linspace(0, math.pi, away + 2)[1:-1]).clamp(max=0.6) / 0.6,
            torch.zeros(LOOK),
        ]
    ).double()
    start = scene.start_camera_to_world
    turn = start[:3, :3] @ rotation_about("y", AWAY * share)
    poses = rigid(turn, start[:3, 3].expand(frames, 3))
    lens = intrinsics_from_fov(size[0], size[1], 70.0).repeat(frames, 1, 1)
    return Trajectory(invert_rigid(poses), lens, *size)


def straight(mover: Mover, seconds: float) -> Mover:
    """The mover at a speed at which it does not turn back within a time."""
    return dataclasses.replace(
        mover, speed=COVERED * math.dist(mover.start, mover.end) / seconds
    )


def scene_of(
    seed: int, count: int, frames: int, size: tuple[int, int], turning: bool
) -> tuple[MovingScene, Trajectory]:
    """A room with movers, and the cameras."""
    room = ProceduralScene.from_seed(seed, texture_size=256)
    cameras = turning_away(room, frames, size)
    scene = add_movers(room, seed, count, cameras.select([0]))
    if turning:
        return scene, cameras
    seconds = frames / cameras.fps
    return dataclasses.replace(
        scene, movers=tuple(straight(one, seconds) for one in scene.movers)
    ), cameras


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
    """Some frames of a room: pictures, depth, movers by pixel, cameras."""

    pictures: Tensor
    depth: Tensor
    which: Tensor
    cameras: Trajectory

    @classmethod
    def of(cls, scene: MovingScene, cameras: Trajectory, rows: list[int]) -> Seen:
        """Render frames one by one: each shows its own time."""
        parts = [scene.render_each(cameras.select([row]), row) for row in rows]
        pictures, depth, which = (torch.cat(part) for part in zip(*parts, strict=True))
        return cls(pictures, depth, which, cameras.select(rows))

    @property
    def geometry(self) -> FrameGeometry:
        """Their depth."""
        return FrameGeometry(self.depth, self.cameras.intrinsics, self.cameras.world_to_camera)

    def look(self, codec: Any) -> Look:
        """As what actors are made from."""
        tokens = codec.encode_images(self.pictures)
        return Look(
            tokens, self.geometry, self.cameras.world_to_camera, self.cameras.frame_numbers
        )

    def tracks(self, name: str = "thing") -> Tracks:
        """A tracker's answer, all things called the same."""
        numbers = {n + 1: name for n in range(int(self.which.max()) + 1)}
        return Tracks(self.which.int() + 1, numbers)


def set_memory(seen: Seen, codec: Any) -> LatentCache:
    """The memory of the first frame without what moves, seen from behind the masks."""
    first = dataclasses.replace(
        FrameGeometry(
            seen.depth[:1], seen.cameras.intrinsics[:1], seen.cameras.world_to_camera[:1]
        ),
        exclude=seen.which[:1] >= 0,
    )
    return begin_memory(codec.encode_images(seen.pictures[:1]), first, codec.name)


def ghosts(cache: LatentCache, mover: Mover) -> float:
    """Share of the set's points that lie on the mover where it stood at first."""
    points = torch.cat([block.points for block in cache.blocks])
    low, high = mover.solid(0).low, mover.solid(0).high
    # What stands on the floor beside it is no ghost.
    inside = ((points > torch.tensor(low)) & (points < torch.tensor(high)))[:, [0, 2]].all(1)
    above = (points[:, 1] < high[1] - 0.05) & (points[:, 1] > low[1])
    return float((inside & above).float().mean())


def behaviours(actor: Actor, mover: Mover, frames: int, fps: float) -> dict[str, Actor]:
    """The actor with each behaviour; its path is the true one."""
    places = torch.tensor([mover.centre(frame / fps) for frame in range(frames)])
    places[:, 1] = 0
    turned = actor.track.headings[-1].expand(frames)
    path = Track(torch.arange(frames), places, turned, actor.track.up)
    return {
        "forget": actor.directed(Behaviour.FORGET),
        "stay": actor.directed(Behaviour.STAY),
        "go_on": actor.directed(Behaviour.GO_ON),
        "path": actor.directed(Behaviour.PATH, path),
    }


def measure(
    seed: int, frames: int, codec: Any, size: tuple[int, int], turning: bool
) -> tuple[dict[str, Any], Tensor]:
    """One room: each behaviour's figures, and pictures of the last frame beside each other."""
    scene, cameras = scene_of(seed, 1, frames, size, turning)
    before = Seen.of(scene, cameras, list(range(0, LOOK, STEP)))
    after = Seen.of(scene, cameras, list(range(frames - LOOK, frames, STEP)))
    cache = set_memory(before, codec)
    mask = on_depth(before.which == 0, before.geometry)
    made = make_actor(
        "thing", before.look(codec), mask, cache, ground_of(cache), ActorConfig(turns=not turning)
    )
    moving = after.which == 0
    if not bool(moving.any()):
        raise GeometryError("The mover is hidden or out of view at the end")
    found: dict[str, Any] = {"ghosts": ghosts(cache, scene.movers[0])}
    pictures = [after.pictures[-1]]
    for name, actor in behaviours(made.actor, scene.movers[0], frames, cameras.fps).items():
        drawn = render_preview(cache.with_actors([actor]), after.cameras, codec)
        mine = torch.zeros_like(moving) if drawn.actor is None else drawn.actor == 0
        found[name] = {
            "mover": psnr(drawn.frames, after.pictures, moving),
            "overlap": float((mine & moving).sum() / (mine | moving).sum().clamp_min(1)),
            "set": psnr(drawn.frames, after.pictures, ~moving & ~mine),
            "set_all": psnr(drawn.frames, after.pictures, ~moving),
        }
        pictures.append(drawn.frames[-1])
    return found, torch.cat(pictures, dim=1)


def modelled(
    seed: int, frames: int, codec: Any, size: tuple[int, int], turning: bool
) -> tuple[dict[str, Any], Tensor]:
    """One room's shots by the bundled model, as `measure` has them by the preview."""
    scene, cameras = scene_of(seed, 1, frames, size, turning)
    whole = Seen.of(scene, cameras, list(range(frames)))
    if not bool((whole.which[frames - LOOK :] == 0).any()):
        raise GeometryError("The mover is hidden or out of view at the end")
    before = Seen.of(scene, cameras, list(range(0, LOOK, STEP)))
    cache = set_memory(before, codec)
    mask = on_depth(before.which == 0, before.geometry)
    turns = ActorConfig(turns=not turning)
    made = make_actor("thing", before.look(codec), mask, cache, ground_of(cache), turns)
    cast = behaviours(made.actor, scene.movers[0], frames, cameras.fps)
    truth = (whole.pictures, whole.depth, whole.which)
    found, last = made_shots(seed, truth, cameras, cast, slice(frames - LOOK, frames))
    return found, torch.cat([whole.pictures[-1], *last], dim=1)


def recognised(
    seed: int, frames: int, codec: Any, size: tuple[int, int], turning: bool
) -> dict[str, int]:
    """Three things of one name that leave the view and come back: who is known again."""
    scene, cameras = scene_of(seed, 3, frames, size, turning)
    before = Seen.of(scene, cameras, list(range(0, LOOK, STEP)))
    after = Seen.of(scene, cameras, list(range(frames - LOOK, frames, STEP)))
    cache = set_memory(before, codec)
    cast = CastConfig(behaviour=Behaviour.GO_ON)
    first = update_actors(cache, before.look(codec), before.tracks(), cast).cache
    # Numbers of a tracker that begins anew mean nothing: here they stand in another order.
    order = torch.tensor([0, 3, 1, 2])
    again = Tracks(order[after.tracks().map.long()].int(), {1: "thing", 2: "thing", 3: "thing"})
    second = update_actors(first, after.look(codec), again, cast).cache
    returns = right = 0
    for number in range(3):
        if not bool((after.which == number).any()):
            continue
        mover = scene.movers[number]
        early = _nearest(first, mover, 0)
        if early < 0:
            continue
        returns += 1
        late = _nearest(second, mover, (frames - 1) / cameras.fps, frames - LOOK)
        right += int(late == early)
    return {"returns": returns, "right": right, "doubles": len(second.actors) - len(first.actors)}


def _nearest(cache: LatentCache, mover: Mover, seconds: float, since: int = 0) -> int:
    """Which actor was seen where a mover was at a time."""
    place = torch.tensor(mover.centre(seconds))[[0, 2]]
    apart = []
    for actor in cache.actors:
        row = -1 if seconds else 0
        seen = int(actor.track.frames[row]) >= since
        way = (actor.track.positions[row][[0, 2]] - place).norm()
        apart.append(float(way) if seen else math.inf)
    best = min(range(len(apart)), key=lambda n: apart[n], default=-1)
    return best if best >= 0 and apart[best] < 0.5 else -1  # noqa: PLR2004


def table(rooms: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over rooms, and each behaviour less `forget`."""
    keys = ("mover", "overlap", "set", "set_all")
    found: dict[str, Any] = {"ghosts": statistics.mean(room["ghosts"] for room in rooms)}
    for name in ("forget", "stay", "go_on", "path"):
        found[name] = {key: statistics.mean(room[name][key] for room in rooms) for key in keys}
        found[name]["over_forget"] = found[name]["mover"] - found["forget"]["mover"]
        found[name]["wins"] = sum(r[name]["mover"] > r["forget"]["mover"] for r in rooms)
    return found


def model_table(rooms: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over rooms of the bundled model's shots, and each behaviour less `forget`."""
    found: dict[str, Any] = {}
    for name in ("forget", "stay", "go_on", "path"):
        for way in ("model", "drawn over"):
            cells = {
                key: statistics.mean(room[name][way][key] for room in rooms)
                for key in ("mover", "set")
            }
            plain = statistics.mean(room["forget"][way]["mover"] for room in rooms)
            found.setdefault(name, {})[way] = cells | {"over_forget": cells["mover"] - plain}
    return found


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rooms", type=int, default=3)
    parser.add_argument("--frames", type=int, nargs="+", default=[97])
    parser.add_argument("--what", choices=list(CODECS), default="colours")
    parser.add_argument("--size", type=int, nargs=2, default=[320, 192])
    parser.add_argument("--turning", action="store_true")
    parser.add_argument("--model", action="store_true")
    parser.add_argument("--first", type=int, default=FIRST_ROOM)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    if asked.model and (asked.what != "tokens" or asked.size != [320, 192]):
        parser.error("the bundled model needs --what tokens, and makes frames of 320 x 192")
    return asked


def opened(path: Path | None, head: dict[str, Any]) -> dict[str, Any]:
    """The report that a file has so far, if it is of the same settings; else a new one."""
    if path is None or not path.exists():
        return head
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    other = [key for key in SAME if kept.get(key, False) != head[key]]
    if other:
        raise SystemExit(f"{path} is of another {', '.join(other)}: choose another file")
    return kept


def save(path: Path | None, report: dict[str, Any]) -> None:
    """Write the report; a file that is there stays whole until the new one is."""
    if path is None:
        return
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    new.replace(path)


def room_of(
    seed: int, frames: int, asked: argparse.Namespace, codec: Any, size: tuple[int, int]
) -> dict[str, Any]:
    """All figures of one room, or why it has none."""
    try:
        if asked.model:
            room, picture = modelled(seed, frames, codec, size, asked.turning)
            known = {"returns": 0, "right": 0, "doubles": 0}
        else:
            room, picture = measure(seed, frames, codec, size, asked.turning)
            known = recognised(seed, frames, codec, size, asked.turning)
    except GeometryError as error:
        # A room without space for movers, or whose mover is never in view.
        return {"seed": seed, "without": error.what}
    if asked.picture:
        shown = (picture.clamp(0, 1) * 255).round().byte()
        Image.fromarray(shown.numpy()).save(asked.picture)
    return {"seed": seed, "figures": room, "recognition": known}


def summary(each: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the rooms that have figures."""
    rooms = [room for room in each if "figures" in room]
    figures = [room["figures"] for room in rooms]
    means = table(figures) if "ghosts" in figures[0] else model_table(figures)
    return means | {
        "rooms": len(rooms),
        "without": [f"{room['seed']}: {room['without']}" for room in each if "without" in room],
        "recognition": {
            key: sum(room["recognition"][key] for room in rooms)
            for key in ("returns", "right", "doubles")
        },
        "each": each,
    }


def main() -> None:
    """Measure and print; rooms that a saved report has are not measured again."""
    asked = arguments()
    codec, size = CODECS[asked.what], (asked.size[0], asked.size[1])
    report = opened(
        asked.save,
        {
            "program": "benchmarks/actors.py",
            "date": date.today().isoformat(),
            "machine": processor(),
            "torch": torch.__version__,
            "what": asked.what,
            "size": list(size),
            "turning": asked.turning,
            "model": asked.model,
        },
    )
    for frames in asked.frames:
        each: list[dict[str, Any]] = report.get(str(frames), {}).get("each", [])
        by_seed = {room["seed"]: room for room in each}
        each, done = [], 0
        for seed in itertools.count(asked.first):
            if done == asked.rooms:
                break
            fresh = seed not in by_seed
            room = room_of(seed, frames, asked, codec, size) if fresh else by_seed[seed]
            each.append(room)
            done += "figures" in room
            if fresh and done:
                report[str(frames)] = summary(each)
                save(asked.save, report)
                sys.stderr.write(f"{frames} frames: room {done} of {asked.rooms}\n")
        report[str(frames)] = summary(each)
    print(json.dumps(report, indent=1))
    save(asked.save, report)


if __name__ == "__main__":
    main()
