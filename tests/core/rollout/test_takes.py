"""Going on with a shot: what two shots have in common is made once, and lost by neither."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dev.damage import flipped
from mirage_core import files
from mirage_core.codecs.colours import ColourCodec
from mirage_core.codecs.dct import DctCodec
from mirage_core.errors import ResumeError, StorageError
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.rollout import manifest, takes
from mirage_core.rollout.begin import begin as begin_shot
from mirage_core.rollout.chain import shot_start
from mirage_core.rollout.depth_source import EstimatedDepth
from mirage_core.rollout.generate import generate
from mirage_core.rollout.memory import begin_memory
from mirage_core.rollout.models import GenerationModels
from mirage_core.rollout.plan import ChunkLengths
from mirage_core.rollout.report import describe
from mirage_core.rollout.run_folder import finish, open_folder, take_up
from mirage_core.rollout.settings import GenerationSettings
from mirage_core.rollout.state import RolloutState, rollout_id
from mirage_core.rollout.takes import MEMORY, VIDEO
from mirage_core.rollout.video import read_frames

SHORT = ChunkLengths(5, 5, 1)
SHARING = ChunkLengths(13, 13, 9)


@pytest.fixture(autouse=True)
def alone() -> None:
    """Other folders are looked at here."""


@pytest.fixture
def begin(shot) -> Callable[..., RolloutState]:
    """The state before a shot of some chunks."""

    def state(
        folder: Path,
        chunks: int = 3,
        *,
        bend: int | None = None,
        lengths: ChunkLengths = SHORT,
        seed: int = 3,
        settings: str = "test",
    ) -> RolloutState:
        """One whose camera leaves the path of the others at frame ``bend``."""
        frames = lengths.first + (chunks - 1) * (lengths.later - lengths.overlap)
        plain = shot.begin(folder, frames, seed, lengths)
        cameras = plain.trajectory
        if bend is not None:
            poses = cameras.world_to_camera.clone()
            poses[bend:, 1, 3] += 0.01
            cameras = dataclasses.replace(cameras, world_to_camera=poses)
        return identified(dataclasses.replace(plain, trajectory=cameras), settings)

    return state


def identified(state: RolloutState, settings: str = "test") -> RolloutState:
    """The state with the identity that its content has."""
    start = (state.cache, state.first_latent, state.seed, settings)
    run_id = rollout_id(state.trajectory, *start, state.lengths)
    return dataclasses.replace(state, run_id=run_id, start=shot_start(*start))


@pytest.fixture
def made(shot) -> Callable[[RolloutState], RolloutState]:
    """The whole shot of a state, with its video."""

    def whole(state: RolloutState) -> RolloutState:
        state = shot.advance(open_folder(state))
        finish(state)
        return state

    return whole


def contents(folder: Path, *without: str) -> dict[str, bytes]:
    """Every file of a folder."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in without}


def frames_of(folder: Path) -> int:
    return len(list(read_frames(folder / VIDEO)))


@pytest.mark.parametrize("name", ["shot", "fork"])
@pytest.mark.parametrize(
    ("change", "taken"),
    [({"chunks": 4}, 3), ({"bend": 9}, 2), ({"chunks": 5, "bend": 6}, 1), ({"chunks": 2}, 2)],
    ids=["longer", "another end", "longer with another end", "shorter"],
)
def test_only_what_changed_is_made(
    shot, begin, made, tmp_path: Path, name: str, change: dict[str, int], taken: int
) -> None:
    """In the same folder, and in another one beside it; with the bits of a shot made whole."""
    old = made(begin(tmp_path / "a" / "shot"))
    state = open_folder(begin(tmp_path / "a" / name, **change))
    assert state.done == taken
    source = "shot.take-1" if name == "shot" else "shot"
    told = f"{taken} of {len(state.plan)} chunks taken over from {source}"
    state = shot.advance(state)
    finish(state)
    assert told in describe(state, state.folder, None)
    fresh = made(begin(tmp_path / "b" / "shot", **change))
    assert contents(state.folder) == contents(fresh.folder)
    assert fresh.taken_over is None
    assert frames_of(tmp_path / "a" / source) == len(old.trajectory)
    assert open_folder(begin(tmp_path / "a" / source)).complete


