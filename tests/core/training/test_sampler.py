"""Which clips a step sees."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny_training
from mirage_core.conditioning.features import SCENE_AND_VISIBLE
from mirage_core.errors import ResumeError, ShapeError
from mirage_core.training.batch import BatchMaker
from mirage_core.training.data.dataset import ClipDataset
from mirage_core.training.prefetch import Prefetcher
from mirage_core.training.sampler import ClipSampler, Position, mixed_seed
from mirage_core.training.settings import TrainingSettings


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ClipDataset:
    folder = tmp_path_factory.mktemp("clips")
    tiny_training.write_clips(folder, range(13), name="a")
    tiny_training.write_clips(folder, range(20, 29), name="b", grid=(4, 8))
    return ClipDataset(folder)


def test_an_epoch_shows_each_clip_once_and_one_size_at_a_time(store: ClipDataset) -> None:
    order = ClipSampler(store, 2, seed=5)
    # 13 and 9 clips of two sizes: one of each is left over.
    epochs = [list(islice(order, 10)) for _ in range(4)]
    for epoch in epochs:
        shown = [number for batch in epoch for number in batch]
        assert len(set(shown)) == len(shown) == 20
        for batch in epoch:
            assert len({store.entry(number).sizes.width for number in batch}) == 1
    assert len({tuple(epoch) for epoch in epochs}) == 4
    # Left over is another clip each time.
    assert len({n for epoch in epochs for batch in epoch for n in batch}) == 22


@given(st.integers(0, 35), st.integers(1, 4))
def test_going_on_anywhere_gives_the_same_clips(store: ClipDataset, done: int, size: int) -> None:
    whole = ClipSampler(store, size, seed=1)
    expected = list(islice(whole, 40))
    first = ClipSampler(store, size, seed=1)
    assert list(islice(first, done)) == expected[:done]
    saved = Position.from_json(first.position.to_json())
    assert saved == first.position
    assert list(islice(ClipSampler(store, size, 1, saved), 40 - done)) == expected[done:]


def test_seeds_differ() -> None:
    seeds = {mixed_seed(a, b, c) for a in range(6) for b in range(6) for c in range(6)}
    assert len(seeds) == 216
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_new_clips_come_with_the_next_epoch(tmp_path: Path) -> None:
    tiny_training.write_clips(tmp_path, range(6), name="m")
    store = ClipDataset(tmp_path)
    order = ClipSampler(store, 1, seed=0)
    first = [next(order)[0]]
    tiny_training.write_clips(tmp_path, range(6, 10), name="a")
    first += [next(order)[0] for _ in range(5)]
    assert sorted(first) == list(range(6))
    second = [next(order)[0] for _ in range(10)]
    assert sorted(second) == list(range(10))
    assert order.position.shards == store.shards


def test_too_few_clips(store: ClipDataset) -> None:
    with pytest.raises(ShapeError, match="too few clips"):
        ClipSampler(store, 14, seed=0)


def test_another_data_set(store: ClipDataset) -> None:
    with pytest.raises(ResumeError, match="not the one"):
        ClipSampler(store, 1, 0, Position(0, 0, 99, store.shards))
    with pytest.raises(ResumeError, match="not the one"):
        ClipSampler(store, 1, 0, Position(0, 0, 5, ("clips-x-00000",)))
    with pytest.raises(ResumeError, match="damaged"):
        Position.from_json({"epoch": 0})


def batches(store: ClipDataset, share: range, readers: int, steps: int, first: int = 0, at=None):
    settings = TrainingSettings(**tiny_training.SETTINGS | {"readers": readers})
    maker = BatchMaker(settings, SCENE_AND_VISIBLE, torch.zeros(1, tiny_training.TEXT))
    order = ClipSampler(store, 2, seed=0, position=at)
    with Prefetcher(
        store, order, maker, micro_batches=4, share=share, first_step=first
    ) as feed:
        return list(islice(feed, steps * len(share)))


def test_processes_and_threads_do_not_change_batches(store: ClipDataset) -> None:
    whole = batches(store, range(4), readers=1, steps=4)
    halves = [batches(store, share, readers=3, steps=4) for share in (range(2), range(2, 4))]
    joined = [
        portion
        for step in range(4)
        for half in halves
        for portion in half[2 * step : 2 * step + 2]
    ]
    for one, two in zip(whole, joined, strict=True):
        assert torch.equal(one.batch.latents, two.batch.latents)
        assert one.position == two.position
    again = batches(store, range(4), readers=2, steps=2, first=2, at=whole[7].position)
    for one, two in zip(whole[8:], again, strict=True):
        assert torch.equal(one.batch.latents, two.batch.latents)
        assert one.batch.seed == two.batch.seed
