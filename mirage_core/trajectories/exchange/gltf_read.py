"""Reading the animated camera of a glTF file, whichever program wrote it."""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import CacheFormatError, TrajectoryError
from ...geometry.trajectory import Trajectory
from ...geometry.transform import rigid
from ..files import MAX_BYTES, MAX_FRAMES, expect_numbers, parse_json
from .axes import camera_frame, from_y_up
from .gltf_write import BINARY_CHUNK, EXTRAS, FLOAT, JSON_CHUNK, MAGIC

_WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}
_STEP_TOLERANCE = 1e-3


def read_gltf(path: Path, *, width: int, height: int, fps: float) -> Trajectory:
    """The first camera of a glTF file, sampled at every frame.

    Args:
        path: ``.glb``, or ``.gltf`` with its data inside.
        width: Picture width.
        height: Picture height.
        fps: Frames per second at which the animation is sampled.

    Raises:
        CacheFormatError: The file is damaged, foreign, or uses what is not read here.
        GeometryError: The numbers are not those of cameras.
        TrajectoryError: It contains no perspective camera.
    """
    document, data = _contents(path)
    try:
        return _Reader(document, data, path.name).trajectory(width, height, fps)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise CacheFormatError(
            f"{path.name} is not a well-formed glTF file",
            got=f"{type(error).__name__}: {error}"[:200],
            fix="Export it again",
        ) from error


class _Reader:
    """The parts of one document that place its camera."""

    def __init__(self, document: dict[str, Any], data: bytes, name: str) -> None:
        self.document = document
        self.data = data
        self.name = name
        self.nodes = document.get("nodes", [])
        self.parents = {
            child: number
            for number, node in enumerate(self.nodes)
            for child in node.get("children", [])
        }

    def trajectory(self, width: int, height: int, fps: float) -> Trajectory:
        number, camera = self._camera()
        chain = self._chain(number)
        tracks = self._tracks(set(chain))
        extras = camera.get("extras", {}).get(EXTRAS)
        times = self._times(tracks, extras, fps)
        pose = torch.eye(4, dtype=torch.float64).expand(len(times), 4, 4)
        for node in reversed(chain):
            pose = pose @ self._local(node, tracks, times)
        intrinsics = self._lens(camera, extras, len(times), width, height)
        return Trajectory(from_y_up(_unscaled(pose)), intrinsics, width, height, fps)

    def _camera(self) -> tuple[int, dict[str, Any]]:
        for number, node in enumerate(self.nodes):
            if "camera" in node:
                camera = self.document["cameras"][node["camera"]]
                if camera["type"] == "perspective":
                    return number, camera
        raise TrajectoryError(
            f"{self.name} contains no perspective camera",
            got=f"{len(self.nodes)} objects",
            fix="Enable the export of cameras in the exporting program",
        )

    def _chain(self, node: int) -> list[int]:
        chain = [node]
        while chain[-1] in self.parents and len(chain) <= len(self.nodes):
            chain.append(self.parents[chain[-1]])
        return chain

    def _tracks(self, nodes: set[int]) -> dict[tuple[int, str], tuple[Tensor, Tensor, str]]:
        """(times, values, interpolation) of every animated property of the given nodes."""
        found = {}
        for animation in self.document.get("animations", []):
            for channel in animation["channels"]:
                key = (channel["target"].get("node", -1), channel["target"]["path"])
                if key[0] in nodes and key not in found:
                    sampler = animation["samplers"][channel["sampler"]]
                    mode = sampler.get("interpolation", "LINEAR")
                    if mode not in ("LINEAR", "STEP"):
                        raise CacheFormatError(
                            f"{self.name} animates its camera by {mode} curves",
                            expected="LINEAR or STEP",
                            fix="Bake the animation to one key per frame before exporting",
                        )
                    times = self._accessor(sampler["input"])[:, 0]
                    found[key] = (times, self._accessor(sampler["output"]), mode)
        return found

    def _times(
        self, tracks: dict[Any, tuple[Tensor, Tensor, str]], extras: Any, fps: float
    ) -> Tensor:
        if not tracks:
            return torch.zeros(1, dtype=torch.float64)
        first = min(float(times[0]) for times, _, _ in tracks.values())
        last = max(float(times[-1]) for times, _, _ in tracks.values())
        own = float(extras["fps"]) if extras and extras["fps"] else fps
        count = math.floor((last - first) * own + _STEP_TOLERANCE) + 1
        if not 1 <= count <= MAX_FRAMES:
            raise CacheFormatError(
                f"The camera move of {self.name} is too long",
                got=f"{last - first:g} seconds",
                expected=f"at most {MAX_FRAMES} frames",
            )
        return first + torch.arange(count, dtype=torch.float64) / own

    def _local(
        self, node: int, tracks: dict[tuple[int, str], tuple[Tensor, Tensor, str]], times: Tensor
    ) -> Tensor:
        data = self.nodes[node]
        if "matrix" in data:
            columns = expect_numbers(data["matrix"], 16, f'"matrix" of {self.name}')
            matrix = torch.tensor(columns, dtype=torch.float64).view(4, 4).T
            return matrix.expand(len(times), 4, 4)
        parts = {}
        for path, rest in (
            ("translation", (0.0, 0.0, 0.0)),
            ("rotation", (0.0, 0.0, 0.0, 1.0)),
            ("scale", (1.0, 1.0, 1.0)),
        ):
            still = expect_numbers(data.get(path, rest), len(rest), f'"{path}" of {self.name}')
            track = tracks.get((node, path))
            sample: Callable[..., Tensor] = _turned if path == "rotation" else _moved
            values = torch.tensor([still], dtype=torch.float64)
            zero = torch.zeros(1, dtype=torch.float64)
            parts[path] = sample(*(track or (zero, values, "STEP")), times)
        rotation = parts["rotation"] * parts["scale"][:, None, :]
        return rigid(rotation, parts["translation"])

    def _lens(
        self, camera: dict[str, Any], extras: Any, count: int, width: int, height: int
    ) -> Tensor:
        if extras and len(extras["intrinsics"]) == count:
            rows = [
                expect_numbers(row, 4, f"The intrinsics of {self.name}")
                for row in extras["intrinsics"]
            ]
            values = torch.tensor(rows, dtype=torch.float64)
            size = (float(extras["width"]), float(extras["height"]))
            return camera_frame(values[:, :2], values[:, 2:], size, width, height)
        perspective = camera["perspective"]
        (angle,) = expect_numbers([perspective["yfov"]], 1, f'"yfov" of {self.name}')
        aspect = perspective.get("aspectRatio", width / height)
        (aspect,) = expect_numbers([aspect], 1, f'"aspectRatio" of {self.name}')
        focal = 0.5 / math.tan(angle / 2)
        return camera_frame(
            torch.full((count, 2), focal, dtype=torch.float64),
            torch.tensor([[aspect / 2, 0.5]], dtype=torch.float64).expand(count, 2),
            (aspect, 1.0),
            width,
            height,
        )

    def _accessor(self, number: int) -> Tensor:
        accessor = self.document["accessors"][number]
        if accessor["componentType"] != FLOAT or "sparse" in accessor:
            raise CacheFormatError(
                f"{self.name} stores its animation in an unsupported format",
                got=f"component type {accessor['componentType']}",
                expected="plain 32-bit floats",
                fix="Export without animation compression",
            )
        width, count = _WIDTHS[accessor["type"]], int(accessor["count"])
        view = self.document["bufferViews"][accessor["bufferView"]]
        stride = int(view.get("byteStride", 4 * width))
        start = int(view.get("byteOffset", 0)) + int(accessor.get("byteOffset", 0))
        if view["buffer"] != 0 or not 0 < count <= MAX_FRAMES or stride < 4 * width or start < 0:
            raise ValueError("an accessor points outside the data")
        rows = np.ndarray(
            (count, width), "<f4", buffer=self.data, offset=start, strides=(stride, 4)
        )
        values = torch.from_numpy(rows.astype(np.float64))
        if not bool(torch.isfinite(values).all()):
            raise ValueError("the animation contains values that are not finite")
        return values


