"""A real office, seen by a hand-held depth camera: what the memory shows, read in two ways.

Prints one JSON object and saves a sheet ``out/real.png``: for each frame the photograph, what a
memory of the other four shows of it, and what a memory of all five shows, each by the nearest
points and by the best views, of tokens and of colours.

``psnr`` counts all pixels that the memory shows, ``psnr_measured`` those of them at which the
frame's own depth is known: elsewhere the memory often shows what stands behind.

``python benchmarks/real.py FOLDER``; without FOLDER the variable MIRAGE_OFFICE names it, or the
frames lie in ``../shared/data/office_rgbd`` beside the checkout: five pictures ``color_1.png`` to
``color_5.png``, depth in millimetres as ``depth_1.png`` to ``depth_5.png``, and ``pose.txt`` with
a line for each camera, x y z and the quaternion x y z w, from camera to world.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from readout_cpu import processor
from scipy.spatial.transform import Rotation
from torch import Tensor

from mirage_core.cache.build import WriteConfig, observe
from mirage_core.cache.types import LatentCache
from mirage_core.codecs.colours import ColourCodec
from mirage_core.codecs.dct import DctCodec
from mirage_core.codecs.memory_kind import MemoryKind, memory_drawer
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory
from mirage_core.geometry.transform import invert_rigid
from mirage_core.metrics import psnr
from mirage_core.ops.best_view import BestView
from mirage_core.preview.render import render_preview
from mirage_core.readout.readout import grid_intrinsics, read_winners
from mirage_core.writing.policy import WRITE_POLICIES, write

FOCAL = (518.0, 519.0)
CENTRE = (325.5, 253.5)
"""Lens of the depth camera, in pixels of its pictures."""

FRAMES = 5
VIEWS: dict[str, BestView | None] = {"nearest": None, "best_view": BestView()}
CODEC = DctCodec()
Codec = DctCodec | ColourCodec
HELD: dict[str, Codec] = {
    "tokens": CODEC, "colours": ColourCodec(), "every second colour": ColourCodec(2),
}  # fmt: skip


@dataclass(frozen=True)
class Capture:
    """Pictures (F, H, W, 3) in 0..1, depth (F, H, W) in metres, and cameras."""

    pictures: Tensor
    depth: Tensor
    cameras: Trajectory

    def memory(
        self,
        frames: list[int],
        policy: str,
        codec: Codec,
        config: WriteConfig | None = None,
    ) -> LatentCache:
        """A memory of some frames, written one after the other."""
        chosen = self.cameras.select(frames)
        geometry = FrameGeometry(self.depth[frames], chosen.intrinsics)
        tokens = torch.cat([codec.encode_images(self.pictures[[n]]) for n in frames], dim=1)
        seen = observe(
            tokens, geometry, world_to_camera=chosen.world_to_camera,
            frames=torch.tensor(frames), config=config,
        )  # fmt: skip
        empty = LatentCache(codec=codec.name, channels=codec.channels)
        return write(empty, seen, policy)


def find_capture() -> Path | None:
    """The folder with the frames, or None."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "office_rgbd"
    folder = Path(os.environ.get("MIRAGE_OFFICE") or beside)
    return folder if (folder / "pose.txt").is_file() else None


def load_capture(folder: Path) -> Capture:
    """Read the five frames."""
    poses = torch.eye(4, dtype=torch.float64).repeat(FRAMES, 1, 1)
    lines = np.loadtxt(folder / "pose.txt")
    poses[:, :3, :3] = torch.from_numpy(Rotation.from_quat(lines[:, 3:]).as_matrix())
    poses[:, :3, 3] = torch.from_numpy(lines[:, :3])
    pictures, depth = [], []
    for number in range(1, FRAMES + 1):
        pictures.append(np.asarray(Image.open(folder / f"color_{number}.png").convert("RGB")))
        depth.append(np.asarray(Image.open(folder / f"depth_{number}.png")).astype(np.float32))
    height, width = depth[0].shape
    lens = torch.tensor(
        [[FOCAL[0], 0, CENTRE[0]], [0, FOCAL[1], CENTRE[1]], [0, 0, 1]], dtype=torch.float64
    )
    cameras = Trajectory(invert_rigid(poses), lens.repeat(FRAMES, 1, 1), width, height)
    return Capture(
        torch.from_numpy(np.stack(pictures)).float() / 255,
        torch.from_numpy(np.stack(depth)) / 1000,
        cameras,
    )


