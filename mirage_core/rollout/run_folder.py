"""The folder of a rollout: each finished chunk is saved whole, so that a shot can go on.

A chunk is one MP4 of its new frames and one safetensors file with latents, projections and
what was written to the memory. The safetensors file is written last: a chunk counts once it
is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ..cache.delta import CacheDelta, apply_difference, difference
from ..cache.io import MAX_BLOCKS, block_from_tensors, block_tensors, needed_version
from ..cache.types import LatentCache
from ..codecs.memory_kind import MemoryKind
from ..errors import CacheFormatError, MirageError, PlanError, ResumeError, ShapeError
from ..files import atomic_write, discard_unfinished, ensure_writable_folder
from ..log import logger
from ..readout.readout import Readout
from ..tensor_files import is_count, read_safetensors, write_safetensors
from ..validate import expect_shape
from .plan import ChunkLengths
from .state import ChunkRecord, ChunkStatistics, RolloutState
from .video import join_clips, write_clip

FORMAT: Final = "mirage-chunk"
MANIFEST_FORMAT: Final = "mirage-rollout"
VERSION: Final = 3
"""Newest version that is read. Chunks are written as `needed_version` says, and as version 2 or
later when they drop points."""

MANIFEST_VERSION: Final = 1
MANIFEST: Final = "rollout.json"
VIDEO: Final = "video.mp4"


def chunk_path(folder: Path, index: int) -> Path:
    """File that holds chunk ``index``."""
    return folder / f"chunk_{index:04d}.safetensors"


def clip_path(folder: Path, index: int) -> Path:
    """Video of the frames that chunk ``index`` added."""
    return folder / f"chunk_{index:04d}.mp4"


def open_folder(state: RolloutState) -> RolloutState:
    """Prepare the rollout's folder, and take up the chunks that are saved in it.

    What another program is writing there would be removed as left behind: hold the folder with
    `mirage_core.folder_lock.exclusive_folder` before, and until the last chunk is committed.

    Returns:
        The state after the last saved chunk; the given state when there is none.

    Raises:
        StorageError: The folder cannot be written.
        ResumeError: The folder belongs to another rollout.
    """
    folder = _folder(state)
    ensure_writable_folder(folder)
    _claim(folder, state)
    discard_unfinished(folder)
    while not state.complete and chunk_path(folder, state.done).exists():
        try:
            state = _load_chunk(folder, state)
        except MirageError as error:
            logger.warning("Chunk %d is made again: %s", state.done + 1, error)
            break
    return state


def commit(
    state: RolloutState,
    *,
    latents: Tensor,
    frames: Tensor,
    readout: Readout,
    cache: LatentCache,
    overlap: Tensor | None = None,
    on_frame: Callable[[int, int], None] | None = None,
) -> RolloutState:
    """Finish the next chunk: save it, and return the state after it.

    Args:
        state: The state before the chunk.
        latents: (C, T, h, w) model-space latents of the chunk, the overlapping ones included.
        frames: (4T - 3, H, W, 3) decoded frames in 0..1, the overlapping ones included.
        readout: What the memory showed to the chunk's T latent cameras.
        cache: The memory after the chunk.
        overlap: From `mirage_core.rollout.decode.encode_overlap`.
        on_frame: Called with (done, total) after each frame of video; may raise to cancel.

    Raises:
        ShapeError: Latents, frames, readout or overlap do not belong to this chunk.
        StorageError: The disk is full, or the folder cannot be written.
    """
    chunk = state.chunk
    height, width = state.latent_grid
    expect_shape(
        "The chunk's latents", latents, "C T h w",
        C=state.channels, T=chunk.latent_frames, h=height, w=width,
    )
    expect_shape(
        "The chunk's decoded frames", frames, "F H W 3",
        F=chunk.model_frames, H=state.trajectory.height, W=state.trajectory.width,
    )
    expect_shape("The chunk's readout", readout.visible, "T h w", T=chunk.latent_frames)
    after = finish_chunk(state, latents, readout, cache, overlap)
    if state.folder is not None:
        clip = clip_path(state.folder, chunk.index)
        write_clip(clip, frames[chunk.shared_frames :], state.trajectory.fps, on_frame)
        _save_chunk(state, after)
    return after


def finish_chunk(
    state: RolloutState,
    latents: Tensor,
    readout: Readout,
    cache: LatentCache,
    overlap: Tensor | None = None,
) -> RolloutState:
    """The state after the next chunk, with what it leaves behind; nothing is saved.

    Args:
        state: The state before the chunk.
        latents: (C, T, h, w) model-space latents of the chunk, the overlapping ones included.
        readout: What the memory showed to the chunk's T latent cameras.
        cache: The memory after the chunk.
        overlap: From `mirage_core.rollout.decode.encode_overlap`.

    Raises:
        ShapeError: The next chunk needs an overlap of another size, or the readout has one.
    """
    overlap = _expect_overlap(state, overlap)
    _expect_seen(state, readout.visible)
    added = state.chunk.shared_latents
    shown = readout.tokens if cache.kind is MemoryKind.TOKENS else torch.zeros_like(latents)
    record = ChunkRecord(
        latents=latents[:, added:].detach().float().cpu().clone(),
        projections=shown[:, added:].detach().cpu().clone(),
        visible=readout.visible[added:].detach().cpu().clone(),
        planes=_planes(readout)[:, added:],
        overlap=None if overlap is None else overlap.detach().float().cpu().clone(),
    )
    statistics = ChunkStatistics(
        index=state.chunk.index,
        hole_rate=readout.hole_rate,
        points=len(cache),
        memory_bytes=cache.nbytes,
        latent_mean=float(record.latents.mean()),
        latent_std=float(record.latents.std()),
    )
    return state.advanced(record, cache, statistics)


def _expect_seen(state: RolloutState, visible: Tensor) -> None:
    """Raise `ShapeError` unless what was visible lies on the grid of the shot's geometry."""
    height, width = state.grid
    expect_shape("The chunk's visibility", visible, "T h w", h=height, w=width)


