"""Memory files: safetensors with a JSON header, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CacheFormatError, MirageError, ModelMismatchError
from ..files import atomic_write
from ..geometry.camera import PixelConvention
from ..validate import expect_finite
from .types import CacheBlock, LatentCache

FORMAT: Final = "mirage-cache"
VERSION: Final = 1
HEADER_KEY: Final = "mirage"
"""Entry of the safetensors metadata that holds the JSON header."""

MAX_BLOCKS: Final = 100_000
_FIELDS: Final = ("points", "tokens", "source", "slope", "world_to_camera", "intrinsics", "frames")


def write_safetensors(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors with a JSON header; the file appears under its name only when complete.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {HEADER_KEY: json.dumps(header, sort_keys=True)}
    with atomic_write(path, "wb") as file:
        file.write(safetensors.torch.save(plain, metadata=metadata))


def read_safetensors(
    path: Path, expected_format: str, newest_version: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and the JSON header, after checking whose file it is.

    Raises:
        CacheFormatError: The file is missing, damaged, foreign, or from a newer version.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            header = _parse_header(path, file.metadata(), expected_format, newest_version)
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CacheFormatError(
            f"{path.name} cannot be read",
            got=str(error),
            expected=f"a complete {expected_format} file",
            fix="The file is missing, damaged or cut off: copy or make it again",
        ) from error


def _parse_header(
    path: Path, metadata: dict[str, str] | None, expected_format: str, newest_version: int
) -> dict[str, Any]:
    try:
        header = json.loads((metadata or {}).get(HEADER_KEY, "null"))
    except (json.JSONDecodeError, RecursionError):
        header = None
    if not isinstance(header, dict) or header.get("format") != expected_format:
        raise CacheFormatError(
            f"{path.name} is not a {expected_format} file",
            got=f"format {header.get('format')!r}" if isinstance(header, dict) else "no header",
            fix="Choose a file that Mirage wrote",
        )
    version = header.get("version")
    if not isinstance(version, int) or version < 1:
        raise CacheFormatError(f"{path.name} has no valid format version", got=repr(version))
    if version > newest_version:
        raise CacheFormatError(
            f"{path.name} was written by a newer Mirage",
            got=f"format version {version}",
            expected=f"at most {newest_version}",
            fix="Update Mirage to read it",
        )
    return header


def block_tensors(block: CacheBlock, prefix: str) -> dict[str, Tensor]:
    """The tensors of a block under ``prefix.field`` names; bounds are remade on reading."""
    return {f"{prefix}.{name}": getattr(block, name) for name in _FIELDS}


def block_from_tensors(tensors: dict[str, Tensor], prefix: str) -> CacheBlock:
    """The inverse of `block_tensors`, trusting nothing in the file.

    Raises:
        CacheFormatError: A tensor is missing, or holds what no memory holds.
    """
    try:
        parts = {name: tensors[f"{prefix}.{name}"] for name in _FIELDS}
    except KeyError as error:
        raise CacheFormatError("The memory file lacks a tensor", got=str(error)) from error
    try:
        for name in ("points", "tokens", "slope", "world_to_camera", "intrinsics"):
            if not parts[name].is_floating_point():
                raise CacheFormatError(f"The memory's {name} are not numbers with a fraction")
            expect_finite(f"The memory's {name}", parts[name])
        return CacheBlock(**parts)
    except CacheFormatError:
        raise
    except MirageError as error:
        raise CacheFormatError(
            "The memory file holds values that no memory has",
            got=str(error),
            fix="The file is damaged: copy or make it again",
        ) from error


def save_cache(path: Path | str, cache: LatentCache) -> Path:
    """Save a memory.

    Args:
        path: Target; ``.safetensors`` is appended when missing.
        cache: The memory.

    Returns:
        The path that was written.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        path = path.with_name(path.name + ".safetensors")
    tensors: dict[str, Tensor] = {}
    for number, block in enumerate(cache.blocks):
        tensors.update(block_tensors(block, f"block.{number}"))
    write_safetensors(path, tensors, cache_header(cache))
    return path


def cache_header(cache: LatentCache) -> dict[str, Any]:
    """What a memory file says of itself."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "axes": "opencv",
        "poses": "world_to_camera",
        "pixel_convention": cache.convention.value,
        "codec": cache.codec,
        "channels": cache.channels,
        "blocks": len(cache.blocks),
        "points": len(cache),
    }


def load_cache(path: Path | str) -> LatentCache:
    """Load a memory that `save_cache` wrote.

    Raises:
        CacheFormatError: The file is missing, damaged, foreign, from a newer version, or
            holds values that no memory has.
    """
    path = Path(path)
    tensors, header = read_safetensors(path, FORMAT, VERSION)
    return cache_from_header(
        header, lambda number: block_from_tensors(tensors, f"block.{number}"), path
    )


def cache_from_header(
    header: dict[str, Any], block: Callable[[int], CacheBlock], path: Path
) -> LatentCache:
    """Assemble a memory from a checked header and a function that gives its blocks."""
    count, channels = header.get("blocks"), header.get("channels")
    if not isinstance(count, int) or not 0 <= count <= MAX_BLOCKS:
        raise CacheFormatError(f"{path.name} states an impossible number of blocks", got=count)
    if not isinstance(channels, int):
        raise CacheFormatError(f"{path.name} does not state its channels", got=channels)
    try:
        cache = LatentCache(
            blocks=tuple(block(number) for number in range(count)),
            convention=PixelConvention(header.get("pixel_convention")),
            codec=str(header.get("codec")),
            channels=channels,
        )
    except (ValueError, ModelMismatchError) as error:
        raise CacheFormatError(
            f"{path.name} has a header that does not fit its content", got=str(error)
        ) from error
    if len(cache) != header.get("points"):
        raise CacheFormatError(
            f"{path.name} is incomplete", got=f"{len(cache)} points", expected=header.get("points")
        )
    return cache
