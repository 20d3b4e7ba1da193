"""What a chunk begins with and looks back at, as earlier chunks saved it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mirage_core.errors import CacheFormatError, ResumeError, ShapeError, ValueRangeError
from mirage_core.rollout import saved_frames as module
from mirage_core.rollout.plan import ChunkLengths
from mirage_core.rollout.run_folder import clip_path, open_folder
from mirage_core.rollout.saved_frames import best_reference, frames_to_keep, saved_frames
from mirage_core.rollout.state import RolloutState
from mirage_core.rollout.video import read_frames, write_clip

FRAMES, NINE = 45, ChunkLengths(21, 17, 9)
"""Of 45 frames: 21, then 8 more at a time."""


@pytest.fixture(scope="module")
def later(shot: Any, tmp_path_factory: pytest.TempPathFactory) -> RolloutState:
    """The small shot before its third chunk: 29 frames."""
    folder = tmp_path_factory.mktemp("saved") / "shot"
    return shot.advance(open_folder(shot.begin(folder, FRAMES, lengths=NINE)), 2)


def all_frames(state: RolloutState) -> Tensor:
    """Every saved frame, clip by clip."""
    clips = [clip_path(state.folder, index) for index in range(state.done)]
    return torch.stack([frame for clip in clips for frame in read_frames(clip)]).float() / 255


def test_frames_are_found_in_any_clip_in_the_order_asked_for(later: RolloutState) -> None:
    every = all_frames(later)
    assert len(every) == 29
    for numbers in ([0], [28], [20, 21], [25, 3, 21, 3], list(range(29)), []):
        assert torch.equal(saved_frames(later, numbers), every[numbers])


def test_a_chunk_begins_with_the_last_frames_before_it(later: RolloutState) -> None:
    """They lie in two clips: the second chunk added 8 frames, and 9 are shared."""
    assert torch.equal(frames_to_keep(later), all_frames(later)[20:29])


def test_the_first_chunk_begins_with_the_picture(shot: Any, tmp_path: Path) -> None:
    state = shot.begin(tmp_path, FRAMES, lengths=NINE)
    path = state.trajectory
    size = (path.height, path.width)
    assert frames_to_keep(state).shape == (0, *size, 3)
    picture = torch.rand(2, *size, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(frames_to_keep(state, picture), picture[:1, ..., :3])
    assert torch.equal(best_reference(state, picture), picture[:1, ..., :3])
    assert best_reference(state) is None
    with pytest.raises(ShapeError, match="picture"):
        frames_to_keep(state, picture[:, 1:])


def test_the_reference_is_the_frame_of_the_best_overlap(
    later: RolloutState, monkeypatch: pytest.MonkeyPatch
) -> None:
    every, asked = all_frames(later), {}
    picture = torch.zeros_like(every[:1])

    def best(state: RolloutState, **options: Any) -> list[int]:
        assert state is later
        asked.update(options)
        return chosen

    monkeypatch.setattr(module, "reference_frames", best)
    chosen = [4, 1]
    assert torch.equal(best_reference(later, picture), every[16:17])
    assert asked == {"limit": 1, "exclude": set()}
    chosen = [0]
    assert torch.equal(best_reference(later), every[:1])
    assert torch.equal(best_reference(later, picture), picture)
    chosen = []
    assert best_reference(later, picture) is None


def test_the_reference_is_none_of_the_frames_that_are_kept(later: RolloutState) -> None:
    found = best_reference(later)
    every = all_frames(later)
    same = [number for number in range(29) if torch.equal(found[0], every[number])]
    assert same
    assert same[0] < 20
    assert same[0] % 4 == 0


def test_colours_come_back_as_they_were_given(tmp_path: Path, shot: Any) -> None:
    """A chunk begins with what the one before saved: a shift of colours would add up."""
    state = shot.begin(tmp_path, FRAMES, lengths=NINE)
    size = (state.trajectory.height, state.trajectory.width)
    colours = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.8, 0.2], [0.2, 0.2, 0.9], [0.5, 0.5, 0.5]])
    for colour in colours:
        frames = colour.expand(3, *size, 3)
        write_clip(tmp_path / "flat.mp4", frames, 16)
        back = torch.stack(list(read_frames(tmp_path / "flat.mp4"))).float() / 255
        assert float((back - frames).abs().max()) < 0.012


def test_what_is_not_there_is_said(later: RolloutState, tmp_path: Path, shot: Any) -> None:
    with pytest.raises(ValueRangeError, match="not finished"):
        saved_frames(later, [29])
    unsaved = shot.begin(None, FRAMES, lengths=NINE)
    after = shot.advance(unsaved, 1)
    with pytest.raises(ResumeError, match="folder"):
        frames_to_keep(after)
    state = shot.advance(open_folder(shot.begin(tmp_path, FRAMES, lengths=NINE)), 1)
    clip = clip_path(tmp_path, 0)
    write_clip(clip, torch.stack(list(read_frames(clip)))[:15].float() / 255, 24)
    with pytest.raises(CacheFormatError, match="clip.*is damaged"):
        frames_to_keep(state)
    clip.unlink()
    with pytest.raises(CacheFormatError):
        frames_to_keep(state)