def _expect_overlap(state: RolloutState, overlap: Tensor | None) -> Tensor | None:
    """What the chunk after the next begins with, if it needs any; raises `ShapeError`."""
    if state.frames_to_encode == 0:
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


def finish(
    state: RolloutState,
    *,
    tags: Mapping[str, str] | None = None,
    on_clip: Callable[[int, int], None] | None = None,
) -> Path:
    """Join the clips of a complete rollout into one video and return its path.

    Args:
        state: A complete rollout with a folder.
        tags: Texts by name that the video carries.
        on_clip: Called with (done, total) before each clip; may raise to cancel.

    Raises:
        ResumeError: Chunks are missing.
        CacheFormatError: A clip is damaged.
        StorageError: The video could not be written.
    """
    folder = _folder(state)
    if not state.complete:
        raise ResumeError(
            "The rollout is not complete",
            got=f"{state.done} of {len(state.plan)} chunks",
            fix="Run the chunk loop to its end",
        )
    clips = [clip_path(folder, chunk.index) for chunk in state.plan]
    join_clips(folder / VIDEO, clips, state.trajectory.fps, tags=tags, on_clip=on_clip)
    return folder / VIDEO


def load_record(state: RolloutState, index: int) -> ChunkRecord:
    """What chunk ``index`` left, from memory or from disk.

    Raises:
        CacheFormatError: The chunk's file is missing or damaged.
    """
    if state.last is not None and index == state.done - 1:
        return state.last
    tensors, _ = read_safetensors(chunk_path(_folder(state), index), FORMAT, VERSION)
    return _record(tensors)


def all_latents(state: RolloutState) -> Tensor:
    """(C, T, h, w) model-space latents of all finished chunks, in order."""
    parts = [load_record(state, index).latents for index in range(state.done)]
    return torch.cat(parts, dim=1) if parts else state.first_latent


def expect_folder(state: RolloutState) -> None:
    """Raise `ResumeError` for a shot of several chunks that has no folder."""
    if state.folder is None and len(state.plan) > 1:
        raise ResumeError(
            "A shot of several chunks needs a folder",
            got=f"{len(state.plan)} chunks and no folder",
            fix="Give a folder: later chunks read what earlier ones left there",
        )


def _folder(state: RolloutState) -> Path:
    if state.folder is None:
        raise ResumeError(
            "The rollout has no folder", fix="Give Mirage Rollout Start a name to save under"
        )
    return state.folder


