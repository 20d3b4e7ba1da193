"""A run that was killed, or whose files were damaged, goes on to the same bits."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import tiny_training
from mirage_core.cli.main import main
from mirage_core.errors import (
    CacheFormatError,
    ModelMismatchError,
    ResumeError,
    StorageError,
)
from mirage_core.models.load import load_transformer
from mirage_core.training.checkpoint import load_state
from mirage_core.training.settings import TrainingSettings
from mirage_core.training.trainer import Trainer, TrainingData

pytestmark = pytest.mark.training

STEPS = 18
KILLS = 3


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    tiny_training.write_clips(folder / "clips", range(22))
    tiny_training.write_model(folder)
    return folder


def command(place: Path, out: Path, **changes: object) -> list[str]:
    """Arguments of the command line for a run with LoRA, dropout and averaging."""
    settings = tiny_training.SETTINGS | {
        "stage": "single", "steps": STEPS, "checkpoint_every": 3, "lora_dropout": 0.2, **changes,
    }  # fmt: skip
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    return [
        "train", "--device", "cpu", "--data", str(place / "clips"), "--out", str(out),
        "--transformer", str(place / "model.safetensors"), *flags,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """A run that nothing has interrupted."""
    assert main(command(place, place / "whole")) == 0
    return place / "whole"


def contents(folder: Path) -> dict[str, bytes]:
    """Every tensor of every weight file of a run, as bytes."""
    found = {}
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                tensor = file.get_tensor(name).contiguous()
                key = f"{path.relative_to(folder)}:{name}"
                found[key] = tensor.view(torch.uint8).numpy().tobytes()
    return found


def test_equal_runs_write_equal_files(place: Path, whole: Path) -> None:
    """All but the logs, which hold times."""
    again = place / "again"
    assert main(command(place, again)) == 0

    def written(folder: Path) -> dict[Path, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return {
            path.relative_to(folder): path.read_bytes()
            for path in files
            if path.parent.name != "logs"
        }

    assert written(again) == written(whole)
    assert any(path.parent.name == "vace" for path in written(again))


def wait_for_a_checkpoint(process: subprocess.Popen, out: Path) -> None:
    """Until a file is half-written, or a state lacks files."""
    while process.poll() is None:
        states = (out / "state").glob("step_*")
        if any(not (state / "state.json").exists() for state in states):
            return


@pytest.mark.processes
def test_a_run_that_is_killed_again_and_again(place: Path, whole: Path) -> None:
    """Every second blow falls anywhere, the others in the middle of a checkpoint."""
    out, rng = place / "killed", random.Random(7)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    arguments = [sys.executable, "-m", "mirage_core", *command(place, out)]
    halves = 0
    for attempt in range(KILLS + 1):
        with subprocess.Popen(
            arguments, env=environment, text=True, stderr=subprocess.PIPE, cwd=place
        ) as process:
            lines = rng.randint(2, 4) if attempt < KILLS else STEPS
            steps = (line for line in process.stderr if line.startswith("step "))
            for number, _ in enumerate(steps, start=1):
                if number == lines and attempt < KILLS:
                    if attempt % 2:
                        wait_for_a_checkpoint(process, out)
                    else:
                        with contextlib.suppress(subprocess.TimeoutExpired):
                            process.wait(rng.uniform(0, 0.3))
                    process.kill()
                    break
            process.stderr.read()
        assert process.returncode == (0 if attempt == KILLS else -9 if os.name == "posix" else 1)
        states = [*(out / "state").iterdir()]
        halves += any(not (state / "state.json").exists() for state in states)
    assert halves > 0
    assert contents(out) == contents(whole)
    assert not list(out.rglob(".mirage-*"))


def test_a_run_with_muon_goes_on_to_the_same_bits(place: Path, tmp_path: Path) -> None:
    """Its momentum is kept beside the moments of AdamW."""
    changes = {"stage": "full", "optimiser": "muon", "lora_dropout": 0.0, "steps": 6}
    assert main(command(place, tmp_path / "whole", **changes)) == 0
    out = tmp_path / "broken"

    class Stop(Exception):
        pass

    def stop(report) -> None:
        if report.step == 4:
            raise Stop

    model = load_transformer(place / "model.safetensors", dtype=torch.float32)
    settings = TrainingSettings.load(tmp_path / "whole" / "settings.json")
    data = TrainingData(place / "clips", torch.zeros(1, tiny_training.TEXT))
    with pytest.raises(Stop):
        Trainer(model, settings, data, out).run(stop)
    moments = load_state(out).moments
    kinds = {name.partition(".")[0] for name in moments}
    assert kinds == {"exp_avg", "exp_avg_sq", "momentum_buffer"}
    turned = [name for name in moments if name.startswith("momentum_buffer.")]
    assert all(moments[name].ndim == 2 and "blocks." in name for name in turned)
    assert main(command(place, out, **changes)) == 0
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["weights", "average", "moments", "state.json", "missing"])
def test_a_damaged_state_gives_way_to_the_one_before(
    place: Path, whole: Path, tmp_path: Path, damage: str
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    newest = out / "state" / f"step_{STEPS:07d}"
    if damage == "missing":
        (newest / "moments.safetensors").unlink()
    else:
        path = newest / (damage if damage == "state.json" else f"{damage}.safetensors")
        path.write_bytes(path.read_bytes()[:-9])
    for finished in (out / "vace").iterdir():
        finished.unlink()
    assert main(command(place, out)) == 0
    last = f"vace/step_{STEPS:07d}_vace.safetensors"
    expected = {k: v for k, v in contents(whole).items() if k.startswith((last, "state"))}
    assert {k: v for k, v in contents(out).items() if k.startswith((last, "state"))} == expected


def test_a_half_written_state_is_removed(place: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    half = out / "state" / "step_0000099"
    half.mkdir()
    (half / "weights.safetensors").write_bytes(b"half")
    (out / "vace" / ".mirage-0123.safetensors").write_bytes(b"half")
    assert main(command(place, out)) == 0
    assert not half.exists()
    assert contents(out) == contents(whole)


def test_only_damaged_states(place: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for path in out.rglob("weights.safetensors"):
        path.write_bytes(b"nothing")
    with pytest.raises(ResumeError, match="No state of this run"):
        load_state(out)


def test_other_settings_are_another_run(place: Path, whole: Path, capsys) -> None:
    assert main(command(place, whole, learning_rate=0.5)) == 2
    assert "learning_rate 0.5 instead of 0.01" in capsys.readouterr().err
    # What the weights do not depend on may change.
    assert main(command(place, whole, keep=5, readers=1)) == 0


def trainer_of(place: Path, out: Path, **changes: object) -> Trainer:
    settings = TrainingSettings(
        **tiny_training.SETTINGS | {"stage": "single", "lora_dropout": 0.2, **changes}
    )
    model = load_transformer(place / "model.safetensors", dtype=torch.float32)
    return Trainer(model, settings, TrainingData(place / "clips", torch.zeros(1, 16)), out)


def test_a_state_of_another_size(place: Path, tmp_path: Path) -> None:
    trainer_of(place, tmp_path / "run", steps=2).run()
    (tmp_path / "run" / "settings.json").unlink()
    with pytest.raises(ModelMismatchError, match="saved training state.*instead of"):
        trainer_of(place, tmp_path / "run", steps=2, lora_rank=8)


def test_a_data_set_may_grow_but_not_shrink(place: Path, tmp_path: Path) -> None:
    """Clips that are added in the middle of an epoch are first seen in the next one."""
    whole, grown = tmp_path / "whole", tmp_path / "grown"
    for folder in (whole, grown):
        tiny_training.write_clips(folder / "clips", range(40))
        shutil.copy(place / "model.safetensors", folder)
        halfway = trainer_of(folder, folder / "run", steps=9, checkpoint_every=3)
        stop = StopIteration()

        def leave(report, stop=stop) -> None:
            if report.step == 3:
                raise stop

        with pytest.raises(StopIteration):
            halfway.run(leave)
    # Its name comes first in order.
    tiny_training.write_clips(grown / "clips", range(100, 120), name="0")
    for folder in (whole, grown):
        trainer_of(folder, folder / "run", steps=9, checkpoint_every=3).run()
    assert contents(whole / "run") == contents(grown / "run")
    position = json.loads((grown / "run/state/step_0000009/state.json").read_text())["position"]
    assert position["clips"] == 40
    for path in (grown / "clips").glob("clips-a-*"):
        path.unlink()
    (grown / "run/state/step_0000009/state.json").unlink()
    with pytest.raises(CacheFormatError, match="clips-a"):
        trainer_of(grown, grown / "run", steps=9, checkpoint_every=3).run()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
@pytest.mark.parametrize("limit", [4_000, 60_000])
def test_a_full_disk_in_the_middle_of_a_checkpoint(
    place: Path, tmp_path: Path, limit: int
) -> None:
    import resource
    import signal

    out = tmp_path / "run"
    trainer = trainer_of(place, out, steps=6, checkpoint_every=3)

    def leave(report) -> None:
        if report.step == 5:
            raise StopIteration

    with pytest.raises(StopIteration):
        trainer.run(leave)
    before = contents(out)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(StorageError, match="could not be written.*files of this size"):
            trainer.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert before.items() <= contents(out).items()
    again = trainer_of(place, out, steps=6, checkpoint_every=3)
    assert again.step == 3
    again.run()
    straight = trainer_of(place, tmp_path / "straight", steps=6, checkpoint_every=3)
    straight.run()
    ends = f"step_{6:07d}"
    found, expected = contents(out), contents(tmp_path / "straight")
    assert {k: v for k, v in found.items() if ends in k} == {
        k: v for k, v in expected.items() if ends in k
    }
