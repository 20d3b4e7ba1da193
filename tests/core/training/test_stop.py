"""A run that is asked to end saves first, in all of its processes after the same step."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_training
from mirage_core.cli.main import main
from mirage_core.errors import ModelMismatchError, ResumeError
from mirage_core.models.load import load_transformer
from mirage_core.training.checkpoint import load_state
from mirage_core.training.distributed import Distributed
from mirage_core.training.settings import TrainingSettings
from mirage_core.training.stop import StopFlag, StopRequested
from mirage_core.training.trainer import Trainer, TrainingData
from mirage_core.training.validation import ClosedLoop

pytestmark = pytest.mark.training

LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stop")
    tiny_training.write_clips(folder / "clips", range(22))
    tiny_training.write_model(folder)
    return folder


def options(place: Path, **changes: object) -> list[str]:
    settings = tiny_training.SETTINGS | {"stage": "single", "lora_dropout": 0.2, **changes}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    return [
        "--device", "cpu", "--data", str(place / "clips"),
        "--transformer", str(place / "model.safetensors"), *flags,
    ]  # fmt: skip


def trainer(place: Path, out: Path, **changes: object) -> Trainer:
    settings = TrainingSettings(
        **tiny_training.SETTINGS | {"stage": "single", "lora_dropout": 0.2, **changes}
    )
    model = load_transformer(place / "model.safetensors", dtype=torch.float32)
    return Trainer(model, settings, TrainingData(place / "clips", torch.zeros(1, 16)), out)


def start(arguments: list[str], cwd: Path, **environment: str) -> subprocess.Popen:
    common = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment}
    return subprocess.Popen(
        [sys.executable, "-m", "mirage_core", "train", *arguments],
        env=common, text=True, stderr=subprocess.PIPE, cwd=cwd,
    )  # fmt: skip


def after_steps(process: subprocess.Popen, count: int) -> None:
    """Until so many steps are reported."""
    for line in process.stderr:
        if line.startswith(f"step {count} of"):
            return


@posix
@pytest.mark.processes
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends(
    place: Path, tmp_path: Path, number: int, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not one step is lost, and the folder alone says how to go on, to the same bits."""
    out, steps = tmp_path / "run", 24
    long = {"steps": steps, "checkpoint_every": steps}
    with start([*options(place, **long), "--out", str(out)], tmp_path) as process:
        after_steps(process, 3)
        process.send_signal(number)
        said = process.stderr.read()
    assert process.returncode == status, said
    done = load_state(out).step
    assert 3 <= done < steps
    assert f"Stopped after step {done}, which is saved" in said
    assert (out / "vace" / f"step_{done:07d}_vace.safetensors").exists()
    assert main(["train", "--out", str(out)]) == 0
    assert f"step {done + 1} of {steps}" in capsys.readouterr().err
    straight = tmp_path / "straight"
    trainer(place, straight, **long).run()
    for kind in ("vace", "lora"):
        name = f"{kind}/step_{steps:07d}_{kind}.safetensors"
        assert (out / name).read_bytes() == (straight / name).read_bytes()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@posix
