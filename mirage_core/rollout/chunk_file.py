"""The files of a finished chunk: tensors with a header, and the clip of its frames.

The header holds the clip's digest, and that of the chunk before it. What differs from them is
not taken for the chunk. Chunks of earlier versions hold no digests; their clips are counted.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ..cache.actor import Actor
from ..cache.actor_io import ACTORS, MAX_BLOCKS, actor_entries, actor_tensors, actors_from
from ..cache.delta import CacheDelta, apply_difference, difference
from ..cache.io import block_from_tensors, block_tensors, needed_version
from ..digests import DIGEST, file_digest
from ..errors import CacheFormatError, MirageError, ResumeError, ShapeError
from ..log import logger
from ..tensor_files import is_count, read_document_header, read_safetensors, write_safetensors
from ..validate import expect_shape
from .plan import Chunk
from .state import ChunkRecord, ChunkStatistics, RolloutState
from .video import expect_clip

FORMAT: Final = "mirage-chunk"
VERSION: Final = 4
"""Newest version that is read. Chunks are written as `needed_version` says, and as version 2 or
later when they drop points."""

CLIP: Final = "clip"
"""Entry of the header with the digest of the clip."""

BEFORE: Final = "before"
"""Entry of the header with the digest of the chunk before."""

CHAIN: Final = "chain"
"""Entry of the header with all that the chunk depends on, in place of the rollout's id: so equal
chunks of different shots are equal files."""

_NAME: Final = "chunk_"
_PART: Final = re.compile(_NAME + r"(?P<index>\d{4,})\.(mp4|safetensors)")


def has_chunks(folder: Path) -> bool:
    """Whether anything of a chunk is there, whole or not."""
    return any(folder.glob(f"{_NAME}*"))


def saved_parts(folder: Path, chunks: int | None = None) -> list[Path]:
    """Files of the chunks in a folder, or of some leading ones; of each the clip first."""
    found = [
        (int(match["index"]), path)
        for path in folder.glob(f"{_NAME}*")
        if (match := _PART.fullmatch(path.name)) and path.is_file()
    ]
    return [path for index, path in sorted(found) if chunks is None or index < chunks]


def chunk_path(folder: Path, index: int) -> Path:
    """File that holds chunk ``index``."""
    return folder / f"{_NAME}{index:04d}.safetensors"


def clip_path(folder: Path, index: int) -> Path:
    """Video of the frames that chunk ``index`` added."""
    return folder / f"{_NAME}{index:04d}.mp4"


def save_chunk(folder: Path, state: RolloutState, after: RolloutState) -> RolloutState:
    """Save what a chunk changed, whose clip is there already.

    Blocks that the memory had before are not written again.

    Args:
        folder: Of the rollout.
        state: The state before the chunk.
        after: The state after it.

    Returns:
        The state after the chunk, which knows its digest.

    Raises:
        ResumeError: The state after it is of no chunk.
        CacheFormatError: The clip cannot be read.
        StorageError: The disk is full, or the folder cannot be written.
    """
    record, cache = after.last, after.cache
    if record is None:
        raise ResumeError("There is no finished chunk to save")
    delta = difference(state.cache, cache)
    tensors = {
        "latents": record.latents,
        "projections": record.projections,
        "visible": record.visible,
    }
    optional = {"planes": record.planes, "overlap": record.overlap}
    tensors |= {name: tensor for name, tensor in optional.items() if tensor is not None}
    dropped = {number: rows for number, rows in enumerate(delta.dropped) if len(rows)}
    tensors.update({f"dropped.{number}": rows for number, rows in dropped.items()})
    for number, block in enumerate(delta.added):
        tensors.update(block_tensors(block, f"block.{number}"))
    header: dict[str, Any] = {
        "format": FORMAT,
        "version": max(2 if dropped else 1, needed_version(cache.blocks)),
        **_owner(state),
        "chunk": state.done,
        "shared_blocks": len(delta.dropped),
        "new_blocks": len(delta.added),
        "statistics": asdict(after.statistics[-1]),
        CLIP: _clip_digest(clip_path(folder, state.done)),
        BEFORE: state.digest,
    }
    if delta.actors is not None:
        tensors |= actor_tensors(delta.actors, block_tensors)
        header |= {"version": VERSION, ACTORS: actor_entries(delta.actors)}
    digest = write_safetensors(chunk_path(folder, state.done), tensors, header)
    return dataclasses.replace(after, digest=digest)


def _owner(state: RolloutState) -> dict[str, str]:
    return {CHAIN: state.chains[state.done]} if state.chains else {"run_id": state.run_id}


def load_chunk(folder: Path, state: RolloutState) -> RolloutState:
    """Take up the next chunk of a state from its files.

    Args:
        folder: Of the rollout, or of another one that has this chunk.
        state: The state before the chunk.

    Raises:
        MirageError: A file is missing, damaged or of another chunk.
    """
    path = chunk_path(folder, state.done)
    tensors, header = read_safetensors(path, FORMAT, VERSION)
    _expect_own(path, state, state.done, header)
    _expect_follows(path, header, state.digest)
    _expect_saved_clip(folder, state, state.chunk, header)
    record = _record(tensors)
    added = state.chunk.latent_frames - state.chunk.shared_latents
    height, width = state.latent_grid
    expect_shape(
        "The saved latents", record.latents, "C T h w", C=state.channels, T=added, h=height, w=width
    )
    expect_seen(state, record.visible)
    if expect_overlap(state, record.overlap) is None and record.overlap is not None:
        raise CacheFormatError(f"{path.name} holds an overlap that no chunk begins with")
    cache = apply_difference(state.cache, _delta(path, state, tensors, header))
    after = state.advanced(record, cache, _statistics(header, path))
    return dataclasses.replace(after, digest=header.get(DIGEST))


def load_chunks(folder: Path, state: RolloutState) -> RolloutState:
    """Take up the next chunks of a state from a folder, up to one that is missing or damaged."""
    while not state.complete and chunk_path(folder, state.done).exists():
        try:
            state = load_chunk(folder, state)
        except MirageError as error:
            logger.warning("Chunk %d is made again: %s", state.done + 1, error)
            break
    return state


def _expect_own(path: Path, state: RolloutState, index: int, header: dict[str, Any]) -> None:
    if CHAIN in header:
        ours = bool(state.chains) and header[CHAIN] == state.chains[index]
    else:
        ours = header.get("run_id") == state.run_id
    if not ours or header.get("chunk") != index:
        raise CacheFormatError(f"{path.name} belongs to another rollout or chunk")


def _expect_follows(path: Path, header: dict[str, Any], digest: str | None) -> None:
    """A chunk of an earlier version names none before it, and follows none that has a digest."""
    if header.get(BEFORE) != digest:
        raise CacheFormatError(f"{path.name} follows another chunk than the one that is there")


def load_saved_record(folder: Path, state: RolloutState, index: int) -> ChunkRecord:
    """What chunk ``index`` of a shot left.

    Raises:
        CacheFormatError: Its file is missing, damaged or of another shot.
    """
    path = chunk_path(folder, index)
    tensors, header = read_safetensors(path, FORMAT, VERSION)
    _expect_own(path, state, index, header)
    return _record(tensors)


def saved_clips(folder: Path, state: RolloutState) -> list[Path]:
    """The clips of all chunks of a complete shot, after a look at whether they belong together.

    Raises:
        CacheFormatError: A file is missing, damaged, or not the one that was made.
    """
    clips: list[Path] = []
    before = None
    for chunk in state.plan:
        path = chunk_path(folder, chunk.index)
        header = read_document_header(path, FORMAT, VERSION)
        _expect_own(path, state, chunk.index, header)
        _expect_follows(path, header, before)
        before = header.get(DIGEST)
        clips.append(_expect_saved_clip(folder, state, chunk, header))
    if state.digest not in (None, before):
        raise CacheFormatError(f"{path.name} is not the chunk that was made")
    return clips


def saved_clip(folder: Path, state: RolloutState, chunk: Chunk) -> Path:
    """The clip of a finished chunk, after a look at whether it is what was saved.

    Raises:
        CacheFormatError: The clip or the chunk's file is missing or damaged.
    """
    path = chunk_path(folder, chunk.index)
    header = read_document_header(path, FORMAT, VERSION)
    _expect_own(path, state, chunk.index, header)
    return _expect_saved_clip(folder, state, chunk, header)


def expect_seen(state: RolloutState, visible: Tensor) -> None:
    """Raise `ShapeError` unless what was visible lies on the grid of the shot's geometry."""
    height, width = state.grid
    expect_shape("The chunk's visibility", visible, "T h w", h=height, w=width)


