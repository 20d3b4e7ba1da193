"""Shots in chunks of any length, which share one frame or several: what is clean, kept, written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mirage_core.codecs.dct import DctCodec
from mirage_core.conditioning.condition import Condition
from mirage_core.errors import GeometryError, PlanError, ResumeError, ShapeError
from mirage_core.folder_lock import LOCK
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory
from mirage_core.readout.readout import read
from mirage_core.rollout import prepare, progress
from mirage_core.rollout.align_chunk import align_to_memory
from mirage_core.rollout.begin import begin
from mirage_core.rollout.chunk_geometry import chunk_geometry
from mirage_core.rollout.context import chunk_condition
from mirage_core.rollout.decode import context_latents
from mirage_core.rollout.depth_source import EstimatedDepth
from mirage_core.rollout.generate import generate
from mirage_core.rollout.history import latents_of, preceding_frames, shared_frames
from mirage_core.rollout.models import GenerationModels
from mirage_core.rollout.plan import ChunkLengths
from mirage_core.rollout.report import describe
from mirage_core.rollout.run_folder import (
    MANIFEST,
    all_latents,
    chunk_path,
    clip_path,
    commit,
    finish,
    load_record,
    open_folder,
)
from mirage_core.rollout.settings import GenerationSettings, MemorySettings
from mirage_core.rollout.state import ChunkRecord, RolloutState, rollout_id
from mirage_core.rollout.video import read_frames
from mirage_core.tensor_files import read_tensors, write_safetensors
from mirage_core.writing.consistency import ConsistencyConfig, find_inconsistent
from mirage_core.writing.policy import WriteRules
from mirage_core.writing.views import SourceViews

FRAMES = 45
FIVE = ChunkLengths(17, 13, 5)
"""Of 45 frames: 17, then 8 more at a time, then 4."""
NINE = ChunkLengths(21, 17, 9)
"""Of 45 frames: 21, then 8 more at a time."""
LONG = ChunkLengths(9, 25, 1)
"""Later chunks that are longer than the first, and share one frame."""

both = pytest.mark.parametrize("lengths", [FIVE, NINE], ids=["5", "9"])
all_three = pytest.mark.parametrize("lengths", [FIVE, NINE, LONG], ids=["5", "9", "1"])


def expect_equal(one: RolloutState, other: RolloutState) -> None:
    assert torch.equal(all_latents(one), all_latents(other))
    assert torch.equal(one.overlap_latent, other.overlap_latent)
    assert one.cache.fingerprint() == other.cache.fingerprint()
    assert one.statistics == other.statistics


# --- saved chunks ---------------------------------------------------------------------------------


@all_three
def test_resuming_gives_the_same_bits(shot, tmp_path: Path, lengths: ChunkLengths) -> None:
    whole = shot.advance(open_folder(shot.begin(tmp_path / "whole", FRAMES, lengths=lengths)))
    for done in range(len(whole.plan) + 1):
        folder = tmp_path / str(done)
        first = shot.advance(open_folder(shot.begin(folder, FRAMES, lengths=lengths)), done)
        resumed = open_folder(shot.begin(folder, FRAMES, lengths=lengths))
        assert resumed.done == done
        expect_equal(resumed, first)
        expect_equal(shot.advance(resumed), whole)
        for index in range(len(whole.plan)):
            for path in (chunk_path, clip_path):
                ours, theirs = path(folder, index), path(whole.folder, index)
                assert ours.read_bytes() == theirs.read_bytes()
    assert finish(whole).is_file()
    assert len(list(read_frames(whole.folder / "video.mp4"))) == FRAMES
    assert all_latents(whole).shape == (48, (FRAMES + 3) // 4, 4, 4)


@both
def test_a_chunk_begins_with_the_frames_before_encoded_anew(
    shot, tmp_path: Path, lengths: ChunkLengths
) -> None:
    state = open_folder(shot.begin(tmp_path, FRAMES, lengths=lengths))
    assert torch.equal(state.overlap_latent, state.first_latent)
    while not state.complete:
        parts = shot.parts(state)
        known = state.overlap_latent
        assert known.shape[1] == state.chunk.clean_latents
        assert torch.equal(parts["latents"][:, : known.shape[1]], known)
        state = commit(state, **parts)
        expected = shot.CODEC.encode(parts["frames"][-lengths.overlap :])
        assert torch.equal(state.overlap_latent, expected)
        assert not torch.equal(expected, parts["latents"][:, -expected.shape[1] :])
        assert torch.equal(read_tensors(chunk_path(tmp_path, state.done - 1))["overlap"], expected)


@all_three
def test_a_record_holds_what_a_chunk_added(shot, tmp_path: Path, lengths: ChunkLengths) -> None:
    state = open_folder(shot.begin(tmp_path, FRAMES, lengths=lengths))
    numbers: list[int] = []
    while not state.complete:
        chunk, parts = state.chunk, shot.parts(state)
        state = commit(state, **parts)
        record = load_record(state, chunk.index)
        added = len(latents_of(chunk))
        assert torch.equal(record.latents, parts["latents"][:, -added:])
        assert torch.equal(record.visible, parts["readout"].visible[-added:])
        clip = list(read_frames(clip_path(tmp_path, chunk.index)))
        assert len(clip) == chunk.output_end - chunk.output_start
        numbers += latents_of(chunk)
    assert numbers == list(range((FRAMES + 3) // 4))


def without_overlap(path: Path, **changes: Any) -> None:
    """Write a chunk's file again with its overlap taken out or changed."""
    tensors = {**read_tensors(path), **changes}
    header = json.loads(_metadata(path))
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    write_safetensors(path, kept, header)


