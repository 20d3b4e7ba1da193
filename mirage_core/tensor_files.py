"""Safetensors files: headers first, typed errors for damaged ones, written whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import ModelMismatchError
from .files import atomic_path, storage_error

_NAMED: Final = 5
"""Tensors that an error message names before it counts the rest."""


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
    try:
        with safe_open(str(path), framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
            return TensorHeader(shapes, dict(file.metadata() or {}))
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error) from error


def read_tensors(
    path: Path, names: Iterable[str] | None = None, device: str = "cpu"
) -> dict[str, Tensor]:
    """Tensors of a safetensors file, all or those named.

    Raises:
        ModelMismatchError: The file is missing, damaged, cut short or of another kind.
    """
    try:
        with safe_open(str(path), framework="pt", device=device) as file:
            wanted = file.keys() if names is None else names
            return {name: file.get_tensor(name) for name in wanted}
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error) from error


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a safetensors file that appears whole or not at all.

    Returns:
        ``path``.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    try:
        with atomic_path(path) as temporary:
            mode = temporary.stat().st_mode
            save_file(plain, str(temporary), metadata={"format": "pt", **(metadata or {})})
            # safetensors puts a file of its own in the place, which only its owner may read.
            temporary.chmod(mode)
    except SafetensorError as error:
        raise storage_error(path, error) from error
    return path


def unreadable(path: Path, error: Exception) -> ModelMismatchError:
    """The error for a weight file that cannot be read."""
    if not path.is_file():
        return ModelMismatchError(
            "The weight file does not exist", got=path, fix="Check the path"
        )
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
