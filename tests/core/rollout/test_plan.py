"""The chunk plan: every frame once, chunks that the model can take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirage_core.constants import MAX_CHUNK_FRAMES
from mirage_core.errors import PlanError, TrajectoryError
from mirage_core.rollout.plan import expect_rollout_length, plan_chunks


@given(n=st.integers(0, 600))
def test_chunks_cover_every_frame_once(n: int) -> None:
    frames = 4 * n + 1
    chunks = plan_chunks(frames)
    covered = [f for chunk in chunks for f in range(chunk.output_start, chunk.output_end)]
    assert covered == list(range(frames))
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))


@given(n=st.integers(0, 600))
def test_every_chunk_fits_the_model(n: int) -> None:
    frames = 4 * n + 1
    for before, chunk in zip((None, *plan_chunks(frames)), plan_chunks(frames), strict=False):
        assert chunk.model_frames % 4 == 1
        assert chunk.model_frames <= MAX_CHUNK_FRAMES
        assert chunk.latent_frames == len(chunk.pose_frames) == (chunk.model_frames + 3) // 4
        assert chunk.pose_frames[0] == chunk.first_frame
        assert chunk.pose_frames[-1] == chunk.output_end - 1
        if before is None:
            assert chunk.first_frame == 0
        else:
            assert chunk.first_frame == before.output_end - 1 == before.pose_frames[-1]
            assert before.model_frames == MAX_CHUNK_FRAMES


@given(frames=st.integers(-10, 500).filter(lambda frames: frames % 4 != 1 or frames < 1))
def test_other_counts_are_refused_with_the_nearest_that_fit(frames: int) -> None:
    with pytest.raises(PlanError) as caught:
        plan_chunks(frames)
    words = str(caught.value).rsplit("Use ", 1)[1].split()
    below, above = int(words[0]), int(words[2])
    assert plan_chunks(below)
    assert plan_chunks(above)
    assert above == below + 4
    assert frames < above


def test_a_shot_generates_something() -> None:
    expect_rollout_length(5)
    with pytest.raises(TrajectoryError, match="shorter than one chunk"):
        expect_rollout_length(1)
    with pytest.raises(PlanError):
        expect_rollout_length(6)
