"""Chunks that remove points from the memory: what their files hold, and what comes back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from mirage_core.cache.types import LatentCache
from mirage_core.rollout.chunk_file import FORMAT, VERSION, chunk_path
from mirage_core.rollout.run_folder import commit, open_folder
from mirage_core.rollout.state import RolloutState
from mirage_core.tensor_files import read_safetensors, write_safetensors

LOST = [0, 3, 7]


@pytest.fixture
def removed(shot, tmp_path: Path) -> RolloutState:
    """One chunk that drops three points of the picture and adds a block."""
    state = open_folder(shot.begin(tmp_path / "shot"))
    parts = shot.parts(state)
    keep = torch.ones(len(state.cache.blocks[0]), dtype=torch.bool)
    keep[LOST] = False
    first = state.cache.blocks[0].take(keep)
    added = dataclasses.replace(parts["cache"].blocks[-1], bounds=torch.empty(0))
    cache = dataclasses.replace(state.cache, blocks=(first, added))
    return commit(state, **{**parts, "cache": cache})


def chunk_file(state: RolloutState) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    return read_safetensors(chunk_path(state.folder, 0), FORMAT, VERSION)


def test_the_file_names_the_lost_points(removed: RolloutState) -> None:
    tensors, header = chunk_file(removed)
    assert tensors["dropped.0"].tolist() == LOST
    assert (header["shared_blocks"], header["new_blocks"], header["version"]) == (1, 1, 2)
    assert not any(name.startswith("block.1") for name in tensors)


def test_the_memory_comes_back(shot, removed: RolloutState) -> None:
    again = open_folder(shot.begin(removed.folder))
    assert again.done == 1
    assert again.cache.fingerprint() == removed.cache.fingerprint()


def test_files_without_lost_points_are_as_before(shot, tmp_path: Path) -> None:
    """Readable by versions that know nothing of removal, and of tokens in 8 bits."""
    state = open_folder(shot.begin(tmp_path / "shot"))
    parts = shot.parts(state)
    added = parts["cache"].blocks[-1]
    commit(state, **{**parts, "cache": state.cache.append(added)})
    tensors, header = chunk_file(state)
    assert header["version"] == 1
    assert not any(name.startswith("dropped") for name in tensors)
    again = open_folder(shot.begin(tmp_path / "shot"))
    assert again.cache.fingerprint() == state.cache.append(added).fingerprint()


def test_int8_memories_resume(shot, tmp_path: Path) -> None:
    def begin() -> RolloutState:
        state = shot.begin(tmp_path / "shot")
        return dataclasses.replace(state, cache=state.cache.to("cpu", torch.int8))

    state = shot.advance(open_folder(begin()), 2)
    assert state.cache.storage == torch.int8
    assert chunk_file(state)[1]["version"] == 2
    again = open_folder(begin())
    assert again.done == 2
    assert again.cache.fingerprint() == state.cache.fingerprint()


@pytest.mark.parametrize(
    "rows", [torch.tensor([99], dtype=torch.int32), torch.tensor([1.0]), torch.tensor([[1]])]
)
def test_a_file_that_loses_what_is_not_there_is_made_again(
    shot, removed: RolloutState, rows: torch.Tensor, caplog
) -> None:
    tensors, header = chunk_file(removed)
    write_safetensors(chunk_path(removed.folder, 0), {**tensors, "dropped.0": rows}, header)
    assert open_folder(shot.begin(removed.folder)).done == 0
    assert "made again" in caplog.text


def test_an_emptied_memory_comes_back(shot, tmp_path: Path) -> None:
    state = open_folder(shot.begin(tmp_path / "shot"))
    parts = shot.parts(state)
    nothing = LatentCache((), state.cache.convention, state.cache.codec)
    after = commit(state, **{**parts, "cache": nothing})
    assert len(open_folder(shot.begin(tmp_path / "shot")).cache) == len(after.cache) == 0