def shown(
    capture: Capture, cache: LatentCache, frame: int, view: BestView | None
) -> tuple[dict[str, float], Tensor]:
    """How well one frame is shown, as a picture and in whole cells; and the picture."""
    camera = capture.cameras.select([frame])
    drawn = render_preview(cache, camera, memory_drawer(cache.codec), view=view)
    picture, own = capture.pictures[[frame]], capture.depth[[frame]] > 0
    figures = {
        "psnr": psnr(drawn.frames, picture, ~drawn.holes),
        "psnr_measured": psnr(drawn.frames, picture, ~drawn.holes & own),
        "holes": float(drawn.holes.float().mean()),
        "points": float(len(cache)),
        "mebibytes": cache.nbytes / 2**20,
    }
    if cache.kind is MemoryKind.TOKENS:
        figures["token_error"] = token_error(capture, cache, frame, view)
    return figures, drawn.frames[0]


def token_error(
    capture: Capture, cache: LatentCache, frame: int, view: BestView | None
) -> float:
    """Mean square error of the tokens in whole cells that are seen."""
    camera = capture.cameras.select([frame])
    truth = CODEC.encode_images(capture.pictures[[frame]])[:, 0]
    size = (int(truth.shape[1]), int(truth.shape[2]))
    winner, _ = read_winners(
        cache, camera.world_to_camera, grid_intrinsics(camera, size), size,
        view=view, whole_cells=True,
    )  # fmt: skip
    tokens = cache.gather(winner, [block.tokens for block in cache.blocks])[0].float()
    return float((tokens.movedim(-1, 0) - truth).square().mean(dim=0)[winner[0] >= 0].mean())


def study(capture: Capture) -> tuple[dict[str, Any], dict[str, list[Tensor]]]:
    """Figures of every policy and view, and the pictures of the default policy."""
    report: dict[str, Any] = {}
    pictures: dict[str, list[Tensor]] = {"photograph": list(capture.pictures)}
    every = list(range(FRAMES))
    for policy, (what, codec) in itertools.product(WRITE_POLICIES, HELD.items()):
        whole = capture.memory(every, policy, codec)
        without = [
            capture.memory([n for n in every if n != left], policy, codec) for left in every
        ]
        for name, view in VIEWS.items():
            row: dict[str, Any] = {}
            for test, memories in (("leave_one_out", without), ("revisit", [whole] * FRAMES)):
                found = [shown(capture, memories[n], n, view) for n in every]
                row[test] = {
                    key: round(sum(figures[key] for figures, _ in found) / FRAMES, 4)
                    for key in found[0][0]
                }
                if policy == WRITE_POLICIES[0]:
                    pictures[f"{what}, {test}, {name}"] = [picture for _, picture in found]
            report[f"{policy}, {what}, {name}"] = row
    return report, pictures


def save_sheet(pictures: dict[str, list[Tensor]], path: Path) -> None:
    """One column a frame, one row a way; every second pixel."""
    rows = [torch.cat([p[::2, ::2] for p in frames], dim=1) for frames in pictures.values()]
    sheet = (torch.cat(rows).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=find_capture())
    parser.add_argument("--sheet", type=Path, default=Path("out/real.png"))
    given = parser.parse_args()
    if given.folder is None:
        print(json.dumps({"skipped": "needs the frames of office_rgbd; see --help"}))
        return 0
    torch.set_num_threads(1)
    since = time.perf_counter()
    report, pictures = study(load_capture(given.folder))
    save_sheet(pictures, given.sheet)
    print(
        json.dumps(
            {
                "machine": {"processor": processor(), "torch": torch.__version__, "threads": 1},
                "seconds": round(time.perf_counter() - since, 1),
                "rows_of_the_sheet": list(pictures),
                "ways": report,
            },
            indent=1,
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
