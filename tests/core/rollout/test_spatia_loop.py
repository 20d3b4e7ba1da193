"""A shot of Spatia's through the library's loop: its own code's numbers, clip by clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny_weights as tiny
from mirage_core.checkpoints.branch import HEADS_KEY
from mirage_core.codecs.colours import ColourCodec
from mirage_core.conditioning.condition import Condition
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory
from mirage_core.geometry.voxels import downsample
from mirage_core.readout.discs import DiscFrames
from mirage_core.rollout import spatia
from mirage_core.rollout.begin import begin
from mirage_core.rollout.depth_source import KnownDepth
from mirage_core.rollout.generate import generate
from mirage_core.rollout.models import GenerationModels
from mirage_core.rollout.plan import ChunkLengths
from mirage_core.rollout.run_folder import load_record
from mirage_core.rollout.settings import GenerationSettings
from mirage_core.rollout.spatia import Cloud, References, SpatiaConditions
from mirage_core.rollout.state import RolloutState
from spatia_oracle import SpatiaOracle, cameras

pytest.importorskip("diffusers", reason="needs diffusers for the library's transformer")
pytest.importorskip("peft", reason="needs peft for the library's LoRAs")

from mirage_core.models.load import load_transformer
from mirage_core.models.lora import apply_lora
from mirage_core.rollout.denoisers import LaterLora, TransformerDenoisers

pytestmark = pytest.mark.rollout

ORACLE = SpatiaOracle()
LOOP = ORACLE.settings["loop"]
ROUNDS = LOOP["rounds"]
SIZE = (LOOP["height"], LOOP["width"])
LENGTHS = ChunkLengths(LOOP["first"], LOOP["later"], LOOP["history"])
SETTINGS = GenerationSettings(
    steps=LOOP["steps"], shift=LOOP["shift"], references=LOOP["ref_num"], preceding=0
)


@dataclass
class StandIn:
    """The original's stand-in autoencoder, whose frames have 8 bits, and the shot so far.

    Attributes:
        shot: Finished frames, beginning with the given picture itself.
    """

    shot: Tensor = field(default_factory=lambda: ORACLE.tensor("loop.image_u8")[None] / 255)
    name, channels, spatial_stride, temporal_stride = "stand-in", 48, 16, 4
    drawable = False

    def encode(self, frames: Tensor) -> Tensor:
        """As the original's; what the next clip begins with are the shot's own last frames.

        Clips are so short here that this is one frame more than its clip added: the original
        takes the one that the clip before has made.
        """
        history = len(frames) == LOOP["history"]
        return ORACLE.encode(self.shot[-len(frames) :] if history else frames)

    def encode_images(self, frames: Tensor) -> Tensor:
        return torch.cat([ORACLE.encode(frame[None]) for frame in frames], dim=1)

    def decode(self, latents: Tensor) -> Tensor:
        cells = (latents.permute(1, 2, 3, 0) - ORACLE.tensor("vae.bias")) @ ORACLE.tensor(
            "vae.inverse"
        ).T
        video = cells.unflatten(-1, (3, 2, 2)).permute(0, 1, 4, 2, 5, 3)
        rows = video.flatten(1, 2).flatten(2, 3)
        pixels = rows.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
        repeats = torch.tensor([1] + [4] * (len(pixels) - 1))
        levels = pixels.clamp(-1, 1).repeat_interleave(repeats, dim=0)
        frames = ((levels + 1) * 127.5).to(torch.uint8) / 255
        added = frames[1:] if len(self.shot) == 1 else frames[LOOP["history"] :]
        self.shot = torch.cat([self.shot, added])
        return frames

    def frames(self, _: RolloutState, numbers: Sequence[int]) -> Tensor:
        """Finished frames as they were made: no video file lies between here."""
        return self.shot[list(numbers)]


def cloud_of_round(state: RolloutState) -> Cloud:
    """The original's cloud of this clip, thinned twice, and by what it chooses references."""
    this = ROUNDS[state.done]
    known = ORACLE.tensor("loop.cloud.known_in_round")[state.done]
    points = ORACLE.tensor("loop.cloud.points")[known]
    colours = (255 * ORACLE.tensor("loop.cloud.colours")[known].clamp(0, 1)).round() / 255
    return Cloud(*downsample(points, colours, this["voxel_size"]), landmarks=points)


def shot_cameras() -> Trajectory:
    """The original's, filled with the last pose as it fills its last clip."""
    poses = ORACLE.tensor("loop.w2c")
    numbers = torch.arange(LOOP["final_frames"]).clamp_max(len(poses) - 1)
    return cameras(poses[numbers], LOOP["pixel_intrinsics"], SIZE)


