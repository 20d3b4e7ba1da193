"""Damage anywhere in a shot's folder ends in the same shot or in a message, never in another."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from dev.damage import CHUNKS, Shot, advance, begin, flipped
from mirage_core.digests import DIGEST, PREFIX
from mirage_core.errors import CacheFormatError, ResumeError, StorageError, ValueRangeError
from mirage_core.rollout.chunk_file import BEFORE, CHAIN, CLIP, chunk_path, clip_path
from mirage_core.rollout.history import History
from mirage_core.rollout.run_folder import VIDEO, all_latents, commit, finish, open_folder
from mirage_core.rollout.saved_frames import saved_frames
from mirage_core.rollout.state import RolloutState
from mirage_core.rollout.video import write_clip
from mirage_core.tensor_files import HEADER_KEY

PLACES = 12
"""Bytes of each file that are damaged; `python tools dev.damage` takes thousands."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Shot:
    """A finished shot of five small chunks."""
    return Shot(tmp_path_factory.mktemp("damage") / "shot")


@pytest.fixture
def damaged(whole: Shot) -> Shot:
    """The same, every file as it was."""
    whole.restore()
    return whole


def sample(shot: Shot, name: str) -> list[int]:
    """Some bytes of a file, the same ones each time: half of them of its headers."""
    every, headers = list(range(len(shot.whole[name]))), list(shot.places(name, 10**9))
    rng = random.Random(name)
    return rng.sample(every, PLACES // 2) + rng.sample(headers, PLACES // 2)


FILES = [
    *(f"chunk_000{n}.{kind}" for n in range(CHUNKS) for kind in ("mp4", "safetensors")),
    "rollout.json",
    VIDEO,
]


def test_every_file_is_damaged(whole: Shot) -> None:
    assert sorted(whole.whole) == FILES
    assert whole.states[-1][0] == CHUNKS


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit(damaged: Shot, name: str) -> None:
    outcomes = set()
    for place in sample(damaged, name):
        outcomes.add(damaged.outcome(name, flipped(damaged.whole[name], place), remake=False))
        damaged.restore()
    assert outcomes == ({"message"} if name == "rollout.json" else {"same"})


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_and_all_that_is_made_again(damaged: Shot, name: str) -> None:
    """Byte for byte the same folder as before, with the chunks really made again."""
    content = damaged.whole[name]
    made = damaged.outcome(name, flipped(content, len(content) * 2 // 3), remake=True)
    assert made == ("message" if name == "rollout.json" else "same")


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"no video, and no tensors"], ids=len)
@pytest.mark.parametrize("name", ["chunk_0004.mp4", "chunk_0003.safetensors", VIDEO])
def test_files_of_other_content(damaged: Shot, name: str, content: bytes) -> None:
    assert damaged.outcome(name, content, remake=True) == "same"


@pytest.mark.parametrize("name", ["chunk_0003.mp4", "chunk_0004.safetensors", VIDEO])
def test_files_that_are_cut_or_belong_elsewhere(damaged: Shot, name: str) -> None:
    other = "chunk_0000.mp4" if name.endswith("mp4") else "chunk_0001.safetensors"
    for content in (damaged.whole[name][:-1], damaged.whole[name][:99], damaged.whole[other]):
        assert damaged.outcome(name, content, remake=True) == "same"


@pytest.mark.parametrize("name", ["chunk_0004.mp4", "chunk_0004.safetensors", VIDEO])
def test_a_folder_in_the_place_of_a_file(
    whole: Shot, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    folder = tmp_path / "shot"
    whole.restore()
    shutil.copytree(whole.folder, folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    (folder / name / "mine.txt").write_text("x")
    state = open_folder(begin(folder))
    assert state.done == (CHUNKS if name == VIDEO else 4)
    finish(state if state.complete else advance(state))
    aside = folder / f"{name}.aside"
    assert (aside / name / "mine.txt").read_text() == "x"
    shutil.rmtree(aside)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole.whole
    assert str(aside) in caplog.text


def test_what_is_made_again_is_said(damaged: Shot, caplog: pytest.LogCaptureFixture) -> None:
    name = "chunk_0002.mp4"
    damaged.outcome(name, flipped(damaged.whole[name], 3000), remake=False)
    assert "Chunk 3 is made again: The clip chunk_0002.mp4 is damaged" in caplog.text


def rewrite(
    path: Path,
    change: Callable[[dict[str, Any]], object],
    tensor: Callable[[dict[str, torch.Tensor]], object] = lambda _: None,
) -> None:
    """Change the header of a chunk, or its tensors."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()[HEADER_KEY])
    change(header)
    tensor(tensors)
    safetensors.torch.save_file(tensors, path, {HEADER_KEY: json.dumps(header)})


@pytest.fixture
def old(copied: RolloutState) -> RolloutState:
    """The folder of a shot of three chunks as an earlier version left it."""

    def forget(header: dict[str, object]) -> None:
        """Leave out what earlier versions did not write."""
        for name in (DIGEST, CLIP, BEFORE, CHAIN):
            del header[name]
        header["run_id"] = copied.run_id

    for index in range(3):
        rewrite(chunk_path(copied.folder, index), forget)
    manifest = copied.folder / "rollout.json"
    content = json.loads(manifest.read_text())
    later = (DIGEST, "chains")
    manifest.write_text(json.dumps({k: v for k, v in content.items() if k not in later}))
    return copied


def test_folders_of_earlier_versions_go_on(
    shot, finished: RolloutState, old: RolloutState
) -> None:
    assert PREFIX.encode() not in b"".join(p.read_bytes() for p in old.folder.glob("*.s*"))
    state = open_folder(old)
    assert (state.done, state.digest) == (3, None)
    assert state.cache.fingerprint() == finished.cache.fingerprint()
    assert finish(state).read_bytes() == finish(finished).read_bytes()
    chunk_path(old.folder, 2).unlink()
    state = shot.advance(open_folder(old))
    assert state.done == 3 and state.digest.startswith(PREFIX)
    assert open_folder(old).digest == state.digest
    assert finish(state).read_bytes() == finish(finished).read_bytes()


@pytest.mark.parametrize("damage", ["empty", "cut", "foreign", "other length", "other coding"])
def test_clips_of_earlier_versions_are_counted(
    finished: RolloutState, old: RolloutState, damage: str
) -> None:
    clip = clip_path(old.folder, 1)
    content = clip.read_bytes()
    if damage == "other length":
        shutil.copy(clip_path(old.folder, 2), clip)
    elif damage == "foreign":
        write_clip(clip, torch.zeros(32, 32, 64, 3), 24)
    else:
        other = content.replace(b"avc1", b"xvid")
        clip.write_bytes({"empty": b"", "cut": content[:-400], "other coding": other}[damage])
    assert open_folder(old).done == 1


def test_a_chunk_that_follows_another_one_is_not_taken(
    shot, finished: RolloutState, copied: RolloutState
) -> None:
    """As where a model does not give the same bits twice: the chunks behind are of other ones."""
    chunk_path(copied.folder, 0).unlink()
    state = open_folder(copied)
    parts = shot.parts(state)
    parts["latents"] = parts["latents"] + 0.01
    commit(state, **parts)
    assert open_folder(copied).done == 1
    chunk_path(copied.folder, 0).unlink()
    shot.advance(open_folder(copied), 1)
    # The same chunk again: what follows it is good.
    assert open_folder(copied).done == 3


def test_damage_while_the_shot_is_made(shot, copied: RolloutState) -> None:
    """After the chunks were taken up: what is read later is compared once more."""
    state = dataclasses.replace(open_folder(copied), last=None)
    clip, tensors = clip_path(copied.folder, 1), chunk_path(copied.folder, 1)
    content = clip.read_bytes()
    clip.write_bytes(flipped(content, len(content) // 2))
    with pytest.raises(CacheFormatError, match="chunk_0001.mp4 is damaged.*made again"):
        saved_frames(state, [40])
    with pytest.raises(CacheFormatError, match="chunk_0001.mp4 is damaged.*made again"):
        finish(state)
    tensors.write_bytes(flipped(tensors.read_bytes(), tensors.stat().st_size - 50))
    with pytest.raises(CacheFormatError, match=r"chunk_0001.safetensors is damaged"):
        History(state).latents([12])


@pytest.mark.parametrize("loss", ["deleted", "renamed", "a clip", "a chunk"])
def test_a_folder_that_vanishes_is_noticed_at_the_next_chunk(
    shot, tmp_path: Path, loss: str
) -> None:
    folder, aside = tmp_path / "shot", tmp_path / "aside"
    state = shot.advance(open_folder(shot.begin(folder)), 1)
    parts = shot.parts(state)
    if loss == "deleted":
        shutil.rmtree(folder)
    elif loss == "renamed":
        folder.rename(aside)
    else:
        (clip_path if loss == "a clip" else chunk_path)(folder, 0).unlink()
    with pytest.raises(ResumeError, match="chunk 2 of 3 is not saved.*Move the folder back"):
        commit(state, **parts)
    if loss in ("deleted", "renamed"):
        assert not folder.exists()
    if loss == "renamed":
        aside.rename(folder)
        assert open_folder(shot.begin(folder)).done == 1


def test_a_manifest_that_is_damaged_may_be_removed(
    finished: RolloutState, copied: RolloutState
) -> None:
    manifest = copied.folder / "rollout.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole.replace(b'"seed": 3', b'"seed": 2'))
    with pytest.raises(ResumeError, match=r"remove rollout.json alone"):
        open_folder(copied)
    manifest.unlink()
    assert open_folder(copied).done == 3
    assert manifest.read_bytes() == whole


def test_old_chunks_do_not_follow_a_new_one(shot, old: RolloutState) -> None:
    """They were made behind other bits than those of the chunk that was made again."""
    folder = old.folder
    clip_path(folder, 1).write_bytes(b"")
    state = open_folder(shot.begin(folder))
    assert state.done == 1
    shot.advance(state, 1)
    assert open_folder(shot.begin(folder)).done == 2


@pytest.mark.parametrize("other", ["another shot", "an earlier chunk"])
def test_chunks_exchanged_while_the_program_runs_are_not_joined(
    shot, tmp_path: Path, other: str
) -> None:
    state = shot.advance(open_folder(shot.begin(tmp_path / "shot")))
    source, number = tmp_path / "shot", 0
    if other == "another shot":
        source, number = tmp_path / "other", 1
        shot.advance(open_folder(shot.begin(source, seed=8)))
    for path in (chunk_path, clip_path):
        shutil.copy(path(source, number), path(tmp_path / "shot", 1))
    with pytest.raises(CacheFormatError, match="belongs to another rollout or chunk"):
        finish(state)
    with pytest.raises(CacheFormatError, match="belongs to another rollout or chunk"):
        all_latents(state)


@pytest.mark.parametrize("what", ["latents", "frames"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_saved(shot, tmp_path: Path, what: str, value: float) -> None:
    state = shot.advance(open_folder(shot.begin(tmp_path / "shot")), 1)
    parts = shot.parts(state)
    parts[what] = parts[what].clone()
    parts[what].view(-1)[7] = value
    with pytest.raises(ValueRangeError, match=f"{what} are not finite"):
        commit(state, **parts)
    assert open_folder(shot.begin(tmp_path / "shot")).done == 1


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("latents", lambda x: x.fill_(float("nan"))),
        ("latents", lambda x: x.to(torch.int64)),
        ("latents", lambda x: x.to(torch.float8_e4m3fn)),
        ("projections", lambda x: x.fill_(float("inf"))),
        ("visible", lambda x: x.float()),
    ],
)
def test_tensors_of_another_kind_are_made_again(
    shot, old: RolloutState, name: str, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    rewrite(
        chunk_path(old.folder, 1),
        lambda _: None,
        lambda tensors: tensors.update({name: change(tensors[name])}),
    )
    assert open_folder(shot.begin(old.folder)).done == 1


@pytest.mark.parametrize("value", ["x", None, [1], {}, float("inf")])
def test_statistics_that_are_no_numbers_are_made_again(
    shot, old: RolloutState, value: object
) -> None:
    rewrite(
        chunk_path(old.folder, 1), lambda header: header["statistics"].update(hole_rate=value)
    )
    assert open_folder(shot.begin(old.folder)).done == 1


def test_a_folder_renamed_before_its_first_chunk_is_noticed(shot, tmp_path: Path) -> None:
    folder = tmp_path / "shot"
    state = open_folder(shot.begin(folder))
    folder.rename(tmp_path / "aside")
    with pytest.raises(ResumeError, match="chunk 1 of 3 is not saved"):
        commit(state, **shot.parts(state))
    assert not folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="needs paths of any bytes")
def test_a_path_that_nothing_could_open_again_is_refused_at_once(shot, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="not UTF-8"):
        open_folder(shot.begin(tmp_path / "caf\udce9"))
    assert not list(tmp_path.iterdir())
