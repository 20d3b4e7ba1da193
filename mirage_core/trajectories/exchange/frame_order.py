"""In which order the pictures of a file are played, and which camera of a rig is.

Numbers in names count by value: ``frame9`` comes before ``frame10``. Pictures in several
folders, or with names that count the same numbers twice (``left_1``, ``right_1``), are those of
several cameras, and are never played one after the other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from ...errors import CacheFormatError

_DIGITS = re.compile(r"(\d+)")
_SUFFIX = re.compile(r"\.[A-Za-z]\w*$")
_CAMERA = re.compile(r"(?:cam|camera|view|eye|sensor|lens)[ _-]?$", re.IGNORECASE)
_DECIMAL = re.compile(r"\d{1,20}\.(\d{1,20})")
_SHOWN = 8

NaturalKey = tuple[tuple[int, str] | str, ...]


@dataclass(frozen=True)
class FrameOrder:
    """Which frames of a file are played.

    Attributes:
        frames: Numbers of the frames in the file, in the order of the path.
        cameras: Names of the cameras; empty where there is one.
        note: A sentence about the choice, or "".
    """

    frames: tuple[int, ...]
    cameras: tuple[str, ...] = ()
    note: str = ""


def natural_key(name: str) -> NaturalKey:
    """A key that sorts names with their numbers by value."""
    parts = _DIGITS.split(name)
    # Length and digits, not int: a name may have more digits than Python converts.
    return tuple(
        (len(part.lstrip("0")), part.lstrip("0")) if number % 2 else part
        for number, part in enumerate(parts)
    )


def choose(cameras: Sequence[str], wanted: str, what: str) -> tuple[str, str]:
    """The camera to play of several, and a sentence that names the others.

    Args:
        cameras: Their names, one or more.
        wanted: A name, or "" for the first one.
        what: How messages call the file.

    Raises:
        CacheFormatError: There is no camera of that name.
    """
    if wanted and wanted not in cameras:
        known = ", ".join(cameras[:_SHOWN])
        raise CacheFormatError(
            f"{what} has no camera of this name",
            got=repr(wanted[:60]),
            expected=known + (" ..." if len(cameras) > _SHOWN else ""),
            fix="Choose one of them, or leave the name empty for the first",
        )
    chosen = wanted or cameras[0]
    if len(cameras) == 1:
        return chosen, ""
    known = ", ".join(cameras[:_SHOWN]) + (" ..." if len(cameras) > _SHOWN else "")
    return chosen, f"{len(cameras)} cameras in the file ({known}): {chosen} is played."


def play_order(
    names: Sequence[str], camera: str, what: str, *, sort_words: bool = False
) -> FrameOrder:
    """Order of the frames of one camera.

    Args:
        names: Name of every frame's picture, with folders; "" where it has none.
        camera: Which camera of a rig to play, or "" for the first one.
        what: How messages call the file.
        sort_words: Whether names without any number are sorted too.

    Raises:
        CacheFormatError: There is no camera of that name.
    """
    paths = [_SUFFIX.sub("", name.replace("\\", "/")) for name in names]
    if not all(paths):
        groups = {"": list(range(len(paths)))}
    else:
        groups = _cameras(paths)
    if len(groups) == 1:
        if camera:
            raise CacheFormatError(
                f"{what} holds one camera only",
                got=repr(camera[:60]),
                fix="Leave the name of the camera empty",
            )
        ((_, frames),) = groups.items()
        return FrameOrder(_sorted(frames, paths, sort_words))
    order = sorted(groups, key=natural_key)
    chosen, note = choose(order, camera, what)
    return FrameOrder(_sorted(groups[chosen], paths, sort_words), tuple(order), note)


def _sorted(frames: list[int], paths: Sequence[str], sort_words: bool) -> tuple[int, ...]:
    stems = [paths[frame].rpartition("/")[2] for frame in frames]
    if _are_decimals(stems):
        return tuple(frame for _, frame in sorted(zip(map(Decimal, stems), frames, strict=True)))
    if sort_words or all(_DIGITS.search(paths[frame]) for frame in frames):
        return tuple(sorted(frames, key=lambda frame: natural_key(paths[frame])))
    return tuple(frames)


def _are_decimals(stems: list[str]) -> bool:
    """Whether names are times such as 1.05, and not two numbers such as take 1, frame 5."""
    found = [_DECIMAL.fullmatch(stem) for stem in stems]
    parts = [match[1] for match in found if match]
    if len(parts) < len(stems) or len({Decimal(stem) for stem in stems}) < len(stems):
        return False
    counts = {int(part) for part in parts if part == str(int(part))}
    in_a_row = len(counts) == max(counts, default=0) - min(counts, default=0) + 1
    return not (in_a_row and all(part == str(int(part)) for part in parts))


def _cameras(paths: Sequence[str]) -> dict[str, list[int]]:
    folders: dict[str, list[int]] = {}
    for frame, path in enumerate(paths):
        folders.setdefault(path.rpartition("/")[0], []).append(frame)
    if len(folders) == len(paths) and _are_numbered(list(folders)):
        return {"": list(range(len(paths)))}
    common = _common_folder(list(folders))
    result: dict[str, list[int]] = {}
    for folder, frames in folders.items():
        for template, some in _templates(frames, paths).items():
            label = "/".join(part for part in (folder[common:].strip("/"), template) if part)
            result.setdefault(label or ".", []).extend(some)
    return result


def _are_numbered(folders: list[str]) -> bool:
    """Whether folders are numbers of frames: a way to store them, not a rig."""
    names = [folder.rpartition("/")[2] for folder in folders]
    kinds = {tuple(_DIGITS.split(name)[::2]) for name in names}
    return len(kinds) == 1 and all(
        _DIGITS.search(name) and not _CAMERA.search(_DIGITS.split(name)[0]) for name in names
    )


def _templates(frames: list[int], paths: Sequence[str]) -> dict[str, list[int]]:
    """Frames of one folder by what is the same in their names, if these count apart."""
    groups: dict[str, set[tuple[str, ...]]] = {}
    for frame in frames:
        template, numbers = _template(paths[frame].rpartition("/")[2])
        groups.setdefault(template, set()).add(numbers)
    seen: set[tuple[str, ...]] = set()
    twice = False
    for group in groups.values():
        counted = {numbers for numbers in group if numbers}
        twice = twice or bool(seen & counted)
        seen |= counted
    if not twice:
        return {"": frames}
    by_template: dict[str, list[int]] = {}
    for frame in frames:
        template, _ = _template(paths[frame].rpartition("/")[2])
        by_template.setdefault(template, []).append(frame)
    return by_template


def _template(stem: str) -> tuple[str, tuple[str, ...]]:
    """A name with ``#`` for its numbers, and the numbers; that of a camera stays in the name."""
    parts = _DIGITS.split(stem)
    numbers = []
    for index in range(1, len(parts), 2):
        if len(parts) > 3 and _CAMERA.search(parts[index - 1]):  # noqa: PLR2004
            continue
        numbers.append(parts[index].lstrip("0"))
        parts[index] = "#"
    return "".join(parts), tuple(numbers)


def _common_folder(folders: list[str]) -> int:
    """Characters of the folders that all of them begin with."""
    split = [folder.split("/") for folder in folders]
    depth = 0
    while all(len(parts) > depth + 1 for parts in split) and (
        len({parts[depth] for parts in split}) == 1
    ):
        depth += 1
    return len("/".join(split[0][:depth]))
