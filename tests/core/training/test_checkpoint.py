"""States of a run: what was damaged gives way to the state before, whatever the damage."""

from __future__ import annotations

import json
import signal
import struct
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from mirage_core.errors import ResumeError, StorageError
from mirage_core.tensor_files import write_tensors
from mirage_core.training.checkpoint import TrainingState, load_state, save_state
from mirage_core.training.journal import Journal, StepReport
from mirage_core.training.sampler import Position
from mirage_core.training.settings import TrainingSettings

PARTS = ("weights", "average", "moments")


def state_of(step: int) -> TrainingState:
    rng = torch.Generator().manual_seed(step)
    parts = [{f"{part}.a": torch.randn(3, 2, generator=rng)} for part in PARTS]
    return TrainingState(step, Position(1, step, 40, ("clips-a-00000", "clips-b-00000")), *parts)


def contents(state: TrainingState) -> tuple[Any, ...]:
    numbers = [
        {name: tensor.view(torch.int32).tolist() for name, tensor in getattr(state, part).items()}
        for part in PARTS
    ]
    return state.step, state.position, *numbers


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run with the states of steps 3 and 6."""
    for step in (3, 6):
        save_state(tmp_path, state_of(step), keep=2)
    return tmp_path


def newest(run: Path, name: str = "state.json") -> Path:
    return run / "state" / "step_0000006" / name


def rewrite(run: Path, **changes: Any) -> None:
    """Change entries of the newest state, which has no digests then, as earlier versions' have."""
    path = newest(run)
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if "digest" not in k}))


def test_states_are_read_as_they_were_saved(run: Path) -> None:
    assert contents(load_state(run)) == contents(state_of(6))


def test_states_of_earlier_versions_are_read(run: Path) -> None:
    rewrite(run)
    assert contents(load_state(run)) == contents(state_of(6))


@pytest.mark.parametrize("name", ["state.json", *(f"{part}.safetensors" for part in PARTS)])
def test_a_flipped_bit_anywhere(run: Path, name: str) -> None:
    """Each byte of the file once: this state, or the one before, and never numbers of neither."""
    good = [contents(state_of(step)) for step in (3, 6)]
    path = newest(run, name)
    whole = path.read_bytes()
    healed = 0
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        found = contents(load_state(run))
        assert found in good, place
        healed += found == good[0]
    assert healed > len(whole) * 0.8


@pytest.mark.parametrize(
    "position",
    [
        {"epoch": float("inf")}, {"batch": float("nan")}, {"clips": 1.5}, {"epoch": -1},
        {"epoch": True}, {"batch": "2"}, {"shards": None}, {"shards": "clips"}, {"shards": [1]},
    ],
    ids=str,
)  # fmt: skip
def test_numbers_of_a_position_that_cannot_be(run: Path, position: dict[str, Any]) -> None:
    rewrite(run, position=state_of(6).position.to_json() | position)
    assert contents(load_state(run)) == contents(state_of(3))


@pytest.mark.parametrize(
    "change",
    [
        {"step": float("inf")}, {"step": True}, {"step": None}, {"version": float("inf")},
        {"version": "1"}, {"lengths": []}, {"lengths": {}}, {"position": []}, {"format": "other"},
    ],
    ids=str,
)  # fmt: skip
def test_a_description_that_cannot_be(run: Path, change: dict[str, Any]) -> None:
    rewrite(run, **change)
    assert contents(load_state(run)) == contents(state_of(3))


def test_a_tensor_of_more_axes_than_torch_knows(run: Path) -> None:
    shape = {"a": {"dtype": "F32", "shape": [1] * 65, "data_offsets": [0, 4]}}
    header = json.dumps(shape).encode()
    path = newest(run, "moments.safetensors")
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    lengths = {part: newest(run, f"{part}.safetensors").stat().st_size for part in PARTS}
    rewrite(run, lengths=lengths)
    assert contents(load_state(run)) == contents(state_of(3))


def test_nothing_but_damage(run: Path) -> None:
    for path in run.rglob("state.json"):
        path.write_text(path.read_text().replace("clips-a", "clips-c"))
    with pytest.raises(ResumeError, match="2 damaged states"):
        load_state(run)


def test_a_full_disk_is_called_full(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(StorageError, match="No space left on device.*The disk is full"):
        save_state(run, state_of(9), keep=2)
    assert contents(load_state(run)) == contents(state_of(6))


def test_an_error_of_safetensors_that_is_none_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise SafetensorError("something else")

    monkeypatch.setattr(safetensors.torch, "save_file", refuse)
    with pytest.raises(StorageError, match="something else.*Check the disk"):
        write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(1)})


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_disk_that_has_no_room_for_the_log(tmp_path: Path, file_size_limit) -> None:
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = set(threading.enumerate())
    try:
        with (
            pytest.raises(StorageError, match="logs.*files of this size"),
            Journal(tmp_path, 0, TrainingSettings()) as log,
            file_size_limit(300),
        ):
            for step in range(1000):
                log.write(StepReport(step, 1000, {"loss": 1.0}))
    finally:
        signal.signal(signal.SIGXFSZ, handler)
        for thread in set(threading.enumerate()) - before:
            thread.join()
