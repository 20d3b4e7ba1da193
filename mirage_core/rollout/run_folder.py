"""The folder of a rollout: each finished chunk is saved whole, so that a shot can go on.

A chunk is one MP4 of its new frames and one safetensors file with latents, projections and
what was written to the memory. The safetensors file is written last: a chunk counts once it
is there. What is not as it was written is made again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..cache.types import LatentCache
from ..codecs.memory_kind import MemoryKind
from ..errors import ResumeError, ValueRangeError
from ..files import discard_unfinished, ensure_writable_folder, make_way
from ..log import logger
from ..readout.readout import Readout
from ..validate import expect_shape
from .chunk_file import (
    chunk_path,
    clip_path,
    expect_overlap,
    expect_seen,
    has_chunks,
    load_chunks,
    load_saved_record,
    save_chunk,
    saved_clips,
)
from .manifest import MANIFEST, Manifest, read_manifest, write_manifest
from .state import ChunkRecord, ChunkStatistics, RolloutState
from .takes import (
    VIDEO,
    discard_unfinished_take,
    keep_take,
    remove_all_but,
    take_from_others,
)
from .video import join_clips, write_clip


def open_folder(state: RolloutState, *, anew: bool = False) -> RolloutState:
    """Prepare the rollout's folder, and take up the chunks that are saved in it.

    Chunks of other shots that begin in the same way are taken over: those of folders beside this
    one, and those of the shot that is in this folder. That shot is then kept whole in a folder of
    its own, see `mirage_core.rollout.takes.keep_take`, and this one goes on as the given shot.

    What another program is writing there would be removed as left behind: hold the folder with
    `mirage_core.folder_lock.exclusive_folder` before, and until the last chunk is committed.

    Args:
        state: The state before the first chunk, or after an earlier one.
        anew: Begin a folder, which is new, for chunks that are all made anew. It takes nothing
            over later either.

    Returns:
        The state after the last saved chunk; the given state when there is none.

    Raises:
        StorageError: The folder cannot be written.
        ResumeError: The folder belongs to another rollout, whose first chunk is another one.
    """
    folder = _folder(state)
    ensure_writable_folder(folder)
    discard_unfinished_take(folder)
    manifest = _claim(folder, state, anew)
    discard_unfinished(folder)
    before, state = state.done, load_chunks(folder, state)
    if manifest.kept is not None and state.done > before:
        state = state.taking_over(state.done - before, manifest.kept)
    if not manifest.anew and state.chains and not state.complete:
        state = take_from_others(folder, state)
    if state.taken_over is not None:
        logger.info("%s: %s", folder, state.taken_over.describe(len(state.plan)))
    return state


def take_up(state: RolloutState) -> RolloutState:
    """Go on with saved chunks right after one was made again.

    Only chunks that were made from this very one are taken: they name its digest. So damage to
    one chunk does not cost those behind it, where the chunk came out the same.

    Returns:
        The state after the last chunk that follows; the given state when there is none.
    """
    if state.folder is None or state.digest is None:
        return state
    return load_chunks(state.folder, state)


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
        state: The state before the chunk; one with a folder comes from `open_folder`.
        latents: (C, T, h, w) model-space latents of the chunk, the overlapping ones included.
        frames: (4T - 3, H, W, 3) decoded frames in 0..1, the overlapping ones included.
        readout: What the memory showed to the chunk's T latent cameras.
        cache: The memory after the chunk.
        overlap: From `mirage_core.rollout.decode.encode_overlap`.
        on_frame: Called with (done, total) after each frame of video; may raise to cancel.

    Raises:
        ShapeError: Latents, frames, readout or overlap do not belong to this chunk.
        ValueRangeError: Latents or frames are not finite.
        ResumeError: Earlier chunks are not in the folder any more.
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
    _expect_finite("latents", latents)
    _expect_finite("frames", frames)
    after = finish_chunk(state, latents, readout, cache, overlap)
    if state.folder is not None:
        _expect_earlier(state.folder, state)
        clip = make_way(clip_path(state.folder, chunk.index))
        write_clip(clip, frames[chunk.shared_frames :], state.trajectory.fps, on_frame)
        make_way(chunk_path(state.folder, chunk.index))
        after = save_chunk(state.folder, state, after)
    return after


def _expect_finite(what: str, values: Tensor) -> None:
    # One sum in place of a mask of the same size; it is finite where all of its parts are.
    if not math.isfinite(float(values.detach().sum(dtype=torch.float32))):
        raise ValueRangeError(
            f"The chunk's {what} are not finite, and were not saved",
            got="NaN or infinite numbers",
            fix="A model in 16 bits can overflow: try it in another precision, or with fewer LoRAs "
            "and a lower cfg. The chunks before this one are kept",
        )


def _expect_earlier(folder: Path, state: RolloutState) -> None:
    """Raise `ResumeError` unless the finished chunks are still where they were saved."""
    parts = (path(folder, index) for index in range(state.done) for path in (chunk_path, clip_path))
    lost = next((path for path in (folder / MANIFEST, *parts) if not path.is_file()), None)
    if lost is not None:
        raise ResumeError(
            f"Files of the shot are gone while it is made; chunk {state.done + 1} of "
            f"{len(state.plan)} is not saved",
            got=f"no {lost.name} in {folder}" if folder.is_dir() else f"no folder {folder}",
            expected=f"the {state.done} finished chunks",
            fix="Move the folder back to where it was, and run the rollout again: it goes on "
            "after the last chunk that is there",
        )


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
    overlap = expect_overlap(state, overlap)
    expect_seen(state, readout.visible)
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
        CacheFormatError: A clip is missing or damaged; the next `open_folder` sees to it.
        StorageError: The video could not be written.
    """
    folder = _folder(state)
    if not state.complete:
        raise ResumeError(
            "The rollout is not complete",
            got=f"{state.done} of {len(state.plan)} chunks",
            fix="Run the chunk loop to its end",
        )
    clips = saved_clips(folder, state)
    video = make_way(folder / VIDEO)
    join_clips(video, clips, state.trajectory.fps, tags=tags, on_clip=on_clip)
    return video