def test_the_report_says_nothing_where_nothing_was_taken_over(begin, made, tmp_path: Path) -> None:
    made(begin(tmp_path / "shot"))
    again = open_folder(begin(tmp_path / "shot"))
    assert again.complete and again.taken_over is None
    assert "taken over" not in describe(again, tmp_path, None)


@pytest.mark.parametrize("deleted", ["shot", "fork"])
def test_what_is_shared_survives_the_deletion_of_either(
    begin, made, tmp_path: Path, deleted: str
) -> None:
    states = {"shot": begin(tmp_path / "shot"), "fork": begin(tmp_path / "fork", 4)}
    before = {name: contents(made(state).folder) for name, state in states.items()}
    assert (tmp_path / "fork/chunk_0002.mp4").samefile(tmp_path / "shot/chunk_0002.mp4")
    shutil.rmtree(tmp_path / deleted)
    (kept,) = states.keys() - {deleted}
    assert open_folder(states[kept]).complete
    assert contents(tmp_path / kept) == before[kept]


def test_the_shot_that_was_in_the_folder_is_kept_whole(shot, begin, made, tmp_path: Path) -> None:
    made(begin(tmp_path / "shot"))
    (tmp_path / "shot" / MEMORY).write_bytes(b"the finished memory")
    (tmp_path / "shot" / "notes.txt").write_text("mine")
    before = contents(tmp_path / "shot", "notes.txt")
    state = open_folder(begin(tmp_path / "shot", 4))
    assert state.taken_over.folders == ("shot.take-1",)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shot", "shot.take-1"]
    assert contents(tmp_path / "shot.take-1") == before
    assert not (tmp_path / "shot" / VIDEO).exists() and not (tmp_path / "shot" / MEMORY).exists()
    assert (tmp_path / "shot" / "notes.txt").read_text() == "mine"
    finish(shot.advance(state))
    assert contents(tmp_path / "shot.take-1") == before


def test_there_and_back_makes_no_chunk_and_no_take_twice(begin, made, tmp_path: Path) -> None:
    short, long = begin(tmp_path / "shot"), begin(tmp_path / "shot", 4, bend=6)
    made(short)
    made(long)
    for state in (short, long) * 2:
        assert open_folder(state).complete
        finish(open_folder(state))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "shot", "shot.take-1", "shot.take-2"
    ]  # fmt: skip


class Killed(BaseException):
    """Stands for the end of the program: nothing after it reaches the disk."""


