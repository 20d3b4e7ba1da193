"""Camera moves of every format: small valid files, and what reads them."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch

from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.trajectories.exchange.formats import (
    COLMAP,
    GLTF,
    MIRAGE,
    REALESTATE,
    TRANSFORMS,
    export_trajectory,
    import_trajectory,
)
from mirage_core.trajectories.exchange.load3d import cameras_of_move, keyframes_of_cameras
from mirage_core.trajectories.keyframes import (
    keyframe_trajectory,
    keyframes_from_json,
    keyframes_to_json,
)
from reliability.kinds import HEIGHT, WIDTH, Format, move


def _camera_file(form: str, name: str) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        path = export_trajectory(move(3), folder / name, form)
        beside = [path.with_name("cameras.txt")] if form == COLMAP else []
        return [path, *beside]

    return make


def _gltf_json(folder: Path) -> list[Path]:
    """The same with its data inside of the text."""
    data = export_trajectory(move(3), folder / "a", GLTF).read_bytes()
    (length,) = struct.unpack_from("<I", data, 12)
    document = json.loads(data[20 : 20 + length])
    body = base64.b64encode(data[28 + length :]).decode()
    document["buffers"][0]["uri"] = f"data:application/octet-stream;base64,{body}"
    (folder / "a.gltf").write_text(json.dumps(document))
    return [folder / "a.gltf"]


def _read_move(path: Path) -> Trajectory:
    main = path.with_name("images.txt") if path.name == "cameras.txt" else path
    return import_trajectory(main, width=WIDTH, height=HEIGHT, fps=24)


def _load3d(folder: Path) -> list[Path]:
    cameras = cameras_of_move(move(9))
    (folder / "a.json").write_text(json.dumps(cameras))
    for camera in cameras:
        camera.pop("quaternion")
    (folder / "b.json").write_text(json.dumps(cameras))
    return [folder / "a.json", folder / "b.json"]


def _read_load3d(path: Path) -> None:
    try:
        cameras = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return  # ComfyUI's server refuses it before a node sees it
    # The node gets a list of what the graph gives.
    listed = cameras if isinstance(cameras, list) else [cameras]
    keys = keyframes_of_cameras(listed, 9, width=WIDTH, height=HEIGHT)
    lens = intrinsics_from_fov(WIDTH, HEIGHT, 60)
    keyframe_trajectory(keys, 9, intrinsics=lens, width=WIDTH, height=HEIGHT)


def _keyframes(folder: Path) -> list[Path]:
    keys = keyframes_of_cameras(cameras_of_move(move(9)), 9, width=WIDTH, height=HEIGHT)
    text = keyframes_to_json(keys)
    (folder / "a.json").write_text(text)
    started = text.replace('"convention": {', '"convention": {"space": "start_camera", ')
    (folder / "b.json").write_text(started)
    return [folder / "a.json", folder / "b.json"]


def _read_keyframes(path: Path) -> None:
    # Undecodable bytes become lone surrogates, as ComfyUI's server lets them through in JSON.
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    keys = keyframes_from_json(text, scene_depth=2.0, start=torch.eye(4, dtype=torch.float64))
    lens = intrinsics_from_fov(WIDTH, HEIGHT, 60)
    keyframe_trajectory(keys, 9, intrinsics=lens, width=WIDTH, height=HEIGHT)


CAMERA_FILES: Final[dict[str, Format]] = {
    "load3d": Format(_load3d, _read_load3d),
    "keyframes": Format(_keyframes, _read_keyframes),
    "trajectory": Format(_camera_file(MIRAGE, "a"), _read_move),
    "transforms": Format(_camera_file(TRANSFORMS, "a"), _read_move),
    "colmap": Format(_camera_file(COLMAP, "a"), _read_move),
    "realestate": Format(_camera_file(REALESTATE, "a"), _read_move),
    "glb": Format(_camera_file(GLTF, "a"), _read_move),
    "gltf": Format(_gltf_json, _read_move),
}
