"""Files in ComfyUI's folders."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args
from comfy_api.input_impl import VideoFromFile

from ...mirage_core.errors import StorageError
from ...mirage_core.files import storage_error
from ...mirage_core.folder_lock import HOLDER
from ...mirage_core.geometry.sequence import files_of, is_pattern, patterns_among
from ...mirage_core.rollout.manifest import MANIFEST

OUTPUT_FOLDER = "mirage"
"""Folder below ComfyUI's output folder that rollouts and memories are saved in."""

UNNAMED = "unnamed"
"""Prefix of files where the graph gives none."""


def output_folder(name: str) -> Path:
    """Folder for a name below ComfyUI's output folder; never outside of it.

    Raises:
        StorageError: The name would lead out of the output folder.
    """
    root = Path(folder_paths.get_output_directory()).resolve() / OUTPUT_FOLDER
    clean = re.sub(r"[^\w./ -]", "_", name.strip().replace("\\", "/")) or "rollout"
    # By its words first, and then by where links on the disk lead.
    if not Path(os.path.normpath(root / clean)).is_relative_to(root):
        raise StorageError(
            "The name leads out of the output folder", got=name, fix="Use a plain name"
        )
    folder = (root / clean).resolve()
    if not folder.is_relative_to(root):
        raise StorageError(
            "A link on the disk leads out of the output folder",
            got=f"{root / clean}, which is {folder}",
            expected=f"a folder below {root}",
            fix="Use another name, or put a folder in the place of the link",
        )
    return folder


def next_file(prefix: str, extension: str) -> Path:
    """The next free numbered file for a prefix below the output folder.

    An empty prefix stands for `UNNAMED`.

    Raises:
        StorageError: The prefix would lead out of the output folder, or its folder cannot be
            made.
    """
    # Without a name, ComfyUI would take that of the folder, and put the file beside it.
    prefix = prefix if os.path.normpath(prefix.strip()) != "." else UNNAMED
    target = output_folder(prefix)
    try:
        folder, stem, counter, _, _ = folder_paths.get_save_image_path(
            os.path.join(OUTPUT_FOLDER, prefix), folder_paths.get_output_directory()
        )
    except (OSError, ValueError) as error:
        raise storage_error(target, error) from error
    return Path(folder) / f"{stem}_{counter:05}_.{extension}"


def list_files(extension: str, *, numbered: bool = False) -> list[str]:
    """Files that a loader offers: from the input folder, and Mirage's own output.

    Args:
        extension: What names end with, without the dot.
        numbered: Whether two or more files that differ by a number are offered as one, too.
    """
    found = []
    places = (
        (Path(folder_paths.get_input_directory()), Path(folder_paths.get_input_directory()), ""),
        (
            Path(folder_paths.get_output_directory()) / OUTPUT_FOLDER,
            Path(folder_paths.get_output_directory()),
            " [output]",
        ),
    )
    for folder, root, mark in places:
        paths = sorted(folder.rglob(f"*.{extension}")) if folder.is_dir() else []
        for path in [*(patterns_among(paths) if numbered else ()), *paths]:
            if not path.name.startswith((".", "chunk_")) and path.name not in (MANIFEST, HOLDER):
                found.append(path.relative_to(root).as_posix() + mark)
    return found


def resolve_file(name: str) -> Path:
    """Path of a file that `list_files` offered."""
    return Path(folder_paths.get_annotated_filepath(name))


def file_stamp(name: str) -> tuple[str, int]:
    """What changes when a file that `list_files` offered is written anew."""
    path = resolve_file(name)
    if is_pattern(path) and not path.exists():
        return name, sum(file.stat().st_mtime_ns for file in files_of(path))
    return name, path.stat().st_mtime_ns if path.exists() else 0


def workflow_tags(
    prompt: Mapping[str, Any] | None, extra: Mapping[str, Any] | None
) -> dict[str, str]:
    """What ComfyUI's Save Video writes into a file, from which the page opens the workflow.

    Args:
        prompt: The hidden input ``prompt`` of a node.
        extra: Its hidden input ``extra_pnginfo``.

    Returns:
        Texts by name; none where ComfyUI was started with ``--disable-metadata``.
    """
    if args.disable_metadata:
        return {}
    tags = dict(extra or {}) | ({} if prompt is None else {"prompt": prompt})
    return {key: tag if isinstance(tag, str) else json.dumps(tag) for key, tag in tags.items()}


def video_from_file(path: Path) -> VideoFromFile:
    """ComfyUI's VIDEO that stays on disk."""
    return VideoFromFile(str(path))
