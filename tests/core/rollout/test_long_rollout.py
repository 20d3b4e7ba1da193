"""A hundred chunks through the real loop: nothing piles up but the memory itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirage_core.cache.compact import BLOCK_POINTS
from mirage_core.rollout.plan import plan_chunks
from mirage_core.rollout.run_folder import chunk_path, finish, open_folder
from mirage_core.rollout.video import read_frames

CHUNKS = 100
FRAMES = 32 * CHUNKS + 1

PLATEAU = 1.05
"""Most that the process may grow after the tenth chunk."""


@pytest.mark.rollout
def test_a_hundred_chunks(shot, tmp_path: Path) -> None:
    """The camera moves on for ever, so every chunk has something new to remember."""
    psutil = pytest.importorskip("psutil", reason="needs psutil to tell the memory in use")
    process = psutil.Process()
    state = open_folder(shot.begin(tmp_path / "shot", frames=FRAMES))
    assert len(state.plan) == CHUNKS
    resident = []
    for _ in range(CHUNKS):
        state = shot.advance(state, 1)
        # What is held now: the peak of the process may lie long before this test.
        resident.append(process.memory_info().rss)
    assert max(resident[10:]) <= PLATEAU * max(resident[:10])

    assert state.complete
    points = [entry.points for entry in state.statistics]
    assert points[-1] == len(state.cache) > 5 * points[9]
    assert all(after > before for before, after in zip(points, points[1:], strict=False))
    assert len(state.cache.blocks) <= 1 + 2 * len(state.cache) // BLOCK_POINTS
    assert state.last is not None
    assert state.last.latents.shape[1] == 8

    resumed = open_folder(shot.begin(tmp_path / "shot", frames=FRAMES))
    assert resumed.complete
    assert resumed.cache.fingerprint() == state.cache.fingerprint()
    assert chunk_path(tmp_path / "shot", CHUNKS - 1).stat().st_size < 3 * state.cache.nbytes

    frames = list(read_frames(finish(state)))
    assert len(frames) == FRAMES == plan_chunks(FRAMES)[-1].output_end
    assert {frame.shape for frame in frames} == {(64, 64, 3)}
