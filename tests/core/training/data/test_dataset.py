"""Data sets: what is written is read, whatever happens to the files meanwhile."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_core.errors import CacheFormatError, ShapeError, StorageError, ValueRangeError
from mirage_core.training.data.clip import TrainingClip
from mirage_core.training.data.dataset import ClipDataset, ClipWriter
from mirage_core.training.data.shards import FIELDS, field_of
from tiny_clips import random_clip


def assert_same(one: TrainingClip, other: TrainingClip) -> None:
    assert (one.key, one.caption) == (other.key, other.caption)
    for name in FIELDS:
        first, second = field_of(one, name), field_of(other, name)
        assert (first is None) == (second is None), name
        if first is not None:
            assert first.dtype == second.dtype
            assert torch.equal(first, second), name


def fill(folder: Path, name: str, keys: range, per_shard: int = 4) -> list[TrainingClip]:
    clips = [random_clip(f"{name}-{key}", seed=key, references=key % 3) for key in keys]
    with ClipWriter(folder, name=name, shard_clips=per_shard) as writer:
        for clip in clips:
            writer.add(clip)
    return clips


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(
        st.tuples(*(st.integers(low, low + 3) for low in (1, 0, 0, 0)), st.booleans()),
        min_size=1, max_size=7,
    ),
    per_shard=st.integers(1, 3),
)
def test_clips_of_all_sizes_come_back(tmp_path_factory, sizes, per_shard) -> None:
    folder = tmp_path_factory.mktemp("data")
    clips = [
        random_clip(
            f"k{number}", seed=number, target=target, preceding=before, references=references,
            words=words, planes=planes,
        )
        for number, (target, before, references, words, planes) in enumerate(sizes)
    ]
    with ClipWriter(folder, name="one", shard_clips=per_shard) as writer:
        for clip in clips:
            writer.add(clip)
    store = ClipDataset(folder)
    assert store.keys() == tuple(clip.key for clip in clips)
    for number in reversed(range(len(clips))):
        assert_same(store[number], clips[number])
        assert store.find(clips[number].key) == number
    assert len(store.shards) == -(-len(clips) // per_shard)


def test_a_store_grows_without_renumbering(tmp_path) -> None:
    """A writer whose name sorts first adds its shards behind those that were there."""
    later = fill(tmp_path, "m", range(6))
    store = ClipDataset(tmp_path)
    assert store.refresh() == 0
    earlier = fill(tmp_path, "a", range(3))
    assert store.refresh() == 3
    for number, clip in enumerate(later + earlier):
        assert_same(store[number], clip)
    anew = ClipDataset(tmp_path)
    assert anew.keys() != store.keys()
    assert ClipDataset(tmp_path, shards=store.shards).keys() == store.keys()


def test_a_clip_that_two_writers_made_counts_once(tmp_path) -> None:
    clip = random_clip("twice", seed=1)
    for name in ("a", "b"):
        with ClipWriter(tmp_path, name=name) as writer:
            writer.add(clip)
    assert ClipDataset(tmp_path).keys() == ("twice",)


def test_clips_of_one_call_are_stored_together(tmp_path) -> None:
    writer = ClipWriter(tmp_path, name="a", shard_clips=2)
    assert writer.add(random_clip("one")) == ()
    assert writer.add(*(random_clip(f"more-{n}") for n in range(3))) == (
        "one", "more-0", "more-1", "more-2",
    )
    assert len(ClipDataset(tmp_path).shards) == 1


def test_old_clips_are_stored_with_the_next(tmp_path) -> None:
    writer = ClipWriter(tmp_path, flush_seconds=0)
    assert writer.add(random_clip("one")) == ("one",)


@pytest.mark.processes
def test_a_store_goes_to_other_processes(tmp_path) -> None:
    clips = fill(tmp_path, "a", range(5))
    store = ClipDataset(tmp_path)
    assert_same(store[4], clips[4])
    assert_same(pickle.loads(pickle.dumps(store))[4], clips[4])
    loader = torch.utils.data.DataLoader(
        store, batch_size=None, num_workers=1,
        multiprocessing_context=multiprocessing.get_context("spawn"),
    )
    for clip, other in zip(loader, clips, strict=True):
        assert_same(clip, other)


def test_the_stored_type_is_handed_out_on_request(tmp_path) -> None:
    fill(tmp_path, "a", range(1))
    assert ClipDataset(tmp_path, dtype=None)[0].target.dtype == torch.float16
    assert ClipDataset(tmp_path)[0].target.dtype == torch.float32


def test_reading_gives_memory_of_its_own(tmp_path) -> None:
    (clip,) = fill(tmp_path, "a", range(1))
    store = ClipDataset(tmp_path, dtype=None)
    store[0].target.zero_()
    assert torch.equal(store[0].target.float(), clip.target)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_what_cannot_be_stored_is_refused_whole(tmp_path, value) -> None:
    good, bad = random_clip("good"), random_clip("bad")
    bad.condition.projection[3, 1] = value
    writer = ClipWriter(tmp_path)
    with pytest.raises(ValueRangeError, match="'bad'.*scene"):
        writer.add(good, bad)
    assert writer.flush() == ()


def test_a_full_disk_loses_nothing_that_was_stored(tmp_path, file_size_limit) -> None:
    clips = fill(tmp_path, "a", range(2))
    writer = ClipWriter(tmp_path, name="b")
    writer.add(random_clip("late"))
    with file_size_limit(1000), pytest.raises(StorageError):
        writer.flush()
    assert ClipDataset(tmp_path).keys() == tuple(clip.key for clip in clips)
    assert writer.flush() == ("late",)
    assert ClipDataset(tmp_path).find("late") == 2


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def lie(path: Path) -> None:
    """Another file of the same length."""
    path.write_bytes(b"\xff" * path.stat().st_size)


@pytest.mark.parametrize(
    ("suffix", "harm"),
    [(".safetensors", cut), (".safetensors", Path.unlink), (".json", cut), (".json", lie)],
)
def test_a_damaged_shard_is_left_out_and_named(tmp_path, suffix, harm, caplog) -> None:
    clips = fill(tmp_path, "a", range(8))
    harm(tmp_path / f"clips-a-00000{suffix}")
    store = ClipDataset(tmp_path)
    assert store.keys() == tuple(clip.key for clip in clips[4:])
    assert list(store.damaged) == ["clips-a-00000.json"]
    assert "clips-a-00000" in caplog.text
    assert_same(store[0], clips[4])
    with pytest.raises(CacheFormatError):
        ClipDataset(tmp_path, shards=["clips-a-00000"])


def test_a_shard_that_is_not_what_its_index_says(tmp_path) -> None:
    fill(tmp_path, "a", range(4))
    store = ClipDataset(tmp_path)
    lie(tmp_path / "clips-a-00000.safetensors")
    with pytest.raises(CacheFormatError, match="damaged"):
        store[0]


def change(document: dict, place: int, value: object) -> None:
    document["clips"][0][place] = value


@pytest.mark.parametrize(
    "harm",
    [
        lambda d: d.update(shard="../clips-b-00000.safetensors"),
        lambda d: d.update(version=2),
        lambda d: d.update(clips=[]),
        lambda d: d.update(bytes="many"),
        lambda d: change(d, 0, 7),
        lambda d: change(d, 2, -1),
        lambda d: change(d, 2, 2.0),
        lambda d: change(d, 2, True),
        lambda d: d["clips"][0].append(3),
        lambda d: d.update(spread=["a"]),
        lambda d: d.update(spread={"a": -1}),
        lambda d: d.clear(),
    ],
)
def test_a_hostile_index_is_refused(tmp_path, harm) -> None:
    fill(tmp_path, "a", range(4))
    path = tmp_path / "clips-a-00000.json"
    document = json.loads(path.read_text())
    harm(document)
    path.write_text(json.dumps(document))
    with pytest.raises(CacheFormatError, match="no training clips"):
        ClipDataset(tmp_path)


def test_an_index_with_other_sizes_reads_nothing_wrong(tmp_path) -> None:
    fill(tmp_path, "a", range(4))
    path = tmp_path / "clips-a-00000.json"
    document = json.loads(path.read_text())
    change(document, 3, 5)
    path.write_text(json.dumps(document))
    with pytest.raises(CacheFormatError, match="does not have"):
        ClipDataset(tmp_path)[0]


def test_a_shard_without_index_does_not_count(tmp_path) -> None:
    """That is what a program leaves which is killed between the two."""
    fill(tmp_path, "a", range(4))
    (tmp_path / "clips-a-00000.json").unlink()
    with ClipWriter(tmp_path, name="a") as writer:
        writer.add(random_clip("next"))
    assert ClipDataset(tmp_path).keys() == ("next",)


def test_a_run_that_lost_a_shard_is_told_what_helps(tmp_path) -> None:
    """Making its clips again gives them other numbers, which would not."""
    fill(tmp_path, "a", range(4))
    fill(tmp_path, "b", range(4, 6))
    promised = ClipDataset(tmp_path).shards
    shard = tmp_path / "clips-a-00000.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    fill(tmp_path, "c", range(4))
    with pytest.raises(CacheFormatError, match=r"clips-a-00000.*from a backup.*another folder"):
        ClipDataset(tmp_path, shards=promised)
    shard.write_bytes(whole)
    assert ClipDataset(tmp_path, shards=promised).shards[:2] == promised


def test_an_empty_folder_is_no_data_set(tmp_path) -> None:
    with pytest.raises(CacheFormatError, match="no training clips"):
        ClipDataset(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"key": ""},
        {"target": torch.zeros(48, 4, 4, 6)},
        {"text": torch.zeros(8)},
        {"path": torch.zeros(2, 6)},
        {"condition": {"offset": None, "preceding_offset": None}},
        {"condition": {"projection": torch.zeros(48, 4, 4, 6)}},
        {"condition": {"visible": torch.zeros(3, 6, 4, dtype=torch.bool)}},
        {"condition": {"preceding_projection": torch.zeros(48, 1, 4, 6)}},
        {"condition": {"references": torch.zeros(16, 1, 4, 6)}},
        {"condition": {"preceding_log_depth": torch.zeros(3, 4, 6)}},
    ],
)
def test_clips_are_checked(change) -> None:
    clip = random_clip("a")
    with pytest.raises(ShapeError):
        told = {
            name: dataclasses.replace(clip.condition, **value) if name == "condition" else value
            for name, value in change.items()
        }
        dataclasses.replace(clip, **told)


def test_clips_of_earlier_versions_have_no_cameras(tmp_path) -> None:
    """Their rows are one number shorter."""
    fill(tmp_path, "a", range(2))
    path = tmp_path / "clips-a-00000.json"
    document = json.loads(path.read_text())
    document["clips"] = [row[:-1] for row in document["clips"]]
    path.write_text(json.dumps(document))
    assert ClipDataset(tmp_path)[1].path is None
