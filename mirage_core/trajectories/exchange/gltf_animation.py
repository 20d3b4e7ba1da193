"""What moves in a glTF file: which animations count together, and their curves at any time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from ...errors import CacheFormatError, TrajectoryError
from ..files import describe
from .gltf_file import GltfFile
from .gltf_write import POINTER

NODES, CAMERAS = "nodes", "cameras"
PATHS: Final = {
    (NODES, "translation"): "VEC3",
    (NODES, "rotation"): "VEC4",
    (NODES, "scale"): "VEC3",
    (CAMERAS, "yfov"): "SCALAR",
    (CAMERAS, "aspectRatio"): "SCALAR",
}
"""Animated values that place a camera or are its lens, and the type of each."""

_SHOWN: Final = 10
"""Names that a message repeats."""

_NEAR: Final = 1e-9
"""Length below which a quaternion has none."""

_EARLY: Final = 1e-6
"""Seconds by which a time may be before its key and still count as being at it."""

_ROUNDED: Final = 2.4e-7
"""The same as a share of the time: keys are stored as float32."""


class Part(NamedTuple):
    """A part of a file that can be animated: `NODES` or `CAMERAS`, and its number there."""

    kind: str
    number: int


@dataclass(frozen=True, eq=False)
class Track:
    """One animated value.

    Attributes:
        times: (K,) seconds, rising.
        values: (K, D) values of the keys; (K, 3, D) for ``CUBICSPLINE``: incoming tangent,
            value, outgoing tangent.
        mode: ``LINEAR``, ``STEP`` or ``CUBICSPLINE``.
    """

    times: Tensor
    values: Tensor
    mode: str

    @property
    def moves(self) -> bool:
        """Whether the value is not the same all the time."""
        return not bool((self.values == self.values[:1]).all())

    def at(self, times: Tensor) -> Tensor:
        """(F, D) values at (F,) times; held before the first and after the last key."""
        # Between two keys of a curve the share below is clamped, so a key that counts too early
        # changes nothing that can be seen; of steps it is the value itself.
        late = times + _EARLY + _ROUNDED * times.abs()
        upper = torch.searchsorted(self.times.contiguous(), late, right=True)
        upper = upper.clamp(1, len(self.times))
        lower = upper - 1
        upper = upper.clamp(max=len(self.times) - 1)
        if self.mode == "STEP":
            return self.values[lower]
        span = (self.times[upper] - self.times[lower]).clamp(min=1e-12)
        share = ((times - self.times[lower]) / span).clamp(0, 1)[:, None]
        if self.mode == "LINEAR":
            return self.values[lower] + share * (self.values[upper] - self.values[lower])
        out = self.values[lower, 2] * span[:, None]
        into = self.values[upper, 0] * span[:, None]
        start, end = self.values[lower, 1], self.values[upper, 1]
        square, cube = share**2, share**3
        return (
            (2 * cube - 3 * square + 1) * start
            + (cube - 2 * square + share) * out
            + (3 * square - 2 * cube) * end
            + (cube - square) * into
        )

    def rotations_at(self, times: Tensor) -> Tensor:
        """(F, 3, 3) rotations at (F,) times, of values that are quaternions (x, y, z, w).

        Raises:
            CacheFormatError: A quaternion has no length.
        """
        from scipy.spatial.transform import Rotation, Slerp

        if self.mode == "CUBICSPLINE":
            rotations = Rotation.from_quat(expect_turns(self.at(times)).numpy())
            return torch.from_numpy(rotations.as_matrix())
        rotations = Rotation.from_quat(expect_turns(self.values).numpy())
        if len(self.times) == 1 or self.mode == "STEP":
            keys = torch.arange(len(self.times), dtype=torch.float64)
            index = Track(self.times, keys, "STEP").at(times).long()
            return torch.from_numpy(rotations.as_matrix())[index]
        inside = times.clamp(float(self.times[0]), float(self.times[-1])).numpy()
        return torch.from_numpy(Slerp(self.times.numpy(), rotations)(inside).as_matrix())


def expect_turns(quaternions: Tensor) -> Tensor:
    """(K, 4) quaternions themselves; raises `CacheFormatError` where one has no length."""
    if bool((quaternions.norm(dim=1) < _NEAR).any()):
        raise CacheFormatError(
            "An animated rotation has a length of 0",
            expected="quaternions of length 1",
            fix="Export the animation again",
        )
    return quaternions


Curves = dict[tuple[Part, str], Track]
"""Curves by what they animate."""


@dataclass(frozen=True, eq=False)
class Animation:
    """One animation of a file.

    Attributes:
        name: Its name, or its number, counted from 1.
        channels: The sampler of each animated value that can matter to a camera.
        parts: What it animates.
    """

    name: str
    channels: Mapping[tuple[Part, str], dict[str, Any]]
    parts: frozenset[Part]


class Animations:
    """All animations of a file."""

    def __init__(self, file: GltfFile) -> None:
        self._file = file
        found = file.objects(file.document, "animations")
        self.all = [self._animation(data, number) for number, data in enumerate(found)]
        self._tracks: dict[tuple[int, str], Track] = {}

    def named(self, name: str) -> Animation | None:
        """The animation of a name or, counted from 1, of a number; None for an empty name.

        Raises:
            TrajectoryError: There is none.
        """
        return choose(name, [one.name for one in self.all], self.all, "animation", self._file)

    def together(self, parts: Iterable[Part], chosen: Animation | None) -> list[Animation]:
        """The animations that move the given parts at one time.

        Several count where each moves parts of its own, such as a rig and the camera on it.
        Of those that move the same part, which are several takes, only the first counts; takes
        in which nothing changes come last.

        Args:
            parts: A camera, and all nodes that carry it.
            chosen: The animation that counts before all others.
        """
        parts = set(parts)
        order = sorted(self.all, key=lambda animation: not self._moves(animation, parts))
        order = order if chosen is None else [chosen, *order]
        taken: set[Part] = set()
        found: list[Animation] = []
        for animation in order:
            moved = animation.parts & parts
            if moved and not moved & taken:
                taken |= moved
                found.append(animation)
        return found

    def _moves(self, animation: Animation, parts: set[Part]) -> bool:
        return any(track.moves for track in self.curves([animation], parts).values())

    def curves(self, animations: Iterable[Animation], parts: Iterable[Part]) -> Curves:
        """The curves of the given parts in animations that count together.

        Raises:
            CacheFormatError: A curve is malformed, or has two keys at one time.
        """
        parts = set(parts)
        return {
            key: self._track(sampler, key[1], animation.name, PATHS[key[0].kind, key[1]])
            for animation in animations
            for key, sampler in animation.channels.items()
            if key[0] in parts
        }

    def _animation(self, data: dict[str, Any], number: int) -> Animation:
        file = self._file
        name = data.get("name")
        name = name if isinstance(name, str) and name else str(number + 1)
        where = f"animation {describe(name)}"
        samplers = file.objects(data, "samplers", where)
        channels: dict[tuple[Part, str], dict[str, Any]] = {}
        for channel in file.objects(data, "channels", where):
            key = self._target(file.part(channel, "target", where), where)
            if key is None:
                continue
            if key in channels:
                raise file.malformed(
                    f"{where} animates {key[1]} twice", key[0].number, "one channel for each value"
                )
            sampler = file.index(channel.get("sampler"), len(samplers), f"a sampler of {where}")
            channels[key] = samplers[sampler]
        return Animation(name, channels, frozenset(part for part, _ in channels))

    def _target(self, target: dict[str, Any], where: str) -> tuple[Part, str] | None:
        """What a channel animates; None for what moves no camera."""
        kind, path, number = NODES, target.get("path"), target.get("node")
        if path == "pointer":
            extensions = self._file.part(target, "extensions", where)
            pointer = self._file.part(extensions, POINTER, where).get("pointer")
            words = pointer.split("/")[1:] if isinstance(pointer, str) else []
            if len(words) < 3 or not words[1].isdecimal() or len(words[1]) > 9:
                return None
            kind, number, path = words[0], int(words[1]), words[-1]
        elif number is None:
            return None
        if not isinstance(path, str) or (kind, path) not in PATHS:
            return None
        count = len(self._file.objects(self._file.document, kind))
        return Part(kind, self._file.index(number, count, f"what {where} animates")), path

    def _track(self, sampler: dict[str, Any], path: str, name: str, kind: str) -> Track:
        key = id(sampler), kind
        if key not in self._tracks:
            self._tracks[key] = self._read(sampler, f'"{path}" of animation {describe(name)}', kind)
        return self._tracks[key]

    def _read(self, sampler: dict[str, Any], where: str, kind: str) -> Track:
        file = self._file
        mode = sampler.get("interpolation", "LINEAR")
        if mode not in ("LINEAR", "STEP", "CUBICSPLINE"):
            raise file.malformed(
                f"the interpolation of {where}", mode, "LINEAR, STEP or CUBICSPLINE"
            )
        times = file.accessor(sampler.get("input"), ("SCALAR",), f"times of {where}")[:, 0]
        values = file.accessor(sampler.get("output"), (kind,), where)
        each = 3 if mode == "CUBICSPLINE" else 1
        if len(values) != each * len(times):
            raise file.malformed(
                f"{where} has {len(values)} values", len(times), "as many as there are times"
            )
        late = (times[1:] <= times[:-1]).nonzero().flatten()
        if len(late):
            one, other = times[late[0] : late[0] + 2].tolist()
            raise CacheFormatError(
                f"{where} of {file.name} has "
                + ("two keys at one time" if one == other else "keys that go back in time"),
                got=f"keys {int(late[0])} and {int(late[0]) + 1} at {one:g} and {other:g} seconds",
                expected="each key later than the one before",
                fix="Bake the animation to one key for each frame, and export it again",
            )
        return Track(times, values.view(len(times), 3, -1) if each == 3 else values, mode)


def choose(name: str, names: list[str], items: list[Any], what: str, file: GltfFile) -> Any:
    """The item of a name or, counted from 1, of a number; None for an empty name.

    Args:
        name: The name, as a user gives it.
        names: Names of all items.
        items: The items.
        what: What they are, for messages.
        file: Where they stand.

    Raises:
        TrajectoryError: There is no such item.
    """
    name = name.strip()
    if not name:
        return None
    if name in names:
        return items[names.index(name)]
    if name.isdecimal() and 1 <= int(name[:9]) <= len(items):
        return items[int(name[:9]) - 1]
    raise TrajectoryError(
        f"{file.name} has no {what} of this name",
        got=describe(name),
        expected=listed(names) or f"nothing: the file has no {what}",
        fix="Choose one of these, or leave the name empty",
    )


def listed(names: list[str]) -> str:
    """Names for a message, at most ten of them."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(describe(name) for name in names[:_SHOWN]) + more
