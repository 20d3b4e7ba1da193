"""Chunks that shots have in common: kept, found and shared between their folders.

Files of a finished chunk never change, they are only replaced. So a chunk that two shots have in
common is one file with a name in both folders, and each folder is whole without the other.
"""

from __future__ import annotations

import filecmp
import os
import shutil
from pathlib import Path
from typing import Final

from ..errors import MirageError, StorageError
from ..files import TEMPORARY_PREFIX, share_file, storage_error
from ..log import logger
from .chunk_file import chunk_path, clip_path, load_chunk, load_chunks, saved_parts
from .manifest import MANIFEST, read_manifest
from .state import RolloutState

VIDEO: Final = "video.mp4"

MEMORY: Final = "memory.safetensors"
"""Name of the finished memory, where the program that made the shot saves it."""


def keep_take(folder: Path) -> Path:
    """Keep the shot of a folder whole in another one beside it, before the folder goes on.

    The new folder, ``NAME.take-1`` or the next free number, has a second name for each of the
    shot's files. It appears with all of them or not at all. A take that has them already serves
    as it is, so that a program which was killed afterwards makes no second one.

    Returns:
        The folder that holds the shot now.

    Raises:
        StorageError: It cannot be written.
    """
    folder = folder.resolve()
    discard_unfinished_take(folder)
    files = _parts_of_shot(folder)
    number = 1
    while (take := folder.with_name(f"{folder.name}.take-{number}")).exists():
        if _holds(take, files):
            return take
        number += 1
    unfinished = _unfinished_take(folder)
    try:
        unfinished.mkdir()
        for path in files:
            share_file(path, unfinished / path.name)
        unfinished.rename(take)
    except OSError as error:
        raise storage_error(take, error) from error
    return take


def discard_unfinished_take(folder: Path) -> None:
    """Remove what a killed program left of a take; nothing is only there.

    Raises:
        StorageError: It cannot be removed.
    """
    unfinished = _unfinished_take(folder.resolve())
    try:
        if unfinished.exists():
            shutil.rmtree(unfinished)
    except OSError as error:
        raise storage_error(unfinished, error) from error


def remove_all_but(folder: Path, chunks: int) -> None:
    """Remove the video, the finished memory, and all but some leading chunks of a kept shot.

    Raises:
        StorageError: A file cannot be removed.
    """
    kept = {MANIFEST, *(part.name for part in saved_parts(folder, chunks))}
    for path in _parts_of_shot(folder):
        if path.name in kept:
            continue
        try:
            path.unlink()
        except OSError as error:
            raise storage_error(path, error) from error


def take_from_others(folder: Path, state: RolloutState) -> RolloutState:
    """Take chunks over from the folders beside this one whose shots begin as this shot does.

    Args:
        folder: Of the shot.
        state: The state after the chunks that its folder has.

    Returns:
        The state after the last chunk that was taken over; the given state when there is none.

    Raises:
        StorageError: The folder cannot be written.
    """
    for source in _sources(folder, state):
        state = _take_from(source, folder, state)
    return state


def _take_from(source: Path, folder: Path, state: RolloutState) -> RolloutState:
    taken = 0
    while not state.complete and chunk_path(source, state.done).exists():
        try:
            after = load_chunk(source, state)
        except MirageError as error:
            logger.warning(
                "Chunk %d of %s is not taken over: %s", state.done + 1, source.name, error
            )
            break
        try:
            # The clip first: a chunk counts once its tensors are there.
            for path in (clip_path, chunk_path):
                share_file(path(source, state.done), path(folder, state.done))
        except StorageError:
            if chunk_path(source, state.done).exists():
                raise
            logger.info("%s was removed while chunks were taken over from it", source)
            break
        taken += 1
        # What is good here behind a chunk that was not stays as it is.
        state = load_chunks(folder, after)
    return state.taking_over(taken, source) if taken else state


def _sources(folder: Path, state: RolloutState) -> list[Path]:
    """Folders beside this one that have the next chunk, those with most of the next ones first.

    Of two that have as many the one that was begun last comes first, as where all was made anew.
    """
    folder = folder.resolve()
    found: list[tuple[int, float, str]] = []
    try:
        names = [entry.name for entry in os.scandir(folder.parent) if entry.is_dir()]
    except OSError as error:
        logger.warning("No other shots are looked for beside %s: %s", folder, error)
        return []
    for name in names:
        if name.startswith(".") or name == folder.name:
            continue
        other = folder.with_name(name)
        manifest = read_manifest(other / MANIFEST)
        end = 0 if manifest is None else manifest.shared_with(state)
        made = state.done
        while made < end and chunk_path(other, made).exists():
            made += 1
        if made > state.done:
            found.append((-made, -_begun(other), name))
    return [folder.with_name(name) for _, _, name in sorted(found)]


def _begun(folder: Path) -> float:
    try:
        return (folder / MANIFEST).stat().st_mtime
    except OSError:
        return 0.0


def _parts_of_shot(folder: Path) -> list[Path]:
    """Files of a shot in the order in which they may be removed: of a chunk, the clip last."""
    ends = [folder / name for name in (VIDEO, MEMORY, MANIFEST)]
    return [path for path in ends if path.is_file()] + saved_parts(folder)[::-1]


def _holds(take: Path, files: list[Path]) -> bool:
    return all(_is_same(path, take / path.name) for path in files)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other) or filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def _unfinished_take(folder: Path) -> Path:
    return folder.with_name(f"{TEMPORARY_PREFIX}{folder.name}.take")
