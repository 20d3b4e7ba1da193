"""The library's whole loop: the released code's numbers, resuming, cancelling, bad input."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from mirage_core.cache.build import WriteConfig
from mirage_core.checkpoints.names import to_diffusers
from mirage_core.codecs.dct import DctCodec
from mirage_core.conditioning.condition import Condition
from mirage_core.errors import (
    ModelMismatchError,
    ResumeError,
    ShapeError,
    ValueRangeError,
)
from mirage_core.folder_lock import LOCK
from mirage_core.geometry.camera import PixelConvention
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.masks import MaskGrowth
from mirage_core.geometry.trajectory import Trajectory
from mirage_core.geometry.transform import invert_rigid
from mirage_core.models.denoiser import MirageDenoiser
from mirage_core.models.transformer import MirageTransformer3DModel
from mirage_core.rollout.begin import begin
from mirage_core.rollout.depth_source import EstimatedDepth, KnownDepth
from mirage_core.rollout.generate import generate
from mirage_core.rollout.models import GenerationModels
from mirage_core.rollout.progress import Progress
from mirage_core.rollout.run_folder import MANIFEST, all_latents, load_record
from mirage_core.rollout.settings import GenerationSettings
from mirage_core.rollout.state import RolloutState
from mirage_core.rollout.video import read_frames
from mirage_core.writing.consistency import ConsistencyConfig
from mirage_core.writing.policy import WriteLimits, WriteRules

PICTURE = (128, 192)
GRID = (8, 12)
RELEASED = dataclasses.replace(GenerationSettings.released(), steps=3).remembering(
    token_dtype=torch.float32
)


class ToyCodec:
    """The codec of the released code's numbers: cell means through a random matrix."""

    name = "toy"
    channels, spatial_stride, temporal_stride, drawable = 48, 16, 4, False

    def __init__(self, basis: Tensor) -> None:
        self.basis = basis
        self.decoded: list[Tensor] = []

    def encode_images(self, frames: Tensor) -> Tensor:
        cells = F.avg_pool2d(frames.permute(0, 3, 1, 2) * 2 - 1, 16)
        return torch.einsum("ck,fkhw->cfhw", self.basis, cells)

    def decode(self, latents: Tensor) -> Tensor:
        colours = torch.einsum("kc,cthw->tkhw", torch.linalg.pinv(self.basis), latents)
        repeats = torch.tensor([1] + [4] * (latents.shape[1] - 1))
        video = colours.repeat_interleave(repeats, dim=0)
        frames = F.interpolate(video, scale_factor=16, mode="nearest").clamp(-1, 1)
        self.decoded.append((frames.permute(0, 2, 3, 1) + 1) / 2)
        return self.decoded[-1]


@pytest.fixture(scope="module")
def tensors(data_folder: Path) -> dict[str, Tensor]:
    return load_file(data_folder / "sampling_oracle.safetensors")


@pytest.fixture(scope="module")
def numbers(data_folder: Path) -> dict[str, Any]:
    text = (data_folder / "sampling_oracle.json").read_text(encoding="utf-8")
    return json.loads(text)["loop"]


@pytest.fixture(scope="module")
def transformer(data_folder: Path):
    """The tiny video model with its side branch, on which the numbers were made."""
    stored = load_file(data_folder / "denoiser_oracle.safetensors")
    text = (data_folder / "denoiser_oracle.json").read_text(encoding="utf-8")
    described = json.loads(text)
    sizes = described["config"]
    model = MirageTransformer3DModel(
        num_attention_heads=sizes["num_heads"],
        attention_head_dim=sizes["dim"] // sizes["num_heads"],
        text_dim=sizes["text_dim"],
        freq_dim=sizes["freq_dim"],
        ffn_dim=sizes["ffn_dim"],
        num_layers=sizes["num_layers"],
        side_layers=tuple(described["vace_layers"]),
    )
    weights = {
        to_diffusers(name.split(".", 2)[2]): tensor
        for name, tensor in stored.items()
        if name.startswith(("denoiser.dit.", "denoiser.vace."))
    }
    model.load_state_dict(weights)
    return model.eval()


