"""Camera paths typed as keys, such as ``w*16 l*24 .*8 wl*12``.

- ``w`` / ``s``: walk forward / back
- ``a`` / ``d``: walk left / right
- ``j`` / ``l``: turn left / right
- ``i`` / ``k``: look up / down
- ``.``: stay

A token is one or more keys that act together, and ``*n`` repeats it for n frames. Tokens are
separated by spaces, line ends or commas; case does not matter. Keys that contradict each other
cancel. Walking stays level, as in a game: it happens in the plane of the start camera's x and z
axes, whatever way the camera looks up or down. Every key adds its own full step, so that ``wd``
goes further than ``w``. A step that turns walks along the heading halfway through the turn;
``sj`` therefore undoes ``wl`` exactly. Nothing is smoothed.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from ..constants import DEFAULT_FPS, TEMPORAL_STRIDE
from ..errors import TrajectoryError
from ..geometry.trajectory import Trajectory
from ..geometry.transform import rigid, rotation_about
from ..validate import expect_range
from .presets import expect_scene_depth, frame_intrinsics, poses_from_start

MAX_STEPS: Final = 100_000
DEFAULT_STEP: Final = 0.01
"""Walking distance per frame, in scene depths."""
DEFAULT_TURN: Final = 1.0
"""Degrees per frame."""
MAX_LOOK: Final = 90.0
"""Degrees up or down, beyond which the picture would be upside down."""

KEYS: Final = MappingProxyType(
    # Forward, right, turn right, look up.
    {
        "w": (1, 0, 0, 0),
        "s": (-1, 0, 0, 0),
        "a": (0, -1, 0, 0),
        "d": (0, 1, 0, 0),
        "j": (0, 0, -1, 0),
        "l": (0, 0, 1, 0),
        "i": (0, 0, 0, 1),
        "k": (0, 0, 0, -1),
        ".": (0, 0, 0, 0),
    }
)
_HELP: Final = (
    "w/s forward/back, a/d left/right, j/l turn left/right, i/k look up/down, . stay; "
    "keys of one token act together, *n repeats it, such as wl*12"
)
_TOKEN: Final = re.compile(r"([wasdijkl.]+)(?:\*([0-9]+))?", re.IGNORECASE)


def _token_error(what: str, match: re.Match[str]) -> TrajectoryError:
    token = match.group() if len(match.group()) <= 40 else match.group()[:40] + "..."
    return TrajectoryError(what, got=f"{token!r} at character {match.start() + 1}", expected=_HELP)


def _repeats(match: re.Match[str], digits: str | None) -> int:
    if digits is None:
        return 1
    digits = digits.lstrip("0")
    if not digits:
        raise _token_error("A token is repeated zero times", match)
    # By length first: converting very long digit strings is slow, and refused by Python.
    return int(digits) if len(digits) <= len(str(MAX_STEPS)) else MAX_STEPS + 1


def _parse(text: str) -> tuple[Tensor, Tensor, list[re.Match[str]]]:
    """Moves (T, 4) and repeats (T,) of the tokens, int64, and where the tokens are."""
    moves, counts, places, total = [], [], [], 0
    for place in re.finditer(r"[^\s,]+", text):
        match = _TOKEN.fullmatch(place.group())
        if match is None:
            raise _token_error("The path contains a token that does not consist of keys", place)
        keys = match[1].lower()
        if len(set(keys)) < len(keys):
            raise _token_error("A token contains a key twice; write w*2 or w w", place)
        count = _repeats(place, match[2])
        total += count
        if total > MAX_STEPS:
            raise _token_error(f"The path is longer than {MAX_STEPS} steps", place)
        moves.append([sum(parts) for parts in zip(*(KEYS[key] for key in keys), strict=True)])
        counts.append(count)
        places.append(place)
    if not moves:
        raise TrajectoryError("The path contains no keys", got=repr(text[:40]), expected=_HELP)
    return torch.tensor(moves), torch.tensor(counts), places


def _padded(steps: int) -> int:
    """The smallest 4n + 1 that holds the start frame and all steps."""
    return -(-steps // TEMPORAL_STRIDE) * TEMPORAL_STRIDE + 1


def keyboard_frames(text: str) -> int:
    """Pixel frames, 4n + 1, of the path that `keyboard_trajectory` makes from ``text``.

    Raises:
        TrajectoryError: The text is malformed.
    """
    return _padded(int(_parse(text)[1].sum()))


def _expect_look(look: Tensor, counts: Tensor, places: list[re.Match[str]]) -> None:
    beyond = (look.abs() > MAX_LOOK + 1e-9).nonzero().flatten()
    if len(beyond):
        token = int(torch.searchsorted(counts.cumsum(0), beyond[0] + 1))
        raise _token_error("The path looks beyond straight up or straight down", places[token])


def keyboard_trajectory(
    text: str,
    *,
    intrinsics: Tensor,
    width: int,
    height: int,
    scene_depth: float,
    fps: float = DEFAULT_FPS,
    step: float = DEFAULT_STEP,
    turn_degrees: float = DEFAULT_TURN,
    start: Tensor | None = None,
) -> Trajectory:
    """Make a camera path from typed keys; the module's text explains the language.

    The first frame is the start camera, so that N steps make N + 1 frames. The last pose is
    held until the number of frames is 4n + 1.

    Args:
        text: The keys.
        intrinsics: (3, 3) of every frame, in pixels.
        width: Picture width in pixels.
        height: Picture height in pixels.
        scene_depth: Distance, in scene units, of what the camera looks at.
        fps: Frames per second.
        step: Walking distance per frame, in scene depths, 0 to 10.
        turn_degrees: Angle per frame of turning and looking, 0 to 90.
        start: (4, 4) ``camera_to_world`` of the start camera; None is the identity.

    Raises:
        TrajectoryError: The text is malformed, is longer than 100000 steps, or looks beyond
            straight up or down.
        GeometryError: The depth, the intrinsics or the start camera make no sense.
        ValueRangeError: ``step``, ``turn_degrees``, a size or ``fps`` is out of range.
        ShapeError: A matrix has the wrong shape.
    """
    moves, counts, places = _parse(text)
    expect_scene_depth(scene_depth)
    expect_range("The step", step, 0, 10)
    expect_range("The turn", turn_degrees, 0, 90)
    steps = moves.repeat_interleave(counts, dim=0)
    # Angles are sums of whole keys, so that turning there and back is exact.
    turn = steps[:, 2].cumsum(0).double() * turn_degrees
    look = steps[:, 3].cumsum(0).double() * turn_degrees
    _expect_look(look, counts, places)
    heading = rotation_about("y", torch.deg2rad(turn - steps[:, 2] * (turn_degrees / 2)))
    local = torch.stack([steps[:, 1], torch.zeros(len(steps)), steps[:, 0]], dim=-1).double()
    position = (heading @ local[:, :, None])[:, :, 0].cumsum(0) * (step * scene_depth)
    rotation = rotation_about("y", torch.deg2rad(turn)) @ rotation_about("x", torch.deg2rad(look))
    first = torch.eye(4, dtype=torch.float64)[None]
    hold = torch.arange(_padded(len(steps))).clamp(max=len(steps))
    poses = poses_from_start(torch.cat([first, rigid(rotation, position)]), start)
    return Trajectory(
        world_to_camera=poses[hold],
        intrinsics=frame_intrinsics(intrinsics, torch.ones(len(hold), dtype=torch.float64)),
        width=width,
        height=height,
        fps=fps,
    )
