"""Digests: what tells a damaged file from the one that was written.

SHA-256, though a checksum of 32 bits would do against accidents: the same digest also says which
chunk another one follows, and at about a gibibyte a second it is lost beside the making of what
it covers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

DIGEST: Final = "digest"
"""Entry of a JSON document that holds the digest of the rest, and of what belongs to it."""

PREFIX: Final = "sha256:"
"""Beginning of every digest. A document that holds it anywhere else and has no entry `DIGEST` has
lost that entry's name: those of earlier versions hold no digest at all."""

_PIECE: Final = 1 << 20

SMALL: Final = 8 << 20
"""Bytes up to which `sampled_digest` reads a file whole."""

SAMPLES: Final = 64
"""Pieces that it reads of a larger one."""

_SAMPLE: Final = 1 << 16


def file_digest(path: Path) -> str:
    """Digest of a file's bytes; raises `OSError` where it cannot be read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return PREFIX + digest.hexdigest()


def sampled_digest(path: Path) -> str:
    """Digest of a file's size and of `SAMPLES` pieces of 64 KiB spread evenly over it.

    For models, whose whole reading would take minutes: other weights differ everywhere. Files of
    up to `SMALL` bytes are read whole. Times do not count, so a copy is the same file. Raises
    `OSError` where it cannot be read.
    """
    size = path.stat().st_size
    if size <= SMALL:
        return file_digest(path)
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for number in range(SAMPLES):
            file.seek((size - _SAMPLE) * number // (SAMPLES - 1))
            digest.update(file.read(_SAMPLE))
    return PREFIX + digest.hexdigest()


def listing_digest(folder: Path) -> str:
    """Digest of what lies below a folder: names within it and sizes, without reading any file.

    For data sets, which are too large to read. Hidden files and times do not count, so a copy is
    the same folder. Raises `OSError` where it cannot be listed.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not any(part.startswith(".") for part in name.parts) and path.is_file():
            digest.update(f"{name.as_posix()}\0{path.stat().st_size}\0".encode())
    return PREFIX + digest.hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Digest of tensors on the CPU: their names, types, shapes and bits, in whatever order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return PREFIX + digest.hexdigest()


def sealed(document: Mapping[str, Any], content: str = "") -> dict[str, Any]:
    """A JSON document with a digest of its own.

    Args:
        document: What JSON can hold, without an entry `DIGEST`.
        content: Digest of what belongs to the document.
    """
    return {**document, DIGEST: _digest(json.dumps(document, sort_keys=True), content)}


def is_whole(document: Mapping[str, Any], content: str = "") -> bool:
    """True for a document as `sealed` made it, and for one of an earlier version.

    Args:
        document: As it was read.
        content: Digest of what belongs to the document, as that was read.
    """
    try:
        text = json.dumps(
            {name: value for name, value in document.items() if name != DIGEST}, sort_keys=True
        )
    except (ValueError, RecursionError):
        return False
    if DIGEST not in document:
        return PREFIX not in text
    return bool(document[DIGEST] == _digest(text, content))


def _digest(text: str, content: str) -> str:
    return PREFIX + hashlib.sha256(f"{text}\0{content}".encode()).hexdigest()