@pytest.mark.processes
@pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="needs torch with gloo",
)
def test_processes_end_after_the_same_step(place: Path, tmp_path: Path) -> None:
    """One of two is asked. Were the other to go on, it would wait for this one for ever."""
    out = tmp_path / "run"
    common = {
        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()), **LOOPBACK,
    }  # fmt: skip
    arguments = [*options(place, steps=400, checkpoint_every=400), "--out", str(out)]
    ranks = [
        start(arguments, tmp_path, **common, RANK=str(rank), LOCAL_RANK=str(rank))
        for rank in range(2)
    ]
    try:
        after_steps(ranks[0], 2)
        ranks[1].send_signal(signal.SIGTERM)
        said = [process.communicate(timeout=90)[1] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [process.returncode for process in ranks] == [143, 143], said
    assert load_state(out).step < 400
    assert "Stopped after step" in said[0]


def test_a_stop_that_comes_during_a_validation(place: Path, tmp_path: Path) -> None:
    """The validation is cut short, and the steps before it are saved all the same."""
    out = tmp_path / "run"
    settings = {"steps": 8, "checkpoint_every": 8, "validate_every": 3, "validation_scenes": 1}
    begun = trainer(place, out, **settings)
    stop = StopFlag(begun.processes)

    def loops(_: object, asked: StopFlag, on_film: object) -> ClosedLoop:
        if begun.step == 3:
            asked.request(signal.SIGTERM)
        asked.check()
        return ClosedLoop(0.0, 0.0, 0.0)

    begun.loops = loops
    assert begun.run(stop=stop) is False
    assert stop.exit_code == 143
    assert trainer(place, out, **settings).step == 3


def test_a_flag_tells(place: Path) -> None:
    stop = StopFlag(Distributed(cpu=True))
    # Programs that are started in the background ignore SIGINT.
    before = signal.getsignal(signal.SIGINT)
    assert not stop.agreed()
    stop.check()
    with stop.on_signals():
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.agreed() and stop.exit_code == 130
        with pytest.raises(StopRequested):
            stop.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_may_become_longer(place: Path, tmp_path: Path) -> None:
    """The rate is that of a run of the new length, and the steps so far stay as they are."""
    out = tmp_path / "run"
    trainer(place, out, steps=6).run()
    state = load_state(out)
    rates: list[float] = []
    longer = trainer(place, out, steps=12)
    assert longer.step == 6
    for name, parameter in longer.parameters.items():
        assert torch.equal(parameter, state.weights[name])
    assert longer.run(lambda report: rates.append(report.values["rate"]))
    assert rates == [longer.settings.rate(step) for step in range(6, 12)]
    assert rates[0] > trainer(place, tmp_path / "other", steps=6).settings.rate(5)
    with pytest.raises(ResumeError, match="longer, not shorter.*steps 6 instead of 12"):
        trainer(place, out, steps=6)


def test_another_frozen_model_is_noticed(place: Path, tmp_path: Path) -> None:
    """Its sizes are the same, so nothing else would tell."""
    out = tmp_path / "run"
    trainer(place, out, steps=2).run()

    def other() -> Any:
        model = load_transformer(place / "model.safetensors", dtype=torch.float32)
        with torch.no_grad():
            model.blocks[1].ffn.net[2].weight += 1e-3
        return model

    settings = trainer(place, tmp_path / "same", steps=2).settings
    data = TrainingData(place / "clips", torch.zeros(1, 16))
    with pytest.raises(ModelMismatchError, match="begun with another model"):
        Trainer(other(), settings, data, out)
    # States of earlier versions do not say what they were begun with.
    state = out / "state" / "step_0000002" / "state.json"
    content = json.loads(state.read_text())
    for name in ("frozen", "digest", "digests"):
        del content[name]
    state.write_text(json.dumps(content))
    assert Trainer(other(), settings, data, out).step == 2


def test_one_file_holds_the_whole_run(place: Path, tmp_path: Path, capsys) -> None:
    """A run that a file describes, taken up by its folder alone from elsewhere."""
    tomlkit = pytest.importorskip("tomlkit")
    file, out = tmp_path / "my.toml", tmp_path / "run"
    lines = {
        **tiny_training.SETTINGS, "stage": "single", "steps": 4, "device": "cpu",
        "data": str(place / "clips"), "transformer": str(place / "model.safetensors"),
        "validation_size": "64x64", "side-features": "scene,white", "embedded_codec": True,
        "gradient_checkpointing": False,
    }  # fmt: skip
    file.write_text(tomlkit.dumps(lines))
    assert main(["train", "--config", str(file), "--out", str(out), "--seed", "3"]) == 0
    kept = tomlkit.parse((out / "run.toml").read_text()).unwrap()
    settings = TrainingSettings.load(out / "settings.json")
    assert (settings.seed, settings.steps, settings.validation_size) == (3, 4, (64, 64))
    assert not settings.gradient_checkpointing
    assert kept["transformer"] == str((place / "model.safetensors").resolve())
    assert kept["embedded_codec"] is True and kept["seed"] == 3
    assert not {"out", "config", "vae"} & kept.keys()
    # A copy of the folder is a run like any other.
    shutil.copytree(out, tmp_path / "elsewhere")
    assert main(["train", "--out", str(tmp_path / "elsewhere"), "--steps", "5"]) == 0
    assert load_state(tmp_path / "elsewhere").step == 5
    again = tomlkit.parse((tmp_path / "elsewhere" / "run.toml").read_text()).unwrap()
    assert again == kept | {"steps": 5}
    assert not list(tmp_path.rglob(".mirage-*"))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["train", "--out", str(out), "--vae", "vae.safetensors"])
    said = capsys.readouterr().err
    assert "not allowed with" in said and str(out / "run.toml") in said
    for text, message in (
        ("steps = ", "cannot be read"),
        ("steps = 'many'", "invalid int value: 'many'"),
        ("stride = 4", "unrecognized arguments: --stride=4"),
        ("config = 'a.toml'", "Got: config"),
        ("[settings]\nsteps = 4", "Got: settings"),
        ("embedded_codec = true\nvae = 'a'", "not allowed with"),
    ):
        file.write_text(text)
        assert main(["train", "--config", str(file), "--out", str(tmp_path / "none")]) == 2
        said = capsys.readouterr().err
        assert message in said and str(file) in said, said
    assert not (tmp_path / "none").exists()


def test_a_run_that_began_with_a_branch_goes_on_by_its_folder(place: Path, tmp_path: Path) -> None:
    """Its branch is another one than the settings of a new branch describe."""
    tomlkit = pytest.importorskip("tomlkit")
    settings = tiny_training.SETTINGS | {"stage": "joint", "steps": 2, "wandb": ""}
    del settings["side_blocks"]
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    branch = tiny_training.write_branch(tmp_path)
    out = tmp_path / "run"
    places = ["--data", str(place / "clips"), "--branch", str(branch), "--embedded-codec"]
    model = ["--transformer", str(place / "model.safetensors"), "--device", "cpu"]
    assert main(["train", "--out", str(out), *places, *model, *flags]) == 0
    kept = tomlkit.parse((out / "run.toml").read_text()).unwrap()
    assert not {"side_blocks", "side_features", "wandb"} & kept.keys()
    assert main(["train", "--out", str(out), "--steps", "3"]) == 0
    assert load_state(out).step == 3