def _metadata(path: Path) -> str:
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + size])["__metadata__"]["mirage"]


@pytest.mark.parametrize("overlap", [None, torch.zeros(48, 1, 4, 4), torch.zeros(48, 2, 2, 2)])
def test_a_chunk_without_its_overlap_is_made_again(shot, tmp_path: Path, overlap) -> None:
    state = shot.advance(open_folder(shot.begin(tmp_path, FRAMES, lengths=FIVE)))
    without_overlap(chunk_path(tmp_path, 1), overlap=overlap)
    resumed = open_folder(shot.begin(tmp_path, FRAMES, lengths=FIVE))
    assert resumed.done == 1
    expect_equal(shot.advance(resumed), state)


def test_the_end_of_a_chunk_has_to_be_encoded(shot, make) -> None:
    state = shot.begin(None, FRAMES, lengths=FIVE)
    parts = shot.parts(state)
    with pytest.raises(ShapeError, match="no clean latents.*last 5 frames"):
        commit(state, **{**parts, "overlap": None})
    with pytest.raises(ShapeError, match="encoded overlap"):
        commit(state, **{**parts, "overlap": make.noise(48, 3, 4, 4)})


def test_an_overlap_belongs_to_its_record(make) -> None:
    latents, visible = make.noise(48, 2, 4, 4), torch.ones(2, 4, 4).bool()
    with pytest.raises(ShapeError, match="encoded overlap"):
        ChunkRecord(latents, latents, visible, overlap=make.noise(48, 2, 4, 2))


# --- whose folder it is ---------------------------------------------------------------------------


def test_lengths_are_part_of_the_id_only_when_chosen(shot) -> None:
    state = shot.begin()
    base = (state.trajectory, state.cache, state.first_latent, 3, "test")
    plain = rollout_id(*base)
    assert rollout_id(*base, ChunkLengths()) == plain
    assert state.run_id == plain
    chosen = [FIVE, NINE, LONG, ChunkLengths(37), ChunkLengths(33, 37), ChunkLengths(33, 33, 5)]
    assert len({plain, *(rollout_id(*base, lengths) for lengths in chosen)}) == 1 + len(chosen)


def test_a_folder_without_lengths_has_the_default_ones(shot, finished, copied) -> None:
    manifest = json.loads((finished.folder / MANIFEST).read_text())
    assert "lengths" not in manifest
    assert "overlap" not in read_tensors(chunk_path(finished.folder, 0))
    assert open_folder(copied).complete
    other = shot.begin(copied.folder, lengths=FIVE)
    with pytest.raises(ResumeError, match="another rollout.*33 frames, then 33 of which 1 overlap"):
        open_folder(other)


def test_the_manifest_says_how_long_chunks_are(shot, tmp_path: Path) -> None:
    shot.advance(open_folder(shot.begin(tmp_path, FRAMES, lengths=FIVE)), 1)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert manifest["lengths"] == {"first": 17, "later": 13, "overlap": 5}
    assert manifest["chunks"] == 5
    with pytest.raises(ResumeError, match="17 frames, then 13 of which 5 overlap"):
        open_folder(shot.begin(tmp_path, FRAMES))