def load_record(state: RolloutState, index: int) -> ChunkRecord:
    """What chunk ``index`` left, from memory or from disk.

    Raises:
        CacheFormatError: The chunk's file is missing or damaged.
    """
    if state.last is not None and index == state.done - 1:
        return state.last
    return load_saved_record(_folder(state), state, index)


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


def _claim(folder: Path, state: RolloutState, anew: bool) -> Manifest:
    """Note in the folder whose it is, or check that it is ours; returns what it says."""
    path = folder / MANIFEST
    begun = Manifest(state.run_id, state.lengths, state.chains, anew)
    if path.exists():
        found = read_manifest(path)
        if found is None:
            raise ResumeError(
                f"The folder {folder} belongs to another rollout, or its {MANIFEST} is damaged",
                fix=f"Choose another name. If the chunks are of this shot, remove {MANIFEST} "
                "alone: they are compared with the shot before it goes on",
            )
        ours = found.run_id == state.run_id
        # Without chains, as in an earlier version, the rollout's id says all.
        unchanged = not found.chains or not state.chains or found.chains == state.chains
        if ours and unchanged:
            return found
        begun = dataclasses.replace(begun, anew=anew or (ours and found.anew))
        # What stopped before its first chunk has nothing to lose.
        if has_chunks(folder) or (folder / VIDEO).exists():
            shared = found.shared_with(state)
            if not shared and not ours:
                raise _of_another(folder, found, state)
            take = keep_take(folder)
            remove_all_but(folder, shared)
            logger.info("The shot that was in %s goes on in %s", folder, take)
            begun = dataclasses.replace(begun, kept=take)
    write_manifest(path, state, anew=begun.anew)
    return begun


def _of_another(folder: Path, found: Manifest, state: RolloutState) -> ResumeError:
    other = found.lengths != state.lengths
    return ResumeError(
        f"The folder {folder} belongs to another rollout",
        got=f"one in chunks of {found.lengths.describe()}" if other else None,
        fix="Choose another name, or remove the folder",
    )


def _planes(readout: Readout) -> Tensor:
    """(3, T, h, w) float16 on the CPU: what a branch may want to know of preceding frames."""
    offset, log_depth = readout.planes
    return torch.cat([offset, log_depth[None]]).half().cpu()
