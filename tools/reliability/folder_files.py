"""Folders of masks, recordings and worlds, and settings of runs: what makes and reads them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import tomlkit
import torch
from PIL import Image

from mirage_core.actors.ground import Ground
from mirage_core.actors.place import parse_path
from mirage_core.cli.train import add_command, settings_of
from mirage_core.cli.train_file import with_file
from mirage_core.evaluation.rgbd_layouts import layout_of, read_recording
from mirage_core.evaluation.variations import read_variations
from mirage_core.evaluation.worldscore import PreparedFolder, to_blender
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory
from mirage_core.masks.folder import NAMES, find_masks
from reliability.kinds import HEIGHT, WIDTH, Format, move, pictures

COUNT: Final = 2
"""Frames of a recording and of a set of masks."""

DEEP: Final = np.full((HEIGHT, WIDTH), 2500, dtype=np.uint16)
"""A wall, in levels of a depth picture."""


LEVEL: Final = Ground(torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64), -1.0)


def _save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def _text(path: Path, *rows: Sequence[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(" ".join(map(str, row)) for row in rows) + "\n")
    return path


def _masks(folder: Path) -> list[Path]:
    moving = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    moving[8:24, 8:24] = 255
    tracks = Image.fromarray(moving // 255).convert("P")
    tracks.putpalette([0, 0, 0, 255, 0, 0])
    files = [_save(folder / f"moving.{n:04}.png", moving) for n in range(COUNT)]
    files += [_save(folder / "sky" / f"{n:04}.jpg", moving) for n in range(COUNT)]
    tracks.save(folder / "tracks.png")
    (folder / NAMES).write_text(json.dumps({"1": "dog"}))
    return [*files, folder / "tracks.png", folder / NAMES]


def _read_masks(path: Path) -> None:
    folder = path.parent.parent if path.parent.name == "sky" else path.parent
    masks = find_masks(folder)
    masks.expect_shot(COUNT, WIDTH, HEIGHT)
    masks(torch.zeros(COUNT, HEIGHT, WIDTH, 3), range(COUNT))


def _recordings(folder: Path) -> list[Path]:
    shown = (pictures(1)[0] * 255).byte().numpy()
    pose = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    tum, arkit, redwood = (folder / name for name in ("tum", "arkit", "redwood"))
    times = [100 + 0.1 * n for n in range(COUNT)]
    files = [
        _text(tum / "rgb.txt", *([t, f"rgb/{n}.png"] for n, t in enumerate(times))),
        _text(tum / "depth.txt", *([t, f"depth/{n}.png"] for n, t in enumerate(times))),
        _text(tum / "groundtruth.txt", *([t, *pose] for t in times)),
        _text(arkit / "lowres_wide.traj", *([t, *pose[:6]] for t in times)),
    ]
    rows: list[Sequence[object]] = []
    for n, time in enumerate(times):
        name = f"47_{time:.3f}"
        lens = [WIDTH, HEIGHT, 60.0, 60.0, 32.0, 32.0]
        files += [
            _save(tum / "rgb" / f"{n}.png", shown),
            _save(tum / "depth" / f"{n}.png", DEEP),
            _save(arkit / "lowres_wide" / f"{name}.png", shown),
            _save(arkit / "lowres_depth" / f"{name}.png", DEEP),
            _text(arkit / "lowres_wide_intrinsics" / f"{name}.pincam", lens),
            _save(redwood / "rgb" / f"{n:06}.jpg", shown),
            _save(redwood / "depth" / f"{n:06}.png", DEEP),
        ]
        rows += [[n, n, n + 1], *np.eye(4).tolist()]
    return [*files, _text(redwood / "trajectory.log", *rows)]


def _read_recording(path: Path) -> None:
    folder = next(place for place in path.parents if layout_of(place) is not None)
    recording = read_recording(folder)
    recording.sized(WIDTH, HEIGHT).select(range(len(recording)))


def _world(root: Path) -> list[Path]:
    folder = root / "world"
    folder.mkdir()
    shown = (pictures(1)[0] * 255).byte().numpy()
    image_data = {"prompt_list": ["a room"], "total_frames": 3}
    cameras = to_blender(move(3).world_to_camera)
    (folder / "image_data.json").write_text(json.dumps(image_data))
    (folder / "camera_data.json").write_text(
        json.dumps({"focal_length": 60, "cameras_interp": cameras})
    )
    files = [folder / "image_data.json", folder / "camera_data.json"]
    still = root / "still"
    _save(still / "input_image.png", shown)
    (still / "image_data.json").write_text(json.dumps(image_data))
    return [*files, still / "image_data.json", _save(folder / "input_image.png", shown)]


def _wall(frames: torch.Tensor, cameras: Trajectory) -> FrameGeometry:
    """Two units away, whatever is shown."""
    count, rows, columns = frames.shape[:3]
    lens = cameras.intrinsics[:1].repeat(count, 1, 1)
    return FrameGeometry(torch.full((count, rows, columns), 2.0), lens, None)


def _read_world(path: Path) -> None:
    worlds = PreparedFolder(path.parent.parent, WIDTH, HEIGHT, lambda: _wall)
    worlds.load(path.parent.name)


def _run_file(folder: Path) -> list[Path]:
    path = folder / "run.toml"
    content = {"data": str(folder), "out": "x", "steps": 10, "validation_size": "320x192"}
    path.write_text(tomlkit.dumps({**content, "learning_rate": 1e-4, "embedded_codec": True}))
    return [path]


def _read_run(path: Path) -> None:
    parser = argparse.ArgumentParser(prog="mirage")
    add_command(parser.add_subparsers(dest="command"))
    settings_of(with_file(parser, ["train"], path))


def _rows(folder: Path) -> list[Path]:
    path = folder / "rows.json"
    rows = {"latent": {}, "one stage": {"branch": "a.pt"}, "thin": {"memory": "colours", "step": 4}}
    path.write_text(json.dumps(rows))
    return [path]


def _path(folder: Path) -> list[Path]:
    path = folder / "path.json"
    keys: list[dict[str, object]] = [
        {"frame": 0, "place": [-1, 4], "heading": 90},
        {"frame": 48, "place": [1, 0, 4]},
        {"time": 4, "place": [1, 2.5]},
    ]
    path.write_text(json.dumps(keys))
    return [path]


FOLDER_FILES: Final[dict[str, Format]] = {
    "masks": Format(_masks, _read_masks),
    "recording": Format(_recordings, _read_recording),
    "world": Format(_world, _read_world),
    "run file": Format(_run_file, _read_run),
    "rows": Format(_rows, read_variations),
    "path": Format(_path, lambda path: parse_path(path.read_text(errors="replace"), LEVEL, 24)),
}