def test_the_report_says_how_long_chunks_are(shot) -> None:
    state = shot.begin(None, FRAMES, lengths=FIVE)
    assert "in 5 chunks (17 frames, then 13 of which 5 overlap)" in describe(state, Path(), None)
    assert "in 2 chunks\n" in describe(shot.begin(None, FRAMES), Path(), None)


# --- what the model is told -----------------------------------------------------------------------


@both
def test_the_model_is_shown_no_frame_twice(shot, tmp_path: Path, lengths: ChunkLengths) -> None:
    state = shot.advance(open_folder(shot.begin(tmp_path, FRAMES, lengths=lengths)), 2)
    chunk, count = state.chunk, lengths.overlap_latents
    first = chunk.first_frame // 4
    assert shared_frames(state) == range(first, first + count) != range(0)
    assert preceding_frames(state, 2) == [first - 2, first - 1]
    history = all_latents(state)
    assert history.shape[1] == first + count
    readout = read(state.cache, state.frame_cameras)
    condition = chunk_condition(state, readout, references=20, preceding=2, threshold=0.0)
    assert condition.clean == count
    assert torch.equal(condition.preceding, history[:, first - 2 : first])
    assert condition.references.shape[1] == first - 2, "all that are neither shared nor preceding"
    for reference in condition.references.unbind(1):
        known = history[:, : first - 2].unbind(1)
        assert any(torch.equal(reference, latent) for latent in known)
    seen = chunk_condition(
        state, readout, references=20, preceding=2, threshold=0.0, exclude_seen=False
    )
    assert seen.references.shape[1] == first + count


def test_the_first_chunk_has_nothing_before_it(shot) -> None:
    state = shot.begin(None, FRAMES, lengths=FIVE)
    assert shared_frames(state) == range(0)
    assert preceding_frames(state, 2) == []
    assert chunk_condition(state, read(state.cache, state.frame_cameras)).clean == 1


def test_earlier_latents_are_decoded_again_for_one_shared_frame_only(shot, tmp_path: Path) -> None:
    alone = shot.advance(open_folder(shot.begin(tmp_path / "a", FRAMES, lengths=FIVE)), 2)
    assert context_latents(alone, 2).shape == (48, 0, 4, 4)
    carried = shot.advance(open_folder(shot.begin(tmp_path / "b", FRAMES, lengths=LONG)), 1)
    assert torch.equal(context_latents(carried, 1), all_latents(carried)[:, -2:-1])


# --- what is compared, and what is written --------------------------------------------------------


@both
@pytest.mark.parametrize("reencode", [True, False])
def test_the_memory_takes_every_frame_once(
    shot, tmp_path: Path, lengths: ChunkLengths, reencode: bool
) -> None:
    state = open_folder(shot.begin(tmp_path, FRAMES, lengths=lengths))
    settings = MemorySettings(align=None, reencode=reencode, consistency=ConsistencyConfig(token=1))
    taken: list[int] = []
    while not state.complete:
        parts = shot.parts(state)
        count = state.chunk.latent_frames
        depth = FrameGeometry(torch.full((count, 64, 64), 2.0), state.latent_cameras.intrinsics)
        ready = prepare.prepare_observation(
            state, parts["latents"], parts["frames"], depth, settings,
            encode=shot.CODEC.encode_images, scaled=True,
        )  # fmt: skip
        added = ready.observation.frames.tolist()
        assert len(ready.rejected) == len(ready.excluded) == len(added)
        known = state.chunk.clean_latents
        expected = parts["latents"][:, known:]
        if reencode:
            expected = shot.CODEC.encode_images(parts["frames"][4 * known :: 4])
        assert torch.equal(ready.observation.tokens, settings.as_stored(expected))
        taken += added
        state = commit(state, **parts)
    assert taken == list(range(4, FRAMES, 4))


