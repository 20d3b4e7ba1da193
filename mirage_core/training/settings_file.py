"""The file of a run's settings: which version wrote it, and what stands in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ..errors import ResumeError
from ..files import atomic_write
from ..tensor_files import is_count

FORMAT: Final = "mirage-training"
VERSION: Final = 2
"""Files of version 1 may hold settings of a new branch where the run was given one."""

_HEAD: Final = ("format", "version")


def write_document(path: Path, values: Mapping[str, Any]) -> None:
    """Write settings with the version that they are of.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    with atomic_write(path, "w") as file:
        json.dump({"format": FORMAT, "version": VERSION, **values}, file, indent=1)


def read_document(path: Path) -> tuple[int, dict[str, Any]]:
    """The version of a file of settings, and what it sets; those written by hand have the newest.

    Raises:
        ResumeError: The file is missing or damaged, or of a newer version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.get("version", VERSION)
        values = {key: value for key, value in content.items() if key not in _HEAD}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ResumeError(
            "The settings cannot be read", got=f"{path}: {error}", expected="a JSON object"
        ) from error
    if not is_count(version) or not 1 <= version <= VERSION:
        raise ResumeError(
            f"{path.name} is of a version that this one does not know",
            got=f"version {version!r}",
            expected=f"1 to {VERSION}",
            fix="Update Mirage",
        )
    return version, values
