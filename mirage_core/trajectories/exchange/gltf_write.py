"""Camera moves as glTF: one animated camera, for Blender, Unreal, Houdini and three.js."""

from __future__ import annotations

import base64
import json
import math
import struct
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ...files import atomic_write, with_suffix
from ...geometry.trajectory import Trajectory
from .axes import quaternions, to_y_up

FLOAT: Final = 5126
MAGIC: Final = 0x46546C67
JSON_CHUNK: Final = 0x4E4F534A
BINARY_CHUNK: Final = 0x004E4942
NEAR_PLANE: Final = 0.01

POINTER: Final = "KHR_animation_pointer"
"""The extension by which a glTF file animates what is no node, such as a lens."""

EXTRAS: Final = "mirage"
"""Entry of the camera's extras that holds what glTF has no place for: intrinsics per frame."""


_LENS: Final = {
    "path": "pointer",
    "extensions": {POINTER: {"pointer": "/cameras/0/perspective/yfov"}},
}
_TYPES: Final = {"times": "SCALAR", "translation": "VEC3", "rotation": "VEC4", "yfov": "SCALAR"}


def write_gltf(trajectory: Trajectory, path: Path) -> Path:
    """Write a camera move as ``.glb``, or as ``.gltf`` with the data inside.

    A zoom is written as an animated field of view (KHR_animation_pointer), which programs that do
    not know it leave out: they see the first frame's lens. glTF has no principal point off the
    middle; Mirage reads back every frame's own.

    Returns:
        The path that was written.

    Raises:
        StorageError: The disk is full or the folder is not writable.
    """
    path = path if path.suffix.lower() == ".gltf" else with_suffix(path, ".glb")
    document, data = _document(trajectory)
    if path.suffix.lower() == ".gltf":
        uri = "data:application/octet-stream;base64," + base64.b64encode(data).decode()
        document["buffers"][0]["uri"] = uri
        content = json.dumps(document, allow_nan=False).encode()
    else:
        content = _binary(document, data)
    with atomic_write(path, "wb") as file:
        file.write(content)
    return path


def _document(trajectory: Trajectory) -> tuple[dict[str, Any], bytes]:
    tracks = _tracks(trajectory)
    data = b"".join(part.numpy().astype("<f4").tobytes() for part in tracks.values())
    views: list[dict[str, int]] = []
    accessors: list[dict[str, Any]] = []
    offset = 0
    for path, part in tracks.items():
        size = part.numel() * 4
        accessors.append(
            {
                "bufferView": len(views),
                "componentType": FLOAT,
                "count": len(part),
                "type": _TYPES[path],
                "min": part.amin(0).tolist(),
                "max": part.amax(0).tolist(),
            }
        )
        views.append({"buffer": 0, "byteOffset": offset, "byteLength": size})
        offset += size
    zooms = "yfov" in tracks
    document = {
        "asset": {"version": "2.0", "generator": "Mirage"},
        **({"extensionsUsed": [POINTER]} if zooms else {}),
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": "Camera", "camera": 0, **_placement(tracks)}],
        "cameras": [_camera(trajectory)],
        "animations": [
            {
                "name": "Camera move",
                "samplers": [
                    {"input": 0, "output": output, "interpolation": "LINEAR"}
                    for output in range(1, len(tracks))
                ],
                "channels": [
                    {"sampler": 0, "target": {"node": 0, "path": "translation"}},
                    {"sampler": 1, "target": {"node": 0, "path": "rotation"}},
                    *([{"sampler": 2, "target": _LENS}] if zooms else []),
                ],
            }
        ],
        "buffers": [{"byteLength": len(data)}],
        "bufferViews": views,
        "accessors": accessors,
    }
    return document, data


def _tracks(trajectory: Trajectory) -> dict[str, Tensor]:
    """Times and animated values, (F, D) float32; the field of view only where it changes."""
    poses = to_y_up(trajectory.world_to_camera)
    times = torch.arange(len(trajectory), dtype=torch.float64) / trajectory.fps
    tracks = {
        "times": times[:, None],
        "translation": poses[:, :3, 3],
        "rotation": _continuous(quaternions(poses)),
    }
    focal = trajectory.intrinsics[:, 1, 1]
    if bool((focal != focal[0]).any()):
        tracks["yfov"] = 2 * torch.atan(trajectory.height / (2 * focal))[:, None]
    return {path: track.float().contiguous() for path, track in tracks.items()}


def _placement(tracks: dict[str, Tensor]) -> dict[str, list[float]]:
    return {path: tracks[path][0].tolist() for path in ("translation", "rotation")}


def _camera(trajectory: Trajectory) -> dict[str, Any]:
    k = trajectory.intrinsics
    half = trajectory.height / (2 * float(k[0, 1, 1]))
    wide = trajectory.width / (2 * float(k[0, 0, 0]))
    return {
        "type": "perspective",
        "perspective": {
            "yfov": 2 * math.atan(half),
            "aspectRatio": wide / half,
            "znear": NEAR_PLANE,
        },
        "extras": {
            EXTRAS: {
                "width": trajectory.width,
                "height": trajectory.height,
                "fps": trajectory.fps,
                "intrinsics": k[:, [0, 1, 0, 1], [0, 1, 2, 2]].tolist(),
            }
        },
    }


def _continuous(quaternion: Tensor) -> Tensor:
    """The same rotations with signs that do not jump, for programs that blend linearly."""
    same = (quaternion[1:] * quaternion[:-1]).sum(dim=1) >= 0
    steps = torch.where(same, 1.0, -1.0).to(quaternion)
    signs = torch.cat([steps.new_ones(1), steps.cumprod(0)])
    return quaternion * signs[:, None]


def _binary(document: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(document, allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    data += b"\0" * (-len(data) % 4)
    total = 12 + 8 + len(text) + 8 + len(data)
    return b"".join(
        (
            struct.pack("<III", MAGIC, 2, total),
            struct.pack("<II", len(text), JSON_CHUNK),
            text,
            struct.pack("<II", len(data), BINARY_CHUNK),
            data,
        )
    )
