"""Actors from real footage: people before a fixed camera are remembered, not looked at, and known.

``python benchmarks/people.py vtest.avi`` (of Debian's package opencv-doc). What differs from the
median picture is in view; connected parts that overlap from frame to frame are one track. The
camera is assumed: `HEIGHT` metres above a flat ground, `PITCH` down, `FOV` wide; each person stands
upright where the mask ends below. Three people who are in view all along are written to actors in
the first frames, then nobody looks, then they are in view again with new numbers. Prints one JSON
object; ``--picture FILE`` shows the last frame: as it is, forgotten, and with the actors going on.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from datetime import date
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from readout_cpu import processor
from scipy.ndimage import binary_closing, binary_opening, find_objects, label
from torch import Tensor

from mirage_core.actors.build import Look
from mirage_core.actors.update import CastConfig, update_actors
from mirage_core.cache.track import Behaviour
from mirage_core.cache.types import LatentCache
from mirage_core.codecs.colours import ColourCodec
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import rigid, rotation_about
from mirage_core.masks.tracks import Tracks
from mirage_core.metrics import psnr
from mirage_core.preview.render import render_preview
from mirage_core.rollout.memory import begin_memory

SIZE: Final = (384, 288)
HEIGHT: Final = 6.0
PITCH: Final = math.radians(27)
FOV: Final = 48.0
DIFFERENT: Final = 30
"""Grey levels (of 255) from which on a pixel is none of the background's."""

LEAST: Final = 90
"""Pixels of the smallest person."""

OVERLAP: Final = 0.3
"""Part of the smaller of two masks that is in both of them when they are of one person."""

SEEN: Final = 13
"""Frames in view before nobody looks, and after."""


def read(path: Path, first: int, count: int) -> Tensor:
    """(F, H, W, 3) uint8 frames of a video."""
    import cv2

    video = cv2.VideoCapture(str(path))
    frames: list[Tensor] = []
    video.set(cv2.CAP_PROP_POS_FRAMES, first)
    while len(frames) < count:
        there, frame = video.read()
        if not there:
            raise SystemExit(f"{path} ends after {first + len(frames)} frames")
        small = cv2.resize(frame, SIZE, interpolation=cv2.INTER_AREA)
        frames.append(torch.from_numpy(small[..., ::-1].copy()))
    return torch.stack(frames)


def moving(frames: Tensor, still: Tensor) -> np.ndarray:
    """(F, H, W) bool, what differs from the background."""
    apart = (frames.int() - still.int()).abs().amax(dim=-1).numpy() > DIFFERENT
    cross = np.ones((1, 3, 3), dtype=bool)
    return binary_closing(binary_opening(apart, cross), np.ones((1, 9, 5), dtype=bool))


def follow(masks: np.ndarray) -> np.ndarray:
    """(F, H, W) int numbers of connected parts, the same while they overlap from frame to frame."""
    tracks, before, fresh = np.zeros(masks.shape, dtype=np.int32), None, 1
    for frame, mask in enumerate(masks):
        parts, _ = label(mask)
        taken: set[int] = set()
        for number, box in enumerate(find_objects(parts), start=1):
            part = parts == number
            if part[box].sum() < LEAST:
                continue
            known = _before(part, before, taken)
            tracks[frame][part] = known or fresh
            fresh += not known
            taken.add(known)
        before = tracks[frame]
    return tracks


def _before(part: np.ndarray, before: np.ndarray | None, taken: set[int]) -> int:
    """Which number a part had in the frame before; 0 for none."""
    if before is None:
        return 0
    counts = np.bincount(before[part])
    counts[0] = 0
    best = int(counts.argmax())
    smaller = min(int(part.sum()), int((before == best).sum()))
    return best if best and best not in taken and counts[best] > OVERLAP * smaller else 0


def depth_of(tracks: np.ndarray, cameras: Trajectory) -> Tensor:
    """(F, H, W) z-depth of the flat ground, and of upright people on it."""
    lens = cameras.intrinsics[0]
    line = torch.arange(cameras.height) + 0.5
    down = torch.atan2(line - lens[1, 2], lens[1, 1]) + PITCH
    ground = HEIGHT / torch.sin(down) * torch.cos(down - PITCH)
    depth = ground[None, :, None].expand(tracks.shape).clone().float()
    for frame, map_ in enumerate(tracks):
        for number in np.unique(map_[map_ > 0]):
            part = torch.from_numpy(map_ == number)
            depth[frame][part] = float(ground[int(part.any(dim=1).nonzero().max())])
    return depth