@pytest.fixture(scope="module")
def released(tensors, transformer, tmp_path_factory) -> dict[str, Any]:
    """The three-chunk rollout of the released code, made by the library."""
    lens = tensors["loop.K"]
    small = (32, 48)
    frames = len(tensors["loop.poses"])
    pixels = lens * torch.tensor([[4.0], [4.0], [1.0]], dtype=torch.float64)
    cameras = Trajectory(
        invert_rigid(tensors["loop.poses"]), pixels.repeat(frames, 1, 1), PICTURE[1], PICTURE[0]
    )
    depth = tensors["loop.depths_every4"].repeat_interleave(4, dim=0)[:frames]
    exclude = torch.zeros(1, *small, dtype=torch.bool) | ~tensors["loop.mask0"]
    first = FrameGeometry(depth[:1], lens[None], exclude=exclude)
    shot = FrameGeometry(depth, lens.repeat(frames, 1, 1))
    picture = Image.fromarray(tensors["loop.frame0"].numpy())
    picture = picture.resize(PICTURE[::-1], Image.Resampling.BILINEAR)
    codec = ToyCodec(tensors["loop.vae_P"])
    state = begin(
        torch.from_numpy(np.asarray(picture).copy()) / 255, first, cameras, codec,
        settings=RELEASED, seed=42, folder=tmp_path_factory.mktemp("released") / "shot",
    )  # fmt: skip
    conditions: list[Condition] = []

    def denoiser(condition: Condition) -> MirageDenoiser:
        conditions.append(condition)
        white = tensors["loop.vae_P"].sum(1)[:, None, None, None]
        white = white.expand(-1, condition.segments.main, *GRID)
        return MirageDenoiser(transformer, condition, tensors["loop.ctx"], white=white)

    generator = torch.Generator().manual_seed(42)

    def noise(_: RolloutState, shape: tuple[int, ...]) -> Tensor:
        return torch.randn((1, *shape), generator=generator)[0]

    models = GenerationModels(codec, denoiser, KnownDepth(shot))
    done = generate(state, models, RELEASED, noise=noise)
    return {"state": done, "conditions": conditions, "codec": codec}


def test_released_latents(tensors, released) -> None:
    expected = [tensors[f"loop.chunk{k}.latents"][0] for k in range(3)]
    found = all_latents(released["state"])
    assert found.shape[1] == 25
    for chunk, latents in enumerate(expected):
        part = found[:, 8 * chunk : 8 * chunk + 9]
        assert float((part - latents).abs().max()) < 1e-5, chunk


def test_released_readouts(tensors, released) -> None:
    for chunk in (1, 2):
        scene = released["conditions"][chunk].projection
        assert float((scene - tensors[f"loop.chunk{chunk}.target_scene"]).abs().max()) < 1e-5


def test_released_context(numbers, released) -> None:
    """References, best first, and preceding frames with the projections of their own time."""
    history = all_latents(released["state"])
    records = [load_record(released["state"], index) for index in range(3)]
    stored = torch.cat([record.projections for record in records], dim=1)
    for chunk, expected in enumerate(numbers["iterations"]):
        condition = released["conditions"][chunk]
        wanted = history[:, expected["reference_indices"]]
        assert torch.equal(condition.references, wanted), chunk
        overlap = 8 * chunk
        before = list(range(overlap - expected["num_preceding_latents"], overlap))
        assert torch.equal(condition.preceding, history[:, before])
        assert torch.equal(condition.preceding_projection, stored[:, before])
    assert released["conditions"][1].preceding.shape[1] == 2


def test_released_memory(tensors, released, numbers) -> None:
    """The released count includes the first frame's cells without depth, which we drop."""
    cache = released["state"].cache
    valid = tensors["loop.final_valid"]
    points = torch.cat([block.points for block in cache.blocks])
    assert torch.allclose(points, tensors["loop.final_points"][valid], atol=1e-5, rtol=0)
    dropped = int((~valid).sum())
    counts = [s.points for s in released["state"].statistics]
    assert [count + dropped for count in counts] == numbers["cache_points_after_chunk"]


def test_released_video(numbers, released) -> None:
    parts = [part if k == 0 else part[1:] for k, part in enumerate(released["codec"].decoded)]
    video = (torch.cat(parts) * 255).floor()  # as the released code makes bytes of them
    assert list(video.shape) == numbers["video_shape"]
    means = video.flatten(1).mean(1)[::8].tolist()
    assert means == pytest.approx(numbers["video_frame_means"], abs=0.02)


QUICK = GenerationSettings(steps=3, references=2)


class Cancelled(Exception):
    """What a user who stops a run raises."""


def velocity(condition: Condition):
    """A stand-in for the video model that depends on all that it is told."""
    pull = condition.projection.mean(dim=1, keepdim=True)
    for part in (condition.references, condition.preceding, condition.preceding_projection):
        if part.shape[1]:
            pull = pull + 0.3 * part.mean(dim=1, keepdim=True)
    return lambda latents, timestep: 0.8 * latents - pull * (1 - timestep / 2000)


def plane(frames: Tensor, cameras: Trajectory) -> FrameGeometry:
    """Depth of the right shape and the wrong scale."""
    return FrameGeometry(7 + frames.mean(-1), cameras.intrinsics)


