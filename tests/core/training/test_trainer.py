"""The loop: it learns, averages, logs, and stops when something is wrong."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tiny_training
from mirage_core.errors import ResumeError, ValueRangeError
from mirage_core.models.load import load_transformer
from mirage_core.training.batch import BatchMaker
from mirage_core.training.data.dataset import ClipDataset
from mirage_core.training.flow import flow_loss
from mirage_core.training.forward import velocity
from mirage_core.training.sampler import BATCH_SEED, ClipSampler, mixed_seed
from mirage_core.training.settings import TrainingSettings
from mirage_core.training.stages import prepare_model
from mirage_core.training.trainer import Trainer, TrainingData
from mirage_core.training.validation import ClosedLoop

SETTINGS = TrainingSettings(**tiny_training.SETTINGS)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trainer")
    tiny_training.write_model(folder)
    tiny_training.write_clips(folder / "clips", range(9))
    tiny_training.write_clips(folder / "one", range(14, 15))
    return folder


def model(place: Path) -> Any:
    return load_transformer(place / "model.safetensors", dtype=torch.float32)


def trainer(place: Path, out: Path, clips: str = "clips", **changes: object) -> Trainer:
    data = TrainingData(place / clips, torch.zeros(1, tiny_training.TEXT))
    return Trainer(model(place), replace(SETTINGS, **changes), data, out)


def run(trainer: Trainer) -> list[dict[str, float]]:
    reports: list[dict[str, float]] = []
    trainer.run(lambda report: reports.append(report.values))
    return reports


@pytest.mark.training
def test_it_learns(place: Path, tmp_path: Path) -> None:
    """One clip over and over: the loss falls far below that of knowing nothing."""
    reports = run(
        trainer(
            place, tmp_path, "one", stage="full", steps=120, batch=2, micro_batch=1,
            checkpoint_every=120, learning_rate=6e-3, warmup=10,
        )
    )  # fmt: skip
    losses = [values["loss"] for values in reports]
    assert sum(losses[-10:]) / 10 < 0.7 * sum(losses[:3]) / 3


@pytest.mark.training
@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_run_is_a_plain_loop(place: Path, tmp_path: Path, checkpointing: bool) -> None:
    """The same weights, written down without the trainer: batches, AdamW, clipping, average."""
    settings = replace(SETTINGS, steps=5, clip_norm=0.3, weight_decay=0.1, ema_decay=0.4)
    trained = trainer(
        place, tmp_path, steps=5, clip_norm=0.3, weight_decay=0.1, ema_decay=0.4,
        gradient_checkpointing=checkpointing, checkpoint_every=5,
    )  # fmt: skip
    run(trained)

    plain = model(place)
    weights = prepare_model(plain, settings)
    store = ClipDataset(place / "clips")
    order = ClipSampler(store, settings.micro_batch, settings.seed)
    maker = BatchMaker(settings, plain.branch_config.features, torch.zeros(1, tiny_training.TEXT))
    vectors = [p for n, p in weights.items() if p.ndim == 1 or n.endswith("scale_shift_table")]
    matrices = [p for p in weights.values() if all(p is not vector for vector in vectors)]
    adam = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    )
    average = {name: p.detach().clone() for name, p in weights.items()}
    for step in range(5):
        for number in range(2):
            seed = mixed_seed(settings.seed, BATCH_SEED, 2 * step + number)
            batch = maker.make([store[n] for n in next(order)], seed)
            loss = flow_loss(velocity(plain, batch, settings), batch.target, batch.noise)
            (loss / 2).backward()
        total = math.sqrt(sum(float(p.grad.square().sum()) for p in weights.values()))
        for p in weights.values():
            p.grad *= min(1.0, 0.3 / (total + 1e-6))
        for group in adam.param_groups:
            cosine = 0.5 * (1 + math.cos(math.pi * (step - 2) / 2))
            group["lr"] = 1e-2 * ((step + 1) / 2 if step < 2 else cosine)
        adam.step()
        adam.zero_grad()
        decay = min(0.4, (1 + step) / (10 + step))
        for name, p in weights.items():
            average[name] = decay * average[name] + (1 - decay) * p.detach()
    for name, parameter in trained.parameters.items():
        assert torch.allclose(parameter, weights[name], atol=1e-5), name
    state = tmp_path / "state" / "step_0000005"
    for name, tensor in load_file(state / "average.safetensors").items():
        assert torch.allclose(tensor, average[name], atol=1e-5), name


@pytest.mark.training
def test_finished_files_hold_the_average(place: Path, tmp_path: Path) -> None:
    run(trainer(place, tmp_path, steps=4))
    branch = load_file(tmp_path / "vace" / "step_0000004_vace.safetensors")
    name = "vace_blocks.0.after_proj.weight"
    state = tmp_path / "state" / "step_0000004"
    averaged, last = (
        load_file(state / f"{part}.safetensors")["vace_blocks.0.proj_out.weight"]
        for part in ("average", "weights")
    )
    assert torch.equal(branch[name], averaged)
    assert not torch.equal(averaged, last)


@pytest.mark.training
def test_validation_uses_the_average_and_leaves_the_weights(place: Path, tmp_path: Path) -> None:
    plain, watched = (
        trainer(place, tmp_path / name, steps=4, validate_every=every)
        for name, every in (("plain", 0), ("watched", 1))
    )
    watched.data = replace(watched.data, held_out=place / "clips")
    run(plain)
    values = run(watched)
    assert all("held_out/loss" in step for step in values)
    for name, parameter in plain.parameters.items():
        assert torch.equal(parameter, watched.parameters[name])
    # The loss does not depend on where in the run it is asked for.
    assert watched.validate()["held_out/loss"] == values[-1]["held_out/loss"]


def test_rates() -> None:
    settings = TrainingSettings(steps=101, warmup=1, learning_rate=2.0 / 8, final_rate=0.2)
    assert settings.rate(0) == settings.rate(1) == 0.25
    assert settings.rate(100) == pytest.approx(0.05)
    assert settings.rate(1 + 99 // 2) == pytest.approx(0.15, rel=0.02)
    rates = [TrainingSettings(steps=50, warmup=9).rate(step) for step in range(50)]
    assert rates[:9] == sorted(rates[:9])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert TrainingSettings(steps=3, warmup=500).rate(2) == pytest.approx(1e-4 * 3 / 500)


@pytest.mark.training
def test_what_is_logged(place: Path, tmp_path: Path) -> None:
    """A run that broke off after a state shows each step once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    broken = trainer(place, tmp_path, steps=8, checkpoint_every=3)
    seen: list[dict[str, float]] = []

    def leave(report) -> None:
        seen.append(report.values)
        if report.step == 5:
            raise StopIteration

    with pytest.raises(StopIteration):
        broken.run(leave)
    again = run(trainer(place, tmp_path, steps=8, checkpoint_every=3))
    assert [v["loss"] for v in again[:2]] == [v["loss"] for v in seen[3:]]
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    for name in ("loss", "rate", "gradient", "seconds", "waiting"):
        assert [event.step for event in events.Scalars(name)] == list(range(1, 9))


