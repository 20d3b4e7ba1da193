"""Camera paths through keyframes, and the document that a browser widget saves them in."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from ..constants import DEFAULT_FPS
from ..errors import CacheFormatError, GeometryError, MirageError, TrajectoryError
from ..geometry.trajectory import Trajectory, intrinsics_from_fov
from ..geometry.transform import invert_rigid, rigid
from ..validate import expect_frame_count, expect_range
from .curves import TANGENTS, Array, Places, Speed, aligned, cubic, progress, slopes
from .files import MAX_FRAMES, describe, expect_document, expect_numbers, expect_tag, parse_json
from .presets import (
    EASINGS,
    ease,
    expect_name,
    expect_scene_depth,
    frame_intrinsics,
    poses_from_start,
)

FORMAT: Final = "mirage-keyframes"
VERSION: Final = 2
"""2 where a document holds what the first version did not have: it would mean another path."""
MAX_KEYFRAMES: Final = 10_000
SPACES: Final = ("world", "start_camera")
"""What positions and rotations of a document are relative to: the world, in scene units; or the
shot's first camera, in scene depths, so that a path fits other pictures as presets do."""
MIN_QUATERNION_NORM: Final = 1e-6
_LARGEST: Final = {"position": torch.finfo(torch.float32).max}
"""Slopes between positions that a float32 holds stay finite in double precision."""


@dataclass(frozen=True)
class Keyframe:
    """A camera at one frame; immutable and checked when it is made.

    Attributes:
        frame: Pixel frame, from 0.
        position: Camera centre in world coordinates, scene units.
        quaternion: (x, y, z, w) of ``camera_to_world``, OpenCV axes; of any length but zero.
        fov_x: Horizontal field of view in degrees, for a principal point in the middle; None
            takes the intrinsics of the shot.
        easing: How the way from this keyframe to the next is travelled, one of `EASINGS`.
        speed: Handles of a speed curve (x1, y1, x2, y2) that takes the place of the easing.
        tangent: How the path goes through this keyframe, one of `TANGENTS`.

    Raises:
        GeometryError: A number is NaN or infinite, a position more than a float32 holds, or the
            quaternion is zero.
        TrajectoryError: The frame is not a whole number from 0, a vector has the wrong length,
            or there is no easing or tangent of this name.
        ValueRangeError: The field of view is not between 1 and 170 degrees, or a handle not
            between 0 and 1.
    """

    frame: int
    position: tuple[float, float, float]
    quaternion: tuple[float, float, float, float]
    fov_x: float | None = None
    easing: str = "smooth"
    speed: Speed | None = None
    tangent: str = "monotone"

    def __post_init__(self) -> None:
        if type(self.frame) is not int or not 0 <= self.frame < MAX_FRAMES:
            raise TrajectoryError(
                "A keyframe's frame is not a frame number",
                got=describe(self.frame),
                expected=f"a whole number from 0 to {MAX_FRAMES - 1}",
            )
        for name, count in (("position", 3), ("quaternion", 4)):
            values = tuple(getattr(self, name))
            most = _LARGEST.get(name, sys.float_info.max)
            _expect_vector(f"The {name} of the keyframe at frame {self.frame}", values, count, most)
            object.__setattr__(self, name, tuple(float(value) for value in values))
        if max(map(abs, self.quaternion)) < MIN_QUATERNION_NORM:
            raise GeometryError(
                f"The quaternion of the keyframe at frame {self.frame} is zero",
                got=self.quaternion,
                expected="(x, y, z, w) of length 1; (0, 0, 0, 1) is the identity",
            )
        if self.fov_x is not None:
            expect_range("The keyframe's field of view", self.fov_x, 1, 170)
        expect_name("easing", self.easing, EASINGS)
        expect_name("tangent", self.tangent, TANGENTS)
        if self.speed is not None:
            handles = tuple(self.speed)
            _expect_vector(f"The speed of the keyframe at frame {self.frame}", handles, 4)
            for handle in handles:
                expect_range("A handle of the keyframe's speed", handle, 0, 1)
            object.__setattr__(self, "speed", tuple(float(handle) for handle in handles))


