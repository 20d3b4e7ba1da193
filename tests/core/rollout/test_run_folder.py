"""The chunk loop's state: saved after every chunk, resumed with the same bits."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import pytest
import torch

from mirage_core import files
from mirage_core.cache.types import LatentCache
from mirage_core.errors import (
    CacheFormatError,
    PlanError,
    ResumeError,
    ShapeError,
    StorageError,
    TrajectoryError,
)
from mirage_core.rollout.chain import shot_start
from mirage_core.rollout.run_folder import (
    all_latents,
    chunk_path,
    clip_path,
    commit,
    finish,
    load_record,
    open_folder,
)
from mirage_core.rollout.state import ChunkRecord, RolloutState, chunk_seed, rollout_id
from mirage_core.rollout.video import read_frames


def expect_equal(one: RolloutState, other: RolloutState) -> None:
    assert one.done == other.done
    assert one.statistics == other.statistics
    assert one.cache.fingerprint() == other.cache.fingerprint()
    assert [len(b) for b in one.cache.blocks] == [len(b) for b in other.cache.blocks]
    for name in ("latents", "projections", "visible"):
        for index in range(one.done):
            left, right = (getattr(load_record(s, index), name) for s in (one, other))
            assert left.dtype == right.dtype
            assert torch.equal(left, right), (name, index)
    assert torch.equal(one.overlap_latent, other.overlap_latent)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_rollout_is_worth_testing(finished: RolloutState) -> None:
    """Holes, growth of the memory and depth of all kinds occur in it."""
    assert finished.complete
    assert len(finished.statistics) == 3
    assert any(s.hole_rate > 0 for s in finished.statistics[1:])
    assert finished.statistics[-1].points == len(finished.cache) > 16
    assert set(names(finished.folder)) - {"video.mp4"} == {
        *(f"chunk_000{n}.{kind}" for n in range(3) for kind in ("mp4", "safetensors")),
        "rollout.json",
    }


def test_states_do_not_change(shot) -> None:
    state = shot.begin()
    fingerprint = state.cache.fingerprint()
    after = shot.advance(state, 1)
    assert (state.done, state.statistics, state.last) == (0, (), None)
    assert state.cache.fingerprint() == fingerprint
    assert after.done == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.done = 2


def test_what_is_kept_on_disk_does_not_matter(shot, finished: RolloutState) -> None:
    state = shot.advance(shot.begin())
    assert state.folder is None
    assert state.statistics == finished.statistics
    assert state.cache.fingerprint() == finished.cache.fingerprint()
    assert torch.equal(state.last.latents, finished.last.latents)


@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_resuming_gives_the_same_bits(
    shot, finished: RolloutState, tmp_path: Path, done: int
) -> None:
    first = shot.advance(open_folder(shot.begin(tmp_path / "shot")), done)
    resumed = open_folder(shot.begin(tmp_path / "shot"))
    assert resumed.done == done
    expect_equal(resumed, first)
    whole = shot.advance(resumed)
    expect_equal(whole, finished)
    for index in range(3):
        for path in (chunk_path, clip_path):
            ours, theirs = path(whole.folder, index), path(finished.folder, index)
            assert ours.read_bytes() == theirs.read_bytes()
    assert finish(whole).read_bytes() == finish(finished).read_bytes()


def test_append_resumes_too(shot, tmp_path: Path) -> None:
    state = open_folder(shot.begin(tmp_path))
    state = commit(state, **shot.parts(state, "append"))
    expect_equal(open_folder(shot.begin(tmp_path)), state)


def test_a_memory_that_was_rewritten_is_saved_whole(make, shot, tmp_path: Path) -> None:
    """A policy may drop blocks; what is shared is found by identity, not by number."""
    state = open_folder(shot.begin(tmp_path))
    parts = shot.parts(state)
    for cache in (make.cache(7), LatentCache(codec="test")):
        half = dataclasses.replace(cache.to("cpu", torch.float16), codec="test")
        after = commit(state, **{**parts, "cache": half})
        expect_equal(open_folder(shot.begin(tmp_path)), after)


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil_header(path: Path) -> None:
    content = path.read_bytes()
    assert content.count(b'\\"chunk\\": 2') == 1
    path.write_bytes(content.replace(b'\\"chunk\\": 2', b'\\"chunk\\": 7'))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: cut_in_half(chunk_path(folder, 2)),
        lambda folder: chunk_path(folder, 2).write_bytes(b""),
        lambda folder: chunk_path(folder, 2).unlink(),
        lambda folder: clip_path(folder, 2).unlink(),
        lambda folder: shutil.copy(chunk_path(folder, 1), chunk_path(folder, 2)),
        lambda folder: spoil_header(chunk_path(folder, 2)),
    ],
    ids=["cut", "empty", "missing", "no clip", "another chunk", "header"],
)
def test_a_damaged_last_chunk_is_made_again(shot, finished, copied: RolloutState, damage) -> None:
    damage(copied.folder)
    resumed = open_folder(copied)
    assert resumed.done == 2
    expect_equal(shot.advance(resumed), finished)
    assert names(copied.folder) == names(finished.folder) or finish(finished)


def test_everything_behind_a_damaged_chunk_is_made_again(
    shot, finished, copied: RolloutState
) -> None:
    cut_in_half(chunk_path(copied.folder, 1))
    resumed = open_folder(copied)
    assert resumed.done == 1
    expect_equal(shot.advance(resumed), finished)


@pytest.mark.parametrize(
    "content",
    [
        '{"format": "mirage-rollout", "run_id": "other"}', '{"format": "other"}', "{}", "[]", "",
        "no json", "null", b"\xff\xfe", "1" * 5000, "[" * 100_000,
    ],
    ids=lambda content: str(content)[:30],
)  # fmt: skip
def test_foreign_folders_are_left_alone(copied: RolloutState, content) -> None:
    manifest = copied.folder / "rollout.json"
    raw = content if isinstance(content, bytes) else content.encode()
    manifest.write_bytes(raw)
    before = {path: path.read_bytes() for path in copied.folder.iterdir()}
    with pytest.raises(ResumeError, match="belongs to another rollout"):
        open_folder(copied)
    assert {path: path.read_bytes() for path in copied.folder.iterdir()} == before


def test_a_manifest_that_is_a_folder(copied: RolloutState) -> None:
    (copied.folder / "rollout.json").unlink()
    (copied.folder / "rollout.json").mkdir()
    with pytest.raises(ResumeError):
        open_folder(copied)


@pytest.mark.parametrize("change", ["seed", "trajectory", "picture"])
def test_another_shot_does_not_take_the_folder(
    make, shot, copied: RolloutState, change: str
) -> None:
    if change == "seed":
        other = shot.begin(copied.folder, seed=4)
    else:
        first = copied.first_latent + (0.5 if change == "picture" else 0)
        cameras = make.trajectory(shot.FRAMES, step=0.02 if change == "trajectory" else 0.03)
        run_id = rollout_id(cameras, copied.cache, first, 3, "test")
        start = shot_start(copied.cache, first, 3, "test")
        other = dataclasses.replace(
            copied, trajectory=cameras, first_latent=first, run_id=run_id, start=start
        )
    with pytest.raises(ResumeError):
        open_folder(other)


def test_a_shot_that_failed_before_its_first_chunk_leaves_the_folder_to_the_next(
    shot, tmp_path: Path
) -> None:
    """A command that was wrong and is corrected finds nothing in its way."""
    folder = tmp_path / "shot"
    open_folder(shot.begin(folder, seed=3))
    state = shot.advance(open_folder(shot.begin(folder, seed=4)), 1)
    assert json.loads((folder / "rollout.json").read_text())["run_id"] == state.run_id
    with pytest.raises(ResumeError, match="belongs to another rollout"):
        open_folder(shot.begin(folder, seed=3))


def test_the_manifest_says_what_it_is(shot, copied: RolloutState) -> None:
    manifest = json.loads((copied.folder / "rollout.json").read_text())
    assert (manifest["format"], manifest["version"]) == ("mirage-rollout", 1)
    assert (manifest["frames"], manifest["chunks"], manifest["width"]) == (shot.FRAMES, 3, 64)


def test_folders_that_cannot_be_written(shot, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file" / "shot", tmp_path / "file", tmp_path / ("x" * 300)):
        with pytest.raises(StorageError):
            open_folder(shot.begin(folder))


@pytest.mark.parametrize("write_number", [0, 1])
def test_a_full_disk_leaves_what_was_there(
    shot, finished, tmp_path, monkeypatch, write_number
) -> None:
    """Whether the clip or the tensors do not fit: earlier chunks stay, nothing half-written."""
    state = shot.advance(open_folder(shot.begin(tmp_path)), 2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    parts, calls, flush = shot.parts(state), [], os.fsync

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > write_number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(handle)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StorageError, match="disk is full"):
        commit(state, **parts)
    monkeypatch.undo()
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    added = after.keys() - before.keys()
    assert added <= {"chunk_0002.mp4"}
    assert {name: after[name] for name in before} == before
    resumed = open_folder(shot.begin(tmp_path))
    assert resumed.done == 2
    expect_equal(shot.advance(resumed), finished)


def test_a_disk_that_really_refuses_more_bytes(shot, tmp_path: Path, file_size_limit) -> None:
    state = open_folder(shot.begin(tmp_path))
    parts = shot.parts(state)
    with file_size_limit(3000), pytest.raises(StorageError):
        commit(state, **parts)
    assert names(tmp_path) == ["rollout.json"]
    assert open_folder(shot.begin(tmp_path)).done == 0


def test_an_interrupt_in_mid_chunk(shot, finished, tmp_path: Path, monkeypatch) -> None:
    state = shot.advance(open_folder(shot.begin(tmp_path)), 1)
    parts = shot.parts(state)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        commit(state, **parts)
    monkeypatch.undo()
    assert names(tmp_path) == ["chunk_0000.mp4", "chunk_0000.safetensors", "rollout.json"]
    expect_equal(shot.advance(open_folder(shot.begin(tmp_path))), finished)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: {"latents": p["latents"][:, 1:]},
        lambda p: {"latents": p["latents"][:16]},
        lambda p: {"latents": p["latents"][..., :3]},
        lambda p: {"latents": p["latents"][None]},
        lambda p: {"frames": p["frames"][1:]},
        lambda p: {"frames": p["frames"][:, :32]},
        lambda p: {"frames": p["frames"].movedim(-1, 1)},
        lambda p: {"readout": changed(p["readout"], visible=p["readout"].visible[1:])},
        lambda p: {"readout": changed(p["readout"], visible=p["readout"].visible[:, 1:])},
        lambda p: {"readout": changed(p["readout"], tokens=p["readout"].tokens[:16])},
    ],
)  # fmt: skip
def test_parts_that_do_not_belong_to_the_chunk(shot, tmp_path: Path, change) -> None:
    state = open_folder(shot.begin(tmp_path))
    parts = shot.parts(state)
    with pytest.raises(ShapeError):
        commit(state, **{**parts, **change(parts)})
    assert names(tmp_path) == ["rollout.json"]


def test_states_that_cannot_be(shot) -> None:
    state = shot.begin()
    for frames, error in ((68, PlanError), (1, TrajectoryError)):
        with pytest.raises(error):
            dataclasses.replace(state, trajectory=state.trajectory.select(slice(0, frames)))
    with pytest.raises(ShapeError):
        dataclasses.replace(state, trajectory=state.trajectory.resized(48, 64))
    with pytest.raises(ShapeError):
        dataclasses.replace(state, first_latent=torch.zeros(16, 1, 4, 4))
    with pytest.raises(ShapeError):
        ChunkRecord(torch.zeros(48, 2, 4, 4), torch.zeros(48, 2, 4, 4), torch.zeros(1, 4, 4))


def test_nothing_comes_after_the_end(finished: RolloutState) -> None:
    with pytest.raises(ResumeError, match="complete"):
        _ = finished.chunk


def test_the_run_id_follows_everything(make, shot) -> None:
    state = shot.begin()
    base = (state.trajectory, state.cache, state.first_latent, 3, "a")
    changes = [
        base,
        (make.trajectory(shot.FRAMES, step=0.02), *base[1:]),
        (base[0], LatentCache(codec="test"), *base[2:]),
        (*base[:2], base[2] + 1, *base[3:]),
        (*base[:3], 4, "a"),
        (*base[:4], "b"),
    ]
    assert len({rollout_id(*change) for change in changes}) == len(changes)
    assert rollout_id(*base) == rollout_id(*base)


def test_the_video_joins_the_clips(shot, finished: RolloutState) -> None:
    video = finish(finished)
    frames = torch.stack(list(read_frames(video)))
    clips = [frame for n in range(3) for frame in read_frames(clip_path(finished.folder, n))]
    assert frames.shape == (shot.FRAMES, 64, 64, 3)
    assert torch.equal(frames, torch.stack(clips))


def test_an_incomplete_rollout_has_no_video(shot, tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match="1 of 3 chunks"):
        finish(shot.advance(open_folder(shot.begin(tmp_path)), 1))
    with pytest.raises(ResumeError, match="no folder"):
        finish(shot.advance(shot.begin()))


def test_a_damaged_clip_is_named_at_the_end(copied: RolloutState) -> None:
    state = open_folder(copied)
    clip_path(copied.folder, 1).write_bytes(b"x")
    with pytest.raises(CacheFormatError, match="chunk_0001.mp4"):
        finish(state)


def test_all_latents_in_order(finished: RolloutState) -> None:
    latents = all_latents(finished)
    assert latents.shape == (48, 18, 4, 4)
    assert torch.equal(latents[:, :1], finished.first_latent)
    assert torch.equal(latents[:, 17:], finished.last.latents)
    assert all_latents(dataclasses.replace(finished, done=0, last=None)).shape == (48, 1, 4, 4)


def test_chunk_latents_begin_where_the_last_ended(shot) -> None:
    state = shot.begin()
    assert torch.equal(state.overlap_latent, state.first_latent)
    state = shot.advance(state, 1)
    assert torch.equal(state.overlap_latent[:, 0], state.last.latents[:, -1])
    assert torch.equal(
        state.latent_cameras.world_to_camera, state.frame_cameras.world_to_camera[::4]
    )


def test_chunk_seeds_differ() -> None:
    seeds = {chunk_seed(seed, chunk) for seed in range(20) for chunk in range(500)}
    assert len(seeds) == 20 * 500
    assert all(0 <= seed < 2**63 for seed in seeds)
