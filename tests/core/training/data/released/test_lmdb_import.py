"""Released samples: what is good comes over exactly, what is bad is reported and skipped."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mirage_core.cli.main import main
from mirage_core.constants import WAN_CODEC
from mirage_core.errors import CacheFormatError, MirageError, ResumeError, ShapeError
from mirage_core.training.data.dataset import ClipDataset
from mirage_core.training.data.manifest import read_empty_text, read_manifest, read_skipped
from mirage_core.training.data.released.lmdb_import import convert_sample, import_lmdb
from tiny_samples import (
    GRID,
    PROTOCOLS,
    archive,
    files,
    hostile,
    noise,
    sample,
    tensors,
    write_shard,
)


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "it ran"
    yield path
    assert not path.exists()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("references", [0, 2])
def test_a_sample_becomes_a_clip(legacy: bool, protocol: int, references: int) -> None:
    latents = tensors(references=references)
    clip = convert_sample(pickle.dumps(files(latents, legacy), protocol), "key")
    target, scene, before, shown = list(latents.values())[:4]
    for frame in range(3):
        assert torch.equal(clip.target[:, frame], target[frame].float())
        assert torch.equal(clip.condition.projection[:, frame], scene[frame].float())
        for row, column in ((0, 0), (1, 2), (3, 5)):
            seen = bool(scene[frame, :, row, column].any())
            assert bool(clip.condition.visible[frame, row, column]) == seen
    assert int((~clip.condition.visible).sum()) == GRID[0] - 1
    assert torch.equal(clip.condition.preceding[:, 1], before[1].float())
    assert clip.condition.preceding_projection.shape[1] == len(shown)
    assert not clip.condition.preceding_visible.any()
    assert clip.condition.references.shape[1] == references
    if references:
        assert torch.equal(clip.condition.references, latents["train_reference_rgb.pt"].float())
    assert (clip.caption, clip.has_planes) == ("A courtyard, naïvely lit.", False)
    assert clip.condition.segments.target == 3


def run(folder: Path, out: Path, **options):
    return import_lmdb(folder, out, **options)


@pytest.mark.parametrize("inside", [False, True])
def test_shards_become_a_data_set(tmp_path: Path, inside: bool) -> None:
    folder, out = tmp_path / "released", tmp_path / "clips"
    folder.mkdir()
    write_shard(folder / "shard_000.lmdb", {f"{n:08d}": sample(n, 2 + n) for n in range(4)}, inside)
    write_shard(folder / "shard_001.lmdb", {"00000004": sample(4, references=0)}, inside)
    seen = []
    progress = run(folder, out, on_progress=seen.append)
    assert (progress.done, progress.total, progress.clips, progress.skipped) == (5, 5, 5, 0)
    assert [step.clips for step in seen] == [1, 2, 3, 4, 5]
    assert seen[-1].seconds_left == 0
    store = ClipDataset(out)
    keys = [f"released/shard_000/{n:08d}" for n in range(4)] + ["released/shard_001/00000004"]
    assert sorted(store.keys()) == keys
    manifest = read_manifest(out)
    assert (manifest.codec, manifest.width, manifest.height) == (WAN_CODEC, 96, 64)
    for number, key in enumerate(keys):
        clip, latents = store[store.find(key)], tensors(number)
        assert torch.equal(clip.target.transpose(0, 1), latents["train_target_rgb.pt"].float())
        assert clip.condition.references.shape[1] == (2 if number < 4 else 0)
        assert torch.equal(clip.condition.visible, (clip.condition.projection != 0).any(dim=0))


def test_nothing_is_done_twice(tmp_path: Path, monkeypatch) -> None:
    folder, out = tmp_path / "released", tmp_path / "clips"
    folder.mkdir()
    write_shard(folder / "shard_000.lmdb", {f"{n:08d}": sample(n) for n in range(5)})

    def stop(progress) -> None:
        if progress.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(folder, out, on_progress=stop)
    assert len(ClipDataset(out)) == 3
    assert run(folder, out).clips == 2
    assert run(folder, out).clips == 0
    write_shard(folder / "shard_001.lmdb", {"00000000": sample(9)})
    progress = run(folder, out)
    assert (progress.clips, progress.done, progress.total) == (1, 6, 6)
    assert len(set(ClipDataset(out).keys())) == len(ClipDataset(out)) == 6


def test_bad_samples_are_reported_and_skipped(tmp_path: Path, sentinel: Path, caplog) -> None:
    folder, out = tmp_path / "released", tmp_path / "clips"
    folder.mkdir()
    good = files(tensors())
    lacking = {name: value for name, value in good.items() if name != "train_preceding_rgb.pt"}
    huge = tensors()
    huge["train_target_rgb.pt"] = huge["train_target_rgb.pt"].float() * float("inf")
    odd = tensors(grid=(3, 6))
    turned = tensors() | {"train_target_rgb.pt": noise(48, 3, *GRID)}
    bad = {
        "00000001": (pickle.dumps(hostile(sentinel)[0]), "posix system"),
        "00000002": (pickle.dumps(good | {"train_target_rgb.pt": hostile(sentinel)[1]}), "eval"),
        "00000003": (pickle.dumps(lacking), "no train_preceding_rgb.pt"),
        "00000004": (b"", "exhausted"),
        "00000005": (os.urandom(20_000), "refused"),
        "00000006": (pickle.dumps(files(huge)), "NaN or infinite"),
        "00000007": (pickle.dumps(files(odd)), "multiples of 2"),
        "00000008": (sample(grid=(6, 6)), "another size"),
        "00000009": (pickle.dumps(files(turned)), "target"),
        "00000010": (pickle.dumps(good | {"train_target_rgb.txt": b"\xff"}), "UTF-8"),
        "00000011": (pickle.dumps(good | {"train_target_rgb.txt": b"a" * 100_000}), "caption of"),
        "00000012": (pickle.dumps({"a": 1}), "something else than files"),
        "00000013": (pickle.dumps({"latent": "\ud800"}), "something else than files"),
        "00000014": (b"\x80\x04\x8c\x03\xed\xa0\x80\x8c\x01x\x93.", "ud800"),
        "00000015": (pickle.dumps(good | {"train_target_rgb.pt": archive({"x": noise(2)})}),
                     "no latent"),
    }  # fmt: skip
    samples = {"00000000": sample(), **{name: value for name, (value, _) in bad.items()}}
    write_shard(folder / "shard_000.lmdb", samples | {"00000099": sample(99)})
    with caplog.at_level("WARNING"):
        progress = run(folder, out)
    assert (progress.clips, progress.done, progress.skipped) == (2, 17, 15)
    skipped = read_skipped(out)
    for name, (_, reason) in bad.items():
        assert reason in skipped[f"released/shard_000/{name}"], name
        assert f"released/shard_000/{name}" in caplog.text
    assert len(ClipDataset(out)) == 2
    again: list = []
    assert run(folder, out, on_progress=again.append).skipped == 15
    assert again == []
    write_shard(folder / "shard_000.lmdb", {"00000001": sample(1)})
    assert run(folder, out).clips == 0
    progress = run(folder, out, retry=True)
    assert (progress.clips, progress.skipped) == (1, 14)


def test_a_bad_shard_is_reported_and_tried_again(tmp_path: Path) -> None:
    folder, other, out = tmp_path / "released", tmp_path / "other", tmp_path / "clips"
    for place in (folder, other):
        place.mkdir()
        write_shard(place / "shard_000.lmdb", {"00000000": sample(), "00000001": b"bad"})
    whole = (folder / "shard_000.lmdb").read_bytes()
    (folder / "shard_001.lmdb").write_bytes(whole[:20_000])
    write_shard(folder / "shard_002.lmdb", {"../up": sample()})
    progress = run(folder, out)
    assert (progress.clips, progress.total, progress.skipped) == (1, 2, 3)
    assert run(other, out).clips == 1
    assert set(read_skipped(out)) == {
        "released/shard_000/00000001", "released/shard_001", "released/shard_002",
        "other/shard_000/00000001",
    }  # fmt: skip
    (folder / "shard_001.lmdb").write_bytes(whole)
    progress = run(folder, out)
    assert (progress.clips, progress.skipped) == (1, 3)
    assert set(ClipDataset(out).keys()) == {
        "released/shard_000/00000000", "released/shard_001/00000000", "other/shard_000/00000000"
    }  # fmt: skip


class Words:
    """A text encoder of one token per word."""

    def encode(self, prompt: str) -> torch.Tensor:
        tokens = torch.zeros(1, 512, 8)
        tokens[0, : len(prompt.split()) + 1] = 0.5
        return tokens


def test_captions_are_embedded(tmp_path: Path) -> None:
    folder, out = tmp_path / "released", tmp_path / "clips"
    folder.mkdir()
    write_shard(folder / "shard_000.lmdb", {"00000000": sample()})
    run(folder, out, text=Words, text_name="words")
    assert ClipDataset(out)[0].text.shape == (5, 8)
    assert read_empty_text(out).shape == (1, 8)
    with pytest.raises(ResumeError, match="other options"):
        run(folder, out)


def test_folders_that_cannot_be_imported(tmp_path: Path) -> None:
    out = tmp_path / "clips"
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CacheFormatError, match="no released samples"):
            run(folder, out)
    write_shard(tmp_path / "shard_000.lmdb", {"00000000": b"bad"})
    with pytest.raises(CacheFormatError, match="None of the samples"):
        run(tmp_path, out)
    (tmp_path / "shard_000.lmdb").write_bytes(b"bad")
    with pytest.raises(CacheFormatError, match="not an LMDB data file"):
        run(tmp_path, out)
    assert not out.exists()
    with pytest.raises(ShapeError):
        convert_sample(pickle.dumps(files(dict.fromkeys(tensors(), noise(0, 48, 4, 6)))), "key")
    assert issubclass(CacheFormatError, MirageError)


def test_the_command_line_imports(tmp_path: Path, capsys) -> None:
    folder, out = tmp_path / "released", tmp_path / "clips"
    command = ["data", "import-lmdb", str(folder), "--out", str(out)]
    assert main(command) == 2
    assert "does not exist" in capsys.readouterr().err
    folder.mkdir()
    write_shard(folder / "shard_000.lmdb", {"00000000": sample(), "00000001": b"bad"})
    assert main(command) == 0
    assert "1 clips made" in (text := capsys.readouterr().out)
    assert "2 of 2 samples are done, 1 samples or shards were skipped" in text
    assert main(["data", "info", str(out)]) == 0
    text = capsys.readouterr().out
    assert "1 clips of 96 x 64" in text
    assert "skipped: released/shard_000/00000001" in text
