"""Closed loops, the memory plan, and the command line of training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tiny_training
from mirage_core.cli.main import main
from mirage_core.codecs.dct import DctCodec
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.models.load import load_transformer
from mirage_core.rollout.begin import begin
from mirage_core.rollout.depth_source import KnownDepth
from mirage_core.rollout.generate import generate
from mirage_core.rollout.models import GenerationModels
from mirage_core.rollout.settings import GenerationSettings
from mirage_core.scenes.scene import ProceduralScene
from mirage_core.training.memory_estimate import plan_memory, unloaded_model
from mirage_core.training.settings import TrainingSettings
from mirage_core.training.stages import prepare_model
from mirage_core.training.validation import (
    FIRST_SCENE,
    LoopTest,
    measure,
    there_and_back,
)

SETTINGS = TrainingSettings(
    **tiny_training.SETTINGS
    | {
        "side_features": "scene,visible,offset,depth_ratio", "validation_scenes": 1,
        "validation_frames": 37, "validation_size": (64, 64), "validation_steps": 1,
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("validation")
    tiny_training.write_model(folder)
    tiny_training.write_clips(folder / "clips", range(6))
    return folder


def test_the_way_back_is_the_way_there() -> None:
    for seed in range(FIRST_SCENE, FIRST_SCENE + 6):
        scene = ProceduralScene.from_seed(seed, texture_size=16)
        path = there_and_back(scene, 21, 64, 64)
        assert torch.equal(path.world_to_camera, path.world_to_camera.flip(0))
        assert torch.equal(path.world_to_camera[0], path.world_to_camera[-1])
        assert bool(scene.free(path.positions, 0.2).all())
        assert float((path.world_to_camera[10] - path.world_to_camera[0]).abs().max()) > 0.05


def test_the_true_latents_reach_the_ceiling() -> None:
    codec = DctCodec()
    scene = ProceduralScene.from_seed(FIRST_SCENE, texture_size=64)
    truth, _ = scene.render(there_and_back(scene, 21, 64, 64))
    exact = codec.encode(truth)
    best = measure(codec, exact, truth)
    assert best.truth == best.ceiling > 20
    assert measure(codec, exact + 0.3, truth).truth < best.truth
    # A shot that never left finds what it began with, but not the truth.
    still = codec.encode(truth[:1].expand(21, -1, -1, -1))
    stays = measure(codec, still, truth)
    assert stays.closed > best.closed
    assert stays.truth < best.truth


@pytest.mark.rollout
def test_closed_loops_of_two_chunks(place: Path) -> None:
    """The whole loop with extra planes: equal runs are equal, and the branch takes part."""
    model = load_transformer(place / "model.safetensors", dtype=torch.float32)
    prepare_model(model, SETTINGS)
    test = LoopTest(DctCodec(), torch.zeros(1, 16), SETTINGS, torch.device("cpu"))
    model.eval()
    first = test(model)
    assert test(model) == first
    assert first.truth < first.ceiling
    # Only the model computes in few bits: not the geometry, not the codec.
    coarse = LoopTest(
        DctCodec(), torch.zeros(1, 16), replace(SETTINGS, dtype="bfloat16"),
        torch.device("cpu"),
    )(model)  # fmt: skip
    assert coarse.ceiling == first.ceiling
    assert coarse != first
    assert coarse.truth == pytest.approx(first.truth, abs=0.2)
    with torch.no_grad():
        model.vace_blocks[0].proj_out.weight.normal_(
            generator=torch.Generator().manual_seed(0)
        )
    assert test(model) != first


@pytest.mark.rollout
def test_planes_are_there_in_every_chunk(tmp_path: Path) -> None:
    codec, seen = DctCodec(), []
    scene = ProceduralScene.from_seed(FIRST_SCENE, texture_size=64)
    path = there_and_back(scene, 37, 64, 64)
    truth, depth = scene.render(path)
    geometry = FrameGeometry(depth, path.intrinsics, path.world_to_camera)

    def denoiser(condition):
        seen.append(condition)
        return lambda latents, timestep: torch.zeros_like(latents)

    settings = GenerationSettings(steps=1, method="euler")
    state = begin(truth[0], geometry, path, codec, settings=settings, folder=tmp_path)
    generate(state, GenerationModels(codec, denoiser, KnownDepth(geometry)), settings)
    first, second = seen
    assert (first.segments.preceding, second.segments.preceding) == (0, 2)
    # At its own camera the first frame falls on the middle of cells, at its own depth.
    assert float(first.offset[:, 0].abs().max()) < 1e-3
    assert float(first.log_depth[0].abs().max()) < 1e-3
    assert float(first.offset[:, 4].abs().max()) > 0.1
    # The second chunk is told what the memory showed to its preceding frames at that time.
    assert torch.allclose(second.preceding_projection, first.projection[:, 6:8])
    assert torch.allclose(second.preceding_offset, first.offset[:, 6:8], atol=1e-3)
    assert torch.allclose(second.preceding_log_depth, first.log_depth[6:8], atol=1e-3)


@pytest.mark.parametrize("stage", ["branch", "single", "full"])
def test_a_plan_of_one_device_holds_everything(place: Path, stage: str) -> None:
    model = load_transformer(place / "model.safetensors", dtype=torch.float32)
    settings = replace(SETTINGS, stage=stage)
    plan = plan_memory(model, settings, 1, (96, 64))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert plan.weights == sum(4 * p.numel() for p in model.parameters())
    assert (plan.gradients, plan.moments, plan.average) == (4 * trained, 8 * trained, 4 * trained)
    assert sum(unit.trained for unit in plan.units) == trained
    assert plan.gathered == 0


def test_a_plan_at_the_real_size() -> None:
    """Wan2.2-TI2V-5B with the paper's branch and LoRA, on 32 devices."""
    settings = TrainingSettings(stage="single")
    model = unloaded_model(settings)
    plan = plan_memory(model, settings, 32)
    assert plan.tokens == 880 * (9 + 2 + 4)
    whole = sum(unit.parameters for unit in plan.units)
    assert whole == 4_999_787_712 + 1_394_821_120 + 47_185_920
    assert sum(unit.trained for unit in plan.units) == 1_394_821_120 + 47_185_920
    exact = sum(p.numel() * p.element_size() for p in model.parameters())
    assert exact / 32 <= plan.weights < 1.01 * exact / 32
    assert len(plan.units) == 30 + 8 + 1