def expect_overlap(state: RolloutState, overlap: Tensor | None) -> Tensor | None:
    """What a chunk after the next one begins with, if it needs any; raises `ShapeError`."""
    unread = overlap is None and state.remaining == 1
    if state.frames_to_encode == 0 or unread:
        return None
    if overlap is None:
        raise ShapeError(
            "The chunk after this one has no clean latents",
            got="no overlap",
            expected=f"the chunk's last {state.frames_to_encode} frames, encoded as a clip",
            fix="Give what mirage_core.rollout.decode.encode_overlap makes of the frames",
        )
    height, width = state.latent_grid
    expect_shape(
        "The encoded overlap", overlap, "C K h w",
        C=state.channels, K=state.lengths.overlap_latents, h=height, w=width,
    )  # fmt: skip
    return overlap


def _clip_digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise CacheFormatError(
            f"The clip {path.name} cannot be read",
            got=error.strerror or str(error),
            fix="Run the rollout again: its chunk is made again",
        ) from error


def _expect_saved_clip(
    folder: Path, state: RolloutState, chunk: Chunk, header: dict[str, Any]
) -> Path:
    path = clip_path(folder, chunk.index)
    if CLIP not in header:
        frames = chunk.output_end - chunk.output_start
        expect_clip(path, frames, state.trajectory.width, state.trajectory.height)
    elif _clip_digest(path) != header[CLIP]:
        raise CacheFormatError(
            f"The clip {path.name} is damaged",
            got="other content than was saved",
            fix="Run the rollout again: its chunk is made again",
        )
    return path


