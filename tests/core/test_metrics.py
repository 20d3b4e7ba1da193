"""Measures, reports and contact sheets of finished shots."""

from __future__ import annotations

import dataclasses
import math
import os

import pytest
import torch

import mirage_core.rollout.report
from mirage_core.errors import ShapeError
from mirage_core.metrics import MAX_PSNR, psnr, returns_to_start
from mirage_core.rollout.progress import seconds_left, time_left
from mirage_core.rollout.report import closed_loop_psnr, report, review
from mirage_core.rollout.run_folder import chunk_path, finish
from mirage_core.rollout.state import RolloutState
from mirage_core.rollout.video import pick_frames, read_frames


def test_psnr_by_the_formula(make) -> None:
    one, other = make.uniform(4, 5, 3), make.uniform(4, 5, 3, seed=1)
    mean = sum(float(d) ** 2 for d in (one - other).flatten()) / 60
    assert psnr(one, other) == pytest.approx(-10 * math.log10(mean), abs=1e-4)
    assert psnr(one, one + 0.1) == pytest.approx(20, abs=1e-4)


def test_psnr_of_equal_pictures() -> None:
    assert psnr(torch.ones(2, 2, 3), torch.ones(2, 2, 3)) == MAX_PSNR


def test_psnr_counts_masked_pixels_only(make) -> None:
    one = make.uniform(4, 5, 3)
    other = one + 0.1
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[1, 2:4] = True
    other[mask] = one[mask] + 0.01
    assert psnr(one, other, mask) == pytest.approx(40, abs=1e-3)
    assert psnr(one, other, ~mask) == pytest.approx(20, abs=1e-3)


def test_psnr_refuses_what_cannot_be_compared() -> None:
    with pytest.raises(ShapeError, match="different sizes"):
        psnr(torch.ones(2, 2, 3), torch.ones(2, 3, 3))
    with pytest.raises(ShapeError, match="no pixel"):
        psnr(torch.ones(2, 2, 3), torch.ones(2, 2, 3), torch.zeros(2, 2, dtype=torch.bool))


def test_moves_that_come_back(make) -> None:
    poses = make.poses(5)
    assert not returns_to_start(poses)
    assert not returns_to_start(poses[:1])
    poses[-1] = poses[0]
    assert returns_to_start(poses)
    poses[-1, 0, 3] += 1e-3
    assert not returns_to_start(poses)


def test_reports(finished: RolloutState, make) -> None:
    video = finish(finished)
    text = report(finished, video)
    assert "69 frames of 64 x 64 in 3 chunks" in text
    assert f"{len(finished.cache):,} points" in text
    assert "closed loop" not in text
    poses = finished.trajectory.world_to_camera.clone()
    poses[-1] = poses[0]
    cameras = dataclasses.replace(finished.trajectory, world_to_camera=poses)
    loop = dataclasses.replace(finished, trajectory=cameras)
    frames = list(read_frames(video))
    ends = {0: frames[0], len(frames) - 1: frames[-1]}
    error = (frames[0].float() - frames[-1].float()) / 255
    expected = float(-10 * error.square().mean().log10())
    assert closed_loop_psnr(loop, ends) == pytest.approx(expected, abs=1e-3)
    assert closed_loop_psnr(finished, ends) is None
    assert f"{expected:.2f} dB" in report(loop, video)


def test_a_review_reads_the_video_once(finished: RolloutState, monkeypatch) -> None:
    video, passes = finish(finished), []

    def counted(*given):
        passes.append(given)
        return pick_frames(*given)

    monkeypatch.setattr(mirage_core.rollout.report, "pick_frames", counted)
    seen = review(finished, video)
    assert len(passes) == 1
    assert seen.report == report(finished, video)


def test_contact_sheets(finished: RolloutState) -> None:
    sheet = review(finished, finish(finished)).contact_sheet
    assert sheet.ndim == 3
    assert 0 <= float(sheet.min()) < 0.2
    assert 0.8 < float(sheet.max()) <= 1


def test_time_left(shot, finished: RolloutState, copied: RolloutState) -> None:
    assert time_left(shot.begin()) == time_left(copied) == ""
    for index, moment in enumerate((100, 160, 1000)):
        os.utime(chunk_path(copied.folder, index), (moment, moment))
    two = dataclasses.replace(finished, folder=copied.folder, done=2)
    assert seconds_left(two) == 60
    assert time_left(two) == "1:00"
    assert time_left(dataclasses.replace(two, done=3)) == "0:00"
    # A chunk that was made again is newer than the one behind it.
    os.utime(chunk_path(copied.folder, 0), (500, 500))
    assert seconds_left(two) is None