@pytest.mark.training
def test_numbers_that_are_none(place: Path, tmp_path: Path) -> None:
    broken = trainer(place, tmp_path, stage="full")
    with torch.no_grad():
        broken.model.proj_out.bias[3] = float("nan")
    with pytest.raises(ValueRangeError, match="diverged in step 1"):
        broken.run()
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": "both"}, "stage"),
        ({"batch": 3}, "into micro-batches"),
        ({"dtype": "float16"}, "dtype"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"loss": "huber"}, "loss"),
        ({"steps": 0}, "steps"),
    ],
)
def test_settings_out_of_range(changes: dict, message: str) -> None:
    with pytest.raises(ValueRangeError, match=message):
        replace(SETTINGS, **changes)


def test_settings_come_back(tmp_path: Path) -> None:
    settings = replace(SETTINGS, validation_size=(96, 64), side_features="scene,white")
    assert TrainingSettings.load(settings.save(tmp_path)) == settings
    (tmp_path / "part.json").write_text('{"steps": 7, "learning_rate": 1}')
    assert TrainingSettings.load(tmp_path / "part.json") == TrainingSettings(
        steps=7, learning_rate=1
    )
    for content in ("[]", '{"step": 7}', '{"steps": "7"}', '{"steps": true}', "{"):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(ResumeError):
            TrainingSettings.load(tmp_path / "bad.json")


@pytest.mark.training
def test_a_finished_run_stays_finished(place: Path, tmp_path: Path) -> None:
    run(trainer(place, tmp_path, steps=2))
    stamp = (tmp_path / "state/step_0000002/state.json").stat().st_mtime_ns
    assert run(trainer(place, tmp_path, steps=2)) == []
    assert (tmp_path / "state/step_0000002/state.json").stat().st_mtime_ns == stamp


def test_a_validation_that_fails_costs_no_steps(place: Path, tmp_path: Path) -> None:
    def fail(*_: object) -> ClosedLoop:
        if begun.step:
            raise RuntimeError("the validation")
        return ClosedLoop(0.0, 0.0, 0.0)

    begun = trainer(place, tmp_path, steps=4, validate_every=4, validation_scenes=1)
    begun.loops = fail
    with pytest.raises(RuntimeError, match="the validation"):
        begun.run()
    assert trainer(place, tmp_path, steps=4, validate_every=4, validation_scenes=1).step == 4
