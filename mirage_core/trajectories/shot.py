"""A shot as the browser widget saves it: cameras with keyframes, cuts, shake, a held subject."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor

from ..constants import DEFAULT_FPS
from ..errors import CacheFormatError, MirageError, TrajectoryError
from ..geometry.trajectory import Trajectory
from .files import describe, expect_numbers
from .keyframes import (
    Keyframe,
    keyframe_document,
    keyframe_trajectory,
    keyframes_of,
    placed,
)
from .presets import expect_scene_depth
from .shake import Shake, shaken

MAIN_CAMERA: Final = "A"
"""Name of the camera that the document's own keyframes belong to, and that a shot begins with."""
MAX_CAMERAS: Final = 26
MAX_CUTS: Final = 1000
_LONGEST_NAME: Final = 32


@dataclass(frozen=True)
class Cut:
    """From a frame on, another camera is shown.

    Attributes:
        frame: Pixel frame, from 1.
        camera: Name of the camera.
    """

    frame: int
    camera: str


@dataclass(frozen=True)
class Shot:
    """Cameras, and which of them is shown when.

    Attributes:
        cameras: Keyframes in world coordinates, by the camera's name; `MAIN_CAMERA` is one.
        cuts: In order of time; until the first the main camera is shown.
        subject: A point in world coordinates that keeps its size: every camera's lens follows
            its distance. None leaves the lens to the keyframes.
        shake: How the camera shakes; None is a tripod.

    Raises:
        TrajectoryError: There is no main camera, a cut names no camera, or two cuts are at one
            frame.
    """

    cameras: Mapping[str, tuple[Keyframe, ...]]
    cuts: tuple[Cut, ...] = ()
    subject: tuple[float, float, float] | None = None
    shake: Shake | None = None

    def __post_init__(self) -> None:
        known = ", ".join(self.cameras)
        for name in (MAIN_CAMERA, *(cut.camera for cut in self.cuts)):
            if name not in self.cameras:
                raise TrajectoryError(
                    "A shot names a camera that it has not", got=describe(name), expected=known
                )
        ordered = tuple(sorted(self.cuts, key=lambda cut: cut.frame))
        for cut, following in pairwise(ordered):
            if cut.frame == following.frame:
                raise TrajectoryError("Two cuts are at the same frame", got=f"frame {cut.frame}")
        object.__setattr__(self, "cuts", ordered)
        object.__setattr__(self, "cameras", MappingProxyType(dict(self.cameras)))


def shot_trajectory(
    shot: Shot,
    frames: int,
    *,
    intrinsics: Tensor,
    width: int,
    height: int,
    fps: float = DEFAULT_FPS,
) -> Trajectory:
    """The path of what is shown: each camera's own, cut together, then shaken.

    Args:
        shot: The cameras.
        frames: Pixel frames, 4n + 1.
        intrinsics: (3, 3) in pixels.
        width: Picture width in pixels.
        height: Picture height in pixels.
        fps: Frames per second.

    Raises:
        TrajectoryError: A keyframe or a cut lies after the end, or a camera comes to the subject.
        PlanError: ``frames`` is not 4n + 1.
        GeometryError: The intrinsics are not those of a pinhole camera.
        ShapeError: The intrinsics are not a 3x3 matrix.
        ValueRangeError: A size or ``fps`` is out of range.
    """
    lens: dict[str, Any] = {
        "intrinsics": intrinsics, "width": width, "height": height, "fps": fps,
    }  # fmt: skip
    if shot.cuts and shot.cuts[-1].frame >= frames:
        raise TrajectoryError(
            "A cut lies after the end of the shot",
            got=f"frame {shot.cuts[-1].frame}", expected=f"1 to {frames - 1}",
            fix="Move the cut, or make the shot longer",
        )
    paths = {
        name: keyframe_trajectory(keys, frames, **lens) for name, keys in shot.cameras.items()
    }
    if shot.subject is not None:
        paths = {name: _holding(path, shot.subject, name) for name, path in paths.items()}
    path = paths[MAIN_CAMERA]
    if shot.cuts:
        path = _cut_together(paths, shot.cuts)
    return path if shot.shake is None else shaken(path, shot.shake)


def _holding(path: Trajectory, subject: tuple[float, float, float], name: str) -> Trajectory:
    """The path with a lens that keeps the size of a subject as it is in the first frame."""
    point = torch.tensor([*subject, 1.0], dtype=torch.float64)
    away = (path.world_to_camera @ point)[:, 2]
    ratio = away / away[0]
    # Beyond that no lens is one.
    if not bool(((away > 0) & (ratio > 1e-2) & (ratio < 1e2)).all()):
        raise TrajectoryError(
            f"Camera {name} cannot keep the size of the subject",
            got=f"distances from {float(away.min()):.3g} to {float(away.max()):.3g} scene units",
            expected="the subject in front of the camera, and not much nearer than at first",
            fix="Bend the path, or choose another subject",
        )
    intrinsics = path.intrinsics.clone()
    intrinsics[:, :2, :2] *= ratio[:, None, None]
    return dataclasses.replace(path, intrinsics=intrinsics)


