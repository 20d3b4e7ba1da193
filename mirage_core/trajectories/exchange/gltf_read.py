"""Reading the animated camera of a glTF file, whichever program wrote it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ...errors import CacheFormatError, GeometryError, TrajectoryError
from ...geometry.trajectory import Trajectory
from ...geometry.transform import rigid
from ...validate import ROTATION_TOLERANCE, expect_range
from ..files import describe, expect_numbers
from .axes import camera_frame, from_y_up
from .camera_file import CameraFile, Wanted
from .gltf_animation import (
    CAMERAS,
    NODES,
    Animation,
    Animations,
    Curves,
    Part,
    Track,
    choose,
    listed,
)
from .gltf_file import GltfFile
from .gltf_write import EXTRAS

MAX_MOVE: Final = 100_001
"""Frames of a move: more than an hour."""

_MAX_CHAIN: Final = 100
"""Objects that carry each other and, on top, the camera."""

_MAX_POSES: Final = 250_000
"""Frames times animated objects of the chain: what takes about a second."""

_MAX_CHOICES: Final = 50_000
"""Cameras of a file times its animations."""

_STEP_TOLERANCE: Final = 1e-3
_SAME_LENS: Final = 1e-4
_REST: Final = {
    "translation": (0.0, 0.0, 0.0),
    "rotation": (0.0, 0.0, 0.0, 1.0),
    "scale": (1.0, 1.0, 1.0),
}


def read_gltf(path: Path, wanted: Wanted) -> CameraFile:
    """A camera of a glTF file, sampled at every frame.

    Args:
        path: ``.glb``, or ``.gltf`` with its data inside.
        wanted: What it is read for. A camera and an animation are chosen by name or by number,
            counted from 1. Without a choice the first camera that moves is taken, and the first
            animation that moves it; animations of other objects that carry the camera count as
            well.

    Raises:
        CacheFormatError: The file is damaged, foreign, too large, or uses what is not read here.
        GeometryError: The camera is mirrored or sheared, or the numbers are not those of cameras.
        TrajectoryError: It contains no perspective camera, or not what was chosen.
    """
    expect_range("The frame rate", wanted.fps, 0.1, 1000)
    scene = _Scene(GltfFile.read(path))
    placed = scene.placed(wanted.camera, wanted.animation)
    move = scene.trajectory(placed, wanted.width, wanted.height, wanted.fps)
    names = tuple(one.name for one in scene.cameras)
    return CameraFile(move, "glTF", scene.notes(placed), names)


@dataclass(frozen=True, eq=False)
class _Placed:
    """A camera in the scene, and what moves it.

    Attributes:
        name: For people.
        camera: Its number among the cameras.
        chain: The nodes that carry it, its own first.
        animations: Those that count.
        curves: Of the chain and of the lens.
    """

    name: str
    camera: int
    chain: tuple[int, ...]
    animations: tuple[Animation, ...] = ()
    curves: Curves | None = None

    @property
    def parts(self) -> set[Part]:
        return {Part(NODES, node) for node in self.chain} | {Part(CAMERAS, self.camera)}

    @property
    def tracks(self) -> Curves:
        return self.curves or {}

    @property
    def moves(self) -> bool:
        return any(track.moves for track in self.tracks.values())


class _Scene:
    """The cameras of one file, and what carries and moves them."""

    def __init__(self, file: GltfFile) -> None:
        self.file = file
        self.nodes = file.objects(file.document, "nodes")
        self.lenses = file.objects(file.document, "cameras")
        self.parents = self._parents()
        self.animations = Animations(file)
        self.cameras = self._cameras()
        choices = len(self.cameras) * max(1, len(self.animations.all))
        if choices > _MAX_CHOICES:
            raise file.malformed("cameras times animations", choices, f"at most {_MAX_CHOICES}")

    def placed(self, camera: str, animation: str) -> _Placed:
        """The chosen camera with the chosen animation."""
        names = [one.name for one in self.cameras]
        wanted = choose(camera, names, self.cameras, "perspective camera", self.file)
        chosen = self.animations.named(animation)
        found = [self._animated(one, chosen) for one in ([wanted] if wanted else self.cameras)]
        if chosen is not None:
            found = [one for one in found if chosen in one.animations]
            if not found:
                raise TrajectoryError(
                    f"The animation does not move {'this' if wanted else 'any'} camera",
                    got=describe(chosen.name),
                    expected=listed([one.name for one in self._movers(wanted)])
                    or "nothing: no animation does",
                    fix="Choose one of these, or leave the name empty",
                )
        return next((one for one in found if one.moves), next(
            (one for one in found if one.tracks), found[0]
        ))  # fmt: skip

    def notes(self, placed: _Placed) -> tuple[str, ...]:
        """What was taken, and what else there is."""
        others = [one.name for one in self.cameras if one.chain[0] != placed.chain[0]]
        line = f"camera {describe(placed.name)}"
        notes = [f"{line}; also in the file: {listed(others)}" if others else line]
        if placed.animations:
            line = f"animation {listed([one.name for one in placed.animations])}"
            unused = [one.name for one in self._movers(placed) if one not in placed.animations]
            notes.append(f"{line}; not used: {listed(unused)}" if unused else line)
        return tuple(notes)

    def trajectory(self, placed: _Placed, width: int, height: int, fps: float) -> Trajectory:
        """The cameras of all frames."""
        camera = self.lenses[placed.camera]
        extras = self.file.part(camera, "extras", "a camera").get(EXTRAS)
        extras = _Extras.of(extras, self.file) if isinstance(extras, dict) else None
        times = self._times(placed, fps if extras is None else extras.fps)
        pose = torch.eye(4, dtype=torch.float64).expand(1, 4, 4)
        for node in reversed(placed.chain):
            local = self._local(node, placed.tracks, times)
            count = max(len(pose), len(local))
            pose = pose.expand(count, 4, 4) @ local.expand(count, 4, 4)
        pose = self._unscaled(pose, placed).expand(len(times), 4, 4)
        lens = self._lens(placed, extras, times, width, height)
        return Trajectory(from_y_up(pose), lens, width, height, fps)

    def _parents(self) -> dict[int, int]:
        parents: dict[int, int] = {}
        for number, node in enumerate(self.nodes):
            children = node.get("children", [])
            if not isinstance(children, list):
                raise self.file.malformed(f'"children" of node {number}', children, "a list")
            for value in children:
                child = self.file.index(value, len(self.nodes), f"a child of node {number}")
                if child in parents:
                    raise self.file.malformed(
                        "an object hangs on two others", child, "one parent for each object"
                    )
                parents[child] = number
        return parents

    def _cameras(self) -> list[_Placed]:
        found: list[_Placed] = []
        for number, node in enumerate(self.nodes):
            if "camera" not in node:
                continue
            index = self.file.index(node["camera"], len(self.lenses), f"camera of node {number}")
            if self.lenses[index].get("type") != "perspective":
                continue
            names = (node.get("name"), self.lenses[index].get("name"), str(len(found) + 1))
            name = next(name for name in names if isinstance(name, str) and name)
            found.append(_Placed(name, index, self._chain(number)))
        if not found:
            raise TrajectoryError(
                f"{self.file.name} contains no perspective camera",
                got=f"{len(self.nodes)} objects",
                fix="Enable the export of cameras in the exporting program",
            )
        return found

    def _chain(self, node: int) -> tuple[int, ...]:
        chain = [node]
        while chain[-1] in self.parents:
            chain.append(self.parents[chain[-1]])
            if chain[-1] == node or len(chain) > _MAX_CHAIN:
                raise self.file.malformed(
                    "a camera hangs on itself" if chain[-1] == node else "a camera hangs too deep",
                    f"{len(chain)} objects that carry each other",
                    f"at most {_MAX_CHAIN}, and none that carries itself",
                )
        return tuple(chain)

    def _animated(self, camera: _Placed, chosen: Animation | None) -> _Placed:
        together = self.animations.together(camera.parts, chosen)
        curves = self.animations.curves(together, camera.parts)
        return _Placed(camera.name, camera.camera, camera.chain, tuple(together), curves)

    def _movers(self, camera: _Placed | None) -> list[Animation]:
        """All animations that move a camera, or any of them."""
        cameras = self.cameras if camera is None else [camera]
        parts = {part for one in cameras for part in one.parts}
        return [one for one in self.animations.all if one.parts & parts]

    def _times(self, placed: _Placed, fps: float) -> Tensor:
        tracks = placed.tracks.values()
        if not tracks:
            return torch.zeros(1, dtype=torch.float64)
        first = min(float(track.times[0]) for track in tracks)
        last = max(float(track.times[-1]) for track in tracks)
        count = math.floor((last - first) * fps + _STEP_TOLERANCE) + 1
        nodes = len({part for part, _ in placed.tracks})
        if count > MAX_MOVE or count * nodes > _MAX_POSES:
            raise CacheFormatError(
                f"The camera move of {self.file.name} is too long",
                got=f"{last - first:g} seconds, {nodes} animated objects",
                expected=f"at most {min(MAX_MOVE, _MAX_POSES // nodes)} frames at {fps:g} a second",
                fix="Export the frames of the shot only",
            )
        return first + torch.arange(count, dtype=torch.float64) / fps

    def _local(self, node: int, tracks: Curves, times: Tensor) -> Tensor:
        """(F, 4, 4) transforms of a node in its parent; (1, 4, 4) of one that stands still."""
        data, where = self.nodes[node], f"node {node}"
        own = {path: tracks.get((Part(NODES, node), path)) for path in _REST}
        if "matrix" in data:
            if any(own.values()):
                raise self.file.malformed(
                    f"{where} has a matrix and is animated", "both", "one of them"
                )
            columns = expect_numbers(data["matrix"], 16, f'"matrix" of {self.file.name}')
            return torch.tensor(columns, dtype=torch.float64).view(1, 4, 4).mT
        zero = torch.zeros(1, dtype=torch.float64)
        values = {}
        for path, rest in _REST.items():
            still = torch.tensor([self.file.numbers(data, path, rest, where)], dtype=torch.float64)
            track = own[path] or Track(zero, still, "STEP")
            at = times if own[path] else zero
            values[path] = track.rotations_at(at) if path == "rotation" else track.at(at)
        turn, scale, place = torch.broadcast_tensors(
            values["rotation"], values["scale"][:, None, :], values["translation"][:, :, None]
        )
        return rigid(turn * scale, place[:, :, 0])

    def _unscaled(self, pose: Tensor, placed: _Placed) -> Tensor:
        """Poses without the scale that parents may have put on the camera's axes."""
        axes = pose[:, :3, :3]
        size = axes.norm(dim=1, keepdim=True)
        if not bool(torch.isfinite(torch.cat([pose[:, :3], size.mT], 2)).all()) or not bool(
            (size > 0).all()
        ):
            raise self._misshapen(placed, "has no size", "a scale of 0, or one beyond all numbers")
        turn = axes / size
        if bool((torch.linalg.det(turn) < 0).any()):
            raise self._misshapen(placed, "is mirrored", "an odd number of negative scales")
        off = turn.mT @ turn - torch.eye(3, dtype=torch.float64)
        if float(off.abs().max()) > ROTATION_TOLERANCE:
            raise self._misshapen(placed, "is sheared", "an uneven scale above a turned object")
        return rigid(turn, pose[:, :3, 3])

    def _misshapen(self, placed: _Placed, what: str, got: str) -> GeometryError:
        scaled = [
            node for node in placed.chain
            if {"scale", "matrix"} & set(self.nodes[node])
            or (Part(NODES, node), "scale") in placed.tracks
        ]  # fmt: skip
        names = [str(self.nodes[node].get("name") or f"node {node}") for node in scaled]
        return GeometryError(
            f"The camera {describe(placed.name)} of {self.file.name} {what}",
            got=f"{got}, in {listed(names)}",
            expected="even scales above 0, which a camera can follow",
            fix="Apply the scale of the objects that carry the camera, or take it off them and "
            "keep its place (in Blender: Apply, Scale; Clear Parent and Keep Transformation), "
            "bake its animation, and export again",
        )

    def _lens(
        self, placed: _Placed, extras: _Extras | None, times: Tensor, width: int, height: int
    ) -> Tensor:
        """(F, 3, 3) intrinsics."""
        where = f"camera {describe(placed.name)}"
        perspective = self.file.part(self.lenses[placed.camera], "perspective", where)
        angle = self.file.number(perspective, "yfov", math.nan, where)
        aspect = self.file.number(perspective, "aspectRatio", width / height, where)
        angles = self._values(placed, "yfov", angle, times)
        aspects = self._values(placed, "aspectRatio", aspect, times)
        every = torch.cat([angles, torch.tensor([angle], dtype=torch.float64)])
        proper = bool(((every > 0) & (every < math.pi)).all()) and aspect > 0
        if not proper or not bool((aspects > 0).all()):
            raise self.file.malformed(
                f"the lens of {where}",
                f"yfov {angle:g}, aspectRatio {aspect:g}",
                "an angle between 0 and pi, and an aspect ratio above 0",
            )
        if extras is not None and extras.describes(angles, len(times)):
            return camera_frame(extras.rows[:, :2], extras.rows[:, 2:], extras.size, width, height)
        focal = torch.tensor(
            [0.5 / math.tan(one / 2) for one in angles.tolist()], dtype=torch.float64
        )
        focal = focal * (aspect / aspects)
        centre = torch.tensor([[aspect / 2, 0.5]], dtype=torch.float64)
        lens = camera_frame(
            focal[:, None].expand(-1, 2), centre.expand(len(focal), 2), (aspect, 1.0), width, height
        )
        return lens.expand(len(times), 3, 3)

    def _values(self, placed: _Placed, path: str, rest: float, times: Tensor) -> Tensor:
        """(F,) values of the lens; (1,) where it stays as it is."""
        track = placed.tracks.get((Part(CAMERAS, placed.camera), path))
        if track is None:
            return torch.tensor([rest], dtype=torch.float64)
        return track.at(times)[:, 0]