def same_noise(_: RolloutState, shape: tuple[int, int, int, int]) -> Tensor:
    """The original's: one seed for all clips."""
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(LOOP["seed"]))[0]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spatia")
    heads = {HEADS_KEY: str(ORACLE.settings["denoiser"]["config"]["num_heads"])}
    for name, prefix in (("wan", "backbone."), ("step-8500", "branch."), ("later", "lora.")):
        tiny.write(folder / f"{name}.safetensors", ORACLE.group(prefix), heads)
    return folder


@pytest.fixture(scope="module")
def make_shot(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Shot]:
    model = load_transformer(
        files / "wan.safetensors", branch=files / "step-8500.safetensors", dtype=torch.float32
    )
    name = apply_lora(model, files / "later.safetensors").name
    lora = LaterLora(model.eval(), name)

    def make() -> Shot:
        codec, conditions = StandIn(), []
        path = shot_cameras()
        depth = FrameGeometry(torch.full((len(path), *SIZE), 3.0), path.intrinsics)
        state = begin(
            codec.shot[0], depth, path, codec, settings=SETTINGS, lengths=LENGTHS,
            colours=ColourCodec(), folder=tmp_path_factory.mktemp("shot") / "shot",
        )  # fmt: skip
        denoisers = TransformerDenoisers(
            model, ORACLE.tensor("text.positive"), ORACLE.tensor("text.negative"),
            guidance=LOOP["cfg"],
        )  # fmt: skip

        def denoiser(condition: Condition) -> Any:
            conditions.append(condition)
            return denoisers(condition)

        source = SpatiaConditions(
            codec,
            cloud_of_round,
            References(LOOP["ref_stride"], LOOP["ref_hist_stride"], True, codec.frames),
            mirrored_principal_point=True,
        )
        models = GenerationModels(
            codec, denoiser, KnownDepth(depth), conditions=source, prepare=lora
        )
        after = generate(state, models, SETTINGS, noise=same_noise)
        return Shot(after, conditions, codec.shot)

    return make


@dataclass(frozen=True)
class Shot:
    """A finished shot, what the model was told of each clip, and its frames."""

    state: RolloutState
    conditions: list[Condition]
    frames: Tensor

    def latents(self, number: int) -> Tensor:
        """What a clip added."""
        return load_record(self.state, number).latents


@pytest.fixture(scope="module")
def injected(make_shot) -> Shot:
    """With the original's own renders in place of ours."""
    rounds = iter(range(len(ROUNDS)))

    def original(*_: Any, **__: Any) -> DiscFrames:
        name = f"loop.round{next(rounds)}"
        score = ORACLE.tensor(f"{name}.score_u8")[..., 0] / 255
        return DiscFrames(ORACLE.tensor(f"{name}.render_u8") / 255, score)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spatia, "render_discs", original)
        return make_shot()


@pytest.fixture(scope="module")
def own(make_shot) -> Shot:
    """By the library alone."""
    return make_shot()


@pytest.mark.parametrize("number", range(len(ROUNDS)))
def test_clips_are_the_originals(injected: Shot, number: int) -> None:
    this, condition = ROUNDS[number], injected.conditions[number]
    expected = ORACLE.tensor(f"loop.round{number}.latents")
    found = injected.latents(number)
    assert (found - expected[:, this["history_latents"] :]).abs().max() < 1e-4
    start = ORACLE.tensor(f"loop.round{number}.start")
    references = condition.references
    assert references.shape[1] == this["references"]
    assert torch.allclose(references, start[:, : this["references"]], atol=1e-5, rtol=0)
    assert condition.clean == max(1, this["history_latents"])


def test_frames_are_the_originals(injected: Shot) -> None:
    """Beside one level in 255 where the last bits of float32 decide it."""
    finished = 1
    for number, this in enumerate(ROUNDS):
        added = ORACLE.tensor(f"loop.round{number}.frames_u8")[max(1, len(this["history"])) :]
        found = 255 * injected.frames[finished : finished + len(added)]
        assert (found - added).abs().max() <= 1.001
        finished += len(added)


@pytest.mark.parametrize("number", range(len(ROUNDS)))
def test_our_own_render_makes_nearly_the_same(own: Shot, number: int) -> None:
    """A pixel whose level the last bits of float32 decide moves the planes a little."""
    expected = ORACLE.tensor(f"loop.round{number}.latents")
    apart = (own.latents(number) - expected[:, ROUNDS[number]["history_latents"] :]).abs()
    assert apart.max() < 1e-3
    assert apart.mean() < 1e-4
