"""Memory files: safetensors with a JSON header, written whole or not at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ..codecs.memory_kind import MemoryKind
from ..errors import CacheFormatError, MirageError, ModelMismatchError
from ..files import with_suffix
from ..geometry.camera import PixelConvention
from ..tensor_files import is_count, read_safetensors, write_safetensors
from ..validate import expect_finite
from .actor import Actor
from .actor_io import ACTORS, MAX_BLOCKS, actor_entries, actor_tensors, actors_from
from .types import CONTENT, OPTIONAL, CacheBlock, LatentCache

FORMAT: Final = "mirage-cache"
VERSION: Final = 4
"""Newest version that is read. Each file is written as the oldest version that can hold it, see
`needed_version`."""

_TYPES: Final[dict[str, tuple[torch.dtype, ...]]] = {
    "points": (torch.float32,),
    "tokens": (torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.uint8),
    "source": (torch.int32,),
    "slope": (torch.float16,),
    "world_to_camera": (torch.float64,),
    "intrinsics": (torch.float64,),
    "frames": (torch.int64,),
    "scale": (torch.float16,),
    "mask": (torch.int16,),
}


def needed_version(blocks: Iterable[CacheBlock], actors: Iterable[Actor] = ()) -> int:
    """The oldest version that can hold a memory.

    4 for actors, 3 for cut-outs, 2 for integer tokens, else 1. Readers of older versions would
    take a cut-out for a whole cell, and leave out actors.
    """
    needed = 4 if tuple(actors) else 1
    for block in blocks:
        plain = 1 if block.tokens.is_floating_point() else 2
        needed = max(needed, plain if block.mask is None else 3)
    return needed


def block_tensors(block: CacheBlock, prefix: str) -> dict[str, Tensor]:
    """The tensors of a block under ``prefix.field`` names; bounds are remade on reading."""
    return {f"{prefix}.{name}": part for name, part in block.parts.items() if name in _TYPES}


def block_from_tensors(tensors: dict[str, Tensor], prefix: str) -> CacheBlock:
    """The inverse of `block_tensors`, trusting nothing in the file.

    Raises:
        CacheFormatError: A tensor is missing, or holds what no memory holds.
    """
    try:
        parts = {name: tensors[f"{prefix}.{name}"] for name in CONTENT}
    except KeyError as error:
        raise CacheFormatError("The memory file lacks a tensor", got=str(error)) from error
    found = (name for name in OPTIONAL if f"{prefix}.{name}" in tensors)
    parts |= {name: tensors[f"{prefix}.{name}"] for name in found}
    for name, part in parts.items():
        if part.dtype not in _TYPES[name]:
            raise CacheFormatError(
                f"The memory file holds its {name} as another type",
                got=part.dtype,
                expected=" or ".join(map(str, _TYPES[name])),
                fix="The file is damaged: copy or make it again",
            )
    try:
        for name, part in parts.items():
            if name in ("points", "tokens", "slope", "scale"):
                expect_finite(f"The memory's {name}", part)
        return CacheBlock(**parts)
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
    path = with_suffix(path, ".safetensors")
    tensors: dict[str, Tensor] = {}
    for number, block in enumerate(cache.blocks):
        tensors.update(block_tensors(block, f"block.{number}"))
    tensors.update(actor_tensors(cache.actors, block_tensors))
    write_safetensors(path, tensors, cache_header(cache))
    return path


def cache_header(cache: LatentCache) -> dict[str, Any]:
    """What a memory file says of itself."""
    return {
        "format": FORMAT,
        "version": needed_version(cache.blocks, cache.actors),
        "axes": "opencv",
        "poses": "world_to_camera",
        "pixel_convention": cache.convention.value,
        "codec": cache.codec,
        "channels": cache.channels,
        "blocks": len(cache.blocks),
        "points": len(cache),
        # Files of tokens say nothing of it, as those of earlier versions.
        **({"what": cache.kind.value} if cache.kind is MemoryKind.COLOURS else {}),
        **({ACTORS: actor_entries(cache.actors)} if cache.actors else {}),
    }


def load_cache(path: Path | str) -> LatentCache:
    """Load a memory that `save_cache` wrote.

    Raises:
        CacheFormatError: The file is missing, damaged, foreign, from a newer version, or
            holds values that no memory has.
    """
    path = Path(path)
    tensors, header = read_safetensors(path, FORMAT, VERSION)
    cache = cache_from_header(
        header, lambda number: block_from_tensors(tensors, f"block.{number}"), path
    )
    if ACTORS not in header:
        return cache
    actors = actors_from(header[ACTORS], tensors, cache, block_from_tensors)
    return dataclasses.replace(cache, actors=actors)


def cache_from_header(
    header: dict[str, Any], block: Callable[[int], CacheBlock], path: Path
) -> LatentCache:
    """Assemble a memory from a checked header and a function that gives its blocks."""
    count, channels, codec = (header.get(key) for key in ("blocks", "channels", "codec"))
    if not is_count(count) or count > MAX_BLOCKS:
        raise CacheFormatError(f"{path.name} states an impossible number of blocks", got=count)
    if not is_count(channels) or channels == 0:
        raise CacheFormatError(f"{path.name} does not state its channels", got=channels)
    if not isinstance(codec, str):
        raise CacheFormatError(f"{path.name} does not state its codec", got=codec)
    if header.get("what", MemoryKind.TOKENS.value) != MemoryKind.of(codec).value:
        raise CacheFormatError(
            f"{path.name} does not say whether it holds tokens or colours",
            got=f"{header.get('what')!r} of the codec {codec!r}",
        )
    try:
        cache = LatentCache(
            blocks=tuple(block(number) for number in range(count)),
            convention=PixelConvention(header.get("pixel_convention")),
            codec=codec,
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
