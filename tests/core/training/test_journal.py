"""What a run shows of itself: films, numbers from step 0 on, settings, data, and what it takes."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

import tiny_training
from mirage_core.cli.main import main
from mirage_core.cli.train_report import Reporter
from mirage_core.codecs.dct import DctCodec
from mirage_core.errors import PackageError
from mirage_core.metrics import psnr
from mirage_core.models.load import load_transformer
from mirage_core.rollout.video import read_frames
from mirage_core.training.facts import run_facts
from mirage_core.training.films import UNSEEN, animated
from mirage_core.training.journal import Journal, StepReport
from mirage_core.training.settings import TrainingSettings
from mirage_core.training.trainer import Trainer, TrainingData
from mirage_core.training.validation import FIRST_SCENE, LoopTest

SIZE = (96, 64)
LOOPS: dict[str, Any] = {
    "steps": 2, "checkpoint_every": 2, "validate_every": 2, "validation_scenes": 1,
    "validation_frames": 13, "validation_size": SIZE, "validation_steps": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("journal")
    tiny_training.write_clips(folder / "clips", range(10))
    tiny_training.write_model(folder)
    return folder


def trainer(place: Path, out: Path, *, loops: bool = True, **changes: object) -> Trainer:
    settings = TrainingSettings(**tiny_training.SETTINGS | changes)
    model = load_transformer(place / "model.safetensors", dtype=torch.float32)
    data = TrainingData(place / "clips", torch.zeros(1, 16), held_out=place / "clips")
    test = LoopTest(DctCodec(), torch.zeros(1, 16), settings, torch.device("cpu"))
    return Trainer(model, settings, data, out, loops=test if loops else None)


def frames_of(path: Path) -> torch.Tensor:
    return torch.stack(list(read_frames(path))).float() / 255


@pytest.mark.rollout
@pytest.mark.training
def test_a_validation_is_filmed_from_the_first_step_on(place: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reports: list[StepReport] = []
    trainer(place, tmp_path, **LOOPS).run(reports.append)
    assert [report.step for report in reports] == [0, 1, 2]
    assert reports[0].values.keys() == {
        "held_out/loss", "closed_loop/closed", "closed_loop/truth", "closed_loop/ceiling"
    }  # fmt: skip
    width, height = SIZE
    for step in (0, 2):
        film = frames_of(tmp_path / f"validation/step_{step:07d}/room_{FIRST_SCENE}.mp4")
        assert film.shape == (13, height, 3 * width, 3)
        memory, made, truth = film.split(width, dim=2)
        # The memory is the first picture but for cells at depth edges, and later knows less.
        unseen = (memory - UNSEEN).abs().amax(-1) < 0.03
        assert psnr(memory[0][~unseen[0]], truth[0][~unseen[0]]) > 23
        assert 0.02 < float(unseen[0].float().mean()) < float(unseen[6].float().mean()) < 0.98
        # The first frame is given, and the others are made by a model that has learned nothing.
        assert psnr(made[0], truth[0]) > 23
        assert psnr(made[6], truth[6]) < 20
    events = EventAccumulator(str(tmp_path / "logs"), {"images": 0, "tensors": 0})
    events.Reload()
    shown = events.Images(f"closed_loop/room_{FIRST_SCENE}")
    assert [event.step for event in shown] == [0, 2]
    moving = Image.open(io.BytesIO(shown[0].encoded_image_string))
    assert moving.format == "GIF" and moving.n_frames == 13
    assert [event.step for event in events.Scalars("closed_loop/truth")] == [0, 2]
    texts = {
        name: events.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0].decode()
        for name in ("settings", "data", "held_out")
    }
    assert "| validation_frames | 13 |" in texts["settings"]
    assert "| clips | 10 |" in texts["data"] and str(place / "clips") in texts["held_out"]


def test_a_moving_picture_is_made_small() -> None:
    frames = torch.rand(65, 32, 1440, 3)
    content, width, height = animated(frames, 16)
    moving = Image.open(io.BytesIO(content))
    assert moving.size == (width, height) == (480, 11)
    assert moving.n_frames == 24
    # As long as the video, in the hundredths of a second that the format has.
    assert moving.info["duration"] * 24 == pytest.approx(65 / 16 * 1000, rel=0.06)


def test_what_a_run_will_take(place: Path, tmp_path: Path) -> None:
    """The files of a run that was made are as large as they were said to be."""
    begun = trainer(
        place, tmp_path, loops=False, stage="single", steps=8, checkpoint_every=3, keep=2
    )
    facts = run_facts(begun)
    assert (facts.steps, facts.left, facts.batch, facts.clips) == (8, 8, 4, 10)
    assert "8 of 8 steps of 4 clips, 3.2 epochs of 10 clips in all" in facts.describe()
    begun.run()
    weights = sum(path.stat().st_size for path in tmp_path.rglob("step_0000003_*.safetensors"))
    state = sum(path.stat().st_size for path in (tmp_path / "state/step_0000008").iterdir())
    kept = [p for p in tmp_path.rglob("*") if p.is_file() and "logs" not in p.parts]
    # Beside the tensors there are headers, which are small in files that are not.
    assert facts.checkpoint == pytest.approx(weights, rel=0.3)
    assert facts.state == pytest.approx(state, rel=0.3)
    assert facts.disk == pytest.approx(sum(p.stat().st_size for p in kept), rel=0.3)


def test_what_is_printed(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(trainer(place, tmp_path, loops=False, steps=2000))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "2,000 of 2,000 steps" in said
    assert "by the end" in said and "memory: about" in said
    reporter(StepReport(0, 2000, {"held_out/loss": 1.0}))
    assert capsys.readouterr().err == "step 0 of 2000, held out loss 1.000\n"
    for step, seconds in ((1, 99.0), (2, 3.0), (3, 4.2)):
        reporter(StepReport(step, 2000, {"loss": 1.0, "seconds": seconds, "waiting": 0.0}))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "about 1:59:49 hours for the 1,997 steps that are left, validations not counted"


class FakeWandb(ModuleType):
    """What a run says to it."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.started: dict[str, Any] = {}
        self.logged: list[tuple[int, set[str]]] = []
        self.finished = False
        self.config = SimpleNamespace(update=lambda values, allow_val_change: None)

    def init(self, **options: Any) -> FakeWandb:
        self.started = options
        return self

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((step, set(values)))

    def finish(self) -> None:
        self.finished = True

    @staticmethod
    def Video(path: str, format: str) -> str:  # noqa: A002, N802
        assert Path(path).exists()
        return format


