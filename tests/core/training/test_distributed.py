"""A run that two processes share is the run of one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiny_training
from mirage_core.codecs.dct import DctCodec
from mirage_core.errors import MirageError, ModelMismatchError, ValueRangeError
from mirage_core.models.load import load_transformer
from mirage_core.training.context_parallel import as_given, share_frames
from mirage_core.training.distributed import Distributed
from mirage_core.training.memory_estimate import plan_memory
from mirage_core.training.settings import TrainingSettings
from mirage_core.training.trainer import Trainer, TrainingData
from mirage_core.training.validation import LoopTest

WORKER = Path(__file__).with_name("training_worker.py")
TIMEOUT = 240
PAIRS = {"context_parallel": 2}

LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
"""A machine's name need not resolve to an address."""

needs_gloo = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="needs torch with gloo",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def train_here(folder: Path, place: Path, settings: dict) -> dict[str, torch.Tensor]:
    """What this process alone reports of a run in ``folder``."""
    data = TrainingData(place / "clips", torch.zeros(1, 16), held_out=place / "clips")
    model = load_transformer(place / "model" / "model.safetensors", dtype=torch.float32)
    chosen = TrainingSettings(**settings)
    loops = LoopTest(DctCodec(), torch.zeros(1, 16), chosen, torch.device("cpu"))
    trainer = Trainer(model, chosen, data, folder, loops=loops)
    reports: list[dict[str, float]] = []
    trainer.run(lambda report: reports.append(report.values))
    return collect(reports)


def collect(reports: list[dict[str, float]]) -> dict[str, torch.Tensor]:
    """The numbers of all steps by name."""
    names = ("loss", "gradient", "held_out/loss", "closed_loop/truth")
    return {name: torch.tensor([v[name] for v in reports if name in v]) for name in names}


