"""What one forward pass is shown of its clips."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import tiny_training
from mirage_core.conditioning.features import (
    SCENE_AND_VISIBLE,
    SCENE_AND_WHITE,
    SideFeature,
)
from mirage_core.errors import ShapeError
from mirage_core.training.batch import BatchMaker, TrainingBatch
from mirage_core.training.settings import TrainingSettings

SETTINGS = TrainingSettings(**tiny_training.SETTINGS)
EMPTY = torch.full((2, tiny_training.TEXT), 7.0)


def maker(features=SCENE_AND_VISIBLE, white=None, **changes: object) -> BatchMaker:
    return BatchMaker(replace(SETTINGS, **changes), features, EMPTY, white)


def rich(*numbers: int, planes: bool = False):
    """Clips that all have references and preceding frames."""
    return [tiny_training.clip(15 * n + 14, planes=planes) for n in numbers]


def frames(batch: TrainingBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """References, target and preceding frames."""
    s = batch.segments
    return batch.latents.split([s.references, s.target, s.preceding], dim=2)


def test_equal_seeds_give_equal_batches() -> None:
    one, two, other = (maker().make(rich(0, 1), seed) for seed in (3, 3, 4))
    for name in ("latents", "timesteps", "side", "text", "target", "noise"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name
    assert not torch.equal(one.noise, other.noise)


def test_the_clean_frames_are_clean_and_at_time_zero() -> None:
    for seed in range(8):
        clips = rich(0, 1)
        batch = maker().make(clips, seed)
        references, target, preceding = frames(batch)
        times = batch.timesteps.split([references.shape[2], 3, preceding.shape[2]], dim=1)
        assert not bool(times[0].any() or times[2].any() or times[1][:, 0].any())
        assert bool((times[1][:, 1:] > 0).all())
        level = times[1][:, None, :, None, None] / 1000
        clean = torch.stack([clip.target for clip in clips])
        assert torch.allclose(target, (1 - level) * clean + level * batch.noise, atol=1e-6)
        assert torch.equal(target[:, :, 0], clean[:, :, 0])


def place_of(frame: torch.Tensor, among: torch.Tensor) -> int:
    """Which of the frames (C, F, h, w) this one is."""
    same = [number for number in range(among.shape[1]) if torch.equal(frame, among[:, number])]
    assert len(same) == 1
    return same[0]


def test_subsets_are_in_order_and_what_they_showed_goes_with_them() -> None:
    seen: set[tuple[int, ...]] = set()
    counts: set[tuple[int, int]] = set()
    for seed in range(60):
        clips = rich(0, 1)
        batch = maker(preceding=8).make(clips, seed)
        references, _, preceding = frames(batch)
        counts.add((references.shape[2], preceding.shape[2]))
        for row, clip in enumerate(clips):
            chosen = [place_of(f, clip.condition.references) for f in references[row].unbind(1)]
            assert chosen == sorted(set(chosen))
            seen.add(tuple(chosen))
            before = [place_of(f, clip.condition.preceding) for f in preceding[row].unbind(1)]
            assert before == sorted(set(before))
            shown = batch.side[row, :48, 3:]
            assert torch.equal(shown, clip.condition.preceding_projection[:, before])
            where = batch.side[row, 48, 3:].bool()
            assert torch.equal(where, clip.condition.preceding_visible[before])
    assert {r for r, _ in counts} == set(range(5))
    assert {p for _, p in counts} == set(range(3))
    assert len(seen) > 10


def test_caps_keep_the_best_references_and_the_newest_frames() -> None:
    (clip,) = rich(0)
    batch = maker(references=2, preceding=1, random_subsets=False).make([clip], 0)
    references, _, preceding = frames(batch)
    assert torch.equal(references[0], clip.condition.references[:, :2])
    assert torch.equal(preceding[0], clip.condition.preceding[:, -1:])


def test_clips_with_fewer_frames_lower_the_count_for_all() -> None:
    clips = [tiny_training.clip(14), tiny_training.clip(16)]
    assert [clip.condition.references.shape[1] for clip in clips] == [4, 1]
    batch = maker(random_subsets=False).make(clips, 0)
    assert (batch.segments.references, batch.segments.preceding) == (1, 1)
    assert torch.equal(batch.latents[0, :, -1], clips[0].condition.preceding[:, -1])


def test_captions_are_filled_up_and_dropped() -> None:
    clips = [tiny_training.clip(number) for number in (0, 1)]
    kept = maker(text_dropout=0.0).make(clips, 0).text
    assert kept.shape == (2, 4, tiny_training.TEXT)
    assert torch.equal(kept[0, :2], EMPTY)
    assert torch.equal(kept[1, :3], clips[1].text)
    assert not bool(kept[0, 2:].any() or kept[1, 3:].any())
    dropped = [
        bool((maker(text_dropout=0.3).make([clips[1]], seed).text[0, 0] == 7).all())
        for seed in range(200)
    ]
    assert 0.2 < sum(dropped) / 200 < 0.4


@pytest.mark.parametrize(
    "features",
    [
        SCENE_AND_VISIBLE,
        SCENE_AND_WHITE,
        (*SCENE_AND_VISIBLE, SideFeature.OFFSET, SideFeature.DEPTH_RATIO),
    ],
)
def test_the_branch_sees_what_it_sees_in_generation(make, features) -> None:
    clips = rich(0, 1, planes=True)
    white = make.noise(48, 9, *tiny_training.GRID)
    batch = maker(features, white, random_subsets=False).make(clips, 0)
    for row, clip in enumerate(clips):
        expected = clip.condition.side_input(features, white[:, :5])
        assert torch.equal(batch.side[row], expected)


def test_planes_that_the_clips_do_not_have() -> None:
    with pytest.raises(ShapeError, match="sub-cell offset"):
        maker((*SCENE_AND_VISIBLE, SideFeature.OFFSET)).make(rich(0), 0)


def test_a_given_level_leaves_nothing_out() -> None:
    sigmas = torch.tensor([[0.0, 0.5, 0.5]])
    (clip,) = rich(1)
    batch = maker(text_dropout=1.0).make([clip], 0, sigmas)
    assert (batch.segments.references, batch.segments.preceding) == (4, 2)
    assert batch.timesteps[0].tolist() == [0, 0, 0, 0, 0, 500, 500, 0, 0]
    assert not bool((batch.text[0, 0] == 7).all()) or clip.text is None


def test_clips_that_cannot_share_a_pass() -> None:
    other = tiny_training.clip(3, grid=(4, 8))
    with pytest.raises(ShapeError, match="several sizes"):
        maker().make([tiny_training.clip(3), other], 0)
    with pytest.raises(ShapeError, match="different encoder"):
        replace(maker(text_dropout=0.0), empty_text=torch.zeros(1, 9)).make(
            [tiny_training.clip(1)], 0
        )
