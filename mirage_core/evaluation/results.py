"""Results on disk: one small file for each item, in a folder that belongs to one way of judging."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image
from torch import Tensor

from ..digests import DIGEST, is_whole, sealed
from ..errors import CacheFormatError, ResumeError
from ..files import atomic_path, atomic_write, ensure_writable_folder
from ..rollout.video import to_bytes
from .task import Outcome, Task, Ways

FORMAT: Final = "mirage-evaluation"
VERSION: Final = 1
MANIFEST: Final = "evaluation.json"
ITEMS: Final = "items"
PICTURES: Final = "pictures"
QUALITY: Final = 85
"""Of the pictures, which only people look at."""

_MOST_OF_NAME: Final = 80


def claim_run(folder: Path, task: Task) -> None:
    """Begin a run, or make sure that a folder belongs to this one.

    Raises:
        ResumeError: The folder holds results of another task, model or setting.
        CacheFormatError: Its manifest is damaged.
        StorageError: The folder cannot be written.
    """
    ensure_writable_folder(folder)
    wanted = {"task": task.name, **task.settings()}
    if not (folder / MANIFEST).exists():
        document = {"format": FORMAT, "version": VERSION, "settings": wanted}
        with atomic_write(folder / MANIFEST, "w") as file:
            json.dump(document, file, indent=1, ensure_ascii=False)
        return
    there = read_manifest(folder)
    # As JSON has it, so that tuples and lists do not differ.
    own = json.loads(json.dumps(wanted))
    names = sorted(name for name in own.keys() | there.keys() if own.get(name) != there.get(name))
    if names:
        raise ResumeError(
            f"The folder {folder.name} contains results that were made in another way",
            got="; ".join(f"{name} {there.get(name)!r}" for name in names)[:500],
            expected="; ".join(f"{name} {own.get(name)!r}" for name in names)[:500],
            fix="Use the same options as before, or another folder",
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The settings of a run, its task among them.

    Raises:
        CacheFormatError: There are none, or they are damaged or of a newer version.
    """
    document = read_document(folder / MANIFEST)
    settings = document.get("settings")
    if not isinstance(settings, dict):
        raise _damaged(folder / MANIFEST, "no settings")
    return settings


def read_document(path: Path) -> dict[str, Any]:
    """A JSON document of this format.

    Raises:
        CacheFormatError: There is none, or it is damaged or of a newer version.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error) or type(error).__name__) from error
    if not isinstance(document, dict):
        raise _damaged(path, f"a {type(document).__name__}")
    if document.get("format") != FORMAT or document.get("version") != VERSION:
        raise _damaged(path, "another format or version")
    return document


def _damaged(path: Path, why: str) -> CacheFormatError:
    return CacheFormatError(
        f"{path.name} of the evaluation cannot be read",
        got=why[:200],
        expected="a folder that was filled by `mirage evaluate`",
        fix="Check the path",
    )


def store_item(folder: Path, item: str, outcome: Outcome) -> None:
    """Store what was measured of an item, its pictures first.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    if outcome.pictures:
        save_picture(picture_path(folder, item), torch.cat(list(outcome.pictures.values())))
    document = {
        "format": FORMAT,
        "version": VERSION,
        "item": item,
        "rows": list(outcome.pictures),
        "ways": {
            way: {name: _finite(value) for name, value in values.items()}
            for way, values in outcome.ways.items()
        },
    }
    with atomic_write(item_path(folder, item), "w") as file:
        json.dump(sealed(document), file, indent=1, ensure_ascii=False)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def save_picture(path: Path, picture: Tensor) -> None:
    """Save (H, W, 3) in 0..1 in the format that the file's name asks for."""
    with atomic_path(path) as temporary:
        Image.fromarray(to_bytes(picture).numpy()).save(temporary, quality=QUALITY)


def read_items(folder: Path) -> dict[str, tuple[Ways, list[str]]]:
    """Measurements and picture rows of every stored item; damaged files do not count."""
    found: dict[str, tuple[Ways, list[str]]] = {}
    for path in sorted((folder / ITEMS).glob("*.json")):
        try:
            document = read_document(path)
        except CacheFormatError:
            continue
        if DIGEST in document and is_whole(document):
            found[document["item"]] = (document["ways"], document["rows"])
    return found


def item_path(folder: Path, item: str) -> Path:
    """Where the result of an item is."""
    return folder / ITEMS / f"{_file_name(item)}.json"


def picture_path(folder: Path, item: str) -> Path:
    """Where the pictures of an item are."""
    return folder / PICTURES / f"{_file_name(item)}.jpg"


def _file_name(item: str) -> str:
    """A name that every file system takes, and that no two items share."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", item)[-_MOST_OF_NAME:].lstrip(".")
    return f"{plain}-{hashlib.sha256(item.encode()).hexdigest()[:8]}"


def means(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Means of rows with the same names; of what is None anywhere, None."""
    result: dict[str, float | None] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        known = [value for value in values if value is not None]
        result[name] = sum(known) / len(known) if len(known) == len(values) else None
    return result
