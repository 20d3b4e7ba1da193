"""Ready-made camera moves, and the easings that keyframes share with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from ..constants import DEFAULT_FPS
from ..errors import GeometryError, TrajectoryError
from ..geometry.trajectory import Trajectory, expect_intrinsics
from ..geometry.transform import invert_rigid, look_at, rigid, rotation_about
from ..validate import expect_frame_count, expect_range, expect_rigid, expect_shape
from .files import MAX_FRAMES

MAX_AMOUNT: Final = 10.0

MAGNITUDES: Final[Mapping[str, float]] = MappingProxyType(
    {
        # Turns on the spot, in degrees.
        "pan": 25.0,  # to the right
        "tilt": 15.0,  # up
        "roll": 15.0,  # clockwise, seen from behind the camera
        # Straight moves, in scene depths.
        "truck": 0.3,  # to the right
        "pedestal": 0.2,  # up
        # Approaches, as the part of the distance to the target that amount 1 covers. Each
        # further unit covers the same part of what is left: the target is never reached, and
        # amount -1 is the way back.
        "dolly": 0.35,  # forward
        "dolly_zoom": 0.35,  # forward, while the lens widens to keep the target's size
        # Moves around the target, which lies one scene depth ahead and stays in the middle.
        "orbit": 30.0,  # degrees to the right on a level circle
        "arc": 20.0,  # degrees to the right on the sphere around the target ...
        "arc_rise": 8.0,  # ... and degrees up
        "crane": 0.25,  # scene depths up
        "spiral": 0.08,  # last radius in scene depths; clockwise for positive amounts
        "spiral_turns": 2.0,  # full circles, whatever the amount
        "spiral_forward": 0.2,  # approach, as in dolly
        "lemniscate": 0.15,  # half the width of the figure eight in scene depths, first right
        "lemniscate_height": 0.06,  # half its height, first up
        # The lens alone.
        "zoom": 1.5,  # factor of the focal length, to the power of the amount
    }
)
"""What amount = 1 means, for every preset. Negative amounts go the other way."""


@dataclass(frozen=True, eq=False)
class _Motion:
    """Cameras of F frames in the axes of the first, for a scene whose depth is 1.

    ``rotation`` (F, 3, 3) and ``position`` (F, 3) are camera to start camera; ``focal`` (F,)
    multiplies the focal lengths.
    """

    rotation: Tensor
    position: Tensor
    focal: Tensor


def _motion(
    s: Tensor,
    rotation: Tensor | None = None,
    position: Tensor | None = None,
    focal: Tensor | None = None,
) -> _Motion:
    eye = torch.eye(3, dtype=s.dtype).expand(len(s), 3, 3)
    return _Motion(
        eye if rotation is None else rotation,
        torch.zeros(len(s), 3, dtype=s.dtype) if position is None else position,
        torch.ones_like(s) if focal is None else focal,
    )


def _vector(
    s: Tensor, x: Tensor | float = 0, y: Tensor | float = 0, z: Tensor | float = 0
) -> Tensor:
    return torch.stack([torch.zeros_like(s) + part for part in (x, y, z)], dim=-1)


def _remaining(name: str, p: Tensor) -> Tensor:
    """The part of the distance to the target that is left after an approach."""
    return torch.pow(1 - MAGNITUDES[name], p)


def _turn(name: str, axis: str, p: Tensor) -> Tensor:
    return rotation_about(axis, torch.deg2rad(MAGNITUDES[name] * p))


def _facing(position: Tensor) -> _Motion:
    """Upright cameras at ``position`` (F, 3) that face the target at (0, 0, 1)."""
    target = torch.tensor([0.0, 0.0, 1.0], dtype=position.dtype).expand_as(position)
    return _motion(position[:, 0], look_at(position, target)[:, :3, :3], position)


def _around(rotation: Tensor) -> _Motion:
    """Cameras turned by ``rotation`` (F, 3, 3), moved so that the target stays put."""
    position = -rotation[:, :, 2]
    position[:, 2] += 1
    return _motion(position[:, 0], rotation, position)


def _dolly_zoom(amount: float, s: Tensor) -> _Motion:
    left = _remaining("dolly_zoom", amount * s)
    return _motion(s, position=_vector(s, z=1 - left), focal=left)


def _arc(amount: float, s: Tensor) -> _Motion:
    return _around(_turn("arc", "y", -amount * s) @ _turn("arc_rise", "x", -amount * s))


def _spiral(amount: float, s: Tensor) -> _Motion:
    angle = 2 * math.pi * MAGNITUDES["spiral_turns"] * s
    radius = MAGNITUDES["spiral"] * amount * s
    # The height ignores the sign, so that a negative amount turns the circles round.
    return _facing(
        _vector(
            s,
            x=radius * torch.sin(angle),
            y=-radius.abs() * torch.cos(angle),
            z=1 - _remaining("spiral_forward", amount * s),
        )
    )


def _lemniscate(amount: float, s: Tensor) -> _Motion:
    # The angle runs 0..pi, -pi..0, so that the figure closes without rounding error.
    angle = 2 * math.pi * (s - torch.round(s))
    return _facing(
        _vector(
            s,
            x=MAGNITUDES["lemniscate"] * amount * torch.sin(angle),
            y=-MAGNITUDES["lemniscate_height"] * amount * torch.sin(2 * angle),
        )
    )


_MOVES: Final[Mapping[str, Callable[[float, Tensor], _Motion]]] = MappingProxyType(
    {
        "static": lambda a, s: _motion(s),
        "dolly": lambda a, s: _motion(s, position=_vector(s, z=1 - _remaining("dolly", a * s))),
        "truck": lambda a, s: _motion(s, position=_vector(s, x=MAGNITUDES["truck"] * a * s)),
        "pedestal": lambda a, s: _motion(s, position=_vector(s, y=-MAGNITUDES["pedestal"] * a * s)),
        "pan": lambda a, s: _motion(s, _turn("pan", "y", a * s)),
        "tilt": lambda a, s: _motion(s, _turn("tilt", "x", a * s)),
        "roll": lambda a, s: _motion(s, _turn("roll", "z", a * s)),
        "orbit": lambda a, s: _around(_turn("orbit", "y", -a * s)),
        "arc": _arc,
        "crane": lambda a, s: _facing(_vector(s, y=-MAGNITUDES["crane"] * a * s)),
        "spiral": _spiral,
        "lemniscate": _lemniscate,
        "zoom": lambda a, s: _motion(s, focal=torch.pow(MAGNITUDES["zoom"], a * s)),
        "dolly_zoom": _dolly_zoom,
    }
)

PRESETS: Final[tuple[str, ...]] = tuple(_MOVES)
"""Names of the moves; `MAGNITUDES` says how far each one goes."""

_EASINGS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = MappingProxyType(
    {
        "linear": lambda t: t,
        "smooth": lambda t: t * t * (3 - 2 * t),
        "ease_in": lambda t: t * t,
        "ease_out": lambda t: t * (2 - t),
    }
)

EASINGS: Final[tuple[str, ...]] = tuple(_EASINGS)
"""``linear``: constant speed. ``smooth``: at rest at both ends. ``ease_in``: starts from rest.
``ease_out``: comes to rest."""


def expect_name(what: str, name: str, names: tuple[str, ...]) -> None:
    """Raise `TrajectoryError`, which lists the valid names, unless ``name`` is one of them."""
    if name not in names:
        raise TrajectoryError(
            f"There is no {what} of this name", got=repr(name), expected=", ".join(names)
        )


def ease(easing: str, t: Tensor) -> Tensor:
    """Remap time in [0, 1] to progress in [0, 1]; 0 and 1 map to themselves exactly.

    Raises:
        TrajectoryError: There is no easing of this name.
    """
    expect_name("easing", easing, EASINGS)
    return _EASINGS[easing](t)


def expect_scene_depth(scene_depth: float) -> None:
    """Raise `GeometryError` unless the depth is a finite number above 0."""
    if not (math.isfinite(scene_depth) and scene_depth > 0):
        raise GeometryError(
            "The scene depth is not a distance",
            got=scene_depth,
            expected="a finite number above 0, in scene units",
            fix="Use the median of the valid depth",
        )


def frame_intrinsics(intrinsics: Tensor, focal: Tensor) -> Tensor:
    """Intrinsics of F frames: the focal lengths multiplied, the principal point kept.

    Args:
        intrinsics: (3, 3) in pixels.
        focal: (F,) float64 factors above 0.

    Returns:
        (F, 3, 3) float64 on the CPU.

    Raises:
        ShapeError: The matrix is not 3x3.
        GeometryError: The matrix is not that of a pinhole camera.
    """
    expect_shape("The intrinsics", intrinsics, "3 3")
    expect_intrinsics("The intrinsics", intrinsics[None])
    scaled = intrinsics.detach().to("cpu", torch.float64).repeat(len(focal), 1, 1)
    scaled[:, :2, :2] *= focal[:, None, None]
    return scaled


def poses_from_start(relative: Tensor, start: Tensor | None) -> Tensor:
    """``world_to_camera`` of cameras that are given in the axes of a start camera.

    Args:
        relative: (F, 4, 4) float64, camera to start camera.
        start: (4, 4) ``camera_to_world`` of the start camera, or None for the identity.

    Returns:
        (F, 4, 4) float64 on the CPU; where ``relative`` is the identity, exactly the inverse
        of ``start``.

    Raises:
        ShapeError: The start camera is not a 4x4 matrix.
        GeometryError: The start camera is not a rotation with a translation.
    """
    poses = invert_rigid(relative)
    if start is None:
        return poses
    expect_shape("The start camera", start, "4 4")
    expect_rigid("The start camera", start[None])
    return poses @ invert_rigid(start.detach().to("cpu", torch.float64))


def _expect_length(frames: int) -> None:
    expect_frame_count(frames)
    expect_range("The frames of a move", frames, 1, MAX_FRAMES)


def preset_trajectory(
    preset: str,
    frames: int,
    *,
    intrinsics: Tensor,
    width: int,
    height: int,
    scene_depth: float,
    amount: float = 1.0,
    there_and_back: bool = False,
    easing: str = "smooth",
    fps: float = DEFAULT_FPS,
    start: Tensor | None = None,
) -> Trajectory:
    """Make a camera path from a named move.

    The first frame is the start camera, so that a memory built from the first picture fits.
    The move happens in its axes; distances are in units of ``scene_depth``.

    Args:
        preset: One of `PRESETS`.
        frames: Pixel frames, 4n + 1.
        intrinsics: (3, 3) of the start camera, in pixels.
        width: Picture width in pixels.
        height: Picture height in pixels.
        scene_depth: Distance, in scene units, of what the camera looks at.
        amount: Size of the move in units of `MAGNITUDES`, -10 to 10; negative is the other way.
        there_and_back: Go and return: frame i equals frame F - 1 - i bit for bit.
        easing: One of `EASINGS`; with ``there_and_back`` it holds for each way.
        fps: Frames per second.
        start: (4, 4) ``camera_to_world`` of the start camera; None is the identity.

    Raises:
        TrajectoryError: There is no preset or easing of this name.
        PlanError: ``frames`` is not 4n + 1.
        GeometryError: The depth, the intrinsics or the start camera make no sense.
        ValueRangeError: ``amount``, a size or ``fps`` is out of range.
        ShapeError: A matrix has the wrong shape.
    """
    expect_name("camera preset", preset, PRESETS)
    expect_name("easing", easing, EASINGS)
    _expect_length(frames)
    expect_scene_depth(scene_depth)
    expect_range("The amount", amount, -MAX_AMOUNT, MAX_AMOUNT)
    # The way back is a copy of the way there: vectorised functions may round the same number
    # differently at different places of a tensor.
    there = frames // 2 + 1 if there_and_back else frames
    index = torch.arange(frames)
    if there_and_back:
        index = torch.minimum(index, frames - 1 - index)
    s = ease(easing, torch.linspace(0, 1, there, dtype=torch.float64))
    motion = _MOVES[preset](amount, s)
    poses = poses_from_start(rigid(motion.rotation, motion.position * scene_depth), start)
    return Trajectory(
        world_to_camera=poses[index],
        intrinsics=frame_intrinsics(intrinsics, motion.focal)[index],
        width=width,
        height=height,
        fps=fps,
    )
