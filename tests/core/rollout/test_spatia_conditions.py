"""Conditions of a memory of colours: what is drawn, which frames are references, resuming."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from mirage_core.codecs.colours import ColourCodec
from mirage_core.codecs.dct import DctCodec
from mirage_core.conditioning.condition import Condition
from mirage_core.conditioning.renders import encode_discs
from mirage_core.errors import CacheFormatError, ModelMismatchError, ResumeError, ValueRangeError
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.readout.discs import render_discs
from mirage_core.rollout.begin import begin
from mirage_core.rollout.conditions import TokenConditions
from mirage_core.rollout.depth_source import KnownDepth
from mirage_core.rollout.generate import generate
from mirage_core.rollout.models import GenerationModels
from mirage_core.rollout.plan import ChunkLengths
from mirage_core.rollout.progress import Progress
from mirage_core.rollout.run_folder import clip_path, load_record, open_folder
from mirage_core.rollout.saved_frames import saved_frames
from mirage_core.rollout.settings import GenerationSettings
from mirage_core.rollout.spatia import References, SpatiaConditions, whole_memory
from mirage_core.rollout.state import RolloutState

pytest.importorskip("diffusers", reason="needs diffusers for the solver")

FRAMES, LENGTHS = 29, ChunkLengths(13, 13, 5)
"""Three chunks: 13 frames, 8 and 8; the later ones share 5 frames with the one before."""

SETTINGS = GenerationSettings(steps=2, references=3, preceding=0)


class Loop:
    """A shot on a memory of colours, with a model whose velocity holds all it was told."""

    def __init__(self, make: Any, folder: Path, **changes: Any) -> None:
        self.codec, self.told, self.prepared = DctCodec(), [], []
        depth = 2 + 0.2 * make.uniform(FRAMES, 64, 64)
        cameras = make.trajectory(FRAMES)
        shot = FrameGeometry(depth, cameras.intrinsics)
        self.state = begin(
            make.uniform(64, 64, 3, seed=1), shot, cameras, self.codec, settings=SETTINGS,
            lengths=LENGTHS, colours=ColourCodec(2), folder=folder,
        )  # fmt: skip
        source = SpatiaConditions(self.codec, references=References(target_stride=4))
        self.models = GenerationModels(
            self.codec, self.denoiser, KnownDepth(shot), conditions=source,
            prepare=lambda state: self.prepared.append(state.done),
        )  # fmt: skip
        self.models = dataclasses.replace(self.models, **changes)

    def denoiser(self, condition: Condition) -> Any:
        self.told.append(condition)
        assert condition.render is not None
        assert condition.score is not None
        seen = condition.render + 0.5 * condition.score
        if condition.references.shape[1]:
            seen = seen + 0.1 * condition.references.mean(dim=1, keepdim=True)
        return lambda latents, _: latents - seen

    def run(self, on_progress: Any = None) -> RolloutState:
        return generate(self.state, self.models, SETTINGS, on_progress)


@pytest.fixture(scope="module")
def loop(make, tmp_path_factory: pytest.TempPathFactory) -> Loop:
    loop = Loop(make, tmp_path_factory.mktemp("whole") / "shot")
    loop.after = loop.run()
    return loop


def after_chunks(loop: Loop, count: int) -> RolloutState:
    """The state when so many chunks were finished, as a resumed shot has it."""
    state = open_folder(loop.state)
    memory = loop.state
    assert state.complete
    return dataclasses.replace(memory, done=count, last=load_record(state, count - 1))


def test_what_the_model_is_told(loop: Loop) -> None:
    assert [c.clean for c in loop.told] == [1, 2, 2]
    assert [c.references.shape[1] for c in loop.told] == [0, 2, 3]
    assert [c.segments.preceding for c in loop.told] == [0, 0, 0]
    assert loop.prepared == [0, 1, 2]
    assert len(loop.after.cache) > len(loop.state.cache)


def test_all_points_are_drawn_for_every_frame(loop: Loop) -> None:
    cloud = whole_memory(loop.state.cache)
    assert len(cloud.points) == len(loop.state.cache)
    discs = render_discs(cloud.points, cloud.colours, loop.state.frame_cameras)
    assert len(discs.frames) == LENGTHS.first
    expected = encode_discs(discs, loop.codec.encode)
    assert torch.equal(loop.told[0].render, expected.render)
    assert torch.equal(loop.told[0].score, expected.score)
    assert not loop.told[0].projection.any()


def test_references_are_frames_of_the_clips_in_the_order_of_their_targets(loop: Loop) -> None:
    """Chunk 2 begins at frame 16, so 0, 4, .. 12 can be references; frame 0 is the picture."""
    state = dataclasses.replace(after_chunks(loop, 2), cache=loop.after.cache)
    rule = loop.models.conditions.references
    numbers = rule.choose(state, whole_memory(state.cache).points, 3)
    assert len(set(numbers)) == 3
    assert set(numbers) <= {0, 4, 8, 12}
    found = rule.encode(state, loop.codec, numbers)
    for number, latent in zip(numbers, found.unbind(1), strict=True):
        picture = saved_frames(state, [number])
        expected = loop.codec.encode_images(picture)[:, 0]
        assert torch.equal(latent, state.first_latent[:, 0] if number == 0 else expected)
    assert rule.choose(state, torch.zeros(0, 3), 0) == []
    first = dataclasses.replace(loop.state)
    assert rule.choose(first, torch.zeros(5, 3)) == []


def test_an_interrupted_shot_ends_with_the_same_bits(make, loop: Loop, tmp_path: Path) -> None:
    other = Loop(make, tmp_path / "shot")

    def stop(progress: Progress) -> None:
        if progress.chunk == 1 and progress.stage == "drawing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        other.run(stop)
    again = Loop(make, tmp_path / "shot")
    after = again.run()
    assert again.prepared == [1, 2]
    for number in range(3):
        found = load_record(after, number).latents
        assert torch.equal(found, load_record(loop.after, number).latents)
    assert torch.equal(again.told[-1].references, loop.told[-1].references)


def test_saved_frames_are_those_of_the_clips(loop: Loop) -> None:
    state = loop.after
    numbers = [20, 0, 12, 13, 28]
    found = saved_frames(state, numbers)
    assert found.shape == (5, 64, 64, 3)
    alone = [saved_frames(state, [number])[0] for number in numbers]
    assert torch.equal(found, torch.stack(alone))
    assert saved_frames(state, []).shape == (0, 64, 64, 3)
    with pytest.raises(ValueRangeError, match="not finished"):
        saved_frames(after_chunks(loop, 1), [13])
    with pytest.raises(ResumeError, match="folder"):
        saved_frames(dataclasses.replace(state, folder=None), [1])


def test_the_clip_of_another_chunk_is_named(make, tmp_path: Path) -> None:
    loop = Loop(make, tmp_path / "shot")
    state = loop.run()
    clip_path(tmp_path / "shot", 0).write_bytes(clip_path(tmp_path / "shot", 2).read_bytes())
    with pytest.raises(CacheFormatError, match="chunk_0000.mp4 is damaged"):
        saved_frames(state, [12])


def test_refusals_before_anything_is_sampled(make, tmp_path: Path, loop: Loop) -> None:
    tokens = begin(
        make.uniform(64, 64, 3), FrameGeometry(2 + make.uniform(1, 64, 64), make.lens(64, 64)),
        make.trajectory(FRAMES), loop.codec, settings=SETTINGS, lengths=LENGTHS,
        folder=tmp_path / "tokens",
    )  # fmt: skip
    with pytest.raises(ModelMismatchError, match=r"memory of colours is needed.*what = colours"):
        generate(tokens, loop.models, SETTINGS)
    with pytest.raises(ModelMismatchError, match="memory of tokens is needed"):
        generate(loop.state, dataclasses.replace(loop.models, conditions=None), SETTINGS)
    other = SpatiaConditions(type("Other", (DctCodec,), {"name": "other"})())
    with pytest.raises(ModelMismatchError, match="Two codecs"):
        generate(loop.state, dataclasses.replace(loop.models, conditions=other), SETTINGS)
    with pytest.raises(ModelMismatchError, match="Two parts"):
        dataclasses.replace(loop.models, projection=lambda readout: readout.tokens)
    assert not (tmp_path / "tokens").exists()


def test_the_default_is_what_a_memory_of_tokens_shows(loop: Loop) -> None:
    models = dataclasses.replace(loop.models, conditions=None)
    assert models.condition_source == TokenConditions(None)
