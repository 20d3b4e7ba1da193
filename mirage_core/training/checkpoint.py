"""Checkpoints of a run: written atomically, kept in pairs, found again after a kill.

A state is a folder with the weights, their average and the optimizer's moments as safetensors,
and ``state.json``. That file is written last and removed first, so a state that has it was written
whole. It holds digests of all of them, so that a state which was damaged since is told from it.
Tensors are stored unsharded: a run can resume with another number of processes.

There is no state of random generators. Everything random follows from the run's seed and the
number of the step.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from ..checkpoints.branch_file import shapes_of
from ..digests import is_whole, sealed, tensors_digest
from ..errors import MirageError, ResumeError
from ..files import atomic_write, discard_unfinished, storage_error
from ..log import logger
from ..tensor_files import expect_tensors, is_count, read_tensors, write_tensors
from .sampler import Position
from .settings import MAX_STEPS

STATES: Final = "state"
STEP_DIGITS: Final = 7
ANY_STEP: Final = "step_" + "[0-9]" * STEP_DIGITS
"""Pattern of what `step_name` gives."""

FILMS: Final = "validation"
"""Folder of the films of validations inside a run's folder."""

STATE: Final = "state.json"
PARTS: Final = ("weights", "average", "moments")
FORMAT: Final = "mirage-training-state"
VERSION: Final = 1


@dataclass(frozen=True, eq=False)
class TrainingState:
    """Everything that a run resumes from.

    Attributes:
        step: Steps that are done.
        position: Where the data set is read next.
        weights: Trained parameters by name, float32 on the CPU.
        average: Their running average; empty without one.
        moments: The optimizer's, as ``exp_avg.<name>``.
        frozen: Digest of the weights that are not trained, see
            `mirage_core.training.frozen.frozen_digest`; empty in states of earlier versions.
    """

    step: int
    position: Position
    weights: Mapping[str, Tensor]
    average: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    frozen: str = ""

    def expect_fits(self, parameters: Mapping[str, Tensor]) -> None:
        """Raise `ModelMismatchError` unless these are the parameters of the model."""
        expected = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        fix = "Use the same model and settings, or another folder"
        expect_tensors("The saved training state", shapes_of(self.weights), expected, fix)
        if self.average:
            expect_tensors("The saved average", shapes_of(self.average), expected, fix)


def step_name(step: int) -> str:
    """What files and folders of a step are called, so that they stand in its order."""
    return f"step_{step:0{STEP_DIGITS}d}"


def save_state(folder: Path, state: TrainingState, keep: int) -> Path:
    """Write a state, then remove the oldest ones above ``keep``.

    Args:
        folder: Of the run.
        state: What to write.
        keep: How many to keep.

    Raises:
        StorageError: The disk is full, or the folder cannot be written. Older states stay.
    """
    saved = folder / STATES / step_name(state.step)
    _remove(saved)
    lengths, digests = {}, {}
    for part in PARTS:
        path = saved / f"{part}.safetensors"
        tensors = {name: tensor.contiguous() for name, tensor in getattr(state, part).items()}
        write_tensors(path, tensors)
        lengths[part] = path.stat().st_size
        digests[part] = tensors_digest(tensors)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "step": state.step,
        "position": state.position.to_json(),
        "lengths": lengths,
        "digests": digests,
        "frozen": state.frozen,
    }
    with atomic_write(saved / STATE, "w") as file:
        json.dump(sealed(content), file, indent=1)
    for old in _states(folder)[keep:]:
        _remove(old)
    return saved


def load_state(folder: Path) -> TrainingState | None:
    """The newest whole state of a run; None when there is none.

    A damaged state is reported, and the one before it is taken.

    Raises:
        ResumeError: There are states, and all of them are damaged.
    """
    states = _states(folder)
    for saved in states:
        try:
            return _read(saved)
        except MirageError as error:
            logger.warning("Skipped the state %s: %s", saved.name, error)
    if states:
        raise ResumeError(
            "No state of this run can be loaded",
            got=f"{len(states)} damaged states in {folder / STATES}",
            fix="Start a new run from the last finished weights, in another folder",
        )
    return None


def has_state(folder: Path) -> bool:
    """True when a run has a state to resume from, even a damaged one."""
    return bool(_states(folder))


def remove_partial(folder: Path) -> None:
    """Remove what a killed program left half-written in a run's folder."""
    films = (folder / FILMS).glob("step_*")
    for part in (folder, *(folder / name for name in ("vace", "lora", "model")), *films):
        if part.is_dir():
            discard_unfinished(part)
    for saved in (folder / STATES).glob("step_*"):
        if not (saved / STATE).exists():
            _remove(saved)


def _states(folder: Path) -> list[Path]:
    """Folders of whole states, the newest first."""
    found = [path.parent for path in (folder / STATES).glob(f"step_*/{STATE}")]
    return sorted(found, key=lambda saved: saved.name, reverse=True)


def _read(saved: Path) -> TrainingState:
    header = _header(saved / STATE)
    parts: dict[str, Any] = {}
    for part in PARTS:
        path = saved / f"{part}.safetensors"
        length = path.stat().st_size if path.is_file() else 0
        if length != header["lengths"].get(part):
            raise ResumeError(f"{path.name} is truncated", got=f"{length} bytes")
        parts[part] = read_tensors(path)
        _expect_digest(path, parts[part], header)
    position = Position.from_json(header["position"])
    return TrainingState(header["step"], position, **parts, frozen=header.get("frozen", ""))


def _expect_digest(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Raise `ResumeError` for tensors that are not those which were saved.

    States of earlier versions hold no digests.
    """
    if "digests" in header and tensors_digest(tensors) != header["digests"].get(path.stem):
        raise ResumeError(f"{path.name} is damaged", got="other numbers than were saved")


def _header(path: Path) -> dict[str, Any]:
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        ours = header["format"] == FORMAT and header["version"] <= VERSION
        parts = [header["position"], header["lengths"], header.get("digests", {})]
        counted = is_count(header["step"]) and header["step"] <= MAX_STEPS
        named = isinstance(header.get("frozen", ""), str)
        whole = counted and named and all(isinstance(part, dict) for part in parts)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ResumeError("The saved state is damaged", got=f"{path.name}: {error}") from error
    if not (ours and whole):
        raise ResumeError("The saved state has an unknown format or a newer version", got=path)
    if not is_whole(header):
        raise ResumeError(f"{path.name} is damaged", got="other content than was saved")
    return dict(header)


def _remove(saved: Path) -> None:
    """Remove a state, its mark of being whole first."""
    if not saved.exists():
        return
    try:
        (saved / STATE).unlink(missing_ok=True)
        shutil.rmtree(saved)
    except OSError as error:
        raise storage_error(saved, error) from error
