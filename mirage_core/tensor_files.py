"""Safetensors files: typed errors for damaged ones, written whole or not at all.

Weights are files of names and shapes. Mirage's own documents (memories, chunks, clips) also have
a JSON header that says which format they are, and of which version, with a digest of itself and
of the tensors. Documents of earlier versions have no digest, and are read as they are.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeGuard

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .digests import DIGEST, is_whole, sealed, tensors_digest
from .errors import CacheFormatError, MirageError, ModelMismatchError
from .files import atomic_path, atomic_write, storage_error

HEADER_KEY: Final = "mirage"
"""Entry of the safetensors metadata that holds the JSON header."""

MAX_AXES: Final = 8
"""Most axes of a tensor that is read; weights and documents have up to 5."""

_NAMED: Final = 5
"""Tensors that an error message names before it counts the rest."""

_SYSTEM_ERROR: Final = re.compile(r"(?P<text>[^:]*) \(os error (?P<number>\d+)\)")
"""How safetensors ends the message of an error that the system gave it."""

Unreadable = Callable[[Path, Exception], MirageError]


@dataclass(frozen=True)
class TensorHeader:
    """What a file says of itself before any tensor is read.

    Attributes:
        shapes: Shape of every tensor by name.
        metadata: Free text entries.
    """

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]


def read_header(path: Path) -> TensorHeader:
    """Names and shapes of a safetensors file.

    Raises:
        ModelMismatchError: The file is missing, damaged, cut short or of another kind.
    """
    with _opened(path, unreadable) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        return TensorHeader(shapes, dict(file.metadata() or {}))


def map_tensors(path: Path, error_of: Unreadable) -> dict[str, Tensor]:
    """All tensors of a safetensors file, mapped from it: pages are read when touched.

    Args:
        path: The file.
        error_of: Makes the error for a file that is missing, damaged, cut short or of another
            kind.
    """
    with _opened(path, error_of) as file:
        return {name: _tensor(file, name) for name in file.keys()}


def read_tensors(
    path: Path, names: Iterable[str] | None = None, device: str = "cpu"
) -> dict[str, Tensor]:
    """Tensors of a safetensors file, all or those named.

    Raises:
        ModelMismatchError: The file is missing, damaged, cut short or of another kind.
    """
    with _opened(path, unreadable, device) as file:
        wanted = file.keys() if names is None else names
        return {name: _tensor(file, name) for name in wanted}


def read_safetensors(
    path: Path, expected_format: str, newest_version: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and the JSON header, after checking whose file it is.

    Raises:
        CacheFormatError: The file is missing, damaged, foreign, or from a newer version.
    """
    with _opened(path, _not_whole(expected_format)) as file:
        header = _parse_header(path, file.metadata(), expected_format, newest_version)
        tensors = {name: _tensor(file, name) for name in file.keys()}
    if not is_whole(header, tensors_digest(tensors) if DIGEST in header else ""):
        raise CacheFormatError(
            f"{path.name} is damaged",
            got="other content than was written",
            fix="Copy or make it again",
        )
    return tensors, header


def read_document_header(path: Path, expected_format: str, newest_version: int) -> dict[str, Any]:
    """The JSON header alone, which is not compared with the tensors.

    Raises:
        CacheFormatError: As `read_safetensors`.
    """
    with _opened(path, _not_whole(expected_format)) as file:
        return _parse_header(path, file.metadata(), expected_format, newest_version)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a safetensors file that appears whole or not at all; equal content, equal bytes.

    Returns:
        ``path``.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    try:
        with atomic_path(path) as temporary:
            mode = temporary.stat().st_mode
            described = {"format": "pt", **(metadata or {})}
            safetensors.torch.save_file(_apart(tensors), str(temporary), metadata=described)
            _sort_metadata(temporary)
            # safetensors puts a file of its own in the place, which only its owner may read.
            temporary.chmod(mode)
    except SafetensorError as error:
        raise storage_error(path, _of_the_system(error)) from error
    return path