@pytest.fixture
def killing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Ends the program at its operation number n on names of files, and at all after it."""
    left: list[int] = []

    def watched(name: str) -> None:
        operation = getattr(os, name)

        def run(*args: Any, **kwargs: Any) -> Any:
            if left:
                left[0] -= 1
                if left[0] < 0:
                    raise Killed(name)
            return operation(*args, **kwargs)

        monkeypatch.setattr(os, name, run)

    for name in ("link", "rename", "replace", "unlink", "mkdir", "rmdir", "open"):
        watched(name)

    def kill_at(number: int) -> None:
        left[:] = [number] if number >= 0 else []

    yield kill_at
    kill_at(-1)


@pytest.mark.parametrize("links", [True, False], ids=["links", "copies"])
@pytest.mark.parametrize("chunks", [5, 2], ids=["longer", "shorter"])
def test_a_program_that_is_killed_at_any_time_loses_nothing(
    begin, made, tmp_path: Path, killing, monkeypatch, chunks: int, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    made(begin(tmp_path / "first" / "shot"))
    before = contents(tmp_path / "first" / "shot")
    shared = min(chunks, 3) - 1
    for number in itertools.count():
        there, back = tmp_path / f"{number}" / "shot", tmp_path / f"{number}-back" / "shot"
        shutil.copytree(tmp_path / "first", there.parent)
        ended = False
        killing(number)
        try:
            state = open_folder(begin(there, chunks, bend=shared * 4 + 2))
            ended = True
        except Killed:
            pass
        killing(-1)
        shutil.copytree(there.parent, back.parent)
        old = open_folder(begin(back))
        assert old.complete, number
        assert finish(old).read_bytes() == before[VIDEO]
        state = open_folder(begin(there, chunks, bend=shared * 4 + 2))
        assert state.done == shared, number
        assert {path.name for path in there.parent.iterdir()} == {"shot", "shot.take-1"}
        assert contents(there.with_name("shot.take-1")) == before
        assert not list(there.parent.glob("**/.mirage-*"))
        assert {path.name for path in there.iterdir()} == {
            "rollout.json",
            *(f"chunk_000{k}.{kind}" for k in range(shared) for kind in ("mp4", "safetensors")),
        }
        if ended:
            break
    assert number > 20


@pytest.mark.parametrize("links", [True, False], ids=["links", "copies"])
def test_a_program_that_is_killed_while_it_takes_over_goes_on(
    begin, made, tmp_path: Path, killing, monkeypatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    made(begin(tmp_path / "shot"))
    before = contents(tmp_path / "shot")
    for number in itertools.count():
        killing(number)
        ended = False
        try:
            open_folder(begin(tmp_path / f"fork{number}", 4))
            ended = True
        except Killed:
            pass
        killing(-1)
        assert open_folder(begin(tmp_path / f"fork{number}", 4)).done == 3
        assert contents(tmp_path / "shot") == before
        shutil.rmtree(tmp_path / f"fork{number}")
        if ended:
            break
    assert number > 10


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("name", ["shot", "fork"])
def test_a_disk_without_links_gets_copies(
    shot, begin, made, tmp_path: Path, monkeypatch, name: str
) -> None:
    monkeypatch.setattr(files.os, "link", refuse)
    made(begin(tmp_path / "shot"))
    before = contents(tmp_path / "shot")
    state = open_folder(begin(tmp_path / name, 4))
    assert state.done == 3
    kept = tmp_path / ("shot.take-1" if name == "shot" else "shot")
    assert contents(kept) == before
    assert all(path.stat().st_nlink == 1 for path in kept.iterdir())
    assert not list(tmp_path.glob("**/.mirage-*"))


def test_a_full_disk_changes_nothing(begin, made, tmp_path: Path, monkeypatch) -> None:
    made(begin(tmp_path / "shot"))
    before = contents(tmp_path / "shot")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "link", refuse)
    monkeypatch.setattr(files.shutil, "copyfile", full)
    for name in ("shot", "fork"):
        with pytest.raises(StorageError, match="disk is full"):
            open_folder(begin(tmp_path / name, 4))
    assert contents(tmp_path / "shot") == before
    monkeypatch.undo()
    assert open_folder(begin(tmp_path / "fork", 4)).done == 3


@pytest.mark.parametrize("name", ["chunk_0001.mp4", "chunk_0001.safetensors"])
def test_damage_in_the_past_costs_the_chunk_that_it_hit(
    shot, begin, made, tmp_path: Path, name: str
) -> None:
    """It is in both shots, since they share the file; one of them is mended by itself."""
    made(begin(tmp_path / "shot"))
    whole = contents(made(begin(tmp_path / "fork", 4)).folder)
    shared = tmp_path / "shot" / name
    damaged = flipped(shared.read_bytes(), shared.stat().st_size // 2)
    shared.write_bytes(damaged)
    state = open_folder(begin(tmp_path / "fork", 4))
    assert state.done == 1
    state = take_up(shot.advance(state, 1))
    assert state.complete
    finish(state)
    assert contents(tmp_path / "fork") == whole
    assert shared.read_bytes() == damaged
    # And the other one by what is whole again.
    state = open_folder(begin(tmp_path / "shot"))
    assert state.complete and state.taken_over.chunks == 1
    assert shared.read_bytes() == whole[name]


def test_damage_before_the_shot_is_changed(shot, begin, made, tmp_path: Path) -> None:
    made(begin(tmp_path / "shot"))
    (tmp_path / "shot" / "chunk_0001.mp4").write_bytes(b"")
    state = open_folder(begin(tmp_path / "shot", 4))
    assert state.done == 1
    assert (tmp_path / "shot.take-1" / "chunk_0001.mp4").read_bytes() == b""
    state = take_up(shot.advance(state, 1))
    assert state.done == 3
    finish(shot.advance(state))
    assert contents(state.folder) == contents(made(begin(tmp_path / "b" / "shot", 4)).folder)


def other_memory(state: RolloutState) -> RolloutState:
    memory = state.cache
    block = dataclasses.replace(memory.blocks[0], points=memory.blocks[0].points + 1e-4)
    return dataclasses.replace(state, cache=dataclasses.replace(memory, blocks=(block,)))


def other_lens(state: RolloutState) -> RolloutState:
    lenses = state.trajectory.intrinsics.clone()
    lenses[:, 0, 0] += 1
    path = dataclasses.replace(state.trajectory, intrinsics=lenses)
    return dataclasses.replace(state, trajectory=path)


CHANGES: dict[str, Callable[[RolloutState], RolloutState]] = {
    "seed": lambda state: identified(dataclasses.replace(state, seed=4)),
    "settings": lambda state: identified(state, "other"),
    "memory": lambda state: identified(other_memory(state)),
    "picture": lambda state: identified(
        dataclasses.replace(state, first_latent=state.first_latent + 0.5)
    ),
    "lens": lambda state: identified(other_lens(state)),
    "rate": lambda state: identified(
        dataclasses.replace(state, trajectory=dataclasses.replace(state.trajectory, fps=16.0))
    ),
    "lengths": lambda state: identified(
        dataclasses.replace(state, lengths=ChunkLengths(9, 5, 1))
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_shot_that_begins_otherwise_takes_nothing_over(
    begin, made, tmp_path: Path, change: str
) -> None:
    made(begin(tmp_path / "shot"))
    before = contents(tmp_path / "shot")
    other = CHANGES[change](begin(tmp_path / "fork"))
    state = open_folder(other)
    assert (state.done, state.taken_over) == (0, None)
    with pytest.raises(ResumeError, match="belongs to another rollout"):
        open_folder(dataclasses.replace(other, folder=tmp_path / "shot"))
    assert contents(tmp_path / "shot") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fork", "shot"]


def test_a_shot_of_the_same_name_with_other_files_keeps_what_it_was(
    shot, begin, made, tmp_path: Path
) -> None:
    """Its id is the same, what its chunks are made of is not; and the way back costs nothing."""
    old = begin(tmp_path / "shot")
    made(old)
    before = contents(tmp_path / "shot")
    start = shot_start(old.cache, old.first_latent, old.seed, "another model under that name")
    new = dataclasses.replace(old, start=start)
    state = open_folder(new)
    assert (state.done, state.taken_over) == (0, None)
    assert contents(tmp_path / "shot.take-1") == before
    finish(shot.advance(state))
    made_anew = contents(tmp_path / "shot")
    assert open_folder(new).complete
    assert contents(tmp_path / "shot") == made_anew
    back = open_folder(old)
    assert back.complete and back.taken_over.folders == ("shot.take-1",)
    finish(back)
    assert contents(tmp_path / "shot") == before
    assert contents(tmp_path / "shot.take-2") == made_anew


@pytest.mark.parametrize("lengths", [SHARING, ChunkLengths(17, 13, 5)], ids=["9", "5"])
def test_chunks_that_share_several_frames(
    shot, begin, made, tmp_path: Path, lengths: ChunkLengths
) -> None:
    """The last one leaves what a longer shot goes on from."""
    made(begin(tmp_path / "a" / "shot", 2, lengths=lengths))
    state = open_folder(begin(tmp_path / "a" / "shot", 3, lengths=lengths))
    assert state.done == 2
    finish(shot.advance(state))
    fresh = made(begin(tmp_path / "b" / "shot", 3, lengths=lengths))
    assert contents(state.folder) == contents(fresh.folder)


def test_a_last_chunk_of_an_earlier_version_is_read_and_not_taken_over(
    begin, made, tmp_path: Path, monkeypatch
) -> None:
    """It left nothing that a longer shot could begin with."""
    with monkeypatch.context() as patch:
        follows = property(lambda s: 9 if s.remaining > 1 else 0)
        patch.setattr(RolloutState, "frames_to_encode", follows)
        made(begin(tmp_path / "shot", 2, lengths=SHARING))
    assert open_folder(begin(tmp_path / "shot", 2, lengths=SHARING)).complete
    assert open_folder(begin(tmp_path / "fork", 3, lengths=SHARING)).done == 1


def test_a_folder_without_chains_goes_on_by_its_id_alone(
    shot, begin, made, tmp_path: Path
) -> None:
    def of_old(name: str, chunks: int = 3) -> RolloutState:
        return dataclasses.replace(begin(tmp_path / name, chunks), start=None)

    finish(shot.advance(open_folder(of_old("shot"))))
    before = contents(tmp_path / "shot")
    assert open_folder(begin(tmp_path / "shot")).complete
    assert contents(tmp_path / "shot") == before
    with pytest.raises(ResumeError, match="belongs to another rollout"):
        open_folder(begin(tmp_path / "shot", 4))
    assert open_folder(begin(tmp_path / "fork", 4)).done == 0
    (tmp_path / "shot" / "chunk_0002.safetensors").unlink()
    state = shot.advance(open_folder(begin(tmp_path / "shot")))
    assert finish(state).read_bytes() == before[VIDEO]


def test_a_shot_that_is_made_anew_takes_nothing_over(shot, begin, made, tmp_path: Path) -> None:
    made(begin(tmp_path / "shot"))
    state = open_folder(begin(tmp_path / "anew", 4), anew=True)
    assert state.done == 0
    shot.advance(state, 1)
    assert open_folder(begin(tmp_path / "anew", 4)).done == 1, "nor after a break"
    assert open_folder(begin(tmp_path / "fork", 4)).done == 3


def test_the_folder_with_most_is_taken_from_first(shot, begin, made, tmp_path: Path) -> None:
    shot.advance(open_folder(begin(tmp_path / "a")), 1)
    made(begin(tmp_path / "c", 4, bend=10))
    made(begin(tmp_path / "b", 3))
    state = open_folder(begin(tmp_path / "fork", 4))
    assert (state.taken_over.chunks, state.taken_over.folders) == (3, ("b",))


def test_of_two_alike_the_one_begun_last_is_taken_from(begin, made, tmp_path: Path) -> None:
    """It may be made with what is newer under the same names."""
    for name, time in (("a", 100), ("b", 300), ("c", 200)):
        made(begin(tmp_path / name))
        os.utime(tmp_path / name / "rollout.json", (time, time))
    assert open_folder(begin(tmp_path / "fork", 4)).taken_over.folders == ("b",)


def test_many_other_folders_cost_one_small_file_each(
    begin, made, tmp_path: Path, monkeypatch
) -> None:
    """Chunks are read only where the shot begins as this one does."""
    made(begin(tmp_path / "shot"))
    for number in range(50):
        made_elsewhere = begin(tmp_path / f"other{number}", seed=100 + number)
        open_folder(made_elsewhere)
        (made_elsewhere.folder / "chunk_0000.safetensors").write_bytes(b"not looked at")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    read: list[Path] = []
    loads: list[Path] = []
    read_manifest, load_chunk = manifest.read_manifest, takes.load_chunk
    monkeypatch.setattr(takes, "read_manifest", lambda p: read.append(p) or read_manifest(p))
    monkeypatch.setattr(takes, "load_chunk", lambda p, s: loads.append(p) or load_chunk(p, s))
    assert open_folder(begin(tmp_path / "fork", 4)).done == 3
    assert len(read) == len(set(read)) == 52
    assert loads == [tmp_path / "shot"] * 3


def test_a_shot_of_colours(make, shot, tmp_path: Path) -> None:
    """What its memory holds comes with the chunks that are taken over."""
    codec = ColourCodec(2)

    def begun(name: str, chunks: int) -> RolloutState:
        path = make.trajectory(1 + 4 * chunks, 64, 64, step=0.02)
        picture = make.uniform(1, 64, 64, 3)
        depth = FrameGeometry(torch.full((1, 64, 64), 2.0), path.intrinsics[:1])
        cache = begin_memory(codec.encode_images(picture), depth, codec.name)
        first = DctCodec().encode_images(picture)
        state = RolloutState(path, cache, first, 0, "", tmp_path / name, lengths=SHORT)
        return identified(state)

    def advanced(state: RolloutState) -> RolloutState:
        while not state.complete:
            state = advance_colours(make, state)
        finish(state)
        return state

    advanced(open_folder(begun("a/shot", 2)))
    state = open_folder(begun("a/shot", 3))
    assert state.done == 2
    state, fresh = advanced(state), advanced(open_folder(begun("b/shot", 3)))
    assert contents(state.folder) == contents(fresh.folder)
    assert state.cache.fingerprint() == fresh.cache.fingerprint()
    assert len(state.cache) > len(begun("c", 1).cache)


def advance_colours(make, state: RolloutState) -> RolloutState:
    from mirage_core.readout.readout import read
    from mirage_core.rollout.memory import write_chunk
    from mirage_core.rollout.run_folder import commit

    frames = make.uniform(state.chunk.model_frames, 64, 64, 3, seed=1 + state.done)
    latents = DctCodec().encode(frames)
    cameras = state.latent_cameras
    depth = FrameGeometry(torch.full((len(cameras), 64, 64), 2.0), cameras.intrinsics)
    readout = read(state.cache, state.frame_cameras)
    written = write_chunk(
        state, latents, frames, depth, encode=lambda _: pytest.fail("colours need no codec")
    )
    return commit(state, latents=latents, frames=frames, readout=readout, cache=written.cache)


def test_the_whole_loop_samples_what_is_new(make, tmp_path: Path) -> None:
    """In the library's own loop, with references and preceding frames out of what was taken."""
    quick = GenerationSettings(steps=2, references=2)
    sampled: list[int] = []

    def denoiser(condition):
        sampled.append(condition.projection.shape[1])
        pull = condition.projection.mean(dim=1, keepdim=True)
        for part in (condition.references, condition.preceding):
            pull = pull + 0.3 * part.mean(dim=1, keepdim=True) if part.shape[1] else pull
        return lambda latents, timestep: 0.8 * latents - pull * (1 - timestep / 2000)

    depth = EstimatedDepth(lambda f, cameras: FrameGeometry(7 + f.mean(-1), cameras.intrinsics))
    models = GenerationModels(DctCodec(), denoiser, depth)

    def run(name: str, chunks: int, text: str = "models") -> RolloutState:
        cameras = make.trajectory(1 + 4 * chunks, step=0.03)
        geometry = FrameGeometry(2 + make.uniform(1, 64, 64), cameras.intrinsics[:1])
        state = begin_shot(
            make.uniform(64, 64, 3), geometry, cameras, DctCodec(), settings=quick,
            folder=tmp_path / name, models=text, lengths=SHORT,
        )  # fmt: skip
        sampled.clear()
        return generate(state, models, quick)

    run("a/shot", 3)
    longer = run("a/shot", 4)
    assert (len(sampled), longer.taken_over.chunks) == (1, 3)
    fresh = run("b/shot", 4)
    assert len(sampled) == 4
    ours, theirs = contents(longer.folder, ".lock"), contents(fresh.folder, ".lock")
    assert ours == theirs
    run("a/other", 4, text="")
    assert len(sampled) == 4, "of a shot that does not say what it is made with"


def test_nothing_is_written_through_a_second_name(shot, begin, made, tmp_path: Path) -> None:
    """Every writer of the folder puts a new file in the place of the old one."""
    made(begin(tmp_path / "shot"))
    before = contents(tmp_path / "shot")
    fork = tmp_path / "fork"
    shutil.copytree(tmp_path / "shot", fork, copy_function=os.link)
    (fork / "chunk_0000.safetensors").unlink()
    state = open_folder(begin(fork), anew=True)
    finish(shot.advance(state))
    manifest.write_manifest(fork / "rollout.json", state)
    assert contents(tmp_path / "shot") == before