def _delta(
    path: Path, state: RolloutState, tensors: dict[str, Tensor], header: dict[str, Any]
) -> CacheDelta:
    shared, new = header.get("shared_blocks"), header.get("new_blocks")
    held = len(state.cache.blocks)
    if not is_count(shared) or not is_count(new) or shared > held or new > MAX_BLOCKS:
        raise CacheFormatError(f"{path.name} does not say what it added to the memory")
    nothing = torch.zeros(0, dtype=torch.int32)
    return CacheDelta(
        tuple(tensors.get(f"dropped.{number}", nothing) for number in range(shared)),
        tuple(block_from_tensors(tensors, f"block.{number}") for number in range(new)),
        _actors(state, tensors, header),
    )


def _actors(
    state: RolloutState, tensors: dict[str, Tensor], header: dict[str, Any]
) -> tuple[Actor, ...] | None:
    """All actors after a chunk that changed them; None for one that did not."""
    if ACTORS not in header:
        return None
    return actors_from(header[ACTORS], tensors, state.cache, block_from_tensors)


def _record(tensors: dict[str, Tensor]) -> ChunkRecord:
    try:
        latents, projections, visible = (
            tensors[name] for name in ("latents", "projections", "visible")
        )
    except KeyError as error:
        raise CacheFormatError("The chunk file lacks a tensor", got=str(error)) from error
    numbers = {
        "latents": latents, "projections": projections,
        "planes": tensors.get("planes"), "overlap": tensors.get("overlap"),
    }  # fmt: skip
    for name, tensor in numbers.items():
        if tensor is not None and not _is_finite(tensor):
            raise CacheFormatError(f"The chunk's {name} are no finite numbers", got=tensor.dtype)
    if visible.dtype != torch.bool:
        raise CacheFormatError("The chunk's visibility is not of yes and no", got=visible.dtype)
    return ChunkRecord(latents, projections, visible, tensors.get("planes"), tensors.get("overlap"))


def _is_finite(tensor: Tensor) -> bool:
    # Types of 8 bits have no such test.
    wide = tensor.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return wide and bool(tensor.isfinite().all())


def _statistics(header: dict[str, Any], path: Path) -> ChunkStatistics:
    try:
        found = ChunkStatistics(**header["statistics"])
        counts = (found.index, found.points, found.memory_bytes)
        numbers = (found.hole_rate, found.latent_mean, found.latent_std)
        if not (all(map(is_count, counts)) and all(math.isfinite(one + 0.0) for one in numbers)):
            raise ValueError("a statistic is no number")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CacheFormatError(f"{path.name} has no statistics", got=str(error)) from error
    return found
