"""What a whole data set has in common: codec, picture size, how clips were made, what failed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from ...errors import CacheFormatError, ResumeError
from ...files import atomic_write, ensure_writable_folder
from ...tensor_files import is_count, read_safetensors, write_safetensors

FORMAT: Final = "mirage-data"
VERSION: Final = 1
MANIFEST: Final = "data.json"
SKIPPED: Final = "skipped.json"
EMPTY_TEXT: Final = "empty_text.safetensors"
_TEXT_FORMAT: Final = "mirage-text"


@dataclass(frozen=True)
class DataManifest:
    """What all clips of a data set have in common.

    Attributes:
        codec: Name of the codec that made the latents.
        width: Picture width in pixels.
        height: Picture height in pixels.
        settings: Text that stands for how clips were made.
        text: Name of the text encoder; empty when clips hold no text.
    """

    codec: str
    width: int
    height: int
    settings: str
    text: str = ""


def claim(folder: Path, manifest: DataManifest) -> None:
    """Begin a data set, or make sure that more clips of this kind may go into it.

    Raises:
        ResumeError: The folder holds clips that were made in another way.
        CacheFormatError: Its manifest is damaged.
        StorageError: The folder cannot be written.
    """
    ensure_writable_folder(folder)
    if not (folder / MANIFEST).exists():
        with atomic_write(folder / MANIFEST, "w") as file:
            json.dump({"format": FORMAT, "version": VERSION, **asdict(manifest)}, file, indent=1)
        return
    own, there = asdict(manifest), asdict(read_manifest(folder))
    other = [name for name in own if own[name] != there[name]]
    if other:
        raise ResumeError(
            f"The folder {folder.name} contains clips that were made with other options",
            got="; ".join(f"{name} {there[name]!r}" for name in other),
            expected="; ".join(f"{name} {own[name]!r}" for name in other),
            fix="Use the same options as before, or another folder",
        )


def read_manifest(folder: Path) -> DataManifest:
    """The manifest of a data set.

    Raises:
        CacheFormatError: There is none, or it is damaged or of a newer version.
    """
    document = _read_json(folder / MANIFEST)
    try:
        if document.pop("format") != FORMAT or document.pop("version") != VERSION:
            raise ValueError("another format or version")
        manifest = DataManifest(**document)
        texts = (manifest.codec, manifest.settings, manifest.text)
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("names that are no text")
        if not is_count(manifest.width) or not is_count(manifest.height):
            raise ValueError(f"pictures of {manifest.width!r} x {manifest.height!r}")
        return manifest
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder / MANIFEST, error) from error


def read_skipped(folder: Path) -> dict[str, str]:
    """Items that could not be made into clips, and why.

    Raises:
        CacheFormatError: The list is damaged.
    """
    if not (folder / SKIPPED).exists():
        return {}
    found = _read_json(folder / SKIPPED)
    if not all(isinstance(reason, str) for reason in found.values()):
        raise _damaged(folder / SKIPPED, ValueError("reasons that are no text"))
    return found


def write_skipped(folder: Path, skipped: dict[str, str]) -> None:
    """Remember what was skipped.

    Raises:
        StorageError: The folder cannot be written.
    """
    with atomic_write(folder / SKIPPED, "w") as file:
        json.dump(skipped, file, indent=1, ensure_ascii=False)


def write_empty_text(folder: Path, text: Tensor) -> None:
    """Store the embedding (L, D) of the empty prompt, for clips whose text is dropped.

    Raises:
        StorageError: The folder cannot be written.
    """
    header = {"format": _TEXT_FORMAT, "version": VERSION}
    write_safetensors(folder / EMPTY_TEXT, {"text": text.half()}, header)


def read_empty_text(folder: Path) -> Tensor | None:
    """The embedding (L, D) of the empty prompt as float32; None when the data set has no text.

    Raises:
        CacheFormatError: The file is damaged.
    """
    path = folder / EMPTY_TEXT
    if not path.exists():
        return None
    tensors, _ = read_safetensors(path, _TEXT_FORMAT, VERSION)
    text = tensors.get("text")
    if text is None or text.ndim != 2 or not text.is_floating_point():  # noqa: PLR2004
        raise _damaged(path, ValueError("no text of two axes"))
    return text.float()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    if not isinstance(document, dict):
        raise _damaged(path, ValueError(f"a {type(document).__name__}"))
    return document


def _damaged(path: Path, error: Exception) -> CacheFormatError:
    return CacheFormatError(
        f"{path.name} of the data set cannot be read",
        got=str(error) or type(error).__name__,
        expected="a folder that was filled by `mirage data make`",
        fix="Check the path",
    )