def test_what_is_shared_is_compared_as_the_memory_would_hold_it(
    shot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Latents of moving pictures are unlike those of pictures that are encoded alone."""
    state = shot.advance(open_folder(shot.begin(tmp_path, FRAMES, lengths=NINE)), 1)
    parts = shot.parts(state)
    seen: list[tuple[SourceViews, int]] = []

    def look(cache, observation, views, config, first, view):
        seen.append((views, first))
        return find_inconsistent(cache, observation, views, config, first, view)

    monkeypatch.setattr(prepare, "find_inconsistent", look)
    depth = FrameGeometry(torch.full((5, 64, 64), 2.0), state.latent_cameras.intrinsics)
    settings = MemorySettings(align=None, consistency=ConsistencyConfig(token=1))
    prepare.prepare_observation(
        state, parts["latents"], parts["frames"], depth, settings,
        encode=shot.CODEC.encode_images, scaled=True,
    )  # fmt: skip
    ((views, first),) = seen
    assert first == 3
    alone = shot.CODEC.encode_images(parts["frames"][::4])
    assert torch.allclose(views.tokens, alone, atol=1e-2)
    assert float((views.tokens[:, :3] - parts["latents"][:, :3]).abs().max()) > 0.1


def test_agreement_of_shared_frames_alone_is_not_enough(shot, make, tmp_path: Path) -> None:
    """Nothing of them is written: when all other frames contradict the memory, nothing is."""
    state = shot.advance(open_folder(shot.begin(tmp_path, FRAMES, lengths=NINE)), 1)
    readout = read(state.cache, state.frame_cameras)
    depth = torch.where(readout.visible, readout.depth, 2.5)
    depth = torch.nn.functional.interpolate(depth[:, None], size=(64, 64))[:, 0]
    depth[3:] = torch.nn.functional.interpolate(
        0.5 + 5 * make.uniform(2, 1, 4, 4), size=(64, 64)
    )[:, 0]
    own = chunk_geometry(state, FrameGeometry(depth, state.latent_cameras.intrinsics))
    config = MemorySettings().align
    assert config is not None
    found = align_to_memory(state, own, config)
    assert found.trusted[:3] == (True, True, True)
    assert found.refused == tuple(state.chunk.pose_frames[3:])
    with pytest.raises(GeometryError, match="No frame's depth agrees"):
        align_to_memory(state, own, config, strict=True)


# --- the whole loop -------------------------------------------------------------------------------

QUICK = GenerationSettings(steps=3, references=2)


class Cancelled(Exception):
    """What a user who stops a run raises."""


class Model:
    """A stand-in for the video model that depends on all that it is told, and remembers it."""

    def __init__(self) -> None:
        self.seen: list[tuple[Condition, list[Tensor]]] = []

    def __call__(self, condition: Condition):
        pull = condition.projection.mean(dim=1, keepdim=True)
        for part in (condition.references, condition.preceding, condition.preceding_projection):
            if part.shape[1]:
                pull = pull + 0.3 * part.mean(dim=1, keepdim=True)
        inputs: list[Tensor] = []
        self.seen.append((condition, inputs))

        def velocity(latents: Tensor, timestep: float) -> Tensor:
            inputs.append(latents.clone())
            return 0.8 * latents - (pull + latents.mean(1, keepdim=True)) * (1 - timestep / 2000)

        return velocity


def plane(frames: Tensor, cameras: Trajectory) -> FrameGeometry:
    """Depth of the right shape and the wrong scale."""
    return FrameGeometry(7 + frames.mean(-1), cameras.intrinsics)


def models(denoiser: Model | None = None) -> GenerationModels:
    return GenerationModels(DctCodec(), denoiser or Model(), EstimatedDepth(plane))


@pytest.fixture
def start(make):
    """The state before a shot of a textured wall, 64 x 64 pixels."""

    def state(
        folder: Path, lengths: ChunkLengths, frames: int = FRAMES, **changes: Any
    ) -> RolloutState:
        cameras = make.trajectory(frames, step=0.03)
        picture = (0.5 + 0.2 * make.noise(64, 64, 3)).clamp(0, 1)
        geometry = FrameGeometry(2 + make.uniform(1, 64, 64), cameras.intrinsics[:1])
        known = {"settings": QUICK, "seed": 5, "folder": folder} | changes
        return begin(picture, geometry, cameras, DctCodec(), lengths=lengths, **known)

    return state


@all_three
def test_a_shot_from_end_to_end(start, tmp_path: Path, lengths: ChunkLengths) -> None:
    model, codec = Model(), DctCodec()
    state = generate(start(tmp_path, lengths), models(model), QUICK)
    assert state.complete
    assert len(list(read_frames(tmp_path / "video.mp4"))) == FRAMES
    assert all_latents(state).shape[1] == (FRAMES + 3) // 4
    clean = state.first_latent
    for chunk, (condition, inputs) in zip(state.plan, model.seen, strict=True):
        count = chunk.clean_latents
        assert condition.segments.clean == clean.shape[1] == count
        assert condition.segments.target == chunk.latent_frames
        for latents in inputs:
            assert torch.equal(latents[:, :count], clean), "the clean latents changed"
        made = load_record(state, chunk.index).latents
        if lengths.overlap == 1:
            clean = made[:, -1:]
        else:
            known = clean if chunk.index else clean[:, :0]
            frames = codec.decode(torch.cat([known, made], dim=1)).clamp(0, 1)
            assert len(frames) == chunk.model_frames
            clean = codec.encode(frames[-lengths.overlap :])


@pytest.mark.rollout
@pytest.mark.parametrize(
    ("lengths", "frames", "added"),
    [(ChunkLengths(121, 81, 9), 229, [31, 18, 9]), (ChunkLengths(81, 81, 5), 161, [21, 19, 1])],
    ids=["Spatia", "VACE"],
)
def test_lengths_of_public_models(
    start, tmp_path: Path, lengths: ChunkLengths, frames: int, added: list[int]
) -> None:
    model = Model()
    state = generate(start(tmp_path, lengths, frames), models(model), QUICK)
    assert [load_record(state, k).latents.shape[1] for k in range(3)] == added
    assert [condition.clean for condition, _ in model.seen] == [1, *[1 + lengths.overlap // 4] * 2]
    assert len(list(read_frames(tmp_path / "video.mp4"))) == frames


@both
@pytest.mark.parametrize(
    ("chunk", "stage", "step"),
    [(0, "sampling", 1), (0, "saving", 3), (1, "sampling", 2), (2, "decoding", 3),
     (3, "saving", 3)],
)  # fmt: skip
def test_a_cancelled_run_goes_on_as_if_nothing_had_been(
    start, tmp_path: Path, lengths: ChunkLengths, chunk: int, stage: str, step: int
) -> None:
    whole = generate(start(tmp_path / "whole", lengths), models(), QUICK)

    def cancel(at: progress.Progress) -> None:
        if (at.chunk, at.stage, at.step) == (chunk, stage, step):
            raise Cancelled

    with pytest.raises(Cancelled):
        generate(start(tmp_path / "broken", lengths), models(), QUICK, cancel)
    saved = {f"chunk_{k:04}.{kind}" for k in range(chunk) for kind in ("mp4", "safetensors")}
    assert {path.name for path in (tmp_path / "broken").iterdir()} == saved | {LOCK, MANIFEST}
    expect_equal(generate(start(tmp_path / "broken", lengths), models(), QUICK), whole)
    for index in range(len(whole.plan)):
        for path in (chunk_path, clip_path):
            ours, theirs = (path(tmp_path / name, index) for name in ("broken", "whole"))
            assert ours.read_bytes() == theirs.read_bytes()


def test_time_left_follows_the_lengths(start, tmp_path: Path, monkeypatch) -> None:
    """A chunk of twice the frames is taken to last twice as long."""
    lengths = ChunkLengths(29, 17, 9)
    seen: list[progress.Progress] = []
    ticks = iter(range(10_000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(ticks)))
    generate(start(tmp_path, lengths), models(), QUICK, seen.append)
    first = next(at for at in seen if at.seconds_left is not None)
    # One unit of 8 latent frames took a second; 6 more of it, 7 of 5 and 7 of 5 latents are left.
    assert first.seconds_left == pytest.approx(6 + 2 * 7 * 5 / 8)


def test_chosen_lengths_make_another_shot(start, tmp_path: Path) -> None:
    runs = {start(tmp_path, lengths).run_id for lengths in (FIVE, NINE, LONG, ChunkLengths())}
    assert len(runs) == 4
    whole = begin_without_lengths(start(tmp_path, ChunkLengths()))
    assert whole == start(tmp_path, ChunkLengths()).run_id


def begin_without_lengths(state: RolloutState) -> str:
    """The id of the shot of which no lengths are known."""
    text = f"{QUICK.describe()}\0"
    return rollout_id(state.trajectory, state.cache, state.first_latent, state.seed, text)


def test_bad_lengths_are_refused_before_anything_is_made(start, tmp_path: Path) -> None:
    with pytest.raises(PlanError):
        start(tmp_path / "shot", ChunkLengths(33, 12, 5))
    assert not (tmp_path / "shot").exists()


def test_appending_remembers_only_what_is_new(start, tmp_path: Path) -> None:
    settings = QUICK.remembering(rules=WriteRules("append"), align=None)
    state = generate(start(tmp_path, NINE, settings=settings), models(), settings)
    frames = [block.frames[block.source.long()] for block in state.cache.blocks]
    written = torch.cat(frames).unique(return_counts=True)
    assert written[0].tolist() == list(range(0, FRAMES, 4))
    assert set(written[1].tolist()) <= {16}, "a frame of 4 x 4 cells was written more than once"