def look_of(frames: Tensor, depth: Tensor, cameras: Trajectory, rows: slice) -> Look:
    """Every frame of a stretch, as what actors are made from."""
    part = cameras.select(rows)
    geometry = FrameGeometry(depth[rows], part.intrinsics, part.world_to_camera)
    tokens = ColourCodec().encode_images(frames[rows] / 255)
    return Look(tokens, geometry, part.world_to_camera, part.frame_numbers)


def measure(frames: Tensor, away: int) -> tuple[dict[str, Any], Tensor]:
    """What becomes of the three largest people who are in view from the first to the last frame."""
    still = frames.median(dim=0).values
    tracks = follow(moving(frames, still))
    numbers = set.intersection(*(set(np.unique(tracks[n]).tolist()) for n in (0, SEEN, -1))) - {0}
    largest = sorted(numbers, key=lambda n: -int((tracks == n).sum()))[:3]
    poses = rigid(rotation_about("x", torch.tensor(PITCH)).double(), torch.zeros(3).double())
    cameras = Trajectory(
        poses.expand(len(frames), 4, 4),
        intrinsics_from_fov(*SIZE, FOV).repeat(len(frames), 1, 1),
        *SIZE,
    )
    depth = depth_of(tracks, cameras)
    codec = ColourCodec()
    empty = depth_of(np.zeros_like(tracks[:1]), cameras)
    cache = begin_memory(
        codec.encode_images(still[None] / 255),
        FrameGeometry(empty, cameras.intrinsics[:1], cameras.world_to_camera[:1]),
        codec.name,
    )
    names = dict.fromkeys(largest, "person")
    chosen = torch.from_numpy(np.where(np.isin(tracks, largest), tracks, 0))
    cast = CastConfig(behaviour=Behaviour.GO_ON)
    first, last = slice(0, SEEN), slice(SEEN + away, 2 * SEEN + away)
    seen = update_actors(
        cache, look_of(frames, depth, cameras, first), Tracks(chosen[first], names), cast
    )
    # The tracker begins anew: other numbers, in another order.
    order = {number: 100 - place for place, number in enumerate(largest)}
    anew = chosen[last].clone()
    for number, new in order.items():
        anew[chosen[last] == number] = new
    again = update_actors(
        seen.cache, look_of(frames, depth, cameras, last),
        Tracks(anew, dict.fromkeys(order.values(), "person")), cast,
    )  # fmt: skip
    figures = compared(seen.cache, cache, frames[last], chosen[last] > 0, cameras.select(last))
    return {
        "people": len(largest),
        "actors": len(seen.cache.actors),
        "sizes": [[round(side, 2) for side in one.size] for one in seen.cache.actors],
        "returns": len(again.report.back),
        "doubles": len(again.cache.actors) - len(seen.cache.actors),
        "report": again.report.describe(),
    } | figures[0], figures[1]


def compared(
    cache: LatentCache, still: LatentCache, truth: Tensor, mask: Tensor, cameras: Trajectory
) -> tuple[dict[str, Any], Tensor]:
    """PSNR of people and silhouettes in frames nobody looked at, and the first of these frames."""
    true, codec = truth / 255, ColourCodec()
    drawn, plain = (render_preview(one, cameras, codec) for one in (cache, still))
    mine = torch.zeros_like(mask) if drawn.actor is None else drawn.actor >= 0
    return {
        "go_on": round(psnr(drawn.frames, true, mask), 2),
        "forget": round(psnr(plain.frames, true, mask), 2),
        "overlap": round(float((mine & mask).sum() / (mine | mask).sum()), 3),
    }, torch.cat([true[0], plain.frames[0], drawn.frames[0]], dim=1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video", type=Path)
    parser.add_argument("--first", type=int, default=0, help="frame of the video")
    parser.add_argument("--away", type=int, default=8, help="frames in which nobody looks")
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    if not asked.video.exists():
        sys.stderr.write(f"skipped: {asked.video} is not there (Debian's package opencv-doc)\n")
        return
    found, picture = measure(read(asked.video, asked.first, 2 * SEEN + asked.away), asked.away)
    head = {
        "program": "benchmarks/people.py",
        "date": date.today().isoformat(),
        "machine": processor(),
        "video": asked.video.name,
        "first": asked.first,
        "away": asked.away,
    }
    print(json.dumps(head | found, indent=1))
    if asked.picture:
        Image.fromarray((picture.clamp(0, 1) * 255).round().byte().numpy()).save(asked.picture)


if __name__ == "__main__":
    main()
