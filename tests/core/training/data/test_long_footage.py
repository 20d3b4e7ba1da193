"""A long video is worked on shot by shot: what is held does not grow, and stops are cheap."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from mirage_core.errors import GeometryError
from mirage_core.training.data import footage as footage_module
from mirage_core.training.data import pipeline
from mirage_core.training.data.build_clip import Shot
from mirage_core.training.data.clip import TrainingClip
from mirage_core.training.data.dataset import ClipDataset
from mirage_core.training.data.footage import FootageSource
from mirage_core.training.data.footage_files import Footage
from mirage_core.training.data.manifest import read_skipped
from mirage_core.training.data.pipeline import (
    DataProgress,
    Worker,
    make_data,
)
from mirage_core.training.data.shards import shot_of
from mirage_core.training.data.stored import begun_items, finished_items
from tiny_clips import WallSource, wall_job, wall_shot

SHOTS = 6


@dataclass(frozen=True)
class LongWall(WallSource):
    """One video of many shots; ``asked`` notes those that were worked on."""

    shots: int = SHOTS
    fails_at: int = 99
    asked: list[str] = field(default_factory=list)

    def load(self, item: str) -> Iterator[Shot]:
        return self.rest(item, ())

    def rest(self, item: str, stored: Collection[str]) -> Iterator[Shot]:
        for number in range(self.shots):
            if number == self.fails_at:
                raise GeometryError("the disk of the footage is gone")
            if (key := f"{item}/{number}") not in stored:
                self.asked.append(key)
                yield wall_shot(key, 33, number)


def one_by_one(source: WallSource) -> Any:
    """Every call of the writer is stored at once."""
    return wall_job(source, flush_seconds=0.0)


def test_no_more_than_two_shots_are_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the video is: the one at work, and the one that waits for it."""
    alive: weakref.WeakSet[TrainingClip] = weakref.WeakSet()
    most: list[int] = []
    build = pipeline.build_clips

    def counted(*arguments: Any) -> list[TrainingClip]:
        clips = build(*arguments)
        alive.update(clips)
        most.append(len(alive))
        return clips

    monkeypatch.setattr(pipeline, "build_clips", counted)
    worker = Worker(tmp_path, one_by_one(LongWall(1, tmp_path / "log")))
    assert worker.make("wall-0").clips == SHOTS
    assert max(most) == 2


def test_pictures_of_one_shot_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded pictures that are alive while a shot is handed on: none but the shot itself."""
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()

    def frames(_: Footage) -> Iterator[torch.Tensor]:
        for _number in range(33 * 4):
            picture = torch.zeros(64, 64, 3, dtype=torch.uint8)
            alive.add(picture)
            yield picture

    class Parts:
        footage, count, fit = Footage(tmp_path), 33 * 4, footage_module.Fit((64, 64), (64, 64))

    monkeypatch.setattr(Footage, "frames", frames)
    monkeypatch.setattr(footage_module.Fit, "picture", lambda _, picture: picture)
    source, held = FootageSource(tmp_path, 64, 64, shot_frames=33), []
    for _start, shot in source._cut(Parts()):
        held.append(len(alive))
        del shot
    assert len(held) == 4 and max(held) <= 1


def test_a_stop_within_a_video_costs_its_last_shots_only(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    make_data(whole, wall_job(LongWall(1, tmp_path / "log")))
    broken = LongWall(1, tmp_path / "log", fails_at=4)
    folder = tmp_path / "data"
    make_data(folder, one_by_one(broken))
    assert "is gone" in read_skipped(folder)["wall-0"]
    assert not finished_items(folder)
    assert [shot_of(key) for key in begun_items(folder)["wall-0"]] == broken.asked
    later = LongWall(1, tmp_path / "log")
    done = make_data(folder, one_by_one(later), retry=True)
    assert later.asked == ["wall-0/4", "wall-0/5"]
    assert (done.clips, done.skipped) == (2, 0)
    assert finished_items(folder) == {"wall-0"}
    one, other = ({clip.key: clip for clip in ClipDataset(place)} for place in (whole, folder))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key].target, other[key].target) for key in one)


def test_a_lost_shard_within_a_video_is_made_again(tmp_path: Path) -> None:
    """The shard with the end of a video does not hide that one of its middle is gone."""
    make_data(tmp_path, one_by_one(LongWall(1, tmp_path / "log")))
    assert len(ClipDataset(tmp_path).shards) > 2
    lost = sorted(tmp_path.glob("clips-*.safetensors"))[1]
    (shot,) = {
        shot_of(clip.key) for clip in ClipDataset(tmp_path)
        if clip.key in _keys(lost.with_suffix(".json"))
    }  # fmt: skip
    lost.write_bytes(b"")
    again = LongWall(1, tmp_path / "log")
    make_data(tmp_path, one_by_one(again))
    assert again.asked == [shot]
    assert finished_items(tmp_path) == {"wall-0"}


def _keys(index: Path) -> set[str]:
    from mirage_core.training.data.shards import read_index

    return {entry.key for entry in read_index(index).clips}


def test_progress_counts_what_was_made(tmp_path: Path) -> None:
    seen: list[DataProgress] = []
    make_data(tmp_path, one_by_one(LongWall(2, tmp_path / "log")), on_progress=seen.append)
    assert [progress.clips for progress in seen] == [SHOTS, 2 * SHOTS]


