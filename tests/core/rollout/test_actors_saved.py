"""Actors through a rollout: in chunks on disk, and at the time of each chunk."""

from __future__ import annotations

from pathlib import Path

import torch

from mirage_core.cache.track import Behaviour
from mirage_core.rollout.chunk_file import FORMAT, VERSION, chunk_path
from mirage_core.rollout.run_folder import commit, open_folder
from mirage_core.tensor_files import read_safetensors
from tiny_actors import actor, track


def saved_version(folder: Path) -> int:
    return read_safetensors(chunk_path(folder, 0), FORMAT, VERSION)[1]["version"]


def test_chunks_keep_what_actors_became(make, shot, tmp_path: Path) -> None:
    state = open_folder(shot.begin(tmp_path / "shot"))
    parts = shot.parts(state)
    where = track((0, 0.0, 0.0, 2.0))
    dog = actor(make, where, behaviour=Behaviour.GO_ON, ids=(4,), codec="test")
    after = commit(state, **{**parts, "cache": parts["cache"].with_actors([dog])})
    assert saved_version(state.folder) == VERSION == 4
    again = open_folder(shot.begin(tmp_path / "shot"))
    assert again.done == 1
    assert again.cache.fingerprint() == after.cache.fingerprint()
    assert again.cache.actors[0].ids == (4,)
    assert again.statistics[0].memory_bytes == after.cache.nbytes


def test_chunks_without_actors_are_as_they_were(shot, tmp_path: Path) -> None:
    state = open_folder(shot.begin(tmp_path / "shot"))
    commit(state, **shot.parts(state))
    assert saved_version(state.folder) < VERSION


def test_a_chunk_knows_its_frames(shot) -> None:
    state = shot.advance(shot.begin(None), 1)
    chunk = state.chunk
    own = torch.arange(chunk.first_frame, chunk.output_end)
    assert torch.equal(state.frame_cameras.frame_numbers, own)
    assert state.latent_cameras.frame_numbers.tolist() == list(chunk.pose_frames)
    assert own[0] > 0