@pytest.mark.parametrize(("environment", "mode"), [(None, "offline"), ("online", "online")])
def test_wandb_is_offline_unless_the_environment_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: str | None, mode: str
) -> None:
    fake = FakeWandb()
    fake.__spec__ = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if environment is not None:
        monkeypatch.setenv("WANDB_MODE", environment)
    film = tmp_path / "film.mp4"
    film.write_bytes(b"film")
    with Journal(tmp_path / "run", 0, TrainingSettings(wandb="rooms")) as journal:
        journal.write(StepReport(1, 2, {"loss": 1.0}))
        journal.film("room", torch.zeros(1, 32, 96, 3), 16, 1, film)
        journal.facts("data", {"clips": 4}, 0)
    assert fake.started["mode"] == mode and fake.started["project"] == "rooms"
    assert fake.started["config"]["settings"]["steps"] == 10_000
    assert fake.logged == [(1, {"loss"}), (1, {"room"})] and fake.finished


def test_wandb_that_is_not_there_is_told_before_anything_is_read(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(PackageError, match="not installed.*pip install wandb"):
        Journal(tmp_path / "run", 0, TrainingSettings(wandb="rooms"))
    out = tmp_path / "other"
    command = ["train", "--out", str(out), "--data", str(place / "clips"), "--wandb", "rooms"]
    assert main([*command, "--transformer", str(place / "model.safetensors")]) == 2
    assert "pip install wandb" in capsys.readouterr().err
    assert not out.exists()