def _of_the_system(error: SafetensorError) -> Exception:
    """The system's error behind one of safetensors, which only names its number."""
    found = _SYSTEM_ERROR.search(str(error))
    if found is None:
        return error
    number = int(found["number"])
    # The fourth argument counts on Windows, whose numbers are others: Python translates it.
    return OSError(number, found["text"].strip() or os.strerror(number), None, number)


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], header: dict[str, Any]) -> str:
    """Write tensors with a JSON header; the file appears under its name only when complete.

    Returns:
        The digest that went into the header.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    plain = _apart(tensors)
    document = sealed(header, tensors_digest(plain))
    metadata = {HEADER_KEY: json.dumps(document, sort_keys=True)}
    # By way of memory: a killed `save_file` leaves a file of a name that nobody looks for.
    with atomic_write(path, "wb") as file:
        file.write(safetensors.torch.save(plain, metadata=metadata))
    digest: str = document[DIGEST]
    return digest


@contextmanager
def _opened(path: Path, error_of: Unreadable, device: str = "cpu") -> Iterator[Any]:
    try:
        with safe_open(str(path), framework="pt", device=device) as file:
            yield file
    except (SafetensorError, OSError, UnicodeEncodeError) as error:
        raise error_of(path, error) from error


def _not_whole(expected_format: str) -> Unreadable:
    def error_of(path: Path, error: Exception) -> CacheFormatError:
        return CacheFormatError(
            f"{path.name} cannot be read",
            got=str(error),
            expected=f"a complete {expected_format} file",
            fix="The file is missing, damaged or cut off: copy or make it again",
        )

    return error_of


def _tensor(file: Any, name: str) -> Tensor:
    """A tensor of an open file; torch cannot hold what has more axes than it counts."""
    axes = len(file.get_slice(name).get_shape())
    if axes > MAX_AXES:
        raise SafetensorError(f"{name} has {axes} axes")
    tensor: Tensor = file.get_tensor(name)
    return tensor


def _sort_metadata(path: Path) -> None:
    """Bring the text entries of a new file in order: safetensors writes them in a random one."""
    with open(path, "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        file.seek(8)
        file.write(text.ljust(length))


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU, none of which share memory: safetensors refuses that."""
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        if value.untyped_storage().data_ptr() in seen:
            value = value.clone()
        seen.add(value.untyped_storage().data_ptr())
        plain[name] = value
    return plain


def _parse_header(
    path: Path, metadata: dict[str, str] | None, expected_format: str, newest_version: int
) -> dict[str, Any]:
    try:
        header = json.loads((metadata or {}).get(HEADER_KEY, "null"))
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or header.get("format") != expected_format:
        raise CacheFormatError(
            f"{path.name} is not a {expected_format} file",
            got=f"format {header.get('format')!r}" if isinstance(header, dict) else "no header",
            fix="Choose a file that Mirage wrote",
        )
    version = header.get("version")
    if not is_count(version) or version < 1:
        raise CacheFormatError(f"{path.name} has no valid format version", got=repr(version))
    if version > newest_version:
        raise CacheFormatError(
            f"{path.name} was written by a newer Mirage",
            got=f"format version {version}",
            expected=f"at most {newest_version}",
            fix="Update Mirage to read it",
        )
    return header


def is_count(value: object) -> TypeGuard[int]:
    """True for a whole number from 0; JSON's true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def unreadable(path: Path, error: Exception) -> ModelMismatchError:
    """The error for a weight file that cannot be read."""
    # Not Path.is_file, which raises for names that no file can have.
    if not os.path.isfile(path):
        return ModelMismatchError("The weight file does not exist", got=path, fix="Check the path")
    kind = path.suffix.lower()
    pickled = kind in (".pt", ".pth", ".bin", ".ckpt")
    fix = (
        "Convert it to safetensors where it was made: pickled files can run code when read"
        if pickled
        else "Fetch the file anew: its download was probably cut short"
    )
    return ModelMismatchError(
        f"The weight file {path.name} cannot be read as safetensors",
        got=str(error) or type(error).__name__,
        expected="a whole .safetensors file",
        fix=fix,
    )


def expect_tensors(
    what: str,
    found: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    fix: str | None = None,
) -> None:
    """Raise `ModelMismatchError` unless two sets of names and shapes are the same.

    Args:
        what: How the error message calls the file or the model.
        found: Shapes by name, as the file has them.
        expected: Shapes by name, as the model has them.
        fix: The remedy.
    """
    missing = [f"{name} is missing" for name in expected if name not in found]
    extra = [f"{name} is not part of it" for name in found if name not in expected]
    other = [
        f"{name} is {found[name]} instead of {expected[name]}"
        for name in expected
        if name in found and tuple(found[name]) != tuple(expected[name])
    ]
    wrong = [*other, *missing, *extra]
    if not wrong:
        return
    more = f", and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    raise ModelMismatchError(
        f"{what} does not hold the tensors that belong to it",
        got=f"{'; '.join(wrong[:_NAMED])}{more}",
        expected=f"{len(expected)} tensors of known shapes",
        fix=fix,
    )