def _claim(folder: Path, state: RolloutState) -> None:
    """Note in the folder whose it is, or check that it is ours."""
    manifest = folder / MANIFEST
    if manifest.exists():
        owner, lengths = _read_manifest(manifest)
        if owner != state.run_id:
            other = lengths is not None and lengths != state.lengths
            raise ResumeError(
                f"The folder {folder} belongs to another rollout",
                got=f"one in chunks of {lengths.describe()}" if lengths and other else None,
                fix="Choose another name, or remove the folder",
            )
        return
    content = {
        "format": MANIFEST_FORMAT,
        "version": MANIFEST_VERSION,
        "run_id": state.run_id,
        "frames": len(state.trajectory),
        "width": state.trajectory.width,
        "height": state.trajectory.height,
        "fps": state.trajectory.fps,
        "seed": state.seed,
        "chunks": len(state.plan),
    }
    if not state.lengths.are_default:
        content["lengths"] = asdict(state.lengths)
    with atomic_write(manifest, "w") as file:
        json.dump(content, file, indent=1)


def _read_manifest(manifest: Path) -> tuple[str | None, ChunkLengths | None]:
    """Whose folder it is, and how long that rollout's chunks are; None where it does not say.

    A folder without lengths was begun with the default ones.
    """
    try:
        found = json.loads(manifest.read_text(encoding="utf-8"))
        if found["format"] != MANIFEST_FORMAT:
            return None, None
        return found["run_id"], ChunkLengths(**found.get("lengths", {}))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, PlanError):
        return None, None


def _save_chunk(state: RolloutState, after: RolloutState) -> None:
    """Save what the chunk changed; blocks that the memory had before are not written again."""
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
        "run_id": state.run_id,
        "chunk": state.done,
        "shared_blocks": len(delta.dropped),
        "new_blocks": len(delta.added),
        "statistics": asdict(after.statistics[-1]),
    }
    write_safetensors(chunk_path(_folder(state), state.done), tensors, header)


def _load_chunk(folder: Path, state: RolloutState) -> RolloutState:
    path = chunk_path(folder, state.done)
    tensors, header = read_safetensors(path, FORMAT, VERSION)
    if header.get("run_id") != state.run_id or header.get("chunk") != state.done:
        raise CacheFormatError(f"{path.name} belongs to another rollout or chunk")
    if not clip_path(folder, state.done).exists():
        raise CacheFormatError(f"The clip of {path.name} is missing")
    shared, new = header.get("shared_blocks"), header.get("new_blocks")
    held = len(state.cache.blocks)
    if not is_count(shared) or not is_count(new) or shared > held or new > MAX_BLOCKS:
        raise CacheFormatError(f"{path.name} does not say what it added to the memory")
    nothing = torch.zeros(0, dtype=torch.int32)
    delta = CacheDelta(
        tuple(tensors.get(f"dropped.{number}", nothing) for number in range(shared)),
        tuple(block_from_tensors(tensors, f"block.{number}") for number in range(new)),
    )
    cache = apply_difference(state.cache, delta)
    record = _record(tensors)
    added = state.chunk.latent_frames - state.chunk.shared_latents
    height, width = state.latent_grid
    expect_shape(
        "The saved latents", record.latents, "C T h w", C=state.channels, T=added, h=height, w=width
    )
    _expect_seen(state, record.visible)
    if _expect_overlap(state, record.overlap) is None and record.overlap is not None:
        raise CacheFormatError(f"{path.name} holds an overlap that no chunk begins with")
    return state.advanced(record, cache, _statistics(header, path))


def _record(tensors: dict[str, Tensor]) -> ChunkRecord:
    try:
        latents, projections, visible = (
            tensors[name] for name in ("latents", "projections", "visible")
        )
    except KeyError as error:
        raise CacheFormatError("The chunk file lacks a tensor", got=str(error)) from error
    return ChunkRecord(
        latents, projections, visible, tensors.get("planes"), tensors.get("overlap")
    )


def _planes(readout: Readout) -> Tensor:
    """(3, T, h, w) float16 on the CPU: what a branch may want to know of preceding frames."""
    offset, log_depth = readout.planes
    return torch.cat([offset, log_depth[None]]).half().cpu()


def _statistics(header: dict[str, Any], path: Path) -> ChunkStatistics:
    try:
        return ChunkStatistics(**header["statistics"])
    except (KeyError, TypeError) as error:
        raise CacheFormatError(f"{path.name} has no statistics", got=str(error)) from error