def models(**changes: Any) -> GenerationModels:
    parts = {"codec": DctCodec(), "denoiser": velocity, "depth": EstimatedDepth(plane)}
    return GenerationModels(**{**parts, **changes})


@pytest.fixture
def start(make):
    """The state before a shot of three chunks: a textured wall, 64 x 64 pixels."""

    def state(folder: Path | None, frames: int = 69, **changes: Any) -> RolloutState:
        cameras = make.trajectory(frames, step=0.03)
        picture = (0.5 + 0.2 * make.noise(64, 64, 3)).clamp(0, 1)
        geometry = FrameGeometry(2 + make.uniform(1, 64, 64), cameras.intrinsics[:1])
        known = {"settings": QUICK, "seed": 5, "folder": folder} | changes
        return begin(picture, geometry, cameras, DctCodec(), **known)

    return state


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def expect_equal(one: RolloutState, other: RolloutState) -> None:
    assert torch.equal(all_latents(one), all_latents(other))
    assert one.cache.fingerprint() == other.cache.fingerprint()
    assert one.statistics == other.statistics


@pytest.mark.parametrize(
    ("chunk", "stage", "step"), [(0, "sampling", 1), (1, "sampling", 2), (1, "saving", 3)]
)
def test_a_cancelled_run_goes_on_as_if_nothing_had_been(
    start, tmp_path: Path, chunk: int, stage: str, step: int
) -> None:
    whole = generate(start(tmp_path / "whole"), models(), QUICK)

    def cancel(progress: Progress) -> None:
        if (progress.chunk, progress.stage, progress.step) == (chunk, stage, step):
            raise Cancelled

    before = start(tmp_path / "broken")
    with pytest.raises(Cancelled):
        generate(before, models(), QUICK, cancel)
    saved = {f"chunk_{k:04}.{kind}" for k in range(chunk) for kind in ("mp4", "safetensors")}
    assert names(tmp_path / "broken") == saved | {LOCK, MANIFEST}
    assert before.done == 0
    seen: list[Progress] = []
    expect_equal(generate(before, models(), QUICK, seen.append), whole)
    assert {progress.chunk for progress in seen} == set(range(chunk, 3))
    assert (tmp_path / "broken" / "video.mp4").is_file()


def test_a_finished_run_is_not_made_again(start, tmp_path: Path) -> None:
    whole = generate(start(tmp_path / "shot"), models(), QUICK)
    (tmp_path / "shot" / "video.mp4").unlink()

    def refuse(_: Condition):
        raise AssertionError("the model ran")

    again = generate(start(tmp_path / "shot"), models(denoiser=refuse), QUICK)
    expect_equal(again, whole)
    assert len(list(read_frames(tmp_path / "shot" / "video.mp4"))) == 69


@pytest.mark.parametrize("name", ["chunk_0000.mp4", "chunk_0001.safetensors"])
def test_only_the_damaged_chunk_is_made_again(start, tmp_path: Path, name: str) -> None:
    """Those behind it name its digest, and it comes out the same."""
    whole = generate(start(tmp_path / "shot"), models(), QUICK)
    files = {path.name: path.read_bytes() for path in (tmp_path / "shot").iterdir()}
    (tmp_path / "shot" / name).write_bytes(files[name][:-1])
    seen: list[Progress] = []
    expect_equal(generate(start(tmp_path / "shot"), models(), QUICK, seen.append), whole)
    assert {f"chunk_{progress.chunk:04}" for progress in seen} == {Path(name).stem}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "shot").iterdir()}


def test_chunks_behind_one_that_came_out_otherwise_are_made_again(start, tmp_path: Path) -> None:
    generate(start(tmp_path / "shot"), models(), QUICK)
    other = models(denoiser=lambda told: lambda latents, time: velocity(told)(latents, time) + 0.1)
    expected = generate(start(tmp_path / "other"), other, QUICK)
    (tmp_path / "shot" / "chunk_0000.mp4").unlink()
    seen: list[Progress] = []
    expect_equal(generate(start(tmp_path / "shot"), other, QUICK, seen.append), expected)
    assert {progress.chunk for progress in seen} == {0, 1, 2}


def test_progress(start, tmp_path: Path) -> None:
    seen: list[Progress] = []
    generate(start(tmp_path / "shot"), models(), QUICK, seen.append)
    done = [progress.done for progress in seen]
    assert done == sorted(done)
    assert all(0 < progress.done < progress.total for progress in seen)
    assert [p.stage for p in seen if p.chunk == 1] == ["sampling"] * 3 + [
        "decoding", "depth", "memory", "saving",
    ]  # fmt: skip
    assert all(p.seconds_left is not None and p.seconds_left >= 0 for p in seen)
    history = all_latents(generate(start(tmp_path / "shot"), models(), QUICK))
    for progress in seen:
        assert (progress.clean is not None) == (progress.stage == "sampling")
        if progress.clean is not None:
            assert torch.equal(progress.clean[:, 0], history[:, 8 * progress.chunk])