def _expect_vector(
    name: str, values: tuple[float, ...], count: int, most: float = sys.float_info.max
) -> None:
    if len(values) != count:
        raise TrajectoryError(f"{name} has the wrong length", got=len(values), expected=count)
    if not all(abs(value) <= most for value in values):
        raise GeometryError(
            f"{name} is not finite", got=values, expected=f"numbers of at most {most:.4g}"
        )


def _ordered(keyframes: Sequence[Keyframe], frames: int | None = None) -> list[Keyframe]:
    """The keyframes by frame, after checking that they describe a path of ``frames`` frames."""
    if not keyframes:
        raise TrajectoryError("There are no keyframes", expected="at least one keyframe")
    ordered = sorted(keyframes, key=lambda key: key.frame)
    for key, following in zip(ordered, ordered[1:], strict=False):
        if key.frame == following.frame:
            raise TrajectoryError(
                "Two keyframes are at the same frame",
                got=f"frame {key.frame}",
                fix="Move or remove one of them",
            )
    if frames is not None and ordered[-1].frame >= frames:
        raise TrajectoryError(
            "A keyframe lies after the end of the shot",
            got=f"frame {ordered[-1].frame}",
            expected=f"0 to {frames - 1}",
            fix="Move the keyframe, or make the shot longer",
        )
    return ordered


def _eased_times(keys: Sequence[Keyframe], frames: int) -> Tensor:
    """Time of every frame on the curve (F,) float64: held outside the keys, eased between."""
    frame = torch.arange(frames, dtype=torch.float64)
    times = frame.clamp(keys[0].frame, keys[-1].frame)
    for key, following in zip(keys, keys[1:], strict=False):
        span = following.frame - key.frame
        inside = slice(key.frame, following.frame)
        share = (frame[inside] - key.frame) / span
        eased = ease(key.easing, share) if key.speed is None else progress(key.speed, share)
        times[inside] = key.frame + span * eased
    return times


def _log_focal(key: Keyframe, width: int, height: int, focal: float) -> float:
    if key.fov_x is None:
        return 0.0
    return math.log(float(intrinsics_from_fov(width, height, key.fov_x)[0, 0]) / focal)