@dataclass(frozen=True, eq=False)
class _Extras:
    """What Mirage writes beside a camera, since glTF has no place for it.

    Attributes:
        size: (width, height) of the picture.
        fps: Frames per second.
        rows: (F, 4) focal lengths and principal point of every frame, in pixels.
    """

    size: tuple[float, float]
    fps: float
    rows: Tensor

    @classmethod
    def of(cls, data: dict[str, Any], file: GltfFile) -> _Extras:
        where = f'"{EXTRAS}" of a camera'
        width, height = (file.number(data, key, math.nan, where) for key in ("width", "height"))
        fps = file.number(data, "fps", math.nan, where)
        rows = data.get("intrinsics")
        if min(width, height) <= 0 or not 0.1 <= fps <= 1000 or not isinstance(rows, list):
            raise file.malformed(
                where, data, "a picture size, a frame rate, and the lens of each frame"
            )
        numbers = [expect_numbers(row, 4, f"The intrinsics of {file.name}") for row in rows]
        return cls((width, height), fps, torch.tensor(numbers, dtype=torch.float64).reshape(-1, 4))

    def describes(self, angles: Tensor, count: int) -> bool:
        """Whether this is the lens of the camera still, which another program may have changed.

        Args:
            angles: (F,) or (1,) vertical fields of view of the camera, in radians.
            count: F, its frames.
        """
        if len(self.rows) != count:
            return False
        own = 2 * torch.atan(self.size[1] / (2 * self.rows[: len(angles), 1]))
        return bool(((own - angles).abs() <= _SAME_LENS * angles).all())
