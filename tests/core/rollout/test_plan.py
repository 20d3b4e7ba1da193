"""The chunk plan: every frame once, chunks that the model can take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirage_core.constants import MAX_CHUNK_FRAMES
from mirage_core.errors import PlanError, TrajectoryError
from mirage_core.rollout.plan import ChunkLengths, expect_rollout_length, plan_chunks


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


lengths = st.builds(
    lambda overlap, first, later: ChunkLengths(
        4 * (overlap + first) + 1, 4 * (overlap + later) + 1, 4 * overlap + 1
    ),
    overlap=st.integers(0, 4),
    first=st.integers(1, 40),
    later=st.integers(1, 30),
)


@given(n=st.integers(0, 300), lengths=lengths)
def test_chunks_of_any_length_add_every_frame_once(n: int, lengths: ChunkLengths) -> None:
    frames = 4 * n + 1
    chunks = plan_chunks(frames, lengths)
    added = [f for chunk in chunks for f in range(chunk.output_start, chunk.output_end)]
    assert added == list(range(frames))
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))


@given(n=st.integers(0, 300), lengths=lengths)
def test_chunks_of_any_length_begin_in_the_one_before(n: int, lengths: ChunkLengths) -> None:
    first, *later = plan_chunks(4 * n + 1, lengths)
    assert (first.first_frame, first.shared_frames, first.shared_latents) == (0, 0, 0)
    assert first.clean_latents == 1
    assert first.model_frames == min(lengths.first, 4 * n + 1)
    for before, chunk in zip((first, *later), later, strict=False):
        assert before.output_end - chunk.first_frame == lengths.overlap == chunk.shared_frames
        assert chunk.first_frame > before.first_frame
        assert chunk.clean_latents == chunk.shared_latents == (lengths.overlap + 3) // 4
        assert chunk.clean_latents < chunk.latent_frames
        assert chunk.model_frames <= lengths.later
        assert chunk is later[-1] or chunk.model_frames == lengths.later
    for chunk in (first, *later):
        assert chunk.model_frames % 4 == 1
        assert chunk.pose_frames == list(range(chunk.first_frame, chunk.output_end, 4))
        assert len(chunk.pose_frames) == chunk.latent_frames


@given(n=st.integers(0, 300))
def test_the_default_lengths_are_those_of_a_shot_without_any(n: int) -> None:
    assert plan_chunks(4 * n + 1, ChunkLengths()) == plan_chunks(4 * n + 1)
    assert ChunkLengths().are_default
    assert not ChunkLengths(37).are_default


SPATIA = ChunkLengths(121, 81, 9)
SPATIA_PLANS = {
    121: [(0, 121, 0, 31)],
    193: [(0, 121, 0, 31), (112, 193, 121, 21)],
    265: [(0, 121, 0, 31), (112, 193, 121, 21), (184, 265, 193, 21)],
    # The last clip is as short as the shot, where Spatia fills it up with the last camera.
    301: [(0, 121, 0, 31), (112, 193, 121, 21), (184, 265, 193, 21), (256, 301, 265, 12)],
}
"""Start, end, first new frame and latents of each clip, as Spatia's own code counts them."""


@pytest.mark.parametrize("frames", SPATIA_PLANS)
def test_the_plan_is_that_of_spatia(frames: int) -> None:
    found = [
        (chunk.first_frame, chunk.output_end, chunk.output_start, chunk.latent_frames)
        for chunk in plan_chunks(frames, SPATIA)
    ]
    assert found == SPATIA_PLANS[frames]
    assert {chunk.clean_latents for chunk in plan_chunks(frames, SPATIA)[1:]} <= {3}


def test_a_small_plan_of_spatia() -> None:
    """Clips of 21 and 17 frames that share 9; Spatia's own plan has 35 frames and ends there."""
    chunks = plan_chunks(37, ChunkLengths(21, 17, 9))
    found = [(chunk.first_frame, chunk.output_end, chunk.output_start) for chunk in chunks]
    assert found == [(0, 21, 0), (12, 29, 21), (20, 37, 29)]


@pytest.mark.parametrize(
    ("numbers", "what", "fix"),
    [
        ((32, 33, 1), "length of the first chunk", "Use 29 or 33 frames"),
        ((33, 80, 1), "length of the later chunks", "Use 77 or 81 frames"),
        ((33, 33, 2), "overlap of the chunks", "Use 1 or 5 frames"),
        ((33, 33, 0), "overlap of the chunks", "Use 1 or 5 frames"),
        ((33, -3, 1), "length of the later chunks", "Use 1 or 5 frames"),
        ((33, 9, 9), "not longer than the overlap", "lower the overlap"),
        ((5, 33, 9), "not longer than the overlap", "Raise the length"),
        ((1, 1, 1), "not longer than the overlap", "Raise the length"),
    ],
)
def test_lengths_that_do_not_fit(numbers: tuple[int, int, int], what: str, fix: str) -> None:
    with pytest.raises(PlanError, match=what) as caught:
        ChunkLengths(*numbers)
    assert fix in str(caught.value)
    assert caught.value.expected is not None