def _cut_together(paths: Mapping[str, Trajectory], cuts: tuple[Cut, ...]) -> Trajectory:
    path = paths[MAIN_CAMERA]
    poses, intrinsics = path.world_to_camera.clone(), path.intrinsics.clone()
    for cut in cuts:
        poses[cut.frame :] = paths[cut.camera].world_to_camera[cut.frame :]
        intrinsics[cut.frame :] = paths[cut.camera].intrinsics[cut.frame :]
    return dataclasses.replace(path, world_to_camera=poses, intrinsics=intrinsics)


def shot_from_json(text: str, *, scene_depth: float = 1.0, start: Tensor | None = None) -> Shot:
    """Read a document of the browser widget.

    Args:
        text: The document.
        scene_depth: Distance, in scene units, of what the first camera looks at.
        start: (4, 4) ``camera_to_world`` of the first camera; None is the identity. It counts
            where the document's ``space`` is ``start_camera``.

    Raises:
        GeometryError: The depth or the start camera make no sense.
        ShapeError: The start camera is not a 4x4 matrix.
        CacheFormatError: The text is damaged, foreign, from a newer version, of an unstated
            convention, or holds something that is no part of a shot.
        TrajectoryError: There are no keyframes, two or two cuts at one frame, or a cut to a
            camera that is not there.
    """
    expect_scene_depth(scene_depth)
    data, space = keyframe_document(text)
    cameras = {MAIN_CAMERA: keyframes_of(data.get("keyframes"), "the keyframe text")}
    for item in _objects(data, "cameras", MAX_CAMERAS):
        name = item.get("name")
        if not isinstance(name, str) or name in cameras or not 0 < len(name) <= _LONGEST_NAME:
            raise CacheFormatError(
                "A camera has no name of its own", got=describe(name),
                expected=f"a text of at most {_LONGEST_NAME} characters, other than "
                + ", ".join(cameras),
            )  # fmt: skip
        cameras[name] = keyframes_of(item.get("keyframes"), f"camera {describe(name)}")
    subject = _subject(data)
    if space == "start_camera":
        cameras = {name: placed(keys, scene_depth, start) for name, keys in cameras.items()}
        if subject is not None:
            (at,) = placed([Keyframe(0, subject, (0, 0, 0, 1))], scene_depth, start)
            subject = at.position
    cuts = tuple(_cut(item) for item in _objects(data, "cuts", MAX_CUTS))
    _objects(data, "takes", MAX_CAMERAS)
    return Shot(cameras, cuts, subject, _shake(data.get("shake"), scene_depth))


def _objects(data: Mapping[str, Any], name: str, most: int) -> list[dict[str, Any]]:
    items = data.get(name, [])
    if isinstance(items, list) and len(items) <= most and all(isinstance(i, dict) for i in items):
        return items
    raise CacheFormatError(
        f'"{name}" of the keyframe text is malformed', got=describe(items),
        expected=f"a list of at most {most} objects",
    )  # fmt: skip


def _subject(data: Mapping[str, Any]) -> tuple[float, float, float] | None:
    if data.get("subject") is None:
        return None
    x, y, z = expect_numbers(data["subject"], 3, '"subject" of the keyframe text')
    return x, y, z


def _cut(item: Mapping[str, Any]) -> Cut:
    frame, camera = item.get("frame"), item.get("camera")
    if type(frame) is not int or frame < 1 or not isinstance(camera, str):
        raise CacheFormatError(
            "A cut is malformed", got=f"frame {describe(frame)}, camera {describe(camera)}",
            expected="a frame from 1 and the name of a camera",
        )  # fmt: skip
    return Cut(frame, camera)


def _shake(item: object, scene_depth: float) -> Shake | None:
    if item is None:
        return None
    if not isinstance(item, dict) or type(item.get("seed")) is not int:
        raise CacheFormatError(
            '"shake" of the keyframe text is malformed', got=describe(item),
            expected="an object with a whole number as seed, degrees, distance and hz",
        )  # fmt: skip
    numbers = [item.get(name) for name in ("degrees", "distance", "hz")]
    degrees, distance, hz = expect_numbers(numbers, 3, '"shake" of the keyframe text')
    try:
        return Shake(item["seed"], degrees, distance * scene_depth, hz)
    except MirageError as error:
        raise CacheFormatError("The shake is none", got=str(error)) from error
