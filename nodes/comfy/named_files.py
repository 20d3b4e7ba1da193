"""Files that the inputs of nodes name, by content: what a name does not tell of a loop's result."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import folder_paths

from ...mirage_core.digests import sampled_digest
from ...mirage_core.errors import CacheFormatError
from ...mirage_core.geometry.sequence import files_of, is_pattern
from .loop_body import Node

LONGEST_NAME: Final = 1024
"""Letters of the longest input that may be a file's name: prompts are longer, and name none."""

MODEL_CARDS: Final = ("config.json", "model_index.json")
"""What tells a folder that is one model from one that models are sorted in."""

_CODE: Final = ("custom_nodes",)
"""ComfyUI's folders without models."""


def named_files(nodes: Iterable[Node]) -> list[tuple[str, str]]:
    """Name and content of each file that an input of some nodes names.

    Pictures, depth and cameras in ComfyUI's input and output folders, models, folders of models,
    and paths of their own. Large files count by samples, see `sampled_digest`.
    """
    names = {value for node in nodes for value in node["inputs"].values() if _may_be_name(value)}
    return [(name, _content(path)) for name in sorted(names) for path in _files(name)]


def _may_be_name(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, str) and 0 < len(value) <= LONGEST_NAME and value.isprintable()


def _files(name: str) -> Iterator[Path]:
    """All files that a name may mean: which of them its node takes is the node's own business."""
    bare, place = folder_paths.annotated_filepath(name)
    given = Path(place or folder_paths.get_input_directory(), bare)
    places = {given, *(root / name for root in _model_roots())}
    for path in sorted(places):
        if os.path.isfile(path):
            yield path
        elif any(os.path.isfile(path / card) for card in MODEL_CARDS):
            yield from sorted(part for part in path.rglob("*") if part.is_file())
        elif is_pattern(path) and os.path.isdir(path.parent):
            yield from _numbered(path)


def _numbered(pattern: Path) -> list[Path]:
    try:
        return files_of(pattern)
    except CacheFormatError:
        # A text with several such marks is no name.
        return []


def _model_roots() -> set[Path]:
    kinds = set(folder_paths.folder_names_and_paths) - {*_CODE}
    return {Path(root) for kind in kinds for root in folder_paths.get_folder_paths(kind)}


def _content(path: Path) -> str:
    try:
        return sampled_digest(path)
    except OSError as error:
        # The node that loads it says what is wrong.
        return f"unreadable: {error.errno}"