def _moved(times: Tensor, values: Tensor, mode: str, at: Tensor) -> Tensor:
    """(F, D) values at times ``at``; held before the first and after the last key."""
    upper = torch.searchsorted(times.contiguous(), at + 1e-9, right=True).clamp(1, len(times))
    lower = upper - 1
    upper = upper.clamp(max=len(times) - 1)
    if mode == "STEP":
        return values[lower]
    span = (times[upper] - times[lower]).clamp(min=1e-12)
    share = ((at - times[lower]) / span).clamp(0, 1)[:, None]
    return values[lower] + share * (values[upper] - values[lower])


def _turned(times: Tensor, values: Tensor, mode: str, at: Tensor) -> Tensor:
    """(F, 3, 3) rotations at times ``at``."""
    from scipy.spatial.transform import Rotation, Slerp

    rotations = Rotation.from_quat(values.numpy())
    if len(times) == 1 or mode == "STEP":
        index = _moved(times, torch.arange(len(times), dtype=torch.float64), "STEP", at).long()
        return torch.from_numpy(rotations.as_matrix())[index]
    inside = at.clamp(float(times[0]), float(times[-1])).numpy()
    return torch.from_numpy(Slerp(times.numpy(), rotations)(inside).as_matrix())


def _unscaled(pose: Tensor) -> Tensor:
    """Poses without the scale that parents may have put on the camera's axes."""
    axes = pose[:, :3, :3]
    return rigid(axes / axes.norm(dim=1, keepdim=True), pose[:, :3, 3])


def _contents(path: Path) -> tuple[dict[str, Any], bytes]:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CacheFormatError(f"{path.name} cannot be read", got=str(error)[:200]) from error
    try:
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES // 2**20} MiB")
        if content[:4] == struct.pack("<I", MAGIC):
            return _chunks(content, path.name)
        document = parse_json(content.decode("utf-8-sig"), path.name)
        return document, _inline(document)
    except (ValueError, struct.error, AttributeError, KeyError, IndexError) as error:
        raise CacheFormatError(
            f"{path.name} is not a glTF file",
            got=str(error)[:200],
            expected=".glb, or .gltf with its data embedded",
            fix="Export as glTF Binary (.glb)",
        ) from error


def _chunks(content: bytes, name: str) -> tuple[dict[str, Any], bytes]:
    parts, offset = {}, 12
    while offset + 8 <= len(content):
        size, kind = struct.unpack_from("<II", content, offset)
        if offset + 8 + size > len(content):
            raise ValueError("the file is truncated")
        parts[kind] = content[offset + 8 : offset + 8 + size]
        offset += 8 + size
    return parse_json(parts[JSON_CHUNK].decode(), name), parts.get(BINARY_CHUNK, b"")


def _inline(document: dict[str, Any]) -> bytes:
    buffers = document.get("buffers", [])
    if not buffers:
        return b""
    uri = buffers[0].get("uri", "")
    if not uri.startswith("data:"):
        raise ValueError(f"its data is in another file, {uri[:60]}")
    try:
        return base64.b64decode(uri.split(",", 1)[1], validate=True)
    except binascii.Error as error:
        raise ValueError("its embedded data is damaged") from error