def train_apart(count: int, folder: Path, place: Path, settings: dict) -> list[dict]:
    """What each of ``count`` processes reports of a run in ``folder``."""
    common = {
        **os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "LOCAL_WORLD_SIZE": str(count),
        **LOOPBACK,
    }  # fmt: skip
    files = [place / "model" / "model.safetensors", place / "clips", folder]
    result = folder.with_suffix(".result")
    arguments = [*map(str, files), json.dumps(settings), str(result)]
    ranks = [
        subprocess.Popen(
            [sys.executable, str(WORKER), *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]  # fmt: skip
    try:
        reports = [process.communicate(timeout=TIMEOUT)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [process.returncode for process in ranks] == [0] * count, "\n".join(reports)
    return [json.loads(Path(f"{result}.{rank}").read_text()) for rank in range(count)]


@pytest.mark.training
@pytest.mark.processes
@needs_gloo
def test_two_processes_train_as_one(tmp_path) -> None:
    """Joint training from the beginning, over a break: losses, weights, and who holds what."""
    tiny_training.write_clips(tmp_path / "clips", range(20))
    tiny_training.write_model(tmp_path / "model")
    settings = tiny_training.SETTINGS | {
        "stage": "single", "steps": 6, "checkpoint_every": 3, "validate_every": 6,
        "validation_clips": 3, "lora_dropout": 0.1, "validation_scenes": 1,
        "validation_frames": 9, "validation_size": (64, 64), "validation_steps": 2,
    }  # fmt: skip
    alone = train_here(tmp_path / "one", tmp_path, settings)
    shared = train_apart(2, tmp_path / "two", tmp_path, settings)
    assert [report["processes"] for report in shared] == [2, 2]
    for report in shared:
        for name, found in collect(report["values"]).items():
            # The last one is in dB, over a whole rollout.
            tolerance = 1e-3 if name.startswith("closed_loop") else 1e-5
            assert torch.allclose(found, alone[name], atol=tolerance, rtol=0), name
    for kind in ("vace", "lora"):
        one, two = (
            load_file(tmp_path / run / kind / f"step_0000006_{kind}.safetensors")
            for run in ("one", "two")
        )
        assert one.keys() == two.keys()
        for name in one:
            assert torch.allclose(one[name], two[name], atol=1e-4), name
    # One process goes on from what two have left, and the plan knew what they would hold.
    third = tmp_path / "two" / "state" / "step_0000003"
    assert (third / "state.json").exists()
    model = load_transformer(tmp_path / "model" / "model.safetensors", dtype=torch.float32)
    plan = plan_memory(model, TrainingSettings(**settings), 2, (96, 64))
    assert max(report["held"] for report in shared) == plan.weights
    for file in (tmp_path / "two" / "state" / "step_0000006").iterdir():
        file.unlink()
    again = train_here(tmp_path / "two", tmp_path, settings)
    assert torch.allclose(again["loss"], alone["loss"][3:], atol=1e-5, rtol=0)


ALONE = """
from mirage_core.training.distributed import Distributed
processes = Distributed()
print(f"rank {processes.rank} of {processes.count}")
processes.close()
"""


@pytest.mark.processes
@needs_gloo
def test_torchrun_without_a_gpu_makes_one_group() -> None:
    """Each process would believe that it is the only one, and two trainings write one folder."""
    if torch.accelerator.is_available():
        pytest.skip("needs a machine without an accelerator")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
         "--standalone", "--no-python", sys.executable, "-c", ALONE],
        capture_output=True, text=True, timeout=TIMEOUT,
        env={**os.environ, **LOOPBACK, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "rank 0 of 2" in done.stdout and "rank 1 of 2" in done.stdout


def test_a_group_that_is_not_whole_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Distributed(cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MirageError, match="do not form one group.*2 started.*1 in the group"):
        Distributed(cpu=True)


@pytest.mark.training
@pytest.mark.processes
@needs_gloo
def test_frozen_weights_in_eight_bits_are_sharded_too(tmp_path) -> None:
    tiny_training.write_clips(tmp_path / "clips", range(10))
    tiny_training.write_model(tmp_path / "model")
    settings = tiny_training.SETTINGS | {
        "stage": "single", "steps": 3, "checkpoint_every": 3, "frozen_dtype": "float8",
    }  # fmt: skip
    alone = train_here(tmp_path / "one", tmp_path, settings)
    for report in train_apart(2, tmp_path / "two", tmp_path, settings):
        found = collect(report["values"])
        assert torch.allclose(found["loss"], alone["loss"], atol=1e-5, rtol=0)


@pytest.mark.training
@pytest.mark.processes
@needs_gloo
@pytest.mark.parametrize(("dtype", "count"), [("float32", 4), ("bfloat16", 2)])
def test_processes_that_share_every_frame_train_as_one(
    tmp_path: Path, dtype: str, count: int
) -> None:
    """Pairs, in which both take half of each frame of the same clips. Gradients, which a wrong
    factor would change, losses and weights are those of one process."""
    tiny_training.write_clips(tmp_path / "clips", range(8))
    tiny_training.write_model(tmp_path / "model")
    settings = tiny_training.SETTINGS | {
        "stage": "single", "steps": 2, "checkpoint_every": 2, "validate_every": 2,
        "validation_clips": 1, "lora_dropout": 0.0, "dtype": dtype,
    }  # fmt: skip
    alone = train_here(tmp_path / "one", tmp_path, settings)
    exact = dtype == "float32"
    for report in train_apart(count, tmp_path / "many", tmp_path, settings | PAIRS):
        found = collect(report["values"])
        for name in ("loss", "gradient", "held_out/loss"):
            tolerance = 1e-5 if exact else 2e-2
            assert torch.allclose(found[name], alone[name], atol=0, rtol=tolerance), name
    for kind in ("vace", "lora"):
        one, many = (
            load_file(tmp_path / run / kind / f"step_0000002_{kind}.safetensors")
            for run in ("one", "many")
        )
        apart = max(float((one[name] - many[name]).abs().max()) for name in one)
        assert apart < (1e-5 if exact else 2e-2)


def test_groups_take_the_same_micro_batches() -> None:
    """Six processes in pairs: three groups, each with a third of the work."""
    processes = Distributed(cpu=True)
    processes.count = 6
    shares = []
    for processes.rank in range(6):
        shares.append(processes.share(9, together=2))
    assert shares == [range(0, 3)] * 2 + [range(3, 6)] * 2 + [range(6, 9)] * 2
    with pytest.raises(ValueRangeError, match="over the 2 that share a clip"):
        processes.share(8, together=2)
    with pytest.raises(ValueRangeError, match="groups that share a clip.*context_parallel 4"):
        processes.share(8, together=4)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"context_parallel": 4}, ValueRangeError, "attention heads are not divisible"),
        ({"compile": True}, ModelMismatchError, "Compiled blocks cannot share"),
        ({}, ModelMismatchError, "there is none"),
    ],
)
def test_frames_that_cannot_be_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict, error: type, said: str
) -> None:
    """The tiny model has two heads, and this machine is told to have no accelerator."""
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 0)
    path = tiny_training.write_model(tmp_path)
    model = load_transformer(path, dtype=torch.float32)
    settings = TrainingSettings(**tiny_training.SETTINGS | PAIRS | changes)
    with pytest.raises(error, match=said):
        share_frames(model, settings, Distributed(cpu=True))


def test_norms_that_widen_give_what_they_were_given() -> None:
    class Widening(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.float() * 2

    norm = Widening()
    norm.register_forward_hook(as_given)
    found = norm(torch.ones(3, dtype=torch.bfloat16))
    assert found.dtype == torch.bfloat16 and found.tolist() == [2.0, 2.0, 2.0]