def test_every_part_of_the_context_reaches_the_frames(start, tmp_path: Path) -> None:
    """Otherwise the tests of resuming would show nothing."""
    results = []
    variants = [{}, {"references": 0}, {"preceding": 0}, {"decode_context": 0}]
    for number, changes in enumerate(variants):
        settings = dataclasses.replace(QUICK, **changes)
        state = start(tmp_path / str(number), settings=settings)
        results.append(generate(state, models(), settings))
    assert len({state.run_id for state in results}) == 4
    latents = [all_latents(state) for state in results]
    assert not torch.equal(latents[0], latents[1])
    assert not torch.equal(latents[0], latents[2])


def test_a_short_shot_needs_no_folder(start, tmp_path: Path) -> None:
    alone = generate(start(None, frames=33), models(), QUICK)
    kept = generate(start(tmp_path / "shot", frames=33), models(), QUICK)
    assert torch.equal(all_latents(alone), all_latents(kept))


def test_a_long_shot_needs_one(start) -> None:
    with pytest.raises(ResumeError, match="needs a folder"):
        generate(start(None), models(), QUICK)


def test_another_codec_is_refused(start, tmp_path: Path, make) -> None:
    with pytest.raises(ModelMismatchError, match="another VAE"):
        generate(start(tmp_path), models(codec=ToyCodec(make.noise(48, 3))), QUICK)


def test_another_shot_in_the_folder_is_left_alone(start, tmp_path: Path) -> None:
    generate(start(tmp_path / "shot", frames=33), models(), QUICK)
    with pytest.raises(ResumeError, match="another rollout"):
        generate(start(tmp_path / "shot", frames=33, models="other weights"), models(), QUICK)


def test_pictures_that_do_not_fit_are_refused(make) -> None:
    cameras = make.trajectory(33)
    geometry = FrameGeometry(torch.ones(1, 64, 64), cameras.intrinsics[:1])
    with pytest.raises(ShapeError, match="picture"):
        begin(torch.zeros(64, 96, 3), geometry, cameras, DctCodec(), settings=QUICK)


def test_direct_and_encoded_writes_differ(start, tmp_path: Path) -> None:
    direct = QUICK.remembering(reencode=False, rules=WriteRules("append"))
    state = generate(start(tmp_path / "a", frames=33, settings=direct), models(), direct)
    encoded = direct.remembering(reencode=True)
    other = generate(start(tmp_path / "b", frames=33, settings=encoded), models(), encoded)
    written, remade = (torch.cat([b.tokens for b in s.cache.blocks]) for s in (state, other))
    assert written.shape == remade.shape
    first = all_latents(state)[:, 1].flatten(1).T.half()
    assert torch.equal(written[16:32], first)
    assert not torch.equal(written[16:32], remade[16:32])


@pytest.mark.parametrize(
    "changes",
    [{"steps": 0}, {"shift": -1}, {"references": -1}, {"decode_context": 1000}, {"threshold": 2}],
)
def test_settings_out_of_range(changes: dict[str, float]) -> None:
    with pytest.raises(ValueRangeError):
        GenerationSettings(**changes)


def test_the_text_of_the_settings_is_a_promise() -> None:
    """Shots that were begun with it go on; what came later shows only where it is used."""
    plain = GenerationSettings()
    assert plain.describe() == (
        "align={'mode': 'scale', 'step': 0.02, 'local': True, 'refuse_above': 0.1};carried=2;"
        f"convention={PixelConvention.PAPER};exclude_seen=True;first_twice=False;hold_back=False;"
        "method=unipc;policy=novelty;preceding=2;reencode=True;references=4;shift=5.0;steps=40;"
        "threshold=0.04;token_dtype=torch.float16;whole_timesteps=True;"
        "write={'depth_mode': 'bilinear', 'drop_flying': True}"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"rules": WriteRules("append")},
        {"rules": WriteRules(limits=WriteLimits(1000))},
        {"write": WriteConfig("median")},
        {"align": None},
        {"growth": MaskGrowth(cells=1)},
        {"consistency": ConsistencyConfig()},
        {"consistency": ConsistencyConfig(token=1.0)},
        {"strict": True},
        {"reencode": False},
        {"first_twice": True},
        {"convention": PixelConvention.RELEASED},
        {"token_dtype": torch.int8},
    ],
)
def test_every_setting_of_the_memory_is_in_the_text(changes: dict[str, Any]) -> None:
    texts = {GenerationSettings().remembering(**part).describe() for part in ({}, changes)}
    assert len(texts) == 2