def _curves(keys: list[Keyframe], values: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Interpolate ``values`` (K, D) and the rotations: (F, D) and (F, 3, 3) at ``times``."""
    import numpy as np
    from scipy.interpolate import PchipInterpolator
    from scipy.spatial.transform import Rotation, Slerp

    quaternions = torch.tensor([key.quaternion for key in keys], dtype=torch.float64)
    # Scaled first: the square of a large number would overflow.
    quaternions = quaternions / quaternions.abs().amax(dim=1, keepdim=True)
    rotations = Rotation.from_quat(quaternions.numpy())
    if len(keys) == 1:
        rotation = torch.from_numpy(rotations.as_matrix()).expand(len(times), 3, 3)
        return values.expand(len(times), -1), rotation
    knots = [float(key.frame) for key in keys]
    tangents = [key.tangent for key in keys]
    matrices = Slerp(knots, rotations)(times.numpy()).as_matrix()
    # Slopes next to zero overflow in the harmonic mean, which then is zero, as it should be.
    with np.errstate(over="ignore"):
        curve = PchipInterpolator(knots, values.numpy(), axis=0)(times.numpy())
    if set(tangents) != {"monotone"}:
        turns = aligned((quaternions / quaternions.norm(dim=1, keepdim=True)).numpy())
        columns = np.concatenate([values.numpy(), turns], axis=1)
        at, segment, bent = _bent(np.array(knots), columns, tangents, times.numpy())
        curve[at] = bent[:, :-4]
        plain = np.array([tangent == "monotone" for tangent in tangents])
        turned = ~(plain[segment] & plain[segment + 1])
        matrices[at[turned]] = Rotation.from_quat(bent[turned, -4:]).as_matrix()
    return torch.from_numpy(curve), torch.from_numpy(matrices)


def _bent(
    knots: Array, values: Array, tangents: list[str], times: Array
) -> tuple[Places, Places, Array]:
    """Frames between the keys, the key that each comes after, and values (N, D) there."""
    import numpy as np

    at = np.flatnonzero((times > knots[0]) & (times < knots[-1]))
    segment = np.searchsorted(knots, times[at], side="right") - 1
    share = (times[at] - knots[segment]) / (knots[segment + 1] - knots[segment])
    ends = slopes(knots, values, tangents)
    return at, segment, cubic(knots, values, ends, segment, share)


def keyframe_trajectory(
    keyframes: Sequence[Keyframe],
    frames: int,
    *,
    intrinsics: Tensor,
    width: int,
    height: int,
    fps: float = DEFAULT_FPS,
) -> Trajectory:
    """Make a camera path that passes through every keyframe.

    Positions and the logarithm of the focal length follow a monotone cubic (PCHIP) through the
    keyframes, which never goes beyond two neighbouring keyframes along any axis; rotations
    take the shortest way (slerp). Another tangent of a keyframe gives the cubic other slopes
    there, see `TANGENTS`; rotations beside it follow such a cubic of their quaternions. The
    easing or the speed of a keyframe remaps the time until the next one. With ``smooth``, the
    default, the camera comes to rest at the keyframe. With ``linear`` it passes through: the
    path and its speed are continuous, and only the speed of turning changes at once. Before the
    first and after the last keyframe, the camera holds still.

    Args:
        keyframes: In any order, at most one for each frame.
        frames: Pixel frames, 4n + 1.
        intrinsics: (3, 3) in pixels, for keyframes without a field of view; keyframes with one
            multiply both focal lengths by the same factor.
        width: Picture width in pixels.
        height: Picture height in pixels.
        fps: Frames per second.

    Raises:
        TrajectoryError: There are no keyframes, two at one frame, or one after the end.
        PlanError: ``frames`` is not 4n + 1.
        GeometryError: The intrinsics are not those of a pinhole camera.
        ShapeError: The intrinsics are not a 3x3 matrix.
        ValueRangeError: A size or ``fps`` is out of range.
    """
    expect_frame_count(frames)
    keys = _ordered(keyframes, frames)
    focal = float(frame_intrinsics(intrinsics, torch.ones(1, dtype=torch.float64))[0, 0, 0])
    rows = [[*key.position, _log_focal(key, width, height, focal)] for key in keys]
    values = torch.tensor(rows, dtype=torch.float64)
    curve, rotation = _curves(keys, values, _eased_times(keys, frames))
    return Trajectory(
        world_to_camera=invert_rigid(rigid(rotation, curve[:, :3])),
        intrinsics=frame_intrinsics(intrinsics, curve[:, 3].exp()),
        width=width,
        height=height,
        fps=fps,
    )


def keyframes_to_json(keyframes: Sequence[Keyframe]) -> str:
    """Keyframes as a JSON document, in order of time.

    Raises:
        TrajectoryError: There are no keyframes, or two at one frame.
    """
    document = {
        "format": FORMAT,
        "version": 1 if all(map(_is_plain, keyframes)) else VERSION,
        "convention": {"axes": "opencv", "matrix": "camera_to_world"},
        "keyframes": [_item(key) for key in _ordered(keyframes)],
    }
    return json.dumps(document, allow_nan=False)


def _is_plain(key: Keyframe) -> bool:
    return key.speed is None and key.tangent == "monotone"


def _item(key: Keyframe) -> dict[str, Any]:
    item: dict[str, Any] = {
        "frame": key.frame, "position": key.position, "quaternion": key.quaternion,
        "fov_x": key.fov_x, "easing": key.easing,
    }  # fmt: skip
    return item if _is_plain(key) else {**item, "speed": key.speed, "tangent": key.tangent}


def keyframes_from_json(
    text: str, *, scene_depth: float = 1.0, start: Tensor | None = None
) -> tuple[Keyframe, ...]:
    """Read a document that `keyframes_to_json` or the browser widget wrote.

    Args:
        text: The document.
        scene_depth: Distance, in scene units, of what the first camera looks at. It counts
            where the document's ``space`` is ``start_camera``, and so does ``start``.
        start: (4, 4) ``camera_to_world`` of the first camera; None is the identity.

    Returns:
        The keyframes in world coordinates and in order of time. ``fov_x``, ``easing``, ``speed``,
        ``tangent`` and ``space`` (``world``) may be left out of the text.

    Raises:
        GeometryError: The depth or the start camera make no sense.
        ShapeError: The start camera is not a 4x4 matrix.
        CacheFormatError: The text is damaged, foreign, from a newer version, of an unstated
            convention, or holds a keyframe that is none.
        TrajectoryError: There are no keyframes, or two at one frame.
    """
    data, space = keyframe_document(text)
    keyframes = keyframes_of(data.get("keyframes"), "the keyframe text")
    if space == "start_camera":
        return placed(keyframes, scene_depth, start)
    return keyframes


def keyframe_document(text: str) -> tuple[dict[str, Any], str]:
    """The document in a text, and what its positions are relative to: one of `SPACES`.

    Raises:
        CacheFormatError: The text is damaged, foreign, from a newer version, or of an unstated
            convention.
    """
    name = "The keyframe text"
    data = expect_document(parse_json(text, name), name, FORMAT, VERSION)
    expect_tag(data, name, "axes", ("opencv",))
    expect_tag(data, name, "matrix", ("camera_to_world",))
    stated = "space" in data["convention"]
    return data, expect_tag(data, name, "space", SPACES) if stated else "world"


def keyframes_of(items: object, name: str) -> tuple[Keyframe, ...]:
    """Keyframes of a list in a document, in order of time.

    Raises:
        CacheFormatError: It is no list, or holds a keyframe that is none.
        TrajectoryError: There are no keyframes, or two at one frame.
    """
    if not isinstance(items, list) or len(items) > MAX_KEYFRAMES:
        raise CacheFormatError(
            f'"keyframes" of {name} is malformed',
            got=describe(items),
            expected=f"a list of at most {MAX_KEYFRAMES}",
        )
    return tuple(_ordered([_keyframe(number, item) for number, item in enumerate(items)]))


def placed(
    keyframes: Sequence[Keyframe], scene_depth: float, start: Tensor | None
) -> tuple[Keyframe, ...]:
    """Keyframes in world coordinates, from some in scene depths and in the axes of a camera.

    Raises:
        GeometryError: The depth or the start camera make no sense.
        ShapeError: The start camera is not a 4x4 matrix.
    """
    expect_scene_depth(scene_depth)
    return tuple(_placed(key, scene_depth, start) for key in keyframes)


def _placed(key: Keyframe, scene_depth: float, start: Tensor | None) -> Keyframe:
    """The keyframe in world coordinates, from one in the axes of the start camera."""
    from scipy.spatial.transform import Rotation

    position = torch.tensor(key.position, dtype=torch.float64) * scene_depth
    quaternion = key.quaternion
    if start is not None:
        poses_from_start(torch.eye(4, dtype=torch.float64)[None], start)  # a rigid 4x4 matrix
        pose = start.detach().to("cpu", torch.float64)
        position = pose[:3, :3] @ position + pose[:3, 3]
        scaled = [value / max(map(abs, quaternion)) for value in quaternion]
        turned = Rotation.from_matrix(pose[:3, :3].numpy()) * Rotation.from_quat(scaled)
        quaternion = tuple(turned.as_quat().tolist())
    return dataclasses.replace(key, position=tuple(position.tolist()), quaternion=quaternion)


def _keyframe(number: int, item: Any) -> Keyframe:
    where = f"Keyframe {number}"
    if not isinstance(item, dict):
        raise CacheFormatError(f"{where} is malformed", got=describe(item), expected="an object")
    x, y, z = expect_numbers(item.get("position"), 3, f'"position" of {where}')
    qx, qy, qz, qw = expect_numbers(item.get("quaternion"), 4, f'"quaternion" of {where}')
    fov_x, easing = item.get("fov_x"), item.get("easing", "smooth")
    if fov_x is not None:
        (fov_x,) = expect_numbers([fov_x], 1, f'"fov_x" of {where}')
    if not isinstance(easing, str):
        raise CacheFormatError(f'"easing" of {where} is malformed', got=describe(easing))
    speed, tangent = item.get("speed"), item.get("tangent", "monotone")
    if speed is not None:
        speed = expect_numbers(speed, 4, f'"speed" of {where}')
    if not isinstance(tangent, str):
        raise CacheFormatError(f'"tangent" of {where} is malformed', got=describe(tangent))
    try:
        return Keyframe(
            item.get("frame"), (x, y, z), (qx, qy, qz, qw), fov_x, easing, speed, tangent  # type: ignore[arg-type]
        )
    except MirageError as error:
        raise CacheFormatError(f"{where} is not a camera", got=str(error)) from error