def test_the_plan_on_the_command_line(capsys) -> None:
    assert main(["train", "--plan", "32", "--stage", "joint", "--side-blocks", "15"]) == 0
    text = capsys.readouterr().out
    assert "32 devices, 13200 tokens" in text
    assert "vace_blocks.14" in text
    assert "total" in text


def arguments(place: Path, out: Path, **changes: object) -> list[str]:
    settings = tiny_training.SETTINGS | {"steps": 2, "batch": 2, **changes}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    return ["train", "--device=cpu", f"--data={place / 'clips'}", f"--out={out}", *flags]


@pytest.mark.training
def test_training_a_new_model_on_the_command_line(place: Path, tmp_path: Path, capsys) -> None:
    sizes = "width=48,heads=2,ffn=32,layers=2,text=16"
    flags = [
        f"--new-transformer={sizes}", "--stage=full", "--side-blocks=1", "--embedded-codec",
        f"--held-out={place / 'clips'}", "--validate-every=2", "--validation-scenes=1",
        "--validation-frames=5", "--validation-size=64x64", "--validation-steps=1",
        "--loss=pixel", "--side-features=scene,white",
    ]  # fmt: skip
    assert main([*arguments(place, tmp_path / "run"), *flags]) == 0
    said = capsys.readouterr().err
    assert "step 2 of 2, loss" in said
    assert "held out loss" in said
    assert "closed loop closed" in said
    saved = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert saved["loss"] == "pixel"
    path = tmp_path / "run" / "model" / "step_0000002_model.safetensors"
    model = load_transformer(path, dtype=torch.float32)
    assert model.branch_config.needs_white
    # The folder remembers its settings, so going on needs none of them.
    again = [flag for flag in arguments(place, tmp_path / "run") if "=" in flag][:3]
    assert main(["train", *again, f"--new-transformer={sizes}", "--embedded-codec"]) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "nothing to train"),
        (["--transformer=nowhere.safetensors"], "does not exist"),
        (["--new-transformer", "--stage=branch"], "training all of its weights"),
        (["--new-transformer=width=7", "--stage=full"], "cannot be parsed"),
        (
            ["--new-transformer=width=9,heads=2,ffn=8,layers=2,text=4", "--stage=full"],
            "not divisible by the number of attention heads",
        ),
        (["--transformer={model}", "--side-features=scene,white"], "needs the codec"),
        (["--transformer={model}", "--loss=pixel"], "needs the codec"),
        (["--transformer={model}", "--stage=joint"], "requires a trained side branch"),
        (["--transformer={model}", "--batch=4", "--micro-batch=3"], "into micro-batches"),
    ],
)
def test_arguments_that_do_not_fit(
    place: Path, tmp_path: Path, capsys, flags: list[str], message: str
) -> None:
    filled = [flag.format(model=place / "model.safetensors") for flag in flags]
    assert main([*arguments(place, tmp_path / "run"), *filled]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "state").exists()
